//! `residuum data`: making, preparing, checking and looking at data sets.

mod check;
mod clean;
#[cfg(feature = "fetch")]
mod fetch;
mod inspect;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use check::CheckArgs;
use clean::CleanArgs;
#[cfg(feature = "fetch")]
use fetch::FetchArgs;
use inspect::InspectArgs;

use crate::data::pack::{self, Pack};
use crate::data::scenes;
use crate::data::{self, OpenOptions, Split};
use crate::error::Result;
use crate::show::show_bytes;
use crate::train::signal::{OnUsr1, Signals};

/// Make, prepare, check or look at a data set
#[derive(Debug, Args)]
pub(super) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    #[cfg(feature = "fetch")]
    Fetch(FetchArgs),
    Scenes(ScenesArgs),
    Pack(PackArgs),
    Check(CheckArgs),
    Inspect(InspectArgs),
    Clean(CleanArgs),
}

/// Write generated scenes as a data set in MiniPlaces' layout: JPEG files, lists, object polygons
#[derive(Debug, Args)]
struct ScenesArgs {
    /// Folder to write into
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Training images
    #[arg(long, value_name = "N", default_value_t = 2000)]
    train: usize,
    /// Validation images
    #[arg(long, value_name = "N", default_value_t = 500)]
    val: usize,
    /// Height and width in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 128)]
    img_size: usize,
    /// Seed of every scene
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Decode a data set's photos once, as training does when it first meets them
#[derive(Debug, Args)]
struct PackArgs {
    /// Data set
    #[arg(long, alias = "data-path", value_name = "DIR")]
    data_dir: PathBuf,
    /// Height and width of the decoded images
    #[arg(long, value_name = "PIXELS", default_value_t = 128)]
    img_size: usize,
    /// Where decoded photos are kept [default: RESIDUUM_CACHE, or residuum in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Leave out listed images that are missing or unreadable
    #[arg(long)]
    allow_missing: bool,
}

impl DataArgs {
    pub(super) fn run(self) -> Result<()> {
        match self.command {
            #[cfg(feature = "fetch")]
            DataCommand::Fetch(args) => args.run(),
            DataCommand::Scenes(args) => args.run(),
            DataCommand::Pack(args) => args.run(),
            DataCommand::Check(args) => args.run(),
            DataCommand::Inspect(args) => args.run(),
            DataCommand::Clean(args) => args.run(),
        }
    }
}

impl ScenesArgs {
    fn run(self) -> Result<()> {
        scenes::write_miniplaces(&self.output, self.train, self.val, self.img_size, self.seed)?;
        say!(
            "{} training and {} validation scenes in {}; train on them with: residuum train --data-dir {}",
            self.train,
            self.val,
            self.output.display(),
            self.output.display()
        );
        Ok(())
    }
}

impl PackArgs {
    fn run(self) -> Result<()> {
        let options =
            OpenOptions { allow_missing: self.allow_missing, categories: None, ..OpenOptions::default() };
        let dataset = data::open(&self.data_dir, &options)?;
        for remark in dataset.remarks() {
            say!("{remark}");
        }
        let cache = self.cache_dir.map_or_else(pack::default_cache_dir, Ok)?;
        let signals = Signals::install(OnUsr1::End)?;
        for split in [Split::Train, Split::Val] {
            let stop = || signals.received();
            let pack = Pack::open_or_build_until(&dataset, split, self.img_size, &cache, &stop)?;
            say!("{}: {} images, {}", split.name(), pack.len(), show_bytes(pack.num_bytes()));
            if let Some(remark) = pack.remark(split) {
                say!("{remark}");
            }
        }
        Ok(())
    }
}
