//! Replacing a file so that a reader, or a run after a crash, sees the old one or the new one, never half of
//! either.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes gathered before a write: large tensors pass through unbuffered, small ones and text do not cost a
/// call each.
const BUFFER_BYTES: usize = 1 << 20;

/// Replaces the file at `path` with what `fill` writes: a temporary file next to it, synced, then renamed over
/// it.
///
/// The temporary file has one fixed name, `<file>.tmp`: what a killed process leaves is overwritten by the
/// next write instead of piling up.
///
/// # Errors
/// What the operating system or `fill` reports. The earlier file is then untouched and the temporary one
/// removed.
pub fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary_path(path);
    let outcome = write_synced(&temporary, fill).and_then(|()| fs::rename(&temporary, path));
    if outcome.is_err() {
        // The first error is the one to report; a file that was never created cannot be removed.
        let _ = fs::remove_file(&temporary);
        return outcome;
    }
    sync_folder_of(path)
}

/// Where [`replace`] writes before it renames.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

fn write_synced(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let file = File::create(path)?;
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, &file);
    let filled = fill(&mut writer).and_then(|()| writer.flush());
    // `into_parts` drops the buffer without trying to write it once more.
    drop(writer.into_parts());
    filled?;
    file.sync_all()
}

/// Makes the rename itself durable. Only Unix lets a program open a folder for that.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_file_replaces_the_old_one_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.csv");
        for text in ["first", "second, longer"] {
            replace(&path, |writer| writer.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names_in(folder.path()), ["summary.csv"]);
    }

    #[test]
    fn a_failure_half_way_leaves_the_old_file_and_no_temporary_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.bin");
        fs::write(&path, b"old").unwrap();
        let error = replace(&path, |writer| {
            writer.write_all(&vec![7; 3 * BUFFER_BYTES])?;
            writer.write_all(b"left in the buffer")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(folder.path()), ["last.bin"]);
    }

    #[test]
    fn what_a_killed_process_left_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.bin");
        fs::write(temporary_path(&path), vec![1; 10_000]).unwrap();
        replace(&path, |writer| writer.write_all(b"whole")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names_in(folder.path()), ["last.bin"]);
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = replace(&folder.path().join("no/such.txt"), |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
