//! Every way a run ends before its last step: what is saved, said and left on its pages.

use std::path::PathBuf;

use super::Trainer;
use crate::error::{Error, Result};
use crate::train::log::Interval;

impl Trainer {
    /// Ends the run with a checkpoint, as `signal` asked.
    pub(super) fn interrupted(&mut self, signal: i32) -> Result<()> {
        self.save()?;
        let step = self.state.step;
        let message = format!("stopped at step {step}; resume with --resume {}", self.dir().path().display());
        self.log.event(step, "interrupted", &message);
        self.write_report("stopped by a signal", None);
        Err(Error::Interrupted { signal })
    }

    /// Ends the run, which after `step` updates is in the state that `what` describes.
    pub(super) fn diverged(&mut self, step: u64, what: String) -> Result<()> {
        let message = format!(
            "{what}; the last good checkpoint is {}. Lower --lr, lengthen the warm-up, or set --clip-grad",
            self.dir().last_state().display()
        );
        self.log.event(self.state.step, "diverged", &message);
        self.write_report("diverged", None);
        Err(Error::Diverged { step, message })
    }

    /// Ends the run on a device of which nothing can be read.
    pub(super) fn device_failed(&mut self, what: &str) -> Result<()> {
        let dir = self.dir().path().display();
        let message =
            format!("{what}. The last checkpoint is kept: go on with residuum train --resume {dir}");
        self.log.event(self.state.step, "device failed", &message);
        self.write_report("stopped by a failure of the GPU", None);
        Err(Error::DeviceFailed(message))
    }

    /// Ends the run on images that cannot be read any more, as a signal would where that is possible: statistics of batch
    /// norm have seen the batches of an update that is half done.
    pub(super) fn data_failed(&mut self, path: PathBuf, what: &str) -> Result<()> {
        let dir = self.dir().path().display();
        let go_on = format!("go on with residuum train --resume {dir}");
        let kept = if self.training.is_between_updates() {
            self.read_results(&mut Interval::begin())?;
            self.save()?;
            format!("A checkpoint of step {} is written", self.state.step)
        } else {
            "The last checkpoint is kept".into()
        };
        let message = format!("{what}. {kept}: {go_on}");
        self.log.event(self.state.step, "data failed", &message);
        self.write_report("stopped by a failure of its data", None);
        Err(Error::Data { path, message })
    }
}
