//! What must hold for a run to go on from its last state.

use super::prepare::Prepared;
use crate::error::{Error, Result};
use crate::run::metrics;
use crate::run::run_dir::RunDir;
use crate::run::state::{self, TrainState};

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

/// The state that the run in `dir` goes on from, with its tensors put into `run`: the last one, or the first of all where
/// the run was stopped before it wrote any.
///
/// # Errors
/// [`Error::Checkpoint`] naming what does not hold in the state or does not fit the run.
pub(super) fn last_state(dir: &RunDir, run: &mut Prepared) -> Result<TrainState> {
    let path = dir.last_state();
    if !path.try_exists().unwrap_or(true) {
        return Ok(run.first_state());
    }
    let (state, tensors) = state::load(&path)?;
    check(&state, run).map_err(|what| Error::checkpoint(&path, what))?;
    run.training.restore(&tensors, state.step, &path)?;
    Ok(state)
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
    let (accum, batch) = (run.config.grad_accum_steps as u64, run.config.batch_size as u64);
    let batches = state.batch_in_epoch;
    let steps = (batches / accum).min(run.steps_per_epoch);
    let (first_step, first_sample) = state.history.last().map_or((0, 0), |row| (row.step, row.samples));
    if state.step != first_step + steps {
        let step = state.step;
        return Err(format!(
            "step {step} is {batches} batches into an epoch that began at step {first_step}"
        ));
    }
    let (samples, in_epoch) = (state.samples, state.partial.samples);
    if in_epoch != steps * accum * batch || samples != first_sample + in_epoch {
        return Err(format!(
            "{samples} images, {in_epoch} of them in an epoch that is {batches} batches of {batch} old"
        ));
    }
    Ok(())
}
