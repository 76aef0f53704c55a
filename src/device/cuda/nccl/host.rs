//! Bytes of the host, which go round through memory of the GPUs: what ranks tell each other besides gradients.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, result};

use super::{Communicator, Turn};
use crate::device::cuda::driver::failed;
use crate::device::cuda::memory::DeviceMemory;
use crate::error::Result;

/// What goes round at once of each rank.
const PART_BYTES: usize = 256 << 10;

/// A stream of its own, and room on the GPU for a part from and to each rank.
pub(super) struct HostBytes {
    sent: DeviceMemory,
    received: DeviceMemory,
    stream: Arc<CudaStream>,
}

impl HostBytes {
    pub(super) fn new(context: &Arc<CudaContext>, count: usize) -> Result<HostBytes> {
        let stream = context.new_stream().map_err(failed("creating a stream"))?;
        let room = || DeviceMemory::new(context, &stream, count * PART_BYTES);
        Ok(HostBytes { sent: room()?, received: room()?, stream })
    }

    /// Copies `bytes` to part `index` of what is sent.
    fn put(&self, index: usize, bytes: &[u8]) -> Result<()> {
        let to = self.sent.range(index * bytes.len(), bytes.len());
        // SAFETY: the range is allocated, and what is put is waited for before the bytes change.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }
            .map_err(failed("copying to the GPU"))
    }

    /// Copies part `index` of `from` to `bytes`, which are whole after [`HostBytes::finish`].
    fn take(&self, from: &DeviceMemory, index: usize, bytes: &mut [u8]) -> Result<()> {
        let from = from.range(index * bytes.len(), bytes.len());
        // SAFETY: the range is allocated, and the copy is waited for while the bytes are borrowed by the caller.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(failed("copying from the GPU"))
    }

    fn finish(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("an exchange"))
    }
}

/// These return when this rank has what it receives.
impl Communicator {
    /// As [`Collective::all_gather_among`](crate::dist::Collective::all_gather_among) `peers`.
    ///
    /// # Errors
    /// As [`Communicator::check`].
    pub fn all_gather_bytes(
        &self,
        peers: impl ExactSizeIterator<Item = usize> + Clone,
        mine: &[u8],
        all: &mut [u8],
    ) -> Result<()> {
        assert_eq!(all.len(), mine.len() * peers.len(), "as much from each rank");
        let turn = self.turn();
        let host = turn.host()?;
        for (number, part) in mine.chunks(PART_BYTES).enumerate() {
            host.put(0, part)?;
            // SAFETY: there is room for a part of each rank, and this waits for the work.
            unsafe {
                let row = (host.sent.address(), host.received.address());
                turn.all_gather(peers.clone(), [row], part.len(), &host.stream)?;
            }
            for (rank, all) in all.chunks_exact_mut(mine.len()).enumerate() {
                host.take(&host.received, rank, &mut all[number * PART_BYTES..][..part.len()])?;
            }
            host.finish()?;
        }
        Ok(())
    }

    /// As [`Collective::all_to_all`](crate::dist::Collective::all_to_all) among `peers`.
    ///
    /// # Errors
    /// As [`Communicator::check`].
    pub fn all_to_all_bytes(
        &self,
        peers: impl ExactSizeIterator<Item = usize> + Clone,
        to_each: &[u8],
        from_each: &mut [u8],
    ) -> Result<()> {
        assert_eq!(to_each.len(), from_each.len(), "as much from each rank as to it");
        assert!(to_each.len().is_multiple_of(peers.len()), "as much to each rank");
        let len_bytes = to_each.len() / peers.len();
        let turn = self.turn();
        let host = turn.host()?;
        for start in (0..len_bytes).step_by(PART_BYTES) {
            let part = start..len_bytes.min(start + PART_BYTES);
            for (rank, bytes) in to_each.chunks_exact(len_bytes).enumerate() {
                host.put(rank, &bytes[part.clone()])?;
            }
            // SAFETY: there is room for a part of each rank, and this waits for the work.
            unsafe {
                let (sent, received) = (host.sent.address(), host.received.address());
                turn.all_to_all(peers.clone(), sent, received, part.len(), &host.stream)?;
            }
            for (rank, bytes) in from_each.chunks_exact_mut(len_bytes).enumerate() {
                host.take(&host.received, rank, &mut bytes[part.clone()])?;
            }
            host.finish()?;
        }
        Ok(())
    }

    /// As [`Collective::broadcast`](crate::dist::Collective::broadcast).
    ///
    /// # Errors
    /// As [`Communicator::check`].
    pub fn broadcast_bytes(&self, bytes: &mut [u8]) -> Result<()> {
        let turn = self.turn();
        let host = turn.host()?;
        for part in bytes.chunks_mut(PART_BYTES) {
            host.put(0, part)?;
            // SAFETY: there is room for a part, and this waits for the work.
            unsafe { turn.broadcast(host.sent.address(), part.len(), &host.stream)? };
            host.take(&host.sent, 0, part)?;
            host.finish()?;
        }
        Ok(())
    }
}

impl Turn<'_> {
    /// What carries bytes of the host, with the GPU made that of the calling thread.
    fn host(&self) -> Result<&HostBytes> {
        self.shared.context.bind_to_thread().map_err(failed("an exchange"))?;
        Ok(&self.host)
    }
}
