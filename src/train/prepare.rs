//! A run before its first step: what a new run and a resumed one have in common.

use std::collections::BTreeMap;

use super::capacity;
use super::config::TrainConfig;
use super::growth::Growth;
use super::schedule::{Schedule, Shape};
use super::setting::OnResume;
use super::signal::Signals;
use super::source::Source;
use crate::device::Device;
use crate::dist::{self, Collective};
use crate::error::{Error, Result};
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
    /// Checks the settings, opens the data set and allocates the memory of the run on `device`, for one of the ranks that
    /// `ranks` reaches where there are some. Photos are decoded until a signal says otherwise.
    ///
    /// # Errors
    /// What reading the data, planning and allocating report, [`Error::Usage`] if rank 0 was given other settings, and what the
    /// collective reports.
    pub(super) fn new(
        config: TrainConfig,
        device: Device,
        signals: &Signals,
        ranks: Option<Box<dyn Collective>>,
    ) -> Result<Prepared> {
        Prepared::with(config, device, signals, false, ranks)
    }

    /// [`Prepared::new`] for a run whose every value is looked at.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub(super) fn inspected(config: TrainConfig, device: Device, signals: &Signals) -> Result<Prepared> {
        Prepared::with(config, device, signals, true, None)
    }

    fn with(
        mut config: TrainConfig,
        device: Device,
        signals: &Signals,
        keep_results: bool,
        mut ranks: Option<Box<dyn Collective>>,
    ) -> Result<Prepared> {
        config.validate()?;
        let num_ranks = ranks.as_ref().map_or(1, |ranks| ranks.rank().count);
        config.split_over(num_ranks)?;
        // The run's folder records the type itself: another device is no reason to change it.
        config.decide_precision(device.kind()).iter().for_each(tell);
        let mut ranks_per_node = 1;
        if let Some(ranks) = &mut ranks {
            // Before photos are decoded: what is wrong is said at once, and ranks that wait are few seconds apart.
            check_same_settings(&config, &mut **ranks)?;
            ranks_per_node = dist::ranks_per_node(&mut **ranks)?;
        }
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
        let step = config.of_rank(config.step_of(&model, source.facts(), device.kind()), num_ranks);
        let step = StepConfig { ranks_per_node, keep_results, ..step };
        let mut training = capacity::open(step, &source, device)?;
        if let Some(ranks) = ranks {
            training.join(ranks)?;
            check_same_images(&source, &config, &mut training)?;
        }
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
        let mut settings = self.config.records_on_one_rank();
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
        let per_update = self.config.batches_per_update() as u64;
        let done = base.epoch * self.steps_per_epoch + base.batch_in_epoch / per_update;
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

/// Settings that each rank has for itself, or rank 0 for all.
const OWN_SETTINGS: [&str; 6] = ["cache_dir", "data_dir", "device", "output", "pretrained", "workers"];

/// Fails where this rank has other settings than rank 0, and would train something else.
fn check_same_settings(config: &TrainConfig, ranks: &mut dyn Collective) -> Result<()> {
    let mut own = config.records();
    own.retain(|name, _| !OWN_SETTINGS.contains(&name.as_str()));
    own.insert("version of this program".into(), env!("CARGO_PKG_VERSION").into());
    let first = dist::share(ranks, serde_json::to_vec(&own).expect("names and texts are JSON"))?;
    let garbled =
        |_| Error::Usage("rank 1 runs another version of this program; start the same on all".into());
    let first: BTreeMap<String, String> = serde_json::from_slice(&first).map_err(garbled)?;
    let names = own.keys().chain(first.keys());
    match names.into_iter().find(|&name| own.get(name) != first.get(name)) {
        None => Ok(()),
        Some(name) => {
            let of = |settings: &BTreeMap<String, String>| {
                settings.get(name).map_or("unknown", String::as_str).to_string()
            };
            Err(Error::Usage(format!(
                "it has another `{name}` than rank 1, {} instead of {}: give all ranks the same settings",
                of(&own),
                of(&first)
            )))
        }
    }
}

/// Fails where this rank has other images than rank 0; returns when every rank has looked, so that none begins a run that
/// another cannot take part in.
fn check_same_images(source: &Source, config: &TrainConfig, training: &mut Training) -> Result<()> {
    let Some(ranks) = training.collective() else { return Ok(()) };
    let own = source.fingerprints();
    let mut first = own;
    ranks.broadcast(bytemuck::cast_slice_mut(&mut first))?;
    let splits = ["training", "validation"].into_iter().zip(own.into_iter().zip(first));
    if let Some((split, _)) = splits.into_iter().find(|(_, (own, first))| own != first) {
        let root = config.data_dir.clone().unwrap_or_else(|| "generated scenes".into());
        let message = format!(
            "its {split} images are others than those of rank 1; give all ranks copies of one data set"
        );
        return Err(Error::data(root, message));
    }
    ranks.all_gather(&[0], &mut vec![0; ranks.rank().count])
}
