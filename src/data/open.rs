//! Opening a data set: which format a folder has, and the lists of that format.

use std::fs;
use std::path::{Path, PathBuf};

use super::dataset::{self, Dataset, Listed, Only, OpenOptions};
use super::{files, folder, miniplaces};
use crate::error::{Error, Result};
use crate::show::show_text;

/// Opens the data set at `root`, a MiniPlaces folder or a folder-per-class tree.
///
/// # Errors
/// [`Error::Data`] if `root` is neither, if a list or folder is malformed or empty, or if listed images are
/// missing and `options` does not allow that; [`Error::Setting`] if `options` asks for more categories than there are
/// or for none of them.
pub fn open(root: &Path, options: &OpenOptions) -> Result<Dataset> {
    for (name, limit) in [("limit_train", options.limit_train), ("limit_val", options.limit_val)] {
        if limit == Some(0) {
            return Err(Error::setting(name, 0, "leaves no images; give at least 1"));
        }
    }
    let root = &absolute(root)?;
    let listed = match &options.only {
        Some(only) => read_split(root, only)?,
        None => read_lists(root)?,
    };
    dataset::from_lists(root, listed, options)
}

/// The folder `root` by its one absolute path, however it was spelt.
pub(crate) fn absolute(root: &Path) -> Result<PathBuf> {
    if root.is_file() {
        return Err(Error::data(root, "is a file; --data-dir takes the folder of a data set"));
    }
    if !root.is_dir() {
        return Err(Error::data(root, "no such folder; --data-dir takes the folder of a data set"));
    }
    fs::canonicalize(root).map_err(Error::io("open", root))
}

/// Detects the format of `root` and reads its lists.
pub(super) fn read_lists(root: &Path) -> Result<Listed> {
    if is_miniplaces(root) {
        miniplaces::read_lists(root)
    } else if is_class_tree(root) {
        folder::read_lists(root)
    } else {
        Err(not_a_data_set(root))
    }
}

/// Detects the format of `root` and reads what it says of one split.
fn read_split(root: &Path, only: &Only) -> Result<Listed> {
    if is_miniplaces(root) {
        miniplaces::read_split(root, only.split)
    } else {
        folder::read_split(root, only)
    }
}

/// Lists next to `images/`, or without class folders. A list that somebody left in a tree of classes is not meant.
pub(super) fn is_miniplaces(root: &Path) -> bool {
    let has_list = root.join("train.txt").exists() || root.join("categories.txt").exists();
    has_list && (root.join("images").exists() || !is_class_tree(root))
}

pub(super) fn is_class_tree(root: &Path) -> bool {
    root.join("train").is_dir()
}

pub(super) fn not_a_data_set(root: &Path) -> Error {
    let looked_for = "not a data set: looked for MiniPlaces (train.txt, val.txt, categories.txt, images/) and for one \
                      folder per class (train/<class>/*.jpg, val/<class>/*.jpg)";
    let found = folder::class_folders(root).unwrap_or_default();
    match found.is_empty() {
        true => Error::data(root, looked_for),
        false => {
            let found = files::first_few(found.iter().map(|name| show_text(name)), ", ");
            Error::data(root, format!("{looked_for}; found the folders {found}"))
        }
    }
}
