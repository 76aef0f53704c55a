//! The software GPU, and the double of NCCL, against the documents they are written from.

use std::io::Write;

use crate::gpu::software_gpu;

#[test]
fn the_software_gpu_keeps_to_the_documents_and_tells_every_planted_fault() {
    let Some(gpu) = software_gpu() else { return };
    let (output, record) = gpu.output(&mut gpu.selftest(), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", record.log());
    let last = text.lines().last().unwrap_or_default();
    let numbers: Vec<u32> = last.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [passed, failed, planted, told] = numbers[..] else { panic!("`{last}` has not four counts") };
    assert!(passed > 100 && failed == 0 && planted > 20 && told == planted, "{last}");
    writeln!(std::io::stderr(), "software GPU: {last}").unwrap();
}

#[test]
fn the_double_of_nccl_moves_and_adds_and_tells_what_does_not_fit_together() {
    let Some(gpu) = software_gpu() else { return };
    let output = gpu.nccl_selftest().output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let last = text.lines().last().unwrap_or_default();
    let numbers: Vec<u32> = last.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [passed, failed] = numbers[..] else { panic!("`{last}` has not two counts") };
    assert!(passed > 1000 && failed == 0, "{last}");
    writeln!(std::io::stderr(), "double of NCCL: {last}").unwrap();
}
