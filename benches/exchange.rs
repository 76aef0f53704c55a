//! Time of an exchange of a network's gradients between processes, beside MPI's own sum of as many numbers, in turn in one run:
//! `cargo bench --features mpi --bench exchange`, where Open MPI is installed.
//!
//! The exchange is the one of a training step on CPUs: to each rank its share, sums in the order of ranks, shares of the sum to
//! all; without the statistics of batch norms. MPI adds in an order of its own.

#[path = "common/mpirun.rs"]
mod mpirun;
#[path = "common/outcome.rs"]
mod outcome;

use std::process::exit;
use std::time::{Duration, Instant};
use std::{env, iter};

use clap::Parser;
use mpi::collective::SystemOperation;
use mpi::traits::CommunicatorCollectives;
use outcome::{end, median_and_spread};
use residuum::device::{Device, DeviceKind};
use residuum::dist::{Collective, Group, MpiRanks, World};
use residuum::exec::{Session, Start};
use residuum::models::{Model, Options};
use residuum::step::{StepConfig, program};

/// As of the paper's data set.
const CLASSES: usize = 100;

#[derive(Debug, Parser)]
struct Flags {
    /// Processes on this machine
    #[arg(long, value_name = "N", default_value_t = 2)]
    ranks: usize,
    /// How often each is timed
    #[arg(long, value_name = "N", default_value_t = 15)]
    rounds: usize,
    /// Networks whose gradients are exchanged
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "resnet18,resnet50")]
    models: Vec<String>,
    /// Has ranks of one machine speak through its network, not through its memory
    #[arg(long)]
    tcp: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let flags = Flags::parse();
    if World::from_env().unwrap_or_else(|error| end(&error)).is_none() {
        start(&flags);
    }
    let mut ranks = MpiRanks::join(Duration::from_secs(60)).unwrap_or_else(|error| end(&error));
    for model in &flags.models {
        time(&mut ranks, model, flags.rounds);
    }
}

/// Starts this program once more as each of the ranks, and ends with them.
fn start(flags: &Flags) -> ! {
    let mut mpirun = mpirun::mpirun(flags.ranks);
    if flags.tcp {
        mpirun.args(["--mca", "btl", "tcp,self"]);
    }
    let this = env::current_exe().expect("the system knows where this program is");
    match mpirun.arg(this).args(env::args_os().skip(1)).status() {
        Ok(status) => exit(status.code().unwrap_or(1)),
        Err(error) => mpirun::end_without(&error),
    }
}

/// Times both ways for the gradients of `model`, and has rank 0 print a line.
fn time(ranks: &mut MpiRanks, model: &str, rounds: usize) {
    let count = ranks.rank().count;
    let model_of_classes = Model::new(model, Options::new(CLASSES)).unwrap_or_else(|error| end(&error));
    let config =
        StepConfig { num_ranks: count, bucket_bytes: usize::MAX, ..StepConfig::new(model_of_classes, 2, 32) };
    let program = program(&config, DeviceKind::Cpu).unwrap_or_else(|error| end(&error));
    let place = |name: &str| program.persistent(name).expect("a step with ranks has it").slot;
    let (received, sum) = (place("exchange.0.received"), place("exchange.0.sum"));
    let gradients = received.offset_bytes - received.num_bytes()..received.offset_bytes;
    let mut session = Session::open(program, Device::Cpu, Start::Seed(0)).unwrap_or_else(|error| end(&error));
    let mut exchange = |ranks: &mut MpiRanks| {
        let all = Group::all(count);
        session.all_to_all(ranks, all, gradients.clone(), received.offset_bytes)?;
        session.run_exchange(0, ranks)?;
        session.all_gather(ranks, all, sum.offset_bytes..sum.offset_bytes + sum.num_bytes(), gradients.start)
    };

    let world = mpi::topology::SimpleCommunicator::world();
    let mine = vec![1.0f32; gradients.len() / size_of::<f32>()];
    let mut all = vec![0.0f32; mine.len()];
    let mut times = [Vec::new(), Vec::new()];
    // The first round has the pages of all buffers brought in.
    for round in 0..=rounds {
        let timed = |work: &mut dyn FnMut()| {
            world.barrier();
            let began = Instant::now();
            work();
            world.barrier();
            began.elapsed().as_secs_f64() * 1e3
        };
        let ours = timed(&mut || exchange(ranks).unwrap_or_else(|error| end(&error)));
        let theirs = timed(&mut || world.all_reduce_into(&mine[..], &mut all[..], SystemOperation::sum()));
        if round > 0 {
            iter::zip(&mut times, [ours, theirs]).for_each(|(times, time)| times.push(time));
        }
    }
    if ranks.rank().index == 0 {
        let [ours, theirs] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            median_and_spread(&times)
        });
        println!(
            "{model}, {:.1} MB, {count} ranks: exchange {:.1} ms (spread {:.2}), MPI_Allreduce {:.1} ms (spread {:.2}), ratio {:.2}",
            gradients.len() as f64 / 1e6,
            ours.0,
            ours.1,
            theirs.0,
            theirs.1,
            ours.0 / theirs.0
        );
    }
}
