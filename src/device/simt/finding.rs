//! What the emulator has found wrong in a kernel, and how it says so.

use std::ffi::{CStr, c_char};
use std::fmt;
use std::path::Path;

/// Where in the sources.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// A line that the compiler wrote into the call; the pointer is to a string literal of the kernel.
    Line(*const c_char, u32),
    /// The address that a call from the kernel returns to.
    Code(usize),
    /// The place is not known.
    Unknown,
}

/// One finding; `Display` is the whole message.
#[derive(Debug)]
pub struct Finding {
    /// Symbol of the kernel.
    pub kernel: &'static str,
    /// Position of the block in the grid.
    pub block: [u32; 3],
    /// Position of the thread in the block.
    pub thread: [u32; 3],
    /// Place in the sources.
    pub place: Place,
    /// What is wrong, as the rest of a sentence.
    pub what: String,
}

// SAFETY: the pointer in `place` is to a string literal.
unsafe impl Send for Finding {}

impl Place {
    /// A number that is another for every other place of a kernel: addresses of one program differ in their lower halves.
    pub fn site(&self) -> u32 {
        match self {
            Place::Line(file, line) => (*file as usize as u32).rotate_left(16) ^ line,
            Place::Code(address) => *address as u32,
            Place::Unknown => 0,
        }
    }

    /// Whether both are the same source line.
    pub fn same_line(&self, other: &Place) -> bool {
        matches!((self, other), (Place::Line(file, line), Place::Line(other_file, other_line))
            if file == other_file && line == other_line)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "kernel {}, block ({x}, {y}, {z})", self.kernel)?;
        let [x, y, z] = self.thread;
        write!(f, ", thread ({x}, {y}, {z})")?;
        let place = self.place.to_string();
        if !place.is_empty() {
            write!(f, ", {place}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl fmt::Display for Place {
    /// `file.cu:12`, or `common.cuh:80 called from file.cu:12`; nothing if unknown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Place::Unknown => Ok(()),
            Place::Line(file, line) => {
                // SAFETY: a string literal of the kernel, by `Place::Line`'s contract.
                let file = unsafe { CStr::from_ptr(file) }.to_string_lossy();
                write!(f, "{}:{line}", file_name(Path::new(&*file)))
            }
            Place::Code(address) => {
                let mut lines: Vec<String> = Vec::new();
                // One before the return address lies inside the call.
                backtrace::resolve((address - 1) as *mut _, |symbol| {
                    if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
                        lines.push(format!("{}:{line}", file_name(file)));
                    }
                });
                match (lines.first(), lines.iter().rev().find(|line| line.contains(".cu:"))) {
                    (Some(inner), Some(outer)) if inner != outer => write!(f, "{inner} called from {outer}"),
                    (Some(line), _) => f.write_str(line),
                    (None, _) => Ok(()),
                }
            }
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
