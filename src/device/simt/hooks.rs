//! The functions that kernels compiled with kernels/host.h call. Each acts for the CUDA thread that is running on this
//! OS thread; those that end in a finding never return to it.

use std::ffi::{CStr, c_char};

use super::abi::WarpCall;
use super::block::current;
use super::finding::Place;
use super::shadow::Access;

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_barrier(file: *const c_char, line: u32) {
    // SAFETY: called by a running kernel, as all of these.
    unsafe { current() }.barrier(Place::Line(file, line));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_warp_call(call: *mut WarpCall) {
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.warp_call(call);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_copy_async(
    to: *mut u8,
    from: *const u8,
    num_bytes: u32,
    is_cached: bool,
    file: *const c_char,
    line: u32,
) {
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.copy_start(to, from, num_bytes as usize, is_cached, Place::Line(file, line));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_copy_async_commit() {
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.copy_commit();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_copy_async_wait(num_pending: u32) {
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.copy_wait(num_pending);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_fence_proxy_async() {
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.fence_proxy_async();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_atomic(address: usize, num_bytes: u32, code: usize) {
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.access(address, num_bytes as usize, Access::Atomic, Place::Code(code));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_access(address: usize, num_bytes: u64, is_write: u32, code: usize) {
    let access = if is_write != 0 { Access::Write } else { Access::Read };
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.access(address, num_bytes as usize, access, Place::Code(code));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_index_outside_array(array_type: *const c_char, index: i64, code: usize) {
    // SAFETY: as in `simt_barrier`; the compiler wrote the type as a string literal.
    let (block, array_type) = unsafe { (current(), CStr::from_ptr(array_type)) };
    let array_type = array_type.to_string_lossy();
    block.fail(Place::Code(code), format!("index {index} is outside an array of type {array_type}"));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_misaligned(type_name: *const c_char, alignment: u32, address: usize, code: usize) {
    // SAFETY: as in `simt_index_outside_array`.
    let (block, type_name) = unsafe { (current(), CStr::from_ptr(type_name)) };
    let type_name = type_name.to_string_lossy();
    let what = format!(
        "misaligned access: {type_name} at address {address:#x}, which is not a multiple of {alignment}"
    );
    block.fail(Place::Code(code), what);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_signed_overflow(left: i64, sign: u32, right: i64, code: usize) {
    let sign = char::from_u32(sign).unwrap_or('?');
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.fail(Place::Code(code), format!("signed overflow: {left} {sign} {right}"));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_division_by_zero(left: i64, code: usize) {
    // SAFETY: as in `simt_barrier`.
    unsafe { current() }.fail(Place::Code(code), format!("division by zero: {left} / 0"));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn simt_wrong_shift(type_name: *const c_char, value: i64, distance: i64, code: usize) {
    // SAFETY: as in `simt_index_outside_array`.
    let (block, type_name) = unsafe { (current(), CStr::from_ptr(type_name)) };
    let type_name = type_name.to_string_lossy();
    block.fail(Place::Code(code), format!("undefined shift: {value} of type {type_name} by {distance} bits"));
}
