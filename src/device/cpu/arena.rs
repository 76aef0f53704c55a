//! One block of host memory for everything a run touches.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use super::args::Element;
use crate::device::{ALIGNMENT_BYTES, Slot};
use crate::error::{Error, Result};

/// A huge page of x86-64, and of Arm with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed, aligned host memory, addressed by [`Slot`]s.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    num_bytes: usize,
    layout: Layout,
}

// SAFETY: the arena is plain memory; who may access which part is the contract of `slice` and `slice_mut`.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena of exactly `num_bytes` (at least one byte is asked of the system).
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the system has no such block.
    pub fn new(num_bytes: usize) -> Result<Arena> {
        let too_large = || {
            Error::does_not_fit(format!(
                "the plan needs {num_bytes} bytes, which this machine does not give; take a smaller batch"
            ))
        };
        let is_large = num_bytes >= HUGE_PAGE_BYTES;
        let align = if is_large { HUGE_PAGE_BYTES } else { ALIGNMENT_BYTES };
        let layout = Layout::from_size_align(num_bytes.max(1), align).map_err(|_| too_large())?;
        // SAFETY: the layout has a non-zero size.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or_else(too_large)?;
        if is_large {
            advise_huge_pages(start, num_bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES);
        }
        // Memory that the allocator had zeroed would have been touched, in small pages, before the advice.
        // SAFETY: the block is that large and nobody else knows it.
        unsafe { start.write_bytes(0, num_bytes) };
        Ok(Arena { start, num_bytes, layout })
    }

    /// The size asked for.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// The elements of `slot`.
    ///
    /// # Safety
    /// No `slice_mut` that overlaps may be alive.
    ///
    /// # Panics
    /// If the slot reaches outside the arena or is of another type.
    pub unsafe fn slice<T: Element>(&self, slot: &Slot) -> &[T] {
        let start = self.locate::<T>(slot);
        // SAFETY: `locate` checked bounds and alignment, zeroed memory is valid for every `Pod`, and the caller
        // rules out writers.
        unsafe { std::slice::from_raw_parts(start, slot.shape.num_elems()) }
    }

    /// The elements of `slot` for writing.
    ///
    /// # Safety
    /// No other slice that overlaps may be alive.
    ///
    /// # Panics
    /// If the slot reaches outside the arena or is of another type.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts are written through one shared arena")]
    pub unsafe fn slice_mut<T: Element>(&self, slot: &Slot) -> &mut [T] {
        let start = self.locate::<T>(slot);
        // SAFETY: as in `slice`, with the caller ruling out every other access.
        unsafe { std::slice::from_raw_parts_mut(start, slot.shape.num_elems()) }
    }

    fn locate<T: Element>(&self, slot: &Slot) -> *mut T {
        assert_eq!(slot.dtype, T::DTYPE, "slot of another element type");
        assert!(slot.offset_bytes + slot.num_bytes() <= self.num_bytes, "slot outside the arena");
        assert_eq!(slot.offset_bytes % align_of::<T>(), 0, "slot off its alignment");
        // SAFETY: the offset lies within the allocation, as just checked.
        unsafe { self.start.as_ptr().add(slot.offset_bytes).cast() }
    }
}

/// Asks for huge pages, of which a step looks up a five-hundredth as many addresses. A system that has none ignores it.
#[cfg(target_os = "linux")]
fn advise_huge_pages(start: NonNull<u8>, num_bytes: usize) {
    // SAFETY: the range belongs to the caller and begins at a page; the advice changes no contents.
    unsafe { libc::madvise(start.as_ptr().cast(), num_bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: NonNull<u8>, _: usize) {}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, Shape};

    #[test]
    fn large_arenas_begin_at_a_huge_page_and_all_are_zero() {
        for num_bytes in [0, 4, HUGE_PAGE_BYTES - 4, HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 4] {
            let arena = Arena::new(num_bytes).unwrap();
            assert_eq!(arena.num_bytes(), num_bytes);
            let is_large = num_bytes >= HUGE_PAGE_BYTES;
            assert!(!is_large || arena.start.as_ptr().addr().is_multiple_of(HUGE_PAGE_BYTES));
            let slot = Slot { offset_bytes: 0, shape: Shape::new(&[num_bytes / 4]), dtype: DType::F32 };
            // SAFETY: nobody writes to the arena.
            assert!(unsafe { arena.slice::<f32>(&slot) }.iter().all(|elem| elem.to_bits() == 0));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_is_asked_for_huge_pages() {
        use std::fs;
        if !fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
            println!("skipped: this system has no huge pages");
            return;
        }
        let arena = Arena::new(8 * HUGE_PAGE_BYTES).unwrap();
        let start = arena.start.as_ptr().addr();
        // Of each mapping a line with its addresses, then lines of what is known of it.
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let range_of = |line: &str| {
            let (first, last) = line.split_once(' ')?.0.split_once('-')?;
            Some(usize::from_str_radix(first, 16).ok()?..usize::from_str_radix(last, 16).ok()?)
        };
        let mut lines =
            maps.lines().skip_while(|line| !range_of(line).is_some_and(|range| range.contains(&start)));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("a mapping holds the arena");
        assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
    }
}
