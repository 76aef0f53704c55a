//! The library's file, its functions and its errors in words.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::sync::OnceLock;
use std::{env, ptr};

use cudarc::driver::sys::CUstream;

use crate::error::{Error, Result};

/// A communicator of the library.
pub(super) type Handle = *mut c_void;

/// What names a meeting of ranks; 128 bytes that are the library's business.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId([c_char; 128]);

/// The library's numbers for elements of a byte, for f32 and for sums.
pub(super) const BYTES: i32 = 1;
/// See [`BYTES`].
pub(super) const FLOATS: i32 = 7;
/// See [`BYTES`].
pub(super) const SUM: i32 = 0;

/// The variable that names a file of it.
const FILE: &str = "RESIDUUM_NCCL";

/// What it is called where the loader finds it.
const FILES: &[&str] = &["libnccl.so.2", "libnccl.so"];

/// Of 2022: it has every function and error that is used here.
const OLDEST: Version = Version(21400);

/// What the library gives back where all is well, and where another rank is gone.
const SUCCESS: i32 = 0;
const REMOTE_ERROR: i32 = 6;

/// Declares the functions that are called, and how they are found in the library.
macro_rules! functions {
    ($($name:ident = $symbol:literal ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> functions!(@result $($result)?),)*
        }

        impl Functions {
            /// # Safety
            /// `library` is NCCL, and stays open.
            unsafe fn of(library: &libloading::Library) -> std::result::Result<Functions, libloading::Error> {
                // SAFETY: the types are those of the library's header.
                Ok(unsafe { Functions { $($name: *library.get($symbol)?,)* } })
            }
        }
    };
    (@result) => { i32 };
    (@result $result:ty) => { $result };
}

functions! {
    version = "ncclGetVersion" (*mut i32);
    error_string = "ncclGetErrorString" (i32) -> *const c_char;
    last_error = "ncclGetLastError" (Handle) -> *const c_char;
    unique_id = "ncclGetUniqueId" (*mut UniqueId);
    init_rank = "ncclCommInitRank" (*mut Handle, i32, UniqueId, i32);
    destroy = "ncclCommDestroy" (Handle);
    async_error = "ncclCommGetAsyncError" (Handle, *mut i32);
    group_start = "ncclGroupStart" ();
    group_end = "ncclGroupEnd" ();
    send = "ncclSend" (u64, usize, i32, i32, Handle, CUstream);
    recv = "ncclRecv" (u64, usize, i32, i32, Handle, CUstream);
    all_gather = "ncclAllGather" (u64, u64, usize, i32, Handle, CUstream);
    all_reduce = "ncclAllReduce" (u64, u64, usize, i32, i32, Handle, CUstream);
    broadcast = "ncclBroadcast" (u64, u64, usize, i32, i32, Handle, CUstream);
}

/// NVIDIA's library that joins GPUs, found and opened.
pub struct Library {
    /// The file that was opened, as it was named.
    pub file: String,
    /// Its version.
    pub version: Version,
    pub(super) functions: Functions,
    /// Never closed: its threads may run until the process ends.
    _library: libloading::Library,
}

/// As in 2.23.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(i32);

impl Library {
    /// Opens it, once for the process: the file that the variable `RESIDUUM_NCCL` names, or the one on the loader's path.
    ///
    /// # Errors
    /// [`Error::Device`] with the remedy if there is none that can be used.
    pub fn open() -> Result<&'static Library> {
        static OPENED: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
        OPENED.get_or_init(Library::open_once).as_ref().map_err(|reason| Error::Device(reason.clone()))
    }

    fn open_once() -> std::result::Result<Library, String> {
        let named = env::var(FILE).ok().filter(|file| !file.is_empty());
        let files = named.as_deref().map_or(FILES.to_vec(), |file| vec![file]);
        let mut reason = String::new();
        for file in files {
            // SAFETY: the library's initialisers are what opening it is for.
            match unsafe { libloading::Library::new(file) } {
                Ok(library) => return Library::of(file, library),
                Err(error) => {
                    let said = error.source().map_or_else(|| error.to_string(), |source| source.to_string());
                    // Of a file that is there, or was named, the reason is of interest.
                    if named.is_some() || !is_absent(file, &said) {
                        reason = format!(" ({said})");
                    }
                }
            }
        }
        Err(format!("no NCCL, which joins ranks on GPUs{reason}; {REMEDY}"))
    }

    fn of(file: &str, library: libloading::Library) -> std::result::Result<Library, String> {
        // SAFETY: a library of this name is NCCL, and is kept.
        let functions = unsafe { Functions::of(&library) }
            .map_err(|error| format!("{file} lacks a function that is needed ({error}); {REMEDY}"))?;
        let mut version = 0;
        // SAFETY: it writes one number.
        let asked = unsafe { (functions.version)(&raw mut version) };
        let library = Library { file: file.into(), version: Version(version), functions, _library: library };
        library.check("asking for its version", None, asked).map_err(|error| format!("{file}: {error}"))?;
        if library.version < OLDEST {
            return Err(format!("{file} is NCCL {}, older than {OLDEST}; {REMEDY}", library.version));
        }
        Ok(library)
    }

    /// The error that `result` stands for, of what was done while `action`; `handle` is the communicator it was done with.
    pub(super) fn check(&self, action: &str, handle: Option<Handle>, result: i32) -> Result<()> {
        if result == SUCCESS {
            return Ok(());
        }
        // SAFETY: both functions give texts of the library that live as long as it; a communicator may be null.
        let (error, last) = unsafe {
            let last = (self.functions.last_error)(handle.unwrap_or(ptr::null_mut()));
            (text((self.functions.error_string)(result)), text(last))
        };
        let last = if last.is_empty() { last } else { format!(" ({last})") };
        Err(match result {
            REMOTE_ERROR => {
                Error::Peer(format!("another rank has left during {action}: NCCL: {error}{last}"))
            }
            _ => Error::Device(format!(
                "NCCL: {action} failed: {error}{last}; NCCL_DEBUG=INFO has it say more"
            )),
        })
    }
}

/// Whether it is `file` itself that the loader has not found, and not something that it needs.
fn is_absent(file: &str, said: &str) -> bool {
    said.starts_with(&format!("{file}: cannot open shared object file"))
}

/// How to get it.
const REMEDY: &str = "install it (apt install libnccl2), or name its file in RESIDUUM_NCCL (of pip install nvidia-nccl-cu12 it is \
                      nvidia/nccl/lib/libnccl.so.2)";

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().into()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Up to 2.8 a minor number had one digit.
        let scale = if self.0 < 10_000 { 1_000 } else { 10_000 };
        let (major, rest) = (self.0 / scale, self.0 % scale);
        write!(f, "{major}.{}.{}", rest / 100, rest % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_nvidia_writes_them() {
        assert_eq!(Version(22304).to_string(), "2.23.4");
        assert_eq!(Version(2708).to_string(), "2.7.8");
        assert!(Version(2708) < OLDEST && OLDEST < Version(22304));
    }
}
