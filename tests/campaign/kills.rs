//! Kill -9 at any moment: by the clock, and as a file of the run changes.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use residuum::rng::{Stream, Use};

use crate::kinds::{KINDS, Kind, Reference, Result, next_call, resumable};
use crate::program::Program;

/// Files that are watched: a change of one is a moment to kill at.
const WATCHED: [&str; 10] = [
    "metrics.jsonl",
    "log.txt",
    "config.toml",
    "summary.csv",
    "predictions.jsonl.tmp",
    "report.html",
    "checkpoints/best.safetensors.tmp",
    "checkpoints/last.safetensors.tmp",
    "checkpoints/last.state.safetensors.tmp",
    "checkpoints/last.state.safetensors",
];
/// A process that waits for longer is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// When a process is killed.
#[derive(Debug)]
enum Moment {
    After(Duration),
    /// At the so-manieth change of a file of the run's folder.
    Change(&'static str, u32),
    /// At the so-manieth change of a pack that is being built.
    Pack(u32),
}

impl Moment {
    fn draw(random: &mut Stream, reference: Duration, is_packing: bool) -> Moment {
        match random.below(5) {
            0 if is_packing => Moment::Pack(1 + random.below(2)),
            0..=2 => {
                let file = WATCHED[random.below(WATCHED.len() as u32) as usize];
                Moment::Change(file, 1 + random.below(2))
            }
            _ => Moment::After(reference.mul_f32(0.05 + 0.8 * random.uniform())),
        }
    }

    /// Waits for it, or for the end of `child`.
    fn wait(&self, program: &Program, child: &mut Child) {
        let start = Instant::now();
        let (mut seen, mut count) = (None, 0);
        while child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "no end in {PATIENCE:?}");
            let (file, wanted) = match self {
                Moment::After(delay) if start.elapsed() >= *delay => return,
                Moment::After(_) => (None, u32::MAX),
                Moment::Change(name, wanted) => {
                    (resumable(program).map(|run| program.path(run).join(name)), *wanted)
                }
                Moment::Pack(wanted) => (partial_pack(program), *wanted),
            };
            let metadata = file.and_then(|file| fs::metadata(file).ok());
            let now = metadata.map(|now| (now.ino(), now.len(), now.mtime(), now.mtime_nsec()));
            if now.is_some() && seen != now {
                count += 1;
            }
            seen = now;
            if count >= wanted {
                return;
            }
            thread::sleep(Duration::from_micros(300));
        }
    }
}

fn partial_pack(program: &Program) -> Option<PathBuf> {
    let files = fs::read_dir(program.path("cache")).ok()?;
    files
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|kind| kind == "partial"))
}

/// What a campaign of kills came to.
#[derive(Default)]
pub struct Kills {
    /// Processes that were killed.
    pub kills: u32,
    /// Runs that they belonged to.
    pub runs: u32,
    /// What was lost, or became another run.
    pub faults: Vec<String>,
}

/// Kills runs `num_kills` times in all, over the kinds in turn, and compares each with one that nothing interrupted.
pub fn campaign(num_kills: u32, seed: u64) -> Kills {
    let mut total = Kills::default();
    for (index, kind) in (0..).zip(&KINDS) {
        let share = (num_kills + KINDS.len() as u32 - 1 - index) / KINDS.len() as u32;
        if share == 0 {
            continue;
        }
        let of_kind = kills_of(kind, share, &mut Stream::new(seed, 0, index, Use::Shuffle));
        println!(
            "{:<20} {:>3} kills of {:>3} runs, {} faults",
            kind.name,
            of_kind.kills,
            of_kind.runs,
            of_kind.faults.len()
        );
        total.kills += of_kind.kills;
        total.runs += of_kind.runs;
        total.faults.extend(of_kind.faults);
    }
    total
}

fn kills_of(kind: &Kind, num_kills: u32, random: &mut Stream) -> Kills {
    let reference = Reference::of(kind);
    let mut total = Kills::default();
    // Some end before their moment comes.
    while total.kills < num_kills && total.faults.is_empty() && total.runs < 4 + 4 * num_kills {
        let program = Program::with_scenes();
        let mut history = Vec::new();
        // A run is killed up to four times, and then comes to its end.
        for _ in 0..=random.below(4).min(num_kills - total.kills - 1) {
            let moment = Moment::draw(random, reference.duration, kind.loses_packs || history.is_empty());
            match killed(&program, kind, &moment, random) {
                Ok(true) => total.kills += 1,
                Ok(false) => break,
                Err(message) => {
                    total.faults.push(message);
                    break;
                }
            }
            history.push(moment);
            between(&program, kind, random);
        }
        total.runs += 1;
        total.faults.extend(
            finish(&program, kind, &reference).map(|what| format!("{}: {what} after {history:?}", kind.name)),
        );
    }
    total
}

/// Starts or resumes a run of `kind` and kills it at `moment`; whether it was still there.
fn killed(
    program: &Program,
    kind: &Kind,
    moment: &Moment,
    random: &mut Stream,
) -> std::result::Result<bool, String> {
    let call = format!("{} --workers {}", next_call(program, kind), 1 + random.below(3));
    let messages = program.path("stderr");
    let mut command = program.command(&call);
    command.stdout(Stdio::null()).stderr(File::create(&messages).unwrap());
    command.env("RAYON_NUM_THREADS", (1 + random.below(3)).to_string());
    let mut child = command.spawn().unwrap();
    moment.wait(program, &mut child);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    match status.code() {
        None => Ok(true),
        Some(0) => Ok(false),
        Some(_) => Err(format!("`{call}` ended with {status}: {}", fs::read_to_string(messages).unwrap())),
    }
}

/// What happens to the files of a run while no process has it.
fn between(program: &Program, kind: &Kind, random: &mut Stream) {
    if kind.loses_packs {
        let _ = fs::remove_dir_all(program.path("cache"));
    }
    if let Some(run) = resumable(program).filter(|_| random.below(5) < 2) {
        let run = program.path(run);
        let mut name = run.file_name().unwrap().to_owned();
        name.push("-moved");
        fs::rename(&run, run.with_file_name(name)).unwrap();
    }
}

/// Brings the run to its end; what is wrong with it then.
pub fn finish(program: &Program, kind: &Kind, reference: &Reference) -> Option<String> {
    let call = next_call(program, kind);
    let output = program.command(&call).output().unwrap();
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Some(format!("`{call}` ended with {}: {message}", output.status));
    }
    match Result::of(program, &resumable(program).expect("it ran")) {
        Ok(result) => reference.result.difference(&result),
        Err(message) => Some(message),
    }
}
