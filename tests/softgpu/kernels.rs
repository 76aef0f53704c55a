//! Every kernel as nvcc compiled it, under every way in which GPUs differ; what of its code ran; and faults planted in it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use residuum::device::kernels::{KERNELS, Kernel};

use crate::gpu::{KernelReport, Report, SoftGpu, kernels_wait, software_gpu};
use crate::program::{Program, texts};

/// Of each kernel's instructions, over all kernels, so many have to run.
const LEAST_COVERAGE: f64 = 0.95;

/// What each GPU is like that `check-kernels` has to pass on, and how many more random shapes it gets there.
const GPUS: [(u64, &[(&str, &str)]); 4] = [
    // Work waits until the host does, and shared memory is watched for races.
    (0, &[("SOFTGPU_RACES", "1")]),
    // Work runs as it comes, and tensor cores cut what they add.
    (24, &[("SOFTGPU_EAGER", "1"), ("SOFTGPU_SEED", "2"), ("SOFTGPU_MMA", "truncate")]),
    // As much shared memory as a block of consumer GPUs has.
    (0, &[("SOFTGPU_SHARED", "101376"), ("SOFTGPU_SEED", "3")]),
    // Global memory is watched for races between blocks.
    (0, &[("SOFTGPU_RACES", "2"), ("SOFTGPU_SEED", "4")]),
];

#[test]
fn every_kernel_agrees_with_the_cpu_on_every_kind_of_gpu() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::new();
    let mut all = Report::default();
    for (random, variables) in GPUS {
        let mut command = program.command(&format!("check-kernels --device cuda --random {random}"));
        let (output, record) = gpu.output(&mut command, variables);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{variables:?}\n{stdout}{stderr}{}", record.log());
        assert!(stdout.contains("every kernel of the operations was launched"), "{stdout}");
        all.add(record.clean_report());
    }
    let (mut run, mut total, mut never) = (0, 0, String::new());
    // Those of warp groups are launched on Hopper alone (warp_groups.rs).
    let is_launched = |kernel: &&Kernel| kernel.is_of_operations() && !kernel.is_by_warp_groups();
    let kernels: Vec<_> = KERNELS.iter().filter(is_launched).collect();
    for kernel in &kernels {
        let report = all.kernels.get(kernel.name).unwrap_or_else(|| panic!("{} never ran", kernel.name));
        run += report.covered.bytes().filter(|&covered| covered == b'1').count();
        total += report.covered.len();
        list_never_run(kernel.name, report, &mut never);
    }
    let coverage = run as f64 / total as f64;
    let mut stderr = std::io::stderr();
    writeln!(
        stderr,
        "software GPU: {} kernels, {run} of {total} PTX instructions executed ({:.1} %), {} launches, \
         {} violations, {} leaks, {} races\nnever executed:\n{never}driver entry points used: {}",
        kernels.len(),
        100.0 * coverage,
        all.calls["cuLaunchKernelEx"],
        all.violations,
        all.leaks,
        all.races,
        all.calls.keys().cloned().collect::<Vec<_>>().join(" ")
    )
    .unwrap();
    assert!(coverage >= LEAST_COVERAGE, "{:.1} % of the instructions ran", 100.0 * coverage);
}

/// Appends a line about the instructions that never ran: how many, and the lines of the source they are from.
fn list_never_run(name: &str, report: &KernelReport, to: &mut String) {
    let never = report.source.iter().zip(report.covered.bytes()).filter(|(_, covered)| *covered != b'1');
    let places: Vec<&str> = never.map(|(place, _)| place.as_str()).collect();
    let lines: BTreeSet<&str> = places.iter().copied().collect();
    if !places.is_empty() {
        let lines = Vec::from_iter(lines).join(" ");
        writeln!(to, "  {name}: {} of {} instructions, {lines}", places.len(), report.covered.len()).unwrap();
    }
}

/// A line of a kernel's PTX, changed: what it does, the kernel, which matching line, pattern and replacement.
struct Mutation {
    name: &'static str,
    edit: &'static str,
}

const MUTATIONS: [Mutation; 9] = [
    Mutation {
        name: "a copy is not waited for",
        edit: r"conv2d_fprop_tile128x128_bf16|0|cp\.async\.wait_group 1;|cp.async.wait_group 2;",
    },
    Mutation {
        name: "an operand is read transposed",
        edit: r"conv2d_fprop_tile128x64_bf16|1|x4\.shared|x4.trans.shared",
    },
    Mutation {
        name: "copies beyond the border are not cut",
        edit: r"conv2d_dgrad_tile64x64_bf16|0|(cp\.async\.ca[^;]*, 16), %r[0-9]+;|$1;",
    },
    Mutation { name: "the first barrier is gone", edit: r"conv2d_fprop_tile64x64_bf16|1|bar\.sync[^;]*;|" },
    Mutation { name: "the second barrier is gone", edit: r"conv2d_fprop_tile64x64_bf16|2|bar\.sync[^;]*;|" },
    Mutation { name: "a barrier of a sum is gone", edit: r"softmax_xent_totals|2|bar\.sync[^;]*;|" },
    Mutation { name: "a shuffle of a sum goes one way", edit: r"softmax_xent_rows|3|\.bfly\.|.up." },
    Mutation { name: "a comparison is turned round", edit: r"relu_fwd_f32|1|setp\.gtu|setp.ltu" },
    Mutation { name: "launches before are not waited for", edit: r"relu_fwd_f32|1|griddepcontrol\.wait;|" },
];

fn is_told(gpu: &SoftGpu, program: &Program, Mutation { name, edit }: &Mutation) -> bool {
    let kernel = edit.split('|').next().unwrap();
    let file = kernel.split("_tile").next().unwrap().trim_end_matches("_f32").trim_end_matches("_totals");
    let operation = file.split('_').next().unwrap();
    let mut command = program.command(&format!("check-kernels --device cuda --filter {operation}"));
    let variables = [("SOFTGPU_PTX_EDIT", *edit), ("SOFTGPU_RACES", "1")];
    let (output, record) = gpu.output(&mut command, &variables);
    assert!(!record.log().contains("limit:"), "{name}: {}", record.log());
    !output.status.success()
}

#[test]
fn faults_planted_in_kernels_are_told() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::new();
    let can_plant = |mutation: &&Mutation| kernels_wait() || !mutation.edit.contains("griddepcontrol");
    let planted: Vec<&Mutation> = MUTATIONS.iter().filter(can_plant).collect();
    let missed: Vec<&str> =
        planted.iter().filter(|mutation| !is_told(gpu, &program, mutation)).map(|it| it.name).collect();
    assert!(missed.is_empty(), "not told: {missed:?}");
    writeln!(std::io::stderr(), "software GPU: {} of {0} faults planted in kernels told", planted.len())
        .unwrap();
}
