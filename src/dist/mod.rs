//! Runs over several processes, each with a device of its own: who they are, and how bytes get from one to another.
//!
//! What they send each other in a step, and what they make of it, is in `step/exchange.rs`.

mod env;
#[cfg(feature = "mpi")]
mod mpi;
mod nccl;
mod waiting;

pub use env::{Launcher, World};

#[cfg(feature = "mpi")]
pub use self::mpi::MpiRanks;
pub use self::nccl::NcclRanks;
use crate::device::cuda::Communicator;
use crate::error::Result;

/// Which of the processes of a run this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Its number, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Rank {
    /// A process without others.
    pub const ALONE: Rank = Rank { index: 0, count: 1 };
}

/// Moves bytes between the processes of a run. Every rank makes the same calls in the same order; each call returns when this
/// rank has what it receives.
pub trait Collective: Send {
    /// The process that this is.
    fn rank(&self) -> Rank;

    /// Puts what each rank gives as `mine`, of one length, into `all`, in the order of ranks.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] if a rank has left or does not come.
    fn all_gather(&mut self, mine: &[u8], all: &mut [u8]) -> Result<()>;

    /// Sends part r of `to_each` to rank r, and puts what comes from rank r into part r of `from_each`; all parts are of one
    /// length.
    ///
    /// # Errors
    /// As [`Collective::all_gather`].
    fn all_to_all(&mut self, to_each: &[u8], from_each: &mut [u8]) -> Result<()>;

    /// What moves bytes between the memories of GPUs, where ranks are joined so.
    fn communicator(&self) -> Option<&Communicator> {
        None
    }

    /// Puts what rank 0 has in `bytes` into those of every rank, which are of one length.
    ///
    /// # Errors
    /// As [`Collective::all_gather`].
    fn broadcast(&mut self, bytes: &mut [u8]) -> Result<()> {
        let count = self.rank().count;
        let mut all = vec![0; count * bytes.len().min(PART_BYTES)];
        for part in bytes.chunks_mut(PART_BYTES) {
            let all = &mut all[..count * part.len()];
            self.all_gather(part, all)?;
            part.copy_from_slice(&all[..part.len()]);
        }
        Ok(())
    }
}

/// What goes round at once where a broadcast is a gathering: every rank has room for as much of each.
const PART_BYTES: usize = 1 << 20;

/// What rank 0 gives as `bytes`, of a length that the others need not know.
///
/// # Errors
/// As [`Collective::all_gather`].
pub(crate) fn share(collective: &mut dyn Collective, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut length = (bytes.len() as u64).to_le_bytes();
    collective.broadcast(&mut length)?;
    bytes.resize(u64::from_le_bytes(length) as usize, 0);
    collective.broadcast(&mut bytes)?;
    Ok(bytes)
}
