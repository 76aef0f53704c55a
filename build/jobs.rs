//! Runs compilers in parallel and keeps what they made: a job whose inputs did not change does not run again, in this
//! checkout and profile or in another.

use std::cmp::Reverse;
use std::fs::File;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

/// How long the cache keeps a result that no build asks for.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// One call of a compiler.
#[derive(Debug)]
pub struct Job {
    /// Name of the result without its ending, the same whatever the inputs are.
    pub name: String,
    /// Ending of the result.
    pub extension: &'static str,
    /// The call, up to the source and `-o`.
    pub command: Command,
    /// The file to compile. Where it lies does not count, so that what was made from another job's result is found again
    /// from another folder.
    pub source: PathBuf,
    /// All that the result depends on besides the command: the text of the source, too.
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
    let cache = cache_folder();
    let threads: usize = env::var("NUM_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut jobs: Vec<(usize, Job)> = jobs.into_iter().enumerate().collect();
    // The longest texts take longest; one of them begun last would leave the other threads without work.
    jobs.sort_by_key(|(_, job)| Reverse(job.inputs.len()));
    let queue = Mutex::new(jobs.into_iter());
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = queue.lock().expect("no thread panics with the queue").next();
            let Some((index, job)) = next else { return };
            let result = job.run(folder, cache.as_deref());
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

/// Where results are shared between checkouts and profiles; none where there is no place for it. Old results are removed.
fn cache_folder() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("RESIDUUM_CACHE").or_else(|| {
        let user = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        user.map(|user| user.join("residuum"))
    })?;
    let folder = base.join("kernels");
    fs::create_dir_all(&folder).ok()?;
    let oldest = SystemTime::now().checked_sub(KEPT)?;
    for entry in fs::read_dir(&folder).ok()?.flatten() {
        let used = entry.metadata().and_then(|metadata| metadata.modified());
        if used.is_ok_and(|used| used < oldest) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Some(folder)
}

/// Why a job of some name made nothing.
struct Failure {
    name: String,
    message: String,
}

impl Job {
    fn run(mut self, folder: &Path, cache: Option<&Path>) -> Result<Output, Failure> {
        let failure = |message| Failure { name: self.name.clone(), message };
        let name = format!("{}.{:016x}.{}", self.name, self.key(), self.extension);
        let path = folder.join(&name);
        if let Some(log) = read_log(&path) {
            return Ok(Output { path, log });
        }
        self.remove_older(folder);
        let cached = cache.map(|cache| cache.join(&name));
        if let Some(cached) = &cached
            && let Some(log) = read_log(cached)
            && store(cached, &log, &path).is_ok()
        {
            // Its age counts from its last use.
            for used in [cached.clone(), log_path(cached)] {
                let _ = File::options()
                    .append(true)
                    .open(used)
                    .and_then(|file| file.set_modified(SystemTime::now()));
            }
            return Ok(Output { path, log });
        }
        let made = with_ending(&path, "made");
        let output = self
            .command
            .arg(&self.source)
            .arg("-o")
            .arg(&made)
            .output()
            .map_err(|error| failure(format!("cannot be compiled: {error}")))?;
        let log =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if !output.status.success() {
            return Err(failure(format!("does not compile:\n{}", log.trim_end())));
        }
        store(&made, &log, &path)
            .map_err(|error| failure(format!("cannot be written to {}: {error}", path.display())))?;
        let _ = fs::remove_file(&made);
        if let Some(cached) = &cached {
            // A cache that cannot be written costs time and nothing else.
            let _ = store(&path, &log, cached);
        }
        Ok(Output { path, log })
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.command.get_program().hash(&mut hasher);
        self.command.get_args().for_each(|argument| argument.hash(&mut hasher));
        self.inputs.hash(&mut hasher);
        hasher.finish()
    }

    /// Removes what the same job made of other inputs; a file that stays does no harm.
    fn remove_older(&self, folder: &Path) {
        let prefix = format!("{}.", self.name);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn log_path(path: &Path) -> PathBuf {
    with_ending(path, "log")
}

/// The path with `.ending` behind it.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// The log of the result at `path`, if both are there.
fn read_log(path: &Path) -> Option<String> {
    // A machine that lost power may have kept the name and not the bytes; no compiler makes an empty file.
    let is_there = fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
    if is_there { fs::read_to_string(log_path(path)).ok() } else { None }
}

/// Copies the result at `from` to `to`, its log first. Both are renamed into place, so that neither an interrupted build
/// nor one that runs at the same time leaves a part for the whole. The temporary name is random: builds in two containers
/// that share a cache may have the same process number.
fn store(from: &Path, log: &str, to: &Path) -> std::io::Result<()> {
    let random = RandomState::new().build_hasher().finish();
    let unfinished = with_ending(to, &format!("{random:016x}.unfinished"));
    fs::write(&unfinished, log)?;
    fs::rename(&unfinished, log_path(to))?;
    fs::copy(from, &unfinished)?;
    fs::rename(&unfinished, to)
}
