//! The program as the other tests have it, and calls that only these make.

#[path = "../common/program.rs"]
mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

pub use common::{Program, failed, signal, texts};
use image::{Rgb, RgbImage};

/// A photo of [`Program::with_scenes`].
pub const PHOTO: &str = "scenes/images/val/00000001.jpg";
/// A small run on [`Program::with_scenes`]: two epochs of five steps.
pub const SMALL_RUN: &str = "train --data-dir scenes --img-size 32 --batch-size 8 --epochs 2 --lr 0.01";

impl Program {
    /// Makes a data set `classes` with a folder per class, each with eight training and four validation images of
    /// one colour.
    pub fn write_classes(&self, classes: &[&str]) {
        for (split, num_images) in [("train", 8), ("val", 4)] {
            for class in classes {
                let folder = self.path("classes").join(split).join(class);
                fs::create_dir_all(&folder).unwrap();
                for number in 0..num_images {
                    let shade = 30 * number as u8;
                    let image = RgbImage::from_pixel(16, 16, Rgb([shade, 255 - shade, 128]));
                    image.save(folder.join(format!("{number}.png"))).unwrap();
                }
            }
        }
    }

    /// [`Program::command`] under `sh -c`, with `prologue` before it.
    pub fn command_after(&self, prologue: &str, args: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{prologue}; exec \"$0\" {args}"), env!("CARGO_BIN_EXE_residuum")]);
        self.settle(command)
    }

    /// Runs to a failure with this exit code whose message has all of these parts.
    #[track_caller]
    pub fn fails(&self, args: &str, code: i32, parts: &[&str]) {
        failed(&self.command(args).output().unwrap(), args, code, parts);
    }

    /// A run as [`SMALL_RUN`] with more flags; the folder it made, relative to the program's.
    #[track_caller]
    pub fn trains(&self, flags: &str) -> PathBuf {
        self.succeeds(&format!("{SMALL_RUN} {flags}"));
        self.only_run("runs")
    }
}
