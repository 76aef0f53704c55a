//! The program under mpirun: what `train` leaves with several ranks, and how all of them end where one is stopped, killed or
//! wrong. With `--features mpi`, where Open MPI is installed.
#![cfg(feature = "mpi")]

#[path = "common/left_by_run.rs"]
mod left_by_run;
#[path = "common/machines.rs"]
mod machines;
#[path = "common/program.rs"]
mod program;
#[path = "common/rank_processes.rs"]
mod rank_processes;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use left_by_run::LeftByRun;
use machines::Machines;
use program::{Program, failed, signal, texts};
use rank_processes::{all_end, rank_processes, send};
use residuum::run::state;

/// 10 updates of 20 batches in two epochs.
const RUN: &str = "train --data-dir scenes --model resnet9 --img-size 32 --batch-size 2 --epochs 2 --lr 0.01 --augment flip,mixup \
                   --clip-grad 1 --model-ema --model-ema-decay 0.9 --log-interval 1 --micro-batches 4";
/// The same, long enough to be stopped.
const LONG_RUN: &str = "train --data-dir scenes --model resnet9 --img-size 32 --batch-size 2 --epochs 12 --lr 0.01 \
                        --log-interval 1 --checkpoint-interval 8 --micro-batches 4";
/// In which all ranks have to be gone after one is.
const SOON: Duration = Duration::from_secs(30);

/// `call` on so many ranks.
fn mpirun(program: &Program, num_ranks: usize, call: &str) -> Command {
    let mut mpirun = Command::new("mpirun");
    mpirun
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "-n",
            &num_ranks.to_string(),
            env!("CARGO_BIN_EXE_residuum"),
        ])
        .args(call.split_whitespace());
    program.settle(mpirun)
}

/// Whether there is an mpirun to test with.
fn can_start() -> bool {
    let can = Command::new("mpirun").arg("--version").output().is_ok();
    if !can {
        println!("skipped: there is no mpirun");
    }
    can
}

#[track_caller]
fn succeeds(program: &Program, num_ranks: usize, call: &str) -> Output {
    let output = mpirun(program, num_ranks, call).output().unwrap();
    let (_, stderr) = texts(&output);
    assert!(output.status.success(), "{num_ranks} ranks of `{call}` ended with {}:\n{stderr}", output.status);
    output
}

fn left_by(program: &Program) -> LeftByRun {
    LeftByRun::of(&program.path(program.only_run("runs")))
}

/// Starts so many ranks of `call`, sends `signal` to rank `rank` after `num_steps` lines of the log, and waits for the end.
fn stop_one(
    program: &Program,
    num_ranks: usize,
    call: &str,
    (signal, rank): (&str, usize),
    num_steps: usize,
) -> (Output, PathBuf) {
    let mut child =
        mpirun(program, num_ranks, call).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let run = program.wait_for_steps(&mut child, num_steps);
    let ranks = rank_processes(&child, "OMPI_COMM_WORLD_RANK");
    assert_eq!(ranks.len(), num_ranks);
    send(signal, ranks[rank]);
    (all_end(child, &ranks, SOON), run)
}

#[test]
fn ranks_of_mpirun_leave_what_one_rank_leaves() {
    if !can_start() {
        return;
    }
    let alone = Program::with_scenes();
    alone.succeeds(RUN);
    let expected = left_by(&alone);
    for (num_ranks, threads) in [(1, "2"), (2, "2"), (4, "1")] {
        let program = Program::with_scenes();
        let output = mpirun(&program, num_ranks, RUN).env("RAYON_NUM_THREADS", threads).output().unwrap();
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stdout.matches("top-1 error").count(), 1, "one rank speaks: {stdout}");
        assert_eq!(stderr.matches("run folder: ").count(), 1, "one rank speaks: {stderr}");
        left_by(&program).assert_same(&expected, &format!("{num_ranks} ranks"));
    }
}

#[test]
fn a_signal_to_one_rank_stops_all_and_the_run_goes_on_with_any_number() {
    if !can_start() {
        return;
    }
    let alone = Program::with_scenes();
    alone.succeeds(LONG_RUN);
    let expected = left_by(&alone);

    let program = Program::with_scenes();
    let mut call = LONG_RUN.to_string();
    for (num_ranks, rank, num_steps) in [(4, 3, 8), (2, 0, 25), (1, 0, 50)] {
        let (output, run) = stop_one(&program, num_ranks, &call, ("TERM", rank), num_steps);
        let (_, stderr) = texts(&output);
        failed(&output, &call, 143, &["stopped by a termination signal"]);
        assert_eq!(stderr.matches("checkpoint written; resume with").count(), 1, "{stderr}");
        assert_eq!(stderr.matches("stopped by a termination signal").count(), 1, "{stderr}");
        let left = LeftByRun::of(&program.path(&run));
        assert_eq!(left.state.step, left.steps.last().unwrap().0, "the checkpoint is of the last step");
        assert!(left.state.step < expected.state.step, "the signal came too late to stop anything");
        call = format!("train --resume {}", run.display());
    }
    succeeds(&program, 4, &call);
    left_by(&program).assert_same(&expected, "ranks 4, 2, 1, 4");
}

#[test]
fn a_signal_to_mpirun_stops_all_with_a_checkpoint_if_it_waits_for_them() {
    if !can_start() {
        return;
    }
    let program = Program::with_scenes();
    let mut mpirun = mpirun(&program, 2, LONG_RUN);
    // `--mca odls_base_sigkill_timeout`: as long does it wait before it passes the signal on, and again before it kills.
    mpirun.env("OMPI_MCA_odls_base_sigkill_timeout", "10").stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut child = mpirun.spawn().unwrap();
    let run = program.wait_for_steps(&mut child, 5);
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    let (_, stderr) = texts(&output);
    assert!(!output.status.success() && stderr.contains("checkpoint written; resume with"), "{stderr}");
    let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
    assert_eq!(
        state.step,
        program.records(&run).steps.last().unwrap().step,
        "the checkpoint is of the last step"
    );
}

#[test]
fn a_rank_that_is_killed_ends_all_and_the_run_goes_on_from_its_checkpoint() {
    if !can_start() {
        return;
    }
    let call = format!("{LONG_RUN} --recovery-interval 3");
    let alone = Program::with_scenes();
    alone.succeeds(&call);
    let expected = left_by(&alone);

    let program = Program::with_scenes();
    let mut next = call;
    for (rank, num_steps) in [(1, 10), (0, 40)] {
        let (output, run) = stop_one(&program, 2, &next, ("KILL", rank), num_steps);
        assert!(!output.status.success(), "{}", texts(&output).1);
        let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
        let logged = program.records(&run).steps.len() as u64;
        assert!(
            state.step > 0 && logged - state.step <= 4,
            "a checkpoint of step {} of {logged}",
            state.step
        );
        next = format!("train --resume {}", run.display());
    }
    succeeds(&program, 2, &next);
    left_by(&program).assert_same(&expected, "a run whose ranks were killed");
}

#[test]
fn nobody_waits_for_a_rank_that_is_stopped() {
    if !can_start() {
        return;
    }
    let program = Program::with_scenes();
    let call = format!("{LONG_RUN} --dist-timeout 3");
    let (output, _) = stop_one(&program, 2, &call, ("STOP", 1), 5);
    failed(&output, &call, 7, &["rank 1 of 2 waited 3 s for the others in exchange"]);
}

#[test]
fn nobody_waits_for_a_process_that_does_not_begin() {
    if !can_start() {
        return;
    }
    let program = Program::with_scenes();
    let (began, call) = (Instant::now(), format!("{LONG_RUN} --dist-timeout 3 : -n 1 sleep 600"));
    let output = mpirun(&program, 1, &call).output().unwrap();
    failed(&output, &call, 7, &["a rank waited 3 s for the others in the beginning"]);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(!program.path("runs").exists(), "no run has begun");
}

#[test]
fn what_is_wrong_at_one_rank_is_said_by_it_and_ends_all() {
    if !can_start() {
        return;
    }
    for (flags, code, part) in [
        (
            "--data-dir scenes --smoothing 0.1",
            2,
            "error: rank 2 of 2: it has another `smoothing` than rank 1",
        ),
        ("--data-dir nowhere", 4, "error: rank 2 of 2: "),
    ] {
        let program = Program::with_scenes();
        let began = Instant::now();
        let others = RUN.replace("--data-dir scenes", flags);
        let call = format!("{RUN} : -n 1 {} {others}", env!("CARGO_BIN_EXE_residuum"));
        failed(&mpirun(&program, 1, &call).output().unwrap(), &call, code, &[part]);
        assert!(began.elapsed() < SOON, "{flags} took {:?}", began.elapsed());
        assert!(!program.path("runs").exists(), "{flags}: no run has begun");
    }
}

#[test]
fn a_loss_that_is_no_number_ends_all_ranks_with_one_word() {
    if !can_start() {
        return;
    }
    let call = LONG_RUN.replace("--lr 0.01", "--lr 1e30 --warmup-steps 0");
    let left_by = |program: &Program, output: Output| {
        failed(&output, &call, 5, &[]);
        assert_eq!(texts(&output).1.matches("diverged at step").count(), 1, "{}", texts(&output).1);
        let run = program.only_run("runs");
        let diverged = fs::read_to_string(program.path(&run).join("diverged.json")).unwrap();
        // Of what a rank keeps for exchanges, the values are its own.
        let (what, _) = diverged.split_once("\"values\"").unwrap();
        (what.to_string(), program.checkpoint_bytes(&run, "last.safetensors"))
    };
    let alone = Program::with_scenes();
    let expected = left_by(&alone, alone.command(&call).output().unwrap());
    let program = Program::with_scenes();
    let left = left_by(&program, mpirun(&program, 2, &call).output().unwrap());
    assert!(left == expected, "{}\nand not\n{}", left.0, expected.0);
}

#[test]
fn a_cut_link_ends_both_ranks_in_time_and_the_run_goes_on() {
    if !can_start() {
        return;
    }
    let Some(machines) = Machines::new() else {
        return println!("skipped: the system makes no network namespaces; they need root and `ip`");
    };
    let alone = Program::with_scenes();
    let call = format!("{LONG_RUN} --recovery-interval 3");
    alone.succeeds(&call);
    let expected = left_by(&alone);

    let program = Program::with_scenes();
    let mut mpirun = machines.mpirun(&program, &format!("{call} --dist-timeout 5"));
    let mut child = mpirun.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let run = program.wait_for_steps(&mut child, 10);
    machines.cut();
    let began = Instant::now();
    while machines.have_process("residuum") {
        assert!(began.elapsed() < SOON, "a rank is still there");
        thread::sleep(Duration::from_millis(50));
    }
    // What is left are mpirun and its daemon, which cannot reach each other; they are killed with the machines.
    drop(machines);
    let (_, stderr) = texts(&child.wait_with_output().unwrap());
    assert!(stderr.contains("rank 1 of 2 waited 5 s for the others in exchange"), "{stderr}");

    let (state, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
    let logged = program.records(&run).steps.len() as u64;
    assert!(state.step > 0 && logged - state.step <= 4, "a checkpoint of step {} of {logged}", state.step);
    program.succeeds(&format!("train --resume {}", run.display()));
    left_by(&program).assert_same(&expected, "a run whose link was cut");
}
