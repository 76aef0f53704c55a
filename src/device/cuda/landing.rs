//! Large copies to the GPU while its kernels run: on a stream of their own to memory of their own, and from there, in order with
//! the launches, to their places.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};

use super::driver::failed;
use super::memory::DeviceMemory;
use super::staging::Pieces;
use crate::error::Result;

/// Uploads of at least so many bytes land here first. A batch of pixels takes as long as many kernels; what is smaller is
/// copied in less time than a second copy costs.
pub(super) const LEAST_BYTES: usize = 1 << 20;

/// Memory on the GPU that copies reach before the launches before them are done.
#[derive(Debug)]
pub(super) struct Landing {
    memory: DeviceMemory,
    /// Parts of the memory, each with the event behind the copy that takes it on.
    pieces: Pieces<CudaEvent>,
    /// Events of pieces that have been taken on.
    spare: Vec<CudaEvent>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

impl Landing {
    /// For uploads of up to `num_bytes`: one lands while the one before it is taken on.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the memory is not there, [`crate::Error::Device`] if the GPU failed.
    pub(super) fn new(context: &Arc<CudaContext>, num_bytes: usize) -> Result<Landing> {
        let stream = context.new_stream().map_err(failed("creating a stream"))?;
        let memory = DeviceMemory::new(context, &stream, 2 * num_bytes)?;
        let (pieces, spare) = (Pieces::default(), Vec::new());
        Ok(Landing { memory, pieces, spare, stream, context: Arc::clone(context) })
    }

    /// Whether an upload of `num_bytes` and the one after it have room.
    pub(super) fn has_room_for(&self, num_bytes: usize) -> bool {
        2 * num_bytes <= self.memory.num_bytes()
    }

    /// Copies `piece` to `address`, in order with the work on `stream`; `sent` marks when it has left the host.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the GPU failed.
    ///
    /// # Safety
    /// `piece` is page-locked and stays as it is until `sent` has come; the range at `address` is allocated, and stays so until
    /// the work is done.
    pub(super) unsafe fn upload(
        &mut self,
        address: u64,
        piece: &[u8],
        sent: &CudaEvent,
        stream: &CudaStream,
    ) -> Result<()> {
        let action = || failed("copying to the GPU");
        let offset = loop {
            match self.pieces.place(piece.len(), self.memory.num_bytes()) {
                Some(offset) => break offset,
                None => {
                    let taken = self.pieces.pop().expect("an empty ring has room for half of it");
                    self.stream.wait(&taken).map_err(action())?;
                    self.spare.push(taken);
                }
            }
        };
        let landing = self.memory.range(offset, piece.len());
        // SAFETY: what was there has been taken on before the stream comes to this copy, and `piece` is the caller's promise.
        unsafe { result::memcpy_htod_async(landing, piece, self.stream.cu_stream()) }.map_err(action())?;
        sent.record(&self.stream).map_err(action())?;
        stream.wait(sent).map_err(action())?;
        // SAFETY: the bytes have landed before the stream comes to this copy, and stay until it is done; `address` is the
        // caller's promise.
        unsafe { result::memcpy_dtod_async(address, landing, piece.len(), stream.cu_stream()) }
            .map_err(action())?;
        let taken = match self.spare.pop() {
            Some(event) => event,
            None => self.context.new_event(None).map_err(failed("creating an event"))?,
        };
        taken.record(stream).map_err(action())?;
        self.pieces.push(offset, piece.len(), taken);
        Ok(())
    }
}
