//! Reading files that others name: only regular ones, and none that is longer than it may be.
//!
//! A named pipe would wait for its writer for ever, and a device such as /dev/zero has no end.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::show::show_bytes;

/// Opens the file at `path` for reading, at once whatever it is.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened; [`Error::Data`] saying what it is if it is no regular file.
pub(crate) fn open(path: &Path) -> Result<File> {
    open_to("open", path)
}

/// [`open`], where messages call it `action`.
fn open_to(action: &'static str, path: &Path) -> Result<File> {
    // Opening a named pipe would wait; regular files do not know the flag.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(Error::io(action, path))?;
    let kind = file.metadata().map_err(Error::io(action, path))?.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(file),
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a named pipe",
        _ => "a device",
    };
    Err(Error::data(path, format!("is {what}, not a file; name a file, or remove it")))
}

/// The bytes of the file at `path`, at most `max_bytes` of them.
///
/// # Errors
/// As [`open`], and [`Error::Data`] if the file is longer.
pub(crate) fn read(path: &Path, max_bytes: usize) -> Result<Vec<u8>> {
    let file = open_to("read", path)?;
    let found_bytes = file.metadata().map_err(Error::io("read", path))?.len() as usize;
    let too_long = |found_bytes| {
        let (found, most) = (show_bytes(found_bytes), show_bytes(max_bytes));
        Error::data(path, format!("is {found} long, more than the {most} that are read of such a file"))
    };
    if found_bytes > max_bytes {
        return Err(too_long(found_bytes));
    }
    let mut bytes = Vec::with_capacity(found_bytes);
    // The file may grow while it is read.
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() > max_bytes { Err(too_long(bytes.len())) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_only_up_to_the_limit() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "1234").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"1234");
        assert!(read(&path, 3).unwrap_err().to_string().contains("is 4 B long, more than the 3 B"));
        // No byte of it is on the disk, and none may come to memory.
        File::options().write(true).open(&path).unwrap().set_len(1 << 33).unwrap();
        assert!(read(&path, 1 << 30).unwrap_err().to_string().contains("is 8.00 GiB long"));
        for (special, what) in [(folder.path(), "is a folder"), (Path::new("/dev/zero"), "is a device")] {
            let error = read(special, 1 << 30).unwrap_err();
            assert!(error.exit_code() == 4 && error.to_string().contains(what), "{error}");
        }
        assert!(matches!(read(&folder.path().join("none"), 9), Err(Error::Io { .. })));
    }
}
