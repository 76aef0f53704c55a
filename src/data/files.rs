//! Folders, file names, how messages name a few of many, and the hash that names files of the cache.

use std::fs;
use std::hash::Hasher;
use std::path::{Component, Path, PathBuf};

use fnv::FnvHasher;

use crate::error::{Error, Result};

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

/// The entries of `dir` sorted by name, hidden ones left out.
pub(super) fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = |entry: std::io::Result<fs::DirEntry>| entry.map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.map(read).collect())
        .map_err(|source| Error::data(dir, format!("cannot read the folder: {source}")))?;
    paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    paths.sort_unstable();
    Ok(paths)
}

/// The image files directly in `dir` sorted by name, by their extension.
pub(super) fn sorted_images(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = sorted_entries(dir)?;
    paths.retain(|path| is_image(path));
    Ok(paths)
}

/// Whether the file at `path` is an image by its extension.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["jpg", "jpeg", "png"].iter().any(|known| extension.eq_ignore_ascii_case(known))
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
