//! Judges every memory access of a checked launch before it happens.

use std::ops::Range;
use std::sync::Arc;

use super::abi::MAX_DYNAMIC_SHARED_BYTES;
use super::memory::{CHECKED_VIEWS, Memory};
use super::process;
use super::shadow::{Access, Cell, Conflict, Now};

/// Most threads of a block.
const MAX_THREADS: usize = 1024;

/// What a pointer argument may reach: the operand it points into.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Name of the pointer argument.
    pub name: &'static str,
    /// Bytes of the arena.
    pub bytes: Range<usize>,
    /// Whether the operation may write it.
    pub is_writable: bool,
    /// If the operation found it empty: nothing may be read that was not written since this interval.
    pub unwritten_since: Option<u32>,
    /// Logarithm of the size of an element: races are told apart to one element.
    pub log2_granule: u32,
}

/// Judges every access to memory; the module says how.
pub struct Checker {
    memory: Arc<Memory>,
    /// By view; view 0 is for addresses that are no pointer argument.
    extents: Vec<Option<Extent>>,
    /// What addresses in view 0 may reach: kernels over many tensors compute them from a table.
    operands: Vec<Extent>,
    global: Box<[Cell]>,
    static_shared: Box<[Cell]>,
    dynamic_shared: Box<[Cell]>,
    /// By byte of it: the number of the write that was last.
    writes: Box<[u32]>,
    num_writes: u32,
    /// By thread: of each `fence_proxy_async` of this block the writes before it and its interval.
    proxy_fences: Box<[Vec<(u32, u32)>]>,
    static_range: Range<usize>,
    dynamic_range: Range<usize>,
    images: Vec<Range<usize>>,
    launch_start: u32,
    /// Stack of the running thread.
    pub stack: Range<usize>,
    /// Threads in each direction of a block.
    pub block_dim: [u32; 3],
    /// The running thread and the present; `interval` grows from launch to launch.
    pub now: Now,
}

impl Checker {
    pub fn new(memory: Arc<Memory>) -> Checker {
        let global = bytemuck::zeroed_slice_box(memory.num_bytes());
        Checker {
            memory,
            extents: vec![None; CHECKED_VIEWS],
            operands: Vec::new(),
            global,
            static_shared: Box::default(),
            dynamic_shared: Box::default(),
            writes: Box::default(),
            num_writes: 0,
            proxy_fences: vec![Vec::new(); MAX_THREADS].into(),
            static_range: 0..0,
            dynamic_range: 0..0,
            images: process::image_ranges(),
            launch_start: 0,
            stack: 0..0,
            block_dim: [1; 3],
            now: Now { interval: 1, ..Now::default() },
        }
    }

    /// Starts a launch of blocks that run on this OS thread with that dynamic shared memory.
    pub fn begin_launch(&mut self, dynamic_range: Range<usize>, block_dim: [u32; 3]) {
        self.static_range = process::thread_local_range();
        if self.static_shared.len() < self.static_range.len() {
            self.static_shared = bytemuck::zeroed_slice_box(self.static_range.len());
        }
        if self.dynamic_shared.len() < dynamic_range.len() {
            self.dynamic_shared = bytemuck::zeroed_slice_box(dynamic_range.len());
            self.writes = bytemuck::zeroed_slice_box(dynamic_range.len());
        }
        self.dynamic_range = dynamic_range;
        self.block_dim = block_dim;
        self.now.interval += 1;
        self.launch_start = self.now.interval;
    }

    /// Gives a pointer argument its view: every address in it belongs to `extent`.
    pub fn set_extent(&mut self, view: usize, extent: Option<Extent>) {
        self.extents[view] = extent;
    }

    /// Ends every view of the last launch; addresses that are no pointer argument belong to one of `operands`.
    pub fn reset_extents(&mut self, operands: impl Iterator<Item = Extent>) {
        self.extents.fill(None);
        self.operands.clear();
        self.operands.extend(operands);
    }

    pub fn begin_block(&mut self) {
        self.now.interval += 1;
        self.now.block_start = self.now.interval;
        self.now.warp_interval = 0;
        self.proxy_fences.iter_mut().for_each(Vec::clear);
    }

    /// Whether these bytes are shared memory.
    pub fn is_shared(&self, address: usize) -> bool {
        self.dynamic_range.contains(&address) || self.static_range.contains(&address)
    }

    /// Judges and records an access of the running thread.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence.
    #[inline]
    pub fn access(&mut self, address: usize, num_bytes: usize, access: Access) -> Result<(), String> {
        if let Some((view, offset)) = self.memory.locate(address) {
            return self.access_global(view, offset, num_bytes, access);
        }
        let (range, is_static) = if self.static_range.contains(&address) {
            // The compiler keeps a flag of one byte next to every static array of a class such as bf16, and threads
            // share it; so single bytes of static memory are let through.
            if num_bytes == 1 {
                return Ok(());
            }
            (&self.static_range, true)
        } else if address.wrapping_sub(self.dynamic_range.start) < MAX_DYNAMIC_SHARED_BYTES {
            (&self.dynamic_range, false)
        } else {
            return self.access_elsewhere(address, num_bytes, access);
        };
        let start = address - range.start;
        if start + num_bytes > range.len() {
            return Err(outside(access, num_bytes, start as i64, buffer_name(is_static), range.len()));
        }
        let now = Now { since: self.now.block_start, ..self.now };
        let cells = if is_static { &mut self.static_shared } else { &mut self.dynamic_shared };
        for (i, cell) in cells[start..start + num_bytes].iter_mut().enumerate() {
            if access == Access::Read && cell.is_shared_already(&now) {
                continue;
            }
            if access == Access::Read && cell.is_unwritten(now.since) {
                return Err(format!(
                    "reads {num_bytes} bytes of {} at byte {start}, which this block has not written",
                    buffer_name(is_static)
                ));
            }
            if let Err(conflict) = cell.record(&now, access) {
                return Err(self.race(conflict, start + i, buffer_name(is_static)));
            }
        }
        if access != Access::Read && !is_static {
            self.num_writes += 1;
            self.writes[start..start + num_bytes].fill(self.num_writes);
        }
        Ok(())
    }

    /// What the running thread has written is visible to the tensor cores of its warp group, from the next barrier on.
    pub fn fence_proxy_async(&mut self) {
        let fences = &mut self.proxy_fences[usize::from(self.now.thread)];
        // Of two with no write between them the first counts.
        if fences.last().is_none_or(|&(num_writes, _)| num_writes < self.num_writes) {
            fences.push((self.num_writes, self.now.interval));
        }
    }

    /// Judges and records that a product, called in barrier interval `called`, reads 16 bytes of dynamic shared memory.
    ///
    /// # Errors
    /// As [`Checker::access`].
    pub fn read_async(&mut self, address: usize, called: u32) -> Result<(), String> {
        if !self.dynamic_range.contains(&address) {
            let byte = address as i64 - self.dynamic_range.start as i64;
            return Err(outside(Access::Read, 16, byte, buffer_name(false), self.dynamic_range.len()));
        }
        self.access(address, 16, Access::Read)?;
        let start = address - self.dynamic_range.start;
        for byte in start..start + 16 {
            let Some(writer) = self.dynamic_shared[byte].writer() else { continue };
            let fences = &self.proxy_fences[usize::from(writer)];
            let first = fences.partition_point(|&(num_writes, _)| num_writes < self.writes[byte]);
            if fences.get(first).is_none_or(|&(_, interval)| interval >= called) {
                let [x, y, z] = thread_idx(usize::from(writer), self.block_dim);
                return Err(format!(
                    "multiplies byte {byte} of dynamic shared memory, which thread ({x}, {y}, {z}) wrote: \
                     fence_proxy_async by that thread and then a barrier must come between"
                ));
            }
        }
        Ok(())
    }

    fn access_global(
        &mut self,
        view: usize,
        offset: i64,
        num_bytes: usize,
        access: Access,
    ) -> Result<(), String> {
        let in_table = || self.operands.iter().find(|extent| extent.bytes.contains(&(offset as usize)));
        let Some(extent) = self.extents[view].as_ref().or_else(|| in_table().filter(|_| view == 0)) else {
            return Err(format!(
                "{} {num_bytes} bytes at byte {offset} of the arena through a pointer to no operand",
                verb(access)
            ));
        };
        let start = offset - extent.bytes.start as i64;
        if start < 0 || start as usize + num_bytes > extent.bytes.len() {
            return Err(outside(access, num_bytes, start, extent.name, extent.bytes.len()));
        }
        if access == Access::Read {
            if !extent.is_writable {
                return Ok(());
            }
        } else if !extent.is_writable {
            return Err(format!(
                "{} {num_bytes} bytes at byte {start} of {}, which the operation may only read",
                verb(access),
                extent.name
            ));
        }
        let now = Now { since: self.launch_start, ..self.now };
        let (start, log2) = (start as usize, extent.log2_granule);
        let first = extent.bytes.start + (start >> log2);
        let last = extent.bytes.start + ((start + num_bytes - 1) >> log2);
        for index in first..=last {
            let cell = &mut self.global[index];
            if access == Access::Read && extent.unwritten_since.is_some_and(|since| cell.is_unwritten(since))
            {
                return Err(format!(
                    "reads {num_bytes} bytes at byte {start} of {}, which the operation has not written yet",
                    extent.name
                ));
            }
            if let Err(conflict) = cell.record(&now, access) {
                return Err(self.race(conflict, (index - extent.bytes.start) << log2, extent.name));
            }
        }
        Ok(())
    }

    /// The thread's own stack, and constants of the program.
    #[inline]
    fn access_elsewhere(&self, address: usize, num_bytes: usize, access: Access) -> Result<(), String> {
        if self.stack.contains(&address)
            || (access == Access::Read && self.images.iter().any(|image| image.contains(&address)))
        {
            return Ok(());
        }
        Err(format!("{} {num_bytes} bytes at address {address:#x}, which is in no buffer", verb(access)))
    }

    #[cold]
    fn race(&self, conflict: Conflict, byte: usize, buffer: &str) -> String {
        let thread = |other: Option<u16>| match other {
            Some(linear) => {
                let [x, y, z] = thread_idx(usize::from(linear), self.block_dim);
                format!("thread ({x}, {y}, {z})")
            }
            None => "other threads".into(),
        };
        let sentence = |does: &str, other: Option<u16>, did: &str| {
            format!(
                "{does} byte {byte} of {buffer}, which {} {did} with no barrier in between: a data race",
                thread(other)
            )
        };
        match conflict {
            Conflict::ReadAfterWrite(other) => sentence("reads", other, "wrote"),
            Conflict::WriteAfterWrite(other) => sentence("writes", other, "wrote, too,"),
            Conflict::WriteAfterRead(other) => sentence("writes", other, "read"),
            Conflict::CopyInFlight(other) => format!(
                "touches byte {byte} of {buffer} while the asynchronous copy of {} into it is under way: \
                 cp_async_wait must come first",
                thread(Some(other))
            ),
        }
    }
}

/// Position in the block of the thread with this number.
pub fn thread_idx(linear: usize, [x, y, _]: [u32; 3]) -> [u32; 3] {
    let linear = linear as u32;
    [linear % x, linear / x % y, linear / (x * y)]
}

fn buffer_name(is_static: bool) -> &'static str {
    if is_static { "static shared memory" } else { "dynamic shared memory" }
}

fn verb(access: Access) -> &'static str {
    if access == Access::Read { "reads" } else { "writes" }
}

#[cold]
fn outside(access: Access, num_bytes: usize, start: i64, buffer: &str, size: usize) -> String {
    let side = if start < 0 { "before its start" } else { "past its end" };
    format!("{} {num_bytes} bytes at byte {start} of {buffer}, {side} ({size} bytes)", verb(access))
}
