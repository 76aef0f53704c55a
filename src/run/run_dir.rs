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
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        model: String,
        lr: f64,
    }

    #[test]
    fn runs_of_one_second_get_folders_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("new/runs");
        let mut paths: Vec<PathBuf> =
            (0..5).map(|_| RunDir::create(&output, "resnet18-64").unwrap().path).collect();
        paths.dedup();
        assert_eq!(paths.len(), 5);
        for path in &paths {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(
                name.len() >= "20260131-180000-resnet18-64".len() && name.contains("-resnet18-64"),
                "{name}"
            );
            assert!(path.join("checkpoints").is_dir());
        }
    }

    #[test]
    fn the_newest_whole_run_of_a_name_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let newest = |name| RunDir::newest(folder.path(), name).map(|run| run.path);
        assert_eq!(newest("a"), None);
        let names = ["20260131-180000-a", "20260131-180001-a", "20260131-180001-a-2", "20260131-180001-a-10"];
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.join(CHECKPOINTS)).unwrap();
            fs::write(path.join(CONFIG), "").unwrap();
            assert_eq!(newest("a"), Some(path));
        }
        // Of another name, without a stamp, or not whole.
        for name in ["20270131-180000-ab", "20270131-180000-a-b", "2027-01-31-1800-a", "20270131-180000-a"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            if !name.ends_with("0-a") {
                fs::create_dir(folder.path().join(name).join(CHECKPOINTS)).unwrap();
                fs::write(folder.path().join(name).join(CONFIG), "").unwrap();
            }
        }
        assert_eq!(newest("a"), Some(folder.path().join("20260131-180001-a-10")));
        assert_eq!(RunDir::newest(&folder.path().join("none"), "a"), None);
    }

    #[test]
    fn the_newest_checkpoints_of_epochs_are_kept_whatever_lies_between_them() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), "a").unwrap();
        fs::write(run.best_weights(), "best").unwrap();
        fs::write(run.checkpoint("epoch-mine.safetensors"), "of a user").unwrap();
        let expected: [(u8, &[u8]); 7] = [
            (1, &[1]),
            (2, &[1, 2]),
            (3, &[1, 2, 3]),
            (3, &[1, 2, 3]),
            (12, &[2, 3, 12]),
            // The run has gone back to an earlier state.
            (4, &[2, 3, 4, 12]),
            (12, &[3, 4, 12]),
        ];
        for (epoch, expected) in expected {
            for path in [run.last_state(), run.last_weights()] {
                run.write(&format!("{CHECKPOINTS}/{}", path.file_name().unwrap().to_str().unwrap()), [epoch])
                    .unwrap();
            }
            run.keep_last(u64::from(epoch), 3).unwrap();
            let states = (1..=12).filter(|of| run.checkpoint(&format!("{EPOCH}{of:04}{STATE}")).exists());
            assert_eq!(states.collect::<Vec<u8>>(), expected);
        }
        let read = |name: &str| fs::read(run.checkpoint(name)).ok();
        for epoch in [1, 2, 3, 4, 12] {
            for kind in [STATE, WEIGHTS] {
                let kept = read(&format!("{EPOCH}{epoch:04}{kind}"));
                // A link to the file, not to its name: later ones do not change it.
                assert_eq!(kept, (epoch >= 3).then(|| vec![epoch]), "{epoch}{kind}");
            }
        }
        assert!(run.best_weights().exists() && read("epoch-mine.safetensors").is_some());
        run.write(&format!("{CHECKPOINTS}/last.state.safetensors"), [13]).unwrap();
        assert_eq!(read("epoch-0012.state.safetensors"), Some(vec![12]));
        run.forget_states().unwrap();
        assert_eq!(run.states(), Vec::<PathBuf>::new());
        assert!(
            run.best_weights().exists()
                && run.last_weights().exists()
                && read("epoch-0012.safetensors").is_some()
        );
    }

    #[test]
    fn a_configuration_comes_back_and_a_wrong_one_names_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), "a").unwrap();
        let config = Config { model: "resnet18".into(), lr: 0.1 + 0.2 };
        run.write_config(&config).unwrap();
        assert_eq!(run.read_config::<Config>().unwrap(), config);
        assert_eq!(RunDir::open(run.path()).unwrap(), run);

        run.write("config.toml", "model = \"resnet18\"\nlr = \"fast\"\n").unwrap();
        let error = run.read_config::<Config>().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("config.toml") && text.contains("line 2"), "{text}");
        run.write("config.toml", "model = \"resnet18\"\nlr = 1.0\nspeed = 2\n").unwrap();
        assert!(run.read_config::<Config>().unwrap_err().to_string().contains("unknown field `speed`"));
    }

    #[test]
    fn what_is_not_a_run_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = |path: &Path| RunDir::open(path).unwrap_err().to_string();
        assert!(message(&folder.path().join("none")).contains("none does not exist; give the folder that"));
        assert!(message(folder.path()).contains("it has no config.toml"));
        fs::write(folder.path().join("config.toml"), "").unwrap();
        assert!(message(&folder.path().join("config.toml")).contains("is a file, not a run folder"));
        assert!(message(folder.path()).contains("it has no checkpoints folder"));
    }

    #[test]
    fn the_environment_is_written_without_the_programs_folder() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), "a").unwrap();
        let env = Env::of_this_process("cpu (2 threads)");
        run.write_env(&env).unwrap();
        let text = fs::read_to_string(run.file("env.json")).unwrap();
        assert_eq!(serde_json::from_str::<Env>(&text).unwrap(), env);
        assert_eq!(env.version, env!("CARGO_PKG_VERSION"));
        assert!(env.threads >= 1 && env.os.contains(std::env::consts::ARCH));

        let args = ["/home/someone/bin/residuum", "train", "--data-dir", "../places"].map(str::to_string);
        assert_eq!(command_line(args.into_iter()), ["residuum", "train", "--data-dir", "../places"]);
        assert_eq!(cpu_name("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n").unwrap(), "Some CPU @ 2 GHz");
        assert_eq!(cpu_name("Features: fp asimd\n"), None);
    }

    #[test]
    fn log_lines_are_appended_with_their_time() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), "a").unwrap();
        run.log("epoch 1 done").unwrap();
        run.log("epoch 2 done").unwrap();
        let text = fs::read_to_string(run.file("log.txt")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("Z epoch 1 done") && lines[1].ends_with("Z epoch 2 done"), "{text}");
    }
}
