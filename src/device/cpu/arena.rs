//! One block of host memory for everything a run touches.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::args::Element;
use crate::device::{ALIGNMENT_BYTES, Slot};
use crate::error::{Error, Result};

/// Zeroed, aligned host memory, addressed by [`Slot`]s.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
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
        let layout = Layout::from_size_align(num_bytes.max(1), ALIGNMENT_BYTES).map_err(|_| too_large())?;
        // SAFETY: the layout has a non-zero size.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(too_large)?;
        Ok(Arena { start, layout })
    }

    /// The size asked for.
    pub fn num_bytes(&self) -> usize {
        self.layout.size()
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
        assert!(slot.offset_bytes + slot.num_bytes() <= self.layout.size(), "slot outside the arena");
        assert_eq!(slot.offset_bytes % align_of::<T>(), 0, "slot off its alignment");
        // SAFETY: the offset lies within the allocation, as just checked.
        unsafe { self.start.as_ptr().add(slot.offset_bytes).cast() }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
