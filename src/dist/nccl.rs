//! Ranks that NCCL joins, one on each GPU, whoever started them.

use std::env;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::waiting::{end_without_them, leave, tell_of_waiting};
use super::{Collective, Group, Rank, World};
use crate::device::cuda::Communicator;
use crate::error::{Error, Result};
use crate::show::tell_error;

/// Where NCCL reads in every process that rank 0 waits for the others.
const MEETING_PLACE: &str = "NCCL_COMM_ID";
/// How often it is looked whether a rank is missing.
const LOOK: Duration = Duration::from_millis(100);

/// The ranks of a run, joined by GPUs.
///
/// A rank that fails has to leave by [`NcclRanks::abort`], or its end may wait for the others; one that panics does. Clones are
/// the same rank.
#[derive(Clone)]
pub struct NcclRanks {
    communicator: Communicator,
    local: Rank,
    _watchdog: Arc<Watchdog>,
}

impl NcclRanks {
    /// Joins the others by `cuda:<ordinal>`, once for the process and before it has started threads. A rank that waits for them for
    /// longer than `timeout`, now or later, ends with exit code 7, and so does one that sees another leave.
    ///
    /// # Errors
    /// [`Error::Usage`] if the launcher does not say where they meet, [`Error::Device`] if there is no GPU or no NCCL.
    pub fn join(world: &World, ordinal: usize, timeout: Duration) -> Result<NcclRanks> {
        if env::var_os(MEETING_PLACE).is_none() {
            let place = world.meeting_place(|name| env::var(name).ok())?;
            // SAFETY: this is the only thread of the program so far, and the driver, which may have some, has read its variables
            // when it started.
            unsafe { env::set_var(MEETING_PLACE, place.to_string()) };
        }
        let Rank { index, count } = world.rank;
        let all_have_come = end_without_them(timeout);
        let communicator = Communicator::join(ordinal, index, count);
        drop(all_have_come);
        let communicator = communicator?;
        let watchdog = Watchdog::of(communicator.clone(), timeout);
        Ok(NcclRanks { communicator, local: world.local, _watchdog: Arc::new(watchdog) })
    }

    /// Ends this process with exit code `code` at once. The launcher ends the others, or they see it by their deadline.
    pub fn abort(&self, code: u8) -> ! {
        leave(code)
    }
}

/// A thread that ends the process where a rank is missing: the GPU's work waits for it for ever.
struct Watchdog {
    /// Dropped when there is nothing to watch any more.
    watched: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn of(communicator: Communicator, timeout: Duration) -> Watchdog {
        let (watched, parted) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            while parted.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                look(&communicator, timeout);
            }
        });
        Watchdog { watched: Some(watched), thread: Some(thread) }
    }
}

/// Ends the process if a rank is missing.
fn look(communicator: &Communicator, timeout: Duration) {
    let rank = Rank { index: communicator.rank(), count: communicator.count() };
    match communicator.check().and_then(|()| communicator.oldest()) {
        Ok(Some((number, waited))) if waited > timeout => {
            leave(tell_of_waiting(format_args!("rank {rank}"), timeout, &format!("exchange {number}")));
        }
        Ok(_) => {}
        // The thread that trains sees a failure of this GPU, too, and says more of it; that another rank is gone it may never see.
        Err(error @ Error::Peer(_)) => {
            tell_error(format_args!("error: rank {rank}: {error}"));
            leave(error.exit_code());
        }
        Err(_) => {}
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if thread::panicking() {
            leave(PANICKED);
        }
        drop(self.watched.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Rust's exit code of a process that has panicked.
const PANICKED: u8 = 101;

impl Collective for NcclRanks {
    fn rank(&self) -> Rank {
        Rank { index: self.communicator.rank(), count: self.communicator.count() }
    }

    fn local(&self) -> Rank {
        self.local
    }

    fn communicator(&self) -> Option<&Communicator> {
        Some(&self.communicator)
    }

    fn all_gather_among(&mut self, group: Group, mine: &[u8], all: &mut [u8]) -> Result<()> {
        self.communicator.all_gather_bytes(group.members(self.communicator.rank()), mine, all)
    }

    fn all_to_all(&mut self, group: Group, to_each: &[u8], from_each: &mut [u8]) -> Result<()> {
        self.communicator.all_to_all_bytes(group.members(self.communicator.rank()), to_each, from_each)
    }

    fn broadcast(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.communicator.broadcast_bytes(bytes)
    }
}
