//! The structs that kernels/host.h and the emulator share.

use std::ffi::{c_char, c_void};

/// A kernel compiled for the host; `build.rs` writes the table of them.
#[derive(Debug, Clone, Copy)]
pub struct HostKernel {
    /// Symbol.
    pub name: &'static str,
    /// One thread of the kernel.
    pub plain: unsafe extern "C" fn(*const u8),
    /// The same, announcing its memory accesses.
    pub checked: unsafe extern "C" fn(*const u8),
    /// Fills in the layout of the argument struct.
    pub layout: unsafe extern "C" fn(*mut ArgsLayout),
}

/// A member of an argument struct, as the C++ compiler lays it out.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Member {
    name: *const c_char,
    /// From the start of the struct.
    pub offset_bytes: u32,
    /// Of the member.
    pub size_bytes: u32,
    is_pointer: u32,
}

/// An argument struct, as the C++ compiler lays it out.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ArgsLayout {
    name: *const c_char,
    /// Of the struct.
    pub size_bytes: u32,
    num_members: u32,
    members: *const Member,
}

impl HostKernel {
    /// The layout of the kernel's argument struct.
    pub fn arguments(&self) -> ArgsLayout {
        let mut layout =
            ArgsLayout { name: std::ptr::null(), size_bytes: 0, num_members: 0, members: std::ptr::null() };
        // SAFETY: the function comes from KERNEL in kernels/host.h and fills in the struct.
        unsafe { (self.layout)(&mut layout) };
        layout
    }
}

impl ArgsLayout {
    /// Name of the struct.
    pub fn name(&self) -> &'static str {
        static_str(self.name)
    }

    /// Its members in order.
    pub fn members(&self) -> &'static [Member] {
        // SAFETY: KERNEL_ARGS points to a static array of that length.
        unsafe { std::slice::from_raw_parts(self.members, self.num_members as usize) }
    }
}

impl Member {
    /// Name of the member.
    pub fn name(&self) -> &'static str {
        static_str(self.name)
    }

    /// Whether it is a pointer to device memory.
    pub fn is_pointer(&self) -> bool {
        self.is_pointer != 0
    }
}

/// A string literal of kernels/host.h's macros.
fn static_str(text: *const c_char) -> &'static str {
    // SAFETY: the macros only export string literals.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_str().unwrap_or("?")
}

/// What a kernel reads of its place in the grid.
#[derive(Debug)]
#[repr(C)]
pub struct ThreadState {
    pub thread_idx: [u32; 3],
    pub block_idx: [u32; 3],
    pub block_dim: [u32; 3],
    pub grid_dim: [u32; 3],
    pub dynamic_shared: *mut u8,
}

/// What a thread brings to a meeting of its warp.
#[derive(Debug)]
#[repr(C)]
pub struct WarpCall {
    pub kind: u32,
    pub mask: u32,
    pub file: *const c_char,
    pub line: u32,
    pub operand: i32,
    pub width: i32,
    pub value: u64,
    pub pointers: [*const c_void; 4],
}

/// The meetings, numbered as in kernels/host.h.
pub mod kind {
    pub const SYNCWARP: u32 = 0;
    pub const SHUFFLE: u32 = 1;
    pub const SHUFFLE_UP: u32 = 2;
    pub const SHUFFLE_DOWN: u32 = 3;
    pub const SHUFFLE_XOR: u32 = 4;
    pub const BALLOT: u32 = 5;
    pub const MMA_M16N8K16_BF16: u32 = 6;
    pub const LDMATRIX: u32 = 7;
    pub const LDMATRIX_TRANS: u32 = 8;
}

/// The word of CUDA for a meeting.
pub fn call_name(kind: u32) -> &'static str {
    const NAMES: [&str; 9] = [
        "__syncwarp",
        "__shfl_sync",
        "__shfl_up_sync",
        "__shfl_down_sync",
        "__shfl_xor_sync",
        "__ballot_sync",
        "mma_m16n8k16_bf16",
        "ldmatrix",
        "ldmatrix_trans",
    ];
    NAMES[kind as usize]
}
