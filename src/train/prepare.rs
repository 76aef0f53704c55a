//! A run before its first step: what a new run and a resumed one have in common.

use super::capacity;
use super::config::TrainConfig;
use super::growth::Growth;
use super::schedule::{Schedule, Shape};
use super::setting::OnResume;
use super::signal::Signals;
use super::source::Source;
use crate::device::Device;
use crate::error::Result;
use crate::graph::Role;
use crate::models::Model;
use crate::run::metrics::Run;
use crate::run::run_dir::command_of_this_process;
use crate::run::state::{Base, Origin, TrainState};
use crate::show::{show_path, tell};
use crate::step::{StepConfig, Training, pretrained};

/// Settings, data and the network in training, with its initial values.
pub(super) struct Prepared {
    pub(super) config: TrainConfig,
    device: Device,
    pub(super) source: Source,
    pub(super) model: Model,
    pub(super) training: Training,
    pub(super) schedule: Schedule,
    pub(super) growth: Growth,
    pub(super) steps_per_epoch: u64,
    pub(super) total_steps: u64,
}

impl Prepared {
    /// Checks the settings, opens the data set and allocates the memory of the run on `device`. Photos are decoded until a
    /// signal says otherwise.
    ///
    /// # Errors
    /// What reading the data, planning and allocating report.
    pub(super) fn new(config: TrainConfig, device: Device, signals: &Signals) -> Result<Prepared> {
        Prepared::with(config, device, signals, false)
    }

    /// [`Prepared::new`] for a run whose every value is looked at.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub(super) fn inspected(config: TrainConfig, device: Device, signals: &Signals) -> Result<Prepared> {
        Prepared::with(config, device, signals, true)
    }

    fn with(
        mut config: TrainConfig,
        device: Device,
        signals: &Signals,
        keep_results: bool,
    ) -> Result<Prepared> {
        config.validate()?;
        // The run's folder records the type itself: another device is no reason to change it.
        config.decide_precision(device.kind()).iter().for_each(tell);
        let source = Source::open(&config, &|| signals.received())?;
        let (steps_per_epoch, total_steps) = config.steps(source.train.len())?;
        if let Some(remark) = config.lr_remark(source.train.len()) {
            tell(remark);
        }
        // The run's folder records the rate itself: another number of images is no reason to change it.
        let lr = *config.lr.insert(config.lr_for(source.train.len()));
        let schedule = config.schedule(lr, steps_per_epoch, total_steps)?;
        let growth = config.growth(total_steps.div_ceil(steps_per_epoch));
        if config.grow_from.is_some() {
            config.grow_epochs = Some(growth.epochs);
            growth.remark().iter().for_each(tell);
        }
        let model = config.model(source.facts())?;
        let step = StepConfig { keep_results, ..config.step_of(&model, source.facts(), device.kind()) };
        let training = capacity::open(step, &source, device)?;
        Ok(Prepared {
            config,
            device,
            source,
            model,
            training,
            schedule,
            growth,
            steps_per_epoch,
            total_steps,
        })
    }

    /// Takes over the weights that the settings name, if they do, and says what of them.
    ///
    /// # Errors
    /// As [`pretrained::load`].
    pub(super) fn start_from_weights(&mut self) -> Result<Option<String>> {
        let Some(path) = &self.config.pretrained else { return Ok(None) };
        let form = self.model.options().form;
        let taken = pretrained::load(self.training.session_mut(), &self.model, form, path)?;
        Ok(Some(format!("{}: {taken}", show_path(path))))
    }

    /// The state of a run of which no step is done.
    pub(super) fn first_state(&self) -> TrainState {
        TrainState::first(self.origin(), self.model.title(), self.config.seed)
    }

    /// What a state of this run belongs to.
    pub(super) fn origin(&self) -> Origin {
        let mut settings = self.config.records();
        settings.retain(|name, _| TrainConfig::on_resume(name) != OnResume::Free);
        let [train_images, val_images] = self.source.fingerprints();
        let (categories, base) = (self.source.categories.clone(), Base::default());
        Origin { settings, categories, train_images, val_images, base }
    }

    /// Goes on from `base`, before which batches had another size: epochs stay as many, updates do not.
    ///
    /// # Errors
    /// As [`TrainConfig::schedule`].
    pub(super) fn rebase(&mut self, base: &Base) -> Result<()> {
        let accum = self.config.grad_accum_steps as u64;
        let done = base.epoch * self.steps_per_epoch + base.batch_in_epoch / accum;
        let left = self.config.epochs.saturating_mul(self.steps_per_epoch).saturating_sub(done);
        let total = base.step.saturating_add(left);
        self.total_steps = self.config.max_steps.map_or(total, |most| most.min(total));
        self.schedule = self.config.schedule(self.schedule.lr, self.steps_per_epoch, self.total_steps)?;
        if let Shape::Step { milestones, .. } = &mut self.schedule.shape {
            milestones.iter_mut().for_each(|step| *step = (*step + base.step).saturating_sub(done));
        }
        Ok(())
    }

    /// What the log says of the run, which continues from `state`.
    pub(super) fn record(&self, state: &TrainState) -> Run {
        let Prepared { config, source, .. } = self;
        let session = self.training.session();
        let parameter_bytes = session.program().persistent_bytes_where(|value| value.role == Role::Parameter);
        Run {
            step: state.step,
            model: state.model.clone(),
            data: source.format.clone(),
            device: self.device.describe(),
            parameters: (parameter_bytes / size_of::<f32>()) as u64,
            train_images: source.train.len() as u64,
            val_images: source.val.len() as u64,
            img_size: config.img_size as u64,
            batch_size: config.batch_size as u64,
            epochs: config.epochs,
            seed: config.seed,
            data_dir: config.data_dir.as_ref().map(|dir| dir.display().to_string()),
            command: command_of_this_process(),
        }
    }
}
