//! The folder a run leaves behind: where each file lies, and the two that are written once, `config.toml` and
//! `env.json`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use humantime::format_rfc3339_seconds;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::replace;

const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
/// How the names of an epoch's checkpoints begin, and how those of states and of weights end.
const EPOCH: &str = "epoch-";
const STATE: &str = ".state.safetensors";
const WEIGHTS: &str = ".safetensors";

/// A run folder, `<output>/<YYYYMMDD-HHMMSS>-<name>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the folder of a new run below `output`, stamped with the time in UTC. A second run of the same
    /// second and name gets `-2` at the end.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be made.
    pub fn create(output: &Path, name: &str) -> Result<RunDir> {
        fs::create_dir_all(output).map_err(Error::io("create", output))?;
        let stamped = format!("{}-{name}", utc().replace(['-', ':', 'Z'], "").replace('T', "-"));
        for count in 1.. {
            let suffix = if count == 1 { String::new() } else { format!("-{count}") };
            let path = output.join(format!("{stamped}{suffix}"));
            match fs::create_dir(&path) {
                Ok(()) => {
                    let run = RunDir { path };
                    let checkpoints = run.file(CHECKPOINTS);
                    fs::create_dir(&checkpoints).map_err(Error::io("create", &checkpoints))?;
                    return Ok(run);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", &path)(error)),
            }
        }
        unreachable!("one of 2^31 names is free")
    }

    /// The existing run folder at `path`.
    ///
    /// # Errors
    /// [`Error::Usage`], saying what is missing, if `path` is not a run folder.
    pub fn open(path: &Path) -> Result<RunDir> {
        let problem = if !path.exists() {
            "does not exist"
        } else if !path.is_dir() {
            "is a file, not a run folder"
        } else if !path.join(CONFIG).is_file() {
            "is not a run folder: it has no config.toml"
        } else if !path.join(CHECKPOINTS).is_dir() {
            "is not a whole run folder: it has no checkpoints folder"
        } else {
            return Ok(RunDir { path: path.to_path_buf() });
        };
        Err(Error::Usage(format!(
            "{} {problem}; give the folder that a training run made, such as runs/20260131-180000-resnet18",
            path.display()
        )))
    }

    /// The run folder that another process has at `path`, perhaps on another machine: nothing is looked at.
    pub fn elsewhere(path: &Path) -> RunDir {
        RunDir { path: path.to_path_buf() }
    }

    /// The newest run folder that [`RunDir::create`] made below `output` for `name` and that is whole; `None` where there is
    /// none.
    pub fn newest(output: &Path, name: &str) -> Option<RunDir> {
        let entries = fs::read_dir(output).ok()?;
        let mut runs: Vec<_> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let key = creation_of(path.file_name()?.to_str()?, name)?;
                Some((key, RunDir::open(&path).ok()?))
            })
            .collect();
        runs.sort_by(|(a, _), (b, _)| a.cmp(b));
        runs.pop().map(|(_, run)| run)
    }

    /// Path of the run folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file called `name` in the folder, whether it is there or not.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The newest training state, complete in itself: what `--resume` reads.
    pub fn last_state(&self) -> PathBuf {
        self.checkpoint("last.state.safetensors")
    }

    /// The newest weights, under torchvision's names.
    pub fn last_weights(&self) -> PathBuf {
        self.checkpoint("last.safetensors")
    }

    /// The weights of the best evaluation, under torchvision's names.
    pub fn best_weights(&self) -> PathBuf {
        self.checkpoint("best.safetensors")
    }

    /// The last state from before the loss leapt, while it has not come down again.
    pub fn before_spike(&self) -> PathBuf {
        self.checkpoint("before-spike.state.safetensors")
    }

    /// Keeps the last state as that from before a leap of the loss, if none is kept.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn keep_before_spike(&self) -> Result<()> {
        let (last, kept) = (self.last_state(), self.before_spike());
        if last.exists() && !kept.exists() { link(&last, &kept) } else { Ok(()) }
    }

    /// Makes the state from before the leap of the loss the last one.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be renamed.
    pub fn go_back_before_spike(&self) -> Result<()> {
        let kept = self.before_spike();
        fs::rename(&kept, self.last_state()).map_err(Error::io("rename", kept))
    }

    /// Removes the state from before a leap of the loss.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is there and cannot be removed.
    pub fn forget_before_spike(&self) -> Result<()> {
        remove_if_there(&self.before_spike())
    }

    /// Removes every state, so that the run can no longer be resumed. The last one goes last: while it is there, a process
    /// that was killed in between can do the rest.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file that cannot be removed.
    pub fn forget_states(&self) -> Result<()> {
        let (last, others): (Vec<_>, Vec<_>) =
            self.states().into_iter().partition(|path| *path == self.last_state());
        others.iter().chain(&last).try_for_each(|path| remove_if_there(path))
    }

    /// Every state that is kept: the last one, that from before a leap of the loss, and those of epochs.
    pub fn states(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.file(CHECKPOINTS)).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.to_str().is_some_and(|path| path.ends_with(STATE))).collect()
    }

    /// Keeps the last state and weights as those after `epoch` epochs, and of those kept before only what belongs to the
    /// `count` newest checkpoints. They share the disk's blocks with the last ones where the file system can.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file that cannot be written, or removed.
    pub fn keep_last(&self, epoch: u64, count: usize) -> Result<()> {
        for (last, kind) in [(self.last_state(), STATE), (self.last_weights(), WEIGHTS)] {
            let kept = self.checkpoint(&format!("{EPOCH}{epoch:04}{kind}"));
            remove_if_there(&kept)?;
            link(&last, &kept)?;
        }
        let folder = self.file(CHECKPOINTS);
        let entries = fs::read_dir(&folder).map_err(Error::io("read", &folder))?.flatten();
        let mut kept: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        for entry in entries {
            // Later ones are of a run that has gone back since, and makes them again.
            if let Some(of) = entry.file_name().to_str().and_then(epoch_of).filter(|of| *of <= epoch) {
                kept.entry(of).or_default().push(entry.path());
            }
        }
        let num_old = kept.len().saturating_sub(count);
        kept.values().take(num_old).flatten().try_for_each(|path| remove_if_there(path))
    }

    fn checkpoint(&self, name: &str) -> PathBuf {
        self.path.join(CHECKPOINTS).join(name)
    }

    /// The measurements, see [`crate::run::metrics`].
    pub fn metrics(&self) -> PathBuf {
        self.file("metrics.jsonl")
    }

    /// Replaces the file `name` in the folder atomically.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; an earlier one is then intact.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.file(name);
        replace::replace(&path, |writer| writer.write_all(contents.as_ref()))
            .map_err(Error::io("write", &path))
    }

    /// Writes `config.toml`: everything needed to run again.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    ///
    /// # Panics
    /// If TOML cannot express `config`: a map with keys that are not strings, or an integer beyond `i64`.
    pub fn write_config(&self, config: &impl Serialize) -> Result<()> {
        self.write(CONFIG, toml::to_string(config).expect("a configuration is a table that TOML can express"))
    }

    /// Reads `config.toml`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Usage`] with line and column if it is not such a
    /// configuration.
    pub fn read_config<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.file(CONFIG);
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        toml::from_str(&text).map_err(|error| Error::Usage(format!("{}: {error}", path.display())))
    }

    /// Writes `env.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn write_env(&self, env: &Env) -> Result<()> {
        let mut text = serde_json::to_string_pretty(env).expect("strings and numbers are JSON");
        text.push('\n');
        self.write("env.json", text)
    }

    /// Reads `env.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Data`] if it is not such a file.
    pub fn read_env(&self) -> Result<Env> {
        let path = self.file("env.json");
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        serde_json::from_str(&text).map_err(|error| Error::data(&path, error.to_string()))
    }

    /// Appends `message` to `log.txt`, with the time in UTC before it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn log(&self, message: &str) -> Result<()> {
        let path = self.file("log.txt");
        let line = format!("{} {message}\n", utc());
        let open = OpenOptions::new().append(true).create(true).open(&path);
        open.and_then(|mut file| file.write_all(line.as_bytes())).map_err(Error::io("append to", &path))
    }
}

/// The epoch that a file of the checkpoints' folder belongs to, if [`RunDir::keep_last`] made it.
fn epoch_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix(EPOCH)?;
    rest.strip_suffix(STATE).or_else(|| rest.strip_suffix(WEIGHTS))?.parse().ok()
}

/// Gives the file `from` the name `to` as well; copies it where the file system knows no such links.
fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).map_err(Error::io("write", to))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The time stamp of a folder called `folder`, and which it is of those of its second, if it is of a run called `name`.
fn creation_of(folder: &str, name: &str) -> Option<(String, u32)> {
    let (stamp, rest) = folder.split_at_checked("20260131-180000".len())?;
    let is_stamp =
        stamp.bytes().enumerate().all(|(i, byte)| if i == 8 { byte == b'-' } else { byte.is_ascii_digit() });
    let count = match rest.strip_prefix('-')?.strip_prefix(name)? {
        "" => 1,
        suffix => suffix.strip_prefix('-')?.parse().ok()?,
    };
    is_stamp.then(|| (stamp.to_string(), count))
}

/// What a run ran on: `env.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Env {
    /// The version of this program.
    pub version: String,
    /// The commit it was built from, where the build could tell.
    pub commit: Option<String>,
    /// The command line, the program by its name alone.
    pub command: Vec<String>,
    /// When the process started, in UTC.
    pub started: String,
    /// The device, in words.
    pub device: String,
    /// The processor's name, where the system tells.
    pub cpu: Option<String>,
    /// Processor threads this process may use.
    pub threads: usize,
    /// System, release and architecture.
    pub os: String,
}

impl Env {
    /// The environment of this process, which trains on `device`.
    pub fn of_this_process(device: impl Into<String>) -> Env {
        Env {
            version: env!("CARGO_PKG_VERSION").to_string(),
            commit: option_env!("RESIDUUM_COMMIT").map(str::to_string),
            command: command_of_this_process(),
            started: utc(),
            device: device.into(),
            cpu: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_name(&text)),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            os: os_name(),
        }
    }
}

/// The command line of this process, the program by its name alone.
pub fn command_of_this_process() -> Vec<String> {
    command_line(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()))
}

/// The arguments, with the program's folder left out: it says more about the user's machine than about the
/// run.
fn command_line(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut args: Vec<String> = args.collect();
    if let Some(program) = args.first_mut()
        && let Some(name) = Path::new(program.as_str()).file_name()
    {
        *program = name.to_string_lossy().into_owned();
    }
    args
}

/// The processor's name in the text of Linux's `/proc/cpuinfo`.
fn cpu_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn os_name() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let parts = [std::env::consts::OS, release.trim(), std::env::consts::ARCH];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Now, as in `2026-01-31T18:00:05Z`.
pub fn utc() -> String {
    format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests;
