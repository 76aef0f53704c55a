//! The GPUs that predictions are for.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Constants of a GPU, printed with every prediction.
///
/// Sizes and counts are the maker's. Rates are those that kernels reach: those of the H200 are fitted to measurements
/// ([`super`]), the others are the maker's by the same shares, or published (L2 of the RTX 4090), and not measured here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Name in `--gpu`.
    pub name: String,
    /// Architecture of its machine code, as in `sm_90a`.
    pub arch: String,
    /// Multiprocessors.
    pub num_sms: u32,
    /// Clock under load, in GHz.
    pub clock_ghz: f64,
    /// Floating-point operations of bf16 products a clock and multiprocessor that `mma.sync` reaches.
    pub tensor_flops_per_clock: f64,
    /// Those that warp groups reach by `wgmma`: the maker's peak, not fitted. 0 where there are none.
    #[serde(default)]
    pub group_flops_per_clock: f64,
    /// Instructions that a multiprocessor issues a clock, by warps.
    pub issue_per_clock: f64,
    /// Bytes of shared memory a clock and multiprocessor.
    pub shared_bytes_per_clock: f64,
    /// From L2 to all multiprocessors, in GB/s.
    pub l2_gb_per_s: f64,
    /// DRAM as a copy reaches it, in GB/s.
    pub dram_gb_per_s: f64,
    /// Size of L2 in MiB.
    pub l2_mib: f64,
    /// A round trip to memory in clocks.
    pub latency_clocks: f64,
    /// What a launch of a captured list takes besides its work, in microseconds: blocks start and end. Where launches may
    /// overlap, from compute capability 9.0 on, it is an estimate.
    pub launch_gap_us: f64,
    /// Registers of a multiprocessor.
    pub registers_per_sm: u32,
    /// Threads that a multiprocessor holds.
    pub threads_per_sm: u32,
    /// Blocks that a multiprocessor holds.
    pub blocks_per_sm: u32,
    /// Shared memory of a multiprocessor in KiB, to be divided among its blocks.
    pub shared_kib_per_sm: u32,
    /// Shared memory and L1 of a multiprocessor together, in KiB.
    pub l1_kib_per_sm: u32,
}

/// Between launches of which each begins when the one before it is done: between the two values that measured steps leave
/// ([`super`]).
const GAP_US: f64 = 1.5;
/// Where a launch may begin while the one before it ends. Not measured: the lower of those two values, as if nothing but the
/// blocks themselves had to start.
const OVERLAPPED_GAP_US: f64 = 0.7;
/// What a block takes of shared memory besides its own, in bytes.
const RESERVED_SHARED_BYTES: u32 = 1024;
/// Shared memory that a multiprocessor can be set to give to blocks, in KiB (CUDA C Programming Guide).
const SHARED_STEPS_KIB: [u32; 10] = [0, 8, 16, 32, 64, 100, 132, 164, 196, 228];
/// Registers are given to warps in units of so many.
const REGISTER_UNIT: u32 = 256;

impl Gpu {
    /// Names that [`Gpu::named`] knows.
    pub const NAMES: [&'static str; 4] = ["h100", "h200", "a100", "rtx4090"];

    /// The GPU called `name` in `--gpu`.
    ///
    /// # Errors
    /// [`Error::Usage`] listing the known names.
    pub fn named(name: &str) -> Result<Gpu> {
        let hopper = Gpu {
            name: name.to_string(),
            arch: "sm_90a".into(),
            num_sms: 132,
            clock_ghz: 1.75,
            tensor_flops_per_clock: 2560.0,
            group_flops_per_clock: 4096.0,
            issue_per_clock: 4.0,
            shared_bytes_per_clock: 108.0,
            l2_gb_per_s: 6200.0,
            dram_gb_per_s: 2930.0,
            l2_mib: 50.0,
            latency_clocks: 1950.0,
            launch_gap_us: OVERLAPPED_GAP_US,
            registers_per_sm: 65536,
            threads_per_sm: 2048,
            blocks_per_sm: 32,
            shared_kib_per_sm: 228,
            l1_kib_per_sm: 256,
        };
        match name {
            "h100" => Ok(hopper),
            "h200" => Ok(Gpu { dram_gb_per_s: 4200.0, ..hopper }),
            "a100" => Ok(Gpu {
                arch: "sm_80".into(),
                num_sms: 108,
                clock_ghz: 1.41,
                tensor_flops_per_clock: 1840.0,
                group_flops_per_clock: 0.0,
                l2_gb_per_s: 4100.0,
                dram_gb_per_s: 1780.0,
                l2_mib: 40.0,
                launch_gap_us: GAP_US,
                shared_kib_per_sm: 164,
                l1_kib_per_sm: 192,
                ..hopper
            }),
            "rtx4090" => Ok(Gpu {
                arch: "sm_89".into(),
                num_sms: 128,
                clock_ghz: 2.52,
                tensor_flops_per_clock: 480.0,
                group_flops_per_clock: 0.0,
                l2_gb_per_s: 5000.0,
                dram_gb_per_s: 880.0,
                l2_mib: 72.0,
                threads_per_sm: 1536,
                blocks_per_sm: 24,
                launch_gap_us: GAP_US,
                shared_kib_per_sm: 100,
                l1_kib_per_sm: 128,
                ..hopper
            }),
            _ => Err(Error::Usage(format!("--gpu {name}: known are {}", Gpu::NAMES.join(", ")))),
        }
    }

    /// Whether it has warp groups, which multiply by `wgmma`.
    pub fn has_warp_groups(&self) -> bool {
        self.group_flops_per_clock > 0.0
    }

    /// The one whose name the driver's name of a GPU holds, as in `NVIDIA H200`.
    pub fn like(name: &str) -> Option<Gpu> {
        let name: String = name.to_lowercase().split_whitespace().collect();
        Gpu::NAMES.iter().find(|known| name.contains(*known)).and_then(|known| Gpu::named(known).ok())
    }

    /// Blocks that a multiprocessor holds at once: by threads, registers (32 where they are not known) and shared memory.
    pub fn resident_blocks(&self, block_threads: u32, registers: Option<u32>, shared_bytes: u32) -> u32 {
        let warps = block_threads.div_ceil(32);
        let of_a_warp = (registers.unwrap_or(32) * 32).next_multiple_of(REGISTER_UNIT);
        let by_registers = self.registers_per_sm / (warps * of_a_warp);
        let by_shared = (self.shared_kib_per_sm << 10) / (shared_bytes + RESERVED_SHARED_BYTES);
        let by_threads = self.threads_per_sm / (warps * 32);
        self.blocks_per_sm.min(by_threads).min(by_registers).min(by_shared).max(1)
    }

    /// L1 that a block has to itself, in bytes, next to as many of its kind as fit: an equal share of what shared memory
    /// leaves. Blocks of one multiprocessor that read the same bytes gain more; which those are, no one says.
    pub fn l1_bytes_of_block(&self, block_threads: u32, registers: Option<u32>, shared_bytes: u32) -> usize {
        let blocks = self.resident_blocks(block_threads, registers, shared_bytes);
        let taken = blocks * (shared_bytes + RESERVED_SHARED_BYTES);
        let steps = SHARED_STEPS_KIB.into_iter().filter(|&step| step <= self.shared_kib_per_sm);
        let given = steps.map(|step| step << 10).find(|&step| step >= taken).unwrap_or(taken);
        ((self.l1_kib_per_sm << 10).saturating_sub(given) / blocks) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_is_what_the_next_step_of_shared_memory_leaves() {
        let gpu = Gpu::named("h100").unwrap();
        let kib = |registers, shared_kib: u32| {
            gpu.l1_bytes_of_block(128, Some(registers), shared_kib << 10) / (1 << 10)
        };
        // Three blocks of 73 KiB take 219 of 228, two of 97 take 194 of 196, and two of 81 162 of 164.
        assert_eq!((kib(126, 72), kib(126, 96), kib(240, 80)), (9, 30, 46));
        assert_eq!(kib(32, 0), (256 - 16) / 16);
    }
}
