//! The program in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use residuum::data::scenes;
use residuum::run::metrics::{self, Records};
use tempfile::TempDir;

/// How long a child may take for what the tests wait for.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, started in a temporary folder that also holds its cache.
pub struct Program {
    folder: TempDir,
}

impl Program {
    /// In an empty folder.
    pub fn new() -> Program {
        Program { folder: TempDir::new().unwrap() }
    }

    /// In a folder with a data set `scenes` in MiniPlaces' layout: 40 training and 20 validation images of ten
    /// categories, 32 pixels high and wide.
    pub fn with_scenes() -> Program {
        let program = Program::new();
        scenes::write_miniplaces(&program.path("scenes"), 40, 20, 32, 7).unwrap();
        program
    }

    /// The file or folder `name`.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A call with `args`, which are separated by blanks.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_residuum"));
        command.args(args.split_whitespace());
        self.settle(command)
    }

    /// `command` in the program's folder, with its cache.
    pub fn settle(&self, mut command: Command) -> Command {
        command
            .current_dir(self.folder.path())
            .env("RESIDUUM_CACHE", self.path("cache"))
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        command
    }

    /// Runs to a successful end and returns what was printed to stdout.
    #[track_caller]
    pub fn succeeds(&self, args: &str) -> String {
        let output = self.command(args).output().unwrap();
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "`{args}` ended with {}:\n{stderr}", output.status);
        stdout
    }

    /// The only run folder in the folder `output`, relative to the program's.
    #[track_caller]
    pub fn only_run(&self, output: &str) -> PathBuf {
        let mut runs: Vec<PathBuf> =
            fs::read_dir(self.path(output)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs.pop().unwrap().strip_prefix(self.folder.path()).unwrap().to_path_buf()
    }

    /// A file of the checkpoints of `run`.
    pub fn checkpoint(&self, run: &Path, name: &str) -> PathBuf {
        self.path(run).join("checkpoints").join(name)
    }

    /// The bytes of a file of the checkpoints of `run`.
    #[track_caller]
    pub fn checkpoint_bytes(&self, run: &Path, name: &str) -> Vec<u8> {
        fs::read(self.checkpoint(run, name)).unwrap()
    }

    /// What `run` measured.
    #[track_caller]
    pub fn records(&self, run: &Path) -> Records {
        metrics::read(&self.path(run).join("metrics.jsonl")).unwrap()
    }

    /// Waits until the one run in `runs` has logged `num_steps` steps; returns its folder.
    #[track_caller]
    pub fn wait_for_steps(&self, child: &mut Child, num_steps: usize) -> PathBuf {
        let start = Instant::now();
        loop {
            if self.path("runs").is_dir() && fs::read_dir(self.path("runs")).unwrap().next().is_some() {
                let run = self.only_run("runs");
                let records = metrics::read(&self.path(&run).join("metrics.jsonl")).unwrap_or_default();
                if records.steps.len() >= num_steps {
                    return run;
                }
            }
            assert!(child.try_wait().unwrap().is_none(), "the run ended before step {num_steps}");
            assert!(start.elapsed() < PATIENCE, "no step {num_steps} in {PATIENCE:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// stdout and stderr as text.
pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Checks that a call failed with this exit code and that its message has all of these parts.
#[track_caller]
pub fn failed(output: &Output, args: &str, code: i32, parts: &[&str]) {
    let (_, stderr) = texts(output);
    assert_eq!(output.status.code(), Some(code), "`{args}`:\n{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "`{args}` does not say `{part}`:\n{stderr}");
    }
}

/// Sends the signal called `name` to `child`.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name}");
}
