//! Every way a run ends before its last step: what is saved, said and left on its pages.

use std::path::PathBuf;

use serde::Serialize;

use super::Trainer;
use crate::batch::batch_indices;
use crate::error::{Error, Result};
use crate::show::show_path;
use crate::step::statistics::{self, Statistics};
use crate::train::log::Interval;
use crate::train::summary::Status;

/// `diverged.json`: what is known of an update whose loss was no number, one object.
#[derive(Debug, Serialize)]
struct Divergence<'a> {
    /// What happened, in words.
    what: &'a str,
    /// Updates before the one that it happened in; what `replay --step` takes.
    step: u64,
    /// Where its first batch lies among the passes over the training images.
    epoch: u64,
    batch_in_epoch: u64,
    /// Seed of order and augmentation, and the update's learning rate.
    seed: u64,
    learning_rate: f64,
    /// The images of the update's batches.
    images: Vec<String>,
    /// Losses of the updates before, without those of a spike, the oldest first.
    recent_losses: Vec<f64>,
    /// Updates before the first of the spike that it ends, if there was one.
    spike_since: Option<u64>,
    /// Updates that were done when it was noticed: `values` are from then.
    steps_done: u64,
    /// Weights, statistics and optimiser state, by layer.
    values: Vec<Statistics>,
}

impl Trainer {
    /// Ends the run with a checkpoint, as `signal` asked.
    pub(super) fn interrupted(&mut self, signal: i32) -> Result<()> {
        self.save()?;
        let step = self.state.step;
        let message = format!("stopped at step {step}; resume with --resume {}", self.dir().path().display());
        self.log.event(step, "interrupted", &message);
        self.write_report(Status::Ended("stopped by a signal"), None);
        Err(Error::Interrupted { signal })
    }

    /// Ends the run because of what came of the update after `step` others.
    pub(super) fn diverged(&mut self, step: u64, what: &str) -> Result<()> {
        let has_earlier = self.log.is_written() && self.dir().before_spike().exists();
        let spike = self.watch.spike().filter(|_| has_earlier);
        if spike.is_some() {
            self.dir().go_back_before_spike()?;
        }
        let spike = spike.map_or_else(String::new, |spike| {
            format!(", from before the loss leapt to {:.4} at step {}", spike.loss, spike.step)
        });
        let (state, run) = (self.dir().last_state(), show_path(self.dir().path()));
        let message = format!(
            "{what}; the last good checkpoint is {}{spike}. Lower --lr, lengthen the warm-up, or set --clip-grad; `residuum \
             replay {run} --step {step}` says in which layer",
            state.display(),
        );
        self.log.event(self.state.step, "diverged", &message);
        self.keep_divergence(step, what)?;
        self.write_report(Status::Ended("diverged"), None);
        Err(Error::Diverged { step, message })
    }

    fn keep_divergence(&self, step: u64, what: &str) -> Result<()> {
        if !self.log.is_written() {
            return Ok(());
        }
        let (epoch, batch_in_epoch) = self.position(self.state.step - step)?;
        let (seed, batch_size) = (self.config.seed, self.config.batch_size);
        let pack = &self.source.train;
        let images = (batch_in_epoch..batch_in_epoch + self.config.batches_per_update() as u64)
            .flat_map(|batch| batch_indices(seed, epoch as u32, batch as usize, batch_size, pack.len()))
            .map(|index| pack.name(index as usize).to_string());
        let divergence = Divergence {
            what,
            step,
            epoch,
            batch_in_epoch,
            seed,
            learning_rate: self.schedule.lr(step),
            images: images.collect(),
            recent_losses: self.watch.recent().collect(),
            spike_since: self.watch.spike().map(|spike| spike.step),
            steps_done: self.state.step,
            values: statistics::of_persistent(self.session())?,
        };
        let text = serde_json::to_string_pretty(&divergence).expect("numbers and names are JSON");
        self.dir().write("diverged.json", text)
    }

    /// Ends the run on a device of which nothing can be read.
    pub(super) fn device_failed(&mut self, what: &str) -> Result<()> {
        let dir = self.dir().path().display();
        let message =
            format!("{what}. The last checkpoint is kept: go on with residuum train --resume {dir}");
        self.log.event(self.state.step, "device failed", &message);
        self.write_report(Status::Ended("stopped by a failure of the GPU"), None);
        Err(Error::DeviceFailed(message))
    }

    /// Ends the run because another rank has left.
    pub(super) fn peer_failed(&mut self, what: &str) -> Result<()> {
        let dir = self.dir().path().display();
        let message = format!(
            "{what}. The last checkpoint is kept: go on with residuum train --resume {dir}, on any number of ranks \
             that the batches of an update can be shared among"
        );
        self.log.event(self.state.step, "rank left", &message);
        self.write_report(Status::Ended("stopped because a rank left"), None);
        Err(Error::Peer(message))
    }

    /// Ends the run on ranks that no longer train the same weights, of which none is saved.
    pub(super) fn replicas_differ(&mut self, what: &str) -> Result<()> {
        self.log.event(self.state.step, "ranks differ", what);
        self.write_report(Status::Ended("stopped because ranks had different weights"), None);
        Err(Error::Replicas(what.into()))
    }

    /// Ends the run on images that cannot be read any more, as a signal would where that is possible: statistics of batch
    /// norm have seen the batches of an update that is half done.
    pub(super) fn data_failed(&mut self, path: PathBuf, what: &str) -> Result<()> {
        let dir = self.dir().path().display();
        let go_on = format!("go on with residuum train --resume {dir}");
        // Where there are other ranks, they wait in a step of theirs, and none can be made an end to.
        let kept = if self.rank.count == 1 && self.training.is_between_updates() {
            self.read_results(&mut Interval::begin())?;
            self.save()?;
            format!("A checkpoint of step {} is written", self.state.step)
        } else {
            "The last checkpoint is kept".into()
        };
        let message = format!("{what}. {kept}: {go_on}");
        self.log.event(self.state.step, "data failed", &message);
        self.write_report(Status::Ended("stopped by a failure of its data"), None);
        Err(Error::Data { path, message })
    }
}
