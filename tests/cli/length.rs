//! How long a run lasts, and which of its checkpoints stay.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use residuum::run::state;

use crate::program::{Program, SMALL_RUN, signal, texts};

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

/// What a run that can go on has besides the checkpoints of epochs.
const LAST: [&str; 3] = ["best.safetensors", "last.safetensors", "last.state.safetensors"];

/// Names of the files in the checkpoints' folder of `run`, those of epochs first.
fn checkpoints(program: &Program, run: &Path) -> Vec<String> {
    let entries = fs::read_dir(program.path(run).join("checkpoints")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_by_key(|name| (!name.starts_with("epoch-"), name.clone()));
    names
}

/// Names of the checkpoints of these epochs.
fn of_epochs(epochs: &[u32]) -> Vec<String> {
    let kinds = |epoch| ["", ".state"].map(|kind| format!("epoch-{epoch:04}{kind}.safetensors"));
    epochs.iter().flat_map(kinds).collect()
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
    assert_eq!(checkpoints(&program, &run), [of_epochs(&[3, 4]), LAST.map(String::from).to_vec()].concat());
    let weights = program.checkpoint_bytes(&run, "last.safetensors");
    assert!(program.checkpoint_bytes(&run, "epoch-0004.safetensors") == weights);

    let [older, last] = ["epoch-0003.state.safetensors", "last.state.safetensors"];
    fs::copy(program.checkpoint(&run, older), program.checkpoint(&run, "copy")).unwrap();
    fs::rename(program.checkpoint(&run, "copy"), program.checkpoint(&run, last)).unwrap();
    program.succeeds(&format!("train --resume {}", run.display()));
    assert!(program.checkpoint_bytes(&run, "last.safetensors") == weights);
}

#[test]
fn there_is_a_checkpoint_every_so_many_epochs_and_after_the_last() {
    let program = Program::with_scenes();
    let files =
        |run: &Path| ["last.safetensors", "best.safetensors"].map(|name| program.checkpoint_bytes(run, name));
    program.succeeds(&format!("{RUN} --epochs 5 --output every"));
    let expected = files(&program.only_run("every"));

    program.succeeds(&format!("{RUN} --epochs 5 --checkpoint-interval 2 --checkpoint-hist 9"));
    let run = program.only_run("runs");
    assert_eq!(
        checkpoints(&program, &run),
        [of_epochs(&[2, 4, 5]), LAST.map(String::from).to_vec()].concat()
    );
    assert!(files(&run) == expected);

    // A run that was killed in its third epoch goes on after the second.
    let [of_second, last] = ["epoch-0002.state.safetensors", "last.state.safetensors"];
    fs::copy(program.checkpoint(&run, of_second), program.checkpoint(&run, last)).unwrap();
    program.succeeds(&format!("train --resume {}", run.display()));
    assert!(files(&run) == expected);
    assert_eq!(program.records(&run).runs.last().unwrap().step, 10);
    program.fails(&format!("{RUN} --checkpoint-interval 0"), 2, &["--checkpoint-interval 0", "at least 1"]);
}

#[test]
fn a_complete_run_is_left_its_weights_alone_where_that_is_asked_and_serves_as_before() {
    let program = Program::with_scenes();
    let call = format!("{RUN} --epochs 3 --experiment small --checkpoint-hist 1");
    let result = |said: &str| said.lines().next().unwrap().to_string();
    let said = program.succeeds(&format!("{call} --output whole"));
    let whole = program.only_run("whole");

    let call = format!("{call} --weights-only --auto-resume --precision auto");
    assert_eq!(result(&program.succeeds(&call)), result(&said));
    let run = program.only_run("runs");
    assert_eq!(
        checkpoints(&program, &run),
        ["epoch-0003.safetensors", "best.safetensors", "last.safetensors"]
    );
    for name in ["epoch-0003.safetensors", "best.safetensors", "last.safetensors"] {
        assert!(program.checkpoint_bytes(&run, name) == program.checkpoint_bytes(&whole, name), "{name}");
    }
    for name in ["log.txt", "metrics.jsonl", "report.html"] {
        let text = fs::read_to_string(program.path(&run).join(name)).unwrap();
        assert!(text.contains("its states are removed, its weights stay (--weights-only)"), "{name}");
    }

    // The same command serves a job that is queued again; more is refused.
    let folder = run.display();
    let config = fs::read(program.path(&run).join("config.toml")).unwrap();
    for again in [&call, &format!("train --resume {folder}"), &format!("train --resume {folder} --workers 2")]
    {
        let output = program.command(again).output().unwrap();
        assert!(output.status.success() && texts(&output).1.contains("only its weights left"), "{again}");
        assert_eq!(result(&texts(&output).0), result(&said), "{again}");
    }
    let parts =
        ["last.state.safetensors", "removed when the run was complete", "--pretrained", "best.safetensors"];
    program.fails(&format!("train --resume {folder} --epochs 4"), 1, &parts);
    program.fails(&format!("replay {folder} --step 1"), 1, &parts);
    assert!(fs::read(program.path(&run).join("config.toml")).unwrap() == config);

    program.succeeds(&format!("eval --run {folder}"));
    program.succeeds(&format!("predict --run {folder} scenes/images/val/00000001.jpg"));
    program.succeeds(&format!("export --run {folder} --output model.onnx"));
    program.succeeds(&format!("report {folder} {} --output both.html", whole.display()));
    let best = program.checkpoint(&run, "best.safetensors");
    program.succeeds(&format!(
        "train --config {folder}/config.toml --pretrained {} --output next --max-steps 6",
        best.display()
    ));
}

#[test]
fn a_run_that_was_complete_before_is_made_small_by_resuming_it() {
    let program = Program::with_scenes();
    let run = program.trains("");
    let call = format!("train --resume {} --weights-only", run.display());
    program.succeeds(&call);
    assert_eq!(checkpoints(&program, &run), ["best.safetensors", "last.safetensors"]);
    let page = fs::read_to_string(program.path(&run).join("report.html")).unwrap();
    assert!(page.contains("finished") && page.contains("its states are removed"));
}

#[test]
fn a_run_that_is_not_complete_keeps_its_state_whatever_is_to_be_left_of_it() {
    let program = Program::with_scenes();
    let call =
        format!("{SMALL_RUN} --weights-only --log-interval 1 --output diverged").replace("0.01", "1e30");
    program.fails(&call, 5, &["diverged at step", "last.state.safetensors"]);
    let diverged = program.only_run("diverged");
    assert!(program.checkpoint(&diverged, "last.state.safetensors").exists());

    let call = format!("{RUN} --epochs 6 --checkpoint-interval 4 --weights-only --log-interval 1");
    let mut child = program.command(&call).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let run = program.wait_for_steps(&mut child, 7);
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
    assert_eq!(state.step, program.records(&run).steps.last().unwrap().step);
    program.succeeds(&format!("train --resume {}", run.display()));
    assert_eq!(checkpoints(&program, &run), ["best.safetensors", "last.safetensors"]);
}
