//! Ranks that MPI joins, for CPUs and the emulator: `mpirun -n 4 PROGRAM`. With the feature `mpi`, which links the MPI library of
//! the system.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::request::{Request, Scope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Root, Source};

use super::waiting::{end_without_them, tell_of_waiting};
use super::{Collective, Group, Rank};
use crate::error::{Error, Result};

/// How long a rank that waits asks again and again before it sleeps in between: a rank with as much to do comes by then.
const BUSY: Duration = Duration::from_millis(2);
/// How long it sleeps.
const PAUSE: Duration = Duration::from_micros(50);
/// Bytes of a broadcast that go at once.
const PART_BYTES: usize = 1 << 30;

/// The ranks that mpirun started, or srun with PMI.
///
/// A rank that fails has to say so by [`MpiRanks::abort`], or the others wait for it; one that panics does. Clones are the same
/// rank; the process has left the others when the last of them is dropped.
#[derive(Clone)]
pub struct MpiRanks {
    universe: Arc<Universe>,
    rank: Rank,
    local: Rank,
    timeout: Duration,
    /// Exchanges so far, for messages.
    num_exchanges: Arc<AtomicU64>,
}

impl MpiRanks {
    /// Joins the others, once for the process. A rank that waits for them for longer than `timeout` ends all of them.
    ///
    /// # Errors
    /// [`Error::Usage`] if the process has joined before, or its MPI serves no program with threads.
    pub fn join(timeout: Duration) -> Result<MpiRanks> {
        let all_have_come = end_without_them(timeout);
        let joined = mpi::initialize_with_threading(Threading::Serialized);
        let (universe, threading) =
            joined.ok_or_else(|| Error::Usage("this process has joined its ranks before".into()))?;
        if threading < Threading::Serialized {
            let what = "this MPI serves no program with threads; take a build of it that does (MPI_THREAD_SERIALIZED)";
            return Err(Error::Usage(what.into()));
        }
        let rank_in =
            |ranks: SimpleCommunicator| Rank { index: ranks.rank() as usize, count: ranks.size() as usize };
        let world = universe.world();
        let local = rank_in(world.split_shared(world.rank()));
        drop(all_have_come);
        let rank = rank_in(world);
        Ok(MpiRanks { universe: Arc::new(universe), rank, local, timeout, num_exchanges: Arc::default() })
    }

    /// Ends all ranks with exit code `code`, this one first.
    pub fn abort(&self, code: u8) -> ! {
        self.universe.world().abort(code.into())
    }

    /// Sends each rank of this one's group its part, and receives one of each. MPI has this for all ranks; for some it wants a
    /// communicator of theirs, which it makes by a call without a deadline.
    fn with_each<'a>(&self, group: Group, sent: impl Iterator<Item = &'a [u8]>, received: &mut [u8]) {
        let world = self.universe.world();
        let part_bytes = received.len() / group.size;
        scope(|scope| {
            let members = group.members(self.rank.index).map(|rank| world.process_at_rank(rank as i32));
            let parts = received.chunks_exact_mut(part_bytes);
            let receives: Vec<_> = members
                .clone()
                .zip(parts)
                .map(|(from, part)| from.immediate_receive_into(scope, part))
                .collect();
            let sends: Vec<_> = members.zip(sent).map(|(to, part)| to.immediate_send(scope, part)).collect();
            let number = self.num_exchanges.fetch_add(1, Ordering::Relaxed) + 1;
            receives.into_iter().for_each(|request| self.finish_part(number, request));
            sends.into_iter().for_each(|request| self.finish_part(number, request));
        });
    }

    /// Waits for what `request` receives, and if that does not come, ends all ranks with a word.
    fn finish<'a, D: ?Sized, S: Scope<'a>>(&self, request: Request<'a, D, S>) {
        let number = self.num_exchanges.fetch_add(1, Ordering::Relaxed) + 1;
        self.finish_part(number, request);
    }

    /// [`MpiRanks::finish`] of exchange `number`, which has several requests.
    fn finish_part<'a, D: ?Sized, S: Scope<'a>>(&self, number: u64, mut request: Request<'a, D, S>) {
        let start = Instant::now();
        while let Err(unfinished) = request.test() {
            request = unfinished;
            let waited = start.elapsed();
            if waited > self.timeout {
                let exchange = format!("exchange {number}");
                self.abort(tell_of_waiting(format_args!("rank {}", self.rank), self.timeout, &exchange));
            }
            if waited < BUSY { thread::yield_now() } else { thread::sleep(PAUSE) }
        }
    }
}

impl Drop for MpiRanks {
    fn drop(&mut self) {
        if thread::panicking() {
            self.abort(101);
        }
    }
}

/// Fails on more bytes than MPI counts.
fn check_bytes(num_bytes: usize) -> Result<()> {
    match i32::try_from(num_bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::does_not_fit(format!(
            "MPI sends less than 2 GiB at once, and this takes {num_bytes} bytes for each rank; take more ranks"
        ))),
    }
}

impl Collective for MpiRanks {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn local(&self) -> Rank {
        self.local
    }

    fn all_gather_among(&mut self, group: Group, mine: &[u8], all: &mut [u8]) -> Result<()> {
        assert_eq!(all.len(), mine.len() * group.size, "as much from each rank");
        check_bytes(all.len())?;
        if all.is_empty() {
            // The address of an empty slice may be the one that has a meaning of its own to MPI (MPI_IN_PLACE).
            return Ok(());
        }
        if group.size < self.rank.count {
            self.with_each(group, iter::repeat(mine), all);
            return Ok(());
        }
        let world = self.universe.world();
        scope(|scope| self.finish(world.immediate_all_gather_into(scope, mine, all)));
        Ok(())
    }

    fn all_to_all(&mut self, group: Group, to_each: &[u8], from_each: &mut [u8]) -> Result<()> {
        assert_eq!(to_each.len(), from_each.len(), "as much from each rank as to it");
        assert!(to_each.len().is_multiple_of(group.size), "as much to each rank");
        check_bytes(to_each.len())?;
        if to_each.is_empty() {
            return Ok(());
        }
        if group.size < self.rank.count {
            self.with_each(group, to_each.chunks_exact(to_each.len() / group.size), from_each);
            return Ok(());
        }
        let world = self.universe.world();
        scope(|scope| self.finish(world.immediate_all_to_all_into(scope, to_each, from_each)));
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut [u8]) -> Result<()> {
        let world = self.universe.world();
        let first = world.process_at_rank(0);
        for part in bytes.chunks_mut(PART_BYTES) {
            scope(|scope| self.finish(first.immediate_broadcast_into(scope, part)));
        }
        Ok(())
    }
}
