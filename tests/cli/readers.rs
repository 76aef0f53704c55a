//! Whoever reads stdout and stderr may go away, or its disk fill up. A run outlives that; a command whose result cannot be
//! printed says so.

use std::fs::File;
use std::process::{Output, Stdio};

use crate::program::{Program, SMALL_RUN, failed, texts};

/// What writes fail on, as on a full disk.
const FULL: &str = "/dev/full";

/// Where every write fails; `None` where the system has no such file.
fn full() -> Option<File> {
    let file = File::options().write(true).open(FULL).ok();
    if file.is_none() {
        println!("skipped: there is no {FULL}");
    }
    file
}

#[track_caller]
fn assert_whole(program: &Program, output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, texts(output).1);
    let steps: Vec<u64> =
        program.records(&program.only_run("runs")).steps.iter().map(|step| step.step).collect();
    assert_eq!(steps, (1..=10).collect::<Vec<u64>>());
}

#[test]
fn a_run_goes_on_when_the_reader_of_its_messages_is_gone() {
    let program = Program::with_scenes();
    let mut command = program.command(&format!("{SMALL_RUN} --log-interval 1"));
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    program.wait_for_steps(&mut child, 1);
    drop((child.stderr.take(), child.stdout.take()));
    assert_whole(&program, &child.wait_with_output().unwrap());
}

#[test]
fn a_run_goes_on_when_its_messages_cannot_be_written() {
    let Some(file) = full() else { return };
    let program = Program::with_scenes();
    let mut command = program.command(&format!("{SMALL_RUN} --log-interval 1"));
    assert_whole(&program, &command.stderr(file.try_clone().unwrap()).stdout(file).output().unwrap());
}

#[test]
fn a_result_that_cannot_be_printed_is_an_error_and_one_that_nobody_wants_is_none() {
    let program = Program::with_scenes();
    let call = "data check --data-dir scenes";
    let mut command = program.command(call);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), texts(&output).1.as_str()), (Some(141), ""));
    let Some(file) = full() else { return };
    failed(
        &program.command(call).stdout(file).output().unwrap(),
        call,
        1,
        &["error: cannot write to stdout: "],
    );
}
