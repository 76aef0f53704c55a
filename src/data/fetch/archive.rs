//! Archives of others: what is in one is looked at to its end before any of it is written.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::Stop;
use crate::data::files::is_inside;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::regular_file;
use crate::show::{show_bytes, show_count, show_path};

/// Bytes of one file; a photo of MiniPlaces has thousands.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Bytes of all files together, and their number; MiniPlaces has half a gigabyte in 124,000 files.
const MAX_BYTES: u64 = 64 << 30;
const MAX_FILES: usize = 4_000_000;
/// Bytes between the contents of two files: headers, long names, the end of the archive.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Bytes that a file takes on a disk are a multiple of this, as a rule.
const BLOCK_BYTES: u64 = 4096;

/// What an archive holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) num_files: usize,
    /// Bytes on a disk.
    pub(super) num_bytes: u64,
    /// The files that lie in no folder, or in the one folder that holds everything.
    pub(super) top_files: Vec<PathBuf>,
    /// Whether photos, and object annotations, are among them.
    pub(super) has_images: bool,
    pub(super) has_objects: bool,
}

/// Reads the archive at `path` to its end.
///
/// # Errors
/// [`Error::Data`] naming the entry that is no plain file or folder, lies elsewhere than in the archive's folder or is too
/// large, or after which the archive is cut short or damaged, or if there are no photos; [`Error::Interrupted`] after a signal.
pub(super) fn check(path: &Path, stop: Stop) -> Result<Contents> {
    let mut contents = Contents::default();
    each_entry(path, "checking", stop, |name, size, _| {
        let Some(size) = size else { return Ok(()) };
        contents.num_files += 1;
        let is_in = |folder: &str| name.components().take(2).any(|part| part.as_os_str() == folder);
        contents.has_images |= is_in("images");
        contents.has_objects |= is_in("objects");
        contents.num_bytes += size.next_multiple_of(BLOCK_BYTES);
        let what = match () {
            () if size > MAX_FILE_BYTES => format!("{} in one file", show_bytes(size as usize)),
            () if contents.num_bytes > MAX_BYTES => format!("more than {}", show_bytes(MAX_BYTES as usize)),
            () if contents.num_files > MAX_FILES => format!("more than {} files", show_count(MAX_FILES)),
            () => {
                if name.components().count() <= 2 {
                    contents.top_files.push(name.to_path_buf());
                }
                return Ok(());
            }
        };
        Err(format!("holds {what}, which is no data set of photos"))
    })?;
    match contents.has_images {
        true => Ok(contents),
        false => Err(Error::data(path, "has no folder images, so it is no MiniPlaces")),
    }
}

/// Writes what is in the archive at `path`, which [`check`] has passed, into `folder`.
///
/// # Errors
/// As [`check`], and [`Error::Io`] naming the file that cannot be written.
pub(super) fn unpack(path: &Path, folder: &Path, stop: Stop) -> Result<()> {
    let mut failed = None;
    let mut last_folder = PathBuf::new();
    let unpacked = each_entry(path, "unpacking", stop, |name, size, bytes| {
        let target = folder.join(name);
        let target_folder = if size.is_some() { target.parent().unwrap_or(folder) } else { &target };
        let mut write = || {
            if last_folder != target_folder {
                fs::create_dir_all(target_folder)?;
                last_folder = target_folder.to_path_buf();
            }
            match size {
                // A second file of this name is refused.
                Some(_) => File::create_new(&target).map(Some),
                None => Ok(None),
            }
        };
        match write() {
            Ok(None) => return Ok(()),
            Ok(Some(mut file)) => match io::copy(bytes, &mut file) {
                Ok(num_bytes) if Some(num_bytes) == size => return Ok(()),
                Ok(_) => return Err("is cut short".into()),
                Err(error) => failed = Some(Error::io("write", &target)(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err("is there twice".into()),
            Err(error) => failed = Some(Error::io("write", &target)(error)),
        }
        Err("cannot be written".into())
    });
    match failed {
        Some(error) => Err(error),
        None => unpacked,
    }
}

/// Calls `visit` with path, size (of a file; a folder has none) and bytes of every entry of the archive at `path`; what it
/// refuses is an error that names the entry.
fn each_entry(
    path: &Path,
    what: &str,
    stop: Stop,
    mut visit: impl FnMut(&Path, Option<u64>, &mut dyn Read) -> std::result::Result<(), String>,
) -> Result<()> {
    let file = regular_file::open(path)?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let progress = Progress::of_bytes(format!("{what} the archive"), Some(length));
    let mut packed = BufReader::with_capacity(1 << 16, Counted { file, progress });
    let left = Rc::new(Cell::new(MAX_HEADER_BYTES));
    let mut begins = [0; 2];
    if packed.read_exact(&mut begins).is_err() || begins != [0x1f, 0x8b] {
        return Err(Error::data(
            path,
            "is no archive in .tar.gz; it may be another kind of archive, or a page that a server sent instead",
        ));
    }
    packed.seek_relative(-2).map_err(Error::io("read", path))?;
    let mut archive = Archive::new(Bounded { inner: MultiGzDecoder::new(packed), left: Rc::clone(&left) });
    let mut last = String::from("its beginning");
    let damaged = |last: &str, error: io::Error| {
        let how = match error.kind() {
            io::ErrorKind::UnexpectedEof => "is cut short".to_string(),
            _ => format!("is damaged ({error})"),
        };
        Error::data(path, format!("{how} after {last}"))
    };
    let entries = archive.entries().map_err(|error| damaged(&last, error))?;
    for entry in entries {
        if let Some(signal) = stop() {
            return Err(Error::Interrupted { signal });
        }
        let mut entry = entry.map_err(|error| damaged(&last, error))?;
        let name = entry.path().map_err(|error| damaged(&last, error))?.into_owned();
        let shown = format!("`{}`", show_path(&name));
        let size = entry.size();
        // Room for its bytes and for the headers behind them.
        left.set(size.min(MAX_FILE_BYTES).saturating_add(MAX_HEADER_BYTES));
        let is_file = match entry.header().entry_type() {
            EntryType::Regular => true,
            EntryType::Directory => false,
            // Says something of the entries after it, such as their dates.
            EntryType::XGlobalHeader => continue,
            kind => {
                return Err(Error::data(path, format!("{shown} is {}; nothing was unpacked", name_of(kind))));
            }
        };
        if !is_inside(&name) || name.as_os_str().is_empty() {
            return Err(Error::data(
                path,
                format!("{shown} lies outside of the folder; nothing was unpacked"),
            ));
        }
        visit(&name, is_file.then_some(size), &mut entry)
            .map_err(|what| Error::data(path, format!("{shown}: {what}")))?;
        last = shown;
    }
    // The checksum of what was compressed stands at the end.
    left.set(MAX_HEADER_BYTES);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| damaged(&last, error))?;
    Ok(())
}

fn name_of(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink | EntryType::Link => "a link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a named pipe",
        EntryType::GNUSparse => "a file with holes",
        _ => "neither a file nor a folder",
    }
}

/// A file whose bytes are counted as they are read.
struct Counted {
    file: File,
    progress: Progress,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let num_bytes = self.file.read(buffer)?;
        self.progress.add(num_bytes);
        Ok(num_bytes)
    }
}

impl io::Seek for Counted {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// A reader that ends with an error after `left` bytes: names and attributes of an entry are kept in memory, however long the
/// archive says that they are.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("an entry is longer than it may be"));
        }
        let most = buffer.len().min(left as usize);
        let num_bytes = self.inner.read(&mut buffer[..most])?;
        self.left.set(left - num_bytes as u64);
        Ok(num_bytes)
    }
}
