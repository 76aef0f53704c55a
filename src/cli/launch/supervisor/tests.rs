//! Scripts of `sh` as ranks. They tell each other by files how far they are.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;

use signal_hook::low_level::raise;
use tempfile::TempDir;

use super::*;
use crate::dist::{Launcher, Rank};

/// Says to a child process in which folder it is to run the test.
const CHILD: &str = "RESIDUUM_TEST_LAUNCH";
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);
/// What a script begins with: `await FILE` waits until there is such a file. Scripts trap SIGTERM: a shell that was started with SIGINT
/// ignored, as a job in the background is, cannot trap that.
const PROLOGUE: &str = "await() { while [ ! -e $1 ]; do sleep 0.01; done; }\n";

/// Scripts as ranks of one machine, in a folder of their own.
struct Scripts {
    folder: TempDir,
    patience: Patience,
}

impl Scripts {
    fn new(failed: Duration, agreed: Duration) -> Scripts {
        Scripts { folder: TempDir::new().unwrap(), patience: Patience { failed, agreed, output: SHORT } }
    }

    /// The code that `scripts` end with, while signals come when there are files of these names.
    fn end<const N: usize>(&self, scripts: [&str; N], signals: &[(i32, &str)]) -> i32 {
        let ranks = start(self.folder.path(), self.patience, &scripts);
        let sender = ranks.sender.clone();
        thread::scope(|scope| {
            scope.spawn(move || {
                for &(signal, file) in signals {
                    wait_for(&self.folder.path().join(file));
                    sender.send(Event::Signal(signal)).unwrap();
                }
            });
            ranks.wait().unwrap()
        })
    }

    fn has(&self, file: &str) -> bool {
        self.folder.path().join(file).exists()
    }
}

fn start(folder: &Path, patience: Patience, scripts: &[&str]) -> Supervisor {
    let mut ranks = Supervisor::new(patience);
    for (index, script) in scripts.iter().enumerate() {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{PROLOGUE}{script}")]).current_dir(folder);
        ranks.start(&world(index, scripts.len()), command).unwrap();
    }
    ranks
}

fn world(index: usize, count: usize) -> World {
    let rank = Rank { index, count };
    World { launcher: Launcher::Torchrun, rank, local: rank }
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "{what}: not in {LONG:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn wait_for(file: &Path) {
    wait_until(&file.display().to_string(), || file.exists());
}

/// Runs the test `name` once more in a process of its own, in `folder`.
fn in_child(name: &str, folder: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("cli::launch::supervisor::tests::{name}"), "--nocapture"])
        .env(CHILD, folder)
        .output()
        .unwrap()
}

#[test]
fn ranks_that_succeed_end_with_0_in_any_order() {
    let scripts = Scripts::new(Duration::ZERO, LONG);
    assert_eq!(scripts.end(["await later", "exit 0", "sleep 0.3; touch later"], &[]), 0);
}

#[test]
fn the_code_is_that_of_the_rank_that_failed_first_and_the_others_are_terminated() {
    let scripts = Scripts::new(LONG, LONG);
    let others = "trap 'touch told; exit 9' TERM; touch ready; await never";
    assert_eq!(scripts.end([others, "await ready; exit 3", "await never"], &[]), 3);
    assert!(scripts.has("told"));
}

#[test]
fn a_rank_that_a_signal_killed_has_128_and_its_number() {
    let scripts = Scripts::new(LONG, LONG);
    assert_eq!(scripts.end(["await never", "kill -s KILL $$"], &[]), 137);
    let killed = ExitStatus::from_raw(9);
    assert_eq!((code_of(killed), describe(killed).as_str()), (137, "was killed by signal 9 (SIGKILL)"));
    let failed = ExitStatus::from_raw(5 << 8);
    assert_eq!((code_of(failed), describe(failed).as_str()), (5, "ended with exit code 5"));
}

#[test]
fn a_rank_that_does_not_end_after_another_failed_is_killed() {
    let scripts = Scripts::new(SHORT, LONG);
    let deaf = "trap '' TERM; touch ready; await never";
    assert_eq!(scripts.end([deaf, "await ready; exit 6"], &[]), 6);
}

#[test]
fn a_rank_that_does_not_end_after_another_is_done_is_killed_and_has_failed() {
    let scripts = Scripts::new(LONG, SHORT);
    assert_eq!(scripts.end(["exit 0", "await never"], &[]), 137);
}

#[test]
fn after_a_signal_that_was_passed_on_ranks_have_time_to_write() {
    let scripts = Scripts::new(Duration::ZERO, LONG);
    let writer = "trap 'touch seen; sleep 0.3; touch written; exit 143' TERM; touch ready; await never";
    let other = "trap 'await seen; exit 143' TERM; await ready; touch all; await never";
    assert_eq!(scripts.end([writer, other], &[(SIGTERM, "all")]), 143);
    assert!(scripts.has("written"));
}

#[test]
fn every_signal_is_passed_on_once() {
    let scripts = Scripts::new(Duration::ZERO, LONG);
    let counts = "n=0; trap 'n=$((n + 1)); touch usr$n' USR1; trap 'exit $((143 + n - 2))' TERM; touch ready; await never";
    assert_eq!(scripts.end([counts], &[(SIGUSR1, "ready"), (SIGUSR1, "usr1"), (SIGTERM, "usr2")]), 143);
}

#[test]
fn a_failure_after_a_request_for_a_checkpoint_ends_the_others() {
    let scripts = Scripts::new(SHORT, LONG);
    let writer = "trap 'touch asked' USR1; trap '' TERM; touch ready; await never";
    let other = "trap '' USR1; await ready; touch all; await asked; exit 8";
    assert_eq!(scripts.end([writer, other], &[(SIGUSR1, "all")]), 8);
    // A run that SIGUSR1 ends does so in agreement.
    let scripts = Scripts::new(Duration::ZERO, LONG);
    let writer = "trap 'touch seen; sleep 0.3; touch written; exit 138' USR1; touch ready; await never";
    let other = "trap 'await seen; exit 138' USR1; await ready; touch all; await never";
    assert_eq!(scripts.end([writer, other], &[(SIGUSR1, "all")]), 138);
    assert!(scripts.has("written"));
}

#[test]
fn a_rank_that_cannot_be_started_is_named_and_the_others_are_ended() {
    let folder = TempDir::new().unwrap();
    let mut ranks = start(folder.path(), Patience::default(), &["touch ready; await never"]);
    wait_for(&folder.path().join("ready"));
    let pid = ranks.living().next().unwrap().pid();
    let error = ranks.start(&world(1, 3), Command::new("no-such-program")).unwrap_err().to_string();
    assert!(error.contains("cannot start no-such-program as rank 2 of 3"), "{error}");
    drop(ranks);
    // SAFETY: kill touches no memory, and signal 0 has no effect.
    assert_eq!(unsafe { libc::kill(pid, 0) }, -1, "{pid} lives");
}

#[test]
fn a_signal_to_the_launcher_is_one_to_every_rank() {
    let Some(folder) = std::env::var_os(CHILD) else {
        let folder = TempDir::new().unwrap();
        let output = in_child("a_signal_to_the_launcher_is_one_to_every_rank", folder.path());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let scripts = [
        "trap 'touch first; exit 143' TERM; touch ready; await never",
        "trap 'touch second; exit 143' TERM; await ready; touch all; await never",
    ];
    let folder = Path::new(&folder);
    let ranks = start(folder, Patience::default(), &scripts);
    ranks.pass_on_signals().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(&folder.join("all"));
            raise(SIGTERM).unwrap();
        });
        assert_eq!(ranks.wait().unwrap(), 143);
    });
    assert!(folder.join("first").exists() && folder.join("second").exists());
}

#[test]
fn what_other_ranks_say_begins_with_their_number() {
    let Some(folder) = std::env::var_os(CHILD) else {
        let folder = TempDir::new().unwrap();
        let output = in_child("what_other_ranks_say_begins_with_their_number", folder.path());
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{errors}");
        assert!(said.contains("\nfirst\n") && !said.contains("second"), "{said}");
        for line in ["first's error", "[2] second", "[2] second's error", "[3] without an end"] {
            assert!(errors.lines().any(|said| said == line), "no `{line}` in:\n{errors}");
        }
        return;
    };
    let scripts = [
        "echo; echo first; echo \"first's error\" >&2",
        "printf sec; sleep 0.1; echo ond; echo \"second's error\" >&2",
        "printf 'without an end'",
    ];
    let patience = Patience { output: LONG, ..Patience::default() };
    assert_eq!(start(folder.as_ref(), patience, &scripts).wait().unwrap(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn ranks_end_with_a_launcher_that_is_gone() {
    let Some(folder) = std::env::var_os(CHILD) else {
        let folder = TempDir::new().unwrap();
        in_child("ranks_end_with_a_launcher_that_is_gone", folder.path());
        let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
        wait_until("its end", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        });
        return;
    };
    let ranks = start(folder.as_ref(), Patience::default(), &["exec sleep 60"]);
    fs::write(Path::new(&folder).join("pid"), ranks.living().next().unwrap().pid().to_string()).unwrap();
    // Nothing is dropped.
    std::process::exit(0);
}
