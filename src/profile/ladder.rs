//! The ladder of `kernels/ladder.cu`: one matrix product, from a thread an output to the tiles of the tensor-core kernels, and
//! what each step changes in the counts.

use serde::Serialize;

#[cfg(residuum_simt)]
use super::Disassembler;
use super::table::{Column, a_request, per_second, table, wrapped};
use super::words::{SOURCES, count, mb, or_none, us};
use super::{Gpu, GpuLaunch};
#[cfg(residuum_simt)]
use super::{predict::L2, steps};
use crate::device::kernels::mma_tile::{DEPTH, STAGES};
use crate::device::kernels::{self, Entry, LadderArgs};
#[cfg(residuum_simt)]
use crate::device::simt::CountingDevice;
use crate::device::{ALIGNMENT_BYTES, LaunchArgs, Launcher, Slot};
use crate::error::Result;
use crate::report::Align;
use crate::show::show_text;
use crate::tensor::DType;

/// Version of the JSON that a [`Ladder`] is written as.
#[cfg(residuum_simt)]
const FORMAT: u32 = 1;

/// Extents of a product C = A B of bf16 matrices that lie row by row: A is m x k, B k x n and C m x n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Product {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A and rows of B.
    pub k: usize,
}

impl Product {
    /// The one that `residuum profile --ladder` counts: thousands of tiles, and a sum that a thread of the emulator can do.
    pub const COUNTED: Product = Product { m: 4096, n: 4096, k: 1024 };

    /// Multiplications and additions.
    pub fn flops(&self) -> u64 {
        2 * (self.m * self.n * self.k) as u64
    }

    /// A, B and C in an arena, and scratch memory of no bytes at its end.
    pub fn slots(&self) -> [Slot; 4] {
        let mut end_bytes = 0usize;
        [[self.m, self.k], [self.k, self.n], [self.m, self.n], [0, 0]].map(|extents| {
            let offset_bytes = end_bytes.next_multiple_of(ALIGNMENT_BYTES);
            let slot = Slot { offset_bytes, shape: extents.into(), dtype: DType::Bf16 };
            end_bytes = offset_bytes + slot.num_bytes();
            slot
        })
    }
}

/// A step: a kernel that computes the product, and how it is launched.
#[derive(Debug)]
pub struct Rung {
    /// What stands behind `ladder_` in the kernel's name.
    pub name: &'static str,
    /// How it differs from the step before.
    pub idea: &'static str,
    entry: &'static Entry<LadderArgs>,
    /// Rows and columns of C that a block computes.
    tile: [usize; 2],
    /// Positions of k for which a block holds rows of A and columns of B in shared memory.
    held: usize,
}

/// The steps in order.
pub static RUNGS: [Rung; 7] = [
    Rung::new("naive", "a thread an output, neighbours in a column", &kernels::LADDER_NAIVE, [128, 1], 0),
    Rung::new("coalesced", "neighbours in a row", &kernels::LADDER_COALESCED, [1, 128], 0),
    Rung::new("shared", "tiles of 64x64 through shared memory", &kernels::LADDER_SHARED, [64, 64], 16),
    Rung::new("tensor", "products on the tensor cores", &kernels::LADDER_TENSOR, [64, 64], DEPTH),
    Rung::new("swizzled", "lines of a tile start in other banks", &kernels::LADDER_SWIZZLED, [64, 64], DEPTH),
    Rung::new(
        "pipelined",
        "copies under way while tiles are multiplied",
        &kernels::LADDER_PIPELINED,
        [64, 64],
        STAGES * DEPTH,
    ),
    Rung::new("wide", "tiles of 128x128", &kernels::LADDER_WIDE, [128, 128], STAGES * DEPTH),
];

impl Rung {
    const fn new(
        name: &'static str,
        idea: &'static str,
        entry: &'static Entry<LadderArgs>,
        tile: [usize; 2],
        held: usize,
    ) -> Rung {
        Rung { name, idea, entry, tile, held }
    }

    /// Launches the step on two operands and a result, A, B and C, the extents of [`Product`].
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the launcher refuses.
    ///
    /// # Panics
    /// If m or n is no multiple of 128, or k of 64.
    pub fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (m, [k, n]) =
            (args.inputs[0].shape.dims()[0], [0, 1].map(|axis| args.inputs[1].shape.dims()[axis]));
        assert!(m % 128 == 0 && n % 128 == 0 && k % 64 == 0, "a product of whole tiles, not {m} x {n} x {k}");
        let [rows, cols] = self.tile;
        let shared_bytes = (rows + cols) * self.held * DType::Bf16.size_bytes();
        let (a, b, c) = (args.input(0), args.input(1), args.output(0));
        let ladder_args = LadderArgs { a, b, c, n: n as u32, k: k as u32 };
        self.entry.launch_with_shared(launcher, [n / cols, m / rows, 1], shared_bytes as u32, &ladder_args)
    }
}

/// What the steps ask of a GPU; its JSON is what `residuum profile --ladder --json` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ladder {
    /// Version of this form.
    pub format: u32,
    /// The program's version, with the commit where it is known.
    pub version: String,
    /// What every step computes.
    pub product: Product,
    /// The GPU that predictions are for.
    pub gpu: Gpu,
    /// The steps in order.
    pub steps: Vec<Counted>,
}

/// What a step asks of a GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counted {
    /// Name of the step.
    pub step: &'static str,
    /// How it differs from the step before.
    pub idea: &'static str,
    /// Floating-point operations of the product.
    pub flops: u64,
    /// Its launch.
    #[serde(flatten)]
    pub gpu: GpuLaunch,
}

#[cfg(residuum_simt)]
impl Ladder {
    /// Blocks of a launch that the emulator runs: all of them do the same.
    const SAMPLED_BLOCKS: u32 = 2;

    /// Counts what each step asks of `gpu` for `product`, and predicts its time, its operands in DRAM.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the system reserves no address space for the matrices, [`crate::Error::Device`] if a kernel
    /// fails.
    ///
    /// # Panics
    /// As [`Rung::launch`].
    pub fn count(product: Product, gpu: &Gpu, version: String) -> Result<Ladder> {
        let l1_share = steps::l1_share(gpu);
        let [a, b, c, workspace] = product.slots();
        let mut device =
            CountingDevice::new(workspace.offset_bytes, Ladder::SAMPLED_BLOCKS, &l1_share, false)?;
        let (inputs, outputs) = ([a, b], [c]);
        let arena_address = device.arena_address();
        let args = LaunchArgs { arena_address, inputs: &inputs, outputs: &outputs, workspace };
        device.bind(&args, &[]);
        RUNGS.iter().try_for_each(|rung| rung.launch(&args, &mut device))?;
        let mut disassembler = Disassembler::find();
        let counted = |(rung, launch): (&Rung, _)| {
            let code = disassembler.as_mut().and_then(|program| program.code(rung.entry.kernel, &gpu.arch));
            let flops = product.flops();
            let launch = steps::predict(&launch, gpu, code, &mut L2::of(gpu), flops);
            Counted { step: rung.name, idea: rung.idea, flops, gpu: launch }
        };
        let steps = RUNGS.iter().zip(device.take_launches()).map(counted).collect();
        Ok(Ladder { format: FORMAT, version, product, gpu: gpu.clone(), steps })
    }
}

impl Ladder {
    /// What was computed, and two tables: where the time of each step goes, and what it asks of the GPU.
    pub fn text(&self) -> String {
        let Product { m, n, k } = self.product;
        let mut text = format!(
            "C = A B in bf16, A {m} x {k}, B {k} x {n} ({:.1} GFLOP); predicted for {}\n",
            self.product.flops() as f64 / 1e9,
            show_text(&self.gpu.name)
        );
        text += &wrapped(&self.gpu.sentence());
        SOURCES[..2].iter().for_each(|source| text += &wrapped(source));
        text + &format!("\n{}\n{}", table(&TIMES, &self.steps), table(&DEMANDS, &self.steps))
    }
}

const TIMES: [Column<Counted>; 8] = [
    ("step", Align::Left, |counted| counted.step.into()),
    ("what is new", Align::Left, |counted| counted.idea.into()),
    ("blocks\nan SM", Align::Right, |counted| counted.gpu.blocks_per_sm.to_string()),
    ("waves", Align::Right, |counted| format!("{:.2}", counted.gpu.waves)),
    ("loop\ninstr.", Align::Right, |counted| or_none(counted.gpu.loop_instructions, |many| many.to_string())),
    ("predicted\nus", Align::Right, |counted| us(counted.gpu.predicted_seconds)),
    ("TFLOP/s", Align::Right, |counted| per_second(counted.flops, counted.gpu.predicted_seconds, 1e12)),
    ("bound by", Align::Left, |counted| counted.gpu.bound.to_string()),
];

const DEMANDS: [Column<Counted>; 10] = [
    ("step", Align::Left, |counted| counted.step.into()),
    ("products", Align::Right, |counted| count(counted.gpu.counts.tensor_instructions)),
    ("requests", Align::Right, |counted| count(counted.gpu.counts.global_requests)),
    ("sectors/\nrequest", Align::Right, |Counted { gpu, .. }| a_request(gpu, gpu.counts.global_sectors)),
    ("ideal", Align::Right, |Counted { gpu, .. }| a_request(gpu, gpu.counts.ideal_sectors)),
    ("MB\nfrom L2", Align::Right, |counted| mb(counted.gpu.counts.l2_bytes)),
    ("shared\nphases", Align::Right, |counted| count(counted.gpu.counts.shared_phases)),
    ("ideal", Align::Right, |counted| count(counted.gpu.counts.ideal_phases)),
    ("conflicts", Align::Right, |counted| count(counted.gpu.counts.bank_conflicts())),
    ("round\ntrips", Align::Right, |counted| count(counted.gpu.round_trips)),
];
