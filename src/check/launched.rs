//! Which kernels have been launched, on any number of devices.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::device::kernels::KERNELS;
use crate::device::{DeviceKind, Kernel, KernelDevice, LaunchArgs, Launcher, Record, RecordList};
use crate::error::Result;

/// Names of launched kernels; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Launched(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    names: BTreeSet<&'static str>,
    /// Whether a device had warp groups.
    has_warp_groups: bool,
}

impl Launched {
    /// `device`, noting here what is launched on it.
    pub fn watch(&self, device: Box<dyn KernelDevice>) -> Box<dyn KernelDevice> {
        Box::new(Watched { device, launched: self.clone() })
    }

    /// The kernels of operations that have not been launched, in the order of their names, of those that the devices run.
    pub fn missing(&self) -> Vec<&'static str> {
        let Noted { names, has_warp_groups } = &*self.noted();
        let is_wanted =
            |kernel: &&Kernel| kernel.is_of_operations() && (*has_warp_groups || !kernel.is_by_warp_groups());
        let wanted: BTreeSet<&'static str> =
            KERNELS.iter().filter(is_wanted).map(|kernel| kernel.name).collect();
        wanted.difference(names).copied().collect()
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watched {
    device: Box<dyn KernelDevice>,
    launched: Launched,
}

impl KernelDevice for Watched {
    fn kind(&self) -> DeviceKind {
        self.device.kind()
    }

    fn allocate(&mut self, num_bytes: usize) -> Result<u64> {
        self.device.allocate(num_bytes)
    }

    fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) -> Result<()> {
        self.device.upload(offset_bytes, bytes)
    }

    fn download(&self, offset_bytes: usize, bytes: &mut [u8]) -> Result<()> {
        self.device.download(offset_bytes, bytes)
    }

    fn enqueue_readback(&mut self, offset_bytes: usize, num_bytes: usize, to: &mut Vec<u8>) -> Result<()> {
        self.device.enqueue_readback(offset_bytes, num_bytes, to)
    }

    fn finish_readback(&mut self, to: &mut Vec<u8>) -> Result<()> {
        self.device.finish_readback(to)
    }

    fn run(&mut self, key: (usize, usize, usize), record: Record<'_>) -> Result<()> {
        let launched = &self.launched;
        self.device.run(key, &mut |launcher| record(&mut WatchedLauncher { launcher, launched }))
    }

    fn take_busy_time(&mut self) -> Result<Duration> {
        self.device.take_busy_time()
    }

    fn run_timed(&mut self, record: RecordList<'_>, times: &mut [Duration]) -> Result<()> {
        let launched = &self.launched;
        let mut watched = |list: usize, launcher: &mut dyn Launcher| {
            record(list, &mut WatchedLauncher { launcher, launched })
        };
        self.device.run_timed(&mut watched, times)
    }
}

struct WatchedLauncher<'a> {
    launcher: &'a mut dyn Launcher,
    launched: &'a Launched,
}

impl Launcher for WatchedLauncher<'_> {
    fn bind(&mut self, args: &LaunchArgs<'_>, mutates: &[usize]) {
        self.launcher.bind(args, mutates);
    }

    fn has_warp_groups(&self) -> bool {
        self.launcher.has_warp_groups()
    }

    fn launch(
        &mut self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> Result<()> {
        let mut noted = self.launched.noted();
        noted.names.insert(kernel.name);
        noted.has_warp_groups |= self.launcher.has_warp_groups();
        drop(noted);
        self.launcher.launch(kernel, grid, block, shared_bytes, arguments)
    }
}
