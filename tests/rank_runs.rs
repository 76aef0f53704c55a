//! Runs over several ranks, here threads, against runs of one: folder, state and log are the same, and every rank ends as it
//! should.

#[path = "common/left_by_run.rs"]
mod left_by_run;
#[path = "common/thread_ranks.rs"]
mod thread_ranks;

use std::fs;
use std::path::{Path, PathBuf};
use std::slice;

use left_by_run::LeftByRun;
use residuum::device::Device;
use residuum::dist::Rank;
use residuum::run::metrics;
use residuum::run::run_dir::RunDir;
use residuum::step::SumOrder;
use residuum::train::config::TrainConfig;
use residuum::train::resume::OnChange;
use residuum::train::trainer::{Outcome, Trainer};
use residuum::{Error, Result};
use tempfile::TempDir;
use thread_ranks::ThreadRank;

/// Batches of an update.
const BATCHES: usize = 4;

/// Two epochs of three updates, after which a batch is left over; batches are mixed, the evaluation ends with a part of one.
fn config(output: &Path) -> TrainConfig {
    TrainConfig {
        model: "resnet9".into(),
        img_size: 24,
        limit_train: Some(39),
        limit_val: Some(13),
        batch_size: 3,
        epochs: 2,
        micro_batches: Some(BATCHES),
        augment: "flip,mixup".parse().unwrap(),
        clip_grad: Some(1.0),
        model_ema_decay: Some(0.9),
        lr: Some(0.01),
        log_interval: 1,
        output: output.to_path_buf(),
        ..TrainConfig::defaults(None)
    }
}

/// The same with a learning rate that does not depend on the length of the run.
fn steady(output: &Path) -> TrainConfig {
    TrainConfig { sched: "constant".parse().unwrap(), warmup_steps: Some(0), ..config(output) }
}

/// [`thread_ranks::on_ranks`], each with a thread pool of its own, as processes have one: the loop of a run occupies a thread of
/// its pool, also while it waits for the others.
fn on_ranks<T: Send>(num_ranks: usize, body: impl Fn(usize, ThreadRank) -> T + Sync) -> Vec<T> {
    thread_ranks::on_ranks(num_ranks, |index, rank| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        pool.install(|| body(index, rank))
    })
}

/// Runs `config` on so many ranks, from the start or from where the run in `dir` stands.
fn run_on(num_ranks: usize, config: &TrainConfig, dir: Option<&RunDir>) -> Vec<Result<Outcome>> {
    on_ranks(num_ranks, |index, rank| begin(index, rank, config.clone(), dir)?.run())
}

fn begin(index: usize, rank: ThreadRank, config: TrainConfig, dir: Option<&RunDir>) -> Result<Trainer> {
    let rank = Box::new(rank);
    match dir {
        _ if index > 0 => Trainer::follow(config, Device::Cpu, rank),
        Some(dir) => Trainer::resume_on_ranks(dir.clone(), config, Device::Cpu, OnChange::Refuse, Some(rank)),
        None => Trainer::start_on_ranks(config, Device::Cpu, Some(rank)),
    }
}

/// The folder of a run that has ended well on all ranks.
fn folder_of(outcomes: Vec<Result<Outcome>>) -> PathBuf {
    let folders: Vec<PathBuf> =
        outcomes.into_iter().map(|outcome| outcome.unwrap().dir.path().to_path_buf()).collect();
    assert!(folders.iter().all(|folder| *folder == folders[0]), "{folders:?}");
    folders[0].clone()
}

fn only_folder(output: &Path) -> Vec<PathBuf> {
    fs::read_dir(output).map_or(Vec::new(), |entries| entries.map(|entry| entry.unwrap().path()).collect())
}

#[test]
fn ranks_leave_what_one_rank_leaves() {
    for stream in [None, Some(4)] {
        let run = |num_ranks| {
            let output = TempDir::new().unwrap();
            let config = TrainConfig { steps_per_epoch: stream, ..config(output.path()) };
            let folder = folder_of(run_on(num_ranks, &config, None));
            assert_eq!(only_folder(output.path()), slice::from_ref(&folder), "one folder, of rank 0");
            let recorded: TrainConfig = RunDir::open(&folder).unwrap().read_config().unwrap();
            assert_eq!(recorded.grad_accum_steps, BATCHES / num_ranks);
            assert_eq!(recorded.micro_batches, (num_ranks > 1).then_some(BATCHES));
            for line in metrics::read(&folder.join("metrics.jsonl")).unwrap().steps {
                let is_told = line.exchange_ms.is_some_and(|ms| 0.0 < ms && ms < line.step_ms);
                assert_eq!(is_told, num_ranks > 1, "the time of exchanges in {line:?}");
            }
            LeftByRun::of(&folder)
        };
        let expected = run(1);
        assert_eq!(expected.steps.len() as u64, 2 * stream.unwrap_or(3));
        for num_ranks in [2, 4] {
            run(num_ranks).assert_same(&expected, &format!("{num_ranks} ranks, epochs of {stream:?}"));
        }
    }
}

/// Ranks find out by themselves which share a machine, and add up there first.
#[test]
fn ranks_of_two_machines_leave_what_one_rank_leaves() {
    let run = |num_ranks, per_node| {
        let output = TempDir::new().unwrap();
        let config = TrainConfig { sum_order: SumOrder::Tree, ..config(output.path()) };
        let outcomes = on_ranks(num_ranks, |index, mut rank| {
            rank.local = Rank { index: index % per_node, count: per_node };
            let trainer = begin(index, rank, config.clone(), None)?;
            let sum_of_node = trainer.session().program().persistent("exchange.0.node_sum");
            assert_eq!(sum_of_node.is_ok(), 1 < per_node, "{num_ranks} ranks, {per_node} a machine");
            trainer.run()
        });
        LeftByRun::of(&folder_of(outcomes))
    };
    let expected = run(1, 1);
    for (num_ranks, per_node) in [(4, 2), (2, 1)] {
        run(num_ranks, per_node).assert_same(&expected, &format!("{num_ranks} ranks, {per_node} a machine"));
    }

    let output = TempDir::new().unwrap();
    let three = TrainConfig { micro_batches: Some(3), sum_order: SumOrder::Tree, ..config(output.path()) };
    let error = run_on(1, &three, None).remove(0).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("take 2 or 4"), "{error}");
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let output = TempDir::new().unwrap();
    let expected = {
        let output = TempDir::new().unwrap();
        let config = TrainConfig { epochs: 4, ..steady(output.path()) };
        LeftByRun::of(&folder_of(run_on(1, &config, None)))
    };
    let mut dir: Option<RunDir> = None;
    for (epochs, num_ranks) in [(1, 4), (2, 2), (3, 1), (4, 4)] {
        let config = match &dir {
            Some(dir) => {
                TrainConfig { epochs, ..dir.read_config::<TrainConfig>().unwrap().keeping_updates() }
            }
            None => TrainConfig { epochs, ..steady(output.path()) },
        };
        let folder = folder_of(run_on(num_ranks, &config, dir.as_ref()));
        dir = Some(RunDir::open(&folder).unwrap());
    }
    let left = LeftByRun::of(dir.unwrap().path());
    assert_eq!(left.state.step, 12);
    left.assert_same(&expected, "ranks 4, 2, 1, 4");
}

#[test]
fn a_run_of_synchronised_batch_norms_goes_on_with_as_many_ranks() {
    let output = TempDir::new().unwrap();
    let begun = TrainConfig { epochs: 1, sync_bn: true, ..steady(output.path()) };
    let dir = RunDir::open(&folder_of(run_on(2, &begun, None))).unwrap();
    let config = TrainConfig { epochs: 2, ..dir.read_config::<TrainConfig>().unwrap().keeping_updates() };
    let message = run_on(4, &config, Some(&dir)).remove(0).unwrap_err().to_string();
    assert!(message.contains("`sync_bn` is of 4 ranks and was of 2 ranks"), "{message}");
    folder_of(run_on(2, &config, Some(&dir)));

    let whole = TempDir::new().unwrap();
    let expected =
        folder_of(run_on(2, &TrainConfig { epochs: 2, output: whole.path().into(), ..begun }, None));
    LeftByRun::of(dir.path()).assert_same(&LeftByRun::of(&expected), "resumed");
}

#[test]
fn batches_that_ranks_cannot_share_are_refused_with_the_numbers_that_can() {
    let output = TempDir::new().unwrap();
    for outcome in run_on(3, &config(output.path()), None) {
        let error = outcome.unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("1, 2, 4 of them"), "{error}");
    }
    // What a run has begun with, it keeps.
    let folder = folder_of(run_on(2, &config(output.path()), None));
    let dir = RunDir::open(&folder).unwrap();
    let recorded: TrainConfig = dir.read_config().unwrap();
    let other = TrainConfig { micro_batches: None, epochs: 3, ..recorded };
    let mut outcomes = run_on(4, &other, Some(&dir)).into_iter();
    let message = outcomes.next().unwrap().unwrap_err().to_string();
    assert!(message.contains("`grad_accum_steps` is 8 and was 4"), "{message}");
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().exit_code(), 7, "the others have lost rank 0");
    }
}

#[test]
fn a_rank_with_other_settings_or_images_is_named_and_nobody_waits_for_it() {
    let output = TempDir::new().unwrap();
    let check = |change: fn(&mut TrainConfig), code: u8, part: &str| {
        let outcomes = on_ranks(3, |index, rank| {
            let mut config = TrainConfig { micro_batches: Some(3), ..config(output.path()) };
            if index == 2 {
                change(&mut config);
            }
            begin(index, rank, config, None)?.run()
        });
        let errors: Vec<Error> = outcomes.into_iter().map(|outcome| outcome.unwrap_err()).collect();
        let message = errors[2].to_string();
        assert!(errors[2].exit_code() == code && message.contains(part), "{message}");
        for error in &errors[..2] {
            assert_eq!(error.exit_code(), 7, "{error}");
        }
    };
    check(|config| config.smoothing = 0.1, 2, "it has another `smoothing` than rank 1, 0.1 instead of 0");
    check(|config| config.data_dir = Some("nowhere".into()), 4, "nowhere");
}

#[test]
fn a_loss_that_is_no_number_ends_all_ranks_alike() {
    let output = TempDir::new().unwrap();
    let config =
        TrainConfig { lr: Some(1e30), clip_grad: None, warmup_steps: Some(0), ..config(output.path()) };
    let steps: Vec<u64> = run_on(2, &config, None)
        .into_iter()
        .map(|outcome| match outcome.unwrap_err() {
            Error::Diverged { step, .. } => step,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(steps[0], steps[1]);
    let folder = only_folder(output.path()).pop().unwrap();
    assert!(folder.join("diverged.json").exists());
    // From the last good checkpoint, on one rank.
    let state = residuum::run::state::load(&folder.join("checkpoints/last.state.safetensors")).unwrap().0;
    assert_eq!(state.step, 0);
}
