//! Images per second of several ranks on this machine's CPUs beside those of one process with all of its cores, in turn:
//! `cargo bench --features mpi --bench ranks`, where Open MPI is installed.
//!
//! Both take the same batches to an update and leave the same weights. Data and weights are random.

#[path = "common/mpirun.rs"]
mod mpirun;
#[path = "common/outcome.rs"]
mod outcome;
#[path = "../tests/common/random_batch.rs"]
mod random_batch;

use std::process::{Command, exit};
use std::time::{Duration, Instant};
use std::{array, env, iter, thread};

use clap::Parser;
use outcome::{end, median_and_spread};
use random_batch::random_batch;
use residuum::Error;
use residuum::batch::Batch;
use residuum::device::Device;
use residuum::dist::{Collective, MpiRanks, World};
use residuum::models::{Model, Options};
use residuum::step::{StepConfig, Training};

/// As of the paper's data set.
const CLASSES: usize = 100;
/// Learning rate of the steps.
const LR: f64 = 1e-3;

#[derive(Debug, Parser)]
struct Flags {
    /// Ranks, each with its share of the cores
    #[arg(long, value_name = "N", default_value_t = 2)]
    ranks: usize,
    /// How often each way is timed
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Updates that are timed at once
    #[arg(long, value_name = "N", default_value_t = 10)]
    updates: usize,
    /// Networks
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "resnet18,resnet50")]
    models: Vec<String>,
    /// Height and width of the images
    #[arg(long, value_name = "PIXELS", default_value_t = 64)]
    size: usize,
    /// Images of a batch, of which an update takes as many as there are ranks
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Trains the one network of --models in this process, and prints its images per second
    #[arg(long, hide = true)]
    part: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let flags = Flags::parse();
    let outcome = if flags.part { train(&flags) } else { compare(&flags) };
    outcome.unwrap_or_else(|error| end(&error));
}

/// Has both ways timed in turn, and prints a line for each network.
fn compare(flags: &Flags) -> residuum::Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for model in &flags.models {
        let mut times: [Vec<f64>; 2] = array::from_fn(|_| Vec::new());
        for _ in 0..flags.rounds {
            let ways = [flags.ranks, 1].map(|count| start(model, count, (cores / count).max(1)));
            iter::zip(&mut times, ways).for_each(|(times, time)| times.push(time));
        }
        let [ranks, one] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            median_and_spread(&times)
        });
        println!(
            "{model}, {} px, updates of {} x {} images, {cores} cores: {} ranks {:.2} images/s (spread {:.2}), one process {:.2} \
             (spread {:.2}), ratio {:.2}",
            flags.size,
            flags.ranks,
            flags.batch,
            flags.ranks,
            ranks.0,
            ranks.1,
            one.0,
            one.1,
            ranks.0 / one.0
        );
    }
    Ok(())
}

/// Images per second of so many processes with so many threads each.
fn start(model: &str, count: usize, threads: usize) -> f64 {
    let this = env::current_exe().expect("the system knows where this program is");
    let mut command = if count > 1 { mpirun::mpirun(count) } else { Command::new(&this) };
    if count > 1 {
        command.args(["--bind-to", "none"]).arg(this);
    }
    command.args(env::args_os().skip(1)).args(["--part", "--models", model]);
    match command.env("RAYON_NUM_THREADS", threads.to_string()).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.trim().parse().expect("rank 0 alone prints a number")
        }
        Ok(output) => {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            exit(output.status.code().unwrap_or(1));
        }
        Err(error) => mpirun::end_without(&error),
    }
}

/// Trains as one of the ranks, or alone.
fn train(flags: &Flags) -> residuum::Result<()> {
    let ranks = World::from_env()?.map(|_| MpiRanks::join(Duration::from_secs(60))).transpose()?;
    let count = ranks.as_ref().map_or(1, |ranks| ranks.rank().count);
    let index = ranks.as_ref().map_or(0, |ranks| ranks.rank().index);
    let rounds = flags.ranks / count;
    let model = flags.models.last().ok_or_else(|| Error::Usage("--models names no network".into()))?;
    let config = StepConfig {
        num_ranks: count,
        grad_accum_steps: rounds,
        seed: 1,
        ..StepConfig::new(Model::new(model, Options::new(CLASSES))?, flags.batch, flags.size)
    };
    let mut training = Training::new(config, Device::Cpu)?;
    if let Some(ranks) = ranks {
        training.join(Box::new(ranks))?;
    }
    let batch = |round| random_batch(training.config(), CLASSES, (round * count + index) as u64);
    let batches: Vec<Batch> = (0..rounds).map(batch).collect();
    let mut update = |num_updates: usize| -> residuum::Result<()> {
        let mut steps = (0..num_updates).flat_map(|_| &batches);
        steps.try_for_each(|batch| training.step(batch, LR))?;
        // The others have come as far.
        training.loss().map(drop)
    };
    let seconds = rayon::scope(|_| -> residuum::Result<f64> {
        update(2)?;
        let began = Instant::now();
        update(flags.updates)?;
        Ok(began.elapsed().as_secs_f64())
    })?;
    if index == 0 {
        println!("{}", (flags.updates * flags.ranks * flags.batch) as f64 / seconds);
    }
    Ok(())
}
