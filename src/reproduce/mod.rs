//! The paper's tables and figures, each from training runs that are started, resumed, or found done.
//!
//! `experiments` says which runs a part of the paper needs and with which settings, `page` puts their results next to
//! the paper's. What is here knows training runs as a user does: settings in, a run folder out.

mod experiments;
mod gallery;
mod page;

use std::fs;
use std::path::{Path, PathBuf};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::run::metrics::{self, Records};
use crate::run::replace;
use crate::run::run_dir::{Env, RunDir};
use crate::show::tell;
use crate::train::config::TrainConfig;
use crate::train::resume::OnChange;
use crate::train::trainer::Trainer;

pub use experiments::{Experiment, Part};
pub use gallery::{Gallery, SHOWN_SEED};

/// Options of a reproduction.
#[derive(Debug, Clone)]
pub struct Options {
    /// Parts of the paper to reproduce.
    pub parts: Vec<Part>,
    /// Folder of the MiniPlaces data set.
    pub data_dir: PathBuf,
    /// Every run scaled down to seconds.
    pub quick: bool,
    /// Runs of each experiment: with the seed of `common`, the one after it, and so on.
    pub num_seeds: u64,
    /// Folder for the page and, below `runs`, the run folders.
    pub output: PathBuf,
    /// ResNet-50 of ImageNet as safetensors, for the bound.
    pub pretrained: Option<PathBuf>,
    /// Settings that are the same for all runs and change no result that the paper has: device, precision, seed, workers,
    /// cache.
    pub common: TrainConfig,
}

/// A run that is done.
#[derive(Debug)]
struct Done {
    experiment: &'static Experiment,
    dir: RunDir,
    config: TrainConfig,
    records: Records,
    env: Env,
}

/// The files that a reproduction ends in.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Path of the offline page.
    pub html: PathBuf,
    /// Path of the same page as Markdown.
    pub markdown: PathBuf,
}

/// Runs what `options` needs and is not done yet, and writes the page.
///
/// The page is written after every run, so that a reproduction that is stopped has shown what it got to. A run that was
/// stopped goes on from its last checkpoint the next time.
///
/// # Errors
/// What a run fails with; [`Error::Interrupted`] after a signal.
pub fn reproduce(options: &Options, device: Device) -> Result<Pages> {
    fs::create_dir_all(&options.output).map_err(Error::io("create", &options.output))?;
    // Runs are found again by their settings, which are what they recorded.
    let mut options = options.clone();
    options.common.decide_precision(device.kind()).iter().for_each(tell);
    let options = &options;
    let wanted = wanted_runs(options);
    let mut done: Vec<Done> = Vec::new();
    for (index, &(seed, experiment)) in wanted.iter().enumerate() {
        let stand_in = |run: &&Done| run.experiment.is_pretraining() && run.config.seed == seed;
        let pretrained = match (&options.pretrained, done.iter().find(stand_in)) {
            (Some(file), _) => Some(file.clone()),
            (None, run) => run.map(|run| run.dir.best_weights()),
        };
        let config = experiment.config(options, seed, pretrained)?;
        tell(format_args!(
            "run {} of {}: {} ({}), seed {seed}",
            index + 1,
            wanted.len(),
            experiment.key,
            experiment.title
        ));
        done.push(run(experiment, config, device)?);
        write_pages(options, &done)?;
    }
    write_pages(options, &done)
}

/// Every run by seed and experiment. All are done with one seed before the next, so that the page is whole early.
fn wanted_runs(options: &Options) -> Vec<(u64, &'static Experiment)> {
    let first = options.common.seed;
    let seeds = first..first.saturating_add(options.num_seeds);
    seeds.flat_map(|seed| experiments::needed(options).into_iter().map(move |one| (seed, one))).collect()
}

/// The run of `config`: found done, resumed, or started.
fn run(experiment: &'static Experiment, config: TrainConfig, device: Device) -> Result<Done> {
    let earlier = find(&config, experiment.key)?;
    let dir = match earlier {
        Some(dir) if is_done(&dir, &config)? => dir,
        Some(dir) => Trainer::resume(dir, config.clone(), device, OnChange::Refuse)?.run()?.dir,
        None => Trainer::start(config.clone(), device)?.run()?.dir,
    };
    let env = dir.read_env()?;
    Ok(Done { experiment, records: metrics::read(&dir.metrics())?, env, dir, config })
}

/// The newest run folder of this experiment with these very settings.
fn find(config: &TrainConfig, key: &str) -> Result<Option<RunDir>> {
    let Ok(entries) = fs::read_dir(&config.output) else { return Ok(None) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let has_key = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(key));
    for path in paths.into_iter().rev().filter(|path| has_key(path)) {
        // A folder that is not a whole run, or is of another version, cannot be resumed.
        let Ok(dir) = RunDir::open(&path) else { continue };
        if dir.read_config::<TrainConfig>().is_ok_and(|found| found == *config) {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

fn is_done(dir: &RunDir, config: &TrainConfig) -> Result<bool> {
    if !dir.metrics().exists() {
        return Ok(false);
    }
    Ok(metrics::read(&dir.metrics())?.epochs.len() as u64 >= config.epochs)
}

fn write_pages(options: &Options, done: &[Done]) -> Result<Pages> {
    let page = page::page(options, done)?;
    let write = |name: &str, text: String| {
        let path = options.output.join(name);
        let written = replace::replace(&path, |writer| writer.write_all(text.as_bytes()));
        written.map_err(Error::io("write", &path)).map(|()| path)
    };
    Ok(Pages {
        html: write("reproduction.html", page.to_html())?,
        markdown: write("reproduction.md", page.to_markdown())?,
    })
}
