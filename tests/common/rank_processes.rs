//! The processes of a run over several, as the system lists them.

use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// The processes that `launcher` has started, in the order of the ranks that `variable` numbers.
pub fn rank_processes(launcher: &Child, variable: &str) -> Vec<u32> {
    let children = format!("/proc/{0}/task/{0}/children", launcher.id());
    let mut ranks: Vec<(u32, u32)> = fs::read_to_string(children)
        .unwrap()
        .split_whitespace()
        .filter_map(|pid| {
            let environment = fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
            let rank =
                environment.split('\0').find_map(|line| line.strip_prefix(variable)?.strip_prefix('='))?;
            Some((rank.parse().unwrap(), pid.parse().unwrap()))
        })
        .collect();
    ranks.sort_unstable();
    ranks.into_iter().map(|(_, pid)| pid).collect()
}

/// Sends the signal called `name` to process `pid`.
pub fn send(name: &str, pid: u32) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

/// What `launcher` prints by its end. It and its ranks are gone within `soon` of this call.
#[track_caller]
pub fn all_end(launcher: Child, ranks: &[u32], soon: Duration) -> Output {
    let began = Instant::now();
    let output = launcher.wait_with_output().unwrap();
    assert!(began.elapsed() < soon, "the launcher ended after {:?}", began.elapsed());
    // A launcher need not wait until those that it has killed are gone.
    for rank in ranks {
        while Path::new(&format!("/proc/{rank}")).exists() {
            assert!(began.elapsed() < soon, "process {rank} is still there");
            thread::sleep(Duration::from_millis(20));
        }
    }
    output
}
