//! A data set on disk: its categories, and the images of each split that are there.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::files::{FieldHash, first_few};
use crate::error::{Error, Result};
use crate::show::{show_path, show_text};

/// The three parts of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Images to learn from.
    Train,
    /// Labelled images held out for evaluation.
    Val,
    /// Images without labels.
    Test,
}

impl Split {
    /// The name lists and folders use: `train`, `val` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        }
    }
}

/// One image of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Path below the image folder, as the lists write it.
    pub path: PathBuf,
    /// Category, an index into [`Dataset::categories`]; `None` in the test split.
    pub label: Option<u32>,
}

/// What [`super::open`] leaves out or tolerates; the default is the whole data set, nothing missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOptions {
    /// Skip listed images that are missing or cannot be decoded, instead of failing (`--allow-missing`).
    pub allow_missing: bool,
    /// How many categories are kept, from the first on (`--categories`).
    pub categories: Option<usize>,
    /// How many training images are kept, spread evenly over the categories (`--limit-train`).
    pub limit_train: Option<usize>,
    /// How many validation images are kept, spread in the same way (`--limit-val`).
    pub limit_val: Option<usize>,
    /// The one split that is wanted, where the others need not be there: images that a model is asked about.
    pub only: Option<Only>,
}

/// One split of a data set, with labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Only {
    /// Which one.
    pub split: Split,
    /// Names of the categories by label, as a model knows them. Folders that are all called so have these labels; any
    /// others have theirs in the order of their names.
    pub categories: Vec<String>,
}

/// A data set on disk: its categories and the images of each split.
#[derive(Debug)]
pub struct Dataset {
    root: PathBuf,
    pub(super) image_dir: PathBuf,
    format: &'static str,
    categories: Vec<String>,
    listings: [Listing; 3],
    missing: Vec<PathBuf>,
    options: OpenOptions,
    remarks: Vec<String>,
}

/// The images of one split and what the file system says about each.
#[derive(Debug, Default)]
struct Listing {
    samples: Vec<Sample>,
    stamps: Vec<Stamp>,
}

/// What changes when an image file is edited: its length and the time it was written.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    len_bytes: u64,
    modified_ns: u128,
}

/// What the reader of one format finds in a folder, before anything is filtered or checked against the disk.
pub(super) struct Listed {
    pub(super) format: &'static str,
    pub(super) image_dir: PathBuf,
    pub(super) categories: Vec<String>,
    /// The samples of [`Split::Train`], [`Split::Val`] and [`Split::Test`].
    pub(super) samples: [Vec<Sample>; 3],
    /// What people are to know of what was found: what is left out, what serves in place of what.
    pub(super) remarks: Vec<String>,
}

/// The data set at `root` that its lists describe.
///
/// # Errors
/// As [`super::open`].
pub(super) fn from_lists(root: &Path, listed: Listed, options: &OpenOptions) -> Result<Dataset> {
    let num_categories = kept_categories(listed.categories.len(), options.categories)?;
    let mut categories = listed.categories;
    categories.truncate(num_categories);
    let mut dataset = Dataset {
        root: root.to_path_buf(),
        image_dir: listed.image_dir,
        format: listed.format,
        categories,
        listings: Default::default(),
        missing: Vec::new(),
        options: options.clone(),
        remarks: listed.remarks,
    };
    for (split, mut samples) in [Split::Train, Split::Val, Split::Test].into_iter().zip(listed.samples) {
        samples.retain(|sample| sample.label.is_none_or(|label| (label as usize) < num_categories));
        let limit = match split {
            Split::Train => options.limit_train,
            Split::Val => options.limit_val,
            Split::Test => None,
        };
        if let Some(limit) = limit {
            samples = spread_over_categories(samples, num_categories, limit);
        }
        dataset.take_existing(split, samples);
    }
    dataset.check_missing(root)?;
    if !dataset.missing.is_empty() {
        dataset.remarks.push(format!("{} listed images left out that are missing", dataset.missing.len()));
    }
    dataset.remarks.extend(one_category(num_categories));
    let needed = match &options.only {
        Some(only) => vec![only.split],
        None => vec![Split::Train, Split::Val],
    };
    match needed.into_iter().find(|&split| dataset.samples(split).is_empty()) {
        Some(split) => Err(Error::data(root, format!("the {} split has no images", split.name()))),
        None => Ok(dataset),
    }
}

/// What is to be said of a single category.
pub(super) fn one_category(num_categories: usize) -> Option<String> {
    (num_categories == 1).then(|| "one category: there is nothing to tell apart, and no error to make".into())
}

/// The number of categories to keep of `num_categories`, given `--categories`.
pub(crate) fn kept_categories(num_categories: usize, wanted: Option<usize>) -> Result<usize> {
    match wanted {
        Some(0) => Err(Error::setting("categories", 0, "leaves nothing to learn; give at least 1")),
        Some(wanted) if wanted > num_categories => {
            let message = format!("there are {num_categories} categories; give at most {num_categories}");
            Err(Error::setting("categories", wanted, message))
        }
        Some(wanted) => Ok(wanted),
        None => Ok(num_categories),
    }
}

/// At most `limit` of `samples`, taken from each category in turn and kept in their order.
fn spread_over_categories(samples: Vec<Sample>, num_categories: usize, limit: usize) -> Vec<Sample> {
    let mut by_category = vec![VecDeque::new(); num_categories];
    for (index, sample) in samples.iter().enumerate() {
        by_category[sample.label.map_or(0, |label| label as usize)].push_back(index);
    }
    let limit = limit.min(samples.len());
    let mut kept = Vec::with_capacity(limit);
    while kept.len() < limit {
        let next_of_each = by_category.iter_mut().filter_map(VecDeque::pop_front);
        kept.extend(next_of_each);
    }
    kept.truncate(limit);
    kept.sort_unstable();
    kept.into_iter().map(|index| samples[index].clone()).collect()
}

impl Dataset {
    /// The folder given to [`super::open`], made absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the on-disk format.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// The names of the categories; a label is an index into them.
    pub fn categories(&self) -> &[String] {
        &self.categories
    }

    /// The images of `split` in the order of its list.
    pub fn samples(&self, split: Split) -> &[Sample] {
        &self.listings[split as usize].samples
    }

    /// The file of `sample`.
    pub fn image_path(&self, sample: &Sample) -> PathBuf {
        self.image_dir.join(&sample.path)
    }

    /// Listed images that do not exist and were left out, which only `allow_missing` lets happen.
    pub fn missing(&self) -> &[PathBuf] {
        &self.missing
    }

    /// What is left out, and what serves in place of what: a line each, for people.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// What it was opened with.
    pub fn options(&self) -> &OpenOptions {
        &self.options
    }

    /// A hash of everything that decides the decoded pixels of `split`: the listed paths, and length and modification time
    /// of every image. It is the same wherever the folder lies and whatever the labels are.
    pub fn fingerprint(&self, split: Split) -> u64 {
        let listing = &self.listings[split as usize];
        let mut hash = FieldHash::default();
        for (sample, stamp) in listing.samples.iter().zip(&listing.stamps) {
            hash.write(sample.path.as_os_str().as_encoded_bytes());
            hash.write(&stamp.len_bytes.to_le_bytes());
            hash.write(&stamp.modified_ns.to_le_bytes());
        }
        hash.finish()
    }

    /// Records `samples` as those of `split`, those without a file as missing.
    fn take_existing(&mut self, split: Split, samples: Vec<Sample>) {
        let stamps: Vec<Option<Stamp>> =
            samples.par_iter().map(|sample| Stamp::of(&self.image_dir.join(&sample.path))).collect();
        let listing = &mut self.listings[split as usize];
        for (sample, stamp) in samples.into_iter().zip(stamps) {
            match stamp {
                Some(stamp) => {
                    listing.samples.push(sample);
                    listing.stamps.push(stamp);
                }
                None => self.missing.push(sample.path),
            }
        }
    }

    /// Fails on missing images unless they are allowed.
    fn check_missing(&self, root: &Path) -> Result<()> {
        if self.missing.is_empty() || self.options.allow_missing {
            return Ok(());
        }
        let names = self.missing.iter().map(|path| show_text(&path.to_string_lossy()));
        Err(Error::data(
            root,
            format!(
                "{} of the listed images are missing or no files below {}: {}; --allow-missing skips them",
                self.missing.len(),
                show_path(&self.image_dir),
                first_few(names, ", ")
            ),
        ))
    }
}

impl Stamp {
    /// The stamp of the file at `path`, or `None` where there is none.
    fn of(path: &Path) -> Option<Stamp> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Some(Stamp {
            len_bytes: metadata.len(),
            modified_ns: modified.map_or(0, |since_epoch| since_epoch.as_nanos()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(labels: &[u32]) -> Vec<Sample> {
        labels
            .iter()
            .enumerate()
            .map(|(i, &l)| Sample { path: i.to_string().into(), label: Some(l) })
            .collect()
    }

    #[test]
    fn a_small_limit_covers_every_category() {
        let kept = spread_over_categories(samples(&[0, 0, 0, 0, 1, 1, 2]), 3, 5);
        let labels: Vec<u32> = kept.iter().filter_map(|sample| sample.label).collect();
        assert_eq!(labels, [0, 0, 1, 1, 2]);
        assert_eq!(spread_over_categories(samples(&[0, 1]), 2, 9).len(), 2);
        for options in [
            OpenOptions { limit_train: Some(0), ..OpenOptions::default() },
            OpenOptions { limit_val: Some(0), ..OpenOptions::default() },
        ] {
            assert!(matches!(crate::data::open(Path::new("."), &options), Err(Error::Setting { .. })));
        }
    }
}
