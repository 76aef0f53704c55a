//! Ends of a process whose ranks do not come.

use std::fmt::Display;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::error::Error;
use crate::show::tell_error;

/// Ends this process after `timeout`, unless what this returns is dropped before: a library that joins ranks waits without a
/// deadline for one that does not begin.
pub(super) fn end_without_them(timeout: Duration) -> Sender<()> {
    let (begun, others) = mpsc::channel();
    thread::spawn(move || {
        if others.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            leave(tell_of_waiting("a rank", timeout, "the beginning"));
        }
    });
    begun
}

/// Says that `who` has waited in vain; the exit code for that.
pub(super) fn tell_of_waiting(who: impl Display, timeout: Duration, place: &str) -> u8 {
    let error = Error::Peer(format!(
        "{who} waited {} s for the others in {place}: one of them has left, hangs or is slower than that (--dist-timeout)",
        timeout.as_secs_f64()
    ));
    tell_error(format_args!("error: {error}"));
    error.exit_code()
}

/// Ends this process without a word to anything in it: whoever cleaned up might wait for a rank that is gone.
pub(super) fn leave(code: u8) -> ! {
    // SAFETY: it takes any code, and nothing of this process is used any more.
    unsafe { libc::_exit(code.into()) }
}
