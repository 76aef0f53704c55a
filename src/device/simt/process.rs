//! Where this program's own memory lies: its images, and the thread-local block that holds `__shared__` arrays.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ops::Range;

/// The parts of the program's image, where constants of kernels are.
pub fn image_ranges() -> Vec<Range<usize>> {
    visit_program(|info, headers| {
        headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD)
            .map(|header| {
                let start = info.dlpi_addr as usize + header.p_vaddr as usize;
                start..start + header.p_memsz as usize
            })
            .collect()
    })
}

/// The program's thread-local block in this OS thread.
pub fn thread_local_range() -> Range<usize> {
    thread_local! {
        static RANGE: RefCell<Option<Range<usize>>> = const { RefCell::new(None) };
    }
    RANGE.with_borrow_mut(|range| {
        range
            .get_or_insert_with(|| {
                visit_program(|info, headers| {
                    let start = info.dlpi_tls_data as usize;
                    let size = headers
                        .iter()
                        .find(|header| header.p_type == libc::PT_TLS)
                        .map_or(0, |header| header.p_memsz as usize);
                    start..start + size
                })
            })
            .clone()
    })
}

/// Calls `read` with the program itself, which is the first object that the loader lists.
fn visit_program<T>(read: impl FnMut(&libc::dl_phdr_info, &[libc::Elf64_Phdr]) -> T) -> T {
    struct Visit<F, T> {
        read: F,
        result: Option<T>,
    }
    unsafe extern "C" fn first<F: FnMut(&libc::dl_phdr_info, &[libc::Elf64_Phdr]) -> T, T>(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        visit: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes a valid description and the pointer given below.
        unsafe {
            let visit = &mut *visit.cast::<Visit<F, T>>();
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
            visit.result = Some((visit.read)(info, headers));
        }
        1
    }
    fn run<F: FnMut(&libc::dl_phdr_info, &[libc::Elf64_Phdr]) -> T, T>(visit: &mut Visit<F, T>) {
        // SAFETY: the callback is the one for this type of visit, which outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(first::<F, T>), (visit as *mut Visit<F, T>).cast()) };
    }
    let mut visit = Visit { read, result: None };
    run(&mut visit);
    visit.result.expect("the loader lists the program itself")
}
