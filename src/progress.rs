//! How the program shows that it is at work, always on stderr: bars on a terminal, a line per interval elsewhere.
//!
//! Bars stand below each other, and what is said meanwhile goes above them ([`aside`]).

use std::io::{IsTerminal, stderr};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

#[cfg(feature = "fetch")]
use crate::show::show_bytes;
use crate::show::tell;

/// A job that is done sooner has no bar.
const BAR_AFTER: Duration = Duration::from_secs(2);
/// How often a log, which keeps every line, gets one.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const TEMPLATE: &str = "{msg} [{wide_bar}] {pos}/{len} {per_sec} {eta}";
/// That of a job which counts bytes, and of one whose end is not known.
#[cfg(feature = "fetch")]
const BYTES: &str = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
#[cfg(feature = "fetch")]
const BYTES_WITHOUT_END: &str = "{msg} {binary_bytes} {binary_bytes_per_sec}";

/// The bars on the terminal; `None` where stderr is none.
static BARS: LazyLock<Option<MultiProgress>> =
    LazyLock::new(|| stderr().is_terminal().then(MultiProgress::new));

/// A bar of `total` on the terminal, in indicatif's `template`; `None` where stderr is no terminal.
///
/// # Panics
/// If the template is not well-formed.
pub(crate) fn bar(template: &str, total: u64) -> Option<ProgressBar> {
    let bars = BARS.as_ref()?;
    Some(bars.add(hidden_bar(template, total)))
}

/// A bar that counts and measures, and is not shown yet.
fn hidden_bar(template: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_style(style)
}

/// Writes to the terminal while the bars are out of the way.
pub(crate) fn aside<R>(write: impl FnOnce() -> R) -> R {
    match BARS.as_ref() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Progress of a job towards a known total, counted from any number of threads; shown if it takes long.
pub(crate) struct Progress {
    what: String,
    bar: ProgressBar,
    unit: Unit,
    shown: Mutex<Shown>,
}

/// What a job counts.
#[derive(Clone, Copy)]
enum Unit {
    Things,
    #[cfg(feature = "fetch")]
    Bytes,
}

/// What is to be seen of a job.
struct Shown {
    /// When a bar that is not shown yet will be, or when the next line comes.
    due: Instant,
    has_bar: bool,
}

impl Progress {
    /// Starts counting to `total`; `what` reads as in "decoding train images".
    pub(crate) fn start(what: impl Into<String>, total: usize) -> Progress {
        Progress::with(what.into(), TEMPLATE, total as u64, Unit::Things)
    }

    /// Starts counting bytes, to `total` where that is known.
    #[cfg(feature = "fetch")]
    pub(crate) fn of_bytes(what: impl Into<String>, total: Option<u64>) -> Progress {
        let template = if total.is_some() { BYTES } else { BYTES_WITHOUT_END };
        Progress::with(what.into(), template, total.unwrap_or(0), Unit::Bytes)
    }

    fn with(what: String, template: &str, total: u64, unit: Unit) -> Progress {
        let due = Instant::now() + if BARS.is_some() { BAR_AFTER } else { LINE_INTERVAL };
        // From the start, for its speed is that of the whole job.
        let bar = hidden_bar(template, total).with_message(what.clone());
        Progress { what, bar, unit, shown: Mutex::new(Shown { due, has_bar: false }) }
    }

    /// Counts `count` more as done.
    pub(crate) fn add(&self, count: usize) {
        self.bar.inc(count as u64);
        // Whoever finds the lock taken leaves it to its holder to show something.
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if !shown.is_due(Instant::now()) {
            return;
        }
        match BARS.as_ref() {
            Some(bars) => {
                bars.add(self.bar.clone());
                shown.has_bar = true;
            }
            None => tell(self.line()),
        }
    }

    fn line(&self) -> String {
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        match self.unit {
            Unit::Things => format!("{}: {done}/{total}", self.what),
            #[cfg(feature = "fetch")]
            Unit::Bytes => {
                let of =
                    if total > 0 { format!(" of {}", show_bytes(total as usize)) } else { String::new() };
                format!("{}: {}{of}", self.what, show_bytes(done as usize))
            }
        }
    }
}

impl Shown {
    /// Whether something is to be shown now; if so, the next time is set.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.due && !self.has_bar;
        if is_due {
            self.due = now + LINE_INTERVAL;
        }
        is_due
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_a_line_per_interval() {
        let progress = Progress::start("decoding train images", 20);
        progress.add(7);
        assert_eq!(progress.line(), "decoding train images: 7/20");
        let mut shown = progress.shown.lock().unwrap();
        let first = shown.due;
        assert!(!shown.is_due(first - Duration::from_millis(1)));
        assert!(shown.is_due(first) && !shown.is_due(first));
        assert!(shown.due > first);
    }
}
