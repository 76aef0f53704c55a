//! Training as a library: a network with its weights and its optimiser on a device.

mod together;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::evaluate::{Evaluation, Evaluator};
use super::exchange::{Ranks, check_ranks};
use super::feed::Feed;
use super::weights::{self, Weights};
use super::{EVAL, SMALLER, StepConfig, TRAIN, Trained, hyper_parameters, program, values};
use crate::batch::{Batch, BatchContents, LoaderOptions};
use crate::data::annotations::SplitAnnotations;
use crate::data::pack::Pack;
use crate::device::{Device, Slot};
use crate::dist::Collective;
use crate::error::{Error, Result};
use crate::exec::{Session, Start};
use crate::ops::DRAWS;
use crate::run::checkpoint::{self, NamedTensor};
use crate::tensor::Shape;

/// Key of the number of updates in the metadata of a file that [`Training::save`] writes.
const UPDATES: &str = "updates";

/// A network in training: its graphs, their memory on a device, and the state of its optimiser.
///
/// The front page of the crate has a whole program.
pub struct Training {
    config: StepConfig,
    session: Session,
    /// The step at each size of training images, the full size first.
    steps: Vec<StepIo>,
    /// Which of them is next.
    current: usize,
    evaluator: Evaluator,
    /// The other ranks, where there are some.
    ranks: Option<Ranks>,
    annotations: Option<SplitAnnotations>,
    num_updates: u64,
    /// Batches since the last update.
    num_accumulated: usize,
    copy_time: Duration,
    /// What the batches of all ranks left behind.
    gathered: Vec<u8>,
}

/// A plan of the training graph, and its values that the host touches.
struct StepIo {
    plan: usize,
    image_size: usize,
    feed: Feed,
    hyper: Slot,
    hyper_backbone: Option<Slot>,
    loss: Slot,
    hits: Slot,
    grad_norm: Option<Slot>,
    /// Which random numbers the layers draw, where some do.
    draws: Option<Slot>,
    /// Which batch of an update it is, where their gradients are added as a tree.
    round: Option<Slot>,
}

/// What a batch leaves behind: the values called [`values::LOSS`] and [`values::HITS`], in this order.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct BatchResult {
    /// Mean loss of the batch.
    pub loss: f32,
    /// Images whose label was the first guess.
    pub correct1: i32,
    /// Images whose label was among the first five guesses.
    pub correct5: i32,
    /// Images counted, without padding.
    pub images: i32,
}

impl StepIo {
    /// # Errors
    /// [`Error::Graph`] if the plan is not of a training graph.
    fn new(session: &Session, plan: usize, image_size: usize) -> Result<StepIo> {
        let planned = session.plan(plan);
        Ok(StepIo {
            plan,
            image_size,
            feed: Feed::new(planned),
            hyper: planned.slot(values::HYPER)?,
            hyper_backbone: planned.slot(values::HYPER_BACKBONE).ok(),
            loss: planned.slot(values::LOSS)?,
            hits: planned.slot(values::HITS)?,
            grad_norm: planned.slot(values::GRAD_NORM).ok(),
            draws: planned.slot(DRAWS).ok(),
            round: planned.slot(values::ROUND).ok(),
        })
    }
}

impl Training {
    /// A network in training on `device`, with the initial values of the configuration's seed.
    ///
    /// # Errors
    /// [`Error::Graph`] if the images do not fit the network, [`Error::DoesNotFit`] if the memory is not there.
    pub fn new(config: StepConfig, device: Device) -> Result<Training> {
        let program = program(&config, device.kind())?;
        let session = Session::open(program, device, Start::Seed(config.seed))?;
        Training::in_session(config, session)
    }

    /// A network in training in a session of [`program`] for the same configuration.
    ///
    /// # Errors
    /// [`Error::Graph`] if the session runs another program.
    pub fn in_session(config: StepConfig, session: Session) -> Result<Training> {
        let smaller = (SMALLER..).zip(config.smaller_sizes.iter().copied());
        let plans = [(TRAIN, config.image_size)].into_iter().chain(smaller);
        let steps = plans.map(|(plan, size)| StepIo::new(&session, plan, size)).collect::<Result<_>>()?;
        let evaluator = Evaluator::new(&session, EVAL, config.image_size)?;
        let (num_updates, num_accumulated, copy_time) = (0, 0, Duration::ZERO);
        Ok(Training {
            config,
            session,
            steps,
            current: 0,
            evaluator,
            ranks: None,
            annotations: None,
            num_updates,
            num_accumulated,
            copy_time,
            gathered: Vec::new(),
        })
    }

    /// Trains together with the other ranks that `collective` reaches. All have the same configuration and state and make the
    /// same calls; in step a of an update, rank r of N takes batch a*N + r of it ([`crate::batch::Shard`]). Weights, losses and
    /// evaluations are then those of one rank that accumulates as many batches, to the bit.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are other than [`StepConfig::num_ranks`], or NCCL is to add up and does not join them.
    pub fn join(&mut self, collective: Box<dyn Collective>) -> Result<()> {
        check_ranks(&self.config, &*collective)?;
        if self.config.num_ranks > 1 {
            self.ranks = Some(Ranks::new(self.session.program(), &self.config, collective)?);
        }
        Ok(())
    }

    /// Where objects are in the training and validation images, for a network that takes objects in.
    pub fn set_annotations(&mut self, annotations: Option<SplitAnnotations>) {
        self.annotations = annotations;
    }

    /// Takes training images of `size` from the next step on, the full size or one of [`StepConfig::smaller_sizes`]. A
    /// training begins with full ones.
    ///
    /// # Errors
    /// [`Error::Setting`] if no step of this size was planned, [`Error::Usage`] between the batches of an update.
    pub fn set_image_size(&mut self, size: usize) -> Result<()> {
        if !self.is_between_updates() {
            return Err(Error::Usage(
                "an update takes images of one size; change it after the last batch".into(),
            ));
        }
        self.current = self.steps.iter().position(|step| step.image_size == size).ok_or_else(|| {
            let sizes: Vec<usize> = self.steps.iter().map(|step| step.image_size).collect();
            Error::setting(
                "img_size",
                size,
                format!("was not planned; training images have one of {sizes:?}"),
            )
        })?;
        Ok(())
    }

    /// Height and width of the training images of the next step.
    pub fn image_size(&self) -> usize {
        self.io().image_size
    }

    /// The number of the next step's plan in the session.
    pub fn plan(&self) -> usize {
        self.io().plan
    }

    /// What the batches of the next step have to carry.
    pub fn batch_contents(&self) -> BatchContents {
        self.io().feed.contents()
    }

    fn io(&self) -> &StepIo {
        &self.steps[self.current]
    }

    /// Copies the pixels of both data sets to a device that holds them ([`super::PixelSource::Resident`]).
    ///
    /// # Errors
    /// [`Error::Graph`] if the program has no place for them, [`Error::Data`] if they cannot be read, [`Error::Device`] if the
    /// device refuses the copy.
    pub fn upload_pixels(&mut self, train: &Pack, val: &Pack) -> Result<()> {
        let mut buffer = Vec::new();
        for (plan, name, pack) in [(TRAIN, values::TRAIN_PIXELS, train), (EVAL, values::VAL_PIXELS, val)] {
            let pixels = self.session.plan(plan).slot(name)?;
            let image = Shape::new(&pixels.shape.dims()[1..]);
            for index in 0..pack.len() {
                let offset_bytes = pixels.offset_bytes + index * image.num_elems();
                let slot = Slot { offset_bytes, shape: image, ..pixels };
                self.session.write(&slot, pack.pixels(index, &mut buffer)?)?;
            }
        }
        Ok(())
    }

    /// Adds the gradient of `batch`, and after every [`StepConfig::grad_accum_steps`] batches updates the weights with the
    /// learning rate `lr`. On a GPU the step is then under way; nothing waits for it, unless there are other ranks.
    ///
    /// # Errors
    /// [`Error::Graph`] if the batch has another size than the configuration, [`Error::Device`] if the device fails.
    pub fn step(&mut self, batch: &Batch, lr: f64) -> Result<()> {
        let copying = Instant::now();
        let annotations = self.annotations.as_ref().map(|annotations| &*annotations.train);
        self.steps[self.current].feed.write(&mut self.session, batch, annotations)?;
        self.copy_time += copying.elapsed();
        self.run(lr)
    }

    /// [`Training::step`] with the batch of the step before, which is not copied again: for benchmarks.
    ///
    /// # Errors
    /// [`Error::Usage`] without [`StepConfig::keep_inputs`], and as [`Training::step`].
    pub fn repeat(&mut self, lr: f64) -> Result<()> {
        if !self.config.keep_inputs {
            return Err(Error::Usage("the last batch is gone; set StepConfig::keep_inputs".into()));
        }
        self.run(lr)
    }

    fn run(&mut self, lr: f64) -> Result<()> {
        let StepIo { draws, round, .. } = &self.steps[self.current];
        if self.config.num_ranks > 1 && self.ranks.is_none() {
            let ranks = self.config.num_ranks;
            return Err(Error::Usage(format!(
                "the step is planned for {ranks} ranks; call Training::join first"
            )));
        }
        if let Some(slot) = draws {
            let rank = self.ranks.as_ref().map_or(0, |ranks| ranks.collective.rank().index);
            let in_update = self.num_accumulated * self.config.num_ranks + rank;
            let batch = self.num_updates * self.config.batches_per_update() as u64 + in_update as u64;
            let seed = self.config.seed;
            self.session.write(slot, &[seed as i32, (seed >> 32) as i32, batch as i32, 0])?;
        }
        if let Some(slot) = round {
            self.session.write(slot, &[self.num_accumulated as i32])?;
        }
        let is_last = self.num_accumulated + 1 == self.config.grad_accum_steps;
        if is_last {
            // With the batch, so that a device is given both at once.
            self.write_hyper_parameters(lr)?;
        }
        let StepIo { plan, loss, hits, .. } = &self.steps[self.current];
        match &mut self.ranks {
            Some(ranks) => self.session.run_micro_batch_of_rank(*plan, &mut *ranks.collective)?,
            None => self.session.run_micro_batch(*plan)?,
        }
        self.session.enqueue_readback(loss)?;
        self.session.enqueue_readback(hits)?;
        if let Some(ranks) = &mut self.ranks {
            ranks.exchange(&mut self.session, *plan)?;
        }
        self.num_accumulated += 1;
        if is_last { self.update() } else { Ok(()) }
    }

    /// What the next update takes besides the gradient.
    fn write_hyper_parameters(&mut self, lr: f64) -> Result<()> {
        let values = |lr| hyper_parameters(&self.config.optimiser, lr, self.num_updates + 1);
        let StepIo { hyper, hyper_backbone, .. } = &self.steps[self.current];
        self.session.write(hyper, &values(lr))?;
        if let (Some(slot), Trained::TwoRates { backbone_lr_scale }) = (hyper_backbone, self.config.trained) {
            self.session.write(slot, &values(lr * backbone_lr_scale))?;
        }
        Ok(())
    }

    fn update(&mut self) -> Result<()> {
        self.num_accumulated = 0;
        self.num_updates += 1;
        let StepIo { plan, .. } = &self.steps[self.current];
        if let Some(ranks) = &mut self.ranks {
            ranks.gather(&mut self.session)?;
        }
        self.session.run_update(*plan)
    }

    /// Waits for the steps so far and hands what each batch since the last call left behind to `read`, in order: the batches of
    /// all ranks, as one that accumulates them takes them. Until then 16 bytes are kept for each batch.
    ///
    /// # Errors
    /// [`Error::Device`] if a step failed, [`Error::Peer`] if another rank has left.
    pub fn take_results<R>(
        &mut self,
        read: impl FnOnce(&mut dyn ExactSizeIterator<Item = BatchResult>) -> R,
    ) -> Result<R> {
        const BYTES: usize = size_of::<BatchResult>();
        self.session.take_readback(|own| {
            let Some(ranks) = &mut self.ranks else {
                return Ok(read(&mut own.chunks_exact(BYTES).map(bytemuck::pod_read_unaligned)));
            };
            let num_ranks = ranks.collective.rank().count;
            self.gathered.resize(num_ranks * own.len(), 0);
            ranks.collective.all_gather(own, &mut self.gathered)?;
            let of_rank = |batch: usize| batch % num_ranks * own.len() + batch / num_ranks * BYTES;
            let result = |batch| bytemuck::pod_read_unaligned(&self.gathered[of_rank(batch)..][..BYTES]);
            Ok(read(&mut (0..self.gathered.len() / BYTES).map(result)))
        })?
    }

    /// Waits for the steps so far and returns the mean loss of the batches since the last call, or since
    /// [`Training::take_results`]; NaN if there were none.
    ///
    /// # Errors
    /// [`Error::Device`] if a step failed.
    pub fn loss(&mut self) -> Result<f32> {
        self.take_results(|results| {
            let count = results.len() as f32;
            results.map(|result| result.loss).sum::<f32>() / count
        })
    }

    /// Waits for the steps so far and returns the norm of all gradients in the last update, where they are clipped.
    ///
    /// # Errors
    /// [`Error::Device`] if a step failed.
    pub fn grad_norm(&self) -> Result<Option<f32>> {
        self.io().grad_norm.map(|slot| Ok(self.session.read::<f32>(&slot)?[0])).transpose()
    }

    /// Time that the host spent writing batches since the last call.
    pub fn take_copy_time(&mut self) -> Duration {
        std::mem::take(&mut self.copy_time)
    }

    /// Time that the device was busy with steps since the last call, after waiting for it; `None` on the CPU.
    ///
    /// # Errors
    /// [`Error::Device`] if a step failed.
    pub fn take_busy_time(&mut self) -> Result<Option<Duration>> {
        self.session.take_busy_time()
    }

    /// Time in exchanges with other ranks since the last call, waiting for them included, after waiting for the steps so far;
    /// `None` without other ranks.
    ///
    /// # Errors
    /// [`Error::Device`] if a step failed.
    pub fn take_exchange_time(&mut self) -> Result<Option<Duration>> {
        self.ranks.as_ref().map(|_| self.session.take_exchange_time()).transpose()
    }

    /// The error over every image of `pack`, with the averaged weights where there are some; `stop` is asked between
    /// batches. Ranks share the batches and have all of the result; they do not ask `stop`, because all would have to stop.
    ///
    /// # Errors
    /// What the loader reports, [`Error::Interrupted`] with the signal that `stop` returns, or [`Error::Peer`] if another rank
    /// has left.
    pub fn evaluate(
        &mut self,
        pack: &Arc<Pack>,
        options: &LoaderOptions,
        stop: impl Fn() -> Option<i32>,
    ) -> Result<Evaluation> {
        let annotations = self.annotations.as_ref().map(|annotations| &*annotations.val);
        let collective = self.ranks.as_mut().map(|ranks| &mut *ranks.collective as &mut dyn Collective);
        self.evaluator.run(&mut self.session, &[(pack, annotations)], options, stop, collective)
    }

    /// The scores of a batch without labels, `[batch_size, num_classes]` row by row: those of the averaged weights where
    /// there are some.
    ///
    /// # Errors
    /// [`Error::Graph`] if the batch has another size than the configuration, [`Error::Device`] if the device fails.
    pub fn predict(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.evaluator.logits(&mut self.session, batch)
    }

    /// Writes weights, running statistics and optimiser state to the safetensors file at `path`, replacing an earlier one
    /// atomically.
    ///
    /// # Errors
    /// [`Error::Usage`] between the batches of an update, whose gradients would be lost; [`Error::Checkpoint`] if the file
    /// cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        checkpoint::write_atomic(path, &self.state()?, &json!({ UPDATES: self.num_updates }))
    }

    /// Reads what [`Training::save`] wrote: the next step is that of a training which never stopped.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is damaged or of another network or optimiser.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let file = checkpoint::read(path)?;
        let num_updates =
            file.metadata.get(UPDATES).and_then(serde_json::Value::as_u64).ok_or_else(|| {
                Error::checkpoint(
                    path,
                    "does not say how many updates it has had; give a file of Training::save",
                )
            })?;
        self.restore(&file.tensors, num_updates, path)
    }

    /// Everything that the next step depends on, as it lies in memory; borrowed on the CPU.
    ///
    /// # Errors
    /// As [`Training::save`].
    pub fn state(&self) -> Result<Vec<NamedTensor<'_>>> {
        if self.num_accumulated > 0 {
            return Err(Error::Usage(format!(
                "{} of {} batches of an update are accumulated, which no file holds; save after the last",
                self.num_accumulated, self.config.grad_accum_steps
            )));
        }
        weights::state_tensors(&self.session)
    }

    /// The inverse of [`Training::state`], after `num_updates` updates; messages call the tensors' file `path`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first tensor that differs from what this configuration keeps.
    pub fn restore(&mut self, tensors: &[NamedTensor<'_>], num_updates: u64, path: &Path) -> Result<()> {
        weights::load_state(&mut self.session, self.config.network.last_layer(), tensors, path)?;
        (self.num_updates, self.num_accumulated) = (num_updates, 0);
        Ok(())
    }

    /// The weights that are evaluated, averaged where there are averages, under their names in weight files.
    ///
    /// # Errors
    /// [`Error::Device`] if the device refuses the copy.
    pub fn weights(&self) -> Result<Vec<NamedTensor<'static>>> {
        let which = if self.config.ema_decay.is_some() { Weights::Averaged } else { Weights::Trained };
        weights::model_tensors(&self.session, which, self.num_updates)
    }

    /// The first persistent value with an element that is infinite or not a number.
    ///
    /// # Errors
    /// [`Error::Device`] if the device refuses the copy.
    pub fn first_not_finite(&self) -> Result<Option<&str>> {
        weights::first_not_finite(&self.session)
    }

    /// Whether the next batch is the first of an update.
    pub fn is_between_updates(&self) -> bool {
        self.num_accumulated == 0
    }

    /// Updates so far.
    pub fn num_updates(&self) -> u64 {
        self.num_updates
    }

    /// The configuration that the graphs were made from.
    pub fn config(&self) -> &StepConfig {
        &self.config
    }

    /// The session, to look at its program and its values.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to set values by hand.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
