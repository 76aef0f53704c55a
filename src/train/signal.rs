//! Signals that ask a run to stop after a checkpoint. A second Ctrl-C or termination ends the process at once; what a
//! scheduler or a lost terminal announces may come any number of times.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ};

use crate::error::{Error, Result};

/// From a terminal that is gone, and from schedulers before a job's time is over. SIGXCPU comes once a second.
const NOTICES: [i32; 4] = [SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];

/// Makes a write beyond the process's limit for the size of files fail, with words, where SIGXFSZ would end the process
/// without.
///
/// # Errors
/// [`Error::Io`] if the operating system refuses.
pub fn report_files_too_large() -> Result<()> {
    let seen = Arc::new(AtomicBool::new(false));
    let register = signal_hook::flag::register(SIGXFSZ, seen);
    register.map(drop).map_err(Error::io("install a handler of", "SIGXFSZ"))
}

/// Whether whoever started this process has it ignore `signal`, as `nohup` does with SIGHUP; known on Linux alone.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Calls `take`, on a thread of its own and for as long as the process lives, with each signal that a run hears.
///
/// # Errors
/// [`Error::Io`] if the operating system refuses.
pub fn hear(take: impl FnMut(i32) + Send + 'static) -> Result<()> {
    let refused = |error| Error::io("install handlers of", "signals")(error);
    let mut signals = signal_hook::iterator::Signals::new(heard()).map_err(refused)?;
    let thread =
        thread::Builder::new().name("signals".into()).spawn(move || signals.forever().for_each(take));
    thread.map(drop).map_err(refused)
}

/// What a run does about SIGUSR1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUsr1 {
    /// It ends, as after any other notice.
    End,
    /// It writes a checkpoint and goes on.
    GoOn,
}

impl OnUsr1 {
    /// As `--checkpoint-on-usr1` says.
    pub fn of(checkpoint_on_usr1: bool) -> OnUsr1 {
        if checkpoint_on_usr1 { OnUsr1::GoOn } else { OnUsr1::End }
    }
}

/// The notices that whoever started this process wants heard.
fn notices() -> impl Iterator<Item = i32> {
    NOTICES.into_iter().filter(|&signal| !is_ignored(signal))
}

/// All signals that a run hears.
fn heard() -> impl Iterator<Item = i32> {
    [SIGINT, SIGTERM].into_iter().chain(notices())
}

/// Whether no [`Signals`] lives, so that a signal ends the process as if there had never been any: a handler that was taken
/// out again leaves its signal without effect.
static IDLE: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static NUM_LIVING: AtomicUsize = AtomicUsize::new(0);

/// Has signals end the process while [`IDLE`] is set; once for the process.
fn end_while_idle() -> std::io::Result<()> {
    static REGISTERED: Mutex<bool> = Mutex::new(false);
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*registered {
        for signal in heard() {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&IDLE))?;
        }
        *registered = true;
    }
    Ok(())
}

/// Handlers of the signals that stop a run, installed for as long as this lives.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    checkpoint_asked: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// [`Error::Io`] if the operating system refuses.
    pub fn install(on_usr1: OnUsr1) -> Result<Signals> {
        end_while_idle().map_err(Error::io("install handlers of", "signals"))?;
        NUM_LIVING.fetch_add(1, Ordering::SeqCst);
        IDLE.store(false, Ordering::SeqCst);
        let mut signals =
            Signals { received: Arc::default(), checkpoint_asked: Arc::default(), handlers: Vec::new() };
        let impatient = Arc::new(AtomicBool::new(false));
        let refused = |signal| Error::io("install a handler of", format!("signal {signal}"));
        for signal in [SIGINT, SIGTERM] {
            signals.register_impatient(signal, &impatient).map_err(refused(signal))?;
        }
        for signal in notices() {
            if (signal, on_usr1) == (SIGUSR1, OnUsr1::GoOn) {
                let asked = signals.checkpoint_asked.clone();
                let handler = signal_hook::flag::register(signal, asked).map_err(refused(signal))?;
                signals.handlers.push(handler);
            } else {
                signals.register(signal).map_err(refused(signal))?;
            }
        }
        Ok(signals)
    }

    fn register(&mut self, signal: i32) -> std::io::Result<()> {
        let register = signal_hook::flag::register_usize(signal, self.received.clone(), signal as usize);
        self.handlers.push(register?);
        Ok(())
    }

    /// Handlers run in the order of registration: the one that exits must see the flag before it is raised.
    fn register_impatient(&mut self, signal: i32, impatient: &Arc<AtomicBool>) -> std::io::Result<()> {
        use signal_hook::flag;
        self.handlers.push(flag::register_conditional_shutdown(signal, 128 + signal, impatient.clone())?);
        self.handlers.push(flag::register(signal, impatient.clone())?);
        self.register(signal)
    }

    /// Whether a checkpoint was asked for since the last call.
    pub fn take_checkpoint_request(&self) -> bool {
        self.checkpoint_asked.swap(false, Ordering::Relaxed)
    }

    /// The signal that asked the run to stop, if one did.
    pub fn received(&self) -> Option<i32> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
        if NUM_LIVING.fetch_sub(1, Ordering::SeqCst) == 1 {
            IDLE.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::{Command, ExitStatus};

    use signal_hook::low_level::raise;

    use super::*;

    /// Says to a child process which of the cases below it is.
    const CHILD: &str = "RESIDUUM_TEST_SIGNAL";

    /// Runs the test `name` once more in a process of its own: handlers belong to the whole process.
    fn in_child(name: &str) -> ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("train::signal::tests::{name}"), "--nocapture"])
            .env(CHILD, name)
            .output()
            .unwrap()
            .status
    }

    #[test]
    fn the_first_signal_is_reported_and_the_process_lives() {
        if std::env::var_os(CHILD).is_none() {
            assert!(in_child("the_first_signal_is_reported_and_the_process_lives").success());
            return;
        }
        for signal in heard() {
            let signals = Signals::install(OnUsr1::End).unwrap();
            assert_eq!(signals.received(), None);
            raise(signal).unwrap();
            assert_eq!(signals.received(), Some(signal));
        }
    }

    #[test]
    fn each_signal_is_handed_on() {
        if std::env::var_os(CHILD).is_none() {
            assert!(in_child("each_signal_is_handed_on").success());
            return;
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        hear(move |signal| sender.send(signal).unwrap()).unwrap();
        for signal in heard().chain([SIGTERM]) {
            raise(signal).unwrap();
            assert_eq!(receiver.recv(), Ok(signal));
        }
    }

    #[test]
    fn notices_may_come_again_and_count_as_no_first_request() {
        if std::env::var_os(CHILD).is_none() {
            assert!(in_child("notices_may_come_again_and_count_as_no_first_request").success());
            return;
        }
        let signals = Signals::install(OnUsr1::End).unwrap();
        for signal in notices().chain(notices()).chain([SIGTERM]) {
            raise(signal).unwrap();
            assert_eq!(signals.received(), Some(signal));
        }
    }

    #[test]
    fn between_runs_a_signal_ends_the_process() {
        use std::os::unix::process::ExitStatusExt;
        if std::env::var_os(CHILD).is_none() {
            assert_eq!(in_child("between_runs_a_signal_ends_the_process").signal(), Some(SIGTERM));
            return;
        }
        let both = [Signals::install(OnUsr1::End).unwrap(), Signals::install(OnUsr1::End).unwrap()];
        drop(both);
        let again = Signals::install(OnUsr1::End).unwrap();
        // Not SIGHUP, which nohup has ignored.
        raise(SIGTERM).unwrap();
        assert_eq!(again.received(), Some(SIGTERM), "a run after another hears signals");
        drop(again);
        raise(SIGTERM).unwrap();
        unreachable!("nobody is there to hear it");
    }

    #[test]
    fn the_second_signal_ends_the_process() {
        if std::env::var_os(CHILD).is_none() {
            assert_eq!(in_child("the_second_signal_ends_the_process").code(), Some(130));
            return;
        }
        let _signals = Signals::install(OnUsr1::End).unwrap();
        raise(SIGTERM).unwrap();
        raise(SIGINT).unwrap();
        unreachable!("the second signal ends the process");
    }
}
