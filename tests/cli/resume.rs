//! Kill -9 at any moment, resume, and the run ends in the same bits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use residuum::rng::{Stream, Use};
use residuum::run::state;

use crate::program::Program;

/// 24 steps in three epochs, with a checkpoint after every third step besides those of the epochs.
const RUN: &str = "train --data-dir scenes --img-size 32 --batch-size 5 --limit-train 40 --epochs 3 --lr 0.01 \
                   --augment flip,shift --recovery-interval 3 --log-interval 1 --seed 5";
/// Everything a state can hold; the epoch's last two batches are too few for another update.
const RICH_FLAGS: &str = "--opt adamw --clip-grad 1 --grad-accum-steps 3 --model-ema --model-ema-decay 0.9";
/// Epochs that cut the stream of passes over eight batches at other places, and batches that are mixed.
const STREAM_RUN: &str = "train --data-dir scenes --img-size 32 --batch-size 5 --limit-train 40 --epochs 3 --lr 0.01 \
                          --augment modern,trivial-augment,rand-augment --steps-per-epoch 5 --backbone-lr-scale 0.5 --recovery-interval 3 \
                          --log-interval 1 --seed 5";
const FILES: [&str; 2] = ["last.safetensors", "best.safetensors"];

/// An uninterrupted run: its weights, and how long it took.
struct Reference {
    weights: [Vec<u8>; 2],
    steps: Vec<(u64, f64)>,
    duration: Duration,
}

fn steps_of(program: &Program, run: &Path) -> Vec<(u64, f64)> {
    program.records(run).steps.iter().map(|step| (step.step, step.loss)).collect()
}

fn reference(call: &str) -> Reference {
    let program = Program::with_scenes();
    let start = Instant::now();
    program.succeeds(call);
    let duration = start.elapsed();
    let run = program.only_run("runs");
    let weights = FILES.map(|name| program.checkpoint_bytes(&run, name));
    Reference { weights, steps: steps_of(&program, &run), duration }
}

/// The run folder that can be resumed, if a run came so far.
fn resumable(program: &Program) -> Option<PathBuf> {
    let runs = fs::read_dir(program.path("runs")).ok()?;
    let folders = runs.map(|entry| entry.unwrap().path()).find(|run| run.join("config.toml").exists());
    folders.map(|run| PathBuf::from("runs").join(run.file_name().unwrap()))
}

/// `call`, or what resumes the run it began.
fn next_call(program: &Program, call: &str) -> String {
    resumable(program).map_or(call.to_string(), |run| format!("train --resume {}", run.display()))
}

/// Starts or resumes `call` and kills it after `delay`; whether the kill came before the end.
fn killed_after(delay: Duration, program: &Program, call: &str) -> bool {
    let call = next_call(program, call);
    let mut child = program.command(&call).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(delay);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() || status.code().is_none(), "`{call}` failed by itself: {status}");
    !status.success()
}

/// Checks that a run which was killed and resumed is as if it had not been.
fn assert_same(program: &Program, reference: &Reference, what: &str) {
    let run = resumable(program).unwrap();
    for (name, expected) in FILES.iter().zip(&reference.weights) {
        assert!(program.checkpoint_bytes(&run, name) == *expected, "{name} differs {what}");
    }
    assert_eq!(steps_of(program, &run), reference.steps, "{what}");
    let epochs: Vec<u64> = program.records(&run).epochs.iter().map(|epoch| epoch.epoch).collect();
    assert_eq!(epochs, [0, 1, 2], "{what}");
    let page = fs::read_to_string(program.path(&run).join("report.html")).unwrap();
    assert!(page.contains("finished"), "{what}");
}

/// Kills runs of `call` at random moments, `num_kills` times in all; a run that ends before is followed by another.
pub fn kill_and_compare(call: &str, num_kills: usize) {
    let reference = reference(call);
    let mut random = Stream::new(1, 0, 0, Use::Shuffle);
    let mut kills = 0;
    while kills < num_kills {
        let program = Program::with_scenes();
        let before = kills;
        let mut delay = || reference.duration.mul_f32(0.05 + 0.6 * random.uniform());
        while kills < num_kills && killed_after(delay(), &program, call) {
            kills += 1;
        }
        // Does nothing where the run is at its end.
        program.succeeds(&next_call(&program, call));
        assert_same(&program, &reference, &format!("after {} kills", kills - before));
    }
}

#[test]
fn the_program_proves_on_the_spot_that_a_resumed_run_ends_in_the_same_bits() {
    let program = Program::with_scenes();
    let verify =
        "verify-resume --data-dir scenes --img-size 32 --batch-size 8 --epochs 4 --opt adamw --model-ema";
    let said = program.succeeds(&format!("{verify} --kills 2 --max-steps 18"));
    assert!(said.contains("of 18 updates and resumed") && said.contains("the same, bit by bit"), "{said}");
    assert!(!program.path("runs").exists(), "what it made is gone");
    program.fails(&format!("{verify} --max-steps 2"), 2, &["--max-steps 2", "too few for 2 kills"]);
    let short = "verify-resume --data-dir scenes --img-size 32 --batch-size 8 --epochs 1 --steps-per-epoch 2";
    program.fails(short, 2, &["a run of 2 updates is too short for 2 kills", "--epochs"]);
    program.fails("verify-resume --data-dir none", 2, &["did not end as it should", "none"]);
}

#[test]
fn twenty_kills_at_random_moments_change_no_bit() {
    kill_and_compare(RUN, 20);
}

#[test]
fn kills_change_no_bit_with_averages_accumulation_clipping_and_adam() {
    kill_and_compare(&format!("{RUN} {RICH_FLAGS}"), 5);
}

#[test]
fn kills_change_no_bit_where_epochs_are_so_many_updates_and_images_are_mixed() {
    kill_and_compare(STREAM_RUN, 4);
}

#[test]
fn kills_change_no_bit_where_checkpoints_are_rare_and_only_weights_are_left() {
    let run = RUN.replace("--recovery-interval 3", "--checkpoint-interval 2");
    kill_and_compare(&format!("{run} --checkpoint-hist 1 --weights-only"), 4);
}

#[test]
fn checkpoints_by_the_clock_change_no_bit_and_bound_what_a_kill_costs() {
    let call = RUN.replace("--recovery-interval 3", "--checkpoint-minutes 0");
    let expected = reference(&call);
    let program = Program::with_scenes();
    // After every step.
    let call = call.replace("--checkpoint-minutes 0", "--checkpoint-minutes 1e-9");
    let mut child = program.command(&call).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let run = program.wait_for_steps(&mut child, 5);
    child.kill().unwrap();
    child.wait().unwrap();
    let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
    assert!(state.step + 1 >= program.records(&run).steps.last().unwrap().step, "step {}", state.step);
    program.succeeds(&next_call(&program, &call));
    assert_same(&program, &expected, "after checkpoints by the clock");
}

#[test]
fn a_run_goes_on_from_another_folder() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 1");
    let mut command = program.command("train --resume .");
    let output = command.current_dir(program.path(&run)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("the run is complete after update 1"), "{said}");
    let output = command.args(["--max-steps", "2"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("going on after update 1 of 2, in epoch 2"), "{said}");
}
