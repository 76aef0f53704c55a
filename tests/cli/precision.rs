//! `--precision auto`: decided and said when a run begins, and from then on what the run recorded.

use std::fs;

use residuum::device::cpu::conv::mixed::amx;
use residuum::run::checkpoint;
use serde_json::Value;

use crate::program::{PHOTO, Program, SMALL_RUN, texts};

/// What `auto` is on this machine's CPU, and how it begins to say why.
pub fn on_this_cpu() -> (&'static str, String) {
    match amx() {
        Ok(()) => ("bf16", "what the processor's AMX takes".into()),
        Err(absence) => ("f32", absence.to_string()),
    }
}

/// Runs to a successful end; the lines on stderr about the type of activations.
#[track_caller]
fn remarks(program: &Program, call: &str) -> Vec<String> {
    let output = program.command(call).output().unwrap();
    let said = texts(&output).1;
    assert!(output.status.success(), "`{call}`:\n{said}");
    said.lines().filter(|line| line.contains("precision")).map(String::from).collect()
}

#[test]
fn a_run_says_once_what_auto_is_records_it_and_goes_on_with_it() {
    let program = Program::with_scenes();
    fs::write(program.path("auto.toml"), "precision = \"auto\"\n").unwrap();
    let call = format!("{SMALL_RUN} --device cpu --experiment one --auto-resume");
    let call = format!("{call} --config auto.toml");
    let said = remarks(&program, &format!("{call} --max-steps 1"));
    let (precision, why) = on_this_cpu();
    let [said] = &*said else { panic!("{said:?}") };
    assert!(said.starts_with(&format!("precision: {precision} ({why}")), "{said}");
    let run = program.only_run("runs");
    let config = program.path(&run).join("config.toml");
    let recorded = || fs::read_to_string(&config).unwrap();
    assert!(recorded().contains(&format!("precision = \"{precision}\"\n")), "{}", recorded());

    let resume = format!("train --resume {}", run.display());
    assert!(remarks(&program, &format!("{resume} --max-steps 2")).is_empty());
    // The same recipe, which is no change.
    assert!(remarks(&program, &format!("{call} --max-steps 3")).is_empty());
    assert!(recorded().contains(&format!("precision = \"{precision}\"\n")), "{}", recorded());
    assert_eq!(program.records(&run).runs.iter().map(|run| run.step).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_run_in_bf16_on_the_cpu_has_the_same_bits_on_any_number_of_threads_and_after_kills() {
    let program = Program::with_scenes();
    let call = format!("{SMALL_RUN} --device cpu --precision bf16 --max-steps 6 --log-interval 1");
    let state = |threads: &str| {
        let call = format!("{call} --checkpoint-hist 9 --output {threads}");
        assert!(program.command(&call).env("RAYON_NUM_THREADS", threads).status().unwrap().success());
        let run = program.only_run(threads);
        let config = fs::read_to_string(program.path(&run).join("config.toml")).unwrap();
        assert!(config.contains("precision = \"bf16\"\n"), "{config}");
        let replay = program.succeeds(&format!("replay {} --device cpu --step 5 --json", run.display()));
        let replay: Value = serde_json::from_str(&replay).unwrap();
        let logged = program.records(&run).steps[5].loss;
        assert!((replay["loss"].as_f64().unwrap() - logged).abs() < 1e-9, "{logged}: {replay}");
        checkpoint::read(&program.checkpoint(&run, "last.state.safetensors")).unwrap().tensors
    };
    for (one, three) in state("1").iter().zip(&state("3")) {
        assert!(one == three, "{}", one.name);
    }
    let verify = call.replace("train", "verify-resume") + " --kills 1";
    let said = program.succeeds(&verify);
    assert!(said.contains("the same, bit by bit"), "{said}");
}

#[test]
fn a_model_is_evaluated_in_the_type_that_is_named_and_in_f32_else() {
    let program = Program::with_scenes();
    let call = SMALL_RUN.replace("--epochs 2", "--epochs 1");
    program.succeeds(&format!("{call} --device cpu --precision bf16"));
    let run = program.only_run("runs");
    let in_training = program.records(&run).epochs[0].eval_loss;
    let says = |flags: &str| -> Value {
        let call = format!("{} --run {} --device cpu --json", flags, run.display());
        serde_json::from_str(&program.succeeds(&call)).unwrap()
    };
    let loss = |flags: &str| says(&format!("eval --batch-size 8 {flags}"))["loss"].as_f64().unwrap();
    let (bf16, f32) = (loss("--precision bf16"), loss(""));
    assert!((bf16 - in_training).abs() < 1e-9, "{bf16}, and {in_training} in training");
    assert!((f32 - bf16).abs() > 1e-7 && (f32 - bf16).abs() < 0.02 * bf16, "{f32} and {bf16}");
    assert_eq!(
        (loss("--precision f32"), loss("--precision auto")),
        (f32, if amx().is_ok() { bf16 } else { f32 })
    );
    let probability = |flags: &str| {
        let said = says(&format!("predict {PHOTO} {flags}"));
        said[0]["predictions"][0]["probability"].as_f64().unwrap()
    };
    let (bf16, f32) = (probability("--precision bf16"), probability(""));
    assert!(f32 != bf16 && (f32 - bf16).abs() < 0.05, "{f32} and {bf16}");
    program.fails(&format!("eval --run {} --precision half", run.display()), 2, &["--precision", "bf16"]);
}

#[test]
fn a_type_that_was_named_needs_no_word() {
    let program = Program::with_scenes();
    assert!(remarks(&program, &format!("{SMALL_RUN} --max-steps 1 --precision f32")).is_empty());
    let config = fs::read_to_string(program.path(program.only_run("runs")).join("config.toml")).unwrap();
    assert!(config.contains("precision = \"f32\"\n"), "{config}");
}

#[test]
fn tf32_is_f32_on_the_cpu_and_rounds_what_convolutions_multiply_elsewhere() {
    let program = Program::with_scenes();
    let said = remarks(&program, &format!("{SMALL_RUN} --device cpu --max-steps 1 --precision tf32"));
    let [said] = &*said else { panic!("{said:?}") };
    assert!(said.starts_with("precision: tf32 (a CPU has no tensor cores"), "{said}");
    let run = program.only_run("runs");
    let config = fs::read_to_string(program.path(&run).join("config.toml")).unwrap();
    assert!(config.contains("precision = \"tf32\"\n"), "{config}");

    let loss = |flags: &str| {
        let call = format!("eval --run {} --json {flags}", run.display());
        let said: Value = serde_json::from_str(&program.succeeds(&call)).unwrap();
        said["loss"].as_f64().unwrap()
    };
    let f32 = loss("--device cpu --precision f32");
    assert_eq!(loss("--device cpu --precision tf32"), f32);
    let on_kernels = ["f32", "tf32"].map(|precision| loss(&format!("--device simt --precision {precision}")));
    let error = on_kernels.map(|loss| (loss - f32).abs() / f32);
    assert!(error[0] < 1e-5 && error[0] < error[1] && error[1] < 2e-3, "{error:?}");
}
