//! What the four warps of a group do together on Hopper's tensor cores: products (`wgmma`) whose operands lie in shared memory and
//! which run while the threads go on. kernels/wgmma.cuh has the words and the order in which they must be called.
//!
//! A product reads its operands at some time between its call and the wait for it. Here that is the earliest or the latest, as the
//! seed draws: the earliest finds an operand that is not there yet, the latest one that is overwritten too early. Until the wait
//! its registers hold no numbers.

use std::cell::RefCell;

use half::bf16;

use super::abi::{WarpCall, call_name, kind};
use super::block::{Block, Thread, Watcher};
use super::finding::Place;
use super::stuck::Wait;
use crate::device::kernels::common::WARP_THREADS;

/// Threads of a warp group.
pub const GROUP_THREADS: usize = 4 * WARP_THREADS;
/// Rows of a product, and positions of k.
const ROWS: usize = 64;
const DEPTH: usize = 16;
/// Elements of the 16 bytes that lie together.
const CHUNK: usize = 8;
/// What registers hold while a product is under way: a NaN like no other.
const UNDER_WAY: u32 = 0x7fc5_a5a5;

/// Judges 16 bytes that a product reads: their address, and where and in which barrier interval it was called.
pub type ReadOperand<'a> = dyn FnMut(usize, Called) -> Result<(), String> + 'a;

/// Where a product was called, and in which barrier interval.
#[derive(Debug, Clone, Copy)]
pub struct Called {
    pub place: Place,
    pub interval: u32,
}

/// An operand, as kernels/wgmma.cuh tells where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operand {
    /// Of the dynamic shared memory, in bytes.
    start: usize,
    leading: usize,
    stride: usize,
    /// Whether rows or columns run along the lines.
    is_mn_major: bool,
}

impl Operand {
    /// Takes a descriptor apart.
    fn new(bits: u64, is_mn_major: bool) -> Result<Operand, String> {
        let field = |first: u32| (bits >> first & 0x3fff) as usize * 16;
        let operand = Operand { start: field(0), leading: field(16), stride: field(32), is_mn_major };
        if bits >> 62 != 1 {
            return Err(format!("multiplies an operand of swizzle {}; 1 is that of 128 bytes", bits >> 62));
        }
        if bits >> 49 & 7 != 0 {
            return Err("multiplies an operand with a base offset, which none needs".into());
        }
        // 16 positions of k are a quarter of each line of a K-major operand, and whole lines of the other.
        let within = operand.start % 1024;
        if !within.is_multiple_of(32) || within >= if is_mn_major { 32 } else { 128 } {
            return Err(format!(
                "multiplies an operand from byte {} of dynamic shared memory on, which begins no 16 positions",
                operand.start
            ));
        }
        if operand.stride != 1024 {
            return Err(format!(
                "multiplies an operand whose eights of lines are {} bytes apart, not 1024",
                operand.stride
            ));
        }
        Ok(operand)
    }

    /// Whether a product of `extent` rows or columns reads this byte of dynamic shared memory.
    fn has(&self, extent: usize, byte: usize) -> bool {
        let plain = byte ^ (byte >> 3 & 0x70);
        let Some(offset) = plain.checked_sub(self.start) else { return false };
        let (line, along) = (offset / 128, offset % 128);
        match self.is_mn_major {
            true => {
                let (panel, within) = (offset / self.leading.max(1), offset % self.leading.max(1));
                panel < extent.div_ceil(64) && within < DEPTH * 128
            }
            false => line < extent && along < DEPTH * 2,
        }
    }

    /// Reads `extent` rows or columns by 16 positions: element `[row or column][k]`.
    fn read(
        &self,
        extent: usize,
        called: Called,
        shared: usize,
        read: &mut ReadOperand<'_>,
    ) -> Result<Vec<[f32; DEPTH]>, String> {
        let mut elements = vec![[0.0; DEPTH]; extent];
        let (lines, chunks) =
            if self.is_mn_major { (DEPTH, extent / CHUNK) } else { (extent, DEPTH / CHUNK) };
        for at in 0..lines * chunks {
            let (line, chunk) = (at / chunks, at % chunks);
            let plain = self.start
                + line / 8 * self.stride
                + line % 8 * 128
                + if self.is_mn_major { chunk / 8 * self.leading + chunk % 8 * 16 } else { chunk * 16 };
            let address = shared + (plain ^ (plain >> 3 & 0x70));
            read(address, called)?;
            // SAFETY: shared memory of this block, whose bounds `read` has held it to where anything is judged.
            let values = unsafe { (address as *const [u16; CHUNK]).read() };
            for (i, bits) in values.into_iter().enumerate() {
                let value = bf16::from_bits(bits).to_f32();
                match self.is_mn_major {
                    true => elements[chunk * CHUNK + i][line] = value,
                    false => elements[line][chunk * CHUNK + i] = value,
                }
            }
        }
        Ok(elements)
    }
}

#[derive(Debug)]
struct Product {
    a: Operand,
    b: Operand,
    called: Called,
    /// Which of the accumulators it adds to.
    accumulator: usize,
    /// Its group, once that is closed.
    group: Option<u32>,
}

/// The registers that products add to, of all threads, and what they will hold.
#[derive(Debug)]
struct Accumulator {
    registers: Vec<*mut f32>,
    sums: Vec<f32>,
    columns: usize,
    /// Products under way.
    pending: usize,
}

impl Accumulator {
    fn elems(&self) -> usize {
        self.columns / 2
    }

    /// Row and column of register `i` of a thread.
    fn place(thread: usize, i: usize) -> (usize, usize) {
        let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
        (16 * warp + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2)
    }

    fn each(&mut self, mut each: impl FnMut(*mut f32, &mut f32)) {
        let elems = self.elems();
        for (thread, registers) in self.registers.iter().enumerate() {
            for i in 0..elems {
                let (row, column) = Accumulator::place(thread, i);
                // SAFETY: the thread's own float[elems], which outlives the products.
                each(unsafe { registers.add(i) }, &mut self.sums[row * self.columns + column]);
            }
        }
    }

    /// Adds a product to the sums: positions in ascending order, each sum rounded to f32, as `mma_m16n8k16` does.
    fn add(&mut self, a: &[[f32; DEPTH]], b: &[[f32; DEPTH]]) {
        for (sums, a) in self.sums.chunks_exact_mut(self.columns).zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                a.iter().zip(b).for_each(|(a, b)| *sum += a * b);
            }
        }
    }
}

/// The state of a warp group of the running block.
#[derive(Debug, Default)]
pub struct WarpGroup {
    accumulators: Vec<Accumulator>,
    /// Not yet computed or not yet waited for, oldest first; of them the first `computed` are computed.
    products: Vec<Product>,
    computed: usize,
    num_groups: u32,
    is_fenced: bool,
}

impl WarpGroup {
    pub fn clear(&mut self) {
        *self = WarpGroup::default();
    }

    /// Where a product was called that nothing waited for.
    pub fn left_under_way(&self) -> Option<Place> {
        self.products.first().map(|product| product.called.place)
    }

    /// Whether this is a register that a product under way will set.
    pub fn is_under_way(&self, thread: usize, address: usize) -> bool {
        self.accumulators.iter().filter(|accumulator| accumulator.pending > 0).any(|accumulator| {
            let first = accumulator.registers[thread] as usize;
            (first..first + accumulator.elems() * size_of::<f32>()).contains(&address)
        })
    }

    /// Whether a product under way reads this byte of dynamic shared memory.
    pub fn is_operand(&self, byte: usize) -> bool {
        self.products.iter().any(|product| {
            let columns = self.accumulators[product.accumulator].columns;
            product.a.has(ROWS, byte) || product.b.has(columns, byte)
        })
    }

    /// Carries out a call that all threads of the group have reached. `shared` is where dynamic shared memory begins,
    /// `interval` the interval between barriers, and `is_early` says when a product reads.
    ///
    /// # Errors
    /// The thread to blame, and what is wrong.
    ///
    /// # Safety
    /// The calls must be those of kernels/wgmma.cuh, on stacks that are suspended in them.
    pub unsafe fn perform(
        &mut self,
        calls: &[*mut WarpCall],
        shared: usize,
        interval: u32,
        is_early: bool,
        read: &mut ReadOperand<'_>,
    ) -> Result<(), (usize, String)> {
        // SAFETY: as required of the caller.
        let call_of = |thread: usize| unsafe { &*calls[thread] };
        let first = call_of(0);
        if let Some(thread) = (1..calls.len()).find(|&thread| !is_alike(first, call_of(thread))) {
            return Err((
                thread,
                format!(
                    "calls {} with other operands than thread 0 of its warp group",
                    call_name(first.kind)
                ),
            ));
        }
        let group_wide = |what| (0, what);
        match first.kind {
            kind::WGMMA_FENCE => self.is_fenced = true,
            kind::WGMMA_COMMIT => {
                let num_groups = self.num_groups;
                self.products.iter_mut().for_each(|product| {
                    product.group.get_or_insert(num_groups);
                });
                self.num_groups += 1;
            }
            kind::WGMMA_WAIT => {
                let done = self.num_groups.saturating_sub(first.operand as u32);
                let arrived = self
                    .products
                    .iter()
                    .take_while(|product| product.group.is_some_and(|group| group < done));
                let count = arrived.count();
                self.compute(count, shared, read).map_err(group_wide)?;
                self.arrive(count);
            }
            _ => {
                // SAFETY: pointer 1 is the descriptor of b on the thread's stack.
                let b = unsafe { first.pointers[1].cast::<u64>().read() };
                let is_mn_major = |operand: i32| first.width >> operand & 1 != 0;
                let a = Operand::new(first.value, is_mn_major(0)).map_err(group_wide)?;
                let b = Operand::new(b, is_mn_major(1)).map_err(group_wide)?;
                let registers: Vec<*mut f32> =
                    (0..calls.len()).map(|thread| call_of(thread).pointers[0].cast_mut().cast()).collect();
                let accumulator = self.accumulate(registers, first.operand as usize)?;
                let called = Called { place: Place::Line(first.file, first.line), interval };
                self.products.push(Product { a, b, called, accumulator, group: None });
                if is_early {
                    self.compute(self.products.len(), shared, read).map_err(group_wide)?;
                }
            }
        }
        Ok(())
    }

    /// The accumulator of these registers, one product more under way in it.
    fn accumulate(&mut self, registers: Vec<*mut f32>, columns: usize) -> Result<usize, (usize, String)> {
        let known = self.accumulators.iter().position(|accumulator| accumulator.registers[0] == registers[0]);
        let index = known.unwrap_or(self.accumulators.len());
        if known.is_none() {
            self.accumulators.push(Accumulator {
                registers,
                sums: vec![0.0; ROWS * columns],
                columns,
                pending: 0,
            });
        }
        let accumulator = &mut self.accumulators[index];
        let (is_pending, mut is_changed) = (accumulator.pending > 0, false);
        accumulator.each(|register, sum| {
            // SAFETY: as in `each`.
            let held = unsafe { register.read() };
            is_changed |= held.to_bits() != if is_pending { UNDER_WAY } else { sum.to_bits() };
            if !is_pending {
                *sum = held;
            }
            // SAFETY: as in `each`.
            unsafe { register.write(f32::from_bits(UNDER_WAY)) };
        });
        accumulator.pending += 1;
        match (is_pending, is_changed || known.is_none()) {
            (true, true) => Err((0, "changes registers that a wgmma under way adds to".into())),
            (false, true) if !self.is_fenced => {
                Err((0, "adds to registers that were set after the last wgmma_fence".into()))
            }
            _ => Ok(index),
        }
    }

    /// Computes the first `count` products, but for those that are.
    fn compute(&mut self, count: usize, shared: usize, read: &mut ReadOperand<'_>) -> Result<(), String> {
        for product in &self.products[self.computed.min(count)..count] {
            let accumulator = &mut self.accumulators[product.accumulator];
            let a = product.a.read(ROWS, product.called, shared, read)?;
            let b = product.b.read(accumulator.columns, product.called, shared, read)?;
            accumulator.add(&a, &b);
        }
        self.computed = self.computed.max(count);
        Ok(())
    }

    /// The first `count` products have been waited for.
    fn arrive(&mut self, count: usize) {
        for product in self.products.drain(..count) {
            let accumulator = &mut self.accumulators[product.accumulator];
            accumulator.pending -= 1;
            if accumulator.pending == 0 {
                // SAFETY: as in `each`.
                accumulator.each(|register, sum| unsafe { register.write(*sum) });
            }
        }
        self.computed -= count;
        // Threads may use the registers from here on, and change them.
        self.is_fenced = false;
    }
}

/// Whether two threads call for the same.
fn is_alike(one: &WarpCall, other: &WarpCall) -> bool {
    // SAFETY: where there is one, pointer 1 is a descriptor on the thread's stack.
    let second = |call: &WarpCall| {
        (call.kind == kind::WGMMA).then(|| unsafe { call.pointers[1].cast::<u64>().read() })
    };
    (one.operand, one.width, one.value) == (other.operand, other.width, other.value)
        && second(one) == second(other)
}

impl Block {
    /// What the running thread wrote to shared memory is visible to products from here on.
    pub fn fence_proxy_async(&self) {
        if let Watcher::Judge(checker) = &mut *self.watcher.borrow_mut() {
            checker.fence_proxy_async();
        }
    }

    /// Carries out the call of a warp group whose threads have all come.
    pub(super) fn meet_group(&self, group: usize, ready: &mut Vec<u16>) {
        let first_thread = group * GROUP_THREADS;
        let threads = &self.threads[first_thread..][..GROUP_THREADS];
        let call_of = |thread: &Thread| match thread.wait.get() {
            Wait::Group(call) => Some(call),
            _ => None,
        };
        let Some(calls) = threads.iter().map(call_of).collect::<Option<Vec<_>>>() else { return };
        // SAFETY: calls lie on the stacks of suspended threads; only this function looks at them.
        let meeting = |call: *mut WarpCall| unsafe { (&*call).meeting() };
        if calls.iter().any(|&call| meeting(call) != meeting(calls[0])) {
            return;
        }
        let is_early = self.order.borrow_mut().coin();
        let mut interval = 0;
        if let Watcher::Judge(checker) = &mut *self.watcher.borrow_mut() {
            checker.now.thread = first_thread as u16;
            checker.now.warp_interval = self.warp_intervals[first_thread / WARP_THREADS].get();
            interval = checker.now.interval;
        }
        let mut at = None;
        let mut read = |address: usize, called: Called| {
            let verdict = match &mut *self.watcher.borrow_mut() {
                Watcher::Judge(checker) => checker.read_async(address, called.interval),
                Watcher::Nobody | Watcher::Count(_) => Ok(()),
            };
            if verdict.is_err() {
                at = Some(called.place);
            }
            verdict
        };
        let mut state = self.groups[group].borrow_mut();
        // SAFETY: the calls come from kernels/wgmma.cuh.
        let done = unsafe { state.perform(&calls, self.dynamic_shared.get(), interval, is_early, &mut read) };
        if let Err((thread, what)) = done {
            // SAFETY: as above.
            let WarpCall { file, line, .. } = unsafe { &*calls[thread] };
            let place = at.unwrap_or(Place::Line(*file, *line));
            *self.wrong.borrow_mut() = Some((first_thread + thread, place, what));
            return;
        }
        // SAFETY: as above.
        let first = unsafe { &*calls[0] };
        if first.kind == kind::WGMMA
            && let Watcher::Count(counter) = &mut *self.watcher.borrow_mut()
        {
            counter.multiply_by_group(ROWS, first.operand as usize, DEPTH);
        }
        ready.extend((0..GROUP_THREADS).map(|thread| (first_thread + thread) as u16));
    }

    /// The running thread touches a local variable: none that a product will set.
    pub(super) fn judge_register(&self, address: usize) -> Result<(), String> {
        let (group, thread) = (self.current.get() / GROUP_THREADS, self.current.get() % GROUP_THREADS);
        match self.groups.get(group).is_some_and(|group| group.borrow().is_under_way(thread, address)) {
            true => {
                Err("touches registers that a wgmma under way adds to: wgmma_wait must come first".into())
            }
            false => Ok(()),
        }
    }

    /// The running thread overwrites shared memory: nothing that a product under way reads.
    pub(super) fn judge_overwritten(&self, address: usize) -> Result<(), String> {
        let is_operand = |byte: usize| self.groups.iter().any(|group| group.borrow().is_operand(byte));
        match address.checked_sub(self.dynamic_shared.get()).is_some_and(is_operand) {
            true => Err("overwrites an operand of a wgmma under way: wgmma_wait must come first".into()),
            false => Ok(()),
        }
    }

    /// All threads have returned: no product may be under way.
    pub(super) fn judge_end(&self) {
        let left = |group: &RefCell<WarpGroup>| group.borrow().left_under_way();
        if let Some((group, place)) =
            self.groups.iter().enumerate().find_map(|(index, group)| left(group).map(|place| (index, place)))
        {
            let what = "ends while a wgmma is under way: wgmma_wait must come first".to_string();
            *self.wrong.borrow_mut() = Some((group * GROUP_THREADS, place, what));
        }
    }
}
