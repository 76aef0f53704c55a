//! `residuum reproduce`: the paper's tables and figures from the runs they need.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::flags::open_device;
use crate::error::{Error, Result};
use crate::reproduce::{Options, Pages, Part, reproduce};
use crate::show::tell;
use crate::train::config::TrainConfig;
use crate::train::setting::{SettingFlags, Subset};

/// Run the paper's experiments, those not done yet, and show each table and figure next to ours
#[derive(Debug, Args)]
pub(super) struct ReproduceArgs {
    /// What: table1, table2, table3, fig3, fig4, section5, or all
    #[arg(value_name = "PART", required = true)]
    parts: Vec<String>,
    /// MiniPlaces
    #[arg(long, alias = "data-path", value_name = "DIR")]
    data_dir: PathBuf,
    /// Scale every run down to seconds: shows that all of it runs, and no more
    #[arg(long)]
    quick: bool,
    /// Runs of each experiment: with --seed, the seed after it, and so on; the page then has their mean and spread
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<u64>::new().range(1..=100))]
    seeds: u64,
    /// Folder for the page and the run folders; runs that are there are resumed
    #[arg(long, alias = "output-dir", value_name = "DIR", default_value = "reproduction")]
    output: PathBuf,
    /// ResNet-50 of ImageNet for the bound of table 3: torchvision's own file
    #[arg(long, value_name = "FILE")]
    pretrained: Option<PathBuf>,
    #[command(flatten)]
    common: SettingFlags<Common>,
}

/// The settings that are the same for all runs and change no result of the paper.
#[derive(Debug, Clone)]
struct Common;

impl Subset for Common {
    fn includes(name: &str) -> bool {
        ["cache_dir", "workers", "seed", "device", "precision"].contains(&name)
    }
}

impl ReproduceArgs {
    pub(super) fn run(self) -> Result<()> {
        // Runs are found again by their settings, whatever folder the command is given in.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let parts = Part::parse_list(&self.parts)?;
        // It is read after days of other runs.
        if let Some(file) = self.pretrained.as_deref().filter(|file| !file.is_file()) {
            return Err(Error::Usage(format!("--pretrained {}: there is no such file", file.display())));
        }
        let common = TrainConfig::layered(None, None, &self.common)?;
        let device = open_device(*common.device)?;
        let options = Options {
            parts,
            data_dir: absolute(self.data_dir),
            quick: self.quick,
            num_seeds: self.seeds,
            output: absolute(self.output),
            pretrained: self.pretrained.map(absolute),
            common,
        };
        let pages = reproduce(&options, device).inspect_err(|error| {
            if matches!(error, Error::Interrupted { .. }) {
                tell("resume with the same command; what is done is not done again");
            }
        })?;
        // The runs are done, whether somebody reads of them or not.
        let _ = print_pages(&pages);
        Ok(())
    }
}

fn print_pages(pages: &Pages) -> Result<()> {
    say!("page: {}", pages.html.display());
    say!("Markdown: {}", pages.markdown.display());
    Ok(())
}
