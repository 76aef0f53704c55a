//! Ctrl-C and termination: the first asks the run to stop after a checkpoint, the second ends the process at
//! once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// Handlers of SIGINT and SIGTERM, installed for as long as this lives.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    handlers: Vec<SigId>,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// [`Error::Io`] if the operating system refuses.
    pub fn install() -> Result<Signals> {
        let mut signals = Signals { received: Arc::default(), handlers: Vec::new() };
        let impatient = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signals
                .register(signal, &impatient)
                .map_err(Error::io("install a handler of", format!("signal {signal}")))?;
        }
        Ok(signals)
    }

    /// Handlers run in the order of registration: the one that exits must see the flag before it is raised.
    fn register(&mut self, signal: i32, impatient: &Arc<AtomicBool>) -> std::io::Result<()> {
        use signal_hook::flag;
        self.handlers.push(flag::register_conditional_shutdown(signal, 128 + signal, impatient.clone())?);
        self.handlers.push(flag::register(signal, impatient.clone())?);
        self.handlers.push(flag::register_usize(signal, self.received.clone(), signal as usize)?);
        Ok(())
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
        for signal in [SIGINT, SIGTERM] {
            let signals = Signals::install().unwrap();
            assert_eq!(signals.received(), None);
            raise(signal).unwrap();
            assert_eq!(signals.received(), Some(signal));
        }
    }

    #[test]
    fn the_second_signal_ends_the_process() {
        if std::env::var_os(CHILD).is_none() {
            assert_eq!(in_child("the_second_signal_ends_the_process").code(), Some(130));
            return;
        }
        let _signals = Signals::install().unwrap();
        raise(SIGTERM).unwrap();
        raise(SIGINT).unwrap();
        unreachable!("the second signal ends the process");
    }
}
