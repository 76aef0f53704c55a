//! Exchanges with the GPUs of other ranks, on a stream of their own beside the launches.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaStream, sys};

use super::driver::failed;
use super::spans::Spans;
use super::{Communicator, CudaDevice};
use crate::error::Result;

/// Waits whose marks are kept: more than lists of launches are under way, so that nobody waits for one but in
/// [`CudaDevice::take_exchange_time`].
const WAITS_KEPT: usize = 64;

/// What a GPU has under way with others.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// From the first exchange on.
    stream: Option<Arc<CudaStream>>,
    /// There are some that launches have not been made to wait for.
    is_under_way: bool,
    /// How long launches waited.
    waits: Spans,
}

impl Exchanges {
    /// Waits for what is under way, whatever became of it: its memory is about to go.
    pub fn abandon(&self) {
        if let Some(stream) = &self.stream {
            // A failure follows one that has been reported.
            let _ = stream.synchronize();
        }
    }
}

impl CudaDevice {
    /// Sends part i of the arena at `from` to the i-th of `peers`, this rank among them, and puts what comes from it into part i of as
    /// many bytes from `to` on, when the launches so far are done. Those that follow run meanwhile, until
    /// [`CudaDevice::finish_exchanges`].
    ///
    /// # Errors
    /// What the library that joins the GPUs reports.
    ///
    /// # Panics
    /// If they do not lie inside the arena, or overlap.
    pub fn all_to_all(
        &mut self,
        ranks: &Communicator,
        peers: impl ExactSizeIterator<Item = usize>,
        from: Range<usize>,
        to: usize,
    ) -> Result<()> {
        let (sent, received) = self.exchanged(from.clone(), to..to + from.len());
        let part_bytes = from.len() / peers.len();
        self.exchange(|stream| {
            // SAFETY: the ranges lie in the arena, which is freed only after the stream has been waited for.
            unsafe { ranks.turn().all_to_all(peers, sent, received, part_bytes, stream) }
        })
    }

    /// Puts the `num_bytes` that each of `peers` has in its arena at each of `from`, in the order of ranks, into the bytes from `to`
    /// on; as [`CudaDevice::all_to_all`].
    ///
    /// # Errors
    /// As [`CudaDevice::all_to_all`].
    ///
    /// # Panics
    /// As [`CudaDevice::all_to_all`].
    pub fn all_gather(
        &mut self,
        ranks: &Communicator,
        peers: impl ExactSizeIterator<Item = usize> + Clone,
        from: impl IntoIterator<Item = usize, IntoIter: Clone>,
        num_bytes: usize,
        to: usize,
    ) -> Result<()> {
        let all_bytes = num_bytes * peers.len();
        let rows = from.into_iter().enumerate().map(move |(row, from)| (from, to + row * all_bytes));
        for (from, to) in rows.clone() {
            self.exchanged(from..from + num_bytes, to..to + all_bytes);
        }
        let arena = self.arena_address();
        let rows = rows.map(|(from, to)| (arena + from as u64, arena + to as u64));
        // SAFETY: as in `all_to_all`.
        self.exchange(|stream| unsafe { ranks.turn().all_gather(peers, rows, num_bytes, stream) })
    }

    /// Adds up the f32 that each rank has in its arena at `sums`, in an order of the library's own, for every rank; as
    /// [`CudaDevice::all_to_all`].
    ///
    /// # Errors
    /// As [`CudaDevice::all_to_all`].
    ///
    /// # Panics
    /// If they do not lie inside the arena.
    pub fn all_reduce(&mut self, ranks: &Communicator, sums: Range<usize>) -> Result<()> {
        let address = self.range(sums.start, sums.len());
        // SAFETY: as in `all_to_all`.
        self.exchange(|stream| unsafe {
            ranks.turn().all_reduce(address, sums.len() / size_of::<f32>(), stream)
        })
    }

    /// How long launches have waited for exchanges since the last call, after waiting for those under way.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if one of them failed.
    pub fn take_exchange_time(&mut self) -> Result<Duration> {
        self.exchanges.waits.take()
    }

    /// Has the launches from here on wait for the exchanges under way, if there are any, and notes for how long.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the GPU failed.
    pub fn finish_exchanges(&mut self) -> Result<()> {
        let Some(stream) = self.exchanges.stream.clone().filter(|_| self.exchanges.is_under_way) else {
            return Ok(());
        };
        self.exchanges.is_under_way = false;
        self.exchanges.waits.wait_until_below(WAITS_KEPT)?;
        let begin = self.mark()?;
        put_behind(&self.stream, &stream)?;
        let end = self.mark()?;
        self.exchanges.waits.push(begin, end);
        Ok(())
    }

    /// Starts an exchange of what the launches so far leave.
    fn exchange(&mut self, start: impl FnOnce(&CudaStream) -> Result<()>) -> Result<()> {
        let stream = match &self.exchanges.stream {
            Some(stream) => Arc::clone(stream),
            None => {
                let stream = self.context.new_stream().map_err(failed("creating a stream"))?;
                Arc::clone(self.exchanges.stream.insert(stream))
            }
        };
        put_behind(&stream, &self.stream)?;
        self.exchanges.is_under_way = true;
        start(&stream)
    }

    /// Addresses of two ranges of the arena that do not overlap.
    fn exchanged(&self, from: Range<usize>, to: Range<usize>) -> (u64, u64) {
        assert!(from.end <= to.start || to.end <= from.start, "what is received lies beside what is sent");
        (self.range(from.start, from.len()), self.range(to.start, to.len()))
    }
}

/// Has what comes on `stream` wait for what is on `other`.
fn put_behind(stream: &CudaStream, other: &CudaStream) -> Result<()> {
    let untimed = Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
    let event = other.record_event(untimed).map_err(failed("recording an event"))?;
    stream.wait(&event).map_err(failed("waiting for an event"))
}
