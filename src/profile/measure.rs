//! The time of a step on the device that runs it.

use std::time::Duration;

use super::Launch;
use crate::batch::{Batch, BatchContents};
use crate::device::DeviceKind;
use crate::error::Result;
use crate::rng::{Stream, Use};
use crate::step::{StepConfig, TRAIN, Training};
use crate::transform::{AutoSteps, SampleParams};

/// Runs before those that count, and how many count.
pub(super) const WARM_UP: usize = 2;
pub(super) const RUNS: usize = 7;
/// Learning rate of the steps.
const LR: f64 = 1e-3;

/// A batch as `step` takes it, the same for every call: random labels, images that nothing happens to, and no pixels yet.
pub fn batch_without_pixels(step: &StepConfig, num_classes: usize) -> Batch {
    let mut stream = Stream::new(step.seed, 0, 0, Use::Shuffle);
    let labels: Vec<i32> = (0..step.batch_size).map(|_| stream.below(num_classes as u32) as i32).collect();
    let mut batch = Batch::new(Vec::new(), labels);
    if step.pixels.contents() != BatchContents::Images {
        batch.rows = (0..step.batch_size as i32).collect();
        batch.params = vec![SampleParams::NONE; step.batch_size];
        batch.steps = vec![AutoSteps::NONE; if step.has_steps { step.batch_size } else { 0 }];
    }
    batch
}

/// Fills `batch` with noise, as `step` takes it.
fn fill_pixels(batch: &mut Batch, step: &StepConfig) {
    let mut stream = Stream::new(step.seed, 0, 0, Use::Augment);
    let num_pixels = step.batch_size * step.image_size * step.image_size * 3;
    match step.pixels.contents() {
        BatchContents::Images => batch.images = (0..num_pixels).map(|_| stream.normal()).collect(),
        BatchContents::Pixels | BatchContents::Indices => {
            batch.pixels = (0..num_pixels).map(|_| stream.below(256) as u8).collect();
        }
    }
}

/// The operations of a training step, for a device that launches nothing.
pub fn operations(training: &Training) -> Vec<Launch> {
    training.session().plan(TRAIN).steps.iter().map(|step| Launch::of(step, true)).collect()
}

/// Measures each of `launches`, those of a training step on the device of `training`, as the median over several steps on
/// `batch` with noise for pixels.
///
/// # Errors
/// [`crate::Error::Device`] if a step fails.
///
/// # Panics
/// If `launches` are of another step.
pub fn measure(training: &mut Training, mut batch: Batch, launches: &mut [Launch]) -> Result<()> {
    fill_pixels(&mut batch, training.config());
    // The batch stays, as the configuration keeps inputs.
    training.step(&batch, LR)?;
    let session = training.session_mut();
    let steps = &session.plan(TRAIN).steps;
    let of_step = |name: &str| launches.iter().filter(|launch| launch.layer == name).count();
    let by_step: Vec<usize> = steps.iter().map(|step| of_step(&step.name)).collect();
    let mut runs = Vec::with_capacity(RUNS);
    for run in 0..WARM_UP + RUNS {
        let mut times = vec![Duration::ZERO; launches.len()];
        match session.device() {
            DeviceKind::Cpu => session.run_timed(TRAIN, &mut times)?,
            DeviceKind::Cuda | DeviceKind::Simt => {
                session.run_timed_by_launch(TRAIN, &by_step, &mut times)?;
            }
        }
        if run >= WARM_UP {
            runs.push(times);
        }
    }
    for (i, launch) in launches.iter_mut().enumerate() {
        let mut times: Vec<Duration> = runs.iter().map(|times| times[i]).collect();
        times.sort_unstable();
        launch.measured_seconds = Some(times[RUNS / 2].as_secs_f64());
    }
    Ok(())
}
