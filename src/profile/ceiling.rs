//! What the device reaches at best, measured beside the step: the ceilings of its roofline (Williams, Waterman and Patterson 2009,
//! "Roofline: an insightful visual performance model").

use std::time::Duration;

use half::bf16;
use serde::{Deserialize, Serialize};

use super::Launch;
use super::measure::{RUNS, WARM_UP};
use crate::device::Device;
use crate::error::Result;
use crate::exec::{Session, Start};
use crate::graph::{Graph, Init};
use crate::ops::{Accumulate, Conv2dFprop, Window};
use crate::plan::plan;
use crate::rng::{Stream, Use};
use crate::step::StepConfig;
use crate::tensor::{DType, Layout};

/// Of a step, the part that each of the two operations has about as much to do as.
const PARTS: u64 = 16;
/// Channels of the convolution, the most that its flops allow, and the side of its images.
const CHANNELS: [usize; 3] = [256, 128, 64];
const SIDE: usize = 16;
/// Most flops of the convolution: what takes longer says no more.
const MOST_FLOPS: usize = 100_000_000_000;
/// Bytes of a tensor that is added: above, or so large that no cache holds it.
const LEAST_BYTES: usize = 64 << 10;
const MOST_BYTES: usize = 256 << 20;

/// The rates that a device reaches in operations which one thing alone bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Floating-point operations a second: of a 3x3 convolution of many channels, in the step's precision.
    pub flops_per_second: f64,
    /// Bytes a second: of a tensor that is added to another, two reads and a write.
    pub bytes_per_second: f64,
}

impl Ceilings {
    /// Measures them on `device`, in the precision of `step`, whose launches say how much to measure: a small step has small
    /// ceilings.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the memory is not there, [`crate::Error::Device`] if a run fails.
    pub fn measure(step: &StepConfig, device: Device, launches: &[Launch]) -> Result<Ceilings> {
        let part = |amount: fn(&Launch) -> u64| (launches.iter().map(amount).sum::<u64>() / PARTS) as usize;
        let wanted_flops = part(|launch| launch.flops).min(MOST_FLOPS);
        let flops_of_image = |channels: usize| 2 * SIDE * SIDE * 9 * channels * channels;
        let channels = CHANNELS.into_iter().find(|&channels| flops_of_image(channels) <= wanted_flops);
        let channels = channels.unwrap_or(CHANNELS[CHANNELS.len() - 1]);
        let num_images = (wanted_flops / flops_of_image(channels)).max(1);
        let num_bytes = part(|launch| launch.compulsory_bytes).clamp(LEAST_BYTES, MOST_BYTES);
        let num_elems = num_bytes / size_of::<f32>();

        let window = Window { allow_tf32: step.allow_tf32, ..Window::square(1, 1) };
        let convolution = fastest(step.float, device, |graph| {
            let image = graph.input("x", [num_images, SIDE, SIDE, channels], step.float);
            let filter = graph.input("w", [channels, 3, 3, channels], step.float);
            let result = graph.apply_one("y", Conv2dFprop { window }, &[image, filter])?;
            graph.keep(result);
            Ok(())
        })?;
        let addition = fastest(DType::F32, device, |graph| {
            let sum = graph.state("sum", [num_elems], Layout::Flat, Init::Constant(0.0));
            let term = graph.input("term", [num_elems], DType::F32);
            graph.apply("add", Accumulate::new(1), &[sum, term]).map(|_| ())
        })?;
        Ok(Ceilings {
            flops_per_second: (num_images * flops_of_image(channels)) as f64 / convolution,
            bytes_per_second: (3 * num_elems * size_of::<f32>()) as f64 / addition,
        })
    }

    /// Tells each launch how long its node would take at these rates: for its flops or its bytes, whichever takes longer.
    pub fn hold(&self, launches: &mut [Launch]) {
        for launch in launches {
            let flops = launch.flops as f64 / self.flops_per_second;
            launch.ceiling_seconds = Some(flops.max(launch.compulsory_bytes as f64 / self.bytes_per_second));
        }
    }

    /// In a sentence.
    pub(super) fn sentence(&self) -> String {
        format!(
            "Ceilings, measured beside the step: {:.2} TFLOP/s in a 3x3 convolution, {:.1} GB/s where a tensor is added to \
             another. \"Of ceiling\" is the time that a node's flops or its compulsory bytes take at these rates, whichever is \
             longer, over the time measured; above 100 % where a cache holds operands.",
            self.flops_per_second / 1e12,
            self.bytes_per_second / 1e9
        )
    }
}

/// Seconds of the fastest of several runs of the operation that `record` records, on noise: zeros take less power, and a GPU
/// then has a higher clock.
fn fastest(float: DType, device: Device, record: impl Fn(&mut Graph) -> Result<()>) -> Result<f64> {
    let mut graph = Graph::new(float);
    record(&mut graph)?;
    let mut session = Session::open(plan(&[&graph], device.kind())?, device, Start::Zeros)?;
    let mut stream = Stream::new(1, 0, 0, Use::Augment);
    let noise: Vec<f32> = (0..1 << 16).map(|_| stream.normal()).collect();
    for (operand, slot) in session.plan(0).steps[0].inputs.clone().into_iter().enumerate() {
        let values = noise.iter().copied().cycle().take(slot.shape.num_elems());
        let place = (0, 0, operand);
        match slot.dtype {
            DType::Bf16 => session.write_operand(place, &values.map(bf16::from_f32).collect::<Vec<_>>())?,
            _ => session.write_operand(place, &values.collect::<Vec<f32>>())?,
        }
    }
    let mut best = Duration::MAX;
    for run in 0..WARM_UP + RUNS {
        let mut times = [Duration::ZERO];
        session.run_timed(0, &mut times)?;
        if run >= WARM_UP {
            best = best.min(times[0]);
        }
    }
    Ok(best.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Model, Options};

    #[test]
    fn a_device_has_ceilings_in_every_precision() {
        for (float, allow_tf32) in [(DType::F32, false), (DType::F32, true), (DType::Bf16, false)] {
            let model = Model::new("resnet9", Options::new(3)).unwrap();
            let step = StepConfig { float, allow_tf32, ..StepConfig::new(model, 2, 16) };
            let ceilings = Ceilings::measure(&step, Device::Cpu, &[]).unwrap();
            // Between a millionth and a million of what a processor reaches.
            for rate in [ceilings.flops_per_second, ceilings.bytes_per_second] {
                assert!((1e4..1e16).contains(&rate), "{float}: {ceilings:?}");
            }
        }
    }

    #[test]
    fn a_node_is_held_to_the_slower_of_two_ceilings_at_its_first_launch() {
        let ceilings = Ceilings { flops_per_second: 1e9, bytes_per_second: 1e6 };
        let launch = |flops, compulsory_bytes| Launch {
            layer: "conv1".into(),
            operation: "conv2d_fprop".into(),
            phase: "forward".into(),
            flops,
            compulsory_bytes,
            gpu: None,
            measured_seconds: Some(4.0),
            ceiling_seconds: None,
        };
        let mut launches = [launch(2_000_000_000, 1_000_000), launch(0, 3_000_000), launch(0, 0)];
        ceilings.hold(&mut launches);
        let shares = launches.each_ref().map(Launch::of_ceiling);
        assert_eq!(shares, [Some(0.5), Some(0.75), None]);
    }
}
