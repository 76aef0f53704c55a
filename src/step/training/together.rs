//! What the ranks of a training have in common besides their steps.

use super::Training;
use crate::dist::Collective;
use crate::error::Result;
use crate::step::weights;

impl Training {
    /// The other ranks, where there are some, for what else they have to tell each other.
    pub fn collective(&mut self) -> Option<&mut dyn Collective> {
        match &mut self.ranks {
            Some(ranks) => Some(&mut *ranks.collective),
            None => None,
        }
    }

    /// Gives every rank the state of rank 0, after `num_updates` updates.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device refuses the copy, [`Error::Peer`](crate::Error::Peer) if another
    /// rank has left.
    pub fn share_state(&mut self, num_updates: u64) -> Result<()> {
        if let Some(ranks) = &mut self.ranks {
            weights::share_state(&mut self.session, &mut *ranks.collective)?;
            (self.num_updates, self.num_accumulated) = (num_updates, 0);
        }
        Ok(())
    }

    /// Compares checksums of what every rank keeps: weights, statistics and the state of the optimiser.
    ///
    /// # Errors
    /// [`Error::Replicas`](crate::Error::Replicas), on all ranks, naming those that differ and the first tensor in which they
    /// do; else as [`Training::share_state`].
    pub fn check_replicas(&mut self) -> Result<()> {
        match &mut self.ranks {
            Some(ranks) => weights::check_replicas(&self.session, &mut *ranks.collective),
            None => Ok(()),
        }
    }
}
