//! Tests that want a GPU, run a second time on the software GPU.

#[path = "softgpu.rs"]
mod softgpu;

use std::env;
use std::process::Command;

use softgpu::software_gpu;

/// Runs the tests of this executable whose names contain one of `filters` and not `skip` again, with the software GPU as
/// the GPU and the emulator left out.
pub fn run_tests_again(filters: &[&str], skip: &str) {
    let Some(gpu) = software_gpu() else { return };
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(filters)
        .args(["--skip", skip, "--nocapture", "--test-threads=1"])
        .env("RESIDUUM_TEST_DEVICES", "cuda");
    let record = gpu.attach(&mut command, &[]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}{}", String::from_utf8_lossy(&output.stderr), record.log());
    assert!(!text.contains("skipped: no CUDA device"), "the software GPU was not found:\n{text}");
    record.assert_clean();
}
