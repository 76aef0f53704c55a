//! Training images that grow from epoch to epoch.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::Program;

/// Six epochs of two updates of two batches, and a batch at the end of each pass that is too few for one.
const RUN: &str = "train --data-dir scenes --model resnet9 --img-size 24 --batch-size 8 --grad-accum-steps 2 --lr 0.01 \
                   --epochs 6 --log-interval 1 --augment flip,shift --device cpu --precision f32";
const GROWTH: &str = "--grow-from 8 --grow-step 8";

fn losses(program: &Program, run: &Path) -> Vec<f64> {
    program.records(run).steps.iter().map(|step| step.loss).collect()
}

#[test]
fn images_grow_to_their_full_size() {
    let program = Program::with_scenes();
    program.succeeds(&format!("{RUN} {GROWTH} --checkpoint-hist 9"));
    let run = program.only_run("runs");
    let records = program.records(&run);
    let growth = [
        "epoch 1: training images of 8 x 8",
        "epoch 3: training images of 16 x 16",
        "epoch 5: training images of 24",
    ];
    let events: Vec<_> = records.events.iter().filter(|event| event.event == "image size").collect();
    assert_eq!(events.len(), growth.len(), "{events:?}");
    for (event, part) in events.iter().zip(growth) {
        assert!(event.message.starts_with(part), "{}", event.message);
    }
    assert_eq!(events.iter().map(|event| event.step).collect::<Vec<_>>(), [0, 4, 8]);
    // Each update once more: the first of a size, the last of the run, and one over the change of the size.
    let logged = losses(&program, &run);
    let replays = |step: usize, from: usize| {
        let replay = program.succeeds(&format!("replay {} --step {step} --json", run.display()));
        let replay: Value = serde_json::from_str(&replay).unwrap();
        assert_eq!(replay["from_step"], from);
        let loss = replay["loss"].as_f64().unwrap();
        assert!((loss - logged[step]).abs() < 1e-9, "step {step}: {loss} and {}", logged[step]);
    };
    replays(4, 4);
    replays(11, 10);
    fs::remove_file(program.checkpoint(&run, "epoch-0004.state.safetensors")).unwrap();
    replays(8, 6);
    // What follows the smaller images is a network for full ones.
    let eval = program.succeeds(&format!("eval --run {} --data-dir scenes --json", run.display()));
    let eval: Value = serde_json::from_str(&eval).unwrap();
    let error = eval["top1_error"].as_f64().unwrap();
    assert_eq!(Some(error), records.epochs.iter().map(|epoch| epoch.eval_err1).min_by(f64::total_cmp));
}

#[test]
fn updates_on_smaller_images_are_those_of_a_run_on_images_of_that_size() {
    let program = Program::with_scenes();
    program
        .succeeds(&format!("{RUN} {GROWTH} --max-steps 4 --warmup-steps 0 --sched constant --grow-epochs 4"));
    let grown = losses(&program, &program.only_run("runs"));
    let small = RUN.replace("--img-size 24", "--img-size 8");
    program.succeeds(&format!("{small} --max-steps 4 --warmup-steps 0 --sched constant --output small"));
    assert_eq!(grown, losses(&program, &program.only_run("small")));
}

#[test]
fn a_run_that_is_stopped_between_two_sizes_ends_in_the_same_bits() {
    let program = Program::with_scenes();
    let run = RUN.replacen("train", "verify-resume", 1).replacen("--log-interval 1 ", "", 1);
    for flags in ["", "--steps-per-epoch 2"] {
        let said = program.succeeds(&format!("{run} {GROWTH} --kills 2 {flags}"));
        assert!(said.contains("the same, bit by bit"), "{said}");
    }
}

#[cfg(residuum_simt)]
#[test]
fn a_device_that_holds_the_photos_takes_smaller_ones_batch_by_batch() {
    let program = Program::with_scenes();
    let flags = "--model resnet9 --img-size 16 --grow-from 8 --grow-step 8 --batch-size 2 --limit-train 2 --limit-val 2";
    let call =
        format!("train --data-dir scenes --epochs 2 --lr 0.01 --log-interval 1 --precision f32 {flags}");
    program.succeeds(&format!("{call} --device simt --output simt"));
    program.succeeds(&format!("{call} --device cpu --output cpu"));
    let [simt, cpu] = ["simt", "cpu"].map(|name| losses(&program, &program.only_run(name)));
    assert_eq!(simt.len(), 2);
    let events = program.records(&program.only_run("simt")).events;
    assert!(events.iter().any(|event| event.message.contains("images of 8 x 8")), "{events:?}");
    // A batch norm over two photos makes much of the rounding of the first update.
    for (step, tolerance) in [1e-4, 2e-3].into_iter().enumerate() {
        assert!((simt[step] - cpu[step]).abs() < tolerance, "step {step}: {} and {}", simt[step], cpu[step]);
    }
}

#[test]
fn sizes_that_make_no_growth_are_refused() {
    let program = Program::with_scenes();
    let objects = "--model resnet18 --objects vector";
    for (flags, parts) in [
        ("--grow-step 8", ["--grow-step 8", "needs --grow-from"]),
        ("--grow-from 24", ["--grow-from 24", "below --img-size 24"]),
        ("--grow-from 4", ["grow-from", "from 8 to 1024"]),
        ("--grow-epochs 2", ["--grow-epochs 2", "needs --grow-from"]),
        ("--grow-from 8 --grow-epochs 6", ["--grow-epochs 6", "below --epochs 6"]),
        ("--grow-from 8 --grow-step 0", ["--grow-step 0", "from 1 to 1024"]),
        (&format!("--grow-from 8 {objects}"), ["--objects vector", "--grow-from 8"]),
    ] {
        let run = if flags.contains("--model") { RUN.replace("--model resnet9 ", "") } else { RUN.into() };
        program.fails(&format!("{run} {flags}"), 2, &parts);
    }
}
