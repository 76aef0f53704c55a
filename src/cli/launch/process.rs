//! One rank as a process: how it is started, told signals and waited for, and where its lines go.

use std::io::{self, BufRead, BufReader, Read};
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use crate::dist::{Rank, World};
use crate::error::{Error, Result};
use crate::show::tell_error;

/// A rank that has been started and not been waited for: the leader of a process group of its own, so that Ctrl-C reaches the
/// launcher alone.
#[derive(Debug)]
pub(super) struct Process {
    rank: Rank,
    child: Child,
}

impl Process {
    /// Starts `command` as the rank that `world` says. The first of the machine writes where the launcher does, the lines of
    /// the others go to stderr with the number of their rank. `ended` is called, on another thread, when the process has ended.
    /// What is read of its output keeps `reads` until there is no more.
    ///
    /// # Errors
    /// [`Error::Io`] naming the rank.
    pub(super) fn start(
        world: &World,
        mut command: Command,
        ended: impl FnOnce() + Send + 'static,
        reads: &Sender<()>,
    ) -> Result<Process> {
        let rank = world.rank;
        let program = command.get_program().display().to_string();
        let refused = || Error::io("start", format!("{program} as rank {rank}"));
        command.stdin(Stdio::null()).process_group(0);
        if world.local.index > 0 {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        end_with_launcher(&mut command);
        let mut process = Process { rank, child: command.spawn().map_err(refused())? };
        let output = process.child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
        let errors = process.child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
        let pid = process.pid();
        let watched = [output, errors].into_iter().flatten().try_for_each(|pipe| {
            let reads = reads.clone();
            spawn(move || {
                for_each_line(pipe, |line| tell_error(format_args!("{}{line}", prefix(rank))));
                drop(reads);
            })
        });
        let watched = watched.and_then(|()| {
            spawn(move || {
                wait_until_ended(pid);
                ended();
            })
        });
        match watched {
            Ok(()) => Ok(process),
            Err(error) => {
                process.end();
                Err(refused()(error))
            }
        }
    }

    /// Which rank it is.
    pub(super) fn rank(&self) -> Rank {
        self.rank
    }

    /// Its number to the operating system, and that of its group.
    pub(super) fn pid(&self) -> libc::pid_t {
        self.child.id() as libc::pid_t
    }

    /// Sends `signal` to the process and to what it has started, as a terminal does.
    pub(super) fn signal(&self, signal: i32) {
        // SAFETY: kill touches no memory. The number is that of a process which has not been waited for, so no other has it. It
        // fails where all of the group have ended, and then there is nothing to do.
        unsafe { libc::kill(-self.pid(), signal) };
    }

    /// How the process has ended; waits until it has.
    ///
    /// # Errors
    /// [`Error::Io`] naming the rank.
    pub(super) fn wait(mut self) -> Result<ExitStatus> {
        self.child.wait().map_err(Error::io("wait for", format!("rank {}", self.rank)))
    }

    /// Ends the process at once.
    pub(super) fn end(self) {
        self.signal(libc::SIGKILL);
        // The launcher gives up, for a reason that is told.
        let _ = self.wait();
    }
}

/// What lines of a rank begin with.
fn prefix(rank: Rank) -> String {
    // Counted as in messages, from 1.
    format!("[{}] ", rank.index + 1)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("launch".into()).spawn(work).map(drop)
}

/// Calls `take` with each whole line of `source`, and with what follows the last.
fn for_each_line(source: impl Read, mut take: impl FnMut(&str)) {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    // A pipe that cannot be read has no more to say.
    while source.read_until(b'\n', &mut line).is_ok_and(|num_bytes| num_bytes > 0) {
        let text = String::from_utf8_lossy(&line);
        take(text.strip_suffix('\n').unwrap_or(&text));
        line.clear();
    }
}

/// Waits until the child `pid` has ended, and leaves it to be waited for once more: until then no other process has its number,
/// and a signal reaches nobody else.
fn wait_until_ended(pid: libc::pid_t) {
    loop {
        let mut info = MaybeUninit::uninit();
        // SAFETY: waitid writes to `info`, which is of its type and outlives the call, and nothing reads it.
        let code = unsafe {
            libc::waitid(libc::P_PID, pid.unsigned_abs(), info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT)
        };
        // Another failure means that there is no such child any more.
        if code == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// Has the process that `command` starts killed when the launcher dies, even by SIGKILL: nobody would end the ranks. The kernel
/// counts the thread that starts it as its parent.
#[cfg(target_os = "linux")]
fn end_with_launcher(command: &mut Command) {
    let launcher = std::process::id() as libc::pid_t;
    let ask = move || {
        // SAFETY: neither call touches memory.
        let (code, parent) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong), libc::getppid()) };
        if code == -1 {
            return Err(io::Error::last_os_error());
        }
        // It died before the kernel was asked.
        if parent != launcher {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec `ask` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Leaves `command` as it is: only Linux ends a process with its parent.
#[cfg(not(target_os = "linux"))]
fn end_with_launcher(_: &mut Command) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let parts: [&[u8]; 4] = [b"one\ntw", b"o\n\nthr", b"ee \xff\r", b"\nfour"];
        let source = parts
            .into_iter()
            .fold(Box::new(io::empty()) as Box<dyn Read>, |all, part| Box::new(all.chain(part)));
        let mut lines = Vec::new();
        for_each_line(source, |line| lines.push(line.to_string()));
        assert_eq!(lines, ["one", "two", "", "three \u{fffd}\r", "four"]);
        assert_eq!(prefix(Rank { index: 3, count: 8 }), "[4] ");
    }
}
