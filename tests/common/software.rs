//! What a GPU is: tests are shorter on the software GPU.

use residuum::device::Device;
use residuum::device::cuda::Driver;

/// Whether `device` is the software GPU, which takes minutes for what another does in seconds.
pub fn is_software(device: Device) -> bool {
    let Device::Cuda(ordinal) = device else { return false };
    Driver::start().unwrap().gpu(ordinal).unwrap().name.contains("softgpu")
}
