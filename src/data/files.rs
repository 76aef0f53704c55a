//! Folders, file names, how messages name a few of many, and the hash that names files of the cache.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::hash::Hasher;
use std::io;
use std::path::{Component, Path, PathBuf};

use fnv::FnvHasher;
use walkdir::WalkDir;

use crate::error::{Error, Result};
use crate::regular_file;
use crate::show::{show_path, show_text};

/// How many offending files an error message names before it only counts the rest.
const NUM_NAMED: usize = 5;

/// The first few of `items` joined by `separator`, with an ellipsis where there are more.
pub(super) fn first_few(items: impl Iterator<Item = String>, separator: &str) -> String {
    let mut named: Vec<String> = items.take(NUM_NAMED + 1).collect();
    if named.len() > NUM_NAMED {
        named[NUM_NAMED] = "...".into();
    }
    named.join(separator)
}

/// Whether `path` stays below the folder it is joined to.
pub(super) fn is_inside(path: &Path) -> bool {
    path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

/// Lists are shorter: ten million lines are half of this.
pub(super) const MAX_TEXT_BYTES: usize = 1 << 30;

/// The text of the file at `path`, without a byte order mark.
///
/// # Errors
/// [`Error::Data`] if it is no regular file, has more than `max_bytes` or is not in UTF-8; [`Error::Io`] if it cannot be
/// read.
pub(super) fn read_text(path: &Path, max_bytes: usize) -> Result<String> {
    let mut text = String::from_utf8(regular_file::read(path, max_bytes)?).map_err(|error| {
        let is_utf16 = matches!(error.as_bytes(), [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..]);
        let what =
            if is_utf16 { "is text in UTF-16; save it in UTF-8" } else { "is not a text file in UTF-8" };
        Error::data(path, what)
    })?;
    // Notepad and PowerShell begin a file with one.
    if text.starts_with('\u{FEFF}') {
        text.drain(..'\u{FEFF}'.len_utf8());
    }
    Ok(text)
}

/// Extensions of the images that are read, in any case.
pub(super) const IMAGE_EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// What file systems and viewers leave in folders of photos. Nobody means it as a photo or a class.
const LITTER: [&str; 4] = ["@eaDir", "__MACOSX", "Thumbs.db", "desktop.ini"];

/// Whether a file or folder of this name is passed over: a hidden one, or litter.
fn is_passed_over(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || LITTER.iter().any(|litter| name == *litter)
}

/// The entries of `dir` sorted by name, without those that are passed over.
pub(super) fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.map(read).collect())
        .map_err(|source| cannot_read_folder(dir, &source))?;
    paths.retain(|path| !path.file_name().is_some_and(is_passed_over));
    paths.sort_unstable();
    Ok(paths)
}

fn cannot_read_folder(dir: &Path, source: &io::Error) -> Error {
    Error::data(dir, format!("cannot read the folder: {source}"))
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files that were looked for, sorted by folder and name.
    pub(super) wanted: Vec<PathBuf>,
    /// Everything else but folders.
    pub(super) others: Vec<PathBuf>,
}

/// The images below `dir`, by their extension.
///
/// # Errors
/// As [`found_below`].
pub(super) fn images_below(dir: &Path) -> Result<Found> {
    found_below(dir, usize::MAX, is_image)
}

/// The photos below `dir` by folder and name, and what is to be said of the files that are none.
///
/// # Errors
/// [`Error::Data`] if a folder cannot be read, or is a link to one that it lies in.
pub fn photos_below(dir: &Path) -> Result<(Vec<PathBuf>, Option<String>)> {
    let Found { wanted, others } = images_below(dir)?;
    let remark = left_out(dir, &others);
    Ok((wanted, remark))
}

/// The images directly in `dir`, by their extension.
///
/// # Errors
/// As [`found_below`].
pub(super) fn images_in(dir: &Path) -> Result<Found> {
    found_below(dir, 1, is_image)
}

/// The files that are wanted in `dir` and so many levels below it. A link counts as what it leads to.
///
/// # Errors
/// [`Error::Data`] if a folder cannot be read, or is a link to one that it lies in.
pub(super) fn found_below(dir: &Path, num_levels: usize, is_wanted: impl Fn(&Path) -> bool) -> Result<Found> {
    let mut found = Found::default();
    let entries = WalkDir::new(dir).max_depth(num_levels).follow_links(true).sort_by_file_name();
    let entries = entries.into_iter();
    for entry in entries.filter_entry(|entry| entry.depth() == 0 || !is_passed_over(entry.file_name())) {
        let (path, is_file) = match entry {
            Ok(entry) if entry.file_type().is_dir() && entry.depth() < num_levels => continue,
            Ok(entry) => (entry.path().to_path_buf(), entry.file_type().is_file()),
            Err(error) => (dangling(dir, &error)?, true),
        };
        if is_file && is_wanted(&path) { found.wanted.push(path) } else { found.others.push(path) }
    }
    Ok(found)
}

/// The link that `error` of a walk through `dir` is about, if it is a link that leads nowhere: a file that is missing.
fn dangling(dir: &Path, error: &walkdir::Error) -> Result<PathBuf> {
    let path = error.path().unwrap_or(dir);
    match error.io_error() {
        Some(_) if error.depth() > 0 && path.is_symlink() && !path.exists() => Ok(path.to_path_buf()),
        Some(source) => Err(cannot_read_folder(path, source)),
        None => Err(Error::data(path, "is a link to a folder that it lies in; remove it")),
    }
}

/// Whether the file at `path` is an image by its extension.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    IMAGE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// What is to be said of files below `root` that are left out: how many there are of each extension, and one of them.
pub(super) fn left_out(root: &Path, files: &[PathBuf]) -> Option<String> {
    let first = files.first()?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for path in files {
        let kind = match path.extension() {
            _ if path.exists() && !path.is_file() => "no file".into(),
            Some(extension) => format!(".{}", show_text(&extension.to_ascii_lowercase().to_string_lossy())),
            None => "without extension".into(),
        };
        *counts.entry(kind).or_default() += 1;
    }
    let kinds = counts.into_iter().map(|(kind, count)| format!("{count} {kind}"));
    let kinds: Vec<String> = kinds.collect();
    let first = show_path(first.strip_prefix(root).unwrap_or(first));
    let count = files.len();
    Some(format!("{count} left out that are no images this program reads: {} ({first})", kinds.join(", ")))
}

/// A hash of several fields: FNV-1a of 64 bits, which is the same in every version of Rust, as names in the cache need.
#[derive(Default)]
pub(super) struct FieldHash(FnvHasher);

impl FieldHash {
    /// Mixes in the length of `bytes` and then `bytes`, so that neighbouring fields cannot run into each other.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.0.write(&(bytes.len() as u64).to_le_bytes());
        self.0.write(bytes);
    }

    pub(super) fn finish(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_names_are_given_and_the_rest_hinted_at() {
        let names = |count: usize| (0..count).map(|i| i.to_string());
        assert_eq!(first_few(names(5), " "), "0 1 2 3 4");
        assert_eq!(first_few(names(6), " "), "0 1 2 3 4 ...");
    }

    #[test]
    fn fields_of_a_hash_do_not_run_into_each_other() {
        let hash = |fields: &[&str]| {
            let mut hash = FieldHash::default();
            fields.iter().for_each(|field| hash.write(field.as_bytes()));
            hash.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
