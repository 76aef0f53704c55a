//! The training loop: batches in, updates, evaluation, checkpoints, and every way a run can stop.

use std::sync::Arc;
use std::time::Instant;

use super::capacity;
use super::config::TrainConfig;
use super::progress::Progress;
use super::schedule::Schedule;
use super::signal::Signals;
use super::source::Source;
use super::summary;
use crate::batch::{Augment, Deliver, Loader, LoaderOptions, batches_per_epoch};
use crate::device::{Device, DeviceKind, Slot};
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::infer::model_file::ModelFile;
use crate::plan::plan;
use crate::run::metrics::{Epoch, Eval, Event, MetricsLog, Run, Step};
use crate::run::model_card::{ModelCard, ObjectsCard};
use crate::run::run_dir::{Env, RunDir};
use crate::run::state::{self, Best, EpochSums, FORMAT, TrainState};
use crate::run::tensorboard::EventFile;
use crate::step::evaluate::{Evaluation, Evaluator};
use crate::step::feed::Feed;
use crate::step::pretrained;
use crate::step::weights;
use crate::step::{
    EMA_PREFIX, Optimiser, PixelSource, StepConfig, evaluation_graph, hyper_parameters, training_graph,
    values,
};
use crate::tensor::DType;

/// Batches prepared ahead.
const PREFETCH: usize = 4;
/// The plans of a training session.
pub(super) const TRAIN: usize = 0;
pub(super) const EVAL: usize = 1;

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its folder.
    pub dir: RunDir,
    /// The last evaluation.
    pub last: Epoch,
    /// The best evaluation.
    pub best: Best,
}

/// A run in progress.
pub struct Trainer {
    config: TrainConfig,
    dir: RunDir,
    env: Env,
    source: Source,
    session: Session,
    io: TrainIo,
    evaluator: Evaluator,
    optimiser: Optimiser,
    pixels: PixelSource,
    schedule: Schedule,
    steps_per_epoch: u64,
    total_steps: u64,
    state: TrainState,
    metrics: MetricsLog,
    events: EventFile,
    progress: Progress,
    signals: Signals,
    last_eval: Option<Evaluation>,
}

/// The values of the training graph that the host touches.
#[derive(Debug)]
struct TrainIo {
    feed: Feed,
    hyper: Slot,
    hyper_backbone: Option<Slot>,
    loss: Slot,
    hits: Slot,
    grad_norm: Option<Slot>,
}

/// What a batch leaves in the notes of the session: the values called [`values::LOSS`] and [`values::HITS`].
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BatchNote {
    loss: f32,
    hits: [i32; 3],
}

/// Sums since the last line of the log. Steps whose notes are not read yet are not in `loss`.
#[derive(Debug, Clone, Copy)]
struct Interval {
    start: Instant,
    steps: u64,
    loss: f64,
    data_wait_seconds: f64,
    copy_seconds: f64,
    /// As far as the device tells.
    busy_seconds: Option<f64>,
}

impl Interval {
    fn begin() -> Interval {
        Interval {
            start: Instant::now(),
            steps: 0,
            loss: 0.0,
            data_wait_seconds: 0.0,
            copy_seconds: 0.0,
            busy_seconds: None,
        }
    }
}

/// Plans the training and evaluation graphs of a run into one arena on a kind of device.
///
/// # Errors
/// [`Error::Graph`] if the images do not fit the model, [`Error::Usage`] if the device has no such precision.
pub fn program(step: &StepConfig, device: DeviceKind) -> Result<crate::plan::Program> {
    if step.float == DType::Bf16 && device == DeviceKind::Cpu {
        return Err(Error::Usage("--precision bf16: the CPU computes in f32; take --precision f32".into()));
    }
    let train = training_graph(step)?;
    let eval = evaluation_graph(step, if step.ema_decay.is_some() { EMA_PREFIX } else { "" })?;
    plan(&[&train, &eval], device)
}

impl Trainer {
    /// A new run on `device`, in a new folder.
    ///
    /// # Errors
    /// What reading the data, planning and allocating report.
    pub fn start(config: TrainConfig, device: Device) -> Result<Trainer> {
        config.validate()?;
        let source = Source::open(&config)?;
        let (steps_per_epoch, total_steps) = config.steps(source.train.len())?;
        config.schedule(steps_per_epoch, total_steps)?;
        let (step, mut session) = capacity::open(&config, &source, device)?;
        let model = step.model.name();
        weights::initialise(&mut session, config.seed)?;
        if let Some(path) = &config.pretrained {
            pretrained::load(&mut session, &step.model, path)?;
        }
        let name = config.experiment.clone().unwrap_or_else(|| format!("{model}-{}", config.img_size));
        let dir = RunDir::create(&config.output, &name)?;
        dir.write_config(&config)?;
        let state = first_state(model, config.seed);
        Trainer::assemble(config, dir, source, session, step, state)
    }

    /// Goes on with the run in `dir`, whose settings are `config`, from its last checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the checkpoint is damaged or of another model, and as [`Trainer::start`].
    pub fn resume(dir: RunDir, config: TrainConfig, device: Device) -> Result<Trainer> {
        config.validate()?;
        let source = Source::open(&config)?;
        let (step, mut session) = capacity::open(&config, &source, device)?;
        weights::initialise(&mut session, config.seed)?;
        let path = dir.last_state();
        let state = if path.exists() {
            let (state, tensors) = state::load(&path)?;
            weights::load_state(&mut session, &tensors, &path)?;
            state
        } else {
            // The run ended before its first checkpoint.
            first_state(step.model.name(), config.seed)
        };
        Trainer::assemble(config, dir, source, session, step, state)
    }

    fn assemble(
        config: TrainConfig,
        dir: RunDir,
        source: Source,
        session: Session,
        step: StepConfig,
        state: TrainState,
    ) -> Result<Trainer> {
        let (steps_per_epoch, total_steps) = config.steps(source.train.len())?;
        let schedule = config.schedule(steps_per_epoch, total_steps)?;
        let slot = |name| session.plan(TRAIN).slot(name);
        let io = TrainIo {
            feed: Feed::new(session.plan(TRAIN)),
            hyper: slot(values::HYPER)?,
            hyper_backbone: slot(values::HYPER_BACKBONE).ok(),
            loss: slot(values::LOSS)?,
            hits: slot(values::HITS)?,
            grad_norm: slot(values::GRAD_NORM).ok(),
        };
        let evaluator = Evaluator::new(&session, EVAL)?;
        let device = match session.device() {
            DeviceKind::Cpu => format!("cpu ({} threads)", rayon::current_num_threads()),
            DeviceKind::Cuda => format!("cuda ({})", config.device),
            DeviceKind::Simt => "simt".into(),
        };
        // The log's lock comes first: whoever does not get it must leave the folder as it is.
        let mut metrics = MetricsLog::open(&dir.metrics())?;
        let env = Env::of_this_process(&*device);
        dir.write_env(&env)?;
        let parameters =
            session.program().persistent_bytes_where(|v| v.role == crate::graph::Role::Parameter);
        metrics.append(&Run {
            step: state.step,
            model: state.model.clone(),
            data: source.format.clone(),
            device,
            parameters: (parameters / size_of::<f32>()) as u64,
            train_images: source.train.len() as u64,
            val_images: source.val.len() as u64,
            img_size: config.img_size as u64,
            batch_size: config.batch_size as u64,
            epochs: config.epochs,
            seed: config.seed,
        })?;
        let events = EventFile::create(dir.path(), state.step)?;
        let progress = Progress::new(state.step, total_steps);
        let signals = Signals::install()?;
        let StepConfig { optimiser, pixels, .. } = step;
        Ok(Trainer {
            config,
            dir,
            env,
            source,
            session,
            io,
            evaluator,
            optimiser,
            pixels,
            schedule,
            steps_per_epoch,
            total_steps,
            state,
            metrics,
            events,
            progress,
            signals,
            last_eval: None,
        })
    }

    /// The run's folder.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// The session, to look at its program and memory.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss stops being finite; the last checkpoint stays. [`Error::Interrupted`] after a
    /// signal, with a checkpoint written.
    pub fn run(mut self) -> Result<Outcome> {
        // The loop itself runs on one of the pool's threads: handing work to the pool from outside would allocate.
        rayon::scope(|_| self.train())?;
        self.finish()
    }

    fn train(&mut self) -> Result<()> {
        let mut loader = self.loader()?;
        if self.state.step == 0 {
            self.save()?;
        }
        let mut interval = Interval::begin();
        loop {
            if self.epoch_is_complete() {
                self.skip_rest_of_epoch(&mut loader)?;
                self.read_notes(&mut interval)?;
                let paused = Instant::now();
                self.end_epoch()?;
                // An evaluation is no part of a step.
                self.session.take_busy_time()?;
                interval.start += paused.elapsed();
            }
            if self.state.step == self.total_steps {
                return Ok(());
            }
            self.step(&mut loader, &mut interval)?;
            if self.state.step.is_multiple_of(self.config.log_interval) {
                self.read_notes(&mut interval)?;
                self.log_interval(&interval)?;
                interval = Interval::begin();
            }
            if let Some(signal) = self.signals.received() {
                self.read_notes(&mut interval)?;
                return self.interrupted(signal);
            }
            let recovery = self.config.recovery_interval;
            if recovery > 0 && self.state.step.is_multiple_of(recovery) {
                self.read_notes(&mut interval)?;
                let paused = Instant::now();
                self.save()?;
                interval.start += paused.elapsed();
            }
        }
    }

    /// Whether the steps of the current epoch are done and its evaluation is not.
    fn epoch_is_complete(&self) -> bool {
        let per_epoch = self.steps_per_epoch * self.config.grad_accum_steps as u64;
        let begun = self.state.batch_in_epoch > 0;
        self.state.batch_in_epoch >= per_epoch || (begun && self.state.step == self.total_steps)
    }

    fn interrupted(&mut self, signal: i32) -> Result<()> {
        self.save()?;
        let step = self.state.step;
        let message = format!("stopped at step {step}; go on with --resume {}", self.dir.path().display());
        self.note("interrupted", &message)?;
        self.write_report("stopped by a signal", None)?;
        Err(Error::Interrupted { signal })
    }

    /// The training stream from where the state stands.
    fn loader(&mut self) -> Result<Loader> {
        let options = self.loader_options(*self.config.augment);
        let batches = self.batches_per_epoch()?;
        let (epoch, batch) = if self.config.steps_per_epoch.is_some() {
            // Epochs of so many steps cut one stream of passes over the images, and not at their ends.
            let position = self.state.step * self.config.grad_accum_steps as u64;
            (position / batches, position % batches)
        } else if self.epoch_is_complete() {
            // Only its evaluation is missing: the next batch is the first of the next epoch, and none is left to skip.
            self.state.batch_in_epoch = batches;
            (self.state.epoch + 1, 0)
        } else {
            (self.state.epoch, self.state.batch_in_epoch)
        };
        Loader::train(Arc::clone(&self.source.train), &options, epoch as u32, batch as usize)
    }

    fn loader_options(&self, augment: Augment) -> LoaderOptions {
        let deliver = match self.pixels {
            PixelSource::Host => Deliver::Images,
            PixelSource::Batch => Deliver::Pixels,
            PixelSource::Resident { .. } => Deliver::Indices,
        };
        LoaderOptions { deliver, ..loader_options(&self.config, augment) }
    }

    fn batches_per_epoch(&self) -> Result<u64> {
        Ok(batches_per_epoch(self.source.train.len(), self.config.batch_size)? as u64)
    }

    /// One update from `grad_accum_steps` batches. Nothing here waits for a GPU; losses and hits are noted.
    fn step(&mut self, loader: &mut Loader, interval: &mut Interval) -> Result<()> {
        let start = Instant::now();
        let waited = loader.wait_time();
        for _ in 0..self.config.grad_accum_steps {
            let batch = loader.next()?.ok_or_else(|| Error::Usage("the training data ended early".into()))?;
            let annotations = self.source.annotations.as_ref().map(|annotations| &*annotations.train);
            let copying = Instant::now();
            self.io.feed.write(&mut self.session, &batch, annotations)?;
            interval.copy_seconds += copying.elapsed().as_secs_f64();
            loader.recycle(batch);
            self.session.run_micro_batch(TRAIN)?;
            self.session.note(&self.io.loss)?;
            self.session.note(&self.io.hits)?;
            self.state.batch_in_epoch += 1;
        }
        let (lr, update) = (self.schedule.lr(self.state.step), self.state.step + 1);
        self.session.write(&self.io.hyper, &hyper_parameters(&self.optimiser, lr, update))?;
        if let Some(slot) = &self.io.hyper_backbone {
            let lr = lr * self.config.backbone_lr_scale;
            self.session.write(slot, &hyper_parameters(&self.optimiser, lr, update))?;
        }
        self.session.run_update(TRAIN)?;

        let images = (self.config.batch_size * self.config.grad_accum_steps) as u64;
        let (seconds, wait) = (start.elapsed().as_secs_f64(), (loader.wait_time() - waited).as_secs_f64());
        self.state.step += 1;
        self.state.samples += images;
        self.state.train_seconds += seconds;
        let partial = &mut self.state.partial;
        partial.samples += images;
        partial.train_seconds += seconds;
        partial.data_wait_seconds += wait;
        interval.steps += 1;
        interval.data_wait_seconds += wait;
        self.progress.step(self.state.step);
        Ok(())
    }

    /// Waits for the steps so far and adds their losses and hits to the sums, which must be whole before anything is
    /// logged or saved.
    fn read_notes(&mut self, interval: &mut Interval) -> Result<()> {
        let start = Instant::now();
        let accum = self.config.grad_accum_steps;
        let images = (self.config.batch_size * accum) as f64;
        let (partial, done) = (&mut self.state.partial, self.state.step);
        let bad = self.session.take_notes(|notes| {
            let update_bytes = accum * size_of::<BatchNote>();
            let first = done - (notes.len() / update_bytes) as u64;
            for (step, notes) in (first..).zip(notes.chunks_exact(update_bytes)) {
                let mut loss = 0.0;
                for note in notes.chunks_exact(size_of::<BatchNote>()) {
                    let note: BatchNote = bytemuck::pod_read_unaligned(note);
                    loss += f64::from(note.loss) / accum as f64;
                    partial.correct1 += note.hits[0] as u64;
                }
                if !loss.is_finite() {
                    return Some((step, loss));
                }
                partial.loss += loss * images;
                interval.loss += loss;
            }
            None
        })?;
        if let Some(busy) = self.session.take_busy_time()? {
            *interval.busy_seconds.get_or_insert(0.0) += busy.as_secs_f64();
        }
        let seconds = start.elapsed().as_secs_f64();
        self.state.train_seconds += seconds;
        self.state.partial.train_seconds += seconds;
        bad.map_or(Ok(()), |(step, loss)| self.diverged(step, format!("the loss is {loss}")))
    }

    /// Ends the run because of `what` became of it after `step` updates.
    fn diverged(&mut self, step: u64, what: String) -> Result<()> {
        let message = format!(
            "{what}; the last good checkpoint is {}. Lower --lr, lengthen the warm-up, or set --clip-grad",
            self.dir.last_state().display()
        );
        self.note("diverged", &message)?;
        self.write_report("diverged", None)?;
        Err(Error::Diverged { step, message })
    }

    fn log_interval(&mut self, interval: &Interval) -> Result<()> {
        let seconds = interval.start.elapsed().as_secs_f64();
        let steps = interval.steps as f64;
        let images = steps * (self.config.batch_size * self.config.grad_accum_steps) as f64;
        let grad_norm = match self.io.grad_norm {
            Some(slot) => Some(f64::from(self.session.read::<f32>(&slot)?[0])),
            None => None,
        };
        let line = Step {
            epoch: self.state.epoch,
            step: self.state.step,
            samples: self.state.samples,
            loss: interval.loss / steps,
            lr: self.schedule.lr(self.state.step - 1),
            grad_norm,
            img_s: images / seconds,
            step_ms: 1e3 * seconds / steps,
            data_wait_ms: 1e3 * interval.data_wait_seconds / steps,
            h2d_ms: interval.busy_seconds.map(|_| 1e3 * interval.copy_seconds / steps),
            gpu_ms: interval.busy_seconds.map(|busy| 1e3 * busy / steps),
            mem_mib: self.session.arena_bytes() as f64 / (1024.0 * 1024.0),
        };
        self.metrics.append(&line)?;
        let scalars =
            [("train/loss", line.loss), ("train/lr", line.lr), ("train/images_per_second", line.img_s)];
        self.events.scalars(line.step, &scalars)?;
        self.progress.interval(&line, self.total_steps);
        Ok(())
    }

    /// Drops the batches that are too few for another update, so that every pass over the images starts at its own first
    /// batch.
    fn skip_rest_of_epoch(&mut self, loader: &mut Loader) -> Result<()> {
        if self.config.steps_per_epoch.is_some() {
            return Ok(());
        }
        let batches = self.batches_per_epoch()?;
        while self.state.step < self.total_steps && self.state.batch_in_epoch < batches {
            if let Some(batch) = loader.next()? {
                loader.recycle(batch);
            }
            self.state.batch_in_epoch += 1;
        }
        Ok(())
    }

    fn end_epoch(&mut self) -> Result<()> {
        self.check_weights()?;
        let options = self.loader_options(Augment::NONE);
        let signals = &self.signals;
        let annotations = self.source.annotations.as_ref().map(|annotations| &*annotations.val);
        let images = (&self.source.val, annotations);
        let evaluation = self.evaluator.run(&mut self.session, images, &options, || signals.received());
        let evaluation = match evaluation {
            Err(Error::Interrupted { signal }) => return self.interrupted(signal),
            other => other?,
        };
        if !evaluation.loss.is_finite() {
            return self.diverged(self.state.step, format!("the validation loss is {}", evaluation.loss));
        }
        let row = self.epoch_row(&evaluation);
        self.log_epoch(&row, &evaluation)?;
        let best = self.state.best.as_ref().is_none_or(|best| row.eval_err1 < best.err1);
        if best {
            self.state.best = Some(Best { epoch: row.epoch, err1: row.eval_err1 });
        }
        self.state.history.push(row);
        self.state.epoch += 1;
        self.state.batch_in_epoch = 0;
        self.state.partial = EpochSums::default();
        self.last_eval = Some(evaluation);
        // The state comes last: a run killed before it evaluates once more and writes the same files again.
        if best {
            self.export(&self.dir.best_weights())?;
        }
        if self.state.step == self.total_steps {
            self.write_report("finished", Some(&self.model_file()?))?;
        } else {
            self.write_report("running", None)?;
        }
        self.save()
    }

    fn epoch_row(&self, evaluation: &Evaluation) -> Epoch {
        let partial = &self.state.partial;
        let samples = partial.samples as f64;
        Epoch {
            epoch: self.state.epoch,
            step: self.state.step,
            samples: self.state.samples,
            lr: self.schedule.lr(self.state.step - 1),
            train_loss: partial.loss / samples,
            train_err1: 100.0 * (1.0 - partial.correct1 as f64 / samples),
            eval_n: evaluation.num_images,
            eval_loss: evaluation.loss,
            eval_err1: evaluation.top1_error(),
            eval_err5: evaluation.top5_error(),
            train_seconds: partial.train_seconds,
            data_wait_seconds: partial.data_wait_seconds,
            img_s: samples / partial.train_seconds,
        }
    }

    fn log_epoch(&mut self, row: &Epoch, evaluation: &Evaluation) -> Result<()> {
        let eval = Eval {
            epoch: row.epoch,
            step: row.step,
            split: "val".into(),
            n: evaluation.num_images,
            loss: evaluation.loss,
            top1: 0.0,
            top5: 0.0,
            err1: 0.0,
            err5: 0.0,
            ema: self.config.model_ema_decay.is_some(),
            seconds: evaluation.elapsed.as_secs_f64(),
        };
        self.metrics.append(&eval.with_correct(evaluation.correct1, evaluation.correct5))?;
        self.metrics.append(row)?;
        let scalars = [
            ("val/loss", row.eval_loss),
            ("val/top1_error", row.eval_err1),
            ("val/top5_error", row.eval_err5),
            ("train/top1_error", row.train_err1),
        ];
        self.events.scalars(row.step, &scalars)?;
        self.progress.epoch(row, self.config.epochs);
        self.dir.log(&summary::epoch_line(row, self.config.epochs))
    }

    /// Fails on weights that no checkpoint should hold: a finite loss may have had a gradient that is not.
    fn check_weights(&mut self) -> Result<()> {
        let broken =
            weights::first_not_finite(&self.session)?.map(|name| format!("`{name}` is not finite any more"));
        broken.map_or(Ok(()), |what| self.diverged(self.state.step, what))
    }

    /// Writes the weights for other programs and, when they are safe, the state a resumed run starts from.
    fn save(&mut self) -> Result<()> {
        self.check_weights()?;
        self.export(&self.dir.last_weights())?;
        state::save(&self.dir.last_state(), &self.state, &weights::state_tensors(&self.session)?)
    }

    fn export(&self, path: &std::path::Path) -> Result<()> {
        self.model_file()?.write(path)
    }

    /// The weights as they are evaluated and exported.
    fn model_file(&self) -> Result<ModelFile> {
        let prefix = if self.config.model_ema_decay.is_some() { EMA_PREFIX } else { "" };
        let card = ModelCard {
            model: self.config.model.clone(),
            form: self.config.form.to_string(),
            img_size: self.config.img_size,
            objects: self.source.annotations.as_ref().zip(self.config.objects).map(|(annotations, kind)| {
                ObjectsCard { kind: kind.to_string(), num_classes: annotations.train.num_classes() }
            }),
            categories: self.source.categories.clone(),
            mean: self.config.mean,
            std: self.config.std,
        };
        let tensors = weights::model_tensors(&self.session, prefix, self.state.step)?;
        Ok(ModelFile::new(&self.dir.last_weights(), card, tensors))
    }

    fn note(&mut self, event: &str, message: &str) -> Result<()> {
        self.dir.log(message)?;
        let step = self.state.step;
        self.metrics.append(&Event { step, event: event.into(), message: message.into() })
    }

    fn write_report(&self, status: &str, model: Option<&ModelFile>) -> Result<()> {
        let (history, evaluation) = (&self.state.history, self.last_eval.as_ref());
        let standing = summary::Standing { history, evaluation, model, status };
        summary::write(&self.dir, &self.env, &self.source, &standing)
    }

    fn finish(self) -> Result<Outcome> {
        self.progress.finish();
        let none = || Error::Usage("the run has no epoch to report; its last step was done before".into());
        let last = self.state.history.last().cloned().ok_or_else(none)?;
        let best = self.state.best.ok_or_else(none)?;
        Ok(Outcome { dir: self.dir, last, best })
    }
}

/// How the loader prepares batches under these settings.
pub fn loader_options(config: &TrainConfig, augment: Augment) -> LoaderOptions {
    LoaderOptions {
        batch_size: config.batch_size,
        augment,
        normalization: config.normalization(),
        deliver: Deliver::Images,
        seed: config.seed,
        workers: config.workers,
        prefetch: PREFETCH,
    }
}

fn first_state(model: String, seed: u64) -> TrainState {
    TrainState {
        format: FORMAT,
        model,
        seed,
        step: 0,
        epoch: 0,
        batch_in_epoch: 0,
        samples: 0,
        train_seconds: 0.0,
        partial: EpochSums::default(),
        best: None,
        history: Vec::new(),
    }
}
