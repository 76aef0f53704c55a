//! NVIDIA GPUs through the driver: one stream of launches, one arena, kernels by architecture, steps captured as CUDA graphs.
//!
//! No CUDA library is needed to build or to start the program: the driver's is opened when a GPU is asked for.

mod driver;
mod exchanges;
mod images;
mod landing;
mod memory;
mod modules;
mod nccl;
mod replay;
mod spans;
mod staging;
#[cfg(test)]
mod tests;

use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, result, sys};

use self::driver::failed;
pub use self::driver::{CudaVersion, Driver, Gpu, driver_package_version};
use self::exchanges::Exchanges;
pub use self::images::has_warp_groups;
use self::memory::{DeviceMemory, Readbacks};
use self::modules::Modules;
pub use self::nccl::{Communicator, Library as Nccl};
pub use self::replay::ReplayingGpu;
use self::staging::Staging;
use super::{Kernel, Launcher};
use crate::error::{Error, Result};

/// Why a build cannot use a GPU.
pub const NO_KERNELS: &str =
    "this build has no CUDA kernels; run scripts/install-nvcc.sh or set NVCC, and build again";

/// One GPU with all that runs on it.
///
/// The fields are dropped in this order: what holds addresses goes before what they point to.
#[derive(Debug)]
pub struct CudaDevice {
    graphs: Vec<Graph>,
    arena: Option<DeviceMemory>,
    exchanges: Exchanges,
    staging: Staging,
    readbacks: Readbacks,
    modules: Modules,
    /// Whether a launch may begin while the one before it ends.
    overlaps: bool,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    gpu: Gpu,
}

// SAFETY: the raw handles inside are the driver's, which takes them from any thread; every call binds the context to
// its thread first, and what is not internally synchronised is reached through `&mut self` only.
unsafe impl Send for CudaDevice {}

/// A captured list of launches of one device, by which [`CudaDevice::replay`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphId(usize);

/// A point in the stream of work.
#[derive(Debug)]
pub struct Mark(CudaEvent);

impl Mark {
    /// Waits for both marks; how long the GPU took between them.
    fn elapsed_until(&self, end: &Mark) -> Result<Duration> {
        let elapsed_ms = self.0.elapsed_ms(&end.0).map_err(failed("a kernel or a copy"))?;
        Ok(Duration::from_secs_f64(1e-3 * f64::from(elapsed_ms)))
    }
}

struct Graph(CudaGraph);

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

impl CudaDevice {
    /// Opens `cuda:<ordinal>` with the images that fit it.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, no such GPU, no image for it, or the driver is too old.
    pub fn open(ordinal: usize) -> Result<CudaDevice> {
        let driver = Driver::start()?;
        let gpu = driver.gpu(ordinal)?;
        let arch = driver.choose_images(&gpu)?;
        let context = driver.context(ordinal)?;
        let stream = context.new_stream().map_err(failed("creating a stream"))?;
        let modules = Modules::new(&context, arch)?;
        let overlaps = images::may_overlap(driver.cuda_version, arch);
        let staging = Staging::new(&context);
        let readbacks = Readbacks::new(&context)?;
        let (graphs, arena, exchanges) = (Vec::new(), None, Exchanges::default());
        Ok(CudaDevice {
            graphs,
            arena,
            exchanges,
            staging,
            readbacks,
            modules,
            overlaps,
            stream,
            context,
            gpu,
        })
    }

    /// The GPU that was opened.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The architecture of the images in use, as in `sm_90a`.
    pub fn arch(&self) -> &'static str {
        self.modules.arch()
    }

    /// Free and total memory in bytes, other programs' counted.
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU does not answer.
    pub fn memory_bytes(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(failed("asking for free memory"))
    }

    /// Allocates the arena, zeroed. The one before it and all captured graphs, which hold its address, are gone.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the memory is not there, saying how much is.
    pub fn allocate(&mut self, num_bytes: usize) -> Result<()> {
        self.synchronize()?;
        self.graphs.clear();
        self.arena = None;
        self.arena = Some(DeviceMemory::new(&self.context, &self.stream, num_bytes)?);
        Ok(())
    }

    /// Address of the arena on the GPU; 0 before [`CudaDevice::allocate`].
    pub fn arena_address(&self) -> u64 {
        self.arena.as_ref().map_or(0, DeviceMemory::address)
    }

    /// Size of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.as_ref().map_or(0, DeviceMemory::num_bytes)
    }

    /// Copies `bytes` to `offset_bytes` of the arena, in order with the launches; they may change once this returns.
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU failed, here or in earlier work.
    ///
    /// # Panics
    /// If they do not lie inside the arena.
    pub fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) -> Result<()> {
        let address = self.range(offset_bytes, bytes.len());
        // SAFETY: the range lies in the arena, which is freed only after the stream has been waited for.
        unsafe { self.staging.upload(address, bytes, &self.stream) }
    }

    /// Waits for all work, then copies from `offset_bytes` of the arena to `bytes`.
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU failed, here or in earlier work.
    ///
    /// # Panics
    /// If they do not lie inside the arena.
    pub fn download(&self, offset_bytes: usize, bytes: &mut [u8]) -> Result<()> {
        let address = self.range(offset_bytes, bytes.len());
        if !bytes.is_empty() {
            self.context.bind_to_thread().map_err(failed("copying from the GPU"))?;
            // SAFETY: the range lies in the arena, and `bytes` is borrowed until the copy has been waited for.
            unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
                .map_err(failed("copying from the GPU"))?;
        }
        self.synchronize()
    }

    /// Copies part of the arena, in order with the launches and without waiting for them, to the end of `readback` by the
    /// time of [`CudaDevice::finish_readback`].
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU failed, here or in earlier work.
    ///
    /// # Panics
    /// If it does not lie inside the arena.
    pub fn enqueue_readback(
        &mut self,
        offset_bytes: usize,
        num_bytes: usize,
        readback: &mut Vec<u8>,
    ) -> Result<()> {
        let address = self.range(offset_bytes, num_bytes);
        if num_bytes > self.readbacks.free_bytes() {
            self.finish_readback(readback)?;
        }
        if num_bytes > self.readbacks.free_bytes() {
            // There is never room for it.
            let start = readback.len();
            readback.resize(start + num_bytes, 0);
            return self.download(offset_bytes, &mut readback[start..]);
        }
        self.context.bind_to_thread().map_err(failed("copying from the GPU"))?;
        // SAFETY: the range lies in the arena, which is freed only after the stream has been waited for, and so is the
        // readbacks.
        unsafe { self.readbacks.write(address, num_bytes, &self.stream) }
    }

    /// Waits for all work and appends what was enqueued to `readback`.
    ///
    /// # Errors
    /// [`Error::Device`] if any of it failed.
    pub fn finish_readback(&mut self, readback: &mut Vec<u8>) -> Result<()> {
        self.synchronize()?;
        // SAFETY: no copy is under way.
        readback.extend_from_slice(unsafe { self.readbacks.take() });
        Ok(())
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// [`Error::Device`] if any of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("a kernel or a copy"))
    }

    /// Captures what `record` launches, to be replayed as one piece of work. Nothing runs yet.
    ///
    /// `record` is called twice, and must launch the same both times: loading kernels is not possible within a
    /// capture, so that the first call only finds out which are needed.
    ///
    /// # Errors
    /// What `record` returns; [`Error::Device`] if the driver cannot capture it.
    pub fn capture(&mut self, mut record: impl FnMut(&mut dyn Launcher) -> Result<()>) -> Result<GraphId> {
        record(&mut Loader(&mut self.modules))?;
        let graph = self.capture_loaded(|device| record(device))?;
        self.graphs.push(graph);
        Ok(GraphId(self.graphs.len() - 1))
    }

    /// As [`CudaDevice::capture`], with the kernels already loaded.
    fn capture_loaded(&mut self, record: impl FnOnce(&mut CudaDevice) -> Result<()>) -> Result<Graph> {
        // Other threads may go on calling the driver: data loaders know nothing of this capture.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(failed("starting to capture a step"))?;
        let recorded = record(self);
        // Ended in any case: a stream left in capture is of no more use.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        recorded?;
        let graph = graph
            .map_err(failed("capturing a step"))?
            .ok_or_else(|| Error::Device("CUDA: capturing a step gave no graph".into()))?;
        graph.upload().map_err(failed("uploading a captured step"))?;
        Ok(Graph(graph))
    }

    /// Runs what `record` launches for each of `times`, in order and once, and adds what the GPU took for it. The lists
    /// run as one captured piece of work with a mark between each, so that the GPU never waits for the host.
    ///
    /// # Errors
    /// As [`CudaDevice::capture`] and [`CudaDevice::replay`].
    pub fn run_timed(
        &mut self,
        mut record: impl FnMut(usize, &mut dyn Launcher) -> Result<()>,
        times: &mut [Duration],
    ) -> Result<()> {
        (0..times.len()).try_for_each(|list| record(list, &mut Loader(&mut self.modules)))?;
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let marks = (0..=times.len())
            .map(|_| self.context.new_event(flags).map(Mark).map_err(failed("creating an event")))
            .collect::<Result<Vec<Mark>>>()?;
        let graph = self.capture_loaded(|device| {
            device.mark_captured(&marks[0])?;
            marks[1..].iter().enumerate().try_for_each(|(list, mark)| {
                record(list, device)?;
                device.mark_captured(mark)
            })
        })?;
        graph.0.launch().map_err(failed("starting a step"))?;
        self.synchronize()?;
        for (time, marks) in times.iter_mut().zip(marks.windows(2)) {
            *time += marks[0].elapsed_until(&marks[1])?;
        }
        Ok(())
    }

    /// Makes `mark` part of what is being captured, set anew by every replay and readable by the host.
    fn mark_captured(&self, mark: &Mark) -> Result<()> {
        let external = sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: both handles live, and the context is current: a capture has begun on this thread.
        unsafe { sys::cuEventRecordWithFlags(mark.0.cu_event(), self.stream.cu_stream(), external) }
            .result()
            .map_err(failed("capturing an event"))
    }

    /// Starts a captured list of launches, for which the uploads since the one before were meant.
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU failed, here or in earlier work.
    ///
    /// # Panics
    /// If the graph belongs to another device, or to an arena before this one.
    pub fn replay(&mut self, graph: GraphId) -> Result<()> {
        self.staging.begin_list();
        self.graphs[graph.0].0.launch().map_err(failed("starting a step"))
    }

    /// Marks the end of the work started so far.
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU failed, here or in earlier work.
    pub fn mark(&self) -> Result<Mark> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        self.stream.record_event(flags).map(Mark).map_err(failed("recording an event"))
    }

    /// Waits for both marks; microseconds that the GPU took between them.
    ///
    /// # Errors
    /// [`Error::Device`] if the work between them failed.
    pub fn elapsed_us(&self, start: &Mark, end: &Mark) -> Result<f64> {
        Ok(1e6 * start.elapsed_until(end)?.as_secs_f64())
    }

    fn range(&self, offset_bytes: usize, len_bytes: usize) -> u64 {
        let arena = self.arena.as_ref().expect("an arena is allocated before it is read or written");
        arena.range(offset_bytes, len_bytes)
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // What is dropped next may be in use. A failure here follows one that has already been reported.
        let _ = self.stream.synchronize();
        self.exchanges.abandon();
    }
}

impl Launcher for CudaDevice {
    fn has_warp_groups(&self) -> bool {
        has_warp_groups(self.modules.arch())
    }

    fn launch(
        &mut self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> Result<()> {
        let function = self.modules.function(kernel)?;
        let mut parameters = [arguments.as_ptr().cast_mut().cast()];
        // A capture makes of this attribute an edge that lets the next kernel begin. Kernels wait for what they need.
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: block[0],
            blockDimY: block[1],
            blockDimZ: block[2],
            sharedMemBytes: shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut overlap,
            numAttrs: self.overlaps.into(),
        };
        // SAFETY: the kernel takes one struct, whose bytes the driver copies before it returns; the operation that
        // launches vouches for the addresses in it.
        let launch = |()| unsafe {
            sys::cuLaunchKernelEx(&raw const config, function, parameters.as_mut_ptr(), ptr::null_mut())
                .result()
        };
        self.context.bind_to_thread().and_then(launch).map_err(|error| {
            let on = format!("grid {grid:?}, block {block:?}, {shared_bytes} shared bytes");
            failed(format!("launching `{}` on {on}", kernel.name))(error)
        })
    }
}

/// Loads the kernels that would be launched.
struct Loader<'a>(&'a mut Modules);

impl Launcher for Loader<'_> {
    fn has_warp_groups(&self) -> bool {
        has_warp_groups(self.0.arch())
    }

    fn launch(&mut self, kernel: &'static Kernel, _: [u32; 3], _: [u32; 3], _: u32, _: &[u8]) -> Result<()> {
        self.0.function(kernel).map(|_| ())
    }
}
