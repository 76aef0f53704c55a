//! Memory on the GPU, and page-locked memory of the host.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, result, sys};

use super::driver::failed;
use crate::device::READBACK_BYTES;
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

/// Page-locked memory that small results are copied to while the host goes on.
#[derive(Debug)]
pub(super) struct Readbacks {
    buffer: Pinned,
    used_bytes: usize,
}

impl Readbacks {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Readbacks> {
        let buffer = Pinned::new(context, READBACK_BYTES, 0, "results on their way back")?;
        Ok(Readbacks { buffer, used_bytes: 0 })
    }

    pub(super) fn free_bytes(&self) -> usize {
        self.buffer.num_bytes - self.used_bytes
    }

    /// Appends `num_bytes` at `from` as work on `stream`.
    ///
    /// # Safety
    /// The range at `from` is allocated, it and this buffer stay so until the work is done, and the context is current.
    ///
    /// # Panics
    /// If there is no room.
    pub(super) unsafe fn write(&mut self, from: u64, num_bytes: usize, stream: &CudaStream) -> Result<()> {
        assert!(
            num_bytes <= self.free_bytes(),
            "{num_bytes} bytes are more than the buffer for results takes"
        );
        // SAFETY: the room is there (asserted) and no other copy writes it; the caller vouches for the rest.
        unsafe {
            let to = self.buffer.address.add(self.used_bytes).cast();
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
        unsafe { std::slice::from_raw_parts(self.buffer.address, used_bytes) }
    }
}

/// Page-locked memory of the host, which the GPU copies from and to by itself.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) address: *mut u8,
    pub(super) num_bytes: usize,
    context: Arc<CudaContext>,
}

impl Pinned {
    /// Allocates it with the driver's `flags`; `purpose` is for the message.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the host does not give it.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        num_bytes: usize,
        flags: u32,
        purpose: &str,
    ) -> Result<Pinned> {
        // SAFETY: who uses the memory reads only what was written to it.
        let allocate = |()| unsafe { result::malloc_host(num_bytes, flags) };
        let address = context.bind_to_thread().and_then(allocate).map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => no_pinned_memory(num_bytes, purpose),
            _ => failed(format!("allocating page-locked memory for {purpose}"))(error),
        })?;
        Ok(Pinned { address: address.cast(), num_bytes, context: Arc::clone(context) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once; its owner waits for copies first. A failure here follows one that has
        // already been reported.
        let _ =
            self.context.bind_to_thread().and_then(|()| unsafe { result::free_host(self.address.cast()) });
    }
}

fn no_pinned_memory(num_bytes: usize, purpose: &str) -> Error {
    Error::does_not_fit(format!(
        "the host gives no {} of page-locked memory for {purpose}: its memory is full, or a limit is reached; end other \
         programs, raise the limit of a container, or see `ulimit -l`",
        show_bytes(num_bytes)
    ))
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

    #[test]
    fn page_locked_memory_that_is_refused_is_the_hosts() {
        let error = no_pinned_memory(8 << 20, "uploads");
        assert_eq!(error.exit_code(), 6);
        let message = error.to_string();
        assert!(message.contains("host") && message.contains("8.00 MiB") && message.contains("uploads"));
        assert!(message.contains("ulimit -l") && !message.contains("GPU"), "{message}");
    }
}
