//! The structs that kernels/host.h and the emulator share.

use std::ffi::{c_char, c_void};

/// The most dynamic shared memory of a block, as on sm_90.
pub const MAX_DYNAMIC_SHARED_BYTES: usize = 227 << 10;

/// A kernel compiled for the host; `build.rs` writes the table of them.
#[derive(Debug, Clone, Copy)]
pub struct HostKernel {
    /// Symbol of the kernel.
    pub name: &'static str,
    /// Runs one thread of the kernel.
    pub plain: unsafe extern "C" fn(*const u8),
    /// Runs one thread of the kernel, announcing its memory accesses.
    pub checked: unsafe extern "C" fn(*const u8),
    /// The layout of the argument struct.
    pub arguments: ArgsLayout,
}

/// A member of an argument struct; `build.rs` reads it, and the C++ compiler agrees.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Name of the member.
    pub name: &'static str,
    /// Offset in bytes from the start of the struct.
    pub offset_bytes: usize,
    /// Size of the member.
    pub num_bytes: usize,
    /// Whether it is a pointer to device memory.
    pub is_pointer: bool,
}

/// An argument struct.
#[derive(Debug, Clone, Copy)]
pub struct ArgsLayout {
    /// Size of the struct.
    pub num_bytes: usize,
    /// Members of the struct, in order.
    pub members: &'static [Member],
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

impl WarpCall {
    /// What must agree between the lanes of one meeting: call, mask, place.
    pub(super) fn meeting(&self) -> (u32, u32, *const c_char, u32) {
        (self.kind, self.mask, self.file, self.line)
    }
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
    pub const MMA_M16N8K8_TF32: u32 = 7;
    pub const LDMATRIX: u32 = 8;
    pub const LDMATRIX_TRANS: u32 = 9;
    /// From here on of four warps together.
    pub const WGMMA_FENCE: u32 = 10;
    pub const WGMMA: u32 = 11;
    pub const WGMMA_COMMIT: u32 = 12;
    pub const WGMMA_WAIT: u32 = 13;
}

/// The word of CUDA for a meeting.
pub fn call_name(kind: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "__syncwarp",
        "__shfl_sync",
        "__shfl_up_sync",
        "__shfl_down_sync",
        "__shfl_xor_sync",
        "__ballot_sync",
        "mma_m16n8k16_bf16",
        "mma_m16n8k8_tf32",
        "ldmatrix",
        "ldmatrix_trans",
        "wgmma_fence",
        "wgmma_k16_bf16",
        "wgmma_commit",
        "wgmma_wait",
    ];
    NAMES[kind as usize]
}
