//! Which model a command asks, and which views of an image it is shown.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args};

use crate::data::Crop;
use crate::error::{Error, Result};
use crate::infer::model_file::{CardOverrides, ModelFile};
use crate::models::{self, Variant};
use crate::run::run_dir::RunDir;
use crate::show::tell;
use crate::step::evaluate::Views;
use crate::step::{IMAGE_SIZES, check_image_size};
use crate::train::config::TrainConfig;

/// The most pixels that the shorter side of a photo is scaled to: four times the largest network's.
const MOST_RESIZE: usize = 4 * *IMAGE_SIZES.end() as usize;

/// Where a model comes from.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true))]
pub(super) struct ModelArgs {
    /// Run folder; its best weights are taken
    #[arg(long, value_name = "RUN", group = "source")]
    run: Option<PathBuf>,
    /// Weight file, of this program or torchvision's: safetensors, their index, or what torch.save wrote
    #[arg(long, alias = "checkpoint", value_name = "FILE", group = "source")]
    weights: Option<PathBuf>,
    /// Network, where the file does not say
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(models::names()))]
    model: Option<String>,
    /// Variant of the blocks, where the file does not say
    #[arg(long, value_name = "FORM", value_parser = PossibleValuesParser::new(Variant::NAMES))]
    form: Option<String>,
    /// Height and width of the images [default: those of the training]
    #[arg(long, alias = "val-crop-size", value_name = "PIXELS")]
    img_size: Option<usize>,
}

/// Which views of an image the model is shown.
#[derive(Debug, Args)]
pub(super) struct ViewArgs {
    /// Average the probabilities over each image and its mirror image
    #[arg(long)]
    tta: bool,
    /// Average the scores over the image at these sizes, comma-separated, as in 112,128,160
    #[arg(long, value_name = "PIXELS", value_delimiter = ',', conflicts_with = "img_size")]
    tta_sizes: Vec<usize>,
    /// Show the middle of the photo, which is this share of its shorter side wide
    #[arg(long, value_name = "SHARE", conflicts_with = "val_resize_size")]
    crop_pct: Option<f64>,
    /// Show the middle of the photo, whose shorter side is scaled to so many pixels first
    #[arg(long, value_name = "PIXELS", conflicts_with = "tta_sizes")]
    val_resize_size: Option<usize>,
}

impl ViewArgs {
    pub(super) fn views(&self) -> Views {
        if self.tta { Views::Mirrored } else { Views::One }
    }

    /// How photos are cut for a model that takes images of this size.
    pub(super) fn crops(&self, image_size: usize) -> Result<Vec<Crop>> {
        let sizes = if self.tta_sizes.is_empty() { &[image_size][..] } else { &self.tta_sizes };
        self.tta_sizes.iter().try_for_each(|&size| check_image_size("tta_sizes", size))?;
        sizes.iter().map(|&size| self.crop(size)).collect()
    }

    /// How a photo is cut to this size.
    pub(super) fn crop(&self, size: usize) -> Result<Crop> {
        match (self.crop_pct, self.val_resize_size) {
            (Some(share), _) => {
                let resize = size as f64 / share;
                if !(size as f64..=MOST_RESIZE as f64).contains(&resize) {
                    let least = size as f64 / MOST_RESIZE as f64;
                    let message = format!("must be at least {least:.3} and at most 1, as in 0.875");
                    return Err(Error::setting("crop_pct", share, message));
                }
                Ok(Crop { size, resize: resize.round() as usize })
            }
            (None, Some(resize)) if resize > MOST_RESIZE => {
                Err(Error::setting("val_resize_size", resize, format!("must be at most {MOST_RESIZE}")))
            }
            (None, Some(resize)) if resize < size => {
                Err(Error::setting("val_resize_size", resize, format!("must be at least --img-size, {size}")))
            }
            (None, Some(resize)) => Ok(Crop { size, resize }),
            (None, None) => Ok(Crop::whole(size)),
        }
    }
}

impl ModelArgs {
    /// The weights, and the settings of their run if they come from one.
    pub(super) fn open(&self) -> Result<(ModelFile, Option<TrainConfig>)> {
        let overrides =
            CardOverrides { model: self.model.clone(), form: self.form.clone(), img_size: self.img_size };
        if let Some(run) = &self.run {
            let run = RunDir::open(run)?;
            return Ok((ModelFile::of_run(&run, &overrides)?, Some(run.read_config()?)));
        }
        let file = self.weights.as_deref().expect("one of --run and --weights is required");
        let file = ModelFile::read(file, &overrides)?;
        file.remark.iter().for_each(tell);
        Ok((file, None))
    }
}
