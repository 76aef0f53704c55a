//! Counts what a block does to the memories of a GPU.
//!
//! Threads run one after another here and by warps there, so accesses are noted by thread and put together when the block
//! is done: the n-th execution of a place in the code, counted from the last meeting of the warp, is one request of all
//! lanes that executed it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use fnv::{FnvHashMap, FnvHashSet};
use half::bf16;

use super::finding::Place;
use super::memory::Memory;
use super::process;
use super::shadow::Access;
use crate::device::Slot;
use crate::device::counts::Counts;
use crate::device::kernels::common::WARP_THREADS;

const SECTOR_BYTES: usize = 32;
/// Sectors of a line, the unit in which L1 makes room.
const LINE_SECTORS: usize = 4;
const BANKS: usize = 32;
const BANK_BYTES: usize = 4;

/// What a thread did once. A block does millions of these, so they are small.
#[derive(Debug, Clone, Copy)]
struct Event {
    /// What was accessed; 0 for a copy of zeros.
    address: usize,
    /// Meetings of the thread's warp or block before.
    interval: u32,
    /// Place in the code.
    site: u32,
    /// Where in the dynamic shared memory a copy goes.
    to: u32,
    num_bytes: u16,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Load,
    Store,
    Atomic,
    /// An asynchronous copy from global to shared memory, past L1.
    Copy,
    /// One through L1.
    CachedCopy,
    /// A row of `ldmatrix`.
    MatrixRow,
}

/// One request of a warp: an event a lane.
type Request = [Option<Event>; WARP_THREADS];

#[derive(Debug, Default)]
struct ThreadLog {
    events: Vec<Event>,
    interval: u32,
    /// Waits for copies, each by its share: a wait that leaves n groups under way was prepared for n turns before.
    waits: f64,
}

/// Bytes of one operand that a launch touches, each once.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    /// Place of the operand in the arena.
    pub slot: Slot,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// Counts what one block does; the module says how.
pub struct Counter {
    memory: Arc<Memory>,
    dynamic_shared: Range<usize>,
    static_shared: Range<usize>,
    threads: Vec<ThreadLog>,
    current: usize,
    tensor_instructions: u64,
    /// Phases in which warp groups read operands.
    operand_phases: u64,
    barriers: u64,
}

impl Counter {
    /// For a block of `num_threads` that runs on this OS thread with that dynamic shared memory.
    pub fn new(memory: Arc<Memory>, dynamic_shared: Range<usize>, num_threads: usize) -> Counter {
        let mut threads = Vec::new();
        threads.resize_with(num_threads, ThreadLog::default);
        let static_shared = process::thread_local_range();
        Counter {
            memory,
            dynamic_shared,
            static_shared,
            threads,
            current: 0,
            tensor_instructions: 0,
            operand_phases: 0,
            barriers: 0,
        }
    }

    pub fn switch_to(&mut self, thread: usize) {
        self.current = thread;
        // Threads are resumed from meetings alone.
        self.threads[thread].interval += 1;
    }

    pub fn meet_barrier(&mut self) {
        self.barriers += 1;
    }

    /// A product of a warp, 16x8x16 of bf16 or 16x8x8 of TF32, which takes as long.
    pub fn multiply(&mut self) {
        self.tensor_instructions += 1;
    }

    /// A product of a warp group that reads both operands from shared memory, without bank conflicts as they lie.
    pub fn multiply_by_group(&mut self, rows: usize, columns: usize, depth: usize) {
        self.tensor_instructions += (rows / 16 * (columns / 8)) as u64;
        self.operand_phases += ((rows + columns) * depth * size_of::<bf16>() / (BANKS * BANK_BYTES)) as u64;
    }

    pub fn access(&mut self, address: usize, num_bytes: usize, access: Access, place: Place) {
        let is_global = self.memory.locate(address).is_some();
        // Of the single bytes of static memory, some are flags that the host's compiler keeps.
        let is_shared =
            self.dynamic_shared.contains(&address) || self.static_shared.contains(&address) && num_bytes > 1;
        if !is_global && !is_shared {
            return;
        }
        let kind = match access {
            Access::Read => Kind::Load,
            Access::Atomic => Kind::Atomic,
            Access::Write => Kind::Store,
            // Told by `copy`.
            Access::CopyStart | Access::CopyEnd => return,
        };
        self.note(kind, place, num_bytes, address, 0);
    }

    pub fn matrix_row(&mut self, address: usize, place: Place) {
        self.note(Kind::MatrixRow, place, 16, address, 0);
    }

    pub fn copy(&mut self, to: usize, from: usize, num_bytes: usize, is_cached: bool, place: Place) {
        let kind = if is_cached { Kind::CachedCopy } else { Kind::Copy };
        self.note(kind, place, num_bytes, from, to.wrapping_sub(self.dynamic_shared.start));
    }

    /// The running thread waits for copies, all but `num_pending` groups of them.
    pub fn wait(&mut self, num_pending: u32) {
        self.threads[self.current].waits += 1.0 / f64::from(num_pending + 1);
    }

    fn note(&mut self, kind: Kind, place: Place, num_bytes: usize, address: usize, to: usize) {
        let log = &mut self.threads[self.current];
        let (interval, site) = (log.interval, place.site());
        log.events.push(Event { address, interval, site, to: to as u32, num_bytes: num_bytes as u16, kind });
    }

    /// What the block did, with an L1 cache of `l1_bytes` for it; adds to `touched` what it touched of the operands, which
    /// are sorted by offset.
    pub fn finish(self, l1_bytes: usize, touched: &mut [Footprint]) -> Counts {
        let mut counts = Counts {
            sampled_blocks: 1,
            tensor_instructions: self.tensor_instructions,
            shared_phases: self.operand_phases,
            ideal_phases: self.operand_phases,
            barriers: self.barriers,
            ..Counts::default()
        };
        let warps: Vec<Vec<Request>> = self.threads.chunks(WARP_THREADS).map(requests).collect();
        let longest = warps.iter().map(Vec::len).max().unwrap_or(0);
        let mut global = Global {
            memory: &self.memory,
            cache: Cache::new(l1_bytes / (LINE_SECTORS * SECTOR_BYTES)),
            read: FnvHashSet::default(),
            written: FnvHashSet::default(),
        };
        let mut loads_past_l1 = vec![0u64; warps.len()];
        // Warps take turns, one request each.
        for i in 0..longest {
            for (warp, loads) in warps.iter().zip(&mut loads_past_l1) {
                let Some(request) = warp.get(i) else { continue };
                count_shared(request, |address| self.memory.locate(address).is_none(), &mut counts);
                *loads += u64::from(global.count(request, &mut counts));
            }
        }
        let waits = self.threads.iter().map(|log| log.waits).fold(0.0, f64::max);
        counts.loads_past_l1 = loads_past_l1.into_iter().max().unwrap_or(0);
        counts.copy_waits = f64::ceil(waits) as u64;
        add_sectors(&global.read, touched, |footprint| &mut footprint.read_bytes);
        add_sectors(&global.written, touched, |footprint| &mut footprint.written_bytes);
        counts
    }
}

/// The requests of a warp, in order.
fn requests(lanes: &[ThreadLog]) -> Vec<Request> {
    let key = |event: &Event| (event.interval, event.site);
    let first = &lanes[0].events;
    let is_same = |lane: &ThreadLog| {
        lane.events.len() == first.len() && lane.events.iter().map(key).eq(first.iter().map(key))
    };
    if lanes.iter().all(is_same) {
        let request = |i: usize| std::array::from_fn(|lane| lanes.get(lane).map(|log| log.events[i]));
        return (0..first.len()).map(request).collect();
    }
    let mut requests: Vec<Request> = Vec::new();
    let mut places: FnvHashMap<(u32, u32, u32), usize> = FnvHashMap::default();
    for (lane, log) in lanes.iter().enumerate() {
        let mut executions: FnvHashMap<u32, u32> = FnvHashMap::default();
        let mut interval = 0;
        for event in &log.events {
            if event.interval != interval {
                executions.clear();
                interval = event.interval;
            }
            let nth = executions.entry(event.site).or_default();
            let place = *places.entry((interval, event.site, *nth)).or_insert_with(|| {
                requests.push([None; WARP_THREADS]);
                requests.len() - 1
            });
            *nth += 1;
            requests[place][lane] = Some(*event);
        }
    }
    requests
}

/// Global memory, as one block sees it.
struct Global<'a> {
    memory: &'a Memory,
    cache: Cache,
    read: FnvHashSet<usize>,
    written: FnvHashSet<usize>,
}

impl Global<'_> {
    /// Adds a request, and says whether it is a load that has to wait for more than L1.
    fn count(&mut self, request: &Request, counts: &mut Counts) -> bool {
        let mut bytes: Vec<Range<usize>> = Vec::with_capacity(WARP_THREADS);
        let mut kind = None;
        for event in request.iter().flatten().filter(|event| event.kind != Kind::MatrixRow) {
            let Some((_, offset)) = self.memory.locate(event.address) else { continue };
            kind = Some(event.kind);
            bytes.push(offset as usize..offset as usize + usize::from(event.num_bytes));
        }
        let Some(kind) = kind else { return false };
        bytes.sort_unstable_by_key(|range| range.start);
        let (mut num_distinct, mut end) = (0, 0);
        let mut sectors: Vec<usize> = Vec::with_capacity(2 * WARP_THREADS);
        for range in bytes {
            num_distinct += range.end.saturating_sub(range.start.max(end));
            end = end.max(range.end);
            sectors.extend(range.start / SECTOR_BYTES..=(range.end - 1) / SECTOR_BYTES);
        }
        sectors.dedup();
        if kind == Kind::CachedCopy {
            let lines = sectors.chunk_by(|a, b| a / LINE_SECTORS == b / LINE_SECTORS);
            counts.l1_phases += lines.count() as u64;
        }
        counts.global_requests += 1;
        counts.global_sectors += sectors.len() as u64;
        counts.ideal_sectors += num_distinct.div_ceil(SECTOR_BYTES) as u64;
        let mut has_missed = false;
        for sector in sectors {
            if kind == Kind::Store || kind == Kind::Atomic {
                counts.written_bytes += SECTOR_BYTES as u64;
                self.written.insert(sector);
            } else {
                if kind == Kind::Copy || !self.cache.holds(sector) {
                    counts.l2_bytes += SECTOR_BYTES as u64;
                    has_missed |= kind == Kind::Load;
                }
                self.read.insert(sector);
            }
        }
        has_missed
    }
}

/// Adds the bytes of `sectors` to the operands they lie in.
fn add_sectors(
    sectors: &FnvHashSet<usize>,
    touched: &mut [Footprint],
    bytes: impl Fn(&mut Footprint) -> &mut u64,
) {
    for sector in sectors {
        let offset = sector * SECTOR_BYTES;
        let after = touched.partition_point(|footprint| footprint.slot.offset_bytes <= offset);
        // Operands start on multiples of 64 bytes, so a sector lies in the last that starts before it, if in any.
        let Some(footprint) = touched[..after].last_mut() else { continue };
        if offset < footprint.slot.offset_bytes + footprint.slot.num_bytes() {
            *bytes(footprint) += SECTOR_BYTES as u64;
        }
    }
}

/// Adds the phases of shared memory: a phase serves as many lanes as ask for 128 bytes, and as many words of a bank as
/// there are, one after another.
fn count_shared(request: &Request, is_shared: impl Fn(usize) -> bool, counts: &mut Counts) {
    let Some(event) = request.iter().flatten().next() else { return };
    let lanes = BANKS * BANK_BYTES / usize::from(event.num_bytes).clamp(BANK_BYTES, 16);
    for group in request.chunks(lanes) {
        let mut words: Vec<usize> = Vec::with_capacity(BANKS);
        for event in group.iter().flatten() {
            let address = match event.kind {
                Kind::Copy | Kind::CachedCopy => event.to as usize,
                _ if is_shared(event.address) => event.address,
                _ => continue,
            };
            words.extend(address / BANK_BYTES..=(address + usize::from(event.num_bytes) - 1) / BANK_BYTES);
        }
        if words.is_empty() {
            continue;
        }
        words.sort_unstable();
        words.dedup();
        let mut by_bank = [0u64; BANKS];
        words.iter().for_each(|word| by_bank[word % BANKS] += 1);
        counts.shared_phases += by_bank.into_iter().max().unwrap_or(0);
        counts.ideal_phases += 1;
    }
}

/// The lines used last, each with the sectors of it that are there, as an L1 cache holds them.
struct Cache {
    capacity: usize,
    lines: FnvHashMap<usize, Line>,
    uses: VecDeque<(usize, u64)>,
    now: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    sectors: [bool; LINE_SECTORS],
    last_use: u64,
}

impl Cache {
    /// For so many lines.
    fn new(capacity: usize) -> Cache {
        Cache { capacity, lines: FnvHashMap::default(), uses: VecDeque::new(), now: 0 }
    }

    /// Whether `sector` is there; it is afterwards.
    fn holds(&mut self, sector: usize) -> bool {
        self.now += 1;
        let number = sector / LINE_SECTORS;
        let line = self.lines.entry(number).or_default();
        line.last_use = self.now;
        let is_there = std::mem::replace(&mut line.sectors[sector % LINE_SECTORS], true);
        self.uses.push_back((number, self.now));
        while self.lines.len() > self.capacity {
            let (oldest, at) = self.uses.pop_front().expect("every line has a use");
            if self.lines.get(&oldest).is_some_and(|line| line.last_use == at) {
                self.lines.remove(&oldest);
            }
        }
        is_there
    }
}
