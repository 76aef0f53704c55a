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
use crate::graph::{Graph, ValueId};
use crate::ops::{Conv2dFprop, Window, add};
use crate::plan::plan;
use crate::rng::{Stream, Use};
use crate::step::StepConfig;
use crate::tensor::DType;

/// Extents of the product are multiples of the widest tile, and no larger: what it takes long for is as well told by less.
const EXTENT_STEP: usize = 128;
const MOST_EXTENT: usize = 4096;
/// Bytes of a summand: above, or so large that no cache holds it.
const LEAST_BYTES: usize = 64 << 10;
const MOST_BYTES: usize = 256 << 20;
/// Parts of a step that each of the two takes about as long as.
const PARTS: u64 = 16;

/// The rates that a device reaches in operations which one thing alone bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Floating-point operations a second: of a 1x1 convolution in the step's precision, as many images as channels.
    pub flops_per_second: f64,
    /// Bytes a second: of the sum of two tensors, each read or written once.
    pub bytes_per_second: f64,
}

impl Ceilings {
    /// Measures them on `device`, in the precision of `step`, whose launches say how much to measure: a small step has small
    /// ceilings.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the memory is not there, [`crate::Error::Device`] if a run fails.
    pub fn measure(step: &StepConfig, device: Device, launches: &[Launch]) -> Result<Ceilings> {
        let of_step = |amount: fn(&Launch) -> u64| launches.iter().map(amount).sum::<u64>() / PARTS;
        let extent = ((of_step(|launch| launch.flops) / 2) as f64).cbrt() as usize;
        let extent = (extent / EXTENT_STEP * EXTENT_STEP).clamp(EXTENT_STEP, MOST_EXTENT);
        let num_bytes = (of_step(|launch| launch.compulsory_bytes) as usize).clamp(LEAST_BYTES, MOST_BYTES);
        let num_elems = num_bytes / step.float.size_bytes() / EXTENT_STEP * EXTENT_STEP;

        let window = Window { allow_tf32: step.allow_tf32, ..Window::square(1, 0) };
        let product = |graph: &mut Graph| {
            let image = graph.input("x", [extent, 1, 1, extent], step.float);
            let filter = graph.input("w", [extent, 1, 1, extent], step.float);
            graph.apply_one("product", Conv2dFprop { window }, &[image, filter])
        };
        let sum = |graph: &mut Graph| {
            let [a, b] = ["a", "b"].map(|name| graph.input(name, [num_elems], step.float));
            add(graph, "sum", a, b)
        };
        let flops = 2.0 * (extent as f64).powi(3);
        let bytes = (3 * num_elems * step.float.size_bytes()) as f64;
        Ok(Ceilings {
            flops_per_second: flops / fastest(step.float, device, product)?,
            bytes_per_second: bytes / fastest(step.float, device, sum)?,
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
            "Ceilings, measured beside the step: {:.2} TFLOP/s in a 1x1 convolution, {:.1} GB/s in a sum of two tensors. \"Of ceiling\" is \
             the time that a node's flops or its compulsory bytes take at these rates, whichever is longer, over the time measured; above \
             100 % where a cache holds operands.",
            self.flops_per_second / 1e12,
            self.bytes_per_second / 1e9
        )
    }
}

/// Seconds of the fastest of several runs of the operation that `record` records, on noise: zeros take less power, and a GPU
/// then has a higher clock.
fn fastest(float: DType, device: Device, record: impl Fn(&mut Graph) -> Result<ValueId>) -> Result<f64> {
    let mut graph = Graph::new(float);
    let result = record(&mut graph)?;
    graph.keep(result);
    let mut session = Session::open(plan(&[&graph], device.kind())?, device, Start::Zeros)?;
    let mut stream = Stream::new(1, 0, 0, Use::Augment);
    let noise: Vec<f32> = (0..1 << 16).map(|_| stream.normal()).collect();
    for (operand, slot) in session.plan(0).steps[0].inputs.clone().into_iter().enumerate() {
        let values = noise.iter().copied().cycle().take(slot.shape.num_elems());
        match float {
            DType::Bf16 => {
                session.write_operand((0, 0, operand), &values.map(bf16::from_f32).collect::<Vec<_>>())?;
            }
            _ => session.write_operand((0, 0, operand), &values.collect::<Vec<f32>>())?,
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
