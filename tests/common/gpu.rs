//! The first GPU, for tests that run where there is one.

use residuum::device::Device;

/// The first GPU; none with a line that says why, or where `RESIDUUM_TEST_DEVICES` is `simt`.
///
/// # Panics
/// If there is none where `RESIDUUM_TEST_DEVICES` is `cuda`.
pub fn gpu() -> Option<Device> {
    let (device, wanted) = (Device::Cuda(0), std::env::var("RESIDUUM_TEST_DEVICES").unwrap_or_default());
    if wanted == "simt" {
        println!("skipped: RESIDUUM_TEST_DEVICES leaves out the GPU");
        return None;
    }
    let reason = match device.check() {
        Ok(()) => return Some(device),
        Err(reason) => reason,
    };
    assert!(wanted != "cuda", "no CUDA device ({reason})");
    println!("skipped: no CUDA device ({reason})");
    None
}
