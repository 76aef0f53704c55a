//! A run over the processes that a launcher started: how they meet, how many threads each has, and how they end.

use std::time::Duration;
use std::{env, fs, process, thread};

use super::{Failure, OnRank, TrainArgs};
use crate::cli;
use crate::device::cuda::Driver;
use crate::device::{Device, DeviceChoice};
#[cfg(feature = "mpi")]
use crate::dist::MpiRanks;
use crate::dist::{Collective, NcclRanks, Rank, World};
use crate::error::{Error, Result};
use crate::show::be_silent;

/// What has joined the processes of a run.
trait Joined {
    /// This process among them.
    fn collective(&self) -> Box<dyn Collective>;

    /// Ends all of them with exit code `code`.
    fn abort(&self, code: u8) -> !;
}

#[cfg(feature = "mpi")]
impl Joined for MpiRanks {
    fn collective(&self) -> Box<dyn Collective> {
        Box::new(self.clone())
    }

    fn abort(&self, code: u8) -> ! {
        MpiRanks::abort(self, code)
    }
}

impl Joined for NcclRanks {
    fn collective(&self) -> Box<dyn Collective> {
        Box::new(self.clone())
    }

    fn abort(&self, code: u8) -> ! {
        NcclRanks::abort(self, code)
    }
}

/// Joins this process with the others: by its GPU, or by MPI where it has none.
fn join(world: &World, device: DeviceChoice, timeout: Duration) -> Result<Box<dyn Joined>> {
    match gpu_of(device, world.local) {
        Some(ordinal) => Ok(Box::new(NcclRanks::join(world, ordinal, timeout)?)),
        None => join_without_gpus(world, timeout),
    }
}

#[cfg(feature = "mpi")]
fn join_without_gpus(_: &World, timeout: Duration) -> Result<Box<dyn Joined>> {
    Ok(Box::new(MpiRanks::join(timeout)?))
}

/// Fails: each process would train a run of its own.
#[cfg(not(feature = "mpi"))]
fn join_without_gpus(World { launcher, rank, .. }: &World, _: Duration) -> Result<Box<dyn Joined>> {
    Err(Error::Usage(format!(
        "{launcher} has started this as process {rank}, and there is no GPU to join it with the others by. Ranks on CPUs are joined \
         by MPI: build with --features mpi and start them with mpirun; or start one process, or give --no-dist where runs of their \
         own are meant"
    )))
}

/// The GPU of this process, where it is to have one: of those that it sees, the one of its number among the processes of its machine,
/// unless a launcher shows each of them one alone.
pub(super) fn gpu_of(device: DeviceChoice, local: Rank) -> Option<usize> {
    let ordinal = match device {
        DeviceChoice::Cpu | DeviceChoice::Simt => return None,
        DeviceChoice::Cuda(ordinal) => ordinal,
        DeviceChoice::Auto => match device.open() {
            Ok((Device::Cuda(ordinal), _)) => ordinal,
            _ => return None,
        },
    };
    let sees_one = Driver::start().and_then(|driver| driver.gpus()).is_ok_and(|gpus| gpus.len() == 1);
    Some(if ordinal == 0 && !sees_one { local.index } else { ordinal })
}

/// Trains as one of several processes.
pub(super) fn run(args: &TrainArgs, world: World) -> Result<()> {
    let World { launcher, rank, local } = world;
    let joined = join(&world, args.device(), args.timeout())?;
    let mut last_word = joined.collective();
    if last_word.rank() != rank {
        return Err(Error::Usage(format!(
            "{launcher} has started this as process {rank}, and MPI has joined it as {}: start it with the mpirun of the MPI \
             that it is built with, or give --no-dist where runs of their own are meant",
            last_word.rank()
        )));
    }
    if rank.index > 0 {
        be_silent();
    }
    let on_rank = OnRank { collective: joined.collective(), local };
    let ended = share_threads(local).map_err(Failure::from).and_then(|()| args.train(Some(on_rank)));
    if let Err(Failure { error, is_everywhere: false }) = &ended {
        let who = if rank.index > 0 { format!("rank {rank}: ") } else { String::new() };
        cli::say_error(&who, error);
        joined.abort(error.exit_code());
    }
    if let Err(Failure { error, .. }) = &ended
        && rank.index == 0
    {
        cli::say_error("", error);
    }
    // Launchers end all processes when one has ended with a code: none does before the first has written and said all. And
    // MPI waits without a deadline for those that have not ended.
    last_word.all_gather(&[0], &mut vec![0; rank.count])?;
    drop((joined, last_word));
    match ended {
        Ok(()) => Ok(()),
        Err(Failure { error, .. }) => process::exit(error.exit_code().into()),
    }
}

/// Gives this process its share of the machine's cores, unless RAYON_NUM_THREADS says how many it has.
fn share_threads(local: Rank) -> Result<()> {
    if env::var_os("RAYON_NUM_THREADS").is_some_and(|count| !count.is_empty()) {
        return Ok(());
    }
    let usable = thread::available_parallelism().map_or(1, usize::from);
    let count = threads_of(local.count, usable, cores_of_machine().unwrap_or(usable));
    let built = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
    built.map_err(|error| Error::Usage(format!("cannot start {count} threads: {error}")))
}

/// Threads of each of `num_local` processes on a machine with so many cores, of which this one may use some: those alone that a
/// launcher has bound it to, or else its share.
fn threads_of(num_local: usize, usable: usize, cores: usize) -> usize {
    let share = if usable < cores { cores } else { usable } / num_local;
    share.min(usable).max(1)
}

/// Cores that the machine has, whether this process may use them or not; known on Linux alone.
fn cores_of_machine() -> Option<usize> {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?)
    });
    ranges.sum()
}

#[cfg(test)]
mod tests {
    use super::threads_of;

    #[test]
    fn processes_of_a_machine_share_its_cores() {
        assert_eq!(threads_of(1, 8, 8), 8);
        assert_eq!(threads_of(4, 8, 8), 2);
        assert_eq!(threads_of(16, 8, 8), 1);
        // Bound to a core, and to the socket that it shares with another.
        assert_eq!(threads_of(4, 1, 8), 1);
        assert_eq!(threads_of(4, 4, 8), 2);
    }
}
