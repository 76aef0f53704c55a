//! The ranks of a machine from their start to their end: signals are passed on, and none is left behind when one fails.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGKILL, SIGTERM, SIGUSR1};
use signal_hook::low_level::signal_name;

use super::process::Process;
use crate::dist::World;
use crate::error::Result;
use crate::show::tell_error;
use crate::train::signal;

/// What a launcher waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The launcher got this signal.
    Signal(i32),
    /// The process that was started as this one, from 0, has ended.
    Ended(usize),
}

/// How long the other ranks may take to end before they are killed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// After one has failed.
    failed: Duration,
    /// After one has ended as it should, or when it was told to: the others are doing the same, and the first of them may be
    /// writing its last files. torchrun waits as long.
    agreed: Duration,
    /// For what is left of the output of ranks that have all ended. What they started may hold it open.
    output: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        let seconds = Duration::from_secs;
        Patience { failed: seconds(2), agreed: seconds(30), output: seconds(1) }
    }
}

/// The ranks of a machine. Those that live when it is dropped are killed.
#[derive(Debug)]
pub(super) struct Supervisor {
    patience: Patience,
    /// In the order in which they were started, those that have not ended.
    processes: Vec<Option<Process>>,
    /// Signals that they were sent.
    sent: Vec<i32>,
    stage: Stage,
    /// What the launcher ends with: the code of the first rank that failed.
    code: i32,
    sender: Sender<Event>,
    events: Receiver<Event>,
    /// Is disconnected when no more output comes.
    output: (Sender<()>, Receiver<()>),
}

/// How far the ranks are.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// All of them live.
    Running,
    /// One has ended; those that still live at this time are killed.
    Ending(Instant),
    /// They have been killed.
    Killed,
}

impl Supervisor {
    /// Has no ranks yet.
    pub(super) fn new(patience: Patience) -> Supervisor {
        let (processes, sent) = (Vec::new(), Vec::new());
        let (sender, events) = mpsc::channel();
        let output = mpsc::channel();
        Supervisor { patience, processes, sent, stage: Stage::Running, code: 0, sender, events, output }
    }

    /// Passes on to the ranks, while it waits for them, what signals this process gets from here on.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if the operating system refuses.
    pub(super) fn pass_on_signals(&self) -> Result<()> {
        let sender = self.sender.clone();
        signal::hear(move |signal| {
            // Nobody listens once all ranks have ended.
            let _ = sender.send(Event::Signal(signal));
        })
    }

    /// Starts `command` as the rank that `world` says. The thread that calls this must live as long as the rank is to.
    ///
    /// # Errors
    /// [`crate::Error::Io`] naming the rank.
    pub(super) fn start(&mut self, world: &World, command: Command) -> Result<()> {
        let (sender, index) = (self.sender.clone(), self.processes.len());
        let ended = move || {
            // Nobody listens where the launcher has given up.
            let _ = sender.send(Event::Ended(index));
        };
        self.processes.push(Some(Process::start(world, command, ended, &self.output.0)?));
        Ok(())
    }

    /// Waits until all ranks have ended. Returns the code that the launcher is to end with: 0, or that of the rank that failed
    /// first, which is 128 + N where signal N killed it.
    ///
    /// # Errors
    /// [`crate::Error::Io`] naming a rank that cannot be waited for.
    pub(super) fn wait(mut self) -> Result<i32> {
        while self.living().next().is_some() {
            let timeout = match self.stage {
                Stage::Ending(kill_at) => kill_at.saturating_duration_since(Instant::now()),
                Stage::Running | Stage::Killed => Duration::MAX,
            };
            match self.events.recv_timeout(timeout) {
                Ok(Event::Signal(signal)) => self.send(signal),
                Ok(Event::Ended(index)) => self.note_end(index)?,
                Err(RecvTimeoutError::Timeout) => self.kill(),
                Err(RecvTimeoutError::Disconnected) => unreachable!("this holds a sender"),
            }
        }
        let (sender, receiver) = std::mem::replace(&mut self.output, mpsc::channel());
        drop(sender);
        // Nothing is sent: it ends when all readers have, or when they are not waited for any longer.
        let _ = receiver.recv_timeout(self.patience.output);
        Ok(self.code)
    }

    fn living(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().flatten()
    }

    fn send(&mut self, signal: i32) {
        self.living().for_each(|process| process.signal(signal));
        self.sent.push(signal);
    }

    /// Has the other ranks end, too, if they do not by themselves.
    fn note_end(&mut self, index: usize) -> Result<()> {
        let process = self.processes[index].take().expect("a process ends once");
        let rank = process.rank();
        let status = process.wait()?;
        let patience = match code_of(status) {
            0 => self.patience.agreed,
            code => {
                let was_told_to = self.sent.contains(&(code - 128));
                if self.code == 0 {
                    self.code = code;
                    if !was_told_to {
                        tell_error(format_args!("rank {rank} {}", describe(status)));
                    }
                }
                // SIGUSR1 may have asked for a checkpoint alone.
                if was_told_to || self.sent.iter().any(|&signal| signal != SIGUSR1) {
                    self.patience.agreed
                } else {
                    // The others cannot go on without it: they would wait for it in the next exchange. They need no long time,
                    // even within a checkpoint, because that is renamed into place and the one before it is whole until then.
                    self.send(SIGTERM);
                    self.patience.failed
                }
            }
        };
        let kill_at = Instant::now() + patience;
        self.stage = match self.stage {
            Stage::Running => Stage::Ending(kill_at),
            Stage::Ending(earlier) => Stage::Ending(earlier.min(kill_at)),
            Stage::Killed => Stage::Killed,
        };
        Ok(())
    }

    /// Kills the ranks that are left.
    fn kill(&mut self) {
        let ranks: Vec<String> = self.living().map(|process| format!("rank {}", process.rank())).collect();
        tell_error(format_args!("killed, because it did not end: {}", ranks.join(", ")));
        self.send(SIGKILL);
        self.stage = Stage::Killed;
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.processes.drain(..).flatten().for_each(Process::end);
    }
}

/// As a shell counts: 128 + N for a process that signal N killed.
fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// As in `ended with exit code 1`.
fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = signal_name(signal).map_or_else(String::new, |name| format!(" ({name})"));
            format!("was killed by signal {signal}{name}")
        }
        None => format!("ended with exit code {}", code_of(status)),
    }
}

#[cfg(test)]
mod tests;
