//! The GPUs that predictions are for.

use serde::{Deserialize, Serialize};

/// Constants of a GPU, printed with every prediction.
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
    /// From the end of a launch to the start of the next in a captured list, in microseconds.
    pub launch_gap_us: f64,
    /// Registers of a multiprocessor.
    pub registers_per_sm: u32,
    /// Threads that a multiprocessor holds.
    pub threads_per_sm: u32,
    /// Blocks that a multiprocessor holds.
    pub blocks_per_sm: u32,
    /// Shared memory of a multiprocessor in KiB, to be divided among its blocks.
    pub shared_kib_per_sm: u32,
}
