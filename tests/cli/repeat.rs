//! The same settings give the same bytes, whatever the number of threads.

use crate::program::{Program, SMALL_RUN};

/// The weights after [`SMALL_RUN`] with `flags` on `threads` threads.
#[track_caller]
fn weights(flags: &str, threads: &str) -> Vec<u8> {
    let program = Program::with_scenes();
    let call = format!("{SMALL_RUN} --augment flip,shift {flags}");
    let output = program.command(&call).env("RAYON_NUM_THREADS", threads).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program.checkpoint_bytes(&program.only_run("runs"), "last.safetensors")
}

#[test]
fn threads_and_repetitions_change_no_bit_and_the_seed_does() {
    let base = weights("--seed 3", "2");
    let variants = [("--seed 3", "2"), ("--seed 3", "1"), ("--seed 3", "5"), ("--seed 3 --workers 3", "2")];
    for (flags, threads) in variants {
        assert!(weights(flags, threads) == base, "{flags} on {threads} threads");
    }
    assert!(weights("--seed 4", "2") != base, "the seed changes nothing");
}

#[test]
fn fused_and_textbook_graphs_agree() {
    let losses = |flags: &str| {
        let program = Program::with_scenes();
        let run = program
            .trains(&format!("--precision f32 --warmup-lr 0.001 --log-interval 1 --max-steps 3 {flags}"));
        program.records(&run).steps.iter().map(|step| step.loss).collect::<Vec<f64>>()
    };
    let (fused, textbook) = (losses(""), losses("--no-fuse"));
    assert_eq!(fused.len(), 3);
    for (step, (a, b)) in fused.iter().zip(&textbook).enumerate() {
        let error = (a - b).abs() / b;
        assert!(error <= 1e-5, "step {step}: {a} and {b}");
    }
}
