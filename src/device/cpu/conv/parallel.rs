//! Sharing work and output memory among rayon's threads without allocating.

use std::ops::Range;

use rayon::prelude::*;

/// Tasks of long work: more than threads, so that one held up does not hold up all.
pub(super) const TASKS_PER_THREAD: usize = 2;

/// Calls `task` once for each index, on any thread and in any order.
pub(super) fn for_each_task(count: usize, task: impl Fn(usize) + Sync + Send) {
    (0..count).into_par_iter().with_max_len(1).for_each(task);
}

/// Part `part` of `0..len` cut into `parts` ranges whose lengths differ by at most one.
pub(super) fn balanced_part(len: usize, part: usize, parts: usize) -> Range<usize> {
    len * part / parts..len * (part + 1) / parts
}

/// A slice that tasks write disjoint parts of.
#[derive(Debug)]
pub(super) struct SharedMut<T> {
    start: *mut T,
    len: usize,
}

impl<T> Clone for SharedMut<T> {
    fn clone(&self) -> SharedMut<T> {
        *self
    }
}

impl<T> Copy for SharedMut<T> {}

// SAFETY: `SharedMut` only carries the address; every access through it is an `unsafe` block of its own that argues
// that no other task touches the same elements.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    /// Shares `slice`; the caller keeps it mutably borrowed for as long as tasks use the copy.
    pub(super) fn new(slice: &mut [T]) -> SharedMut<T> {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The address of element `offset`.
    ///
    /// # Safety
    /// `offset` is at most the length of the slice.
    pub(super) unsafe fn at(self, offset: usize) -> *mut T {
        debug_assert!(offset <= self.len, "offset {offset} of {}", self.len);
        // SAFETY: in bounds by the caller's promise.
        unsafe { self.start.add(offset) }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// `range` lies inside the slice, which is still borrowed, and no other task accesses these elements meanwhile.
    pub(super) unsafe fn slice<'a>(self, range: Range<usize>) -> &'a mut [T] {
        debug_assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
