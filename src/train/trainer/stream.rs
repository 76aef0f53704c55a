//! Which batches come next: size of the images, pass over them, place in it.

use std::sync::Arc;

use super::Trainer;
use crate::batch::{Loader, LoaderOptions, Shard, batches_per_epoch};
use crate::error::Result;
use crate::show::tell;

impl Trainer {
    /// Turns to the size of this epoch's training images; returns whether it is another.
    pub(super) fn take_size(&mut self) -> Result<bool> {
        let (size, epoch) = (self.growth.size(self.state.epoch), self.state.epoch + 1);
        if size == self.training.image_size() {
            return Ok(false);
        }
        self.training.set_image_size(size)?;
        let message = format!("epoch {epoch}: training images of {size} x {size} pixels");
        tell(&message);
        self.log.event(self.state.step, "image size", &message);
        Ok(true)
    }

    /// The training stream from where the state stands.
    pub(super) fn loader(&mut self) -> Result<Loader> {
        let contents = self.training.batch_contents();
        let options = LoaderOptions {
            contents,
            batches_per_update: self.batches_together(),
            shard: Shard::new(self.rank.index, self.rank.count),
            ..self.config.loader_options(*self.config.augment)
        };
        let (epoch, batch) = if self.config.steps_per_epoch.is_none() && self.epoch_is_complete() {
            // Only its evaluation is missing: the next batch is the first of the next epoch, and none is left to skip.
            if !self.is_done() {
                self.state.batch_in_epoch = self.batches_per_epoch()?;
            }
            (self.state.epoch + 1, 0)
        } else {
            self.position(0)?
        };
        let pack = self.source.train_at(self.training.image_size());
        Loader::train(Arc::clone(pack), &options, epoch as u32, batch as usize)
    }

    /// The pass over the images, and the batch of it, that was next so many updates of this epoch before the state.
    pub(super) fn position(&self, updates_ago: u64) -> Result<(u64, u64)> {
        let accum = self.config.batches_per_update() as u64;
        let back = updates_ago * accum;
        if self.config.steps_per_epoch.is_none() {
            // Batches that are too few for an update count as taken at the end of a pass.
            let updates = self.state.batch_in_epoch / accum;
            return Ok((self.state.epoch, updates.saturating_sub(updates_ago) * accum));
        }
        // Epochs of a given number of steps cut the stream of passes over the images anywhere.
        let (batches, position) =
            (self.batches_per_epoch()?, self.state.samples / self.config.batch_size as u64 - back);
        Ok((position / batches, position % batches))
    }

    pub(super) fn batches_per_epoch(&self) -> Result<u64> {
        Ok(batches_per_epoch(self.source.train.len(), self.config.batch_size)? as u64)
    }

    /// Batches of which a pass has a whole number of sets: those of an update, unless updates go on over its end.
    fn batches_together(&self) -> usize {
        if self.config.steps_per_epoch.is_some() { 1 } else { self.config.batches_per_update() }
    }

    /// Passes over the batches that are too few for another update; the stream has none of them.
    pub(super) fn skip_rest_of_epoch(&mut self) -> Result<()> {
        if self.config.steps_per_epoch.is_none() && !self.is_done() {
            self.state.batch_in_epoch = self.state.batch_in_epoch.max(self.batches_per_epoch()?);
        }
        Ok(())
    }
}
