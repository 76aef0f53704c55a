//! Runs over several processes, each with a device of its own: who they are, and how bytes get from one to another.
//!
//! What they send each other in a step, and what they make of it, is in `step/exchange.rs`.

mod env;
#[cfg(feature = "mpi")]
mod mpi;
mod nccl;
mod waiting;

use std::iter::StepBy;
use std::ops::Range;

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

/// Ranks that send each other something: so many of them, evenly spaced. Each rank is in one such group with every spacing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// How many there are.
    pub size: usize,
    /// From one to the next.
    pub stride: usize,
}

impl Group {
    /// All of so many ranks.
    pub fn all(count: usize) -> Group {
        Group { size: count, stride: 1 }
    }

    /// The ranks of the group that rank `index` is in, in order.
    pub fn members(self, index: usize) -> StepBy<Range<usize>> {
        let Group { size, stride } = self;
        let first = index - self.place(index) * stride;
        (first..first + size * stride).step_by(stride)
    }

    /// Which of its group rank `index` is, from 0.
    pub fn place(self, index: usize) -> usize {
        index / self.stride % self.size
    }
}

/// Moves bytes between the processes of a run. Every rank makes the same calls in the same order; each call returns when this
/// rank has what it receives.
pub trait Collective: Send {
    /// The process that this is.
    fn rank(&self) -> Rank;

    /// This process among those of its machine; it is alone on it where nobody says.
    fn local(&self) -> Rank {
        Rank::ALONE
    }

    /// Puts what each rank of this one's group gives as `mine`, of one length, into `all`, in the order of ranks.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] if a rank has left or does not come.
    fn all_gather_among(&mut self, group: Group, mine: &[u8], all: &mut [u8]) -> Result<()>;

    /// Sends part i of `to_each` to the i-th rank of this one's group, and puts what comes from it into part i of `from_each`; all
    /// parts are of one length.
    ///
    /// # Errors
    /// As [`Collective::all_gather_among`].
    fn all_to_all(&mut self, group: Group, to_each: &[u8], from_each: &mut [u8]) -> Result<()>;

    /// [`Collective::all_gather_among`] all ranks.
    ///
    /// # Errors
    /// As [`Collective::all_gather_among`].
    fn all_gather(&mut self, mine: &[u8], all: &mut [u8]) -> Result<()> {
        self.all_gather_among(Group::all(self.rank().count), mine, all)
    }

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

/// How many ranks each machine has: 1 unless all have as many, and those of a machine numbers in a row.
///
/// # Errors
/// As [`Collective::all_gather`].
pub(crate) fn ranks_per_node(collective: &mut dyn Collective) -> Result<usize> {
    let (count, local) = (collective.rank().count, collective.local());
    let own = [local.index, local.count].map(|number| number as u64);
    let mut all = vec![[0u64; 2]; count];
    collective.all_gather(bytemuck::bytes_of(&own), bytemuck::cast_slice_mut(&mut all))?;
    let of_node = all[0][1] as usize;
    let is_in_row = |(rank, place): (usize, &[u64; 2])| *place == [(rank % of_node) as u64, of_node as u64];
    let is_even = count.is_multiple_of(of_node) && all.iter().enumerate().all(is_in_row);
    Ok(if is_even { of_node } else { 1 })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_split_the_ranks() {
        let members = |group: Group, rank| group.members(rank).collect::<Vec<_>>();
        let (node, across) = (Group { size: 4, stride: 1 }, Group { size: 3, stride: 4 });
        for rank in 0..12 {
            for (group, first) in [(node, rank / 4 * 4), (across, rank % 4), (Group::all(12), 0)] {
                let members = members(group, rank);
                assert_eq!(
                    (members.len(), members[0], members[group.place(rank)]),
                    (group.size, first, rank)
                );
            }
        }
        assert_eq!(members(across, 6), [2, 6, 10]);
    }

    /// One of several ranks, which knows what all of them say.
    struct Told(Vec<Rank>);

    impl Collective for Told {
        fn rank(&self) -> Rank {
            Rank { index: 0, count: self.0.len() }
        }

        fn local(&self) -> Rank {
            self.0[0]
        }

        fn all_gather_among(&mut self, _: Group, mine: &[u8], all: &mut [u8]) -> Result<()> {
            for (all, local) in all.chunks_exact_mut(mine.len()).zip(&self.0) {
                all.copy_from_slice(bytemuck::bytes_of(&[local.index as u64, local.count as u64]));
            }
            Ok(())
        }

        fn all_to_all(&mut self, _: Group, _: &[u8], _: &mut [u8]) -> Result<()> {
            unreachable!("nothing is sent")
        }
    }

    #[test]
    fn machines_count_where_all_have_as_many_ranks_in_a_row() {
        let of_node = |counts: &[(usize, usize)]| {
            let told = counts.iter().map(|&(index, count)| Rank { index, count }).collect();
            ranks_per_node(&mut Told(told)).unwrap()
        };
        assert_eq!(of_node(&[(0, 2), (1, 2), (0, 2), (1, 2)]), 2);
        assert_eq!(of_node(&[(0, 2), (1, 2)]), 2);
        assert_eq!(of_node(&[(0, 1), (0, 1)]), 1);
        // In turn, and of unlike sizes.
        assert_eq!(of_node(&[(0, 2), (0, 2), (1, 2), (1, 2)]), 1);
        assert_eq!(of_node(&[(0, 2), (1, 2), (0, 1)]), 1);
    }
}
