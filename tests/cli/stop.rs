//! Runs that stop before their end: by a signal, by a loss that is no number, by another trainer in their folder.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use residuum::data::scenes;
use residuum::run::state;

use crate::program::{Program, SMALL_RUN, failed, signal, texts};

/// As [`SMALL_RUN`], long enough to be stopped, and a line for each step.
const LONG_RUN: &str =
    "train --data-dir scenes --img-size 32 --batch-size 8 --epochs 6 --lr 0.01 --log-interval 1";

#[cfg(unix)]
#[test]
fn a_signal_stops_a_run_with_a_checkpoint_from_which_it_goes_on() {
    let reference = Program::with_scenes();
    reference.succeeds(LONG_RUN);
    let expected = reference.checkpoint_bytes(&reference.only_run("runs"), "last.safetensors");

    let program = Program::with_scenes();
    let mut call = LONG_RUN.to_string();
    for (name, code, num_steps) in [("INT", 130, 3), ("TERM", 143, 13)] {
        let mut child = program.command(&call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let run = program.wait_for_steps(&mut child, num_steps);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        call = format!("train --resume {}", run.display());
        failed(&output, LONG_RUN, code, &["checkpoint written", &call, "stopped by"]);

        let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
        let last = program.records(&run).steps.last().unwrap().step;
        assert_eq!(state.step, last, "SIG{name}: the checkpoint is not of the last step");
        let page = fs::read_to_string(program.path(&run).join("report.html")).unwrap();
        assert!(page.contains("stopped by a signal"));
    }
    program.succeeds(&call);
    let run = program.only_run("runs");
    assert!(program.checkpoint_bytes(&run, "last.safetensors") == expected, "the weights differ");
    let steps: Vec<u64> = program.records(&run).steps.iter().map(|step| step.step).collect();
    assert_eq!(steps, (1..=30).collect::<Vec<u64>>());
    let page = fs::read_to_string(program.path(&run).join("report.html")).unwrap();
    for part in [format!("<dt>Command</dt><dd>residuum {LONG_RUN}</dd>"), "Resumed at step".into()] {
        assert!(page.contains(&part), "{part} is not in {page}");
    }
}

#[test]
fn what_schedulers_and_lost_terminals_send_stops_a_run_as_a_termination_does() {
    let program = Program::with_scenes();
    let mut call = LONG_RUN.to_string();
    for (count, (name, code)) in
        [("HUP", 129), ("USR1", 138), ("USR2", 140), ("XCPU", 152)].into_iter().enumerate()
    {
        let mut child = program.command(&call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let run = program.wait_for_steps(&mut child, 5 * count + 2);
        signal(&child, name);
        // As SIGXCPU, which comes once a second: it asks for no more haste.
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        call = format!("train --resume {}", run.display());
        failed(&output, LONG_RUN, code, &["checkpoint written", &call, &format!("stopped by SIG{name}")]);
        let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
        assert_eq!(state.step, program.records(&run).steps.last().unwrap().step, "SIG{name}");
    }
    program.succeeds(&call);
}

#[test]
fn usr1_is_a_checkpoint_and_no_end_where_that_is_asked_for() {
    let program = Program::with_scenes();
    let call = LONG_RUN.replace("--epochs 6", "--epochs 2 --batch-size 2 --checkpoint-on-usr1");
    let call = call.replacen("--batch-size 8 ", "", 1);
    let mut child = program.command(&call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let run = program.wait_for_steps(&mut child, 2);
    let state_of = || state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap().0;
    assert_eq!(state_of().step, 0);
    signal(&child, "USR1");
    let seen = program.records(&run).steps.len();
    program.wait_for_steps(&mut child, seen + 3);
    let step = state_of().step;
    assert!((1..20).contains(&step), "step {step}");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", texts(&output).1);
}

#[test]
fn a_signal_that_whoever_started_the_run_ignores_stays_ignored() {
    let program = Program::with_scenes();
    let mut command = program.command_after("trap '' HUP", &format!("{SMALL_RUN} --log-interval 1"));
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    program.wait_for_steps(&mut child, 1);
    signal(&child, "HUP");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", texts(&output).1);
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint() {
    for flags in ["--recovery-interval 1", "--opt adam"] {
        let program = Program::with_scenes();
        let call = format!("{SMALL_RUN} {flags}").replace("--lr 0.01", "--lr 1e30");
        program.fails(&call, 5, &["diverged at step", "last.state.safetensors", "Lower --lr"]);
        let run = program.only_run("runs");
        let path = program.checkpoint(&run, "last.state.safetensors");
        let (state, tensors) = state::load(&path).unwrap();
        assert!(state.step < 10, "{flags}: step {}", state.step);
        let finite = |elems: &[f32]| elems.iter().all(|elem| elem.is_finite());
        assert!(tensors.iter().all(|tensor| finite(tensor.as_f32().unwrap())), "{flags}");
        let events = program.records(&run).events;
        assert!(events.iter().any(|event| event.event == "diverged"), "{flags}: {events:?}");
        let page = fs::read_to_string(program.path(&run).join("report.html")).unwrap();
        assert!(page.contains("diverged"), "{flags}");
        // The same run takes the same way again.
        program.fails(&format!("train --resume {}", run.display()), 5, &["diverged at step"]);
    }
}

/// Changes the only pack in the cache whose name begins with `split`, in its place.
fn change_pack(program: &Program, split: &str, change: impl FnOnce(&File)) {
    let packs = fs::read_dir(program.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(split);
    let packs: Vec<PathBuf> = packs.filter(is_it).collect();
    let [path] = &packs[..] else { panic!("{packs:?}") };
    change(&File::options().write(true).open(path).unwrap());
}

#[test]
fn a_pack_that_is_cut_or_changed_in_use_ends_a_run_with_a_checkpoint_from_which_it_goes_on() {
    let longer = LONG_RUN.replace("--epochs 6", "--epochs 9");
    let reference = Program::with_scenes();
    reference.succeeds(&longer);
    let expected = reference.checkpoint_bytes(&reference.only_run("runs"), "last.safetensors");

    let program = Program::with_scenes();
    let (mut call, mut seen) = (longer.clone(), 0);
    let cut = |file: &File| file.set_len(0).unwrap();
    let turn_a_bit = |file: &File| file.write_all_at(b"\x55\xAA\x55", 20_000).unwrap();
    let changes = [("train", &cut as &dyn Fn(&File)), ("train", &turn_a_bit), ("val", &cut)];
    for (split, change) in changes {
        let mut child = program.command(&call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let run = program.wait_for_steps(&mut child, seen + 2);
        change_pack(&program, split, change);
        let output = child.wait_with_output().unwrap();
        call = format!("train --resume {}", run.display());
        failed(&output, &longer, 4, &["changed while it was in use", "A checkpoint of step", &call]);

        let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
        let records = program.records(&run);
        assert_eq!(state.step, records.steps.last().unwrap().step, "{split}: not of the last step");
        seen = records.steps.len();
        assert!(records.events.iter().rev().take(2).any(|event| event.event == "data failed"), "{split}");
        // Without the validation photos, there is no page of them.
        if split == "train" {
            let page = fs::read_to_string(program.path(&run).join("report.html")).unwrap();
            assert!(page.contains("stopped by a failure of its data"));
        }
    }
    program.succeeds(&call);
    let weights = program.checkpoint_bytes(&program.only_run("runs"), "last.safetensors");
    assert!(weights == expected, "the weights differ");
}

#[test]
fn a_signal_while_photos_are_decoded_ends_the_run_and_keeps_what_is_decoded() {
    let program = Program::new();
    scenes::write_miniplaces(&program.path("scenes"), 300, 20, 64, 7).unwrap();
    // Chunks of fifteen images.
    let call = "train --data-dir scenes --img-size 300 --batch-size 8 --max-steps 1";
    let mut child = program.command(call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let partial = || {
        let entries = fs::read_dir(program.path("cache")).ok()?;
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths.find(|path| path.extension().is_some_and(|kind| kind == "partial"))
    };
    let has_record = |path: PathBuf| {
        let mut beginning = Vec::new();
        File::open(path).unwrap().take(4096).read_to_end(&mut beginning).unwrap();
        beginning.windows(4).any(|word| word == b"done")
    };
    let start = Instant::now();
    while !partial().is_some_and(has_record) {
        assert!(child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    failed(&output, call, 143, &["of 300 train images are decoded; the next start goes on", "stopped by"]);
    assert!(partial().is_some() && !program.path("runs").exists());
    program.succeeds("data pack --data-dir scenes --img-size 300");
    assert!(partial().is_none());
}

#[test]
fn a_second_trainer_in_a_folder_is_refused_and_changes_nothing() {
    let program = Program::with_scenes();
    let mut first = program.command(LONG_RUN).stderr(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let run = program.wait_for_steps(&mut first, 1);
    let env = fs::read(program.path(&run).join("env.json")).unwrap();
    let resume = format!("train --resume {}", run.display());
    program.fails(&resume, 2, &["metrics.jsonl", "another process is training", "wait for it"]);
    assert_eq!(fs::read(program.path(&run).join("env.json")).unwrap(), env);
    let output = first.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", texts(&output).0);
    assert_eq!(program.records(&run).runs.len(), 1);
}

#[test]
fn a_finished_run_says_its_result_again() {
    let program = Program::with_scenes();
    let first = program.succeeds(SMALL_RUN);
    let run = program.only_run("runs");
    let weights = program.checkpoint_bytes(&run, "last.safetensors");
    let page = fs::read(program.path(&run).join("report.html")).unwrap();
    let second = program.succeeds(&format!("train --resume {}", run.display()));
    assert_eq!(second, first);
    assert!(program.checkpoint_bytes(&run, "last.safetensors") == weights);
    assert_eq!(fs::read(program.path(&run).join("report.html")).unwrap(), page);
}
