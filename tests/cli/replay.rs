//! What a run keeps of a loss that leaps, and its updates once more.

use std::fs;

use residuum::run::state;
use serde_json::Value;

use crate::program::{Program, SMALL_RUN};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// The update in which a run with these flags diverges, and its folder's name.
fn diverges(program: &Program, flags: &str) -> (u64, String) {
    let call = format!("{SMALL_RUN} {flags}").replace("--lr 0.01", "");
    let output = program.command(&call).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    let step = stderr.split("diverged at step ").nth(1).unwrap().split(':').next().unwrap();
    (step.parse().unwrap(), program.only_run("runs").display().to_string())
}

#[test]
fn a_run_that_diverged_says_in_which_layer() {
    let program = Program::with_scenes();
    let (step, run) = diverges(&program, "--lr 1e30 --recovery-interval 1 --log-interval 1 --seed 3");
    let kept = json(&fs::read_to_string(program.path(&run).join("diverged.json")).unwrap());
    assert_eq!((kept["step"].as_u64(), kept["seed"].as_u64()), (Some(step), Some(3)));
    let images = kept["images"].as_array().unwrap();
    assert!(images.len() == 8 && images[0].as_str().unwrap().starts_with("train/"), "{images:?}");
    assert!(kept["values"].as_array().unwrap().iter().any(|value| value["not_finite"] != 0));

    let before = fs::read_dir(program.path(&run)).unwrap().count();
    let replay = json(&program.succeeds(&format!("replay {run} --step {step} --json")));
    assert_eq!((&replay["images"], &replay["batch_in_epoch"]), (&kept["images"], &kept["batch_in_epoch"]));
    assert!(replay["loss"].is_null(), "the same loss, which is no number");
    let first = replay["first_not_finite"].as_str().unwrap();
    let results = replay["results"].as_array().unwrap();
    let place = results.iter().position(|result| result["not_finite"] != 0).unwrap();
    assert_eq!(results[place]["name"], first);
    assert!(results[place + 1..].iter().any(|result| result["not_finite"] != 0), "it spreads");
    let said = program.succeeds(&format!("replay {run} --step {step}"));
    assert!(said.contains(&format!("first value that is not finite: `{first}`")), "{said}");
    assert_eq!(fs::read_dir(program.path(&run)).unwrap().count(), before, "a replay writes nothing");
    program.fails(&format!("replay {run} --step 99"), 2, &["--step 99", "the run has 10 updates"]);
}

#[test]
fn an_update_comes_to_the_same_once_more() {
    let program = Program::with_scenes();
    // Two batches an update, and one at the end of a pass that is too few for one.
    let flags = "--batch-size 8 --grad-accum-steps 2 --log-interval 1 --checkpoint-hist 9 --device cpu";
    program.succeeds(&format!("{SMALL_RUN} {flags}").replacen("--batch-size 8 ", "", 1));
    let run = program.only_run("runs");
    let steps = program.records(&run).steps;
    assert_eq!(steps.len(), 4);
    for (step, from) in [(2, 2), (3, 2)] {
        let replay = json(&program.succeeds(&format!("replay {} --step {step} --json", run.display())));
        assert_eq!(replay["from_step"], from);
        let logged = steps[step].loss;
        assert!((replay["loss"].as_f64().unwrap() - logged).abs() < 1e-9, "{} and {logged}", replay["loss"]);
        assert!(replay["first_not_finite"].is_null() && replay["tolerance"].is_null());
    }
    program.fails(
        &format!("replay {} --step 1", run.display()),
        2,
        &["--step 1", "the earliest state that the run keeps is of step 2", "--checkpoint-hist"],
    );
}

#[test]
fn an_update_on_kernels_is_held_to_the_cpu() {
    let program = Program::with_scenes();
    let flags = "--device simt --precision bf16 --model resnet9 --img-size 16 --batch-size 2 --limit-train 2";
    program
        .succeeds(&format!("train --data-dir scenes --limit-val 2 --epochs 2 --checkpoint-hist 9 {flags}"));
    let replay = format!("replay {} --step 1", program.only_run("runs").display());
    let found = json(&program.succeeds(&format!("{replay} --json")));
    assert_eq!((found["tolerance"].as_f64(), found["first_different"].as_str()), (Some(0.5), None));
    let results = found["results"].as_array().unwrap();
    let apart = results.iter().filter(|result| result["difference"].as_f64().is_some_and(|far| far > 0.0));
    assert!(apart.count() > 10, "bf16 rounds");
    let said = program.succeeds(&replay);
    assert!(said.contains("no value differs from the CPU's by more than 0.5"), "{said}");
    // On the CPU there is nothing to compare with.
    let on_cpu = json(&program.succeeds(&format!("{replay} --json --device cpu")));
    assert!(on_cpu["tolerance"].is_null() && on_cpu["first_not_finite"].is_null());
}

#[test]
fn a_checkpoint_from_before_the_loss_leapt_is_the_last_good_one() {
    let program = Program::with_scenes();
    // After four epochs the rate is a thousand times as high, and again after each that follows: the loss leaps, then is no
    // number.
    let flags =
        "--batch-size 4 --epochs 13 --warmup-steps 0 --sched step --decay-milestones 4,5,6,7,8,9,10,11";
    let call = format!("train --data-dir scenes --img-size 32 --lr 0.01 --decay-rate 1000 {flags}");
    let call = format!("{call} --recovery-interval 1 --log-interval 1");
    let output = program.command(&call).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let run = program.only_run("runs");
    let events = program.records(&run).events;
    let spike = events.iter().find(|event| event.event == "loss spike");
    let spike = spike.unwrap_or_else(|| panic!("no spike in {events:?}"));
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("from before the loss leapt"), "{stderr}");
    let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
    assert!((20..=spike.step).contains(&state.step), "state of {} and a leap at {}", state.step, spike.step);
    assert!(
        !program.checkpoint(&run, "before-spike.state.safetensors").exists(),
        "it took the last one's place"
    );
}
