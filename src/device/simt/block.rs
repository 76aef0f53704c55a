//! Runs one block: a coroutine for each of its threads, and a scheduler that resumes them between barriers in an order
//! drawn from a seed.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::abi::{MAX_DYNAMIC_SHARED_BYTES, ThreadState, WarpCall, call_name, kind};
use super::checker::{Checker, thread_idx};
use super::counter::Counter;
use super::finding::{Finding, Place};
use super::order::Order;
use super::shadow::Access;
use super::stuck::{self, Wait};
use super::warp;
use super::warp_group::{GROUP_THREADS, WarpGroup};
use crate::device::kernels::common::WARP_THREADS;

/// Enough for a kernel's local arrays and, in a checked launch, for judging an access.
const STACK_BYTES: usize = 64 << 10;

/// A launch, as the blocks see it.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    pub kernel: &'static str,
    pub entry: unsafe extern "C" fn(*const u8),
    pub arguments: &'a [u64],
    pub grid_dim: [u32; 3],
    pub block_dim: [u32; 3],
    pub seed: u64,
}

#[derive(Debug, Clone, Copy)]
struct PendingCopy {
    to: *mut u8,
    /// Null for zeros.
    from: *const u8,
    num_bytes: usize,
    group: u32,
    place: Place,
}

/// A CUDA thread.
pub(super) struct Thread {
    pub(super) wait: Cell<Wait>,
    yielder: Cell<*const Yielder<(), ()>>,
    stack: Cell<(usize, usize)>,
    /// Asynchronous copies not waited for, oldest first.
    copies: RefCell<Vec<PendingCopy>>,
    num_groups: Cell<u32>,
}

type Fiber = Coroutine<(), (), (), DefaultStack>;

/// The blocks of one OS thread, one at a time; keeps stacks and tables from block to block.
pub struct Runner {
    fibers: Vec<Fiber>,
    stacks: Vec<DefaultStack>,
    ready: Vec<u16>,
    shared: Box<[u64]>,
    block: Box<Block>,
}

/// What is told of what the threads do.
pub enum Watcher {
    /// Nothing is.
    Nobody,
    /// Judges every access.
    Judge(Checker),
    /// Counts them.
    Count(Counter),
}

/// What the hooks reach of the running block.
pub struct Block {
    pub(super) threads: Vec<Thread>,
    pub(super) warp_intervals: Vec<Cell<u16>>,
    pub(super) groups: Vec<RefCell<WarpGroup>>,
    pub(super) dynamic_shared: Cell<usize>,
    pub(super) order: RefCell<Order>,
    pub(super) current: Cell<usize>,
    block_dim: Cell<[u32; 3]>,
    pub(super) watcher: RefCell<Watcher>,
    /// The first thing wrong, with the thread to blame.
    pub(super) wrong: RefCell<Option<(usize, Place, String)>>,
}

thread_local! {
    static CURRENT: Cell<*const Block> = const { Cell::new(std::ptr::null()) };
}

/// The block that this OS thread runs.
///
/// # Safety
/// Only for hooks, which kernels call: then a block is running.
pub unsafe fn current<'a>() -> &'a Block {
    // SAFETY: `Runner::run` set it to its boxed block, which outlives every thread of it.
    unsafe { &*CURRENT.get() }
}

unsafe extern "C" {
    fn simt_thread_state_address() -> *mut ThreadState;
}

impl Runner {
    pub fn new() -> Runner {
        Runner {
            fibers: Vec::new(),
            stacks: Vec::new(),
            ready: Vec::new(),
            shared: vec![0; (MAX_DYNAMIC_SHARED_BYTES + 1024) / 8].into(),
            block: Box::new(Block {
                threads: Vec::new(),
                warp_intervals: Vec::new(),
                groups: Vec::new(),
                dynamic_shared: Cell::new(0),
                order: RefCell::new(Order::new(0, 0)),
                current: Cell::new(0),
                block_dim: Cell::new([1; 3]),
                watcher: RefCell::new(Watcher::Nobody),
                wrong: RefCell::new(None),
            }),
        }
    }

    /// Where the dynamic shared memory of this runner's blocks begins.
    pub fn dynamic_shared(&self) -> usize {
        (self.shared.as_ptr() as usize).next_multiple_of(1024)
    }

    /// From here on `watcher` is told what the threads do, until [`Runner::take_watcher`].
    pub fn set_watcher(&mut self, watcher: Watcher) {
        *self.block.watcher.get_mut() = watcher;
    }

    pub fn take_watcher(&mut self) -> Watcher {
        std::mem::replace(self.block.watcher.get_mut(), Watcher::Nobody)
    }

    /// Runs the block at `block_idx` to its end.
    ///
    /// # Errors
    /// The first thing wrong with it.
    ///
    /// # Safety
    /// The entry must be a kernel compiled with kernels/host.h, and the arguments its argument struct with pointers
    /// that are good for what it does with them (a checked launch finds out).
    pub unsafe fn run(&mut self, launch: &Launch<'_>, block_idx: [u32; 3]) -> Result<(), Finding> {
        let num_threads = launch.block_dim.iter().product::<u32>() as usize;
        // SAFETY: the address of this OS thread's variable in kernels/host_runtime.cpp.
        let state = unsafe { &mut *simt_thread_state_address() };
        *state = ThreadState {
            thread_idx: [0; 3],
            block_idx,
            block_dim: launch.block_dim,
            grid_dim: launch.grid_dim,
            dynamic_shared: self.dynamic_shared() as *mut u8,
        };
        self.begin(launch, num_threads);
        let previous = CURRENT.replace(&*self.block);
        let linear_block = (block_idx[2] as u64 * launch.grid_dim[1] as u64 + block_idx[1] as u64)
            * launch.grid_dim[0] as u64
            + block_idx[0] as u64;
        *self.block.order.get_mut() = Order::new(launch.seed, linear_block);
        while !self.ready.is_empty() {
            self.block.order.borrow_mut().shuffle(&mut self.ready);
            for i in 0..self.ready.len() {
                let thread = usize::from(self.ready[i]);
                state.thread_idx = thread_idx(thread, launch.block_dim);
                self.block.switch_to(thread);
                if let CoroutineResult::Return(()) = self.fibers[thread].resume(()) {
                    self.block.threads[thread].wait.set(Wait::Exited);
                }
                if self.block.wrong.borrow().is_some() {
                    break;
                }
            }
            self.ready.clear();
            if self.block.wrong.borrow().is_none() {
                self.block.meet(&mut self.ready);
            }
        }
        CURRENT.set(previous);
        self.end();
        match self.block.wrong.take() {
            None => Ok(()),
            Some((thread, place, what)) => Err(Finding {
                kernel: launch.kernel,
                block: block_idx,
                thread: thread_idx(thread, launch.block_dim),
                place,
                what,
            }),
        }
    }

    fn begin(&mut self, launch: &Launch<'_>, num_threads: usize) {
        let dynamic_shared = self.dynamic_shared();
        let block = &mut *self.block;
        block.block_dim.set(launch.block_dim);
        block.threads.resize_with(num_threads.max(block.threads.len()), || Thread {
            wait: Cell::new(Wait::Turn),
            yielder: Cell::new(std::ptr::null()),
            stack: Cell::new((0, 0)),
            copies: RefCell::default(),
            num_groups: Cell::new(0),
        });
        block.threads.truncate(num_threads);
        block.dynamic_shared.set(dynamic_shared);
        block.groups.resize_with(num_threads / GROUP_THREADS, RefCell::default);
        block.groups.iter_mut().for_each(|group| group.get_mut().clear());
        block.warp_intervals.clear();
        block.warp_intervals.resize(num_threads.div_ceil(WARP_THREADS), Cell::new(0));
        if let Watcher::Judge(checker) = block.watcher.get_mut() {
            checker.begin_block();
        }
        self.ready.clear();
        self.ready.extend(0..num_threads as u16);
        for thread in &mut block.threads {
            let stack = self.stacks.pop().unwrap_or_else(|| {
                DefaultStack::new(STACK_BYTES)
                    .expect("the system gives stacks of 64 KiB to a thousand threads")
            });
            thread.wait.set(Wait::Turn);
            thread.stack.set((stack.limit().get(), stack.base().get()));
            thread.copies.get_mut().clear();
            thread.num_groups.set(0);
            let yielder_cell: *const Cell<_> = &thread.yielder;
            let (entry, arguments) = (launch.entry, launch.arguments.as_ptr());
            self.fibers.push(Coroutine::with_stack(stack, move |yielder, ()| {
                // SAFETY: the cell lies in the boxed block, which outlives its fibers; the entry and its arguments are
                // good by the contract of `run`, which ends every fiber before it returns.
                unsafe {
                    (*yielder_cell).set(yielder);
                    entry(arguments.cast());
                }
            }));
        }
    }

    fn end(&mut self) {
        for mut fiber in self.fibers.drain(..) {
            if fiber.started() && !fiber.done() {
                // SAFETY: kernels own nothing that would need dropping: plain values on their stacks.
                unsafe { fiber.force_reset() };
            }
            if fiber.done() {
                self.stacks.push(fiber.into_stack());
            }
        }
    }
}

impl Block {
    fn switch_to(&self, thread: usize) {
        self.current.set(thread);
        self.threads[thread].wait.set(Wait::Turn);
        match &mut *self.watcher.borrow_mut() {
            Watcher::Nobody => {}
            Watcher::Judge(checker) => {
                checker.now.thread = thread as u16;
                checker.now.warp_interval = self.warp_intervals[thread / WARP_THREADS].get();
                let (limit, base) = self.threads[thread].stack.get();
                checker.stack = Range { start: limit, end: base };
            }
            Watcher::Count(counter) => counter.switch_to(thread),
        }
    }

    /// Suspends the running thread.
    fn suspend(&self) {
        let yielder = self.threads[self.current.get()].yielder.get();
        // SAFETY: set by the running fiber at its start; it lives as long as that fiber.
        unsafe { (*yielder).suspend(()) };
    }

    /// Ends the block because of what the running thread does at `place`. Does not return to the kernel.
    pub fn fail(&self, place: Place, what: String) {
        *self.wrong.borrow_mut() = Some((self.current.get(), place, what));
        loop {
            self.suspend();
        }
    }

    /// The running thread reaches `__syncthreads`.
    pub fn barrier(&self, place: Place) {
        self.threads[self.current.get()].wait.set(Wait::Barrier(place));
        self.suspend();
    }

    /// The running thread joins a meeting of its warp.
    pub fn warp_call(&self, call: *mut WarpCall) {
        let lane = self.current.get() % WARP_THREADS;
        // SAFETY: the hook passes the call on the thread's own stack.
        let WarpCall { kind, mask, file, line, operand, pointers, .. } = unsafe { &*call };
        let place = Place::Line(*file, *line);
        if mask >> lane & 1 == 0 {
            let name = call_name(*kind);
            self.fail(
                place,
                format!("{name} with mask {mask:#010x}, which leaves out the calling lane {lane}"),
            );
        }
        let is_load = matches!(*kind, kind::LDMATRIX | kind::LDMATRIX_TRANS);
        if is_load && lane < *operand as usize * 8 {
            self.check_matrix_row(pointers[1] as usize, place);
        }
        let wait = if *kind >= kind::WGMMA_FENCE { Wait::Group(call) } else { Wait::Warp(call) };
        self.threads[self.current.get()].wait.set(wait);
        self.suspend();
    }

    fn check_matrix_row(&self, address: usize, place: Place) {
        let verdict = match &mut *self.watcher.borrow_mut() {
            Watcher::Nobody => Ok(()),
            Watcher::Count(counter) => {
                counter.matrix_row(address, place);
                Ok(())
            }
            Watcher::Judge(checker) if !checker.is_shared(address) => {
                Err("ldmatrix reads a row that is not in shared memory".into())
            }
            Watcher::Judge(_) if !address.is_multiple_of(16) => {
                Err(format!("ldmatrix reads a row at address {address:#x}, which is not a multiple of 16"))
            }
            Watcher::Judge(checker) => checker.access(address, 16, Access::Read),
        };
        if let Err(what) = verdict {
            self.fail(place, what);
        }
    }

    /// Judges or counts an access of the running thread.
    #[inline]
    pub fn access(&self, address: usize, num_bytes: usize, access: Access, place: Place) {
        let verdict = match &mut *self.watcher.borrow_mut() {
            Watcher::Nobody => Ok(()),
            Watcher::Judge(checker) if checker.stack.contains(&address) => self.judge_register(address),
            Watcher::Judge(checker) if access != Access::Read && checker.is_shared(address) => {
                self.judge_overwritten(address).and_then(|()| checker.access(address, num_bytes, access))
            }
            Watcher::Judge(checker) => checker.access(address, num_bytes, access),
            Watcher::Count(counter) => {
                counter.access(address, num_bytes, access, place);
                Ok(())
            }
        };
        if let Err(what) = verdict {
            self.fail(place, what);
        }
    }

    /// The running thread starts a copy to shared memory, through L1 or past it; `from` is null for zeros.
    pub fn copy_start(&self, to: *mut u8, from: *const u8, num_bytes: usize, is_cached: bool, place: Place) {
        for address in [to as usize, from as usize] {
            if !address.is_multiple_of(num_bytes) {
                let what = format!(
                    "cp_async copies {num_bytes} bytes at address {address:#x}, which is not a multiple of {num_bytes}"
                );
                self.fail(place, what);
            }
        }
        if let Watcher::Count(counter) = &mut *self.watcher.borrow_mut() {
            counter.copy(to as usize, from as usize, num_bytes, is_cached, place);
        } else {
            self.judge_copy(to as usize, from as usize, num_bytes, place);
        }
        let thread = &self.threads[self.current.get()];
        let group = thread.num_groups.get();
        thread.copies.borrow_mut().push(PendingCopy { to, from, num_bytes, group, place });
    }

    fn judge_copy(&self, to: usize, from: usize, num_bytes: usize, place: Place) {
        if from != 0 {
            self.access(from, num_bytes, Access::Read, place);
        }
        self.access(to, num_bytes, Access::CopyStart, place);
    }

    /// The running thread closes a group of copies.
    pub fn copy_commit(&self) {
        let num_groups = &self.threads[self.current.get()].num_groups;
        num_groups.set(num_groups.get() + 1);
    }

    /// The running thread waits for all but its newest `num_pending` groups; their bytes arrive now.
    pub fn copy_wait(&self, num_pending: u32) {
        let thread = &self.threads[self.current.get()];
        let arrived = thread.num_groups.get().saturating_sub(num_pending);
        let mut copies = thread.copies.take();
        let count = copies.partition_point(|copy| copy.group < arrived);
        if let Watcher::Count(counter) = &mut *self.watcher.borrow_mut()
            && count > 0
        {
            counter.wait(num_pending);
        }
        for copy in copies.drain(..count) {
            let PendingCopy { to, from, num_bytes, place, .. } = copy;
            self.access(to as usize, num_bytes, Access::CopyEnd, place);
            // SAFETY: `copy_start` had both ends judged, if anything is judged.
            unsafe {
                match from.is_null() {
                    true => to.write_bytes(0, num_bytes),
                    false => to.copy_from_nonoverlapping(from, num_bytes),
                }
            }
        }
        thread.copies.replace(copies);
    }

    /// No thread can run on: lets those go on whose warp, or whose block, has come together.
    fn meet(&self, ready: &mut Vec<u16>) {
        for warp in 0..self.warp_intervals.len() {
            self.meet_warp(warp, ready);
        }
        for group in 0..self.groups.len() {
            self.meet_group(group, ready);
        }
        if !ready.is_empty() || self.wrong.borrow().is_some() {
            return;
        }
        let mut waits = self.threads.iter().map(|thread| thread.wait.get());
        let Some(first) = waits.next() else { return };
        let all_alike = match first {
            Wait::Exited => waits.all(|wait| matches!(wait, Wait::Exited)),
            Wait::Barrier(at) => {
                waits.all(|wait| matches!(wait, Wait::Barrier(other) if other.same_line(&at)))
            }
            Wait::Turn | Wait::Warp(_) | Wait::Group(_) => false,
        };
        match first {
            Wait::Exited if all_alike => self.judge_end(),
            Wait::Barrier(_) if all_alike => {
                match &mut *self.watcher.borrow_mut() {
                    Watcher::Nobody => {}
                    Watcher::Judge(checker) => checker.now.interval += 1,
                    Watcher::Count(counter) => counter.meet_barrier(),
                }
                self.warp_intervals.iter().for_each(|interval| interval.set(0));
                ready.extend(0..self.threads.len() as u16);
            }
            _ => {
                *self.wrong.borrow_mut() =
                    Some(stuck::explain(self.threads.iter().map(|thread| thread.wait.get())))
            }
        }
    }

    /// Carries out the calls of a warp whose lanes have all come.
    fn meet_warp(&self, warp: usize, ready: &mut Vec<u16>) {
        let first_thread = warp * WARP_THREADS;
        let threads = &self.threads[first_thread..self.threads.len().min(first_thread + WARP_THREADS)];
        let exists = if threads.len() == WARP_THREADS { u32::MAX } else { (1 << threads.len()) - 1 };
        let mut done = 0u32;
        for lane in 0..threads.len() {
            let Wait::Warp(call) = threads[lane].wait.get() else { continue };
            if done >> lane & 1 != 0 {
                continue;
            }
            // SAFETY: calls lie on the stacks of suspended threads; only this function looks at them.
            let leader = unsafe { (&*call).meeting() };
            let mask = leader.1 & exists;
            let has_come = |lane: usize| match threads[lane].wait.get() {
                // SAFETY: as above.
                Wait::Warp(call) => unsafe { (&*call).meeting() == leader },
                _ => false,
            };
            if !(0..threads.len()).all(|lane| mask >> lane & 1 == 0 || has_come(lane)) {
                continue;
            }
            let mut calls: warp::Calls<'_> =
                std::array::from_fn(|lane| match threads.get(lane)?.wait.get() {
                    // SAFETY: as above; one reference a lane.
                    Wait::Warp(call) if mask >> lane & 1 != 0 => Some(unsafe { &mut *call }),
                    _ => None,
                });
            // SAFETY: the calls come from kernels/host.h and kernels/mma.cuh.
            if let Err((lane, what)) = unsafe { warp::perform(&mut calls) } {
                let place =
                    calls[lane].as_ref().map_or(Place::Unknown, |call| Place::Line(call.file, call.line));
                *self.wrong.borrow_mut() = Some((first_thread + lane, place, what));
                return;
            }
            if leader.0 == kind::SYNCWARP {
                let interval = &self.warp_intervals[warp];
                interval.set(interval.get().wrapping_add(1));
            } else if matches!(leader.0, kind::MMA_M16N8K16_BF16 | kind::MMA_M16N8K8_TF32)
                && let Watcher::Count(counter) = &mut *self.watcher.borrow_mut()
            {
                counter.multiply();
            }
            done |= mask;
        }
        ready.extend(
            (0..threads.len()).filter(|lane| done >> lane & 1 != 0).map(|lane| (first_thread + lane) as u16),
        );
    }
}
