//! Whether a training run fits into memory, how large a batch may be, and where the pixels go.

use super::source::{Extent, Source};
use crate::device::{Device, DeviceKind};
use crate::error::{Error, Result};
use crate::exec::{Session, Start};
use crate::plan::Program;
use crate::show::{show_bytes, tell};
use crate::step::{PixelSource, StepConfig, Training, program};

/// What [`largest_batch`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LargestBatch {
    /// This many images are the most that fit.
    Fits {
        /// Images of the batch.
        images: usize,
        /// Bytes that the run then allocates.
        peak_bytes: usize,
    },
    /// Not even the smallest batch fits.
    TooLarge {
        /// Images of the smallest batch.
        images: usize,
        /// Bytes that it needs.
        peak_bytes: usize,
    },
}

/// The largest batch with which a run of `step` fits into `memory_bytes` on `device`.
///
/// # Errors
/// [`Error::Graph`] if the images do not fit the model.
pub fn largest_batch(step: &StepConfig, memory_bytes: usize, device: DeviceKind) -> Result<LargestBatch> {
    let peak = |batch_size| program(&StepConfig { batch_size, ..step.clone() }, device).map(|p| p.peak_bytes);
    // The last stage of a small image has one pixel, and batch norm no variance from one alone.
    let least = if peak(1).is_ok() { 1 } else { 2 };
    let needed = peak(least)?;
    if needed > memory_bytes {
        return Ok(LargestBatch::TooLarge { images: least, peak_bytes: needed });
    }
    // A larger batch is planned like the least one, unless it is more than kernels count.
    let is_possible = |batch_size| peak(batch_size).is_ok_and(|bytes| bytes <= memory_bytes);
    let (mut fits, mut too_many) = (least, 2 * least);
    while is_possible(too_many) {
        (fits, too_many) = (too_many, 2 * too_many);
    }
    while too_many - fits > 1 {
        let middle = fits.midpoint(too_many);
        if is_possible(middle) { fits = middle } else { too_many = middle }
    }
    Ok(LargestBatch::Fits { images: fits, peak_bytes: peak(fits)? })
}

/// Training with the step `step` on `source`, whose pixels it places.
///
/// # Errors
/// As [`open_session`].
pub(super) fn open(mut step: StepConfig, source: &Source, device: Device) -> Result<Training> {
    step.pixels = pixel_source(&step, &source.extent(), device.kind(), device.free_bytes()?)?;
    if let Some(line) = pixels_line(&step, &source.extent()) {
        tell(line);
    }
    let holds_pixels = matches!(step.pixels, PixelSource::Resident { .. });
    let session = open_session(&step, device)?;
    let mut training = Training::in_session(step, session)?;
    training.set_annotations(source.annotations.clone());
    if holds_pixels {
        training.upload_pixels(&source.train, &source.val)?;
    }
    Ok(training)
}

/// Where a run on such a data set takes its pixels from. A device that runs kernels holds them if there is room for them
/// in `free_bytes`, or if it does not say how much is free.
///
/// # Errors
/// As [`program`].
pub fn pixel_source(
    step: &StepConfig,
    extent: &Extent,
    device: DeviceKind,
    free_bytes: Option<usize>,
) -> Result<PixelSource> {
    if device == DeviceKind::Cpu {
        return Ok(PixelSource::Host);
    }
    let resident = PixelSource::Resident { train: extent.train, val: extent.val };
    let needed = program(&StepConfig { pixels: resident, ..step.clone() }, device)?.peak_bytes;
    let fits = free_bytes.is_none_or(|free_bytes| needed <= room_with_data(free_bytes));
    Ok(if fits { resident } else { PixelSource::Batch })
}

/// The part of `free_bytes` that a plan with the data set in it may take: the driver wants the rest for code and captured
/// steps.
pub fn room_with_data(free_bytes: usize) -> usize {
    free_bytes - free_bytes / 20
}

/// Says where the pixels of the data set are, for a device that prepares the images itself.
pub fn pixels_line(step: &StepConfig, extent: &Extent) -> Option<String> {
    let pixels = (extent.train + extent.val) * step.image_size * step.image_size * 3;
    let place = match step.pixels {
        PixelSource::Host => return None,
        PixelSource::Batch => "stay in the host's memory and go to the device batch by batch",
        PixelSource::Resident { .. } => "in the device's memory",
    };
    Some(format!("pixels: {} {place}", show_bytes(pixels)))
}

/// Plans a training run and allocates its memory on `device`.
///
/// # Errors
/// As [`program`] and [`Session::open`]. [`Error::DoesNotFit`] names the largest batch that would fit, where the device
/// says how much memory is free.
pub fn open_session(step: &StepConfig, device: Device) -> Result<Session> {
    open_with(step, device.kind(), |program| Session::open(program, device, Start::Seed(step.seed)))
}

fn open_with(
    step: &StepConfig,
    device: DeviceKind,
    open: impl FnOnce(Program) -> Result<Session>,
) -> Result<Session> {
    open(program(step, device)?).map_err(|error| match error {
        Error::DoesNotFit { message, free_bytes: Some(free_bytes) } => {
            let remedy = remedy(step, free_bytes, device);
            Error::DoesNotFit { message: format!("{message}; {remedy}"), free_bytes: Some(free_bytes) }
        }
        other => other,
    })
}

fn remedy(step: &StepConfig, free_bytes: usize, device: DeviceKind) -> String {
    match largest_batch(step, free_bytes, device) {
        Ok(LargestBatch::Fits { images, peak_bytes }) if images < step.batch_size => {
            format!("a batch of {images} would fit ({}): take --batch-size {images}", show_bytes(peak_bytes))
        }
        Ok(LargestBatch::TooLarge { images, peak_bytes }) => format!(
            "even a batch of {images} needs {}: take a smaller model or --img-size",
            show_bytes(peak_bytes)
        ),
        // What was free may have changed since, and what fits alone may not fit next to the kernels.
        Ok(LargestBatch::Fits { .. }) | Err(_) => "take a smaller --batch-size".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::{KernelDevice, Record, RecordList};
    use crate::train::config::TrainConfig;
    use crate::train::precision::PrecisionChoice;

    /// A device of `free_bytes` that runs nothing.
    struct SmallDevice {
        free_bytes: usize,
    }

    impl KernelDevice for SmallDevice {
        fn kind(&self) -> DeviceKind {
            DeviceKind::Cuda
        }

        fn allocate(&mut self, num_bytes: usize) -> Result<u64> {
            let free_bytes = Some(self.free_bytes);
            let message = format!("needs {num_bytes} of {} bytes", self.free_bytes);
            if num_bytes <= self.free_bytes { Ok(64) } else { Err(Error::DoesNotFit { message, free_bytes }) }
        }

        fn upload(&mut self, _: usize, _: &[u8]) -> Result<()> {
            Ok(())
        }

        fn download(&self, _: usize, _: &mut [u8]) -> Result<()> {
            Ok(())
        }

        fn run(&mut self, _: (usize, usize, usize), _: Record<'_>) -> Result<()> {
            Ok(())
        }

        fn take_busy_time(&mut self) -> Result<Duration> {
            Ok(Duration::ZERO)
        }

        fn run_timed(&mut self, _: RecordList<'_>, _: &mut [Duration]) -> Result<()> {
            Ok(())
        }
    }

    fn step(batch_size: usize) -> StepConfig {
        let precision = PrecisionChoice::F32;
        let config = TrainConfig { img_size: 40, batch_size, precision, ..TrainConfig::defaults(None) };
        config.step_config(7, DeviceKind::Cuda).unwrap()
    }

    fn open(batch_size: usize, free_bytes: usize) -> Result<Session> {
        open_with(&step(batch_size), DeviceKind::Cuda, |program| {
            Session::on(program, Box::new(SmallDevice { free_bytes }), Start::Zeros)
        })
    }

    fn peak_bytes(batch_size: usize) -> usize {
        program(&step(batch_size), DeviceKind::Cuda).unwrap().peak_bytes
    }

    #[test]
    fn a_data_set_is_held_where_it_leaves_room() {
        let (step, extent) = (step(4), Extent { train: 50, val: 20, facts: 7.into() });
        let resident = PixelSource::Resident { train: 50, val: 20 };
        let config = StepConfig { pixels: resident, ..step.clone() };
        let needed = program(&config, DeviceKind::Cuda).unwrap().peak_bytes;
        let decide = |device, free_bytes| pixel_source(&step, &extent, device, free_bytes).unwrap();
        assert_eq!(decide(DeviceKind::Cuda, None), resident);
        assert_eq!(decide(DeviceKind::Cuda, Some(needed * 20 / 19 + 20)), resident);
        assert_eq!(decide(DeviceKind::Cuda, Some(needed)), PixelSource::Batch);
        assert_eq!(decide(DeviceKind::Cpu, None), PixelSource::Host);
        assert_eq!(pixels_line(&config, &extent).unwrap(), "pixels: 328.12 KiB in the device's memory");
    }

    #[test]
    fn a_run_that_does_not_fit_names_the_largest_batch_that_does_and_that_one_fits() {
        let free_bytes = peak_bytes(12) - 1;
        let error = open(32, free_bytes).err().expect("32 images need more than 12");
        assert_eq!(error.exit_code(), 6);
        let message = error.to_string();
        let plan = format!("needs {} of {free_bytes} bytes", peak_bytes(32));
        assert!(message.starts_with(&plan) && message.ends_with("take --batch-size 11"), "{message}");
        assert!(open(11, free_bytes).is_ok() && open(12, free_bytes).is_err());
    }

    #[test]
    fn a_model_too_large_for_any_batch_is_told_so() {
        let message = open(32, peak_bytes(1) - 1).err().expect("not one image fits").to_string();
        assert!(message.contains("even a batch of 1 needs") && message.ends_with("--img-size"), "{message}");
    }

    #[test]
    fn a_batch_of_more_than_kernels_count_does_not_fit_into_any_memory() {
        let found = largest_batch(&step(4), 1 << 60, DeviceKind::Cuda).unwrap();
        let LargestBatch::Fits { images, peak_bytes } = found else { panic!("{found:?}") };
        assert_eq!(peak_bytes, self::peak_bytes(images));
        let message = program(&step(images + 1), DeviceKind::Cuda).unwrap_err().to_string();
        assert!(message.contains("kernels count fewer than"), "{message}");
    }
}
