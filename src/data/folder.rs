//! One folder per class: `train/<class>/*.jpg` and `val/<class>/*.jpg`, images of other formats as well.
//!
//! The folders below `train` are the categories, in the order of their names; those of `val` must be among them. `valid`
//! and `validation` are other names of `val`, and where there is none of the three, a `test` of class folders serves.
//! Images in subfolders of a class belong to the class. Images in `test` are the test split otherwise.

use std::path::{Path, PathBuf};

use super::dataset::{Listed, Only};
use super::files::{self, Found};
use super::{Sample, Split};
use crate::error::{Error, Result};
use crate::show::{show_path, show_text};

const FORMAT: &str = "folder per class";
/// Names of the folder of validation images.
const VAL_NAMES: [&str; 3] = ["val", "valid", "validation"];
/// Lists of MiniPlaces, which say nothing in a tree of class folders.
const LISTS: [&str; 3] = ["train.txt", "val.txt", "categories.txt"];

/// The folders of a tree, and what has to be said of them.
pub(super) struct Folders {
    pub(super) train: PathBuf,
    pub(super) val: PathBuf,
    pub(super) test: Option<PathBuf>,
    pub(super) remarks: Vec<String>,
}

impl Folders {
    /// Finds the folders of the tree at `root`.
    ///
    /// # Errors
    /// [`Error::Data`] if the validation images are nowhere, or in two places.
    pub(super) fn find(root: &Path) -> Result<Folders> {
        let train = root.join(Split::Train.name());
        let test = Some(root.join(Split::Test.name())).filter(|dir| dir.is_dir());
        let mut remarks = Vec::new();
        let stray: Vec<&str> = LISTS.into_iter().filter(|list| root.join(list).exists()).collect();
        if !stray.is_empty() {
            remarks.push(format!("not read, since the folders decide: {}", stray.join(", ")));
        }
        let there: Vec<&str> = VAL_NAMES.into_iter().filter(|name| root.join(name).exists()).collect();
        match (&*there, &test) {
            ([name], _) => {
                if *name != Split::Val.name() {
                    remarks.push(format!("validation images: those in {name}/"));
                }
                Ok(Folders { val: root.join(name), train, test, remarks })
            }
            ([], Some(dir)) if !class_folders(dir)?.is_empty() => {
                remarks.push("validation images: those in test/, since there is no val/".into());
                Ok(Folders { val: dir.clone(), train, test: None, remarks })
            }
            ([], _) => {
                let found = files::first_few(class_folders(root)?.iter().map(|name| show_text(name)), ", ");
                let looked_for = VAL_NAMES.join(", ");
                let message = format!(
                    "has no folder of validation images: looked for {looked_for} with class folders, found {found}"
                );
                Err(Error::data(root, message))
            }
            _ => {
                let message = format!(
                    "has more than one folder of validation images: {}; leave one of them",
                    there.join(", ")
                );
                Err(Error::data(root, message))
            }
        }
    }
}

/// Reads the class folders of `root`.
pub(super) fn read_lists(root: &Path) -> Result<Listed> {
    let train = root.join(Split::Train.name());
    let classes = class_folders(&train)?;
    if classes.is_empty() {
        return Err(Error::data(train, "has no class folders (train/<class>/*.jpg)"));
    }
    let Folders { train, val, test, mut remarks } = Folders::find(root)?;
    let mut left_out = Vec::new();
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for (split, dir) in [(Split::Train, &train), (Split::Val, &val)] {
        left_out.extend(files::sorted_entries(dir)?.into_iter().filter(|path| !path.is_dir()));
        for class in class_folders(dir)? {
            let (of_class, others) = read_class(root, &dir.join(&class), &classes)?;
            samples[split as usize].extend(of_class);
            left_out.extend(others);
        }
    }
    if let Some(dir) = test {
        let Found { wanted, others } = files::images_below(&dir)?;
        samples[Split::Test as usize] = wanted.iter().map(|path| sample(root, path, None)).collect();
        left_out.extend(others);
    }
    remarks.extend(files::left_out(root, &left_out));
    remarks.extend(in_subfolders(&samples, 3));
    Ok(Listed { format: FORMAT, image_dir: root.to_path_buf(), categories: classes, samples, remarks })
}

/// Reads the class folders of one split: those below the folder of its name, or those of `root` where that has no splits.
pub(super) fn read_split(root: &Path, only: &Only) -> Result<Listed> {
    let names: &[&str] = match only.split {
        Split::Val => &VAL_NAMES,
        Split::Train => &["train"],
        Split::Test => &["test"],
    };
    let there = |name: &&str| root.join(name).is_dir();
    let has_splits = VAL_NAMES.iter().chain(&["train", "test"]).any(there);
    let dir = match names.iter().find(|name| there(name)) {
        Some(name) => root.join(name),
        None if !has_splits => root.to_path_buf(),
        None => {
            let found = files::first_few(class_folders(root)?.iter().map(|name| show_text(name)), ", ");
            let looked_for = names.join(", ");
            return Err(Error::data(
                root,
                format!("looked for {looked_for} with class folders, found {found}"),
            ));
        }
    };
    let train = root.join(Split::Train.name());
    let found = class_folders(&dir)?;
    if found.is_empty() {
        let message = "has no class folders, so its photos have no labels; `predict` says what is in photos";
        return Err(Error::data(dir, message));
    }
    let categories = if found.iter().all(|name| only.categories.contains(name)) {
        only.categories.clone()
    } else if train.is_dir() {
        class_folders(&train)?
    } else {
        found.clone()
    };
    let mut left_out: Vec<PathBuf> =
        files::sorted_entries(&dir)?.into_iter().filter(|path| !path.is_dir()).collect();
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for class in found {
        let (of_class, others) = read_class(root, &dir.join(&class), &categories)?;
        samples[only.split as usize].extend(of_class);
        left_out.extend(others);
    }
    let num_levels = dir.strip_prefix(root).map_or(0, |below| below.components().count()) + 2;
    let subfolders = in_subfolders(&samples, num_levels);
    let remarks = files::left_out(root, &left_out).into_iter().chain(subfolders).collect();
    Ok(Listed { format: FORMAT, image_dir: root.to_path_buf(), categories, samples, remarks })
}

/// The names of the folders in `dir`, sorted.
pub(super) fn class_folders(dir: &Path) -> Result<Vec<String>> {
    let folders = files::sorted_entries(dir)?.into_iter().filter(|path| path.is_dir());
    folders
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.map(str::to_string).ok_or_else(|| Error::data(&path, "the folder's name is not UTF-8"))
        })
        .collect()
}

/// The images of the class folder `dir`, labelled by the position of its name in `classes`, and the files that are none.
///
/// # Errors
/// [`Error::Data`] if the class is none of these, or has no images.
pub(super) fn read_class(root: &Path, dir: &Path, classes: &[String]) -> Result<(Vec<Sample>, Vec<PathBuf>)> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let label = classes.iter().position(|class| class == name).ok_or_else(|| {
        Error::data(dir, format!("{}/ has no class of this name to learn it from", Split::Train.name()))
    })?;
    let Found { wanted, others } = files::images_below(dir)?;
    if wanted.is_empty() {
        let there = files::left_out(root, &others).map_or(String::new(), |others| format!("; {others}"));
        let known = files::IMAGE_EXTENSIONS.join(" .");
        let message = format!("the class folder has no images (.{known}){there}; add some, or remove it");
        return Err(Error::data(dir, message));
    }
    Ok((wanted.iter().map(|path| sample(root, path, Some(label as u32))).collect(), others))
}

/// What is to be said of images in subfolders of a class, which lie more than so many levels below the root.
pub(super) fn in_subfolders(samples: &[Vec<Sample>; 3], num_levels: usize) -> Option<String> {
    let labelled = samples.iter().flatten().filter(|sample| sample.label.is_some());
    let mut deep = labelled.filter(|sample| sample.path.components().count() > num_levels).peekable();
    let first = show_path(&deep.peek()?.path);
    Some(format!("{} images in subfolders of classes belong to the class: {first}", deep.count()))
}

/// The sample at `path`, which was found below `root`.
pub(super) fn sample(root: &Path, path: &Path, label: Option<u32>) -> Sample {
    let below_root = path.strip_prefix(root).expect("the folder was listed from the root");
    Sample { path: below_root.to_path_buf(), label }
}
