//! The training loop: batches in, updates, evaluation, checkpoints.

mod agreement;
mod beginning;
mod results;
mod save;
mod stop;
mod stream;

use std::time::Instant;

use self::agreement::Agreement;
use self::beginning::Beginning;
use super::config::TrainConfig;
use super::growth::Growth;
use super::log::{Interval, RunLog};
use super::loss_watch::LossWatch;
use super::prepare::Prepared;
use super::resume::{self, OnChange, Resumed};
use super::schedule::Schedule;
use super::signal::{OnUsr1, Signals};
use super::source::Source;
use super::summary::{self, Standing, Status};
use crate::batch::{Augment, Loader, LoaderOptions};
use crate::device::Device;
use crate::dist::{Collective, Rank};
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::run::metrics::{Epoch, Eval};
use crate::run::run_dir::RunDir;
use crate::run::state::{Best, EpochSums, TrainState};
use crate::show::tell;
use crate::step::evaluate::Evaluation;
use crate::step::{StepConfig, Training};

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Folder of the run.
    pub dir: RunDir,
    /// Last evaluation of the run.
    pub last: Epoch,
    /// Best evaluation of the run.
    pub best: Best,
}

/// A run in progress.
pub struct Trainer {
    config: TrainConfig,
    source: Source,
    training: Training,
    schedule: Schedule,
    growth: Growth,
    steps_per_epoch: u64,
    total_steps: u64,
    state: TrainState,
    log: RunLog,
    signals: Signals,
    /// Which of the processes of the run this is.
    rank: Rank,
    agreement: Agreement,
    watch: LossWatch,
    last_save: Instant,
}

impl Trainer {
    /// A new run on `device`, in a new folder.
    ///
    /// # Errors
    /// What reading the data, planning and allocating report.
    pub fn start(config: TrainConfig, device: Device) -> Result<Trainer> {
        Trainer::start_on_ranks(config, device, None)
    }

    /// [`Trainer::start`] on rank 0 of those that `ranks` reaches; the others [follow](Trainer::follow).
    ///
    /// # Errors
    /// As [`Trainer::start`], and [`Error::Peer`] if another rank has left.
    pub fn start_on_ranks(
        config: TrainConfig,
        device: Device,
        ranks: Option<Box<dyn Collective>>,
    ) -> Result<Trainer> {
        let signals = Signals::install(OnUsr1::of(config.checkpoint_on_usr1))?;
        let mut run = Prepared::new(config, device, &signals, ranks)?;
        let taken = run.start_from_weights()?;
        let name = match &run.config.experiment {
            Some(name) => name.clone(),
            None => format!("{}-{}", run.model.title(), run.config.img_size),
        };
        let dir = RunDir::create(&run.config.output, &name)?;
        dir.write_config(&run.config)?;
        let StepConfig { num_ranks, ranks_per_node, .. } = *run.training.config();
        run.config.order_remark(num_ranks, ranks_per_node).iter().for_each(tell);
        let state = run.first_state();
        Beginning::new(&dir, &state, false).give(&mut run)?;
        let mut trainer = Trainer::assemble(run, dir, state, signals)?;
        if let Some(taken) = taken {
            tell(&taken);
            trainer.log.event(0, "pretrained", &taken);
        }
        Ok(trainer)
    }

    /// Resumes the run in `dir` from its last checkpoint with the settings `config`, which the folder then has.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the checkpoint is damaged or missing, or, unless `on_change` lets it pass, of other settings
    /// or images that decide results; and as [`Trainer::start`].
    pub fn resume(dir: RunDir, config: TrainConfig, device: Device, on_change: OnChange) -> Result<Trainer> {
        Trainer::resume_on_ranks(dir, config, device, on_change, None)
    }

    /// [`Trainer::resume`] on rank 0 of those that `ranks` reaches; the others [follow](Trainer::follow). They need not be as
    /// many as before.
    ///
    /// # Errors
    /// As [`Trainer::resume`], and [`Error::Peer`] if another rank has left.
    pub fn resume_on_ranks(
        dir: RunDir,
        config: TrainConfig,
        device: Device,
        on_change: OnChange,
        ranks: Option<Box<dyn Collective>>,
    ) -> Result<Trainer> {
        resume::refuse_lost_state(&dir)?;
        let recorded: TrainConfig = dir.read_config()?;
        let signals = Signals::install(OnUsr1::of(config.checkpoint_on_usr1))?;
        let mut run = Prepared::new(config, device, &signals, ranks)?;
        let Resumed { state, remarks } = resume::state_at(&dir.last_state(), &recorded, &mut run, on_change)?;
        resume::refuse_change_of_complete(&state, &recorded, &run)?;
        let is_changed = !remarks.is_empty() || run.config != recorded;
        Beginning::new(&dir, &state, is_changed).give(&mut run)?;
        let mut trainer = Trainer::assemble(run, dir, state, signals)?;
        trainer.say_where();
        if is_changed {
            trainer.change(&recorded, &remarks)?;
        }
        Ok(trainer)
    }

    /// A rank that goes with rank 0, whichever run that has started or resumed. It has the same settings, but for where its
    /// data, its device and its cache are; state and folder it is told by rank 0, and it writes nothing.
    ///
    /// # Errors
    /// What reading the data, planning and allocating report; [`Error::Usage`] if settings differ, [`Error::Data`] if images do,
    /// and [`Error::Peer`] if another rank has left.
    pub fn follow(config: TrainConfig, device: Device, ranks: Box<dyn Collective>) -> Result<Trainer> {
        let signals = Signals::install(OnUsr1::of(config.checkpoint_on_usr1))?;
        let mut run = Prepared::new(config, device, &signals, Some(ranks))?;
        let beginning = Beginning::take(&mut run)?;
        let dir = RunDir::elsewhere(beginning.dir.as_ref());
        let mut trainer = Trainer::assemble(run, dir, beginning.state, signals)?;
        if beginning.is_changed {
            trainer.save()?;
        }
        Ok(trainer)
    }

    /// Says where the run goes on, or that it does not.
    fn say_where(&self) {
        let (step, total) = (self.state.step, self.total_steps);
        match self.idle_epochs() {
            Some(idle) => tell(format_args!(
                "the run ended after update {step}, {idle} epochs without a lower error; a larger --patience goes on"
            )),
            None if self.is_done() => {
                tell(format_args!("the run is complete after update {step}; more --epochs go on"))
            }
            None => {
                let epoch = self.state.epoch + 1;
                tell(format_args!("going on after update {step} of {total}, in epoch {epoch}"))
            }
        }
    }

    /// Says what has changed, and makes it the run's own. The folder is written to only now, under the lock of its log.
    fn change(&mut self, recorded: &TrainConfig, remarks: &[(&'static str, String)]) -> Result<()> {
        for (event, message) in remarks {
            tell(message);
            self.log.event(self.state.step, event, message);
        }
        if self.config != *recorded {
            self.dir().write_config(&self.config)?;
        }
        self.save()
    }

    fn assemble(mut run: Prepared, dir: RunDir, state: TrainState, signals: Signals) -> Result<Trainer> {
        let rank = run.training.collective().map_or(Rank::ALONE, |ranks| ranks.rank());
        let mut log = match rank.index {
            0 => RunLog::open(dir, &run.record(&state), run.total_steps)?,
            _ => RunLog::of_another_rank(dir),
        };
        if rank.count > 1 {
            tell(run.config.update_line(rank.count));
        }
        for remark in &run.source.remarks {
            log.event(state.step, "data", remark);
        }
        let Prepared { config, source, training, schedule, growth, steps_per_epoch, total_steps, .. } = run;
        let last_save = Instant::now();
        Ok(Trainer {
            config,
            source,
            training,
            schedule,
            growth,
            steps_per_epoch,
            total_steps,
            state,
            log,
            signals,
            rank,
            agreement: Agreement::begin(),
            watch: LossWatch::default(),
            last_save,
        })
    }

    /// The run's folder.
    pub fn dir(&self) -> &RunDir {
        self.log.dir()
    }

    /// The images of the run.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The session, to look at its program and memory.
    pub fn session(&self) -> &Session {
        self.training.session()
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss stops being finite, [`Error::DeviceFailed`] if the GPU fails; the last checkpoint
    /// stays. [`Error::Interrupted`] after a signal and [`Error::Data`] if images cannot be read any more, with a checkpoint
    /// written.
    pub fn run(mut self) -> Result<Outcome> {
        // The loop itself runs on one of the pool's threads: handing work to the pool from outside would allocate.
        match rayon::scope(|_| self.train()) {
            Err(Error::DeviceFailed(what)) => self.device_failed(&what),
            Err(Error::Data { path, message }) => self.data_failed(path, &message),
            Err(Error::Peer(what)) => self.peer_failed(&what),
            Err(Error::Replicas(what)) => self.replicas_differ(&what),
            ended => ended,
        }?;
        self.finish()
    }

    fn train(&mut self) -> Result<()> {
        self.take_size()?;
        let mut loader = self.loader()?;
        if self.state.step == 0 {
            self.save()?;
        }
        if !self.log.is_written() {
            // The pages are rank 0's.
        } else if self.state.step > 0 && !summary::csv_is_of(self.dir(), &self.state.history) {
            // The process before this one ended between a state and its pages.
            self.after_epoch()?;
        } else if !self.is_done() || self.config.weights_only {
            // The page is there from the start, and says of a run that was complete before that its states are gone.
            self.write_pages()?;
        }
        tell(format_args!("report: {}", self.log.page_path().display()));
        let mut interval = Interval::begin();
        loop {
            if self.epoch_is_complete() {
                self.skip_rest_of_epoch()?;
                self.read_results(&mut interval)?;
                if interval.steps > 0 {
                    self.log_interval(&interval)?;
                }
                self.end_epoch()?;
                if !self.is_done() && self.take_size()? {
                    loader = self.loader()?;
                }
                // An evaluation is not part of a step.
                self.training.take_busy_time()?;
                interval = Interval::begin();
            }
            if self.is_done() {
                return Ok(());
            }
            self.step(&mut loader, &mut interval)?;
            if self.state.step.is_multiple_of(self.config.log_interval) {
                self.read_results(&mut interval)?;
                self.log_interval(&interval)?;
                if self.log.page_is_due() {
                    let status = Status::Running(self.state.step, self.total_steps);
                    let standing = Standing { history: &self.state.history, model: None, status };
                    self.log.page(self.state.step, &self.source, &standing);
                }
                interval = Interval::begin();
            }
            let wanted = self.wanted()?;
            if let Some(signal) = wanted.signal {
                self.read_results(&mut interval)?;
                return self.interrupted(signal);
            }
            if wanted.checkpoint || self.checkpoint_is_due() {
                self.read_results(&mut interval)?;
                let paused = Instant::now();
                self.save()?;
                interval.start += paused.elapsed();
            }
        }
    }

    fn is_done(&self) -> bool {
        self.state.is_over(self.total_steps, self.config.patience)
    }

    /// Epochs without a better one, where they are so many that the run ends before its last step.
    fn idle_epochs(&self) -> Option<u64> {
        self.state.idle_epochs(self.config.patience?).filter(|_| self.state.step < self.total_steps)
    }

    /// Whether the last checkpoint is as many updates old as the settings allow.
    fn checkpoint_is_due(&self) -> bool {
        let updates = self.config.recovery_interval;
        updates > 0 && self.state.step.is_multiple_of(updates)
    }

    /// Whether the last checkpoint is as many minutes old as the settings allow.
    fn checkpoint_is_late(&self) -> bool {
        let minutes = self.config.checkpoint_minutes;
        minutes > 0.0 && self.last_save.elapsed().as_secs_f64() >= 60.0 * minutes
    }

    /// Whether the steps of the current epoch are done and its evaluation is not.
    fn epoch_is_complete(&self) -> bool {
        let per_epoch = self.steps_per_epoch * self.config.batches_per_update() as u64;
        let begun = self.state.batch_in_epoch > 0;
        self.state.batch_in_epoch >= per_epoch || (begun && self.is_done())
    }

    /// One update from `grad_accum_steps` batches, and as many of every other rank. Nothing here waits for a GPU.
    fn step(&mut self, loader: &mut Loader, interval: &mut Interval) -> Result<()> {
        let start = Instant::now();
        let waited = loader.wait_time();
        let lr = self.schedule.lr(self.state.step);
        for _ in 0..self.config.grad_accum_steps {
            let batch = loader.next()?.ok_or_else(|| Error::Usage("the training data ended early".into()))?;
            self.training.step(&batch, lr)?;
            loader.recycle(batch);
            self.state.batch_in_epoch += self.rank.count as u64;
        }
        let images = (self.config.batch_size * self.config.batches_per_update()) as u64;
        let (seconds, wait) = (start.elapsed().as_secs_f64(), loader.wait_time() - waited);
        self.state.step += 1;
        self.state.samples += images;
        self.state.train_seconds += seconds;
        let partial = &mut self.state.partial;
        partial.samples += images;
        partial.train_seconds += seconds;
        partial.data_wait_seconds += wait.as_secs_f64();
        interval.steps += 1;
        interval.data_wait += wait;
        self.log.step(self.state.step);
        Ok(())
    }

    fn end_epoch(&mut self) -> Result<()> {
        self.training.check_replicas()?;
        self.check_weights()?;
        let contents = self.training.config().pixels.contents();
        let options = LoaderOptions { contents, ..self.config.loader_options(Augment::NONE) };
        let signals = &self.signals;
        let evaluation = self.training.evaluate(&self.source.val, &options, || signals.received());
        let evaluation = match evaluation {
            Err(Error::Interrupted { signal }) => return self.interrupted(signal),
            other => other?,
        };
        if !evaluation.loss.is_finite() {
            return self.diverged(self.last_update(), &format!("the validation loss is {}", evaluation.loss));
        }
        let row = self.epoch_row(&evaluation);
        self.log_epoch(&row, &evaluation);
        let best = self.state.best.as_ref().is_none_or(|best| row.eval_err1 < best.err1);
        if best {
            self.state.best = Some(Best { epoch: row.epoch, err1: row.eval_err1 });
        }
        self.state.history.push(row);
        self.state.epoch += 1;
        self.state.batch_in_epoch = 0;
        self.state.partial = EpochSums::default();
        // What the state does not hold comes before it: a run killed in between evaluates once more and writes the same
        // files again. Pages come after it; a run killed in between writes them when it resumes.
        if best && self.log.is_written() {
            self.model_file()?.write(&self.dir().best_weights())?;
        }
        self.log.predictions(self.state.step, &self.source, &evaluation);
        if self.epoch_has_checkpoint() {
            self.save()?;
        }
        self.after_epoch()
    }

    /// Whether the state at the end of an epoch is written.
    fn epoch_has_checkpoint(&self) -> bool {
        self.state.epoch.is_multiple_of(self.config.checkpoint_interval) || self.is_done()
    }

    /// What follows the end of an epoch.
    fn after_epoch(&mut self) -> Result<()> {
        if !self.log.is_written() {
            return Ok(());
        }
        let (kept, epoch) = (self.config.checkpoint_hist, self.state.epoch);
        if kept > 0 && self.state.batch_in_epoch == 0 && self.epoch_has_checkpoint() {
            self.dir().keep_last(epoch, kept)?;
        }
        if let Some(best) = self.state.best.filter(|_| self.idle_epochs().is_some()) {
            let message = self.why_it_ended(&best);
            tell(&message);
            self.log.event(self.state.step, "stopped early", &message);
        }
        self.write_pages()
    }

    fn why_it_ended(&self, best: &Best) -> String {
        let (epoch, of) = (best.epoch + 1, self.state.epoch);
        format!("stopped early after epoch {of}: no top-1 error below {:.2} % since epoch {epoch}", best.err1)
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

    fn log_epoch(&mut self, row: &Epoch, evaluation: &Evaluation) {
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
        let eval = eval.with_correct(evaluation.correct1, evaluation.correct5);
        self.log.epoch(row, &eval, self.config.epochs);
    }

    /// Updates before the last one.
    fn last_update(&self) -> u64 {
        self.state.step.saturating_sub(1)
    }

    fn finish(self) -> Result<Outcome> {
        if self.config.weights_only && self.log.is_written() {
            self.dir().forget_states()?;
        }
        let dir = self.log.finish();
        let none = || Error::Usage("the run has no epoch to report; its last step was done before".into());
        let last = self.state.history.last().cloned().ok_or_else(none)?;
        let best = self.state.best.ok_or_else(none)?;
        Ok(Outcome { dir, last, best })
    }
}
