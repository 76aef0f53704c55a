//! Gradients against finite differences, and kernels against the CPU: one test body for the emulator and for GPUs, for
//! `cargo test` and for `check-kernels`.
//!
//! Every case of the operations' registry, and the layers of the networks at small batch, is recorded once with its
//! gradients and run on both devices from the same operands. Their memory is filled with NaN before, so a
//! result that is not written shows, and so does a read of what nothing wrote. In bf16 the operands are rounded first:
//! what differs is then the rounding of results. The CPU in bf16 is held to the CPU in f32 as a device of kernels is.
//!
//! [`Trial`] is the other half: operations on operands of their own, each result by itself. [`random()`] draws them, for
//! every kernel that an operation chooses by the dimensions, too. [`cases`] and the trials of [`TABLE_SEEDS`] together
//! launch every kernel there is.

mod gradients;
mod launched;
mod random;
mod recorded;
mod trial;

pub use crate::ops::{Contents, Record, Trial};
pub use gradients::finite_differences;
pub use launched::Launched;
pub use random::random;
pub use recorded::{Recorded, Recording};
pub use trial::Computed;

use half::bf16;

use crate::device::KernelDevice;
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::ops::{BnConfig, Case, Conv2dConfig, Mode, add, batch_norm, conv2d, registry, relu};
use crate::tensor::DType;

/// f32 results may differ by rounding and by the order of sums; relative to the norm of a reduction's terms, or to the
/// largest element of a tensor.
const TOLERANCE_F32: f64 = 1e-5;
/// Of sums in TF32: tensor cores cut them every four or eight products, twice as often as those of bf16.
const TOLERANCE_TF32: f64 = 5e-5;
/// bf16 keeps 8 bits: the most that rounding to nearest moves a number, relative to it.
const ROUNDING_BF16: f64 = 1.0 / 256.0;
/// In bf16 a gradient passes through a few rounded tensors.
const TOLERANCE_BF16: f64 = 2e-2;
/// A whole layer in bf16: where rounding moves an activation across zero, its ReLU masks another gradient.
const TOLERANCE_LAYER_BF16: f64 = 1e-1;
/// The group of cases that are whole layers.
const LAYER: &str = "layer";
const SEED: u64 = 29;

/// Seeds of the trials that belong to the table of `check-kernels`: with them it launches every kernel.
pub const TABLE_SEEDS: std::ops::Range<u64> = 0..2;

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

    /// Takes `error`, described by `place`, if it is worse than all before it.
    fn note(&mut self, error: f64, place: impl FnOnce() -> String) {
        if is_worse(error, self.error) {
            (self.error, self.worst) = (error, place());
        }
    }

    /// Notes a difference beyond every tolerance unless both sides computed values of the same names, and says whether they
    /// did.
    fn same_names(&mut self, expected: &[String], got: &[String]) -> bool {
        if expected != got {
            self.note(f64::NAN, || format!("the device computes {got:?}, the CPU {expected:?}"));
        }
        expected == got
    }

    /// Whether the device agrees with the CPU; NaN never does.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Every case whose name contains `filter`.
pub fn cases(filter: &str) -> Vec<(String, Case)> {
    let of_ops =
        registry().into_iter().flat_map(|(op, checks)| checks.cases.into_iter().map(move |case| (op, case)));
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
        let y = conv2d(graph, "conv", x, Conv2dConfig::square(out_channels, size, stride))?;
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
    held(name, case, float, |recording| recording.on_device(device))
}

/// As [`run`], on the CPU in f32 and on the CPU with activations of type `float`.
///
/// # Errors
/// As [`Recording::on_cpu`].
pub fn run_on_cpu(name: &str, case: &Case, float: DType) -> Result<Outcome> {
    held(name, case, float, Recording::on_cpu)
}

fn held(
    name: &str,
    case: &Case,
    float: DType,
    open: impl FnOnce(Recording) -> Result<Recorded>,
) -> Result<Outcome> {
    let mut expected = Recording::of_case(case, DType::F32)?.fused()?.on_cpu()?;
    let mut got = open(Recording::of_case(case, float)?.fused()?)?;
    let mut contents = expected.contents(SEED);
    if float == DType::Bf16 {
        let values = contents.iter_mut().flat_map(|(_, values)| values);
        values.for_each(|value| *value = bf16::from_f64(*value).to_f64());
    }
    let tolerance = match float {
        DType::Bf16 if name.starts_with(LAYER) => TOLERANCE_LAYER_BF16,
        DType::Bf16 => TOLERANCE_BF16,
        _ => TOLERANCE_F32,
    };
    let mut outcome = Outcome::new(name, float, tolerance);
    // Results are called after the nodes that made them, and a graph of bf16 has casts.
    if !outcome.same_names(&expected.recording.differentiated, &got.recording.differentiated) {
        return Ok(outcome);
    }
    let error = if float == DType::Bf16 { relative_norm } else { relative_error };
    let (expected, computed) = (expected.evaluate(&contents)?, got.evaluate(&contents)?);
    let pairs = expected.iter().zip(&computed);
    for (name, (expected, got)) in got.recording.results.iter().zip(pairs) {
        outcome.note(error(expected, got), || format!("`{name}`"));
    }
    Ok(outcome)
}

/// The largest difference over the largest expected element; NaN for another number of elements.
fn relative_error(expected: &[f64], got: &[f64]) -> f64 {
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let errors = expected.iter().zip(got).map(|(a, b)| (a - b).abs() / scale);
    let start = if expected.len() == got.len() { 0.0 } else { f64::NAN };
    errors.fold(start, |most, error| if is_worse(error, most) { error } else { most })
}

/// The norm of the difference over the norm of what was expected; NaN for another number of elements.
fn relative_norm(expected: &[f64], got: &[f64]) -> f64 {
    if expected.len() != got.len() {
        return f64::NAN;
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut expected.iter().zip(got).map(|(a, b)| a - b));
    difference / norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE)
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
        assert!(relative_error(&[1.0, 2.0], &[1.0, f64::NAN]).is_nan());
        let outcome = |error| Outcome { error, ..Outcome::new("", DType::F32, 1.0) };
        assert!(outcome(0.5).passed() && !outcome(1.5).passed() && !outcome(f64::NAN).passed());
        assert_eq!(relative_error(&[1.0, -4.0], &[1.0, -3.0]), 0.25);
        assert_eq!(relative_norm(&[3.0, -4.0], &[3.0, -3.0]), 0.2);
        assert!(relative_norm(&[1.0], &[f64::NAN]).is_nan());
        assert!(relative_error(&[1.0, 2.0], &[1.0]).is_nan() && relative_norm(&[1.0, 2.0], &[1.0]).is_nan());
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
