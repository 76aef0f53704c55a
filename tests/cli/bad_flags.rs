//! Flags that cannot be used: the message names the flag and the remedy, the exit code is 2 (3 for a device), and
//! no run folder is left behind.

use std::fs;

use crate::program::{Program, SMALL_RUN};

/// Checks `SMALL_RUN` with each of `cases`: more flags, and what the message must say.
#[track_caller]
fn refused(code: i32, cases: &[(&str, &[&str])]) {
    let program = Program::with_scenes();
    for (flags, parts) in cases {
        program.fails(&format!("{SMALL_RUN} {flags}").replacen("--epochs 2 --lr 0.01", "", 1), code, parts);
        assert!(!program.path("runs").exists(), "{flags} left a run folder");
    }
}

#[test]
fn unknown_values() {
    refused(
        2,
        &[
            ("--model resnet20", &["resnet20", "--model", "resnet18"]),
            ("--form v3", &["v3", "--form", "v1.5"]),
            ("--opt lion", &["lion", "--opt", "adamw"]),
            ("--sched linear", &["linear", "--sched", "cosine"]),
            ("--precision fp8", &["fp8", "--precision", "bf16"]),
            ("--augment spin", &["spin", "--augment", "a list of flip, crop"]),
            ("--device gpu", &["gpu", "--device", "cuda:N"]),
            ("--mean 0.5", &["0.5", "--mean", "three numbers"]),
            ("--experiment a/b", &["--experiment", "slashes"]),
            ("--epoch 3", &["--epoch", "--epochs"]),
        ],
    );
}

#[test]
fn devices_this_build_cannot_use() {
    refused(3, &[("--device cuda:4096", &["--device cuda:4096", "--device cpu"])]);
}

#[test]
fn numbers_out_of_range() {
    let zero: &[&str] = &["must be at least 1"];
    let share: &[&str] = &["at least 0 and below 1"];
    refused(
        2,
        &[
            ("--epochs 0", zero),
            ("--max-steps 0", zero),
            ("--workers 0", &["--workers 0", "from 1 to 1024"]),
            ("--log-interval 0", zero),
            ("--grad-accum-steps 0", &["--grad-accum-steps 0", "from 1 to 65536"]),
            ("--micro-batches 0", &["--micro-batches 0", "from 1 to 65536"]),
            ("--micro-batches 4 --grad-accum-steps 2", &["--micro-batches", "--grad-accum-steps"]),
            ("--workers 1000000000", &["--workers 1000000000", "from 1 to 1024"]),
            ("--grad-accum-steps 9223372036854775807", &["--grad-accum-steps", "from 1 to 65536"]),
            ("--limit-train 0", &["--limit-train 0", "at least 1"]),
            ("--momentum 1.5", share),
            ("--smoothing 1", share),
            ("--model-ema --model-ema-decay 1", share),
            ("--lr NaN", &["--lr NaN", "at least 0"]),
            ("--lr=-1", &["--lr -1", "at least 0"]),
            ("--weight-decay=-0.1", &["--weight-decay -0.1", "at least 0"]),
            ("--clip-grad 0", &["--clip-grad", "above 0"]),
            ("--std 0,1,1", &["--std", "above 0"]),
            ("--mean nan,0,0", &["--mean", "must be a number"]),
            ("--sched step", &["--decay-milestones", "30,60,80"]),
            ("--sched step --decay-milestones 3,2", &["--decay-milestones", "rising order"]),
        ],
    );
}

#[test]
fn sizes_that_do_not_fit() {
    let program = Program::with_scenes();
    let train = "train --data-dir scenes";
    let cases: [(&str, &[&str]); 9] = [
        ("--img-size 32 --batch-size 0", &["--batch-size 0", "at least 1"]),
        ("--img-size 32 --batch-size 41", &["--batch-size 41", "40 training images", "at most 40"]),
        (
            "--img-size 32 --batch-size 10 --grad-accum-steps 5",
            &["--grad-accum-steps 5", "40 training images"],
        ),
        ("--img-size 4 --batch-size 8", &["--img-size 4", "from 8 to 1024"]),
        ("--img-size 2000 --batch-size 8", &["--img-size 2000", "from 8 to 1024"]),
        ("--img-size 32 --batch-size 8 --categories 0", &["--categories 0", "at least 1"]),
        ("--img-size 32 --batch-size 8 --categories 11", &["--categories 11", "at most 10"]),
        ("--img-size 32 --batch-size 8 --epochs 2 --warmup-steps 10", &["10 steps", "--warmup-epochs"]),
        ("--img-size 32 --batch-size 8 --epochs 2 --warmup-epochs 3", &["15 steps", "only 10"]),
    ];
    for (flags, parts) in cases {
        program.fails(&format!("{train} {flags}"), 2, parts);
        assert!(!program.path("runs").exists(), "{flags} left a run folder");
    }
    program.fails("train --categories 11", 2, &["--categories 11", "at most 10"]);
    program.fails("train --limit-train 0", 2, &["--limit-train 0"]);
}

#[test]
fn commands_and_flags_that_do_not_go_together() {
    let program = Program::new();
    program.fails("", 2, &["Usage: residuum <COMMAND>", "Exit codes:"]);
    program.fails("trian", 2, &["trian", "'train'"]);
    program.fails("train --modle resnet34", 2, &["--modle", "'--model'"]);
    for flag in ["--config a.toml", "--output a", "--experiment a", "--pretrained a"] {
        program.fails(
            &format!("train --resume runs/a {flag}"),
            2,
            &["--resume", flag.split(' ').next().unwrap()],
        );
    }
    program.fails("train --allow-changed", 2, &["--resume <RUN>"]);
    program.fails("train --warmup-steps 3 --warmup-epochs 1", 2, &["--warmup-steps", "--warmup-epochs"]);
    program.fails("eval", 2, &["--run <RUN>", "--weights <FILE>"]);
    program.fails("eval --run a --weights b", 2, &["--run <RUN>", "--weights <FILE>", "cannot be used with"]);
    program.fails("predict --weights a", 2, &["<PHOTO|"]);
    program.fails("predict --weights a --input b", 2, &["--output <FILE>"]);
    program.fails("predict --weights a --input b --output c d.jpg", 2, &["cannot be used with"]);
    program.fails("plan --memory plenty", 2, &["plenty", "--memory", "24GiB"]);
    program.fails("data scenes --output d --img-size 0", 2, &["--img-size 0"]);
    assert_eq!(fs::read_dir(program.path("")).unwrap().count(), 0, "something was written");
}

#[test]
fn help_lists_the_subcommands_and_exit_codes() {
    let help = Program::new().succeeds("--help");
    for part in [
        "train",
        "launch",
        "eval",
        "predict",
        "reproduce",
        "augment",
        "export",
        "plan",
        "data",
        "devices",
        "5 diverged",
    ] {
        assert!(help.contains(part), "{help}");
    }
    let devices = Program::new().succeeds("devices");
    assert!(devices.lines().any(|line| line.starts_with("cpu") && line.contains("yes")), "{devices}");
}

#[test]
fn an_output_folder_that_cannot_be_made() {
    let program = Program::with_scenes();
    fs::write(program.path("taken"), "a file").unwrap();
    program.fails(&format!("{SMALL_RUN} --output taken"), 1, &["cannot create taken"]);
    program.fails(&format!("{SMALL_RUN} --output taken/below"), 1, &["cannot create taken/below"]);
    assert_eq!(fs::read_to_string(program.path("taken")).unwrap(), "a file");
}
