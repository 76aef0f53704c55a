//! Who touched which byte when: the record from which races and reads of unwritten memory are told.
//!
//! Time is counted in barrier intervals. The counter only grows, from block to block and launch to launch, so nothing
//! is ever cleared: a stamp from before the block, the launch or the binding of the operands means "untouched since".

use bytemuck::Zeroable;

/// One access: the barrier interval, the warp's interval between two `__syncwarp` in it, and the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable)]
struct Stamp {
    interval: u32,
    warp_interval: u16,
    thread: u16,
}

/// Who stands in a stamp besides the single threads 0 to 1023.
mod who {
    /// Any number of atomic accesses.
    pub const ATOMIC: u16 = 0x8000;
    /// Readers in several warps.
    pub const MANY: u16 = 0x8001;
    /// Readers in several blocks.
    pub const MANY_BLOCKS: u16 = 0x8002;
    /// Several readers in the warp of the low bits.
    pub const MANY_IN_WARP: u16 = 0x4000;
    /// An asynchronous copy that its thread has not waited for.
    pub const IN_FLIGHT: u16 = 0x2000;
}

/// The last write and the last reads of one place.
#[derive(Debug, Clone, Copy, Zeroable)]
pub struct Cell {
    write: Stamp,
    read: Stamp,
}

/// The thread that accesses, and the present.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Position in the block.
    pub thread: u16,
    /// Intervals since the last `__syncthreads` of the thread's warp.
    pub warp_interval: u16,
    /// Barrier interval.
    pub interval: u32,
    /// First interval of this block.
    pub block_start: u32,
    /// Stamps from before this interval do not count: the start of the launch, or of the block for shared memory.
    pub since: u32,
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Plain read.
    Read,
    /// Plain write.
    Write,
    /// Atomic read and write.
    Atomic,
    /// Start of an asynchronous copy into the place.
    CopyStart,
    /// End of it.
    CopyEnd,
}

/// Why an access is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// A read while another thread's write is not ordered before it; the other thread, if it is of this block.
    ReadAfterWrite(Option<u16>),
    /// A write while another thread's write is not ordered before it.
    WriteAfterWrite(Option<u16>),
    /// A write while another thread's read is not ordered before it.
    WriteAfterRead(Option<u16>),
    /// An access to the target of an asynchronous copy under way.
    CopyInFlight(u16),
}

impl Now {
    fn stamp(&self, thread: u16) -> Stamp {
        Stamp { interval: self.interval, warp_interval: self.warp_interval, thread }
    }

    fn warp(&self) -> u16 {
        self.thread / 32
    }

    /// Whether the access of `stamp` is certain to come before this thread's.
    fn is_after(&self, stamp: Stamp) -> bool {
        if stamp.interval < self.since {
            return true;
        }
        if stamp.interval < self.block_start || stamp.thread == who::MANY_BLOCKS {
            return false;
        }
        if stamp.interval < self.interval || stamp.thread == self.thread {
            return true;
        }
        let warp = match stamp.thread {
            thread if thread < 1024 => thread / 32,
            thread if thread & who::MANY_IN_WARP != 0 => thread & !who::MANY_IN_WARP,
            _ => return false,
        };
        warp == self.warp() && stamp.warp_interval < self.warp_interval
    }

    /// The single thread of this block behind `stamp`.
    fn other(&self, stamp: Stamp) -> Option<u16> {
        (stamp.interval >= self.block_start && stamp.thread < 1024).then_some(stamp.thread)
    }
}

impl Cell {
    /// Whether nothing was written here since interval `since`.
    pub fn is_unwritten(&self, since: u32) -> bool {
        self.write.interval < since
    }

    /// The thread of this block that wrote here last, if it is known.
    pub fn writer(&self) -> Option<u16> {
        (self.write.thread < 1024).then_some(self.write.thread)
    }

    /// Whether one more read is right and changes nothing: written in an earlier interval of this block, and read by
    /// several warps in this one. Most reads of a tile are such.
    #[inline]
    pub fn is_shared_already(&self, now: &Now) -> bool {
        let Stamp { interval, thread, .. } = self.write;
        (now.block_start..now.interval).contains(&interval)
            && thread < 1024
            && self.read.interval == now.interval
            && self.read.thread == who::MANY
    }

    /// Records an access, or says why it is wrong.
    pub fn record(&mut self, now: &Now, access: Access) -> Result<(), Conflict> {
        if self.write.thread & who::IN_FLIGHT != 0 && self.write.thread < who::MANY_IN_WARP {
            let copier = self.write.thread & !who::IN_FLIGHT;
            if access == Access::CopyEnd && copier == now.thread {
                self.write = now.stamp(now.thread);
                return Ok(());
            }
            if self.write.interval >= now.since {
                return Err(Conflict::CopyInFlight(copier));
            }
        }
        let is_atomic_pair = access == Access::Atomic && self.write.thread == who::ATOMIC;
        let is_write_ordered = is_atomic_pair || now.is_after(self.write);
        if access == Access::Read {
            if !is_write_ordered {
                return Err(Conflict::ReadAfterWrite(now.other(self.write)));
            }
            self.read = self.read_with(now);
            return Ok(());
        }
        if !is_write_ordered {
            return Err(Conflict::WriteAfterWrite(now.other(self.write)));
        }
        if !now.is_after(self.read) {
            return Err(Conflict::WriteAfterRead(now.other(self.read)));
        }
        self.write = now.stamp(match access {
            Access::Atomic => who::ATOMIC,
            Access::CopyStart => now.thread | who::IN_FLIGHT,
            _ => now.thread,
        });
        Ok(())
    }

    /// The readers once `now` has joined them.
    fn read_with(&self, now: &Now) -> Stamp {
        let readers = self.read;
        if readers.interval < now.since || readers.interval == 0 {
            return now.stamp(now.thread);
        }
        if readers.interval < now.block_start || readers.thread == who::MANY_BLOCKS {
            return now.stamp(who::MANY_BLOCKS);
        }
        if readers.interval < now.interval || readers.thread == now.thread {
            return now.stamp(now.thread);
        }
        let warp = match readers.thread {
            thread if thread < 1024 => thread / 32,
            thread if thread & who::MANY_IN_WARP != 0 => thread & !who::MANY_IN_WARP,
            _ => return readers,
        };
        if warp != now.warp() {
            return now.stamp(who::MANY);
        }
        if readers.warp_interval < now.warp_interval {
            return now.stamp(now.thread);
        }
        now.stamp(who::MANY_IN_WARP | warp)
    }
}
