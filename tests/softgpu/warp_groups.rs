//! Convolutions whose kernels multiply by groups of warps, where this build has assembly text of them: only a GPU of
//! capability 9.0 runs it, which would run machine code if it were not asked for the text.

use std::io::Write as _;

use residuum::device::kernels::{KERNELS, TOOLKIT};

use crate::gpu::{Report, SoftGpu, software_gpu};
use crate::program::{Program, texts};

const IMAGE: &str = "compute_90a";
const HOPPER: [(&str, &str); 2] = [("SOFTGPU_CC", "9.0"), ("RESIDUUM_CUDA_IMAGE", IMAGE)];

/// The software GPU; none, with a line that says why, without it or without the text.
fn hopper() -> Option<&'static SoftGpu> {
    let gpu = software_gpu()?;
    if TOOLKIT.as_ref().is_some_and(|toolkit| toolkit.archs.contains(&IMAGE)) {
        return Some(gpu);
    }
    println!("skipped: this build has no image of {IMAGE}; RESIDUUM_CUDA_ARCH lists what is built");
    None
}

#[test]
fn convolutions_by_groups_of_warps_agree_with_the_cpu() {
    let Some(gpu) = hopper() else { return };
    let program = Program::new();
    let mut all = Report::default();
    for (random, variables) in [
        (0, [("SOFTGPU_RACES", "1"), ("SOFTGPU_SEED", "1")]),
        (0, [("SOFTGPU_RACES", "2"), ("SOFTGPU_SEED", "2")]),
        (16, [("SOFTGPU_MMA", "truncate"), ("SOFTGPU_SEED", "3")]),
    ] {
        let call = format!("check-kernels --device cuda --filter conv2d --random {random}");
        let (output, record) = gpu.output(&mut program.command(&call), &[HOPPER, variables].concat());
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{variables:?}\n{stdout}{stderr}{}", record.log());
        all.add(record.clean_report());
    }
    let (mut run, mut total) = (0, 0);
    let kernels: Vec<_> = KERNELS.iter().filter(|kernel| kernel.is_by_warp_groups()).collect();
    for kernel in &kernels {
        let report = all.kernels.get(kernel.name).unwrap_or_else(|| panic!("{} was not loaded", kernel.name));
        assert!(report.launches > 0, "{} never ran", kernel.name);
        run += report.covered.bytes().filter(|&covered| covered == b'1').count();
        total += report.covered.len();
    }
    writeln!(
        std::io::stderr(),
        "software GPU: {} kernels of groups of warps, {run} of {total} PTX instructions executed ({:.1} %)",
        kernels.len(),
        100.0 * run as f64 / total as f64
    )
    .unwrap();
}

/// What a mutation does, and the edit of the text that does it: a kernel, which matching line, pattern, replacement.
const MUTATIONS: [(&str, &str); 9] = [
    (
        "copies are not shown to the products",
        r"conv2d_fprop_wgmma_tile128x64_bf16|1|fence\.proxy\.async[^;]*;|",
    ),
    (
        "they are shown before they arrive",
        r"conv2d_fprop_wgmma_tile64x64_bf16|0|cp\.async\.wait_group [12];|cp.async.wait_group 3;",
    ),
    ("the barrier before the products is gone", r"conv2d_dgrad_wgmma_tile128x64_bf16|1|bar\.sync[^;]*;|"),
    ("registers are not ordered before products", r"conv2d_wgrad_wgmma_tile64x64_bf16|1|wgmma\.fence[^;]*;|"),
    (
        "products are not waited for before the next copies",
        r"conv2d_fprop_wgmma_tile64x64_bf16|1|wgmma\.wait_group[^;]*;|",
    ),
    (
        "products are not waited for before the sums are read",
        r"conv2d_dgrad_wgmma_tile64x64_bf16|2|wgmma\.wait_group[^;]*;|",
    ),
    ("products are not committed", r"conv2d_wgrad_wgmma_tile64x128_bf16|1|wgmma\.commit_group[^;]*;|"),
    (
        "a matrix is read along the other way",
        r"conv2d_wgrad_wgmma_tile64x64_bf16|1|1, 1, 1, 1, 1;|1, 1, 1, 0, 1;",
    ),
    ("a product is taken away", r"conv2d_fprop_wgmma_tile128x128_bf16|1|, 1, 1, 1, 0, 0;|, 1, -1, 1, 0, 0;"),
];

#[test]
fn faults_planted_in_kernels_of_groups_of_warps_are_told() {
    let Some(gpu) = hopper() else { return };
    let program = Program::new();
    let is_told = |(name, edit): &(&str, &str)| {
        let operation = if edit.contains("wgrad") {
            "wgrad"
        } else if edit.contains("dgrad") {
            "dgrad"
        } else {
            "fprop"
        };
        let call = format!("check-kernels --device cuda --filter conv2d_{operation}");
        let variables = [HOPPER, [("SOFTGPU_PTX_EDIT", *edit), ("SOFTGPU_RACES", "1")]].concat();
        let (output, record) = gpu.output(&mut program.command(&call), &variables);
        assert!(!record.log().contains("limit:"), "{name}: {}", record.log());
        !output.status.success()
    };
    let missed: Vec<&str> = MUTATIONS.iter().filter(|mutation| !is_told(mutation)).map(|it| it.0).collect();
    assert!(missed.is_empty(), "not told: {missed:?}");
}
