//! The emulator: runs the kernels compiled for the host, one coroutine a CUDA thread, and finds what a GPU hides.
//!
//! Threads of a block run in an order drawn from a seed, anew after every barrier, so a missing barrier changes the
//! result. With [`Checks::Full`] every memory access is judged before it happens: against the operand its pointer
//! belongs to, against the record of what other threads did since the last barrier, and against what was written at
//! all. A finding is an [`Error::Device`] that names kernel, block, thread, source line and buffer.
//!
//! How a kernel comes to announce its accesses stands in kernels/host.h.

mod abi;
mod block;
mod checker;
mod counter;
mod counting;
mod finding;
mod hooks;
mod memory;
mod order;
mod process;
mod shadow;
mod stuck;
mod warp;
mod warp_group;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

pub use abi::{ArgsLayout, HostKernel, Member};
pub use counter::Footprint;
pub use counting::{CountedLaunch, CountingDevice};

use super::{DeviceKind, Kernel, KernelDevice, LaunchArgs, Launcher, Record, RecordList, Slot};
use crate::error::{Error, Result};
use abi::MAX_DYNAMIC_SHARED_BYTES;
use block::{Launch, Runner, Watcher};
use checker::{Checker, Extent};
use finding::Finding;
use memory::{CHECKED_VIEWS, Memory};
use order::Order;

include!(concat!(env!("OUT_DIR"), "/host_kernels.rs"));

/// How closely kernels are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// Barriers and warp calls only; blocks run in parallel.
    Off,
    /// Every access as well; blocks run one after another, in an order drawn from the seed.
    Full,
}

/// An operand of the operation whose kernels are launched.
#[derive(Debug, Clone, Copy)]
struct Operand {
    slot: Slot,
    is_writable: bool,
    /// Whether its contents mean something before the operation runs.
    is_filled: bool,
}

/// The emulator with its arena.
pub struct SimtDevice {
    memory: Arc<Memory>,
    checks: Checks,
    seed: u64,
    num_launches: u64,
    busy: Duration,
    operands: Vec<Operand>,
    /// The barrier interval at which the operands were bound.
    bound_at: u32,
    checker: Option<Checker>,
    arguments: Vec<u64>,
    block_order: Vec<u64>,
}

impl SimtDevice {
    /// A device whose threads run in orders drawn from `seed`; its arena comes with [`KernelDevice::allocate`].
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the system gives it no memory.
    pub fn new(seed: u64, checks: Checks) -> Result<SimtDevice> {
        let (memory, checker) = memory_with_checker(0, checks)?;
        Ok(SimtDevice {
            memory,
            checks,
            seed,
            num_launches: 0,
            busy: Duration::ZERO,
            operands: Vec::new(),
            bound_at: 0,
            checker,
            arguments: Vec::new(),
            block_order: Vec::new(),
        })
    }

    /// Fills part of the arena with 0xFF bytes: NaN in every floating-point type, and no valid index.
    ///
    /// # Panics
    /// If it reaches outside it.
    pub fn poison(&mut self, offset_bytes: usize, num_bytes: usize) {
        // SAFETY: as in `upload`.
        unsafe { self.memory.bytes(offset_bytes, num_bytes) }.fill(0xFF);
    }

    /// Runs `kernel` to its end: what [`Launcher::launch`] does, for kernels of any table.
    ///
    /// # Errors
    /// [`Error::Device`] if the launch is malformed or the emulator finds a fault in the kernel.
    pub fn run_kernel(
        &mut self,
        kernel: &'static HostKernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> Result<()> {
        check_launch(kernel, grid, block, shared_bytes, arguments)?;
        self.arguments.clear();
        self.arguments.resize(arguments.len().div_ceil(8), 0);
        bytemuck::cast_slice_mut(&mut self.arguments)[..arguments.len()].copy_from_slice(arguments);
        self.num_launches += 1;
        let seed = self.seed.wrapping_add(self.num_launches << 32);
        let result = match self.checks {
            Checks::Off => self.run_parallel(kernel, grid, block, seed),
            Checks::Full => self.run_checked(kernel, grid, block, shared_bytes, seed)?,
        };
        result.map_err(|finding| Error::Device(finding.to_string()))
    }

    fn run_parallel(
        &mut self,
        kernel: &'static HostKernel,
        grid_dim: [u32; 3],
        block_dim: [u32; 3],
        seed: u64,
    ) -> std::result::Result<(), Finding> {
        let launch = Launch {
            kernel: kernel.name,
            entry: kernel.plain,
            arguments: &self.arguments,
            grid_dim,
            block_dim,
            seed,
        };
        (0..num_blocks(grid_dim)).into_par_iter().try_for_each(|linear| {
            // SAFETY: a kernel of the table with the size of arguments it declares; that its pointers are good is the
            // operation's business, and what `Checks::Full` tests.
            RUNNER.with_borrow_mut(|runner| unsafe { runner.run(&launch, block_idx(linear, grid_dim)) })
        })
    }

    fn run_checked(
        &mut self,
        kernel: &'static HostKernel,
        grid_dim: [u32; 3],
        block_dim: [u32; 3],
        shared_bytes: u32,
        seed: u64,
    ) -> Result<std::result::Result<(), Finding>> {
        let mut checker = self.checker.take().expect("a checked device has its checker between launches");
        if let Err(error) = self.give_views(kernel, &mut checker) {
            self.checker = Some(checker);
            return Err(error);
        }
        self.block_order.clear();
        self.block_order.extend(0..num_blocks(grid_dim));
        Order::new(seed, u64::MAX).shuffle(&mut self.block_order);
        let launch = Launch {
            kernel: kernel.name,
            entry: kernel.checked,
            arguments: &self.arguments,
            grid_dim,
            block_dim,
            seed,
        };
        RUNNER.with_borrow_mut(|runner| {
            let shared = runner.dynamic_shared();
            checker.begin_launch(shared..shared + shared_bytes as usize, block_dim);
            runner.set_watcher(Watcher::Judge(checker));
            let result = self.block_order.iter().try_for_each(|&linear| {
                // SAFETY: a kernel of the table with the size of arguments it declares; accesses are judged.
                unsafe { runner.run(&launch, block_idx(linear, grid_dim)) }
            });
            if let Watcher::Judge(checker) = runner.take_watcher() {
                self.checker = Some(checker);
            }
            Ok(result)
        })
    }

    /// Moves every pointer argument into a view of its own and tells the checker what it may reach.
    fn give_views(&mut self, kernel: &HostKernel, checker: &mut Checker) -> Result<()> {
        checker.reset_extents(
            self.operands.iter().map(|operand| self.extent(operand, "an operand of the table")),
        );
        let pointers = kernel.arguments.members.iter().filter(|member| member.is_pointer);
        for (i, member) in pointers.enumerate() {
            let word = &mut self.arguments[member.offset_bytes / 8];
            let Some((0, offset)) = self.memory.locate(*word as usize) else { continue };
            let view = i + 1;
            if view >= CHECKED_VIEWS {
                let most = CHECKED_VIEWS - 1;
                return Err(Error::Device(format!("{}: more than {most} pointer arguments", kernel.name)));
            }
            *word = (self.memory.view_start(view) as u64).wrapping_add(offset as u64);
            let extent = if self.operands.is_empty() {
                Some(Extent {
                    name: member.name,
                    bytes: 0..self.memory.num_bytes(),
                    is_writable: true,
                    unwritten_since: None,
                    log2_granule: 0,
                })
            } else {
                let operand = self.operands.iter().find(|operand| operand.contains(offset));
                operand.map(|operand| self.extent(operand, member.name))
            };
            checker.set_extent(view, extent);
        }
        Ok(())
    }

    fn extent(&self, operand: &Operand, name: &'static str) -> Extent {
        Extent {
            name,
            bytes: operand.slot.offset_bytes..operand.slot.offset_bytes + operand.slot.num_bytes(),
            is_writable: operand.is_writable,
            unwritten_since: (!operand.is_filled).then_some(self.bound_at),
            log2_granule: operand.slot.dtype.size_bytes().ilog2(),
        }
    }
}

impl KernelDevice for SimtDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Simt
    }

    fn allocate(&mut self, num_bytes: usize) -> Result<u64> {
        (self.memory, self.checker) = memory_with_checker(num_bytes, self.checks)?;
        self.operands.clear();
        Ok(self.memory.view_start(0) as u64)
    }

    fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) -> Result<()> {
        // SAFETY: `self` is borrowed exclusively and launches end before they return.
        unsafe { self.memory.bytes(offset_bytes, bytes.len()) }.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, offset_bytes: usize, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: kernels run only while `self` is borrowed exclusively.
        bytes.copy_from_slice(unsafe { self.memory.bytes(offset_bytes, bytes.len()) });
        Ok(())
    }

    fn run(&mut self, _key: (usize, usize, usize), record: Record<'_>) -> Result<()> {
        let start = Instant::now();
        record(self)?;
        self.busy += start.elapsed();
        Ok(())
    }

    fn take_busy_time(&mut self) -> Result<Duration> {
        Ok(std::mem::take(&mut self.busy))
    }

    fn run_timed(&mut self, record: RecordList<'_>, times: &mut [Duration]) -> Result<()> {
        for (list, time) in times.iter_mut().enumerate() {
            let start = Instant::now();
            record(list, self)?;
            *time += start.elapsed();
        }
        Ok(())
    }
}

impl Launcher for SimtDevice {
    fn bind(&mut self, args: &LaunchArgs<'_>, mutates: &[usize]) {
        self.operands.clear();
        let lies_over_input = |slot: &Slot| args.inputs.iter().any(|input| input.overlaps(slot));
        self.operands.extend(args.outputs.iter().map(|slot| Operand {
            slot: *slot,
            is_writable: true,
            is_filled: lies_over_input(slot),
        }));
        self.operands.push(Operand { slot: args.workspace, is_writable: true, is_filled: false });
        self.operands.extend(args.inputs.iter().enumerate().map(|(i, slot)| Operand {
            slot: *slot,
            is_writable: mutates.contains(&i),
            is_filled: true,
        }));
        if let Some(checker) = &mut self.checker {
            checker.now.interval += 1;
            self.bound_at = checker.now.interval;
        }
    }

    fn has_warp_groups(&self) -> bool {
        true
    }

    fn launch(
        &mut self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> Result<()> {
        self.run_kernel(&HOST_KERNELS[kernel.index], grid, block, shared_bytes, arguments)
    }
}

impl Operand {
    fn contains(&self, offset: i64) -> bool {
        let start = self.slot.offset_bytes as i64;
        (start..start + self.slot.num_bytes() as i64).contains(&offset)
    }
}

thread_local! {
    /// Stacks and tables of this OS thread, kept from launch to launch.
    static RUNNER: RefCell<Runner> = RefCell::new(Runner::new());
}

/// An arena, and for a checked device what judges accesses to it.
fn memory_with_checker(num_bytes: usize, checks: Checks) -> Result<(Arc<Memory>, Option<Checker>)> {
    let num_views = if checks == Checks::Full { CHECKED_VIEWS } else { 1 };
    let memory = Arc::new(Memory::new(num_bytes, num_views)?);
    let checker = (checks == Checks::Full).then(|| Checker::new(Arc::clone(&memory)));
    Ok((memory, checker))
}

fn num_blocks(grid: [u32; 3]) -> u64 {
    grid.iter().map(|&extent| u64::from(extent)).product()
}

fn block_idx(linear: u64, [x, y, _]: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(x), u64::from(y));
    [(linear % x) as u32, (linear / x % y) as u32, (linear / (x * y)) as u32]
}

fn check_launch(
    kernel: &HostKernel,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    arguments: &[u8],
) -> Result<()> {
    let refuse = |message: String| Err(Error::Device(format!("launch of {}: {message}", kernel.name)));
    let num_threads = block.iter().map(|&extent| u64::from(extent)).product::<u64>();
    if !(1..=1024).contains(&num_threads) {
        return refuse(format!("a block of {block:?} threads; a block has 1 to 1024 threads"));
    }
    if num_blocks(grid) == 0 || grid[1] > 65_535 || grid[2] > 65_535 {
        return refuse(format!(
            "a grid of {grid:?} blocks; each extent is at least 1, the last two at most 65535"
        ));
    }
    if shared_bytes as usize > MAX_DYNAMIC_SHARED_BYTES {
        return refuse(format!(
            "{shared_bytes} bytes of shared memory; the most is {MAX_DYNAMIC_SHARED_BYTES}"
        ));
    }
    let expected = kernel.arguments.num_bytes;
    if arguments.len() != expected {
        return refuse(format!("{} bytes of arguments; its struct has {expected}", arguments.len()));
    }
    Ok(())
}
