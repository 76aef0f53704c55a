//! `residuum augment`: figure 4 of the paper for any photo, or what a policy makes of it.

use std::path::PathBuf;

use clap::Args;

use super::flags::{check_picture, write_file};
use crate::batch::Augment;
use crate::data::decode_image;
use crate::error::Result;
use crate::reproduce::{Gallery, SHOWN_SEED};
use crate::transform::Image;

/// Draw what augmentations make of a photo
#[derive(Debug, Args)]
#[command(after_help = Augment::help())]
pub(super) struct AugmentArgs {
    /// Photo: JPEG, PNG, WebP, BMP, GIF or TIFF
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// PNG file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Show several draws of this instead of each of the paper's eight augmentations
    #[arg(long, value_name = "NAMES")]
    augment: Option<Augment>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = SHOWN_SEED)]
    seed: u64,
    /// Height and width of the network's input in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(8..=1024))]
    img_size: u32,
}

impl AugmentArgs {
    pub(super) fn run(self) -> Result<()> {
        check_picture("--output", &self.output)?;
        let size = self.img_size as usize;
        let pixels = decode_image(&self.image, size)?;
        let photo = Image::new(&pixels, size, size);
        let gallery = match &self.augment {
            Some(policy) => Gallery::draws_of(policy, photo, self.seed),
            None => Gallery::figure_4(photo, self.seed),
        };
        write_file(&self.output, &gallery.draw().to_png())?;
        say!("{} pictures in {}", gallery.len(), self.output.display());
        Ok(())
    }
}
