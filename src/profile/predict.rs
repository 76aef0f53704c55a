//! How long a GPU would take for a launch, and what it would move to and from its memory: a model.
//!
//! A unit of the multiprocessors is as busy as that of the one with the most blocks. Units overlap in part: a launch takes
//! the cube root of the sum of the cubes of their times, which is the longest where one stands out, and launches follow one
//! another with a gap. This form and the rates of an H200 are fitted to 448 launches of ResNet-18 and ResNet-50 measured
//! there by Nsight Compute (`benches/runs/2026-11-26-h200-speed/`): a launch is off by 12 % on average, weighted by the root
//! of its time. Started alone, under that profiler, a launch took 2.5 us besides; in captured lists the measured steps of both
//! networks leave 0.7 and 1.9 us, between which the gap is (less where launches overlap, which was not measured).
//! L2 is taken to hold what was touched last, up to its size; what is written goes to memory once.

use std::collections::HashMap;

use super::{Gpu, UnitSeconds};
use crate::device::counts::Counts;

/// Bytes that a multiprocessor takes from L2 a clock at most.
const L2_BYTES_PER_CLOCK: f64 = 64.0;
/// Floating-point operations of a product of 16x8x16.
const FLOPS_OF_PRODUCT: f64 = 4096.0;
/// Bytes of a phase of shared memory.
const PHASE_BYTES: f64 = 128.0;

/// What decides how long a launch takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work<'a> {
    pub counts: &'a Counts,
    /// What the tensor cores reach by the instructions of this kernel.
    pub tensor_flops_per_clock: f64,
    pub num_blocks: u64,
    pub blocks_per_sm: u32,
    /// Round trips to memory that one thread waits for.
    pub round_trips: u64,
    /// Instructions of all warps; 0 where they are not known.
    pub instructions: u64,
    pub dram_bytes: u64,
}

impl Work<'_> {
    /// Rounds in which the multiprocessors run all blocks.
    pub fn waves(&self, gpu: &Gpu) -> f64 {
        self.num_blocks as f64 / (f64::from(gpu.num_sms) * f64::from(self.blocks_per_sm))
    }

    /// The time that each unit would take alone.
    pub fn unit_seconds(&self, gpu: &Gpu) -> UnitSeconds {
        let clock = gpu.clock_ghz * 1e9;
        let of_the_busiest = {
            let most = self.num_blocks.div_ceil(gpu.num_sms.into());
            most as f64 / self.num_blocks as f64
        };
        let on_sms = |amount: f64, per_clock: f64| amount * of_the_busiest / per_clock / clock;
        let counts = self.counts;
        let l2_bytes = (counts.l2_bytes + counts.written_bytes) as f64;
        UnitSeconds {
            tensor: on_sms(counts.tensor_instructions as f64 * FLOPS_OF_PRODUCT, self.tensor_flops_per_clock),
            // Shared memory and L1 are one array.
            shared: on_sms(
                (counts.shared_phases + counts.l1_phases) as f64 * PHASE_BYTES,
                gpu.shared_bytes_per_clock,
            ),
            issue: on_sms(self.instructions as f64, gpu.issue_per_clock),
            l2: (l2_bytes / (gpu.l2_gb_per_s * 1e9)).max(on_sms(l2_bytes, L2_BYTES_PER_CLOCK)),
            dram: self.dram_bytes as f64 / (gpu.dram_gb_per_s * 1e9),
            latency: self.waves(gpu).ceil() * self.round_trips as f64 * gpu.latency_clocks / clock,
        }
    }
}

impl UnitSeconds {
    /// Of all together, as they overlap.
    pub fn together(&self) -> f64 {
        self.all().into_iter().map(|(_, seconds)| seconds.powi(3)).sum::<f64>().cbrt()
    }
}

/// What L2 holds: the memory touched last.
#[derive(Debug)]
pub(super) struct L2 {
    capacity: u64,
    /// By offset in the arena: how many bytes there are and what had been touched in all when they were touched last.
    touched: HashMap<usize, (u64, u64)>,
    total: u64,
}

impl L2 {
    pub fn of(gpu: &Gpu) -> L2 {
        L2 { capacity: (gpu.l2_mib * f64::from(1 << 20)) as u64, touched: HashMap::new(), total: 0 }
    }

    /// Bytes to and from memory of a launch that reads and writes so many bytes at each of these offsets.
    pub fn launch(&mut self, operands: impl Iterator<Item = (usize, u64, u64)> + Clone) -> u64 {
        let mut dram_bytes = 0;
        for (offset, read, written) in operands.clone() {
            let held = self
                .touched
                .get(&offset)
                .map_or(0, |&(bytes, at)| bytes.min(self.capacity.saturating_sub(self.total - at)).min(read));
            dram_bytes += read - held + written;
        }
        for (offset, read, written) in operands {
            let bytes = read.max(written);
            self.total += bytes;
            self.touched.insert(offset, (bytes, self.total));
        }
        dram_bytes
    }
}
