//! What a run says while it trains, always on stderr: a bar on a terminal, one line per interval elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

use super::summary::epoch_line;
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
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{bar:30} step {pos}/{len}  {msg}  {eta} left";
            let style = ProgressStyle::with_template(template).expect("the template is well-formed");
            ProgressBar::new(total).with_style(style).with_position(done)
        });
        Progress { bar }
    }

    /// One update is done.
    pub fn step(&self, step: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    /// An interval of the log is done.
    pub fn interval(&self, line: &Step, total: u64) {
        let waiting = 100.0 * line.data_wait_ms / line.step_ms;
        match &self.bar {
            Some(bar) => bar.set_message(format!("loss {:.4}  {:.1} images/s", line.loss, line.img_s)),
            None => tell(format_args!(
                "step {}/{total}  loss {:.4}  lr {:.5}  {:.1} images/s  waiting for data {waiting:.1} %",
                line.step, line.loss, line.lr, line.img_s
            )),
        }
    }

    /// An epoch is evaluated.
    pub fn epoch(&self, row: &Epoch, epochs: u64) {
        let line = epoch_line(row, epochs);
        match &self.bar {
            Some(bar) => bar.println(line),
            None => tell(line),
        }
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
