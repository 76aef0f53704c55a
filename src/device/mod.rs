//! Where steps run: buffers, launches, and the context types that operations see.
//!
//! Two kinds of device. The CPU runs [`crate::graph::Op::cpu`] on slices of an arena. Kernel devices run
//! [`crate::graph::Op::launch`], which hands a [`Launcher`] kernels of the table and does not know whether a GPU or the
//! emulator answers.

mod choice;
pub mod counts;
pub mod cpu;
pub mod cuda;
pub mod kernels;
#[cfg(residuum_simt)]
pub mod simt;

pub use choice::{Device, DeviceChoice, NO_EMULATOR};
pub use kernels::Kernel;

use std::time::Duration;

use self::cuda::CudaDevice;
use crate::error::Result;
use crate::tensor::{DType, Shape};

/// Every value starts on a multiple of this: a cache line, and a 512-bit vector.
pub const ALIGNMENT_BYTES: usize = 64;

/// The kinds of device a plan can be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Rust code on the host's cores.
    Cpu,
    /// Kernels on an NVIDIA GPU.
    Cuda,
    /// The same kernels on the host, under the emulator.
    Simt,
}

/// Where a value lies in the arena, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Offset in bytes from the start of the arena.
    pub offset_bytes: usize,
    /// Shape of the value.
    pub shape: Shape,
    /// Type of the elements.
    pub dtype: DType,
}

impl Slot {
    /// Bytes that the value takes in memory.
    pub fn num_bytes(&self) -> usize {
        self.shape.num_elems() * self.dtype.size_bytes()
    }

    /// Whether the two share any byte.
    pub fn overlaps(&self, other: &Slot) -> bool {
        self.offset_bytes < other.offset_bytes + other.num_bytes()
            && other.offset_bytes < self.offset_bytes + self.num_bytes()
    }
}

/// Operands of a kernel launch, as device addresses.
#[derive(Debug, Clone, Copy)]
pub struct LaunchArgs<'a> {
    /// Address of the arena on the device.
    pub arena_address: u64,
    /// Operands in the operation's order.
    pub inputs: &'a [Slot],
    /// Results in the operation's order.
    pub outputs: &'a [Slot],
    /// Scratch memory of the step.
    pub workspace: Slot,
}

impl LaunchArgs<'_> {
    /// Address of `slot` on the device.
    pub fn address(&self, slot: &Slot) -> u64 {
        self.arena_address + slot.offset_bytes as u64
    }

    /// Address of operand `index`.
    pub fn input(&self, index: usize) -> u64 {
        self.address(&self.inputs[index])
    }

    /// Address of operand `index`; 0, which kernels take for none, where there are not as many.
    pub fn optional_input(&self, index: usize) -> u64 {
        self.inputs.get(index).map_or(0, |slot| self.address(slot))
    }

    /// Address of result `index`.
    pub fn output(&self, index: usize) -> u64 {
        self.address(&self.outputs[index])
    }

    /// Address of the scratch memory.
    pub fn workspace(&self) -> u64 {
        self.address(&self.workspace)
    }
}

/// Runs kernels; implemented by every kernel device.
pub trait Launcher {
    /// Says which operands the next launches serve, and which of them they change; for devices that watch accesses.
    fn bind(&mut self, _args: &LaunchArgs<'_>, _mutates: &[usize]) {}

    /// Whether it runs the kernels that multiply by warp groups, those of sm_90a.
    fn has_warp_groups(&self) -> bool;

    /// Starts `kernel` with one plain argument struct given as its bytes.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device refuses the launch.
    fn launch(
        &mut self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> Result<()>;
}

/// Takes every launch and runs nothing, for a rehearsal without a device.
pub(crate) struct Nowhere;

impl Launcher for Nowhere {
    fn has_warp_groups(&self) -> bool {
        false
    }

    fn launch(&mut self, _: &'static Kernel, _: [u32; 3], _: [u32; 3], _: u32, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Passes on one launch of those it is given, by its number.
pub(crate) struct Only<'a> {
    /// Runs the launch.
    pub launcher: &'a mut dyn Launcher,
    /// Launches before it that are left out.
    pub skipped: usize,
    /// Launches so far.
    pub seen: usize,
}

impl Launcher for Only<'_> {
    fn bind(&mut self, args: &LaunchArgs<'_>, mutates: &[usize]) {
        self.launcher.bind(args, mutates);
    }

    fn has_warp_groups(&self) -> bool {
        self.launcher.has_warp_groups()
    }

    fn launch(
        &mut self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> Result<()> {
        self.seen += 1;
        if self.seen - 1 != self.skipped {
            return Ok(());
        }
        self.launcher.launch(kernel, grid, block, shared_bytes, arguments)
    }
}

/// Records the launches of some steps.
pub type Record<'a> = &'a mut dyn FnMut(&mut dyn Launcher) -> Result<()>;

/// Records the launches of one of several lists, given by its number.
pub type RecordList<'a> = &'a mut dyn FnMut(usize, &mut dyn Launcher) -> Result<()>;

/// Bytes of readback that a device keeps on their way without waiting for them: thousands of steps of a loss and its counts, or the
/// scores of some batches of an evaluation.
pub const READBACK_BYTES: usize = 1 << 20;

/// A device that runs kernels: one arena, and lists of launches.
pub trait KernelDevice: Send {
    /// Kind of the device.
    fn kind(&self) -> DeviceKind;

    /// The GPU that this is, where it is one: ranks on GPUs exchange what lies in their memories.
    fn as_gpu(&mut self) -> Option<&mut CudaDevice> {
        None
    }

    /// Allocates the arena, zeroed, and returns its address on the device.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the memory is not there.
    fn allocate(&mut self, num_bytes: usize) -> Result<u64>;

    /// Copies `bytes` to the arena.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device refuses.
    fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) -> Result<()>;

    /// Waits for the launches under way and copies from the arena.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device refuses, or a launch before it failed.
    fn download(&self, offset_bytes: usize, bytes: &mut [u8]) -> Result<()>;

    /// Appends to `readback` what this part of the arena holds after the launches so far: now, or by the time of
    /// [`KernelDevice::finish_readback`] where the host need not wait.
    ///
    /// # Errors
    /// As [`KernelDevice::download`].
    fn enqueue_readback(
        &mut self,
        offset_bytes: usize,
        num_bytes: usize,
        readback: &mut Vec<u8>,
    ) -> Result<()> {
        let start = readback.len();
        readback.resize(start + num_bytes, 0);
        self.download(offset_bytes, &mut readback[start..])
    }

    /// Waits until `readback`, the same as in every call of [`KernelDevice::enqueue_readback`], holds all that was enqueued.
    ///
    /// # Errors
    /// As [`KernelDevice::download`].
    fn finish_readback(&mut self, _notes: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    /// Runs what `record` launches. Calls with the same `key` launch the same kernels on the same arguments, so a device
    /// may keep what it recorded under a key and replay it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if a kernel is missing or fails.
    fn run(&mut self, key: (usize, usize, usize), record: Record<'_>) -> Result<()>;

    /// How long the device was busy with what [`KernelDevice::run`] started since the last call, after waiting for it.
    ///
    /// # Errors
    /// As [`KernelDevice::run`].
    fn take_busy_time(&mut self) -> Result<Duration>;

    /// Runs a list of launches for each of `times`, in order and once, and adds what the device took for it: not the host's
    /// time, nor that of starting them.
    ///
    /// # Errors
    /// As [`KernelDevice::run`].
    fn run_timed(&mut self, record: RecordList<'_>, times: &mut [Duration]) -> Result<()>;
}
