//! `residuum export`: a trained model as a file for other programs.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::flags::check_output;
use super::model::ModelArgs;
use crate::error::{Error, Result};
use crate::infer::export;

/// Write a trained model for other programs
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What to write [default: by the ending of --output]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Weights under torchvision's names and shapes
    Safetensors,
    /// Network and weights; input `images` (NCHW, normalised), output `logits`
    Onnx,
}

impl Format {
    fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("onnx") => Ok(Format::Onnx),
            Some("safetensors") => Ok(Format::Safetensors),
            _ => Err(Error::Usage(format!(
                "--output {} ends in neither .onnx nor .safetensors; say which it is with --format",
                path.display()
            ))),
        }
    }
}

impl ExportArgs {
    pub(super) fn run(self) -> Result<()> {
        let format = self.format.map_or_else(|| Format::of(&self.output), Ok)?;
        check_output("--output", &self.output)?;
        let (file, _) = self.model.open()?;
        match format {
            Format::Safetensors => export::write_safetensors(&file, &self.output)?,
            Format::Onnx => export::write_onnx(&file, &self.output)?,
        }
        let card = &file.card;
        say!(
            "{}, {} categories, {} pixels: {}",
            file.model()?.title(),
            card.categories.len(),
            card.img_size,
            self.output.display()
        );
        Ok(())
    }
}
