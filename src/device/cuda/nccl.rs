//! GPUs of several processes joined by NVIDIA's library for that (NCCL), which is opened when ranks on GPUs meet.
//!
//! Nothing of it is needed to build or to start the program. cudarc has a loader for it, too, which knows no file that is called
//! `libnccl.so.2`, as in every package of it, and panics where it finds none.

mod host;
mod library;

use std::collections::VecDeque;
use std::iter;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, sys};

use self::host::HostBytes;
pub use self::library::Library;
use self::library::{BYTES, FLOATS, Handle, SUM, UniqueId};
use super::Driver;
use super::driver::failed;
use crate::error::Result;

/// This process's GPU among those of a run. Clones are the same.
///
/// Every rank makes the same calls in the same order. A call returns when its work is in the stream, like a launch; whether a rank
/// is missing shows later, by [`Communicator::oldest`] and [`Communicator::check`], which other threads may call.
#[derive(Clone)]
pub struct Communicator {
    shared: Arc<Shared>,
}

struct Shared {
    library: &'static Library,
    handle: Handle,
    rank: usize,
    count: usize,
    /// What carries bytes of the host; also the turn of a thread to call the library.
    host: Mutex<HostBytes>,
    /// What is not known to be over, oldest first.
    unfinished: Mutex<VecDeque<Exchange>>,
    num_exchanges: AtomicU64,
    context: Arc<CudaContext>,
}

// SAFETY: the handle is the library's, which takes it from any thread; calls that it does not order by itself are made by one
// thread at a time, the holder of `host`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Something that all ranks take part in.
struct Exchange {
    number: u64,
    since: Instant,
    /// Its end in the stream; none while the library is called.
    end: Option<CudaEvent>,
}

impl Communicator {
    /// Joins this process, rank `rank` of `count`, with the others by `cuda:<ordinal>`. The ranks meet where the variable
    /// `NCCL_COMM_ID` says, the same for all; this returns when all have come.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if there is no library, no such GPU, or the library cannot join them.
    pub fn join(ordinal: usize, rank: usize, count: usize) -> Result<Communicator> {
        let driver = Driver::start()?;
        driver.gpu(ordinal)?;
        let library = Library::open()?;
        let context = driver.context(ordinal)?;
        let mut id = MaybeUninit::<UniqueId>::uninit();
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: the library writes the id, and reads it when it has; it writes the handle. The context is current.
        unsafe {
            library.check(
                "naming the meeting place",
                None,
                (library.functions.unique_id)(id.as_mut_ptr()),
            )?;
            let joined =
                (library.functions.init_rank)(&raw mut handle, count as i32, id.assume_init(), rank as i32);
            library.check("joining the ranks", None, joined)?;
        }
        let host = Mutex::new(HostBytes::new(&context, count)?);
        let (unfinished, num_exchanges) = (Mutex::default(), AtomicU64::new(0));
        let shared = Shared { library, handle, rank, count, host, unfinished, num_exchanges, context };
        Ok(Communicator { shared: Arc::new(shared) })
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// How many ranks there are.
    pub fn count(&self) -> usize {
        self.shared.count
    }

    /// Number of the oldest exchange that is not over, and how long ago it was asked for.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) or [`Error::DeviceFailed`](crate::Error::DeviceFailed) if the GPU failed.
    pub fn oldest(&self) -> Result<Option<(u64, Duration)>> {
        let mut unfinished = self.shared.unfinished();
        while let Some(Exchange { end: Some(end), .. }) = unfinished.front() {
            let is_over = |()| end.try_is_complete();
            if !self.shared.context.bind_to_thread().and_then(is_over).map_err(failed("an exchange"))? {
                break;
            }
            unfinished.pop_front();
        }
        Ok(unfinished.front().map(|exchange| (exchange.number, exchange.since.elapsed())))
    }

    /// Fails if the library has found out that another rank is gone.
    ///
    /// # Errors
    /// [`Error::Peer`](crate::Error::Peer) for a rank that is gone, else [`Error::Device`](crate::Error::Device).
    pub fn check(&self) -> Result<()> {
        let Shared { library, handle, .. } = &*self.shared;
        let mut found = 0;
        // SAFETY: the handle lives, and the library writes one number; it takes this call from any thread at any time.
        unsafe {
            library.check(
                "asking for errors",
                None,
                (library.functions.async_error)(*handle, &raw mut found),
            )?;
        }
        library.check("an exchange", Some(*handle), found)
    }

    /// Waits until no other thread calls the library.
    pub(super) fn turn(&self) -> Turn<'_> {
        let host = self.shared.host.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { shared: &self.shared, host }
    }
}

impl Shared {
    fn unfinished(&self) -> MutexGuard<'_, VecDeque<Exchange>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of one thread to call the library.
pub(super) struct Turn<'a> {
    shared: &'a Shared,
    host: MutexGuard<'a, HostBytes>,
}

impl Turn<'_> {
    /// As [`Collective::all_to_all`](crate::dist::Collective::all_to_all), from and to memory of the GPU, as work on `stream`: a
    /// part is of `part_bytes`.
    ///
    /// # Safety
    /// Both ranges are allocated, do not overlap, and stay so until the work is done.
    pub(super) unsafe fn all_to_all(
        &self,
        peers: impl IntoIterator<Item = usize>,
        from: u64,
        to: u64,
        part_bytes: usize,
        stream: &CudaStream,
    ) -> Result<()> {
        let parts = (from..).step_by(part_bytes).zip((to..).step_by(part_bytes));
        // SAFETY: the caller vouches for the ranges.
        self.grouped(stream, || unsafe { self.with_each(peers.into_iter().zip(parts), part_bytes, stream) })
    }

    /// As [`Collective::all_gather_among`](crate::dist::Collective::all_gather_among), likewise, of `num_bytes` of each of
    /// `peers`, from and to each of `rows`.
    ///
    /// # Safety
    /// As [`Turn::all_to_all`].
    pub(super) unsafe fn all_gather(
        &self,
        peers: impl ExactSizeIterator<Item = usize> + Clone,
        rows: impl IntoIterator<Item = (u64, u64)>,
        num_bytes: usize,
        stream: &CudaStream,
    ) -> Result<()> {
        let (all_gather, raw) = (self.shared.library.functions.all_gather, stream.cu_stream());
        self.grouped(stream, || {
            rows.into_iter().try_for_each(|(from, to)| {
                if peers.len() < self.shared.count {
                    let parts = iter::repeat(from).zip((to..).step_by(num_bytes));
                    // SAFETY: the caller vouches for the ranges.
                    return unsafe { self.with_each(peers.clone().zip(parts), num_bytes, stream) };
                }
                // SAFETY: as above, and the handle lives.
                self.check(unsafe { all_gather(from, to, num_bytes, BYTES, self.shared.handle, raw) })
            })
        })
    }

    /// Sends each rank of `parts` `part_bytes` from an address and receives as many from it to another.
    ///
    /// # Safety
    /// As [`Turn::all_to_all`].
    unsafe fn with_each(
        &self,
        parts: impl Iterator<Item = (usize, (u64, u64))>,
        part_bytes: usize,
        stream: &CudaStream,
    ) -> Result<()> {
        let Shared { library, handle, .. } = self.shared;
        let (functions, raw) = (&library.functions, stream.cu_stream());
        for (rank, (from, to)) in parts {
            // SAFETY: the caller vouches for the ranges, and the handle lives.
            unsafe {
                self.check((functions.send)(from, part_bytes, BYTES, rank as i32, *handle, raw))?;
                self.check((functions.recv)(to, part_bytes, BYTES, rank as i32, *handle, raw))?;
            }
        }
        Ok(())
    }

    /// Adds up the `num_elems` f32 that each rank has at `address`, in the library's order, for every rank.
    ///
    /// # Safety
    /// As [`Turn::all_gather`], but that this is one range.
    pub(super) unsafe fn all_reduce(
        &self,
        address: u64,
        num_elems: usize,
        stream: &CudaStream,
    ) -> Result<()> {
        let (all_reduce, raw) = (self.shared.library.functions.all_reduce, stream.cu_stream());
        self.exchange(stream, || {
            // SAFETY: the caller vouches for the range, and the handle lives.
            self.check(unsafe {
                all_reduce(address, address, num_elems, FLOATS, SUM, self.shared.handle, raw)
            })
        })
    }

    /// Puts what rank 0 has at `address` into the memory of every rank.
    ///
    /// # Safety
    /// As [`Turn::all_gather`], but that this is one range.
    unsafe fn broadcast(&self, address: u64, num_bytes: usize, stream: &CudaStream) -> Result<()> {
        let (broadcast, raw) = (self.shared.library.functions.broadcast, stream.cu_stream());
        self.exchange(stream, || {
            // SAFETY: the caller vouches for the range, and the handle lives.
            self.check(unsafe { broadcast(address, address, num_bytes, BYTES, 0, self.shared.handle, raw) })
        })
    }

    /// Makes `calls`, which the library takes together, as one exchange on `stream`.
    fn grouped(&self, stream: &CudaStream, calls: impl FnOnce() -> Result<()>) -> Result<()> {
        let functions = &self.shared.library.functions;
        self.exchange(stream, || {
            // SAFETY: these take nothing. A group that was begun is ended.
            self.check(unsafe { (functions.group_start)() })?;
            let called = calls();
            // SAFETY: as above.
            let ended = self.check(unsafe { (functions.group_end)() });
            called.and(ended)
        })
    }

    /// Makes `call`, an exchange on `stream`, with a note of it for who watches.
    fn exchange(&self, stream: &CudaStream, call: impl FnOnce() -> Result<()>) -> Result<()> {
        let shared = self.shared;
        shared.context.bind_to_thread().map_err(failed("an exchange"))?;
        let number = shared.num_exchanges.fetch_add(1, Ordering::Relaxed) + 1;
        shared.unfinished().push_back(Exchange { number, since: Instant::now(), end: None });
        let untimed = Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let end = call().and_then(|()| stream.record_event(untimed).map_err(failed("recording an event")));
        let mut unfinished = shared.unfinished();
        // One thread at a time is here: the newest is this one's.
        let exchange = unfinished.pop_back().expect("an exchange without an end is left where it is");
        unfinished.push_back(Exchange { end: Some(end?), ..exchange });
        Ok(())
    }

    fn check(&self, result: i32) -> Result<()> {
        self.shared.library.check("an exchange", Some(self.shared.handle), result)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: made in `join`, destroyed once. A failure here follows one that has been reported, or none that matters: the
        // ranks have parted.
        let _ = unsafe { (self.library.functions.destroy)(self.handle) };
    }
}
