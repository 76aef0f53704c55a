//! Systems that fail, and files that are not as they were left: a run says so and ends, and what it did goes on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use residuum::rng::{Stream, Use};

use crate::kills::finish;
use crate::kinds::{KINDS, Reference, next_call, resumable};
use crate::program::{Program, failed, signal, texts};

/// What happens to a run.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The shell sets a limit first: what `ulimit` is told, and the least and most of it.
    Limit(&'static str, [u32; 2]),
    /// Standard streams are as this redirection has them.
    Streams(&'static str),
    /// Nobody reads stderr any more after so many lines.
    ReaderGone,
    /// A signal after a few updates, and the status that it ends with; none where the system ends the process.
    Signal(&'static str, Option<i32>),
    /// The file system of the runs is full, at a size of some MiB.
    Full([u32; 2]),
    /// The folder of the run cannot be written to, by a user that is not root.
    ReadOnly,
    /// A file of the run's folder is spoilt, and whether the run can go on without it.
    Spoilt(&'static str, Spoil, bool),
    /// The packs of decoded photos are spoilt while they are in use.
    PackInUse(Spoil),
    /// The clock is wrong by so many seconds from the second process on.
    Clock(i64),
    /// What a command writes to a file of this name is there already, and the command is killed while it writes it anew.
    Rewritten(&'static str, &'static str),
}

#[derive(Debug, Clone, Copy)]
enum Spoil {
    Cut,
    Turned,
    Emptied,
    Removed,
}

impl Spoil {
    /// Spoils the file at `path` somewhere.
    fn apply(self, path: &Path, random: &mut Stream) {
        if let Spoil::Removed = self {
            return fs::remove_file(path).unwrap();
        }
        let file = File::options().read(true).write(true).open(path).unwrap();
        let place = u64::from(random.below(file.metadata().unwrap().len() as u32));
        match self {
            Spoil::Cut => file.set_len(place).unwrap(),
            Spoil::Emptied => file.set_len(0).unwrap(),
            _ => {
                let mut byte = [0];
                file.read_exact_at(&mut byte, place).unwrap();
                byte[0] ^= 1 << random.below(8);
                file.write_all_at(&byte, place).unwrap();
            }
        }
    }
}

/// Those that need no rights come first.
const FAULTS: [Fault; 39] = [
    Fault::Streams("2>/dev/full"),
    Fault::Limit("-f", [1, 90_000]),
    Fault::Spoilt("checkpoints/last.state.safetensors", Spoil::Turned, false),
    Fault::Signal("TERM", Some(143)),
    Fault::PackInUse(Spoil::Turned),
    Fault::ReaderGone,
    Fault::Limit("-n", [4, 24]),
    Fault::Limit("-v", [60_000, 600_000]),
    Fault::Streams("<&-"),
    Fault::Streams(">&-"),
    Fault::Streams("2>&-"),
    Fault::Streams("<&- >&- 2>&-"),
    Fault::Streams(">/dev/full"),
    Fault::Streams(">/dev/full 2>/dev/full"),
    Fault::Signal("INT", Some(130)),
    Fault::Signal("HUP", Some(129)),
    Fault::Signal("USR1", Some(138)),
    Fault::Signal("USR2", Some(140)),
    Fault::Signal("XCPU", Some(152)),
    Fault::Signal("QUIT", None),
    Fault::Spoilt("checkpoints/last.state.safetensors", Spoil::Cut, false),
    Fault::Spoilt("checkpoints/last.state.safetensors", Spoil::Emptied, false),
    Fault::Spoilt("checkpoints/last.state.safetensors", Spoil::Removed, false),
    Fault::Spoilt("checkpoints/last.safetensors", Spoil::Cut, true),
    Fault::Spoilt("predictions.jsonl", Spoil::Cut, true),
    Fault::Spoilt("env.json", Spoil::Turned, true),
    Fault::Spoilt("report.html", Spoil::Emptied, true),
    Fault::Spoilt("summary.csv", Spoil::Removed, true),
    Fault::PackInUse(Spoil::Cut),
    Fault::PackInUse(Spoil::Removed),
    Fault::Clock(-400 * DAY),
    Fault::Clock(20_000 * DAY),
    // To 1970 and a bit, in the year this was written.
    Fault::Clock(-20_700 * DAY),
    Fault::Rewritten("predict --output sheet.png scenes/images/val", "sheet.png"),
    Fault::Rewritten("predict --submission guesses.txt --split val", "guesses.txt"),
    Fault::Rewritten("eval --confusion matrix.png", "matrix.png"),
    Fault::Rewritten("export --output model.onnx", "model.onnx"),
    Fault::ReadOnly,
    Fault::Full([2, 160]),
];

/// Seconds.
const DAY: i64 = 86_400;

/// What a campaign of faults came to.
#[derive(Default)]
pub struct Faults {
    /// Faults that happened to a run.
    pub tried: u32,
    /// What was lost, or happened in silence.
    pub faults: Vec<String>,
}

/// Lets `num_faults` faults happen to runs, and compares each, brought to its end, with one that nothing happened to.
pub fn campaign(num_faults: u32, seed: u64) -> Faults {
    let mut total = Faults::default();
    let kind = &KINDS[0];
    let reference = Reference::of(kind);
    for round in 0..num_faults {
        let fault = FAULTS[round as usize % FAULTS.len()];
        let mut random = Stream::new(seed, 1, round, Use::Shuffle);
        let program = Program::with_scenes();
        let outcome = happen(fault, &program, &mut random);
        let what = match outcome {
            Ok(true) => finish(&program, kind, &reference),
            Ok(false) => {
                println!("skipped, since it cannot be done here: {fault:?}");
                continue;
            }
            Err(what) => Some(what),
        };
        println!("{fault:?}: {}", what.as_deref().unwrap_or("as it should be"));
        total.tried += 1;
        total.faults.extend(what.map(|what| format!("{fault:?}: {what}")));
    }
    total
}

/// Begins a run that `fault` happens to; whether it could. The error is what went wrong.
fn happen(fault: Fault, program: &Program, random: &mut Stream) -> Result<bool, String> {
    let kind = &KINDS[0];
    let call = kind.call();
    match fault {
        Fault::Limit(what, [least, most]) => {
            let limit = least + random.below(most - least);
            ends_with_words(&mut shell(program, &format!("ulimit {what} {limit}"), &call, ""))
        }
        Fault::Streams(redirection) => {
            let output = shell(program, ":", &call, redirection).output().unwrap();
            ends_orderly(output.status, &texts(&output).1)
        }
        Fault::ReaderGone => {
            let mut child =
                program.command(&call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            for _ in 0..=random.below(8) {
                lines.next();
            }
            drop(lines);
            ends_orderly(child.wait().unwrap(), "nobody reads it")
        }
        Fault::Signal(name, code) => {
            let mut child =
                program.command(&call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            program.wait_for_steps(&mut child, 2 + random.below(4) as usize);
            signal(&child, name);
            let output = child.wait_with_output().unwrap();
            match code {
                Some(code) => failed(&output, &call, code, &["checkpoint written"]),
                None => assert!(output.status.signal().is_some(), "{}", output.status),
            }
            Ok(true)
        }
        Fault::Full([least, most]) => {
            let runs = program.path("runs");
            fs::create_dir(&runs).unwrap();
            let size = format!("size={}m", least + random.below(most - least));
            let mounted =
                Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&runs).output();
            if !mounted.is_ok_and(|output| output.status.success()) {
                return Ok(false);
            }
            let ended = ends_with_words(&mut program.command(&call));
            // The run goes on where there is room.
            let copied =
                Command::new("cp").arg("-a").arg(&runs).arg(program.path("with_room")).status().unwrap();
            assert!(copied.success() && Command::new("umount").arg(&runs).status().unwrap().success());
            fs::remove_dir(&runs).unwrap();
            fs::rename(program.path("with_room"), &runs).unwrap();
            ended
        }
        Fault::ReadOnly => {
            let run = begun(program, random);
            let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
            let mut command = program.command(&format!("train --resume {}", run.display()));
            let mut limited = Command::new("setpriv");
            limited.args(nobody).arg(command.get_program()).args(command.get_args());
            command = program.settle(limited);
            // Nobody else may reach the folder of the test without this.
            let open = Command::new("chmod").arg("755").arg(program.path(".")).status().unwrap();
            let output = command.output().unwrap();
            let (_, stderr) = texts(&output);
            if !open.success() || stderr.contains("setpriv") {
                return Ok(false);
            }
            if output.status.success() {
                return Err("wrote where it may not".into());
            }
            ends_orderly(output.status, &stderr)
        }
        Fault::Spoilt(name, spoil, goes_on) => {
            let run = begun(program, random);
            let path = program.path(&run).join(name);
            let whole = fs::read(&path).unwrap();
            spoil.apply(&path, random);
            if !goes_on {
                let call = next_call(program, kind);
                let output = program.command(&call).output().unwrap();
                let (_, stderr) = texts(&output);
                let file = path.file_name().unwrap().to_str().unwrap();
                if output.status.success() || !stderr.contains(file) {
                    return Err(format!("{} without a word of {file}: {stderr}", output.status));
                }
                fs::write(&path, whole).unwrap();
            }
            Ok(true)
        }
        Fault::Clock(seconds) => {
            let run = begun(program, random);
            let Some(clock) = wrong_clock(program, seconds) else { return Ok(false) };
            let mut command = program.command(&format!("train --resume {}", run.display()));
            ends_with_words(command.env("LD_PRELOAD", clock))
        }
        Fault::Rewritten(call, name) => {
            let run = begun(program, random);
            let (command, rest) = call.split_once(' ').unwrap();
            let call = format!("{command} --run {} {rest}", run.display());
            program.succeeds(&call);
            let whole = fs::read(program.path(name)).unwrap();
            for _ in 0..4 {
                let mut child =
                    program.command(&call).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
                // As soon as a file changes, and without a pause, which would be longer than the writing.
                let files = || {
                    let written =
                        [name, &format!("{name}.tmp")].map(|file| fs::metadata(program.path(file)).ok());
                    written.map(|file| file.map(|file| (file.ino(), file.len())))
                };
                let before = files();
                while files() == before && child.try_wait().unwrap().is_none() {}
                child.kill().unwrap();
                child.wait().unwrap();
                if fs::read(program.path(name)).unwrap() != whole {
                    return Err(format!("a kill left another {name}"));
                }
            }
            Ok(true)
        }
        Fault::PackInUse(spoil) => {
            let mut child =
                program.command(&call).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            program.wait_for_steps(&mut child, 1 + random.below(4) as usize);
            let packs = fs::read_dir(program.path("cache")).unwrap().map(|entry| entry.unwrap().path());
            packs
                .filter(|path| path.extension().is_some_and(|kind| kind == "pack"))
                .for_each(|path| spoil.apply(&path, random));
            let output = child.wait_with_output().unwrap();
            ends_orderly(output.status, &texts(&output).1)
        }
    }
}

/// A run of the first kind, stopped in its second epoch.
fn begun(program: &Program, random: &mut Stream) -> PathBuf {
    let mut child =
        program.command(&KINDS[0].call()).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    program.wait_for_steps(&mut child, 9 + random.below(4) as usize);
    signal(&child, "TERM");
    child.wait().unwrap();
    resumable(program).unwrap()
}

/// A library that puts the clock wrong for a program which loads it; `None` without a compiler.
fn wrong_clock(program: &Program, seconds: i64) -> Option<PathBuf> {
    let (source, library) = (program.path("clock.cpp"), program.path("clock.so"));
    let text = format!(
        "#include <sys/syscall.h>\n#include <time.h>\n#include <unistd.h>\n\
         extern \"C\" int clock_gettime(clockid_t clock, timespec* time) {{\n\
             const long failed = syscall(SYS_clock_gettime, clock, time);\n\
             if (failed == 0 && clock == CLOCK_REALTIME) time->tv_sec += {seconds};\n\
             return static_cast<int>(failed);\n}}\n"
    );
    fs::write(&source, text).unwrap();
    let mut compiler = Command::new("c++");
    let compiled = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
}

/// The program under a shell that does `prologue` first, with its streams as `redirection` says.
fn shell(program: &Program, prologue: &str, call: &str, redirection: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{prologue}; exec \"$0\" {call} {redirection}");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_residuum")]);
    program.settle(command)
}

fn ends_with_words(command: &mut Command) -> Result<bool, String> {
    let output = command.output().unwrap();
    let (_, stderr) = texts(&output);
    if !output.status.success() && stderr.trim().is_empty() {
        return Err(format!("{} without a word", output.status));
    }
    ends_orderly(output.status, &stderr)
}

/// Neither a panic nor an end that the system made.
fn ends_orderly(status: ExitStatus, stderr: &str) -> Result<bool, String> {
    match status.code() {
        Some(0..=99) => Ok(true),
        _ => Err(format!("{status}: {stderr}")),
    }
}
