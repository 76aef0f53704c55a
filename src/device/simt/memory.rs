//! The arena of the emulator: one block of memory that is mapped several times, each view between wide guards.
//!
//! A checked launch gives every pointer argument a view of its own, so the address of an access tells which argument
//! it came from, and how far past that operand it went, even where it lands inside another operand.

use std::ptr;

use crate::error::{Error, Result};

/// Views of a checked arena: one as the arena's plain address, the others for pointer arguments.
pub const CHECKED_VIEWS: usize = 1 + 48;

/// The arena of the emulator; the module says how it is mapped.
#[derive(Debug)]
pub struct Memory {
    reservation: *mut u8,
    stride_bytes: usize,
    num_views: usize,
    num_bytes: usize,
}

// SAFETY: the mapping belongs to this value alone; who may touch which bytes when is the launcher's business.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// `num_bytes` of zeroed memory seen through `num_views` views.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the system does not give it.
    pub fn new(num_bytes: usize, num_views: usize) -> Result<Memory> {
        let refused = |what: &str| {
            let cause = std::io::Error::last_os_error();
            Error::does_not_fit(format!(
                "the emulator's arena needs {num_bytes} bytes, but {what} failed: {cause}; take a smaller batch"
            ))
        };
        const PAGE_BYTES: usize = 4096;
        let mapped_bytes = num_bytes.max(1).next_multiple_of(PAGE_BYTES);
        let stride_bytes = (2 * mapped_bytes + (2 << 20)).next_power_of_two();
        // SAFETY: plain system calls; the mappings below replace parts of the reservation made here and nothing else.
        unsafe {
            let file = libc::memfd_create(c"residuum-arena".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 {
                return Err(refused("memfd_create"));
            }
            let is_sized = libc::ftruncate(file, mapped_bytes as libc::off_t) == 0;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let reservation =
                libc::mmap(ptr::null_mut(), num_views * stride_bytes, libc::PROT_NONE, flags, -1, 0);
            if !is_sized || reservation == libc::MAP_FAILED {
                let error = refused("reserving it");
                libc::close(file);
                return Err(error);
            }
            let memory =
                Memory { reservation: reservation.cast(), stride_bytes, num_views, num_bytes: mapped_bytes };
            for view in 0..num_views {
                let start = memory.view_start(view);
                let access = libc::PROT_READ | libc::PROT_WRITE;
                let flags = libc::MAP_SHARED | libc::MAP_FIXED;
                if libc::mmap(start.cast(), mapped_bytes, access, flags, file, 0) == libc::MAP_FAILED {
                    let error = refused("mapping it");
                    libc::close(file);
                    return Err(error);
                }
            }
            libc::close(file);
            Ok(memory)
        }
    }

    /// Size, a multiple of a page.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// First byte of the arena in `view`.
    pub fn view_start(&self, view: usize) -> *mut u8 {
        assert!(view < self.num_views, "no such view");
        // SAFETY: inside the reservation: the arena starts a quarter into its stride and takes at most half of it.
        unsafe { self.reservation.add(view * self.stride_bytes + self.stride_bytes / 4) }
    }

    /// The view that `address` belongs to, arena or guard, and its distance from the arena's first byte.
    pub fn locate(&self, address: usize) -> Option<(usize, i64)> {
        let within = address.wrapping_sub(self.reservation as usize);
        let view = within / self.stride_bytes;
        (view < self.num_views)
            .then(|| (view, (within % self.stride_bytes) as i64 - (self.stride_bytes / 4) as i64))
    }

    /// The bytes from `offset_bytes` on.
    ///
    /// # Safety
    /// No kernel may run and no other slice be alive.
    ///
    /// # Panics
    /// If they reach outside the arena.
    #[expect(clippy::mut_from_ref, reason = "the arena is shared memory; callers rule out overlaps")]
    pub unsafe fn bytes(&self, offset_bytes: usize, num_bytes: usize) -> &mut [u8] {
        assert!(
            offset_bytes.checked_add(num_bytes).is_some_and(|end| end <= self.num_bytes),
            "outside the arena"
        );
        // SAFETY: inside view 0, as just checked; the caller rules out other users.
        unsafe { std::slice::from_raw_parts_mut(self.view_start(0).add(offset_bytes), num_bytes) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the whole reservation was made in `new` and nothing refers to it any more.
        unsafe { libc::munmap(self.reservation.cast(), self.num_views * self.stride_bytes) };
    }
}
