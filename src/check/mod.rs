//! Kernels against the CPU: one test body for the emulator and for GPUs, for `cargo test` and for `check-kernels`.
//!
//! Every case of the operations' registry, and the layers of the networks at small batch, is recorded once with its
//! gradients and run on both devices from the same operands. The kernel device's memory is filled with NaN before, so a
//! result that is not written shows, and so does a read of what nothing wrote. In bf16 the operands are rounded first:
//! what differs is then the rounding of results.
//!
//! [`Trial`] is the other half: operations on operands of their own, each result by itself. [`random()`] draws them.

mod inputs;
mod random;
mod trial;

pub use random::random;
pub use trial::{Computed, Contents, Record, Trial};

use half::bf16;

use crate::autodiff::differentiate;
use crate::device::{DeviceKind, KernelDevice, Slot};
use crate::error::Result;
use crate::exec::{Session, Start};
use crate::fuse::{Rewrite, fuse};
use crate::graph::{Graph, Init, ValueId};
use crate::ops::{BnConfig, Case, Conv2dConfig, Mode, Window, add, batch_norm, conv2d, registry, relu};
use crate::plan::{Program, plan};
use crate::rng::{Stream, Use};
use crate::tensor::{DType, Shape};

/// f32 results may differ by rounding and by the order of sums; relative to the norm of a reduction's terms, or to the
/// largest element of a tensor.
const TOLERANCE_F32: f64 = 1e-5;
/// bf16 keeps 8 bits: the most that rounding to nearest moves a number, relative to it.
const ROUNDING_BF16: f64 = 1.0 / 256.0;
/// In bf16 a gradient passes through a few rounded tensors.
const TOLERANCE_BF16: f64 = 2e-2;
/// A whole layer in bf16: where rounding moves an activation across zero, its ReLU masks another gradient.
const TOLERANCE_LAYER_BF16: f64 = 1e-1;
/// The group of cases that are whole layers.
const LAYER: &str = "layer";
const SEED: u64 = 29;

/// How one case went on one device.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Operation and case.
    pub name: String,
    /// Type of the activations.
    pub float: DType,
    /// The worst tensor's error; NaN if any element was. In f32 the largest difference over the largest element; in bf16,
    /// where single elements may differ by much, the norm of the difference over the norm.
    pub error: f64,
    /// What was allowed.
    pub tolerance: f64,
    /// Where the error is; empty if there is none.
    pub worst: String,
}

impl Outcome {
    fn new(name: &str, float: DType, tolerance: f64) -> Outcome {
        Outcome { name: name.to_string(), float, error: 0.0, tolerance, worst: String::new() }
    }

    /// Whether the device agrees with the CPU; NaN never does.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Every case whose name contains `filter`.
pub fn cases(filter: &str) -> Vec<(String, Case)> {
    let of_ops = registry().into_iter().flat_map(|(op, cases)| cases.into_iter().map(move |case| (op, case)));
    of_ops
        .chain(layers().into_iter().map(|case| (LAYER, case)))
        .map(|(op, case)| (format!("{op}/{}", case.name), case))
        .filter(|(name, _)| name.contains(filter))
        .collect()
}

/// Layers of ResNet-18 and ResNet-50 at batch 2, as the fused graph runs them, and channel counts that no vector divides.
fn layers() -> Vec<Case> {
    fn layer(
        graph: &mut Graph,
        x: ValueId,
        out_channels: usize,
        size: usize,
        stride: usize,
    ) -> Result<ValueId> {
        let window = Window::square(stride, size / 2);
        let y = conv2d(graph, "conv", x, Conv2dConfig { out_channels, kernel: [size, size], window })?;
        let y = batch_norm(graph, "bn", y, BnConfig::new(Mode::Train))?;
        relu(graph, "relu", y)
    }
    vec![
        Case::new("stem_7x7_stride_2", &[&[2, 32, 32, 3]], |g, x| layer(g, x[0], 64, 7, 2)),
        Case::new("basic_3x3_64", &[&[2, 16, 16, 64]], |g, x| layer(g, x[0], 64, 3, 1)),
        Case::new("basic_3x3_stride_2_128", &[&[2, 16, 16, 64]], |g, x| layer(g, x[0], 128, 3, 2)),
        Case::new("deep_3x3_256", &[&[2, 4, 4, 256]], |g, x| layer(g, x[0], 256, 3, 1)),
        Case::new("bottleneck_1x1_256", &[&[2, 8, 8, 64]], |g, x| layer(g, x[0], 256, 1, 1)),
        Case::new("projection_1x1_stride_2", &[&[2, 8, 8, 128]], |g, x| layer(g, x[0], 256, 1, 2)),
        Case::new("mask_channels_175_to_50", &[&[2, 9, 7, 175]], |g, x| layer(g, x[0], 50, 3, 1)),
        Case::new("residual_block", &[&[2, 8, 8, 64]], |g, x| {
            let y = layer(g, x[0], 64, 3, 1)?;
            let sum = add(g, "add", y, x[0])?;
            relu(g, "out", sum)
        }),
    ]
}

/// Runs `case` on the CPU in f32 and on `device` with activations of type `float`.
///
/// # Errors
/// [`crate::Error::Device`] if a kernel is missing or the device reports a fault.
pub fn run(name: &str, case: &Case, float: DType, device: Box<dyn KernelDevice>) -> Result<Outcome> {
    let mut expected = Recorded::on_cpu(case)?;
    let mut got = Recorded::on_device(case, float, device)?;
    let mut stream = Stream::new(SEED, 0, 0, Use::Init);
    let round = |value: f32| if float == DType::Bf16 { bf16::from_f32(value).to_f32() } else { value };
    for (name, shape) in expected.operands.clone() {
        let values: Vec<f32> = (0..shape.num_elems()).map(|_| round(stream.normal())).collect();
        expected.write(&name, &values)?;
        got.write(&name, &values)?;
    }
    for recorded in [&mut expected, &mut got] {
        recorded.fill_persistent(round)?;
        if let Ok(labels) = recorded.session.plan(0).slot("labels") {
            recorded.session.write(&labels, case.labels)?;
            if let Ok(partners) = recorded.session.plan(0).slot("partners") {
                let reversed: Vec<i32> = case.labels.iter().rev().copied().collect();
                recorded.session.write(&partners, &reversed)?;
            }
        }
        recorded.session.run_micro_batch(0)?;
    }
    let tolerance = match float {
        DType::Bf16 if name.starts_with(LAYER) => TOLERANCE_LAYER_BF16,
        DType::Bf16 => TOLERANCE_BF16,
        _ => TOLERANCE_F32,
    };
    let mut outcome = Outcome::new(name, float, tolerance);
    for (a, b) in expected.results.iter().zip(&got.results) {
        let (expected, got) = (expected.read(a)?, got.read(b)?);
        let of_tensor = if float == DType::Bf16 {
            relative_norm(&expected, &got)
        } else {
            relative_error(&expected, &got)
        };
        if is_worse(of_tensor, outcome.error) {
            outcome.error = of_tensor;
            outcome.worst = format!("`{b}`");
        }
    }
    Ok(outcome)
}

/// A case with its gradients in a session.
struct Recorded {
    session: Session,
    /// The operands and the upstream gradient.
    operands: Vec<(String, Shape)>,
    /// Names of the result and of the gradients.
    results: Vec<String>,
}

impl Recorded {
    fn on_cpu(case: &Case) -> Result<Recorded> {
        let Recording { graph, operands, results } = record(case, DType::F32)?;
        Ok(Recorded { session: Session::new(plan(&[&graph], DeviceKind::Cpu)?)?, operands, results })
    }

    fn on_device(case: &Case, float: DType, device: Box<dyn KernelDevice>) -> Result<Recorded> {
        let Recording { graph, operands, results } = record(case, float)?;
        let program = plan(&[&graph], device.kind())?;
        Ok(Recorded { session: poisoned(program, device)?, operands, results })
    }

    fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        // A value that no node reads has no memory.
        let Ok(slot) = self.session.plan(0).slot(name) else { return Ok(()) };
        write(&mut self.session, &slot, values)
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        read(&self.session, &self.session.plan(0).slot(name)?)
    }

    /// Parameters and state, the same on every device: constants as they are, the rest by name.
    fn fill_persistent(&mut self, round: impl Fn(f32) -> f32) -> Result<()> {
        for p in self.session.program().persistent.clone() {
            let mut stream = Stream::new(SEED, 1, crc32c::crc32c(p.value.name.as_bytes()), Use::Init);
            let len = p.slot.shape.num_elems();
            let values: Vec<f32> = match p.value.init {
                Some(Init::Constant(value)) => vec![value; len],
                _ => (0..len).map(|_| round(0.1 * stream.normal())).collect(),
            };
            self.session.write(&p.slot, &values)?;
        }
        Ok(())
    }
}

/// A session on a device whose memory is filled with NaN.
fn poisoned(program: Program, device: Box<dyn KernelDevice>) -> Result<Session> {
    let mut session = Session::on(program, device, Start::Zeros)?;
    // All bits set is NaN in f32 and in bf16.
    session.fill_memory(0xFF)?;
    Ok(session)
}

/// Writes f32 values in the slot's own type.
fn write(session: &mut Session, slot: &Slot, values: &[f32]) -> Result<()> {
    match slot.dtype {
        DType::Bf16 => session.write(slot, &values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>()),
        _ => session.write(slot, values),
    }
}

/// Reads f32 or bf16 values.
fn read(session: &Session, slot: &Slot) -> Result<Vec<f32>> {
    match slot.dtype {
        DType::Bf16 => Ok(session.read::<bf16>(slot)?.iter().map(|v| v.to_f32()).collect()),
        _ => Ok(session.read::<f32>(slot)?.into_owned()),
    }
}

/// What [`record`] makes of a case.
struct Recording {
    graph: Graph,
    operands: Vec<(String, Shape)>,
    results: Vec<String>,
}

/// The fused graph of a case with the gradients of its operands and parameters, and the names to write and to read.
fn record(case: &Case, float: DType) -> Result<Recording> {
    let mut graph = Graph::new(float);
    let inputs: Vec<ValueId> = (0..)
        .zip(case.inputs)
        .map(|(i, shape)| {
            let dtype = if case.in_f32.contains(&i) { DType::F32 } else { float };
            graph.input(&format!("operand{i}"), Shape::new(shape), dtype)
        })
        .collect();
    let y = (case.build)(&mut graph, &inputs)?;
    let (shape, dtype) = (graph.shape(y), graph.value(y).ty.dtype);
    let dy = graph.input("dy", shape, dtype);
    let wanted: Vec<ValueId> = inputs.iter().copied().chain(graph.parameters()).collect();
    let gradients = differentiate(&mut graph, y, dy, &wanted)?;
    [y].iter().chain(&gradients).for_each(|&id| graph.keep(id));
    let fused = fuse(&graph, &Rewrite::ALL)?;
    let name = |id: ValueId| graph.value(id).name.clone();
    let operands = inputs.into_iter().chain([dy]).map(|id| (name(id), graph.shape(id))).collect();
    let results = [y].into_iter().chain(gradients).map(name).collect();
    Ok(Recording { graph: fused, operands, results })
}

/// The largest difference over the largest expected element.
fn relative_error(expected: &[f32], got: &[f32]) -> f64 {
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |most, v| most.max(f64::from(v.abs())));
    expected
        .iter()
        .zip(got)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs() / scale)
        .fold(0.0, |most, error| if is_worse(error, most) { error } else { most })
}

/// The norm of the difference over the norm of what was expected.
fn relative_norm(expected: &[f32], got: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut expected.iter().zip(got).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut expected.iter().map(|v| f64::from(*v))).max(f64::MIN_POSITIVE)
}

/// Whether `error` is the larger one; NaN is the largest.
fn is_worse(error: f64, than: f64) -> bool {
    !than.is_nan() && (error.is_nan() || error > than)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_no_number_never_passes() {
        assert!(relative_error(&[1.0, 2.0], &[1.0, f32::NAN]).is_nan());
        let outcome = |error| Outcome { error, ..Outcome::new("", DType::F32, 1.0) };
        assert!(outcome(0.5).passed() && !outcome(1.5).passed() && !outcome(f64::NAN).passed());
        assert_eq!(relative_error(&[1.0, -4.0], &[1.0, -3.0]), 0.25);
        assert_eq!(relative_norm(&[3.0, -4.0], &[3.0, -3.0]), 0.2);
        assert!(relative_norm(&[1.0], &[f32::NAN]).is_nan());
    }

    #[test]
    fn names_are_unique_and_filtered() {
        let all = cases("");
        let mut names: Vec<&String> = all.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
        assert!(cases("layer/").len() == layers().len() && cases("no such case").is_empty());
    }
}
