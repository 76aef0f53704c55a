//! `residuum train`: flags over defaults, then a run.

use std::path::PathBuf;

use clap::Args;

use super::flags::{SettingArgs, open_device};
use crate::dist::World;
use crate::error::{Error, Result};
use crate::run::run_dir::RunDir;
use crate::show::tell;
use crate::train::resume::{self, OnChange};
use crate::train::trainer::{Outcome, Trainer};

/// Train a network: on a data set, or on generated scenes if none is given
#[derive(Debug, Args)]
#[command(next_line_help = false)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// Resume the run in this folder, with its own settings but for those that are given
    #[arg(long, value_name = "RUN", help_heading = "Run")]
    #[arg(conflicts_with_all = ["config", "output", "experiment", "pretrained"], group = "going_on")]
    resume: Option<PathBuf>,
    /// Resume the newest run of --experiment in --output, or begin it where there is none
    #[arg(long, requires = "experiment", group = "going_on", help_heading = "Run")]
    auto_resume: bool,
    /// Train alone, whatever a launcher says of other processes
    #[arg(long, help_heading = "Run")]
    no_dist: bool,
    /// Resume although settings or images that decide results have changed
    #[arg(long, requires = "going_on", help_heading = "Run")]
    allow_changed: bool,
}

impl TrainArgs {
    pub(super) fn run(self) -> Result<()> {
        if !self.no_dist {
            refuse_ranks()?;
        }
        let trainer = match self.earlier_run()? {
            Some(dir) => {
                let config = self.settings.over(dir.read_config()?)?;
                if let Some(outcome) = resume::outcome_without_states(&dir, &config)? {
                    tell("the run is complete and has only its weights left (--weights-only)");
                    let _ = print_outcome(&outcome);
                    return Ok(());
                }
                let device = open_device(*config.device)?;
                let on_change = if self.allow_changed { OnChange::GoOn } else { OnChange::Refuse };
                Trainer::resume(dir, config, device, on_change)?
            }
            None => {
                let config = self.settings.read(None)?;
                let device = open_device(*config.device)?;
                Trainer::start(config, device)?
            }
        };
        for remark in &trainer.source().remarks {
            tell(remark);
        }
        tell(format_args!("run folder: {}", trainer.dir().path().display()));
        let dir = trainer.dir().path().to_path_buf();
        let outcome = trainer.run().inspect_err(|error| {
            if matches!(error, Error::Interrupted { .. }) {
                tell(format_args!(
                    "checkpoint written; resume with: residuum train --resume {}",
                    dir.display()
                ));
            }
        })?;
        // The run is done, whether somebody reads of it or not.
        let _ = print_outcome(&outcome);
        Ok(())
    }

    /// The run to resume.
    fn earlier_run(&self) -> Result<Option<RunDir>> {
        if let Some(path) = &self.resume {
            return RunDir::open(path).map(Some);
        }
        if !self.auto_resume {
            return Ok(None);
        }
        let config = self.settings.read(None)?;
        Ok(config.experiment.and_then(|name| RunDir::newest(&config.output, &name)))
    }
}

/// Fails where a launcher has started this process as one of several, each of which would train a run of its own.
///
/// # Errors
/// [`Error::Usage`] naming the launcher, or what its variables contradict each other in.
fn refuse_ranks() -> Result<()> {
    let world = World::from_env().map_err(|error| match error {
        Error::Usage(what) => Error::Usage(format!("{what}; --no-dist passes over them")),
        other => other,
    })?;
    let Some(World { launcher, rank, .. }) = world else { return Ok(()) };
    Err(Error::Usage(format!(
        "{launcher} has started this as process {rank}, and each would train a run of its own: start one, or give --no-dist \
         where runs of their own are meant"
    )))
}

fn show_epochs(epochs: u64) -> String {
    if epochs == 1 { "1 epoch".into() } else { format!("{epochs} epochs") }
}

fn print_outcome(outcome: &Outcome) -> Result<()> {
    say!(
        "top-1 error {:.2} %, top-5 error {:.2} % on {} images after {} (best top-1 {:.2} %, epoch {})",
        outcome.last.eval_err1,
        outcome.last.eval_err5,
        outcome.last.eval_n,
        show_epochs(outcome.last.epoch + 1),
        outcome.best.err1,
        outcome.best.epoch + 1
    );
    say!("report: {}", outcome.dir.file("report.html").display());
    Ok(())
}
