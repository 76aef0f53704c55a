//! What ranks send each other, from the arena of each to the arenas of the others: from GPU to GPU where both the device and what
//! joins the ranks can, else through memory of the host.

use std::ops::Range;

use super::{Backend, Session};
use crate::device::Slot;
use crate::dist::Collective;
use crate::error::Result;
use crate::tensor::DType;

impl Session {
    /// Sends part r of the bytes at `from` to rank r, and puts what comes from rank r into part r of as many bytes from `to` on.
    ///
    /// # Errors
    /// What the collective reports, and [`crate::Error::Device`] if a copy fails.
    ///
    /// # Panics
    /// If a place is not of persistent values, or the two overlap.
    pub fn all_to_all(
        &mut self,
        collective: &mut dyn Collective,
        from: Range<usize>,
        to: usize,
    ) -> Result<()> {
        let to = to..to + from.len();
        self.check_exchange(&from, &to);
        if let Some((gpu, ranks)) = self.backend.gpu().zip(collective.communicator()) {
            return gpu.all_to_all(ranks, from, to.start);
        }
        self.exchange(from, to, |mine, received| collective.all_to_all(mine, received))
    }

    /// Puts what each rank has at `from` into the bytes from `to` on, in the order of ranks.
    ///
    /// # Errors
    /// As [`Session::all_to_all`].
    ///
    /// # Panics
    /// As [`Session::all_to_all`].
    pub fn all_gather(
        &mut self,
        collective: &mut dyn Collective,
        from: Range<usize>,
        to: usize,
    ) -> Result<()> {
        let to = to..to + from.len() * collective.rank().count;
        self.check_exchange(&from, &to);
        if let Some((gpu, ranks)) = self.backend.gpu().zip(collective.communicator()) {
            return gpu.all_gather(ranks, from, to.start);
        }
        self.exchange(from, to, |mine, received| collective.all_gather(mine, received))
    }

    fn check_exchange(&self, from: &Range<usize>, to: &Range<usize>) {
        assert!(from.end.max(to.end) <= self.program.persistent_bytes, "ranks exchange persistent values");
        assert!(from.end <= to.start || to.end <= from.start, "what is received lies beside what is sent");
    }

    /// Exchanges through memory of the host.
    fn exchange(
        &mut self,
        from: Range<usize>,
        to: Range<usize>,
        send: impl FnOnce(&[u8], &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        match &mut self.backend {
            Backend::Cpu { arena, .. } => {
                let slot = |bytes: &Range<usize>| Slot {
                    offset_bytes: bytes.start,
                    shape: [bytes.len()].into(),
                    dtype: DType::U8,
                };
                // SAFETY: `&mut self` rules out every other slice, and the two do not overlap, as just checked.
                let (mine, received) =
                    unsafe { (arena.slice::<u8>(&slot(&from)), arena.slice_mut::<u8>(&slot(&to))) };
                send(mine, received)
            }
            Backend::Kernels { device, .. } => {
                let [mine, received] = &mut self.staging;
                mine.resize(from.len(), 0);
                received.resize(to.len(), 0);
                device.download(from.start, mine)?;
                send(mine, received)?;
                device.upload(to.start, received)
            }
        }
    }
}
