//! `residuum predict`: categories of photos, where they were seen, the challenge's file, or logits of a batch of tensors.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use super::eval::ModelArgs;
use super::flags::{check_output, check_picture, open_device, write_file};
use crate::data::{self, OpenOptions, Split, decode_image};
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::infer::grad_cam::Explainer;
use crate::infer::model_file::ModelFile;
use crate::infer::predictor::{self, Predictor, Prepare, photos_batch};
use crate::infer::submission;
use crate::report::{PhotoTile, heat_map, sheet};
use crate::run::checkpoint::{self, NamedTensor};
use crate::show::{show_path, tell};
use crate::step::evaluate::{Evaluator, Views};
use crate::step::scores;
use crate::tensor::{Shape, Tensor};

/// Categories shown for each photo.
const NUM_SHOWN: usize = 5;
/// Height and width of a photo in a picture.
const PICTURE_SIZE: usize = 256;
/// Photos on one picture.
const MAX_DRAWN: usize = 64;

/// Name the most probable categories of photos, show where they were seen, write the challenge's file, or compute the
/// logits of a batch of tensors
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["photos", "input", "submission"]).required(true))]
pub(super) struct PredictArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Photos: JPEG, PNG, WebP, BMP, GIF or TIFF
    #[arg(value_name = "PHOTO")]
    photos: Vec<PathBuf>,
    /// Safetensors file with a tensor `input`: f32 NCHW, already normalised
    #[arg(long, value_name = "FILE", requires = "output")]
    input: Option<PathBuf>,
    /// Picture of the photos with their categories, PNG; with --input, the safetensors file for the tensor `logits`
    #[arg(long, value_name = "FILE", conflicts_with = "submission")]
    output: Option<PathBuf>,
    /// Picture of where each photo shows its category (Grad-CAM), PNG
    #[arg(long, value_name = "FILE.png", requires = "photos")]
    explain: Option<PathBuf>,
    /// Category to explain [default: the most probable]
    #[arg(long, value_name = "NAME", requires = "explain")]
    category: Option<String>,
    /// Text file with five labels for each photo of a split, as the MiniPlaces challenge takes it
    #[arg(long, value_name = "FILE")]
    submission: Option<PathBuf>,
    /// Split of the submission: test or val [default: test]
    #[arg(long, value_name = "SPLIT", value_parser = ["test", "val"], requires = "submission")]
    split: Option<String>,
    /// Data set of the submission [default: the run's]
    #[arg(long, value_name = "DIR", requires = "submission")]
    data_dir: Option<PathBuf>,
    /// Average the probabilities over each photo and its mirror image
    #[arg(long, conflicts_with = "input")]
    tta: bool,
    /// auto, cpu, cuda, cuda:N or simt
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

impl PredictArgs {
    pub(super) fn run(self) -> Result<()> {
        self.check_outputs()?;
        let device = open_device(self.device)?;
        let (file, run) = self.model.open()?;
        match (&self.input, &self.output, &self.submission) {
            (Some(input), Some(output), _) => predict_tensors(file, input, output, device),
            (_, _, Some(target)) => {
                let data_dir = self.data_dir.clone().or_else(|| run.and_then(|run| run.data_dir));
                self.submit(&file, data_dir, target, device)
            }
            _ => self.predict_photos(&file, device),
        }
    }

    fn check_outputs(&self) -> Result<()> {
        match &self.output {
            Some(output) if self.input.is_some() => check_output("--output", output)?,
            Some(output) => check_picture("--output", output)?,
            None => {}
        }
        if let Some(explain) = &self.explain {
            check_picture("--explain", explain)?;
        }
        if let Some(submission) = &self.submission {
            check_output("--submission", submission)?;
        }
        let drawn = self.explain.is_some() || (self.output.is_some() && self.input.is_none());
        if drawn && self.photos.len() > MAX_DRAWN {
            let given = self.photos.len();
            let what =
                format!("{given} photos are too many for one picture; draw at most {MAX_DRAWN} at a time");
            return Err(Error::Usage(what));
        }
        Ok(())
    }

    fn views(&self) -> Views {
        if self.tta { Views::Mirrored } else { Views::One }
    }

    fn predict_photos(&self, file: &ModelFile, device: Device) -> Result<()> {
        let explained = self.category.as_deref().map(|name| category_called(file, name)).transpose()?;
        let mut predictor = Predictor::new(file, self.photos.len(), self.views(), device)?;
        let mut tiles = Vec::new();
        for photos in self.photos.chunks(predictor::BATCH_SIZE) {
            let decode = |photo: &PathBuf| decode_image(photo, file.card.img_size);
            let pixels: Vec<Vec<u8>> = photos.iter().map(decode).collect::<Result<_>>()?;
            for (photo, row) in photos.iter().zip(predictor.scores(&pixels)?) {
                let named = |(label, share): (usize, f32)| (file.card.categories[label].clone(), share);
                let bars: Vec<(String, f32)> = scores::top(&row, NUM_SHOWN).into_iter().map(named).collect();
                say!("{}", show_path(photo));
                for (name, share) in &bars {
                    say!("  {:5.1} %  {name}", 100.0 * share);
                }
                if self.output.is_some() {
                    let pictures = vec![decode_image(photo, PICTURE_SIZE)?];
                    let title = show_path(photo);
                    tiles.push(PhotoTile { pictures, title, bars, ..PhotoTile::default() });
                }
            }
        }
        if let Some(output) = &self.output {
            write_file(output, &sheet(&tiles, PICTURE_SIZE).to_png())?;
            say!("picture: {}", output.display());
        }
        match &self.explain {
            Some(output) => self.explain_photos(file, explained, output, device),
            None => Ok(()),
        }
    }

    fn explain_photos(
        &self,
        file: &ModelFile,
        category: Option<usize>,
        output: &Path,
        device: Device,
    ) -> Result<()> {
        let mut explainer = Explainer::new(file, device)?;
        let prepare = Prepare::new(file);
        let tile = |photo: &PathBuf| {
            let image = prepare.to_image(&decode_image(photo, file.card.img_size)?);
            let explanation = explainer.explain(&image, category)?;
            let pixels = decode_image(photo, PICTURE_SIZE)?;
            let heat = heat_map(&pixels, PICTURE_SIZE, &explanation.heat(), explanation.extents[1]);
            Ok(PhotoTile {
                pictures: vec![pixels, heat],
                title: format!(
                    "{} {:.1} %",
                    file.card.categories[explanation.category],
                    100.0 * explanation.probability
                ),
                note: show_path(photo),
                bars: vec![],
            })
        };
        let tiles: Vec<PhotoTile> = self.photos.iter().map(tile).collect::<Result<_>>()?;
        write_file(output, &sheet(&tiles, PICTURE_SIZE).to_png())?;
        say!("where it was seen: {}", output.display());
        Ok(())
    }

    fn submit(
        &self,
        file: &ModelFile,
        data_dir: Option<PathBuf>,
        target: &Path,
        device: Device,
    ) -> Result<()> {
        let data_dir = data_dir.ok_or_else(|| {
            Error::Usage("--submission needs the photos of a data set; name it with --data-dir".into())
        })?;
        let split = if self.split.as_deref() == Some("val") { Split::Val } else { Split::Test };
        // Photos missing from other splits do not matter here.
        let data = data::open(&data_dir, &OpenOptions { allow_missing: true, ..OpenOptions::default() })?;
        let samples = submission::photos(file, &data, split)?;
        let (known, there_are) = (file.card.categories.len(), data.categories().len());
        if known < there_are {
            tell(format_args!(
                "the model knows {known} of the {there_are} categories; it cannot be right about the others"
            ));
        }
        let mut predictor = Predictor::new(file, samples.len(), self.views(), device)?;
        let text = submission::lines(&mut predictor, file, &data, &samples)?;
        write_file(target, text.as_bytes())?;
        say!("{} photos of the {} split in {}", samples.len(), split.name(), target.display());
        Ok(())
    }
}

/// The label of the category called `name`.
fn category_called(file: &ModelFile, name: &str) -> Result<usize> {
    let categories = &file.card.categories;
    categories.iter().position(|category| category == name).ok_or_else(|| {
        let near: Vec<&str> = categories
            .iter()
            .map(String::as_str)
            .filter(|known| known.contains(name))
            .take(NUM_SHOWN)
            .collect();
        let hint = if near.is_empty() {
            categories.iter().take(NUM_SHOWN).map(String::as_str).collect()
        } else {
            near
        };
        let count = categories.len();
        Error::Usage(format!(
            "--category `{name}` is none of the {count} categories of the model; take one as {}",
            hint.join(", ")
        ))
    })
}

fn predict_tensors(mut file: ModelFile, input: &Path, output: &Path, device: Device) -> Result<()> {
    let source = checkpoint::read(input)?;
    let tensor = source.get("input").ok_or_else(|| {
        Error::data(input, "has no tensor `input`; write the images under that name, NCHW f32")
    })?;
    let (shape, data) = match (tensor.shape.as_slice(), tensor.as_f32()) {
        (&[n, 3, h, w], Some(data)) if n > 0 && h == w => ([n, h], data),
        (shape, _) => {
            let message = format!("tensor `input` must be f32 of shape [N, 3, S, S], got {shape:?}");
            return Err(Error::data(input, message));
        }
    };
    let [num_images, size] = shape;
    file.card.img_size = size;
    let nhwc = Tensor::new(Shape::new(&tensor.shape), data.to_vec()).permuted([0, 2, 3, 1]).into_data();
    let batch_size = predictor::BATCH_SIZE.min(num_images);
    let mut session = file.session(batch_size, device)?;
    let mut evaluator = Evaluator::new(&session, 0)?;
    let mut results = Vec::new();
    let image_elems = size * size * 3;
    let mut batch = photos_batch(vec![0.0; batch_size * image_elems], batch_size);
    for part in nhwc.chunks(batch.images.len()) {
        batch.images[..part.len()].copy_from_slice(part);
        let scores = evaluator.logits(&mut session, &batch)?;
        results.extend_from_slice(&scores[..scores.len() / batch_size * (part.len() / image_elems)]);
    }
    let logits = NamedTensor::f32("logits", [num_images, results.len() / num_images].as_slice(), results);
    checkpoint::write_atomic(output, &[logits], &serde_json::Value::Null)?;
    say!("logits of {num_images} images in {}", output.display());
    Ok(())
}
