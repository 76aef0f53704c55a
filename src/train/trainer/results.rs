//! What updates left behind, read when it is asked for: losses, hits, times.

use std::time::Instant;

use super::Trainer;
use crate::error::Result;
use crate::run::metrics::Step;
use crate::show::tell;
use crate::train::log::Interval;
use crate::train::loss_watch::Change;

impl Trainer {
    /// Waits for the steps so far and adds their losses and hits to the sums, which must be whole before anything is
    /// logged or saved.
    pub(super) fn read_results(&mut self, interval: &mut Interval) -> Result<()> {
        let start = Instant::now();
        let accum = self.config.batches_per_update();
        let images = (self.config.batch_size * accum) as f64;
        let (partial, done) = (&mut self.state.partial, self.state.step);
        let (watch, mut changes) = (&mut self.watch, Vec::new());
        let bad = self.training.take_results(|results| {
            for step in done - (results.len() / accum) as u64..done {
                let mut loss = 0.0;
                for result in results.take(accum) {
                    loss += f64::from(result.loss) / accum as f64;
                    partial.correct1 += result.correct1 as u64;
                }
                if !loss.is_finite() {
                    return Some((step, loss));
                }
                changes.extend(watch.observe(step, loss));
                partial.loss += loss * images;
                interval.loss += loss;
            }
            None
        })?;
        interval.copy_time += self.training.take_copy_time();
        if let Some(busy) = self.training.take_busy_time()? {
            *interval.busy_time.get_or_insert_default() += busy;
        }
        if let Some(exchanging) = self.training.take_exchange_time()? {
            *interval.exchange_time.get_or_insert_default() += exchanging;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.state.train_seconds += seconds;
        self.state.partial.train_seconds += seconds;
        for change in changes {
            self.note_spike(change);
        }
        match bad {
            Some((step, loss)) => self.diverged(step, &format!("the loss is {loss}")),
            None => Ok(()),
        }
    }

    fn note_spike(&mut self, change: Change) {
        let (spike, event, what) = match change {
            Change::Begins(spike) => {
                let what = "the checkpoint from before is kept until it is in line again";
                (spike, "loss spike", format!("the loss leapt to {:.4}; {what}", spike.loss))
            }
            Change::Ends(spike) => {
                (spike, "loss recovered", format!("the loss is in line again, below {:.4}", spike.limit))
            }
        };
        let message = format!("step {}: {what}", spike.step);
        tell(&message);
        self.log.event(self.state.step, event, &message);
    }

    pub(super) fn log_interval(&mut self, interval: &Interval) -> Result<()> {
        let elapsed = interval.start.elapsed();
        let images = interval.steps * (self.config.batch_size * self.config.batches_per_update()) as u64;
        self.log.interval(&Step {
            epoch: self.state.epoch,
            step: self.state.step,
            samples: self.state.samples,
            loss: interval.loss / interval.steps as f64,
            lr: self.schedule.lr(self.state.step - 1),
            grad_norm: self.training.grad_norm()?.map(f64::from),
            img_s: images as f64 / elapsed.as_secs_f64(),
            step_ms: interval.ms_of(elapsed),
            data_wait_ms: interval.ms_of(interval.data_wait),
            h2d_ms: interval.busy_time.map(|_| interval.ms_of(interval.copy_time)),
            gpu_ms: interval.busy_time.map(|busy| interval.ms_of(busy)),
            exchange_ms: interval.exchange_time.map(|exchanging| interval.ms_of(exchanging)),
            mem_mib: self.session().arena_bytes() as f64 / (1024.0 * 1024.0),
        });
        Ok(())
    }
}
