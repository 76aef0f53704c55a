//! Operations on operands of their own, computed by a kernel device and by the CPU.

use half::bf16;

use super::recorded::{poisoned, poisoned_cpu, write};
use super::{Outcome, ROUNDING_BF16, TOLERANCE_F32, TOLERANCE_TF32};
use crate::device::{KernelDevice, Slot};
use crate::error::Result;
use crate::exec::Session;
use crate::graph::{Graph, Role, Value};
use crate::ops::checks::{Contents, Scale, Trial};
use crate::rng::{Stream, Use};
use crate::tensor::DType;

/// Parts of the names of operands that are never negative.
const NEVER_NEGATIVE: [&str; 5] = ["hyper", "var", "rstd", "moment2", "probs"];

/// A tensor after a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Computed {
    /// Name of the result in the graph.
    pub name: String,
    /// Type it was stored in.
    pub dtype: DType,
    /// Elements of the result; every type fits in f64.
    pub values: Vec<f64>,
}

impl Trial {
    /// The values that a device computes with activations of type `float`, from memory filled with NaN.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if a kernel is missing or the device reports a fault.
    pub fn on_device(&self, float: DType, device: Box<dyn KernelDevice>) -> Result<Vec<Computed>> {
        let graph = self.graph(float)?;
        let mut session = poisoned(&graph, device)?;
        self.fill(&graph, &mut session, |value| value)?;
        run(&graph, &mut session)
    }

    /// As [`Trial::on_device`], on the CPU.
    ///
    /// # Errors
    /// As [`plan`](crate::plan::plan()).
    pub fn on_cpu(&self, float: DType) -> Result<Vec<Computed>> {
        self.on_cpu_with(float, |value| value)
    }

    /// Holds a device with activations of type `float` to the CPU in f32: results within 1e-5 of their scale and, in bf16,
    /// one rounding.
    ///
    /// # Errors
    /// As [`Trial::on_device`].
    pub fn run(&self, float: DType, device: Box<dyn KernelDevice>) -> Result<Outcome> {
        self.held(float, &self.on_device(float, device)?)
    }

    /// As [`Trial::run`], holding the CPU to itself.
    ///
    /// # Errors
    /// As [`Trial::on_cpu`].
    pub fn run_on_cpu(&self, float: DType) -> Result<Outcome> {
        self.held(float, &self.on_cpu(float)?)
    }

    fn held(&self, float: DType, got: &[Computed]) -> Result<Outcome> {
        let graph = self.graph(DType::F32)?;
        let mut session = poisoned_cpu(&graph)?;
        self.fill(&graph, &mut session, |value| value)?;
        let before = read(&graph, &session)?;
        let expected = run(&graph, &mut session)?;
        let scales: Vec<Vec<f64>> = match self.scale {
            Scale::Largest => {
                let pairs = before.iter().zip(&expected);
                pairs.map(|(before, after)| vec![largest(before).max(largest(after))]).collect()
            }
            Scale::Terms => {
                let squares = self.on_cpu_with(DType::F32, |value| value * value)?;
                squares.into_iter().map(|tensor| tensor.values.into_iter().map(f64::sqrt).collect()).collect()
            }
        };
        let tolerance = if self.in_tf32 { TOLERANCE_TF32 } else { TOLERANCE_F32 };
        let mut outcome = Outcome::new(&self.name, float, tolerance);
        let names = |tensors: &[Computed]| -> Vec<String> {
            tensors.iter().map(|tensor| tensor.name.clone()).collect()
        };
        if !outcome.same_names(&names(&expected), &names(got)) {
            return Ok(outcome);
        }
        for ((expected, got), scales) in expected.iter().zip(got).zip(&scales) {
            let rounding = match (expected.dtype, got.dtype) {
                (DType::F32, DType::Bf16) => ROUNDING_BF16,
                _ => 0.0,
            };
            assert_eq!(expected.values.len(), got.values.len(), "one graph, two sizes of `{}`", got.name);
            for (i, (&a, &b)) in expected.values.iter().zip(&got.values).enumerate() {
                let error = error_of(a, b, rounding, scales[i % scales.len()]);
                outcome.note(error, || format!("`{}`[{i}] is {b}, not {a}", got.name));
            }
        }
        Ok(outcome)
    }

    fn on_cpu_with(&self, float: DType, map: impl Fn(f32) -> f32) -> Result<Vec<Computed>> {
        let graph = self.graph(float)?;
        let mut session = poisoned_cpu(&graph)?;
        self.fill(&graph, &mut session, map)?;
        run(&graph, &mut session)
    }

    /// Writes the operands, with `map` applied to every number that is not given.
    fn fill(&self, graph: &Graph, session: &mut Session, map: impl Fn(f32) -> f32) -> Result<()> {
        let in_bf16 = self.graph(DType::Bf16)?;
        for (value, slot) in &slots(graph, session) {
            if matches!(value.role, Role::Activation | Role::Gradient) {
                continue;
            }
            if let Some((_, contents)) = self.given.iter().find(|(name, _)| *name == value.name) {
                match contents {
                    Contents::F32(values) => session.write(slot, values)?,
                    Contents::I32(values) => session.write(slot, values)?,
                    Contents::U8(values) => session.write(slot, values)?,
                }
                continue;
            }
            let mut stream = Stream::new(self.seed, 2, crc32c::crc32c(value.name.as_bytes()), Use::Init);
            let len = slot.shape.num_elems();
            if slot.dtype == DType::I32 {
                let labels: Vec<i32> = (0..len).map(|_| stream.below(self.classes + 1) as i32 - 1).collect();
                session.write(slot, &labels)?;
                continue;
            }
            if slot.dtype == DType::U8 {
                let bytes: Vec<u8> = (0..len).map(|_| stream.below(256) as u8).collect();
                session.write(slot, &bytes)?;
                continue;
            }
            // What a graph of bf16 takes in bf16 is the same numbers in every graph.
            let is_narrow =
                in_bf16.find(&value.name).is_some_and(|id| in_bf16.value(id).ty.dtype == DType::Bf16);
            let magnitudes = NEVER_NEGATIVE.iter().any(|part| value.name.contains(part));
            let values: Vec<f64> = (0..len)
                .map(|_| {
                    if self.of_units && is_narrow {
                        return map(stream.below(3) as f32 - 1.0).into();
                    }
                    let value = stream.normal();
                    let value = if magnitudes { 0.25 + value.abs() } else { value };
                    map(if is_narrow { bf16::from_f32(value).to_f32() } else { value }).into()
                })
                .collect();
            write(session, slot, &values)?;
        }
        Ok(())
    }
}

/// Runs every node, and reads what they made or changed.
fn run(graph: &Graph, session: &mut Session) -> Result<Vec<Computed>> {
    session.run_micro_batch(0)?;
    session.run_update(0)?;
    read(graph, session)
}

/// The tensors that nodes make or change, as they are now.
fn read(graph: &Graph, session: &Session) -> Result<Vec<Computed>> {
    slots(graph, session)
        .into_iter()
        .filter(|(value, _)| value.role != Role::Input)
        .map(|(value, slot)| {
            let values = session.read_as_f64(&slot)?;
            Ok(Computed { name: value.name.clone(), dtype: slot.dtype, values })
        })
        .collect()
}

/// The values that have memory; one that no node reads has none.
fn slots<'a>(graph: &'a Graph, session: &Session) -> Vec<(&'a Value, Slot)> {
    let values = graph.values().iter();
    values.filter_map(|value| Some((value, session.plan(0).slot(&value.name).ok()?))).collect()
}

/// The magnitude of a tensor's largest element, apart from NaN that nothing has overwritten yet; integers are measured by
/// one.
fn largest(tensor: &Computed) -> f64 {
    match tensor.dtype {
        DType::I32 | DType::U8 => 1.0,
        _ => tensor.values.iter().fold(0.0, |most, value| most.max(value.abs())),
    }
}

/// By how much of `scale` `got` differs beyond a rounding of so much of what was expected.
fn error_of(expected: f64, got: f64, rounding: f64, scale: f64) -> f64 {
    let (difference, allowed) = ((got - expected).abs(), rounding * expected.abs());
    if difference <= allowed { 0.0 } else { (difference - allowed) / scale.max(f64::MIN_POSITIVE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Accumulate;
    use crate::ops::checks::state;

    #[test]
    fn only_what_rounding_does_not_explain_is_an_error() {
        assert_eq!(error_of(1.0, 1.0 + 1.0 / 256.0, ROUNDING_BF16, 1.0), 0.0);
        assert_eq!(error_of(2.0, 2.5, 0.0, 4.0), 0.125);
        assert!(error_of(3.0, f64::NAN, ROUNDING_BF16, 1.0).is_nan());
        assert!(error_of(3.0, f64::NAN, 0.0, 1.0).is_nan());
    }

    /// A sum of two numbers that nearly cancel is off by a rounding of theirs, which is much of what is left.
    #[test]
    fn a_tensor_changed_in_place_is_measured_by_what_it_was_before() {
        let trial = Trial::new("cancels", |graph| {
            let [sum, term] = ["sum", "term"].map(|name| state(graph, name, [1]));
            graph.apply("update", Accumulate::new(1), &[sum, term])?;
            Ok(())
        });
        let rest = f64::from(f32::EPSILON);
        let trial = trial
            .with_operand("sum", Contents::F32(vec![1.0]))
            .with_operand("term", Contents::F32(vec![f32::EPSILON - 1.0]));
        let error_with = |sum: f64| {
            let mut got = trial.on_cpu(DType::F32).unwrap();
            assert_eq!(got[0].values, [rest]);
            got[0].values[0] = sum;
            trial.held(DType::F32, &got).unwrap().error
        };
        assert_eq!(error_with(2.0 * rest), rest);
    }

    #[cfg(residuum_simt)]
    #[test]
    fn a_result_that_is_missing_or_has_another_name_fails() {
        use crate::device::simt::{Checks, SimtDevice};
        use crate::ops::relu;
        let run = |in_bf16: &'static [&'static str]| {
            let trial = Trial::new("relus", move |graph| {
                let float = graph.float();
                let x = graph.input("x", [5], float);
                let names = if float == DType::Bf16 { in_bf16 } else { &["y", "z"] };
                names.iter().try_for_each(|name| relu(graph, name, x).map(|_| ()))
            });
            trial.run(DType::Bf16, Box::new(SimtDevice::new(1, Checks::Off).unwrap())).unwrap()
        };
        assert!(run(&["y", "z"]).passed());
        for other in [&["y"][..], &["y", "other"], &["y", "z", "more"], &[]] {
            let outcome = run(other);
            assert!(!outcome.passed() && outcome.worst.contains("the device computes"), "{}", outcome.worst);
        }
    }
}
