//! `residuum launch`, which starts the program several times.

use crate::program::{Program, texts};

#[test]
fn flags_that_start_nothing_are_refused() {
    let program = Program::new();
    let cases: [(&str, &[&str]); 12] = [
        ("-n 0 -- train", &["--nproc-per-node", "a number from 1 to 1024, or gpu"]),
        ("-n all -- train", &["--nproc-per-node", "or gpu"]),
        ("-n 2 --nnodes 0 -- train", &["--nnodes"]),
        ("-n 2 --master-port 0 -- train", &["--master-port"]),
        ("-n 2 --nnodes 2 --node-rank 2 --master-addr a -- train", &["--node-rank 2", "below --nnodes 2"]),
        ("-n 2 --nnodes 2 -- train", &["--nnodes 2", "--master-addr"]),
        ("-n 2", &["<TRAIN>", "-- train"]),
        ("-n 2 train", &["train", "-- train"]),
        ("-n 2 --", &["<TRAIN>"]),
        ("-n 2 -- eval --run a", &["eval: only training is shared", "-- train"]),
        ("-n 2 -- train --epoch 3", &["--epoch", "--epochs"]),
        ("-n 2 -- train --no-dist", &["--no-dist", "a run of its own"]),
    ];
    for (flags, parts) in cases {
        program.fails(&format!("launch {flags}"), 2, parts);
    }
}

#[test]
fn a_launcher_starts_no_launcher() {
    let program = Program::new();
    let mut command = program.command("launch -n 2 -- train");
    let output = command.env("RANK", "1").env("WORLD_SIZE", "2").output().unwrap();
    let (_, said) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("torchrun (RANK, WORLD_SIZE) has started this as process 2 of 2"), "{said}");
}

#[test]
fn without_a_gpu_their_number_is_asked_for() {
    let program = Program::new();
    let output = program.command("launch -- train").env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
    let (_, said) = texts(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("--nproc-per-node N"), "{said}");
}

#[test]
fn what_a_rank_says_is_said_and_its_exit_code_is_the_launchers() {
    let program = Program::with_scenes();
    let output = program.command("launch -n 2 -- train --data-dir scenes --device cpu").output().unwrap();
    let (_, said) = texts(&output);
    // No build joins ranks of torchrun on CPUs.
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("error: torchrun (RANK, WORLD_SIZE) has started this as process "), "{said}");
    assert!(said.contains("ended with exit code 2"), "{said}");
    let second = said.lines().find(|line| line.contains("as process 2 of 2"));
    assert!(second.is_none_or(|line| line.starts_with("[2] error: ")), "{said}");
}
