//! `residuum train`: flags over defaults, then a run.

use std::path::PathBuf;

use clap::Args;

use super::flags::{SettingArgs, open_device};
use crate::error::{Error, Result};
use crate::run::run_dir::RunDir;
use crate::train::config::TrainConfig;
use crate::train::trainer::Trainer;

/// Train a network: on a data set, or on generated scenes if none is given
#[derive(Debug, Args)]
#[command(next_line_help = false)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// Resume the run in this folder; its settings stay as they are
    #[arg(long, value_name = "RUN", exclusive = true, help_heading = "Run")]
    resume: Option<PathBuf>,
}

impl TrainArgs {
    pub(super) fn run(self) -> Result<()> {
        let trainer = match &self.resume {
            Some(path) => {
                let dir = RunDir::open(path)?;
                let config: TrainConfig = dir.read_config()?;
                let device = open_device(*config.device)?;
                Trainer::resume(dir, config, device)?
            }
            None => {
                let config = self.settings.read(None)?;
                let device = open_device(*config.device)?;
                Trainer::start(config, device)?
            }
        };
        trainer.source().remarks.iter().for_each(|remark| eprintln!("{remark}"));
        eprintln!("run folder: {}", trainer.dir().path().display());
        let dir = trainer.dir().path().to_path_buf();
        let outcome = trainer.run().inspect_err(|error| {
            if matches!(error, Error::Interrupted { .. }) {
                eprintln!("checkpoint written; resume with: residuum train --resume {}", dir.display());
            }
        })?;
        println!(
            "top-1 error {:.2} %, top-5 error {:.2} % on {} images after {} epochs (best top-1 {:.2} %, epoch {})",
            outcome.last.eval_err1,
            outcome.last.eval_err5,
            outcome.last.eval_n,
            outcome.last.epoch + 1,
            outcome.best.err1,
            outcome.best.epoch + 1
        );
        println!("report: {}", dir.join("report.html").display());
        Ok(())
    }
}
