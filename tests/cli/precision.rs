//! `--precision auto`: decided and said when a run begins, and from then on what the run recorded.

use std::fs;

use crate::program::{Program, SMALL_RUN, texts};

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
    assert_eq!(said, ["precision: f32 (the CPU computes in no other)"]);
    let run = program.only_run("runs");
    let config = program.path(&run).join("config.toml");
    let recorded = || fs::read_to_string(&config).unwrap();
    assert!(recorded().contains("precision = \"f32\"\n"), "{}", recorded());

    let resume = format!("train --resume {}", run.display());
    assert!(remarks(&program, &format!("{resume} --max-steps 2")).is_empty());
    // The same recipe, which is no change.
    assert!(remarks(&program, &format!("{call} --max-steps 3")).is_empty());
    assert!(recorded().contains("precision = \"f32\"\n"), "{}", recorded());
    assert_eq!(program.records(&run).runs.iter().map(|run| run.step).collect::<Vec<_>>(), [0, 1, 2]);

    // As a run that was begun on a GPU.
    fs::write(&config, recorded().replace("precision = \"f32\"", "precision = \"bf16\"")).unwrap();
    for call in [&resume, &format!("{resume} --precision auto")] {
        program.fails(&format!("{call} --max-steps 4"), 2, &["--precision bf16", "take f32"]);
    }
}

#[test]
fn a_type_that_was_named_needs_no_word() {
    let program = Program::with_scenes();
    assert!(remarks(&program, &format!("{SMALL_RUN} --max-steps 1 --precision f32")).is_empty());
    let config = fs::read_to_string(program.path(program.only_run("runs")).join("config.toml")).unwrap();
    assert!(config.contains("precision = \"f32\"\n"), "{config}");
}
