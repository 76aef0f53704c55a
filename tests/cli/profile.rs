//! `residuum profile`: counts and predictions without a GPU, times on a CPU, comparisons.

use std::fs;

use serde_json::Value;

use crate::program::{Program, failed};

/// A network that takes a second to count.
const SMALL: &str =
    "profile --model resnet9 --img-size 32 --batch-size 8 --precision bf16 --device simt --blocks 2";

#[test]
fn a_profile_has_its_launches_and_their_sums_and_is_shown_written_and_compared() {
    let program = Program::new();
    let json = program.succeeds(&format!("{SMALL} --json"));
    fs::write(program.path("old.json"), &json).unwrap();
    let mut profile: Value = serde_json::from_str(&json).unwrap();
    let (totals, launches) = (&profile["totals"], profile["launches"].as_array().unwrap());
    assert_eq!(totals["launches"], launches.len());
    for name in ["dram_bytes", "l2_bytes"] {
        let of = |launch: &Value| launch[name].as_u64().unwrap_or_else(|| panic!("no {name} in {launch}"));
        assert_eq!(totals[name], launches.iter().map(of).sum::<u64>(), "{name}");
    }
    assert!(totals["predicted_images_per_second"].as_f64().unwrap() > 0.0);
    let multiplies = |launch: &&Value| launch["tensor_instructions"].as_u64() > Some(0);
    assert!(launches.iter().filter(multiplies).all(|launch| launch["kernel"].to_string().contains("conv2d")));
    assert!(launches.iter().filter(multiplies).count() > 10);
    for launch in launches.iter().filter(multiplies) {
        assert_eq!(launch["shared_phases"], launch["ideal_phases"], "bank conflicts in {launch}");
    }

    let files = "--top 3 --html page.html --trace trace.json --compare old.json";
    let shown = program.succeeds(&format!("{SMALL} {files}"));
    for words in ["predicted for h100", "conv2d_wgrad", "the slowest 3 of", "images/s", "whole step"] {
        assert!(shown.contains(words), "no `{words}` in {shown}");
    }
    assert!(!shown.contains("worse"), "{shown}");
    assert!(fs::read_to_string(program.path("page.html")).unwrap().contains("Rooflines"));
    let trace: Value = serde_json::from_slice(&fs::read(program.path("trace.json")).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 10);

    // As if the old step had read one sector less from L2, in its first launch that reads any.
    let fewer = |bytes: &Value| Value::from(bytes.as_u64().unwrap() - 32);
    let launches = profile["launches"].as_array_mut().unwrap();
    let first = launches.iter_mut().find(|launch| launch["l2_bytes"].as_u64() > Some(32)).unwrap();
    first["l2_bytes"] = fewer(&first["l2_bytes"]);
    profile["totals"]["l2_bytes"] = fewer(&profile["totals"]["l2_bytes"]);
    fs::write(program.path("old.json"), profile.to_string()).unwrap();
    // Without instructions, for which nvdisasm takes longer than all the rest.
    let call = format!("{SMALL} --compare old.json");
    let output = program.command(&call).env("NVDISASM", "/not/there").output().unwrap();
    failed(&output, &call, 1, &["counts are worse than in old.json"]);
}

#[test]
fn a_profile_of_a_rank_has_what_ranks_send_each_other() {
    let program = Program::new();
    let call = format!("{SMALL} --ranks 4");
    let profile: Value = serde_json::from_str(&program.succeeds(&format!("{call} --json"))).unwrap();
    // Of all parameters, of 100 categories.
    let gradient = 4 * 6_619_300;
    let sent = profile["exchange"]["bytes"].as_u64().unwrap();
    assert!((2 * gradient * 3 / 4..2 * gradient * 3 / 4 * 101 / 100).contains(&sent), "{sent}");
    let of_phase = |launch: &&Value| launch["phase"] == "exchange";
    assert!(profile["launches"].as_array().unwrap().iter().filter(of_phase).count() > 1);

    let shown = program.succeeds(&format!("{call} --top 1 --html page.html"));
    for text in [&shown, &fs::read_to_string(program.path("page.html")).unwrap()] {
        assert!(text.contains("on each of 4 ranks") && text.contains("450 GB/s"), "{text}");
    }
    let call = call.replace("simt", "cpu");
    failed(
        &program.command(&call).output().unwrap(),
        &call,
        2,
        &["a step of several ranks is predicted, not measured"],
    );
}

#[test]
fn what_the_build_does_not_tell_is_said() {
    let program = Program::new();
    let gpu = residuum::profile::Gpu::named("h100").unwrap();
    let has_code = residuum::device::kernels::IMAGES.iter().any(|image| image.arch == gpu.arch);
    let mut command = program.command(SMALL);
    let output = command.env("NVDISASM", "/not/there").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = if has_code { "/not/there: cannot be run" } else { "no machine code for sm_90a" };
    assert!(output.status.success() && said.contains(expected), "{said}");
}

#[test]
fn convolutions_in_tf32_have_no_bank_conflicts() {
    let program = Program::new();
    let call = "profile --model resnet18 --img-size 32 --batch-size 4 --precision tf32 --device simt --blocks 1 --json";
    let profile: Value = serde_json::from_str(&program.succeeds(call)).unwrap();
    let launches = profile["launches"].as_array().unwrap();
    let of_tf32 = launches.iter().filter(|launch| launch["kernel"].as_str().unwrap().ends_with("_tf32"));
    let conflicts: Vec<u64> = of_tf32
        .map(|launch| launch["shared_phases"].as_u64().unwrap() - launch["ideal_phases"].as_u64().unwrap())
        .collect();
    assert!(conflicts.len() > 50 && conflicts.iter().all(|&count| count == 0), "{conflicts:?}");
}

#[test]
fn a_cpu_is_measured_by_operation() {
    let program = Program::new();
    let call = "profile --model resnet9 --img-size 32 --batch-size 4 --device cpu";
    let shown = program.succeeds(call);
    for words in ["measured on cpu", "conv2d_fprop", "Ceilings, measured beside the step: ", "of ceiling"] {
        assert!(shown.contains(words), "no `{words}` in {shown}");
    }
    let profile: Value = serde_json::from_str(&program.succeeds(&format!("{call} --json"))).unwrap();
    assert_eq!(profile["gpu"], Value::Null);
    assert!(profile["totals"]["measured_seconds"].as_f64().unwrap() > 0.0);
    assert!(profile["ceilings"]["flops_per_second"].as_f64().unwrap() > 0.0);
    let launches = profile["launches"].as_array().unwrap();
    assert!(launches.iter().all(|launch| launch["ceiling_seconds"].is_f64()), "{launches:?}");
}

#[test]
fn the_ladder_gets_faster_with_every_step_and_is_shown_and_printed_as_json() {
    let program = Program::new();
    let shown = program.succeeds("profile --ladder --gpu a100");
    for words in ["predicted for a100", "products on the tensor cores", "conflicts", "bound by"] {
        assert!(shown.contains(words), "no `{words}` in {shown}");
    }
    let ladder: Value = serde_json::from_str(&program.succeeds("profile --ladder --json")).unwrap();
    assert_eq!((&ladder["gpu"]["name"], &ladder["product"]["k"]), (&"h100".into(), &1024.into()));
    let steps = ladder["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 7);
    let seconds = steps.iter().map(|step| step["predicted_seconds"].as_f64().unwrap());
    assert!(seconds.is_sorted_by(|slow, fast| slow > fast), "{ladder}");
    assert!(steps.iter().all(|step| shown.contains(step["step"].as_str().unwrap())), "{shown}");
}

#[test]
fn bad_calls_are_refused_before_anything_is_counted() {
    let program = Program::new();
    program.fails("profile --gpu h300", 2, &["h300", "h100"]);
    program.fails("profile --html not/there.html", 2, &["--html not/there.html", "make it first"]);
    program.fails("profile --compare none.json", 1, &["none.json"]);
    fs::write(program.path("old.json"), "{}").unwrap();
    program.fails("profile --compare old.json", 4, &["old.json", "is not a profile"]);
    program.fails("profile --blocks 0", 2, &["--blocks"]);
    for other in
        ["--blocks 2", "--top 3", "--html x.html", "--compare old.json", "--config r.toml", "--batch-size 4"]
    {
        let flag = other.split_once(' ').unwrap().0;
        program.fails(&format!("profile --ladder {other}"), 2, &["--ladder", flag]);
    }
}
