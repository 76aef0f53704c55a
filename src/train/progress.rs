//! What a run says while it trains: a bar on a terminal, one line per interval elsewhere.

use indicatif::ProgressBar;

use super::summary::epoch_line;
use crate::progress;
use crate::run::metrics::{Epoch, Step};
use crate::show::tell;

/// The voice of a run.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For a run of `total` updates, `done` of them done.
    pub fn new(done: u64, total: u64) -> Progress {
        let bar = progress::bar("{bar:30} step {pos}/{len}  {msg}  {eta} left", total);
        Progress { bar: bar.map(|bar| bar.with_position(done)) }
    }

    /// One update is done.
    pub fn step(&self, step: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    /// An interval of the log is done.
    pub fn interval(&self, line: &Step, total: u64) {
        let share = |ms: f64| 100.0 * ms / line.step_ms;
        let waiting = share(line.data_wait_ms);
        let exchanging = line.exchange_ms.map(|ms| format!("  exchanging {:.1} %", share(ms)));
        match &self.bar {
            Some(bar) => bar.set_message(format!("loss {:.4}  {:.1} images/s", line.loss, line.img_s)),
            None => tell(format_args!(
                "step {}/{total}  loss {:.4}  lr {:.5}  {:.1} images/s  waiting for data {waiting:.1} %{}",
                line.step,
                line.loss,
                line.lr,
                line.img_s,
                exchanging.unwrap_or_default()
            )),
        }
    }

    /// An epoch is evaluated.
    pub fn epoch(&self, row: &Epoch, epochs: u64) {
        tell(epoch_line(row, epochs));
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
