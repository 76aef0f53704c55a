//! The file that the MiniPlaces challenge takes: a line for each photo of a split, its path and its five most probable
//! labels, the most probable first.
//!
//! ```text
//! test/00000001.jpg 39 4 71 0 22
//! ```
//!
//! Lines are in alphabetical order of the paths, labels are numbers as in `categories.txt`, and there are exactly five.
//! Source: the challenge's "Submission format", github.com/CSAILVision/miniplaces.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::model_file::ModelFile;
use super::predictor::{Photo, Predictor};
use crate::data::{Crop, Dataset, Sample, Split, decode_crops};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::step::scores;

/// Labels on each line.
pub const NUM_LABELS: usize = 5;
/// Photos decoded before the model is asked about them.
const PART: usize = 256;
/// Missing photos that a message names.
const NUM_NAMED: usize = 5;

/// The photos of `split` in the order of their lines, if a submission can be made of them.
///
/// `data` may have been opened with images missing; they must not be of this split.
///
/// # Errors
/// [`Error::Checkpoint`] if the model knows fewer than five categories or others than the data set, [`Error::Data`] if
/// the split has no photos or lacks some.
pub fn photos<'a>(file: &ModelFile, data: &'a Dataset, split: Split) -> Result<Vec<&'a Sample>> {
    let known = file.card.categories.len();
    if known < NUM_LABELS {
        let message =
            format!("knows {known} categories; a submission needs {NUM_LABELS} labels for each photo");
        return Err(Error::checkpoint(&file.path, message));
    }
    file.check_labels(data.categories())?;
    let mut samples: Vec<&Sample> = data.samples(split).iter().collect();
    samples.sort_by(|a, b| a.path.cmp(&b.path));
    let missing = missing_photos(data, split, &samples);
    if !missing.is_empty() {
        let mut names: Vec<String> = missing.iter().take(NUM_NAMED).map(|path| slashed(path)).collect();
        if missing.len() > NUM_NAMED {
            names.push("...".into());
        }
        let message = format!(
            "{} of the {} photos of the {} split are missing: {}; a submission has a line for each, so put them back",
            missing.len(),
            missing.len() + samples.len(),
            split.name(),
            names.join(", ")
        );
        return Err(Error::data(data.root(), message));
    }
    if samples.is_empty() {
        let message = format!("has no photos of the {0} split; put them into images/{0}", split.name());
        return Err(Error::data(data.root(), message));
    }
    Ok(samples)
}

/// The lines of a submission for `samples`, with the crops that `predictor` was made for.
///
/// # Errors
/// [`Error::Data`] naming the first photo that cannot be decoded.
pub fn lines(
    predictor: &mut Predictor,
    crops: &[Crop],
    data: &Dataset,
    samples: &[&Sample],
) -> Result<String> {
    let mut text = String::new();
    let progress = Progress::start("predicting", samples.len());
    for samples in samples.chunks(PART) {
        let decode = |sample: &&Sample| decode_crops(&data.image_path(sample), crops);
        let photos: Vec<Photo> = samples.par_iter().map(decode).collect::<Result<_>>()?;
        for (sample, row) in samples.iter().zip(predictor.scores(&photos)?) {
            text.push_str(&slashed(&sample.path));
            for (label, _) in scores::top(&row, NUM_LABELS) {
                write!(text, " {label}").expect("memory takes text");
            }
            text.push('\n');
        }
        progress.add(samples.len());
    }
    Ok(text)
}

/// Listed photos of the split that do not exist, and for a split without a list the gaps in its numbers. What is missing
/// at the end of such a split cannot be told.
fn missing_photos(data: &Dataset, split: Split, samples: &[&Sample]) -> Vec<PathBuf> {
    let listed = data.missing().iter().filter(|path| path.starts_with(split.name())).cloned();
    let unlisted = if split == Split::Test { gaps(samples) } else { Vec::new() };
    listed.chain(unlisted).collect()
}

/// The paths between the first and the last of `samples`, counted from 1, if all their names are numbers.
fn gaps(samples: &[&Sample]) -> Vec<PathBuf> {
    let number = |sample: &&Sample| sample.path.file_stem()?.to_str()?.parse::<u64>().ok();
    let numbers: Option<HashSet<u64>> = samples.iter().map(number).collect();
    let (Some(numbers), Some(last)) = (numbers, samples.last()) else { return Vec::new() };
    let (most, width) = (numbers.iter().max().copied().unwrap_or(0), stem_width(&last.path));
    let absent = (1..=most).filter(|number| !numbers.contains(number));
    absent.map(|number| last.path.with_file_name(format!("{number:0width$}.jpg"))).collect()
}

fn stem_width(path: &Path) -> usize {
    path.file_stem().map_or(0, |stem| stem.len())
}

/// The path as the lists of the data set write it, on every system.
fn slashed(path: &Path) -> String {
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(names: &[&str]) -> Vec<Sample> {
        names.iter().map(|name| Sample { path: Path::new("test").join(name), label: None }).collect()
    }

    #[test]
    fn gaps_in_the_numbers_are_missing_photos() {
        let held = samples(&["00000002.jpg", "00000005.jpg"]);
        let absent = gaps(&held.iter().collect::<Vec<_>>());
        let names: Vec<String> = absent.iter().map(|path| slashed(path)).collect();
        assert_eq!(names, ["test/00000001.jpg", "test/00000003.jpg", "test/00000004.jpg"]);
        let named = samples(&["00000002.jpg", "beach.jpg"]);
        assert!(gaps(&named.iter().collect::<Vec<_>>()).is_empty(), "names that are no numbers have no gaps");
        assert!(gaps(&[]).is_empty());
    }
}
