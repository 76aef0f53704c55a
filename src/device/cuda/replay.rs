//! A GPU as a session's device: every list of launches is captured when it first comes and replayed from then on.

use std::collections::HashMap;
use std::time::Duration;

use super::spans::Spans;
use super::staging::LISTS_AHEAD;
use super::{CudaDevice, GraphId};
use crate::device::{DeviceKind, KernelDevice, Record, RecordList};
use crate::error::Result;

/// A GPU with the lists it has captured.
#[derive(Debug)]
pub struct ReplayingGpu {
    device: CudaDevice,
    captured: HashMap<(usize, usize, usize), GraphId>,
    /// The lists that were started.
    busy: Spans,
}

impl ReplayingGpu {
    /// The GPU `ordinal`.
    ///
    /// # Errors
    /// As [`CudaDevice::open`].
    pub fn open(ordinal: usize) -> Result<ReplayingGpu> {
        Ok(ReplayingGpu {
            device: CudaDevice::open(ordinal)?,
            captured: HashMap::new(),
            busy: Spans::default(),
        })
    }
}

impl KernelDevice for ReplayingGpu {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Cuda
    }

    fn allocate(&mut self, num_bytes: usize) -> Result<u64> {
        // What was captured holds addresses of the arena before.
        self.captured.clear();
        self.device.allocate(num_bytes)?;
        Ok(self.device.arena_address())
    }

    fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) -> Result<()> {
        self.device.upload(offset_bytes, bytes)
    }

    fn download(&self, offset_bytes: usize, bytes: &mut [u8]) -> Result<()> {
        self.device.download(offset_bytes, bytes)
    }

    fn enqueue_readback(
        &mut self,
        offset_bytes: usize,
        num_bytes: usize,
        readback: &mut Vec<u8>,
    ) -> Result<()> {
        self.device.enqueue_readback(offset_bytes, num_bytes, readback)
    }

    fn finish_readback(&mut self, readback: &mut Vec<u8>) -> Result<()> {
        self.device.finish_readback(readback)
    }

    fn run(&mut self, key: (usize, usize, usize), record: Record<'_>) -> Result<()> {
        let graph = match self.captured.get(&key) {
            Some(graph) => *graph,
            None => {
                let graph = self.device.capture(record)?;
                self.captured.insert(key, graph);
                graph
            }
        };
        // A host without a limit would be seconds ahead of a slow GPU, and as long to stop.
        self.busy.wait_until_below(LISTS_AHEAD)?;
        let start = self.device.mark()?;
        self.device.replay(graph)?;
        self.busy.push(start, self.device.mark()?);
        Ok(())
    }

    fn take_busy_time(&mut self) -> Result<Duration> {
        self.busy.take()
    }

    fn as_gpu(&mut self) -> Option<&mut CudaDevice> {
        Some(&mut self.device)
    }

    fn run_timed(&mut self, record: RecordList<'_>, times: &mut [Duration]) -> Result<()> {
        self.device.run_timed(record, times)
    }
}
