//! `residuum train`: flags over defaults, then a run.

mod ranks;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::flags::{SettingArgs, open_device};
use crate::device::{Device, DeviceChoice};
use crate::dist::{self, Collective, Rank, World};
use crate::error::{Error, Result};
use crate::run::run_dir::RunDir;
use crate::show::tell;
use crate::train::config::TrainConfig;
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
    /// Seconds that a rank waits for the others before it ends all of them
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(help_heading = "Run")]
    dist_timeout: u64,
    /// Resume although settings or images that decide results have changed
    #[arg(long, requires = "going_on", help_heading = "Run")]
    allow_changed: bool,
}

impl TrainArgs {
    pub(super) fn run(self) -> Result<()> {
        let world = if self.no_dist { None } else { World::from_env().map_err(name_remedy)? };
        match world {
            None => self.train(None).map_err(|failure| failure.error),
            Some(world) => ranks::run(&self, world),
        }
    }

    /// Whether it trains alone, whatever a launcher says.
    pub(super) fn is_alone(&self) -> bool {
        self.no_dist
    }

    /// How long a rank waits for the others.
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.dist_timeout)
    }

    /// The device that is asked for. What stands in the way of reading it is told later, by every rank in the same place.
    fn device(&self) -> DeviceChoice {
        self.settings.read(None).map_or(DeviceChoice::Auto, |config| *config.device)
    }

    /// Trains, together with the other ranks where there are some.
    fn train(&self, mut ranks: Option<OnRank>) -> std::result::Result<(), Failure> {
        let earlier = self.earlier_run(&mut ranks)?;
        let config = match &earlier {
            Some((_, recorded)) => self.settings.over(recorded.clone())?,
            None => self.settings.read(None)?,
        };
        if self.is_complete(&mut ranks, earlier.as_ref(), &config)? {
            return Ok(());
        }
        let device = open_device_of(*config.device, ranks.as_ref())?;
        let is_follower = ranks.as_ref().is_some_and(|ranks| ranks.collective.rank().index > 0);
        let collective = ranks.map(|ranks| ranks.collective);
        let trainer = match (collective, earlier) {
            (Some(collective), _) if is_follower => Trainer::follow(config, device, collective)?,
            (collective, Some((dir, _))) => {
                let on_change = if self.allow_changed { OnChange::GoOn } else { OnChange::Refuse };
                Trainer::resume_on_ranks(dir, config, device, on_change, collective)?
            }
            (collective, None) => Trainer::start_on_ranks(config, device, collective)?,
        };
        for remark in &trainer.source().remarks {
            tell(remark);
        }
        tell(format_args!("run folder: {}", trainer.dir().path().display()));
        let dir = trainer.dir().path().to_path_buf();
        let outcome = trainer.run().map_err(Failure::of_run).inspect_err(|failure| {
            if matches!(failure.error, Error::Interrupted { .. }) {
                tell(format_args!(
                    "checkpoint written; resume with: residuum train --resume {}",
                    dir.display()
                ));
            }
        })?;
        if !is_follower {
            // The run is done, whether somebody reads of it or not.
            let _ = print_outcome(&outcome);
        }
        Ok(())
    }

    /// The run to resume, with its settings. Rank 0 looks for it and tells the others.
    fn earlier_run(&self, ranks: &mut Option<OnRank>) -> Result<Option<(RunDir, TrainConfig)>> {
        let find = || {
            let Some(dir) = self.earlier_folder()? else { return Ok(None) };
            let config = dir.read_config()?;
            Ok(Some((dir, config)))
        };
        let Some(OnRank { collective, .. }) = ranks else { return find() };
        let found = if collective.rank().index == 0 { find()? } else { None };
        let told = found.as_ref().map(|(dir, config)| (dir.path().display().to_string(), config));
        let told = dist::share(&mut **collective, serde_json::to_vec(&told).expect("settings are JSON"))?;
        if found.is_some() {
            return Ok(found);
        }
        let garbled =
            |error| Error::Usage(format!("rank 1 has a run of which this version knows nothing: {error}"));
        let told: Option<(String, TrainConfig)> = serde_json::from_slice(&told).map_err(garbled)?;
        Ok(told.map(|(path, config)| (RunDir::elsewhere(path.as_ref()), config)))
    }

    /// Whether the earlier run is complete and has only its weights left, which is then said.
    fn is_complete(
        &self,
        ranks: &mut Option<OnRank>,
        earlier: Option<&(RunDir, TrainConfig)>,
        config: &TrainConfig,
    ) -> Result<bool> {
        let Some((dir, _)) = earlier else { return Ok(false) };
        let is_first = ranks.as_ref().is_none_or(|ranks| ranks.collective.rank().index == 0);
        let outcome = if is_first { resume::outcome_without_states(dir, config)? } else { None };
        let mut is_complete = [u8::from(outcome.is_some())];
        if let Some(OnRank { collective, .. }) = ranks {
            collective.broadcast(&mut is_complete)?;
        }
        if let Some(outcome) = outcome {
            tell("the run is complete and has only its weights left (--weights-only)");
            let _ = print_outcome(&outcome);
        }
        Ok(is_complete == [1])
    }

    fn earlier_folder(&self) -> Result<Option<RunDir>> {
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

/// What contradictory variables of launchers call for.
fn name_remedy(error: Error) -> Error {
    match error {
        Error::Usage(what) => Error::Usage(format!("{what}; --no-dist passes over them")),
        other => other,
    }
}

/// A process of a run over several.
struct OnRank {
    collective: Box<dyn Collective>,
    /// This process among those of its machine.
    local: Rank,
}

/// Why a run ended before its end.
struct Failure {
    error: Error,
    /// Whether every rank has seen it at the same step, and none waits for another.
    is_everywhere: bool,
}

impl Failure {
    /// What a run that has begun ended with.
    fn of_run(error: Error) -> Failure {
        let is_everywhere =
            matches!(error, Error::Interrupted { .. } | Error::Diverged { .. } | Error::Replicas(_));
        Failure { error, is_everywhere }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, is_everywhere: false }
    }
}

/// The device of this process: each rank of a machine has a GPU of its own.
fn open_device_of(choice: DeviceChoice, rank: Option<&OnRank>) -> Result<Device> {
    let gpu = rank.and_then(|rank| ranks::gpu_of(choice, rank.local));
    open_device(gpu.map_or(choice, DeviceChoice::Cuda))
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
