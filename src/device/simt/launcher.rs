//! The emulator as a kernel device: an arena made to size, and launches that run at once.

use super::{Checks, SimtDevice};
use crate::device::kernels::Kernel;
use crate::device::{DeviceKind, KernelDevice, LaunchArgs, Launcher, Record};
use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/host_kernels.rs"));

/// The emulator for a session: kernels of this build, in thread orders drawn from a seed.
pub struct Emulator {
    seed: u64,
    checks: Checks,
    device: Option<SimtDevice>,
}

impl Emulator {
    /// An emulator without memory.
    pub fn new(seed: u64, checks: Checks) -> Emulator {
        Emulator { seed, checks, device: None }
    }

    fn device(&self) -> Result<&SimtDevice> {
        self.device.as_ref().ok_or_else(no_arena)
    }

    fn device_mut(&mut self) -> Result<&mut SimtDevice> {
        self.device.as_mut().ok_or_else(no_arena)
    }
}

fn no_arena() -> Error {
    Error::Device("the emulator has no arena yet".into())
}

impl KernelDevice for Emulator {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Simt
    }

    fn allocate(&mut self, num_bytes: usize) -> Result<u64> {
        let device = SimtDevice::new(num_bytes, self.seed, self.checks)?;
        let address = device.arena_address();
        self.device = Some(device);
        Ok(address)
    }

    fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) -> Result<()> {
        self.device_mut()?.upload(offset_bytes, bytes);
        Ok(())
    }

    fn download(&self, offset_bytes: usize, bytes: &mut [u8]) -> Result<()> {
        self.device()?.download(offset_bytes, bytes);
        Ok(())
    }

    fn run(&mut self, _key: (usize, usize, usize), record: Record<'_>) -> Result<()> {
        record(self.device_mut()?)
    }
}

impl Launcher for SimtDevice {
    fn bind(&mut self, args: &LaunchArgs<'_>, mutates: &[usize]) {
        SimtDevice::bind(self, args, mutates);
    }

    fn launch(
        &mut self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> Result<()> {
        self.run(&HOST_KERNELS[kernel.index], grid, block, shared_bytes, arguments)
    }
}
