//! `residuum verify-resume`: a run that is killed and resumed, held to one that is not, on this machine.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use clap::Args;
use tempfile::TempDir;

use super::flags::SettingArgs;
use crate::error::{Error, Result};
use crate::run::checkpoint::{NamedTensor, TensorData};
use crate::run::metrics::{self, Records};
use crate::run::run_dir::RunDir;
use crate::run::state;
use crate::show::{show_bytes, tell};
use crate::train::config::TrainConfig;

/// Updates of each run where --max-steps does not say.
const NUM_STEPS: u64 = 12;
/// How often the log of a run is looked at.
const INTERVAL: Duration = Duration::from_millis(5);

/// Train twice, killing and resuming the second run on its way, and compare what the two leave behind bit by bit
#[derive(Debug, Args)]
#[command(next_line_help = false)]
pub(super) struct VerifyResumeArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// How often the second run is killed
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    kills: u64,
}

impl VerifyResumeArgs {
    pub(super) fn run(self) -> Result<()> {
        let folder = TempDir::new().map_err(Error::io("make a folder in", env::temp_dir()))?;
        let config = self.settings.read(None)?;
        let most_steps = config.max_steps.unwrap_or(NUM_STEPS);
        if most_steps <= self.kills {
            let message = format!("is too few for {} kills; give more", self.kills);
            return Err(Error::setting("max_steps", most_steps, message));
        }
        // A line of the log and a checkpoint for each update, and a state at the end: no setting that decides a result.
        let config = |name: &str| TrainConfig {
            max_steps: Some(most_steps),
            log_interval: 1,
            recovery_interval: 1,
            weights_only: false,
            output: folder.path().to_path_buf(),
            experiment: Some(name.into()),
            ..config.clone()
        };
        tell(format_args!("a run of at most {most_steps} updates"));
        let whole = Run::begin(folder.path(), &config("whole"))?.finish()?;
        let num_steps = last_step(&whole);
        if num_steps <= self.kills {
            return Err(Error::Usage(format!(
                "a run of {num_steps} updates is too short for {} kills; give more --epochs or smaller batches",
                self.kills
            )));
        }
        let mut run = Run::begin(folder.path(), &config("killed"))?;
        let mut killed_at = Vec::new();
        for kill in 1..=self.kills {
            let step = run.kill_after(num_steps * kill / (self.kills + 1))?;
            tell(format_args!("the same run, killed after {step} updates and resumed"));
            killed_at.push(step.to_string());
            run = run.resume()?;
        }
        let resumed = run.finish()?;
        let compared = compare(&whole, &resumed)?;
        say!(
            "killed after {} of {num_steps} updates and resumed: {compared} are the same, bit by bit",
            killed_at.join(" and ")
        );
        Ok(())
    }
}

/// The last update that the run in `dir` has logged.
fn last_step(dir: &RunDir) -> u64 {
    let records = metrics::read(&dir.metrics()).ok();
    records.and_then(|records| records.steps.last().map(|step| step.step)).unwrap_or(0)
}

/// A run of this program in another process.
struct Run {
    child: Child,
    output: PathBuf,
    name: String,
}

impl Run {
    fn begin(folder: &Path, config: &TrainConfig) -> Result<Run> {
        let name = config.experiment.clone().unwrap_or_default();
        let recipe = folder.join(format!("{name}.toml"));
        let text = toml::to_string(config).expect("a configuration is a table that TOML can express");
        fs::write(&recipe, text).map_err(Error::io("write", &recipe))?;
        Run::spawn(folder, &name, &["--config".as_ref(), recipe.as_os_str()])
    }

    fn resume(self) -> Result<Run> {
        let dir = self.dir()?;
        Run::spawn(&self.output, &self.name, &["--resume".as_ref(), dir.path().as_os_str()])
    }

    fn spawn(output: &Path, name: &str, args: &[&OsStr]) -> Result<Run> {
        let log = output.join(format!("{name}.log"));
        let log = File::create(&log).map_err(Error::io("create", &log))?;
        let program = env::current_exe().map_err(Error::io("find", "the program itself"))?;
        let mut command = Command::new(&program);
        command.arg("train").args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(Error::io("start", &program))?;
        Ok(Run { child, output: output.to_path_buf(), name: name.into() })
    }

    /// Waits for so many updates and ends the process as a power cut would; the updates that it had logged.
    fn kill_after(&mut self, num_steps: u64) -> Result<u64> {
        while self.last_step() < num_steps {
            match self.child.try_wait().map_err(Error::io("wait for", "the run"))? {
                Some(status) if status.success() => {
                    return Err(Error::Usage(format!(
                        "the run was over before it could be killed after {num_steps} updates; give it more to do: larger \
                         batches or images"
                    )));
                }
                Some(_) => return Err(self.failed()),
                None => {}
            }
            thread::sleep(INTERVAL);
        }
        self.child.kill().and_then(|()| self.child.wait()).map_err(Error::io("kill", "the run"))?;
        Ok(self.last_step())
    }

    fn last_step(&self) -> u64 {
        self.dir().map_or(0, |dir| last_step(&dir))
    }

    /// Waits for the end of the run.
    fn finish(mut self) -> Result<RunDir> {
        match self.child.wait().map_err(Error::io("wait for", "the run"))? {
            status if status.success() => self.dir(),
            _ => Err(self.failed()),
        }
    }

    /// What the run said last: its error.
    fn failed(&self) -> Error {
        let log = fs::read_to_string(self.output.join(format!("{}.log", self.name))).unwrap_or_default();
        let last = log.lines().last().unwrap_or("nothing");
        Error::Usage(format!("the run did not end as it should; it said: {last}"))
    }

    fn dir(&self) -> Result<RunDir> {
        let none = || Error::Usage("the run has made no folder".into());
        RunDir::newest(&self.output, &self.name).ok_or_else(none)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It has ended, unless this process gives up on it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What two runs have the same of.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first thing that differs.
fn compare(whole: &RunDir, resumed: &RunDir) -> Result<String> {
    let differs = |what: String| {
        Err(Error::checkpoint(
            resumed.last_state(),
            format!("{what} differs from that of a run that went on"),
        ))
    };
    let (_, expected) = state::load(&whole.last_state())?;
    let (_, tensors) = state::load(&resumed.last_state())?;
    if let Some(name) = first_difference(&expected, &tensors) {
        return differs(format!("`{name}`"));
    }
    let read = |dir: &RunDir| metrics::read(&dir.file("metrics.jsonl")).map(|records| losses(&records));
    let (expected_losses, losses) = (read(whole)?, read(resumed)?);
    if let Some(((step, _), _)) =
        expected_losses.iter().zip(&losses).find(|(expected, loss)| expected != loss)
    {
        return differs(format!("the loss of step {step}"));
    }
    if expected_losses.len() != losses.len() {
        return differs("the number of losses".into());
    }
    let num_bytes: usize = tensors.iter().map(|tensor| bytes_of(&tensor.data).len()).sum();
    let size = show_bytes(num_bytes);
    Ok(format!("{} tensors of the state ({size}) and {} losses", tensors.len(), losses.len()))
}

/// The name of the first tensor that is not the same in both.
fn first_difference(a: &[NamedTensor<'_>], b: &[NamedTensor<'_>]) -> Option<String> {
    let is_same = |a: &NamedTensor<'_>, b: &NamedTensor<'_>| {
        (&a.name, &a.shape) == (&b.name, &b.shape) && bytes_of(&a.data) == bytes_of(&b.data)
    };
    let pairs = a.iter().zip(b).find(|(a, b)| !is_same(a, b)).map(|(a, _)| a.name.clone());
    pairs.or_else(|| (a.len() != b.len()).then(|| "the number of tensors".into()))
}

fn bytes_of<'a>(data: &'a TensorData<'_>) -> &'a [u8] {
    match data {
        TensorData::F32(elems) => bytemuck::cast_slice(elems),
        TensorData::I64(elems) => bytemuck::cast_slice(elems),
        TensorData::I32(elems) => bytemuck::cast_slice(elems),
        TensorData::U8(elems) => elems,
    }
}

/// Every loss that a run logged, with its step; bits, so that each differs from every other.
fn losses(records: &Records) -> Vec<(u64, u64)> {
    let steps = records.steps.iter().map(|step| (step.step, step.loss.to_bits()));
    steps.chain(records.epochs.iter().map(|epoch| (epoch.step, epoch.eval_loss.to_bits()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_one_tensor_is_a_difference() {
        let tensors = |last: f32| {
            vec![NamedTensor::f32("a", &[2], vec![1.0, 2.0]), NamedTensor::f32("b", &[2], vec![0.0, last])]
        };
        assert_eq!(first_difference(&tensors(1.5), &tensors(1.5)), None);
        assert_eq!(first_difference(&tensors(1.5), &tensors(1.500_000_1)), Some("b".into()));
        assert_eq!(first_difference(&tensors(0.0), &tensors(-0.0)), Some("b".into()));
        assert!(first_difference(&tensors(1.5), &tensors(1.5)[..1]).is_some());
    }
}
