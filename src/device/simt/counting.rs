//! A launcher that runs a few blocks of every launch and counts what they do.

use std::sync::Arc;

use rayon::prelude::*;

use super::block::{Launch, Watcher};
use super::counter::{Counter, Footprint};
use super::finding::Finding;
use super::memory::Memory;
use super::{HOST_KERNELS, HostKernel, RUNNER, block_idx, check_launch, num_blocks};
use crate::device::counts::Counts;
use crate::device::{Kernel, LaunchArgs, Launcher, Slot};
use crate::error::{Error, Result};

/// A launch and what it does.
#[derive(Debug)]
pub struct CountedLaunch {
    /// Kernel that was launched.
    pub kernel: &'static Kernel,
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block_threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// What all its blocks do.
    pub counts: Counts,
    /// The operands that it touches, with the bytes that it reads and writes of each.
    pub touched: Vec<Footprint>,
}

/// Bytes of L1 that a block of a kernel has to itself, given the kernel and its dynamic shared memory.
pub type L1Share<'a> = dyn Fn(&Kernel, u32) -> usize + Sync + 'a;

/// Runs some blocks of every launch, on an arena of zeros whose size no machine need have: only what those blocks touch
/// takes memory.
pub struct CountingDevice<'a> {
    memory: Arc<Memory>,
    l1_share: &'a L1Share<'a>,
    has_warp_groups: bool,
    sampled_blocks: u64,
    operands: Vec<Slot>,
    launches: Vec<CountedLaunch>,
}

impl<'a> CountingDevice<'a> {
    /// Of a GPU with or without warp groups, with an arena of `num_bytes`, and up to `sampled_blocks` blocks of a launch, spread evenly from first to last.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the system reserves no such memory.
    ///
    /// # Panics
    /// If there are no blocks to run.
    pub fn new(
        num_bytes: usize,
        sampled_blocks: u32,
        l1_share: &'a L1Share<'a>,
        has_warp_groups: bool,
    ) -> Result<CountingDevice<'a>> {
        assert!(sampled_blocks > 0, "blocks to count");
        Ok(CountingDevice {
            memory: Arc::new(Memory::new(num_bytes, 1)?),
            l1_share,
            has_warp_groups,
            sampled_blocks: sampled_blocks.into(),
            operands: Vec::new(),
            launches: Vec::new(),
        })
    }

    /// Address of the arena.
    pub fn arena_address(&self) -> u64 {
        self.memory.view_start(0) as u64
    }

    /// Copies `bytes` to the arena.
    ///
    /// # Panics
    /// If they reach outside it.
    pub fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) {
        // SAFETY: `self` is borrowed exclusively and launches end before they return.
        unsafe { self.memory.bytes(offset_bytes, bytes.len()) }.copy_from_slice(bytes);
    }

    /// The launches since the last call.
    pub fn take_launches(&mut self) -> Vec<CountedLaunch> {
        std::mem::take(&mut self.launches)
    }

    /// What `grid` blocks of `kernel` do and what they touch of the operands bound, by those that are run, each with an L1
    /// cache of `l1_bytes`.
    ///
    /// # Errors
    /// [`Error::Device`] if the launch is malformed or the kernel misuses a barrier.
    pub fn count(
        &self,
        kernel: &HostKernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
        l1_bytes: usize,
    ) -> Result<(Counts, Vec<Footprint>)> {
        check_launch(kernel, grid, block, shared_bytes, arguments)?;
        let mut words = vec![0u64; arguments.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..arguments.len()].copy_from_slice(arguments);
        let launch = Launch {
            kernel: kernel.name,
            entry: kernel.checked,
            arguments: &words,
            grid_dim: grid,
            block_dim: block,
            seed: 0,
        };
        let total = num_blocks(grid);
        let sampled = total.min(self.sampled_blocks);
        let number = |i: u64| if sampled == 1 { 0 } else { i * (total - 1) / (sampled - 1) };
        let blocks = (0..sampled)
            .into_par_iter()
            .map(|i| self.count_block(&launch, shared_bytes, l1_bytes, number(i)))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|finding| Error::Device(finding.to_string()))?;
        let mut counts = Counts::default();
        let mut touched = self.untouched();
        for (block, footprints) in &blocks {
            counts.add(block);
            for (sum, footprint) in touched.iter_mut().zip(footprints) {
                sum.read_bytes += footprint.read_bytes;
                sum.written_bytes += footprint.written_bytes;
            }
        }
        for footprint in &mut touched {
            // Blocks read the same bytes again; the operand has no more than its size.
            let scaled = |bytes: u64| (bytes * total / sampled).min(footprint.slot.num_bytes() as u64);
            (footprint.read_bytes, footprint.written_bytes) =
                (scaled(footprint.read_bytes), scaled(footprint.written_bytes));
        }
        touched.retain(|footprint| footprint.read_bytes + footprint.written_bytes > 0);
        Ok((counts.scaled_to(total), touched))
    }

    fn untouched(&self) -> Vec<Footprint> {
        let untouched = |&slot: &Slot| Footprint { slot, read_bytes: 0, written_bytes: 0 };
        self.operands.iter().map(untouched).collect()
    }

    /// Runs the block with this number.
    fn count_block(
        &self,
        launch: &Launch<'_>,
        shared_bytes: u32,
        l1_bytes: usize,
        linear: u64,
    ) -> std::result::Result<(Counts, Vec<Footprint>), Finding> {
        let mut touched = self.untouched();
        RUNNER.with_borrow_mut(|runner| {
            let start = runner.dynamic_shared();
            let num_threads = launch.block_dim.iter().product::<u32>() as usize;
            let shared = start..start + shared_bytes as usize;
            runner.set_watcher(Watcher::Count(Counter::new(Arc::clone(&self.memory), shared, num_threads)));
            // SAFETY: a kernel of the table with the size of arguments it declares and pointers into the arena.
            let result = unsafe { runner.run(launch, block_idx(linear, launch.grid_dim)) };
            let watcher = runner.take_watcher();
            result?;
            let Watcher::Count(counter) = watcher else { unreachable!("set above") };
            Ok((counter.finish(l1_bytes, &mut touched), touched))
        })
    }
}

impl Launcher for CountingDevice<'_> {
    fn bind(&mut self, args: &LaunchArgs<'_>, _mutates: &[usize]) {
        self.operands.clear();
        let scratch = (args.workspace.num_bytes() > 0).then_some(&args.workspace);
        self.operands.extend(args.inputs.iter().chain(args.outputs).chain(scratch));
        self.operands.sort_by_key(|slot| (slot.offset_bytes, slot.num_bytes()));
        // A result in the place of an operand is the same memory.
        self.operands.dedup_by_key(|slot| slot.offset_bytes);
    }

    fn has_warp_groups(&self) -> bool {
        self.has_warp_groups
    }

    fn launch(
        &mut self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> Result<()> {
        let l1_bytes = (self.l1_share)(kernel, shared_bytes);
        let host = &HOST_KERNELS[kernel.index];
        let (counts, touched) = self.count(host, grid, block, shared_bytes, arguments, l1_bytes)?;
        let block_threads = block.iter().product();
        self.launches.push(CountedLaunch { kernel, grid, block_threads, shared_bytes, counts, touched });
        Ok(())
    }
}
