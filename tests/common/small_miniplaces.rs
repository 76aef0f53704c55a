//! A data set to spoil.

use std::fs;
use std::path::Path;

use residuum::data::{OpenOptions, scenes};
use tempfile::TempDir;

pub const ALLOW_MISSING: OpenOptions =
    OpenOptions { allow_missing: true, categories: None, limit_train: None, limit_val: None, only: None };

/// A small MiniPlaces folder: 40 training and 20 held-out scenes of 24 pixels.
pub fn small_miniplaces() -> TempDir {
    let dir = TempDir::new().unwrap();
    scenes::write_miniplaces(dir.path(), 40, 20, 24, 7).unwrap();
    dir
}

/// Replaces `from` by `to` in the file at `path`.
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no `{from}`", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}
