//! `residuum predict`: categories of photos, where they were seen, the challenge's file, or logits of a batch of tensors.

mod photos;
mod tensors;

use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Args};

use self::photos::Form;
use super::flags::{GraphArgs, check_output, check_picture, open_device, write_file};
use super::model::{ModelArgs, ViewArgs};
use crate::data::{self, OpenOptions, Split};
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::infer::model_file::ModelFile;
use crate::infer::predictor::Predictor;
use crate::infer::submission;
use crate::show::tell;

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
    /// Photos, or folders of them: JPEG, PNG, WebP, BMP, GIF or TIFF
    #[arg(value_name = "PHOTO")]
    photos: Vec<PathBuf>,
    /// Safetensors file with a tensor `input`: f32 NCHW, already normalised
    #[arg(long, value_name = "FILE", requires = "output", conflicts_with_all = ["tta", "tta_sizes", "crop_pct", "val_resize_size"])]
    input: Option<PathBuf>,
    /// Picture of the photos with their categories, PNG; with --input, the safetensors file for the tensor `logits`
    #[arg(long, value_name = "FILE", conflicts_with = "submission")]
    output: Option<PathBuf>,
    /// Picture of where each photo shows its category (Grad-CAM), PNG
    #[arg(long, value_name = "FILE.png", requires = "photos", conflicts_with = "tta_sizes")]
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
    #[command(flatten)]
    views: ViewArgs,
    /// Categories named for each photo
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    top: usize,
    /// Print the answers as a JSON array
    #[arg(long, requires = "photos")]
    json: bool,
    /// Print the answers as CSV, a line for each category of a photo
    #[arg(long, requires = "photos", conflicts_with = "json")]
    csv: bool,
    /// auto, cpu, cuda, cuda:N or simt
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    graph: GraphArgs,
}

impl PredictArgs {
    pub(super) fn run(self) -> Result<()> {
        self.check_outputs()?;
        let device = open_device(self.device)?;
        let (mut file, run) = self.model.open()?;
        self.graph.apply(&mut file, &device);
        match (&self.input, &self.output, &self.submission) {
            (Some(input), Some(output), _) => tensors::predict(file, input, output, device),
            (_, _, Some(target)) => {
                let data_dir = self.data_dir.clone().or_else(|| run.and_then(|run| run.data_dir));
                self.submit(&file, data_dir, target, device)
            }
            _ => photos::predict(&self, &file, device),
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
        Ok(())
    }

    fn form(&self) -> Form {
        match (self.json, self.csv) {
            (true, _) => Form::Json,
            (false, true) => Form::Csv,
            (false, false) => Form::Text,
        }
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
        let crops = self.views.crops(file.card.img_size)?;
        let mut predictor = Predictor::new(file, &crops, self.views.views(), samples.len(), device)?;
        let text = submission::lines(&mut predictor, &crops, &data, &samples)?;
        write_file(target, text.as_bytes())?;
        say!("{} photos of the {} split in {}", samples.len(), split.name(), target.display());
        Ok(())
    }
}
