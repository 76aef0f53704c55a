//! How long a run lasts, and which of its checkpoints stay.

use std::fs;
use std::path::Path;

use crate::program::{Program, texts};

/// A run whose epochs are the same however many there are to be.
const RUN: &str =
    "train --data-dir scenes --img-size 32 --batch-size 8 --lr 0.02 --sched constant --warmup-steps 0";

/// The top-1 error of every epoch of a run.
fn errors(program: &Program, run: &Path) -> Vec<f64> {
    program.records(run).epochs.iter().map(|epoch| epoch.eval_err1).collect()
}

/// The number of epochs after which a run with these errors ends.
fn expected_length(errors: &[f64], patience: usize) -> usize {
    let (mut best, mut best_epoch) = (f64::INFINITY, 0);
    for (epoch, &error) in errors.iter().enumerate() {
        if error < best {
            (best, best_epoch) = (error, epoch);
        }
        if epoch - best_epoch >= patience {
            return epoch + 1;
        }
    }
    errors.len()
}

#[test]
fn a_run_ends_after_epochs_without_a_lower_error_however_often_it_was_stopped() {
    let program = Program::with_scenes();
    program.succeeds(&format!("{RUN} --epochs 12 --output whole"));
    let all = errors(&program, &program.only_run("whole"));
    let length = expected_length(&all, 2);
    assert!(length < 11, "the run must show that it ends: {all:?}");

    let output = program.command(&format!("{RUN} --epochs 12 --patience 2")).output().unwrap();
    let (_, messages) = texts(&output);
    assert!(output.status.success() && messages.contains("stopped early after epoch"), "{messages}");
    let run = program.only_run("runs");
    assert_eq!(errors(&program, &run), all[..length]);
    let page = fs::read_to_string(program.path(&run).join("report.html")).unwrap();
    assert!(page.contains(&format!("stopped early after epoch {length}: no top-1 error below")));
    let weights = program.checkpoint_bytes(&run, "last.safetensors");

    // In pieces.
    program.succeeds(&format!("{RUN} --epochs {} --patience 2 --output pieces", length - 1));
    let pieces = program.only_run("pieces");
    program.succeeds(&format!("train --resume {} --epochs 12", pieces.display()));
    assert!(program.checkpoint_bytes(&pieces, "last.safetensors") == weights);

    // It stays ended, and goes on with more patience.
    let resume = format!("train --resume {}", run.display());
    program.succeeds(&resume);
    assert_eq!(errors(&program, &run).len(), length);
    program.succeeds(&format!("{resume} --patience 12"));
    assert_eq!(errors(&program, &run), all);
}

#[test]
fn the_checkpoints_of_the_newest_epochs_are_kept_and_gone_on_from() {
    let program = Program::with_scenes();
    program.succeeds(&format!("{RUN} --epochs 4 --checkpoint-hist 2"));
    let run = program.only_run("runs");
    let mut names: Vec<String> = fs::read_dir(program.path(&run).join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("epoch-"))
        .collect();
    names.sort();
    let kept = ["0003.safetensors", "0003.state.safetensors", "0004.safetensors", "0004.state.safetensors"];
    assert_eq!(names, kept.map(|name| format!("epoch-{name}")));
    let weights = program.checkpoint_bytes(&run, "last.safetensors");
    assert!(program.checkpoint_bytes(&run, "epoch-0004.safetensors") == weights);

    let [older, last] = ["epoch-0003.state.safetensors", "last.state.safetensors"];
    fs::copy(program.checkpoint(&run, older), program.checkpoint(&run, "copy")).unwrap();
    fs::rename(program.checkpoint(&run, "copy"), program.checkpoint(&run, last)).unwrap();
    program.succeeds(&format!("train --resume {}", run.display()));
    assert!(program.checkpoint_bytes(&run, "last.safetensors") == weights);
}
