//! MiniPlaces as distributed: lists at the root, images in nested category folders below `images/`.
//!
//! ```text
//! categories.txt           /b/bakery/shop 7
//! train.txt  val.txt       train/b/bakery/shop/00000001.jpg 7
//! images/{train,val,test}/...jpg
//! objects/{train,val}/...xml
//! object_categories.txt
//! ```
//!
//! The lists decide which images there are, not the folders; only the test split, which has no list, is what its
//! folder holds.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::dataset::Listed;
use super::files::{self, Found, MAX_TEXT_BYTES, is_inside};
use super::{Sample, Split};
use crate::error::{Error, Result};
use crate::show::show_text;

const FORMAT: &str = "miniplaces";
/// The list of object classes.
pub(super) const OBJECT_CATEGORIES_FILE: &str = "object_categories.txt";

/// Reads the categories and lists of the MiniPlaces folder `root`.
pub(super) fn read_lists(root: &Path) -> Result<Listed> {
    let categories = read_categories(&root.join("categories.txt"))?;
    let labelled = |name| read_samples(&root.join(name), categories.len());
    let (train, val) = (labelled("train.txt")?, labelled("val.txt")?);
    let image_dir = root.join("images");
    let (test, left_out) = read_test_samples(&image_dir)?;
    let remarks = files::left_out(&image_dir, &left_out).into_iter().collect();
    Ok(Listed { format: FORMAT, image_dir, categories, samples: [train, val, test], remarks })
}

/// Reads the categories and the list of one split with labels.
pub(super) fn read_split(root: &Path, split: Split) -> Result<Listed> {
    let categories = read_categories(&root.join("categories.txt"))?;
    let list = root.join(split.name()).with_extension("txt");
    if split == Split::Test && !list.exists() {
        let message = "has no test.txt, so its test photos have no labels; `predict` says what is in them";
        return Err(Error::data(root, message));
    }
    let mut samples: [Vec<Sample>; 3] = Default::default();
    samples[split as usize] = read_samples(&list, categories.len())?;
    let image_dir = root.join("images");
    Ok(Listed { format: FORMAT, image_dir, categories, samples, remarks: Vec::new() })
}

/// The annotation file of the image at `path` below `images/`, whether or not it exists.
pub fn annotation_path(root: &Path, path: &Path) -> PathBuf {
    root.join("objects").join(path).with_extension("xml")
}

/// The names in a file of `name index` lines, ordered by index; a leading `/a/` is dropped from each.
///
/// # Errors
/// [`Error::Data`] if the file is missing or empty, a line is malformed, two lines have the same name, or the indices are
/// not exactly `0..number of lines`.
pub fn read_categories(path: &Path) -> Result<Vec<String>> {
    let mut names = HashMap::new();
    let mut index_of = HashMap::new();
    for (line, name, index) in read_pairs(path)? {
        let name =
            name.strip_prefix('/').and_then(|rest| rest.split_once('/')).map_or(&*name, |(_, rest)| rest);
        if let Some(other) = index_of.insert(name.to_string(), index) {
            let name = show_text(name);
            let message = format!("line {line}: `{name}` is already the name of index {other}; rename one");
            return Err(Error::data(path, message));
        }
        if let Some(other) = names.insert(index, name.to_string()) {
            return Err(Error::data(
                path,
                format!("line {line}: index {index} is already that of `{}`", show_text(&other)),
            ));
        }
    }
    if names.is_empty() {
        return Err(Error::data(path, "names no category"));
    }
    let num_categories = names.len();
    (0..num_categories as u32)
        .map(|index| {
            names.remove(&index).ok_or_else(|| {
                let message = format!("{num_categories} lines must number 0 to {}", num_categories - 1);
                Error::data(path, format!("{message}, but none has index {index}"))
            })
        })
        .collect()
}

/// The samples of a list of `path label` lines.
fn read_samples(path: &Path, num_categories: usize) -> Result<Vec<Sample>> {
    let pairs = read_pairs(path)?.into_iter();
    pairs
        .map(|(line, name, label)| {
            sample(&name, label, num_categories)
                .map_err(|message| Error::data(path, format!("line {line}: {message}")))
        })
        .collect()
}

/// The sample that a line names, or what is wrong with it.
pub(super) fn sample(name: &str, label: u32, num_categories: usize) -> std::result::Result<Sample, String> {
    if label as usize >= num_categories {
        let last = num_categories - 1;
        return Err(format!("label {label} is out of range; categories.txt numbers 0 to {last}"));
    }
    let path = PathBuf::from(name);
    if !is_inside(&path) {
        return Err("the path must stay below images/".into());
    }
    Ok(Sample { path, label: Some(label) })
}

/// The unlabelled images of `images/test` by file name, and what else is there; none where there is no such folder.
pub(super) fn read_test_samples(image_dir: &Path) -> Result<(Vec<Sample>, Vec<PathBuf>)> {
    let dir = image_dir.join("test");
    if !dir.is_dir() {
        return Ok(Default::default());
    }
    let Found { wanted, others } = files::images_in(&dir)?;
    let file_names = wanted.into_iter().filter_map(|path| path.file_name().map(PathBuf::from));
    let samples = file_names.map(|name| Sample { path: Path::new("test").join(name), label: None });
    Ok((samples.collect(), others))
}

/// The lines of a `name number` file as (line number, name, number); blank lines are passed over.
fn read_pairs(path: &Path) -> Result<Vec<(usize, String, u32)>> {
    let lines = read_lines(path)?.into_iter();
    lines
        .map(|(line, pair)| match pair {
            Ok((name, number)) => Ok((line, name, number)),
            Err(message) => Err(Error::data(path, format!("line {line}: {message}"))),
        })
        .collect()
}

/// A line by its number: the name and number that it holds, or what is wrong with it.
pub(super) type Line = (usize, std::result::Result<(String, u32), String>);

/// The lines of a `name number` file, well-formed or not; blank lines are passed over.
pub(super) fn read_lines(path: &Path) -> Result<Vec<Line>> {
    let text = files::read_text(path, MAX_TEXT_BYTES).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Error::data(
            path,
            "no such file; a MiniPlaces folder has categories.txt, train.txt and val.txt next to images/",
        ),
        other => other,
    })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |line: &str| {
        let pair = line.rsplit_once(char::is_whitespace);
        let parsed =
            pair.and_then(|(name, number)| Some((name.trim_end().to_string(), number.parse().ok()?)));
        parsed.ok_or_else(|| format!("expected `path label`, got `{}`", show_text(line)))
    };
    Ok(lines.map(|(index, line)| (index + 1, parse(line.trim()))).collect())
}
