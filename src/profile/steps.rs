//! From the plan of a step to its launches.

use super::disassembler::Disassembler;
use super::predict::{L2, Work};
use super::sass::KernelCode;
use super::{Gpu, GpuLaunch, Launch, Unit};
use crate::batch::Batch;
use crate::device::counts::LOADS_IN_FLIGHT;
use crate::device::kernels::RESOURCES;
use crate::device::kernels::common::WARP_THREADS;
use crate::device::simt::{CountedLaunch, CountingDevice};
use crate::device::{Kernel, LaunchArgs, Launcher};
use crate::error::Result;
use crate::plan::Program;
use crate::step::values;
use crate::transform::{AutoSteps, SampleParams};

/// Counts what each launch of plan `index` of `program` asks of `gpu`, running up to `sampled_blocks` blocks of each on the
/// emulator, and predicts its time. Of `batch` the kernels find what they take addresses from; pixels are zeros.
///
/// # Errors
/// [`crate::Error::DoesNotFit`] if the system reserves no address space for the arena, [`crate::Error::Device`] if a kernel
/// fails.
pub fn count(
    program: &Program,
    index: usize,
    batch: &Batch,
    gpu: &Gpu,
    sampled_blocks: u32,
) -> Result<Vec<Launch>> {
    let l1_share = l1_share(gpu);
    let mut device =
        CountingDevice::new(program.peak_bytes, sampled_blocks, &l1_share, gpu.has_warp_groups())?;
    for (name, bytes) in [
        (values::ROWS, bytemuck::cast_slice(&batch.rows)),
        (values::PARAMS, bytemuck::cast_slice(SampleParams::as_floats(&batch.params))),
        (values::STEPS, bytemuck::cast_slice(AutoSteps::as_floats(&batch.steps))),
        (values::LABELS, bytemuck::cast_slice(&batch.labels)),
    ] {
        if let Ok(slot) = program.plans[index].slot(name) {
            device.upload(slot.offset_bytes, bytes);
        }
    }
    let mut counted = Vec::new();
    for step in &program.plans[index].steps {
        let (inputs, outputs, workspace) = (&step.inputs, &step.outputs, step.workspace);
        let args = LaunchArgs { arena_address: device.arena_address(), inputs, outputs, workspace };
        device.bind(&args, step.op.mutates());
        step.op.launch(&args, &mut device)?;
        counted.push(device.take_launches());
    }
    let mut disassembler = Disassembler::find();
    if let Some(disassembler) = &mut disassembler {
        let kernels: Vec<&Kernel> = counted.iter().flatten().map(|launch| launch.kernel).collect();
        disassembler.read(&kernels, &gpu.arch);
    }
    let mut l2 = L2::of(gpu);
    let mut launches = Vec::new();
    for (step, counted) in program.plans[index].steps.iter().zip(&counted) {
        for (i, counted) in counted.iter().enumerate() {
            let mut launch = Launch::of(step, i == 0);
            let code = disassembler.as_mut().and_then(|program| program.code(counted.kernel, &gpu.arch));
            launch.gpu = Some(predict(counted, gpu, code, &mut l2, launch.flops));
            launches.push(launch);
        }
    }
    Ok(launches)
}

/// Bytes of L1 of `gpu` that a block of a kernel has to itself, given the kernel and its dynamic shared memory.
pub(super) fn l1_share(gpu: &Gpu) -> impl Fn(&Kernel, u32) -> usize + Sync {
    |kernel, dynamic_bytes| {
        let taken = Taken::of(kernel, &gpu.arch, dynamic_bytes);
        gpu.l1_bytes_of_block(kernel.block_threads, taken.registers, taken.shared_bytes)
    }
}

/// What a kernel takes of a multiprocessor.
struct Taken {
    registers: Option<u32>,
    shared_bytes: u32,
}

impl Taken {
    fn of(kernel: &Kernel, arch: &str, dynamic_bytes: u32) -> Taken {
        let resources = RESOURCES.iter().find(|entry| entry.kernel == kernel.name && entry.arch == arch);
        Taken {
            registers: resources.map(|entry| entry.registers),
            shared_bytes: dynamic_bytes + resources.map_or(0, |entry| entry.shared_bytes),
        }
    }
}

/// What a launch of so many floating-point operations asks of `gpu`, and how long it takes, with `l2` as launches before it
/// left it.
pub(super) fn predict(
    counted: &CountedLaunch,
    gpu: &Gpu,
    code: Option<&KernelCode>,
    l2: &mut L2,
    flops: u64,
) -> GpuLaunch {
    let CountedLaunch { kernel, grid, block_threads, counts, touched, .. } = counted;
    let Taken { registers, shared_bytes } = Taken::of(kernel, &gpu.arch, counted.shared_bytes);
    let blocks_per_sm = gpu.resident_blocks(*block_threads, registers, shared_bytes);
    let operands = touched
        .iter()
        .map(|footprint| (footprint.slot.offset_bytes, footprint.read_bytes, footprint.written_bytes));
    let dram_bytes = l2.launch(operands);
    let num_blocks = grid.iter().map(|&blocks| u64::from(blocks)).product();
    let num_warps = num_blocks * u64::from(block_threads.div_ceil(WARP_THREADS as u32));
    let instructions = match code {
        Some(code) => {
            let by_warp = |amount: u64| amount.div_ceil(num_warps);
            num_warps
                * code.warp_instructions(by_warp(counts.tensor_instructions), by_warp(counts.global_requests))
        }
        // Of an operation without tensor cores the multiply-adds at least: a warp's is 64 of its operations.
        None if counts.tensor_instructions == 0 => flops / 64,
        None => 0,
    };
    let main_loop = code.and_then(KernelCode::main_loop);
    let loads_in_flight = code.and_then(|code| code.loads_in_flight).map_or(LOADS_IN_FLIGHT, u64::from);
    let round_trips = counts.round_trips(loads_in_flight);
    let tensor_flops_per_clock = match kernel.is_by_warp_groups() {
        true => gpu.group_flops_per_clock,
        false => gpu.tensor_flops_per_clock,
    };
    let work = Work {
        counts,
        tensor_flops_per_clock,
        num_blocks,
        blocks_per_sm,
        round_trips,
        instructions,
        dram_bytes,
    };
    let unit_seconds = work.unit_seconds(gpu);
    GpuLaunch {
        kernel: kernel.name.to_string(),
        grid: *grid,
        block_threads: *block_threads,
        registers,
        shared_bytes,
        blocks_per_sm,
        waves: work.waves(gpu),
        loop_instructions: main_loop.map(|main| main.instructions),
        loop_tensor_instructions: main_loop.map(|main| main.tensor),
        counts: *counts,
        round_trips,
        dram_bytes,
        unit_seconds,
        bound: Unit::longest(unit_seconds.all()),
        predicted_seconds: unit_seconds.together() + gpu.launch_gap_us * 1e-6,
    }
}
