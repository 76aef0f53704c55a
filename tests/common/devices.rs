//! The devices that kernels run on here: the emulator, if it was built, and the first GPU, if there is one.

#[path = "gpu.rs"]
mod gpu;

use residuum::device::{Device, KernelDevice};

/// How the emulator watches: the seed of the order of threads, and whether every access is judged.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    pub seed: u64,
    pub judged: bool,
}

/// Opens a device anew.
pub type Open = fn(Watch) -> Box<dyn KernelDevice>;

#[cfg(residuum_simt)]
fn open_simt(watch: Watch) -> Box<dyn KernelDevice> {
    use residuum::device::simt::{Checks, SimtDevice};
    let checks = if watch.judged { Checks::Full } else { Checks::Off };
    Box::new(SimtDevice::new(watch.seed, checks).unwrap())
}

fn open_cuda(_: Watch) -> Box<dyn KernelDevice> {
    Device::Cuda(0).open_kernels().unwrap().unwrap()
}

/// Runs `check` on every device that is here, and says which ones are not.
pub fn on_each_device(check: impl Fn(Device, Open)) {
    #[cfg(residuum_simt)]
    if std::env::var("RESIDUUM_TEST_DEVICES").is_ok_and(|wanted| wanted == "cuda") {
        println!("skipped: RESIDUUM_TEST_DEVICES leaves out the emulator");
    } else {
        check(Device::Simt, open_simt);
    }
    #[cfg(not(residuum_simt))]
    println!("skipped: {}", residuum::device::NO_EMULATOR);
    if let Some(device) = gpu::gpu() {
        check(device, open_cuda);
    }
}
