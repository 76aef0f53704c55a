//! Numbered work done ahead of time by a few threads and delivered in order.
//!
//! Finished items wait in a ring as long as the prefetch distance. Their buffers go round: whoever took an item gives it
//! back, and the next one is made in it, so that nothing is allocated once all buffers are in circulation.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Threads making items 0, 1, 2, ... ahead of the one who takes them.
#[derive(Debug)]
pub(super) struct Prefetcher<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
    waited: Duration,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// An item is ready, or the work has failed.
    ready: Condvar,
    /// There is room for another item, or the threads are to stop.
    room: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// Item `n` waits at `n % ring.len()`.
    ring: Vec<Option<T>>,
    free: Vec<T>,
    num_started: u64,
    num_taken: u64,
    num_items: u64,
    failure: Option<Failure>,
    stopping: bool,
}

/// Why no more items are made.
#[derive(Debug)]
enum Failure {
    /// What a worker reported, for the first who asks.
    Error(Error),
    /// That has been handed out.
    Reported,
}

impl<T: Default + Send + 'static> Prefetcher<T> {
    /// Starts one thread per element of `workers`, each a function that makes item `n` in a used buffer.
    ///
    /// At most `distance` items are in the making or waiting; `num_items` are made in all. Items are made in `buffers`,
    /// which suffice if they are one more than `distance` and one item is held at a time; otherwise, in new ones.
    ///
    /// # Errors
    /// [`Error::Setting`] if the system does not start so many threads.
    pub(super) fn start<W>(
        workers: Vec<W>,
        distance: usize,
        num_items: u64,
        buffers: Vec<T>,
    ) -> Result<Prefetcher<T>>
    where
        W: FnMut(u64, &mut T) -> Result<()> + Send + 'static,
    {
        let state = State {
            ring: (0..distance).map(|_| None).collect(),
            free: buffers,
            num_started: 0,
            num_taken: 0,
            num_items,
            failure: None,
            stopping: false,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), ready: Condvar::new(), room: Condvar::new() });
        let num_workers = workers.len();
        let mut prefetcher = Prefetcher { shared, threads: Vec::new(), waited: Duration::ZERO };
        for worker in workers {
            let shared = Arc::clone(&prefetcher.shared);
            let thread = thread::Builder::new().spawn(move || shared.work(worker)).map_err(|error| {
                let message = format!("the system starts no thread any more ({error}); give fewer");
                Error::setting("workers", num_workers, message)
            })?;
            prefetcher.threads.push(thread);
        }
        Ok(prefetcher)
    }

    /// The next item, waiting for it if it is not ready; `None` after the last.
    ///
    /// # Errors
    /// What a worker reported; [`Error::Data`] with what it said if it panicked, or if it failed before.
    pub(super) fn next(&mut self) -> Result<Option<T>> {
        let mut state = self.shared.lock();
        if state.num_taken == state.num_items {
            return Ok(None);
        }
        let slot = (state.num_taken % state.ring.len() as u64) as usize;
        let started = Instant::now();
        loop {
            if let Some(item) = state.ring[slot].take() {
                state.num_taken += 1;
                drop(state);
                self.shared.room.notify_one();
                self.waited += started.elapsed();
                return Ok(Some(item));
            }
            if let Some(failure) = &mut state.failure {
                return Err(match std::mem::replace(failure, Failure::Reported) {
                    Failure::Error(error) => error,
                    Failure::Reported => Error::data("data loader", "has failed before"),
                });
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the buffer of an item back.
    pub(super) fn recycle(&mut self, item: T) {
        let mut state = self.shared.lock();
        if state.free.len() < state.free.capacity() {
            state.free.push(item);
        }
    }

    /// The time [`Prefetcher::next`] has waited, all calls together.
    pub(super) fn wait_time(&self) -> Duration {
        self.waited
    }
}

impl<T> Drop for Prefetcher<T> {
    /// Waits for the items in the making and no longer.
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // A worker's panic was caught and reported by `next`.
            let _ = thread.join();
        }
    }
}

impl<T> Shared<T> {
    /// The state; a panic while it was held cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Shared<T> {
    /// Makes items until there are no more or the threads are to stop.
    fn work(&self, mut make: impl FnMut(u64, &mut T) -> Result<()>) {
        while let Some((number, mut item)) = self.begin() {
            let made =
                panic::catch_unwind(AssertUnwindSafe(|| make(number, &mut item))).unwrap_or_else(|panic| {
                    Err(Error::data("data loader", format!("item {number}: {}", message_of(&*panic))))
                });
            let mut state = self.lock();
            match made {
                Ok(()) => {
                    let slot = (number % state.ring.len() as u64) as usize;
                    state.ring[slot] = Some(item);
                    self.ready.notify_one();
                }
                Err(error) => {
                    state.failure.get_or_insert(Failure::Error(error));
                    self.ready.notify_one();
                    self.room.notify_all();
                    return;
                }
            }
        }
    }

    /// Waits for room and returns the number of the item to make and a buffer for it.
    fn begin(&self) -> Option<(u64, T)> {
        let mut state = self.lock();
        loop {
            if state.stopping || state.failure.is_some() || state.num_started == state.num_items {
                return None;
            }
            if state.num_started < state.num_taken + state.ring.len() as u64 {
                let number = state.num_started;
                state.num_started += 1;
                return Some((number, state.free.pop().unwrap_or_default()));
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What a panic said.
fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a worker panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(
        num_workers: usize,
        num_items: u64,
        make: fn(u64, &mut Vec<u64>) -> Result<()>,
    ) -> Prefetcher<Vec<u64>> {
        Prefetcher::start(vec![make; num_workers], 3, num_items, vec![Vec::new(); 4]).unwrap()
    }

    /// Later items are made faster than earlier ones.
    fn make_unevenly(number: u64, item: &mut Vec<u64>) -> Result<()> {
        thread::sleep(Duration::from_micros(300 * (3 - number % 4)));
        item.clear();
        item.push(number);
        Ok(())
    }

    #[test]
    fn items_arrive_in_order_and_end() {
        for num_workers in [1, 2, 5] {
            for recycles in [true, false] {
                let mut prefetcher = start(num_workers, 50, make_unevenly);
                for number in 0..50 {
                    let item = prefetcher.next().unwrap().unwrap();
                    assert_eq!(item, [number]);
                    if recycles {
                        prefetcher.recycle(item);
                    }
                }
                assert_eq!(prefetcher.next().unwrap(), None);
                assert_eq!(prefetcher.next().unwrap(), None);
            }
        }
    }

    /// The first failure of items of which the seventh cannot be had.
    fn first_failure(num_workers: usize, make: fn(u64, &mut Vec<u64>) -> Result<()>) -> String {
        let mut prefetcher = start(num_workers, u64::MAX, make);
        let failure = loop {
            match prefetcher.next() {
                Ok(item) => assert!(item.unwrap()[0] < 7),
                Err(failure) => break failure,
            }
        };
        assert!(prefetcher.next().unwrap_err().to_string().contains("has failed before"));
        failure.to_string()
    }

    #[test]
    fn a_failure_of_a_worker_is_an_error_and_not_a_hang() {
        for num_workers in [1, 3] {
            let failure = first_failure(num_workers, |number, item| match number {
                7 => Err(Error::data("photos", "seven is not to be had")),
                _ => make_unevenly(number, item),
            });
            assert_eq!(failure, "photos: seven is not to be had");
            let failure = first_failure(num_workers, |number, item| {
                assert!(number != 7, "seven is not to be had");
                make_unevenly(number, item)
            });
            assert_eq!(failure, "data loader: item 7: seven is not to be had");
        }
    }

    #[test]
    fn dropping_an_endless_stream_joins_its_threads() {
        let mut prefetcher = start(4, u64::MAX, make_unevenly);
        let shared = Arc::downgrade(&prefetcher.shared);
        prefetcher.next().unwrap();
        drop(prefetcher);
        assert!(shared.upgrade().is_none(), "a thread still holds the state");
    }

    #[test]
    fn only_waiting_counts_as_waiting() {
        let mut prefetcher = start(1, 20, make_unevenly);
        thread::sleep(Duration::from_millis(50));
        prefetcher.next().unwrap();
        let before = prefetcher.wait_time();
        assert!(before < Duration::from_millis(40), "{before:?}");
        while prefetcher.next().unwrap().is_some() {}
        assert!(prefetcher.wait_time() > before);
    }
}
