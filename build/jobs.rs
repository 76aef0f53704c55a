//! Runs compilers in parallel and keeps what they made: a job whose inputs did not change does not run again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};

/// One call of a compiler.
#[derive(Debug)]
pub struct Job {
    /// Name of the result without its ending, the same whatever the inputs are.
    pub name: String,
    /// Ending of the result.
    pub extension: &'static str,
    /// The call, up to `-o`.
    pub command: Command,
    /// All that the result depends on beside the command.
    pub inputs: String,
}

/// What a job made.
#[derive(Debug, Clone)]
pub struct Output {
    /// The file.
    pub path: PathBuf,
    /// What the compiler printed.
    pub log: String,
}

/// Runs all jobs, as many at a time as cargo allows; results lie in `folder` and come in the order of `jobs`.
pub fn run_all(jobs: Vec<Job>, folder: &Path) -> Result<Vec<Output>, String> {
    fs::create_dir_all(folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let threads: usize = env::var("NUM_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = queue.lock().expect("no thread panics with the queue").next();
            let Some((index, job)) = next else { return };
            let result = job.run(folder);
            done.lock().expect("no thread panics with the results").push((index, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().expect("no thread panicked with the results");
    done.sort_by_key(|(index, _)| *index);
    let mut outputs = Vec::new();
    let mut failures: Vec<Failure> = Vec::new();
    for (_, result) in done {
        match result {
            Ok(output) => outputs.push(output),
            // One mistake fails a file for every architecture in the same words.
            Err(failure) if failures.iter().any(|other| other.message == failure.message) => {}
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() {
        return Ok(outputs);
    }
    let texts: Vec<String> =
        failures.iter().map(|Failure { name, message }| format!("{name} {message}")).collect();
    Err(texts.join("\n"))
}

/// Why a job of some name made nothing.
struct Failure {
    name: String,
    message: String,
}

impl Job {
    fn run(mut self, folder: &Path) -> Result<Output, Failure> {
        let failure = |message| Failure { name: self.name.clone(), message };
        let name = format!("{}.{:016x}.{}", self.name, self.key(), self.extension);
        let path = folder.join(&name);
        let log_path = folder.join(format!("{name}.log"));
        if path.exists()
            && let Ok(log) = fs::read_to_string(&log_path)
        {
            return Ok(Output { path, log });
        }
        self.remove_older(folder);
        // Renamed at the end, so that what an interrupted build leaves is not taken for a result.
        let unfinished = folder.join(format!("{name}.unfinished"));
        let output = self
            .command
            .arg("-o")
            .arg(&unfinished)
            .output()
            .map_err(|error| failure(format!("cannot be compiled: {error}")))?;
        let log =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if !output.status.success() {
            return Err(failure(format!("does not compile:\n{}", log.trim_end())));
        }
        fs::write(&log_path, &log)
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(|error| failure(format!("cannot be written to {}: {error}", path.display())))?;
        Ok(Output { path, log })
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.command.get_program().hash(&mut hasher);
        self.command.get_args().for_each(|argument| argument.hash(&mut hasher));
        self.inputs.hash(&mut hasher);
        hasher.finish()
    }

    /// Removes what the same job made of other inputs; a file that stays behind does no harm.
    fn remove_older(&self, folder: &Path) {
        let prefix = format!("{}.", self.name);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
