//! A training step taken apart: what each launch asks of a GPU, and how long the GPU would take for it.
//!
//! Counts come from the emulator, which runs some blocks of every launch ([`crate::device::simt`]); registers from the
//! assembler; inner loops from a disassembler, where there is one. What caches hold and how long a launch takes is a model,
//! whose constants [`Gpu`] lists and every output prints. Times measured on a device stand next to it.

mod ceiling;
mod compare;
mod disassembler;
mod exchange;
mod flow;
mod gpu;
pub mod ladder;
mod measure;
mod page;
#[cfg(residuum_simt)]
mod predict;
mod read;
mod sass;
#[cfg(residuum_simt)]
mod steps;
mod sums;
mod table;
mod trace;
mod words;

use serde::{Deserialize, Serialize};

pub use crate::device::counts::Counts;
pub use ceiling::Ceilings;
pub use compare::{Change, Comparison, Measure, Which};
pub use disassembler::Disassembler;
pub use exchange::Exchange;
pub use gpu::Gpu;
pub use measure::{batch_without_pixels, measure, operations};
pub use sass::{KernelCode, Loop};
#[cfg(residuum_simt)]
pub use steps::count;
pub use sums::{Layers, Sum};

use crate::graph::Phase;
use crate::named::named;
use crate::plan::Step;

/// Version of the JSON that a [`Profile`] is written as.
pub const FORMAT: u32 = 1;

/// A training step, launch by launch; its JSON is what `residuum profile --json` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// The program's version, with the commit where it is known.
    pub version: String,
    /// What was profiled.
    pub setting: Setting,
    /// The GPU that predictions are for; none where no kernel runs.
    pub gpu: Option<Gpu>,
    /// Sums over the launches.
    pub totals: Totals,
    /// What ranks send each other, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
    /// What the device reaches at best, where times were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceilings: Option<Ceilings>,
    /// The launches of a step in order; on a CPU its operations.
    pub launches: Vec<Launch>,
}

/// What was profiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Name of the network.
    pub model: String,
    /// Side of the images in pixels.
    pub img_size: usize,
    /// Images of a step.
    pub batch_size: usize,
    /// `f32`, `tf32` or `bf16`.
    pub precision: String,
    /// What times were measured on, as in `cuda:0 (NVIDIA H200)`; `none` without measurements.
    pub device: String,
}

/// Sums over the launches of a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Number of launches; on a CPU of operations.
    pub launches: usize,
    /// Floating-point operations that the step's mathematics ask for.
    pub flops: u64,
    /// Bytes from and to DRAM, modelled.
    pub dram_bytes: u64,
    /// Bytes that the multiprocessors read from L2.
    pub l2_bytes: u64,
    /// Phases of shared memory beyond those that the bytes alone need.
    pub bank_conflicts: u64,
    /// Seconds of a step, predicted; 0 where nothing is.
    pub predicted_seconds: f64,
    /// Images per second, predicted; 0 where nothing is.
    pub predicted_images_per_second: f64,
    /// Seconds of a step, measured as the sum over its launches.
    pub measured_seconds: Option<f64>,
}

/// One launch of a kernel; on a CPU one operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Name of the graph's node, as in `layer2.0.conv1`.
    pub layer: String,
    /// Name of the operation, as in `conv2d_fprop`.
    pub operation: String,
    /// `forward`, `backward` or `update`.
    pub phase: String,
    /// Floating-point operations of the node, at its first launch.
    pub flops: u64,
    /// Bytes of the node's operands and results, each once, at its first launch.
    pub compulsory_bytes: u64,
    /// What the launch asks of a GPU; none on a CPU.
    #[serde(flatten)]
    pub gpu: Option<GpuLaunch>,
    /// Seconds, measured on the device of [`Setting`].
    pub measured_seconds: Option<f64>,
    /// Seconds that the node would take at the [`Ceilings`], at its first launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling_seconds: Option<f64>,
}

/// What a launch asks of a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuLaunch {
    /// Symbol of the kernel.
    pub kernel: String,
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block_threads: u32,
    /// Registers of a thread, as the assembler says; none where no assembler was there when the program was built.
    pub registers: Option<u32>,
    /// Shared memory of a block in bytes, static and dynamic.
    pub shared_bytes: u32,
    /// Blocks that fit on a multiprocessor at once.
    pub blocks_per_sm: u32,
    /// Rounds in which the multiprocessors run all blocks.
    pub waves: f64,
    /// Instructions of the innermost loop, where a disassembler was there.
    pub loop_instructions: Option<u32>,
    /// Those of them that are products on the tensor cores.
    pub loop_tensor_instructions: Option<u32>,
    /// What the launch does, counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Round trips to memory that one thread waits for in turn, the most of any: loads that are under way together, as the
    /// machine code has them, are one.
    pub round_trips: u64,
    /// Bytes from and to DRAM, modelled.
    pub dram_bytes: u64,
    /// The time that each unit would take alone.
    pub unit_seconds: UnitSeconds,
    /// The unit that takes longest.
    pub bound: Unit,
    /// Seconds, predicted, with the gap before the launch.
    pub predicted_seconds: f64,
}

/// Seconds that a launch would take if one unit alone bounded it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitSeconds {
    /// The tensor cores.
    pub tensor: f64,
    /// Shared memory.
    pub shared: f64,
    /// The issue of instructions; 0 where they were not counted.
    pub issue: f64,
    /// The way from L2 to the multiprocessors.
    pub l2: f64,
    /// The device's memory.
    pub dram: f64,
    /// Round trips to memory, one after another.
    pub latency: f64,
}

impl UnitSeconds {
    /// Every unit with its seconds, in the order of the fields.
    pub fn all(&self) -> [(Unit, f64); 6] {
        [
            (Unit::Tensor, self.tensor),
            (Unit::Shared, self.shared),
            (Unit::Issue, self.issue),
            (Unit::L2, self.l2),
            (Unit::Dram, self.dram),
            (Unit::Latency, self.latency),
        ]
    }
}

named! {
    /// What can bound a launch.
    pub enum Unit {
        /// The tensor cores.
        Tensor = "tensor",
        /// Shared memory.
        Shared = "shared",
        /// The issue of instructions.
        Issue = "issue",
        /// The way from L2 to the multiprocessors.
        L2 = "L2",
        /// The device's memory.
        Dram = "DRAM",
        /// Round trips to memory, one after another.
        Latency = "latency",
    }
}

impl Unit {
    /// The unit with the most seconds, the first of several.
    fn longest([first, rest @ ..]: [(Unit, f64); 6]) -> Unit {
        rest.into_iter().fold(first, |longest, next| if next.1 > longest.1 { next } else { longest }).0
    }
}

impl Launch {
    /// A launch of `step`, its first or a later one.
    fn of(step: &Step, is_first: bool) -> Launch {
        let of_first = |amount: u64| if is_first { amount } else { 0 };
        Launch {
            layer: step.name.clone(),
            operation: step.op.name().to_string(),
            phase: phase_name(step.phase).to_string(),
            flops: of_first(step.cost.flops),
            compulsory_bytes: of_first(step.cost.bytes),
            gpu: None,
            measured_seconds: None,
            ceiling_seconds: None,
        }
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::Exchange => "exchange",
        Phase::Update => "update",
    }
}

impl Profile {
    /// The profile of these launches, with its sums.
    pub fn new(version: String, setting: Setting, gpu: Option<Gpu>, launches: Vec<Launch>) -> Profile {
        let totals = Totals::of(&launches, setting.batch_size);
        Profile { format: FORMAT, version, setting, gpu, totals, exchange: None, ceilings: None, launches }
    }
}

#[cfg(test)]
mod tests;
