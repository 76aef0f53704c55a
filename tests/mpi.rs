//! Ranks that mpirun starts, each of them this program again: what they train, and what becomes of the others where one fails.
//! With `--features mpi`, where Open MPI is installed.
#![cfg(feature = "mpi")]

#[path = "common/random_batch.rs"]
mod random_batch;
#[path = "common/split_runs.rs"]
mod split_runs;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use residuum::device::Device;
use residuum::dist::{Collective, Group, MpiRanks, World};
use residuum::step::{StepConfig, SumOrder, Training};
use split_runs::{Left, config, leave, split, split_of};

/// What a rank that a test starts is to do; not set in the test itself.
const PART: &str = "RESIDUUM_TEST_PART";
const UPDATES: usize = 2;

/// Starts so many ranks, each of them `test` once more with its part; nothing where there is no mpirun.
fn start(num_ranks: usize, test: &str, part: impl AsRef<OsStr>) -> Option<Output> {
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--allow-run-as-root", "--oversubscribe", "-n", &num_ranks.to_string()]);
    mpirun.arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    // The trace of a rank that panics takes as long to make as the others wait.
    match mpirun.env(PART, part).env_remove("RUST_BACKTRACE").output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: mpirun cannot be started: {error}");
            None
        }
    }
}

fn rich() -> StepConfig {
    StepConfig { clip_grad: Some(0.5), ema_decay: Some(0.9), ..config("resnet9") }
}

fn train(config: StepConfig, ranks: Option<MpiRanks>) -> Left {
    let index = ranks.as_ref().map_or(0, |ranks| ranks.rank().index);
    let mut training = Training::new(config, Device::Cpu).unwrap();
    if let Some(ranks) = ranks {
        training.join(Box::new(ranks)).unwrap();
    }
    leave(&mut training, UPDATES, index)
}

/// A split in the order of a tree, over ranks of which each two take themselves to be on a machine.
fn tree(num_ranks: usize) -> StepConfig {
    let ranks_per_node = num_ranks.min(2);
    StepConfig { sum_order: SumOrder::Tree, ranks_per_node, ..split_of(&rich(), 8, num_ranks) }
}

/// Trains as one of several ranks, and leaves what comes of it in `folder`.
fn train_as_rank(folder: &Path, of_rank: fn(usize) -> StepConfig) {
    let ranks = MpiRanks::join(Duration::from_secs(120)).unwrap();
    let rank = ranks.rank();
    assert_eq!(ranks.local(), rank, "all are on this machine");
    let world = World::from_env().unwrap();
    assert_eq!(world.map_or(1, |world| world.rank.count), rank.count, "mpirun's variables say the same");
    assert_eq!(world.map_or(0, |world| world.rank.index), rank.index);
    let left = train(of_rank(rank.count), Some(ranks));
    fs::write(folder.join(format!("rank{}", rank.index)), format!("{left:?}")).unwrap();
}

/// Has `test` train on as many ranks as `splits` says, each as `of_rank` does, and fails unless they leave what one leaves.
fn check_splits(test: &str, splits: &[usize], of_rank: fn(usize) -> StepConfig) {
    if let Some(folder) = env::var_os(PART) {
        return train_as_rank(folder.as_ref(), of_rank);
    }
    let expected = format!("{:?}", train(of_rank(1), None));
    for &num_ranks in splits {
        let folder = tempfile::tempdir().unwrap();
        let Some(output) = start(num_ranks, test, folder.path()) else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for rank in 0..num_ranks {
            let left = fs::read_to_string(folder.path().join(format!("rank{rank}"))).unwrap();
            assert!(left == expected, "rank {rank} of {num_ranks} left other bits");
        }
    }
}

#[test]
fn ranks_of_mpirun_have_the_bits_of_one_rank() {
    let of_rank = |num_ranks| split(&rich(), num_ranks);
    check_splits("ranks_of_mpirun_have_the_bits_of_one_rank", &[1, 2, 3], of_rank);
}

#[test]
fn ranks_of_mpirun_on_several_machines_have_the_bits_of_one_rank() {
    check_splits("ranks_of_mpirun_on_several_machines_have_the_bits_of_one_rank", &[4], tree);
}

/// Meets the other ranks once, after which the last of them does as `then` says and the others wait for it.
fn meet_and(then: impl FnOnce()) {
    let mut ranks = MpiRanks::join(Duration::from_secs(10)).unwrap();
    let rank = ranks.rank();
    let mut all = vec![0; rank.count];
    ranks.all_gather(&[rank.index as u8], &mut all).unwrap();
    assert_eq!(all, (0..rank.count as u8).collect::<Vec<u8>>());
    // There may be nothing to send.
    ranks.all_gather(&[], &mut []).unwrap();
    ranks.all_to_all(Group::all(rank.count), &[], &mut []).unwrap();
    if rank.index + 1 == rank.count {
        then();
    }
    ranks.all_gather(&[0], &mut all).unwrap();
}

#[test]
fn nobody_waits_for_a_rank_that_hangs_or_panics() {
    match env::var(PART).as_deref() {
        Ok("hang") => return meet_and(|| thread::sleep(Duration::from_secs(600))),
        Ok("panic") => return meet_and(|| panic!("as planned")),
        _ => {}
    }
    for (part, code, says) in
        [("hang", 7, "of 2 waited 10 s for the others in exchange 2"), ("panic", 101, "as planned")]
    {
        let began = Instant::now();
        let Some(output) = start(2, "nobody_waits_for_a_rank_that_hangs_or_panics", part) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{part}: {said}");
        assert!(said.contains(says), "{part}: {said}");
        assert!(began.elapsed() < Duration::from_secs(90), "{part} took {:?}", began.elapsed());
    }
}
