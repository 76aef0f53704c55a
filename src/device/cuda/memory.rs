//! Memory on the GPU, and page-locked memory that copies to it pass through.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use super::driver::failed;
use crate::error::{Error, Result};
use crate::show::show_bytes;

/// One allocation on the GPU.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    address: sys::CUdeviceptr,
    num_bytes: usize,
    context: Arc<CudaContext>,
}

impl DeviceMemory {
    /// Allocates, zeroed by work on `stream`.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] saying how much there is.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        num_bytes: usize,
    ) -> Result<DeviceMemory> {
        let (free, total) = context.mem_get_info().map_err(failed("asking for free memory"))?;
        // The driver refuses an allocation of nothing.
        // SAFETY: the context is current (asked for above), and what is allocated is zeroed before it is read.
        let address = unsafe { result::malloc_sync(num_bytes.max(1)) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                does_not_fit(context.ordinal(), num_bytes, free, total)
            }
            _ => failed(format!("allocating {}", show_bytes(num_bytes)))(error),
        })?;
        let memory = DeviceMemory { address, num_bytes, context: Arc::clone(context) };
        // SAFETY: the range is the allocation, which outlives the work: freeing it waits for the device.
        unsafe { result::memset_d8_async(address, 0, num_bytes.max(1), stream.cu_stream()) }
            .map_err(failed("clearing memory"))?;
        Ok(memory)
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// Address of `len_bytes` at `offset_bytes`.
    ///
    /// # Panics
    /// If they are not all inside.
    pub(super) fn range(&self, offset_bytes: usize, len_bytes: usize) -> u64 {
        let end = offset_bytes.checked_add(len_bytes);
        assert!(
            end.is_some_and(|end| end <= self.num_bytes),
            "{len_bytes} bytes at {offset_bytes} lie outside the {} of the arena",
            self.num_bytes
        );
        self.address + offset_bytes as u64
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once; the driver waits for work that may use it. A failure here follows
        // one that has already been reported.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::free_sync(self.address) });
    }
}

fn does_not_fit(ordinal: usize, num_bytes: usize, free: usize, total: usize) -> Error {
    let message = format!(
        "the plan needs {}, but cuda:{ordinal} has {} free of {}; end other programs that use this GPU, or take a smaller \
         batch",
        show_bytes(num_bytes),
        show_bytes(free),
        show_bytes(total)
    );
    Error::DoesNotFit { message, free_bytes: Some(free.saturating_sub(BESIDE_ARENA_BYTES)) }
}

/// Left for kernels and captured steps when a batch that fits is looked for.
const BESIDE_ARENA_BYTES: usize = 256 << 20;

/// Two page-locked buffers in turn: while the GPU fetches one, the host fills the other.
#[derive(Debug)]
pub(super) struct Staging {
    buffers: [Pinned; 2],
    next: usize,
}

/// What a buffer has at first.
const STAGING_BYTES: usize = 8 << 20;

/// What it grows to at most. The images of a batch should go in one piece, so that the host copies them while the GPU still
/// works on the batch before.
const MAX_STAGING_BYTES: usize = 256 << 20;

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Staging> {
        let buffer = || Pinned::new(context, STAGING_BYTES).map_err(failed("allocating page-locked memory"));
        Ok(Staging { buffers: [buffer()?, buffer()?], next: 0 })
    }

    /// Copies `bytes` to `address` as work on `stream`; they may change once this returns.
    ///
    /// # Safety
    /// The range at `address` is allocated, and stays so until the work is done.
    pub(super) unsafe fn upload(&mut self, address: u64, bytes: &[u8], stream: &CudaStream) -> Result<()> {
        for (index, chunk) in bytes.chunks(MAX_STAGING_BYTES).enumerate() {
            let buffer = &mut self.buffers[self.next];
            self.next = 1 - self.next;
            let to = address + (index * MAX_STAGING_BYTES) as u64;
            // SAFETY: the caller vouches for the range.
            unsafe { buffer.send(to, chunk, stream) }.map_err(failed("copying to the GPU"))?;
        }
        Ok(())
    }
}

/// Page-locked memory that small results are copied to while the host goes on.
#[derive(Debug)]
pub(super) struct Readbacks {
    address: *mut u8,
    num_bytes: usize,
    used_bytes: usize,
    context: Arc<CudaContext>,
}

/// A thousand steps and more of a loss and its counts.
const NOTEPAD_BYTES: usize = 64 << 10;

impl Readbacks {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Readbacks> {
        let action = "allocating page-locked memory";
        context.bind_to_thread().map_err(failed(action))?;
        // SAFETY: only what copies have written is read.
        let address = unsafe { result::malloc_host(NOTEPAD_BYTES, 0) }.map_err(failed(action))?.cast();
        Ok(Readbacks { address, num_bytes: NOTEPAD_BYTES, used_bytes: 0, context: Arc::clone(context) })
    }

    pub(super) fn free_bytes(&self) -> usize {
        self.num_bytes - self.used_bytes
    }

    /// Appends `num_bytes` at `from` as work on `stream`.
    ///
    /// # Safety
    /// The range at `from` is allocated, it and the readbacks stay so until the work is done, and the context is current.
    ///
    /// # Panics
    /// If there is no room.
    pub(super) unsafe fn write(&mut self, from: u64, num_bytes: usize, stream: &CudaStream) -> Result<()> {
        assert!(num_bytes <= self.free_bytes(), "{num_bytes} bytes are more than a readbacks takes");
        // SAFETY: the room is there (asserted) and no other copy writes it; the caller vouches for the rest.
        unsafe {
            let to = self.address.add(self.used_bytes).cast();
            sys::cuMemcpyDtoHAsync_v2(to, from, num_bytes, stream.cu_stream())
        }
        .result()
        .map_err(failed("copying from the GPU"))?;
        self.used_bytes += num_bytes;
        Ok(())
    }

    /// What was written; the next write starts over.
    ///
    /// # Safety
    /// The copies are over.
    pub(super) unsafe fn take(&mut self) -> &[u8] {
        let used_bytes = std::mem::take(&mut self.used_bytes);
        // SAFETY: the first `used_bytes` were written by copies that are over.
        unsafe { std::slice::from_raw_parts(self.address, used_bytes) }
    }
}

impl Drop for Readbacks {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once; the device that owns it waits for its work first. A failure here
        // follows one that has already been reported.
        let _ =
            self.context.bind_to_thread().and_then(|()| unsafe { result::free_host(self.address.cast()) });
    }
}

#[derive(Debug)]
struct Pinned {
    address: *mut u8,
    num_bytes: usize,
    /// The last copy out of it.
    sent: CudaEvent,
}

impl Pinned {
    fn new(context: &Arc<CudaContext>, num_bytes: usize) -> std::result::Result<Pinned, DriverError> {
        let sent = context.new_event(None)?;
        Ok(Pinned { address: Pinned::allocate(num_bytes)?, num_bytes, sent })
    }

    /// The context must be current.
    fn allocate(num_bytes: usize) -> std::result::Result<*mut u8, DriverError> {
        // Only written by the host: write-combined memory spares its caches.
        // SAFETY: nothing reads it before it is written.
        unsafe { result::malloc_host(num_bytes, sys::CU_MEMHOSTALLOC_WRITECOMBINED) }.map(<*mut _>::cast)
    }

    /// # Safety
    /// As [`Staging::upload`].
    unsafe fn send(
        &mut self,
        to: u64,
        bytes: &[u8],
        stream: &CudaStream,
    ) -> std::result::Result<(), DriverError> {
        self.sent.synchronize()?;
        if bytes.len() > self.num_bytes {
            let address = Pinned::allocate(bytes.len())?;
            let old = std::mem::replace(&mut self.address, address);
            self.num_bytes = bytes.len();
            // SAFETY: allocated by `allocate`, freed once, and the last copy out of it is over.
            unsafe { result::free_host(old.cast()) }?;
        }
        // SAFETY: the buffer is that long, and the last copy out of it is over.
        let chunk = unsafe {
            self.address.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            std::slice::from_raw_parts(self.address, bytes.len())
        };
        // SAFETY: the caller vouches for `to`; the buffer is neither freed nor written before `sent`.
        unsafe { result::memcpy_htod_async(to, chunk, stream.cu_stream()) }?;
        self.sent.record(stream)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once, after the last copy out of it. A failure here follows one that has
        // already been reported.
        let _ = self.sent.synchronize().and_then(|()| unsafe { result::free_host(self.address.cast()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_does_not_fit_names_both_sizes_and_exits_with_6() {
        let error = does_not_fit(1, 5 << 30, 3 << 30, 8 << 30);
        assert_eq!(error.exit_code(), 6);
        let message = error.to_string();
        assert!(message.contains("5.00 GiB") && message.contains("3.00 GiB free of 8.00 GiB"), "{message}");
        let Error::DoesNotFit { free_bytes: Some(free), .. } = error else { panic!("it says what is free") };
        assert!((2 << 30..3 << 30).contains(&free), "{free} bytes for a plan");
    }
}
