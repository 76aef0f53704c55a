//! `predictions.jsonl`: what the newest evaluation of a run said of each validation image, one JSON object a line.
//!
//! It outlives the process, so that the report of a resumed run has its confusion matrix before the next evaluation, and
//! other programs can look at single images.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::data::Pack;
use crate::error::{Error, Result};
use crate::run::run_dir::RunDir;
use crate::step::evaluate::Prediction;

const FILE: &str = "predictions.jsonl";

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    image: String,
    label: u32,
    guess: u32,
    probability: f32,
}

/// Writes what was said of the images of `pack`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn write(dir: &RunDir, pack: &Pack, predictions: &[Prediction]) -> Result<()> {
    let mut text = String::new();
    for p in predictions {
        let image = pack.name(p.index as usize).to_string();
        let line = Line { image, label: p.label, guess: p.guess, probability: p.guess_probability };
        text.push_str(&serde_json::to_string(&line).expect("numbers and a name are JSON"));
        text.push('\n');
    }
    dir.write(FILE, text)
}

/// What was written about the images of `pack`; `None` if there is no file, or it is about other images or categories.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub fn read(dir: &RunDir, pack: &Pack, num_classes: usize) -> Result<Option<Vec<Prediction>>> {
    let path = dir.file(FILE);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("read", &path))?,
    };
    let prediction = |(index, line): (usize, &str)| {
        let line: Line = serde_json::from_str(line).ok()?;
        let known = index < pack.len()
            && line.image == pack.name(index)
            && Some(line.label) == pack.label(index)
            && (line.guess as usize) < num_classes;
        let (label, guess, guess_probability) = (line.label, line.guess, line.probability);
        known.then_some(Prediction { index: index as u32, label, guess, guess_probability })
    };
    let predictions: Option<Vec<Prediction>> = text.lines().enumerate().map(prediction).collect();
    Ok(predictions.filter(|predictions| predictions.len() == pack.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;
    use crate::data::scenes::SceneOptions;

    fn pack(num_images: usize) -> Pack {
        let options =
            SceneOptions { split: Split::Val, num_images, num_categories: 3, image_size: 8, seed: 1 };
        Pack::from_scenes(&options)
    }

    #[test]
    fn predictions_come_back_for_the_same_images_only() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::create(folder.path(), "run").unwrap();
        let five = pack(5);
        assert_eq!(read(&dir, &five, 3).unwrap(), None);
        let predictions: Vec<Prediction> = (0..5)
            .map(|index| Prediction {
                index,
                label: five.label(index as usize).unwrap(),
                guess: index % 3,
                guess_probability: 0.1 + index as f32 / 7.0,
            })
            .collect();
        write(&dir, &five, &predictions).unwrap();
        assert_eq!(read(&dir, &five, 3).unwrap(), Some(predictions));
        assert_eq!(read(&dir, &five, 2).unwrap(), None, "a guess that is no longer a category");
        assert_eq!(read(&dir, &pack(6), 3).unwrap(), None);
        fs::write(dir.file(FILE), "{").unwrap();
        assert_eq!(read(&dir, &five, 3).unwrap(), None);
    }
}
