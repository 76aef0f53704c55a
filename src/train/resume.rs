//! What must hold for a run to go on from its last state.

use std::path::Path;

use super::config::TrainConfig;
use super::prepare::Prepared;
use super::setting::OnResume;
use super::trainer::Outcome;
use crate::error::{Error, Result};
use crate::run::metrics::{self, Event, Records};
use crate::run::run_dir::RunDir;
use crate::run::state::{self, Base, Best, Origin, TrainState};
use crate::show::show_path;

/// The event of a run that is complete and removes its states.
pub(super) const WEIGHTS_ONLY: &str = "weights only";

/// What the run in `dir` logged, if it has removed its states because it was complete.
fn complete_without_states(dir: &RunDir) -> Option<Records> {
    if dir.last_state().try_exists().unwrap_or(true) {
        return None;
    }
    let records = metrics::read(&dir.metrics()).ok()?;
    let last_step = records.epochs.last()?.step;
    let is_it = |event: &Event| event.event == WEIGHTS_ONLY && event.step == last_step;
    records.events.iter().any(is_it).then_some(records)
}

/// What the run in `dir` came to, if it is complete, has removed its states and is to be what it is with the settings
/// `config`, too: the same command may be given again.
///
/// # Errors
/// As [`RunDir::read_config`].
pub fn outcome_without_states(dir: &RunDir, config: &TrainConfig) -> Result<Option<Outcome>> {
    let before = dir.read_config::<TrainConfig>()?;
    let (before, now) = (before.records_on_one_rank(), config.records_on_one_rank());
    let decides = |name: &String| TrainConfig::on_resume(name) != OnResume::Free;
    if before.keys().any(|name| decides(name) && before[name] != now[name]) {
        return Ok(None);
    }
    let Some(Records { epochs, .. }) = complete_without_states(dir) else { return Ok(None) };
    let best = epochs.iter().min_by(|a, b| a.eval_err1.total_cmp(&b.eval_err1));
    let outcome = best.zip(epochs.last()).map(|(best, last)| Outcome {
        dir: dir.clone(),
        last: last.clone(),
        best: Best { epoch: best.epoch, err1: best.eval_err1 },
    });
    Ok(outcome)
}

/// Fails if the state of the run in `dir` is gone: the first is written before the first step.
///
/// # Errors
/// [`Error::Checkpoint`] naming the file and what the run has behind it.
pub(super) fn refuse_lost_state(dir: &RunDir) -> Result<()> {
    let path = dir.last_state();
    // A file that cannot be looked at is reported when it is read.
    if path.try_exists().unwrap_or(true) {
        return Ok(());
    }
    if complete_without_states(dir).is_some() {
        let message = format!(
            "was removed when the run was complete (--weights-only), so the run cannot go on; eval, predict, export and report \
             take it as it is, and a new run begins with its weights: residuum train --config {} --pretrained {}",
            show_path(&dir.file("config.toml")),
            show_path(&dir.best_weights())
        );
        return Err(Error::checkpoint(path, message));
    }
    let behind = match metrics::read(&dir.metrics()) {
        Ok(records) if !records.epochs.is_empty() => format!("{} epochs", records.epochs.len()),
        Ok(records) if !records.steps.is_empty() => format!("{} logged steps", records.steps.len()),
        _ if dir.best_weights().exists() => "an evaluation".into(),
        Err(_) if dir.metrics().exists() => "a log that cannot be read".into(),
        _ => return Ok(()),
    };
    let config = dir.file("config.toml");
    Err(Error::checkpoint(
        path,
        format!(
            "is missing, and the run has {behind} behind it; restore the file from a copy, or begin a new run with the \
             same settings: residuum train --config {}",
            config.display()
        ),
    ))
}

/// What to do with a run that is to go on with other settings or images than it was stopped with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// Refuse it where that decides results.
    Refuse,
    /// Let it go on, and say so.
    GoOn,
}

/// The state that a run goes on from.
pub(super) struct Resumed {
    pub(super) state: TrainState,
    /// What the run has to say of the change, each with the kind of the event.
    pub(super) remarks: Vec<(&'static str, String)>,
}

/// The state at `path` that a run whose settings were `recorded` goes on from, with its tensors put into `run`; the first of
/// all where there is none, because the run was stopped before it wrote any.
///
/// # Errors
/// [`Error::Checkpoint`] naming what was changed and may not be, what does not hold in the state, or what does not fit the
/// run.
pub(super) fn state_at(
    path: &Path,
    recorded: &TrainConfig,
    run: &mut Prepared,
    on_change: OnChange,
) -> Result<Resumed> {
    let was_written = path.try_exists().unwrap_or(true);
    let (mut state, tensors) = if was_written { state::load(path)? } else { (run.first_state(), Vec::new()) };
    let mut origin = run.origin();
    let mut changes = Changes::default();
    changes.compare_settings(recorded, state.origin.as_ref(), &run.config);
    if let Some(before) = &state.origin {
        changes.compare_data(before, &origin);
    }
    let mut remarks = changes.judge(on_change).map_err(|what| Error::checkpoint(path, what))?;
    if state.origin.is_none() {
        let message = "the checkpoint is of an earlier version: that settings and images are still those it was made with \
                       cannot be checked";
        remarks.push(("unchecked", message.into()));
    }
    origin.base = base_of(&state);
    let batch_before = batch_size_of(recorded, state.origin.as_ref());
    if batch_before != run.config.batch_size as u64 {
        origin.base = new_base(&state, run, batch_before);
        state.batch_in_epoch = origin.base.batch_in_epoch;
    }
    if origin.base != Base::default() {
        run.rebase(&origin.base)?;
    }
    if batch_before != run.config.batch_size as u64 {
        let (from, of_epoch, total) = (state.step, run.steps_per_epoch, run.total_steps);
        let message = format!(
            "from step {from} on an epoch has {of_epoch} updates and the run ends after {total}; what was trained of the epoch \
             in progress counts in whole batches of the new size; --lr stays as it is"
        );
        remarks.push(("changed", message));
    }
    let seed_before = state.origin.as_ref().and_then(|before| before.settings.get("seed"));
    if seed_before.is_some_and(|seed| *seed == state.seed.to_string()) {
        state.seed = run.config.seed;
    }
    (state.format, state.origin) = (state::FORMAT, Some(origin));
    if was_written {
        check(&state, run).map_err(|what| Error::checkpoint(path, what))?;
        run.training.restore(&tensors, state.step, path)?;
    }
    Ok(Resumed { state, remarks })
}

/// Fails if the run is complete and would, without training on, be given settings that decided its results.
///
/// # Errors
/// [`Error::Usage`] naming such a setting.
pub(super) fn refuse_change_of_complete(
    state: &TrainState,
    recorded: &TrainConfig,
    run: &Prepared,
) -> Result<()> {
    if !state.is_over(run.total_steps, run.config.patience) {
        return Ok(());
    }
    let (before, now) = (recorded.records_on_one_rank(), run.config.records_on_one_rank());
    let kept = |name: &&String| TrainConfig::on_resume(name) == OnResume::Kept;
    match before.keys().filter(kept).find(|&name| before[name] != now[name]) {
        Some(name) => Err(Error::Usage(format!(
            "the run is complete after update {}, so `{name}` stays {}: it made these weights; --epochs trains on",
            state.step, before[name]
        ))),
        None => Ok(()),
    }
}

/// Images of a batch before.
fn batch_size_of(recorded: &TrainConfig, origin: Option<&Origin>) -> u64 {
    let settings = origin.map(|origin| &origin.settings);
    let written = settings.and_then(|settings| settings.get("batch_size")?.parse().ok());
    written.unwrap_or(recorded.batch_size as u64)
}

/// Where `run` takes on its batch size in the place of `batch_before`.
fn new_base(state: &TrainState, run: &Prepared, batch_before: u64) -> Base {
    let (batch, accum) = (run.config.batch_size as u64, run.config.batches_per_update() as u64);
    let batch_in_epoch = match run.config.steps_per_epoch {
        Some(_) => state.batch_in_epoch,
        None => state.batch_in_epoch.saturating_mul(batch_before) / batch / accum * accum,
    };
    Base { epoch: state.epoch, batch_in_epoch, step: state.step, samples: state.samples }
}

/// What differs between a run as it was stopped and as it is to go on.
#[derive(Debug, Default)]
struct Changes {
    /// What makes it another run.
    refused: Vec<String>,
    /// What users do change.
    told: Vec<String>,
}

impl Changes {
    /// Compares settings with those of the state, and where it has none, with those of config.toml.
    fn compare_settings(&mut self, recorded: &TrainConfig, origin: Option<&Origin>, now: &TrainConfig) {
        let mut before = recorded.records_on_one_rank();
        before.extend(origin.iter().flat_map(|origin| origin.settings.clone()));
        let mut now = now.records_on_one_rank();
        for (name, was) in before {
            let what = match now.remove(&name) {
                Some(is) if is == was => continue,
                Some(is) => format!("`{name}` is {is} and was {was}"),
                None => format!("`{name}`, which was {was}, is no setting of this version"),
            };
            match TrainConfig::on_resume(&name) {
                OnResume::Kept => self.refused.push(what),
                OnResume::Changes | OnResume::Free => self.told.push(what),
            }
        }
    }

    fn compare_data(&mut self, before: &Origin, now: &Origin) {
        let (was, is) = (&before.categories, &now.categories);
        if was.len() != is.len() {
            self.refused.push(format!("there are {} categories and were {}", is.len(), was.len()));
        } else if let Some(label) = (0..is.len()).find(|&label| is[label] != was[label]) {
            self.refused.push(format!("label {label} is `{}` and was `{}`", is[label], was[label]));
        }
        let splits = [
            ("training", before.train_images, now.train_images),
            ("validation", before.val_images, now.val_images),
        ];
        for (split, _, _) in splits.into_iter().filter(|(_, was, is)| was != is) {
            self.refused.push(format!("{split} images have other names, labels or pixels than they had"));
        }
    }

    /// What to say of the changes, or the words with which they are refused.
    fn judge(self, on_change: OnChange) -> std::result::Result<Vec<(&'static str, String)>, String> {
        let mut remarks = Vec::new();
        if !self.told.is_empty() {
            remarks.push(("changed", format!("the run goes on with changes: {}", self.told.join("; "))));
        }
        let what = self.refused.join("; ");
        match on_change {
            _ if what.is_empty() => {}
            OnChange::Refuse => {
                return Err(format!(
                    "the run would go on as another: {what}; put that back, or go on all the same with --allow-changed"
                ));
            }
            OnChange::GoOn => {
                remarks.push(("changed", format!("the run goes on as another (--allow-changed): {what}")));
            }
        }
        Ok(remarks)
    }
}

/// What must hold among the numbers of a state, and between them and the settings; else the words for what does not.
fn check(state: &TrainState, run: &Prepared) -> std::result::Result<(), String> {
    let (model, seed) = (run.model.title(), run.config.seed);
    if state.model != model {
        return Err(format!(
            "is of {} and the settings ask for {model}; put --model and --form back",
            state.model
        ));
    }
    if state.seed != seed {
        return Err(format!("is of seed {} and the settings ask for {seed}; put --seed back", state.seed));
    }
    let (step, total) = (state.step, run.total_steps);
    if step > total {
        return Err(format!(
            "has {step} updates done and the run ends after {total}; raise --epochs or --max-steps"
        ));
    }
    check_position(state, run).map_err(|what| {
        format!(
            "the numbers of the state contradict each other or the settings: {what}; restore the file from a copy, or put \
             back what was changed since the run was stopped"
        )
    })
}

/// The part of [`check`] that is about the position in the data.
fn check_position(state: &TrainState, run: &Prepared) -> std::result::Result<(), String> {
    let (epochs, epoch) = (state.history.len() as u64, state.epoch);
    if epoch != epochs || state.history.iter().zip(0..).any(|(row, number)| row.epoch != number) {
        return Err(format!("epoch {epoch} after {epochs} evaluated ones"));
    }
    if state.step == run.total_steps {
        // No batch follows, so there is no position.
        return Ok(());
    }
    let (accum, batch) = (run.config.batches_per_update() as u64, run.config.batch_size as u64);
    let (batches, base) = (state.batch_in_epoch, base_of(state));
    let (first_step, first_sample, steps_before) = match state.history.last() {
        _ if epoch == base.epoch => (base.step, base.samples, base.batch_in_epoch / accum),
        None => (0, 0, 0),
        Some(row) => (row.step, row.samples, 0),
    };
    let steps = (batches / accum).min(run.steps_per_epoch).saturating_sub(steps_before);
    if state.step != first_step + steps {
        let step = state.step;
        return Err(format!(
            "step {step} is {batches} batches into an epoch that began at step {first_step}"
        ));
    }
    let (samples, in_epoch, expected) = (state.samples, state.partial.samples, steps * accum * batch);
    if samples != first_sample + expected || (steps_before == 0 && in_epoch != expected) {
        return Err(format!(
            "{samples} images, {in_epoch} of them in an epoch that is {batches} batches of {batch} old"
        ));
    }
    Ok(())
}

fn base_of(state: &TrainState) -> Base {
    state.origin.as_ref().map_or_else(Base::default, |origin| origin.base)
}
