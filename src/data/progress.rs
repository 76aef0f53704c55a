//! Progress of a long job on stderr: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::show::tell;

/// How often a log, which keeps every line, gets one.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Counts towards a known total, from any number of threads.
pub(super) struct Progress {
    what: String,
    bar: ProgressBar,
    next_line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Starts counting to `total`; `what` reads as in "decoding train images".
    pub(super) fn start(what: String, total: usize) -> Progress {
        let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {per_sec} {eta}");
        let bar = ProgressBar::new(total as u64)
            .with_style(style.expect("the template is valid"))
            .with_message(what.clone());
        let next_line = (!stderr().is_terminal()).then(|| Mutex::new(Instant::now() + LINE_INTERVAL));
        Progress { what, bar, next_line }
    }

    /// Counts `count` more as done.
    pub(super) fn add(&self, count: usize) {
        self.bar.inc(count as u64);
        // Whoever finds the lock taken leaves the line to its holder.
        if let Some(mut due) = self.next_line.as_ref().and_then(|due| due.try_lock().ok())
            && Instant::now() >= *due
        {
            tell(format_args!(
                "{}: {}/{}",
                self.what,
                self.bar.position(),
                self.bar.length().unwrap_or_default()
            ));
            *due = Instant::now() + LINE_INTERVAL;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
