//! One update of a run once more, with every value looked at.
//!
//! The run goes on from the newest of its states that is not later, on any device; nothing is written to its folder. Order,
//! augmentation and learning rate are functions of seed and step, so the update is the one that the run made, bit for bit on
//! the device that made it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::config::TrainConfig;
use super::precision::{Precision, PrecisionChoice};
use super::prepare::Prepared;
use super::resume::{self, OnChange};
use super::signal::{OnUsr1, Signals};
use crate::batch::{Batch, Loader, LoaderOptions, batches_per_epoch};
use crate::device::{Device, DeviceKind};
use crate::error::{Error, Result};
use crate::run::run_dir::RunDir;
use crate::run::state;
use crate::step::statistics::{self, ResultStatistics, Statistics};
use crate::step::{StepConfig, Training};

/// Values of a device that are so far from the CPU's, as a share of them, differ. Where rounding moves an activation over 0,
/// its whole gradient comes or goes; values that have nothing to do with each other are 1.4 apart.
const F32_TOLERANCE: f64 = 0.01;
/// Those of products in TF32, which moves some.
const TF32_TOLERANCE: f64 = 0.1;
/// Those of bf16, which moves many.
const BF16_TOLERANCE: f64 = 0.5;

/// What an update came to when it was run once more.
#[derive(Debug, Clone, Serialize)]
pub struct Replay {
    /// Updates before it.
    pub step: u64,
    /// Updates of the state that the run went on from.
    pub from_step: u64,
    /// The pass over the training images that its first batch is of, and which batch of it that is.
    pub epoch: u64,
    /// See `epoch`.
    pub batch_in_epoch: u64,
    /// Images of its batches.
    pub images: Vec<String>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Mean loss of its batches.
    pub loss: f64,
    /// Which of its batches the values are of, the first with something to find, else the last.
    pub batch: usize,
    /// What the forward and backward nodes made, in their order.
    pub results: Vec<ResultStatistics>,
    /// Weights, statistics and optimiser state after it.
    pub persistent: Vec<Statistics>,
    /// Share from which on a value differs from the CPU's; `None` on the CPU itself.
    pub tolerance: Option<f64>,
    /// What is said of the run: that its settings or images have changed.
    pub remarks: Vec<String>,
}

impl Replay {
    /// Updates the run in `dir` on `device` up to `step` updates and looks at the one after them.
    ///
    /// # Errors
    /// [`Error::Usage`] if the run has no such update or no state from before it, and as
    /// [`Trainer::resume`](super::trainer::Trainer::resume).
    pub fn of(dir: &RunDir, step: u64, device: Device) -> Result<Replay> {
        let kind = device.kind();
        let recorded: TrainConfig = dir.read_config()?;
        let state_path = newest_state(dir, step)?;
        let signals = Signals::install(OnUsr1::End)?;
        let mut run = Prepared::inspected(recorded.clone(), device, &signals)?;
        if step >= run.total_steps {
            let total = run.total_steps;
            return Err(Error::setting("step", step, format!("the run has {total} updates; give less")));
        }
        let resumed = resume::state_at(&state_path, &recorded, &mut run, OnChange::GoOn)?;
        let remarks = resumed.remarks.into_iter().map(|(_, remark)| remark).collect();
        let size_at = image_sizes(&run, &resumed.state);
        let mut stream = Stream::new(&run, &resumed.state)?;
        for done in resumed.state.step..step {
            let lr = run.schedule.lr(done);
            stream.begin_update()?;
            stream.take_size(&mut run, size_at(done))?;
            for _ in 0..run.config.grad_accum_steps {
                let training = &mut run.training;
                stream.with_next(|batch| training.step(batch, lr))?;
            }
            // What is left behind is not asked for, and would pile up.
            run.training.loss()?;
        }
        stream.begin_update()?;
        stream.take_size(&mut run, size_at(step))?;
        let mut reference = match kind {
            DeviceKind::Cpu => None,
            _ => Some(Reference::new(&run, &stream, step)?),
        };
        let mut replay = Replay {
            step,
            from_step: resumed.state.step,
            epoch: stream.epoch,
            batch_in_epoch: stream.batch,
            images: Vec::new(),
            learning_rate: run.schedule.lr(step),
            loss: 0.0,
            batch: 0,
            results: Vec::new(),
            persistent: Vec::new(),
            tolerance: reference.as_ref().map(|_| match run.config.precision.on(kind) {
                Precision::F32 => F32_TOLERANCE,
                Precision::Tf32 => TF32_TOLERANCE,
                Precision::Bf16 => BF16_TOLERANCE,
            }),
            remarks,
        };
        replay.look(&mut run, &mut stream, reference.as_mut())?;
        Ok(replay)
    }

    fn look(
        &mut self,
        run: &mut Prepared,
        stream: &mut Stream,
        mut reference: Option<&mut Reference>,
    ) -> Result<()> {
        let (accum, lr) = (run.config.grad_accum_steps, self.learning_rate);
        for batch in 0..accum {
            let (training, images) = (&mut run.training, &mut self.images);
            let pack = &run.source.train;
            stream.with_next(|batch| {
                images.extend(batch.indices.iter().map(|&index| pack.name(index as usize).to_string()));
                training.step(batch, lr)
            })?;
            if let Some(reference) = &mut reference {
                reference.step(lr)?;
            }
            self.loss += f64::from(run.training.loss()?) / accum as f64;
            if self.results.is_empty() || self.is_quiet() {
                let other = reference.as_ref().map(|reference| reference.training.session());
                self.batch = batch;
                self.results = statistics::of_results(run.training.session(), run.training.plan(), other)?;
            }
        }
        self.persistent = statistics::of_persistent(run.training.session())?;
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        self.first_not_finite().is_none() && self.first_different().is_none()
    }

    /// The place in `results` of the first value with an element that is infinite or not a number.
    pub fn first_not_finite(&self) -> Option<usize> {
        self.results.iter().position(|result| result.elements.not_finite > 0)
    }

    /// The place in `results` of the first value that differs from the CPU's.
    pub fn first_different(&self) -> Option<usize> {
        let tolerance = self.tolerance?;
        // What is not a number is not within the tolerance.
        let agrees = |difference: f64| difference <= tolerance;
        self.results.iter().position(|result| result.difference.is_some_and(|far| !agrees(far)))
    }

    /// The first of `persistent` with an element that is infinite or not a number.
    pub fn first_bad_update(&self) -> Option<&Statistics> {
        self.persistent.iter().find(|value| value.not_finite > 0)
    }
}

/// The newest state of the run in `dir` that has at most `step` updates done.
///
/// # Errors
/// [`Error::Setting`] if there is none, [`Error::Checkpoint`] if the run has lost or removed its states.
fn newest_state(dir: &RunDir, step: u64) -> Result<PathBuf> {
    let mut steps = Vec::new();
    for path in dir.states() {
        steps.push((state::load(&path)?.0.step, path));
    }
    steps.sort();
    let earliest = steps.first().map(|(step, _)| *step);
    if earliest.is_none() {
        resume::refuse_lost_state(dir)?;
    }
    let found = steps.into_iter().rfind(|(at, _)| *at <= step);
    found.map(|(_, path)| path).ok_or_else(|| {
        let what = match earliest {
            Some(earliest) => format!("the earliest state that the run keeps is of step {earliest}"),
            None => "the run has no state".into(),
        };
        let remedy = "--checkpoint-hist keeps those of more epochs";
        Error::setting("step", step, format!("{what}; {remedy}"))
    })
}

/// The size of the training images of each update from `state` on.
fn image_sizes(run: &Prepared, state: &state::TrainState) -> impl Fn(u64) -> usize + use<> {
    let (growth, per_epoch, first, epoch) = (run.growth, run.steps_per_epoch, state.step, state.epoch);
    let begun = state.batch_in_epoch / run.config.grad_accum_steps as u64;
    move |update| growth.size(epoch + (begun + update - first) / per_epoch)
}

/// The training batches from a state on, as the trainer takes them.
struct Stream {
    loader: Loader,
    /// Pass and batch that come next.
    epoch: u64,
    batch: u64,
    batches_per_epoch: u64,
    accum: u64,
    /// Whether updates go on over the end of a pass.
    runs_on: bool,
}

impl Stream {
    fn new(run: &Prepared, state: &state::TrainState) -> Result<Stream> {
        let config = &run.config;
        let batches_per_epoch = batches_per_epoch(run.source.train.len(), config.batch_size)? as u64;
        let runs_on = config.steps_per_epoch.is_some();
        let (epoch, batch) = if runs_on {
            let position = state.samples / config.batch_size as u64;
            (position / batches_per_epoch, position % batches_per_epoch)
        } else {
            (state.epoch + state.batch_in_epoch / batches_per_epoch, state.batch_in_epoch % batches_per_epoch)
        };
        let loader = loader(run, epoch, batch)?;
        let accum = config.grad_accum_steps as u64;
        Ok(Stream { loader, epoch, batch, batches_per_epoch, accum, runs_on })
    }

    /// Passes over the batches at the end of a pass that are too few for an update.
    fn begin_update(&mut self) -> Result<()> {
        if !self.runs_on && self.batch + self.accum > self.batches_per_epoch {
            while self.batch > 0 {
                self.with_next(|_| Ok(()))?;
            }
        }
        Ok(())
    }

    /// Turns to training images of `size`, between updates.
    fn take_size(&mut self, run: &mut Prepared, size: usize) -> Result<()> {
        if size != run.training.image_size() {
            run.training.set_image_size(size)?;
            self.loader = loader(run, self.epoch, self.batch)?;
        }
        Ok(())
    }

    fn with_next(&mut self, take: impl FnOnce(&Batch) -> Result<()>) -> Result<()> {
        let batch =
            self.loader.next()?.ok_or_else(|| Error::Usage("the training data ended early".into()))?;
        let taken = take(&batch);
        self.loader.recycle(batch);
        self.batch += 1;
        if self.batch == self.batches_per_epoch {
            (self.epoch, self.batch) = (self.epoch + 1, 0);
        }
        taken
    }
}

/// The batches that the next step of `run` takes, from batch `batch` of the pass `epoch` on.
fn loader(run: &Prepared, epoch: u64, batch: u64) -> Result<Loader> {
    let contents = run.training.batch_contents();
    let options = LoaderOptions { contents, ..run.config.loader_options(*run.config.augment) };
    let pack = Arc::clone(run.source.train_at(run.training.image_size()));
    Loader::train(pack, &options, epoch as u32, batch as usize)
}

/// The same network in the same state on the CPU, in f32.
struct Reference {
    training: Training,
    loader: Loader,
}

impl Reference {
    /// As `run` stands before update `step`, whose batches are the next of `stream`.
    fn new(run: &Prepared, stream: &Stream, step: u64) -> Result<Reference> {
        let config = TrainConfig { precision: PrecisionChoice::F32, ..run.config.clone() };
        let step_config = config.step_of(&run.model, run.source.facts(), DeviceKind::Cpu);
        let mut training = Training::new(StepConfig { keep_results: true, ..step_config }, Device::Cpu)?;
        training.set_annotations(run.source.annotations.clone());
        training.restore(&run.training.state()?, step, Path::new("the run's state"))?;
        training.set_image_size(run.training.image_size())?;
        let pack = Arc::clone(run.source.train_at(run.training.image_size()));
        let options = config.loader_options(*config.augment);
        let loader = Loader::train(pack, &options, stream.epoch as u32, stream.batch as usize)?;
        Ok(Reference { training, loader })
    }

    fn step(&mut self, lr: f64) -> Result<()> {
        let batch =
            self.loader.next()?.ok_or_else(|| Error::Usage("the training data ended early".into()))?;
        self.training.step(&batch, lr)?;
        self.loader.recycle(batch);
        Ok(())
    }
}
