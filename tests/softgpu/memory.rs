//! Memory that runs out: which memory, and what to do.

use crate::gpu::software_gpu;
use crate::program::{Program, failed, texts};

const RUN: &str = "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 4 --limit-val 4 --max-steps 1 \
                   --device cuda --precision bf16";

#[test]
fn memory_that_runs_out_is_named_with_a_remedy() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    for (variable, value, parts) in [
        // The context takes 300 MiB.
        ("SOFTGPU_MEM_MIB", "360", ["the plan needs", "60.00 MiB free of 360.00 MiB", "smaller batch"]),
        ("SOFTGPU_PINNED_MIB", "1", ["page-locked memory for uploads", "the host gives", "ulimit -l"]),
        (
            "SOFTGPU_FAIL",
            "cuMemHostAlloc:1:2",
            ["page-locked memory for results", "the host gives", "ulimit -l"],
        ),
        ("SOFTGPU_FAIL", "cuModuleLoadData:3:2", ["loading", ".cu", "the GPU's memory is full"]),
        (
            "SOFTGPU_FAIL",
            "cuGraphInstantiateWithFlags:1:2",
            ["capturing a step", "the GPU's memory is full", "smaller batch"],
        ),
    ] {
        let (output, record) = gpu.output(&mut program.command(RUN), &[(variable, value)]);
        failed(&output, &format!("{variable}={value} {RUN}"), 6, &parts);
        let report = record.clean_report();
        assert_eq!(report.injected > 0, variable == "SOFTGPU_FAIL");
    }
}

#[test]
fn a_batch_that_is_said_to_fit_does() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    let small = [("SOFTGPU_MEM_MIB", "760")];
    let large = RUN.replace("--batch-size 4", "--batch-size 40").replace("--img-size 16", "--img-size 256");
    let (output, _) = gpu.output(&mut program.command(&large), &small);
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    let told = stderr.split("--batch-size ").nth(1).unwrap_or_else(|| panic!("no batch is named:\n{stderr}"));
    let fits: usize = told.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
    assert!((1..40).contains(&fits), "{stderr}");
}
