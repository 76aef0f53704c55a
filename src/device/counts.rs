//! What a launch does to the memories of a GPU, as the emulator counts it.

use serde::{Deserialize, Serialize};

/// What all blocks of a launch do, from those that were run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Blocks that the emulator ran; the counts are scaled to all.
    pub sampled_blocks: u32,
    /// Products of 16x8x16 on the tensor cores, by warps, or of 16x8x8 in TF32, which take as long; a larger one of a warp
    /// group counts as so many as it holds.
    pub tensor_instructions: u64,
    /// Loads, stores and copies to and from global memory, by warps.
    pub global_requests: u64,
    /// 32-byte sectors that they touch.
    pub global_sectors: u64,
    /// The fewest sectors that hold as many bytes as they ask for.
    pub ideal_sectors: u64,
    /// Bytes from L2 to the multiprocessors: the sectors read, but for those that L1 is modelled to hold.
    pub l2_bytes: u64,
    /// Bytes of the sectors written.
    pub written_bytes: u64,
    /// 128-byte phases of shared memory.
    pub shared_phases: u64,
    /// The fewest phases that move as many bytes.
    pub ideal_phases: u64,
    /// Lines of 128 bytes that copies through L1 read there, by warps.
    #[serde(default)]
    pub l1_phases: u64,
    /// Loads past L1 that one warp does, the most of any.
    pub loads_past_l1: u64,
    /// Times that one thread waits for copies that are under way, the most of any.
    pub copy_waits: u64,
    /// Barriers of a block, the most of any.
    pub barriers: u64,
}

/// Loads of one thread that are under way at a time where the machine code is not read: compilers move that many ahead of
/// the first use.
pub const LOADS_IN_FLIGHT: u64 = 4;

impl Counts {
    /// Round trips to memory that one thread waits for in turn, the most of any, if so many loads are under way together.
    pub fn round_trips(&self, loads_in_flight: u64) -> u64 {
        self.loads_past_l1.div_ceil(loads_in_flight) + self.copy_waits
    }

    /// Phases beyond those that the bytes alone need.
    pub fn bank_conflicts(&self) -> u64 {
        self.shared_phases - self.ideal_phases
    }

    /// Adds what another block does.
    #[cfg(residuum_simt)]
    pub(super) fn add(&mut self, other: &Counts) {
        self.sampled_blocks += other.sampled_blocks;
        self.for_each_sum(other, |sum, value| *sum += value);
        self.loads_past_l1 = self.loads_past_l1.max(other.loads_past_l1);
        self.copy_waits = self.copy_waits.max(other.copy_waits);
        self.barriers = self.barriers.max(other.barriers);
    }

    /// From the sampled blocks to `num_blocks`.
    #[cfg(residuum_simt)]
    pub(super) fn scaled_to(mut self, num_blocks: u64) -> Counts {
        let (sampled, copy) = (u64::from(self.sampled_blocks), self);
        self.for_each_sum(&copy, |sum, value| *sum = value * num_blocks / sampled);
        self
    }

    #[cfg(residuum_simt)]
    fn for_each_sum(&mut self, other: &Counts, mut apply: impl FnMut(&mut u64, u64)) {
        apply(&mut self.tensor_instructions, other.tensor_instructions);
        apply(&mut self.global_requests, other.global_requests);
        apply(&mut self.global_sectors, other.global_sectors);
        apply(&mut self.ideal_sectors, other.ideal_sectors);
        apply(&mut self.l2_bytes, other.l2_bytes);
        apply(&mut self.written_bytes, other.written_bytes);
        apply(&mut self.shared_phases, other.shared_phases);
        apply(&mut self.ideal_phases, other.ideal_phases);
        apply(&mut self.l1_phases, other.l1_phases);
    }
}
