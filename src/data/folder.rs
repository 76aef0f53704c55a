//! One folder per class: `train/<class>/*.jpg` and `val/<class>/*.jpg`, PNG as well.
//!
//! The folders below `train` are the categories, in the order of their names; those of `val` must be among them.
//! Images directly in `test/`, where there is such a folder, are the test split.

use std::path::Path;

use super::dataset::Listed;
use super::files::{sorted_entries, sorted_images};
use super::{Sample, Split};
use crate::error::{Error, Result};

/// Reads the class folders of `root`.
pub(super) fn read_lists(root: &Path) -> Result<Listed> {
    let classes = class_folders(&root.join(Split::Train.name()))?;
    if classes.is_empty() {
        return Err(Error::data(
            root.join(Split::Train.name()),
            "has no class folders (train/<class>/*.jpg)",
        ));
    }
    let train = read_samples(root, Split::Train, &classes, &classes)?;
    let val_folders = class_folders(&root.join(Split::Val.name()))?;
    let val = read_samples(root, Split::Val, &val_folders, &classes)?;
    let test = read_test_samples(root)?;
    Ok(Listed {
        format: "folder per class",
        image_dir: root.to_path_buf(),
        categories: classes,
        samples: [train, val, test],
    })
}

/// The names of the folders in `dir`, sorted.
pub(super) fn class_folders(dir: &Path) -> Result<Vec<String>> {
    let folders = sorted_entries(dir)?.into_iter().filter(|path| path.is_dir());
    folders
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.map(str::to_string).ok_or_else(|| Error::data(&path, "the folder's name is not UTF-8"))
        })
        .collect()
}

/// The images in `folders` of `split`, labelled by the position of their folder in `classes`.
fn read_samples(root: &Path, split: Split, folders: &[String], classes: &[String]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for folder in folders {
        let dir = root.join(split.name()).join(folder);
        let label = classes.binary_search(folder).map_err(|_| {
            Error::data(&dir, format!("{}/ has no class of this name to learn it from", Split::Train.name()))
        })?;
        let images = sorted_images(&dir)?;
        if images.is_empty() {
            return Err(Error::data(&dir, "the class folder has no .jpg, .jpeg or .png images"));
        }
        samples.extend(images.iter().map(|path| sample(root, path, Some(label as u32))));
    }
    Ok(samples)
}

/// The images directly in `test/`; none where there is no such folder.
fn read_test_samples(root: &Path) -> Result<Vec<Sample>> {
    let dir = root.join(Split::Test.name());
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    Ok(sorted_images(&dir)?.iter().map(|path| sample(root, path, None)).collect())
}

/// The sample at `path`, which was found below `root`.
fn sample(root: &Path, path: &Path, label: Option<u32>) -> Sample {
    let below_root = path.strip_prefix(root).expect("the folder was listed from the root");
    Sample { path: below_root.to_path_buf(), label }
}
