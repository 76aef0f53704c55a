//! What the values of a session look like: where numbers overflow, and how far two sessions are apart.

use serde::Serialize;

use crate::error::Result;
use crate::exec::Session;
use crate::graph::Role;
use crate::tensor::DType;

/// The size of a value's elements.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// Name of the value.
    pub name: String,
    /// Number of elements.
    pub elements: usize,
    /// Elements that are infinite or not a number.
    pub not_finite: usize,
    /// Largest absolute value of the others.
    pub largest: f64,
    /// Root of the mean square of the others.
    pub rms: f64,
}

impl Statistics {
    /// Of `elems`, the elements of the value called `name`.
    pub fn of(name: &str, elems: &[f64]) -> Statistics {
        let finite = || elems.iter().filter(|elem| elem.is_finite());
        let count = finite().count();
        let squares: f64 = finite().map(|elem| elem * elem).sum();
        Statistics {
            name: name.to_string(),
            elements: elems.len(),
            not_finite: elems.len() - count,
            largest: finite().fold(0.0, |most, elem| most.max(elem.abs())),
            rms: (squares / count.max(1) as f64).sqrt(),
        }
    }
}

/// Of everything that a session learns or keeps count of.
///
/// # Errors
/// [`crate::Error::Device`] if the device refuses the copy.
pub fn of_persistent(session: &Session) -> Result<Vec<Statistics>> {
    let persistent =
        session.program().persistent.iter().filter(|p| !matches!(p.value.role, Role::Data | Role::Exchanged));
    persistent.map(|p| Ok(Statistics::of(&p.value.name, &session.read_as_f64(&p.slot)?))).collect()
}

/// A value that a node made, and how far it is from the same value of another session.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultStatistics {
    /// The operation that made it.
    pub op: &'static str,
    /// Its elements.
    #[serde(flatten)]
    pub elements: Statistics,
    /// The root of the mean square of the differences, as a share of the other's; `None` where there is nothing to compare.
    pub difference: Option<f64>,
}

/// Of every value that the forward and backward nodes of plan `index` made in its last run, in their order, compared with
/// the values of the same names in `reference`. All of them must be kept ([`super::StepConfig::keep_results`]).
///
/// # Errors
/// [`crate::Error::Graph`] if a value is not kept, [`crate::Error::Device`] if the device refuses the copy.
pub fn of_results(
    session: &Session,
    index: usize,
    reference: Option<&Session>,
) -> Result<Vec<ResultStatistics>> {
    let plan = session.plan(index);
    let mut results = Vec::new();
    for step in &plan.steps[..plan.first_update] {
        for slot in &step.outputs {
            let Some(name) = plan.kept_name(slot) else { continue };
            let elems = session.read_as_f64(slot)?;
            // A graph of another precision has values of its own, such as the copies of filters, and what is no float, such as
            // the places of largest values, is the same or not.
            let is_float = matches!(slot.dtype, DType::F32 | DType::Bf16 | DType::F64);
            let other = reference.filter(|_| is_float).and_then(|other| {
                let slot = other.plan(index).readable_slot(name).ok()?;
                Some(other.read_as_f64(&slot))
            });
            let difference = other.transpose()?.and_then(|other| difference(&elems, &other));
            let op = step.op.name();
            results.push(ResultStatistics { op, elements: Statistics::of(name, &elems), difference });
        }
    }
    Ok(results)
}

/// The root of the mean square of `a - b` as a share of that of `b`; `None` if they are not alike or `b` is zero.
fn difference(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    let squares = b.iter().map(|b| b * b).sum::<f64>();
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    (squares > 0.0).then(|| (apart / squares).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_counted_and_left_out_of_the_rest() {
        let found = Statistics::of("x", &[3.0, f64::NAN, -4.0, f64::NEG_INFINITY]);
        let expected =
            Statistics { name: "x".into(), elements: 4, not_finite: 2, largest: 4.0, rms: 12.5_f64.sqrt() };
        assert_eq!(found, expected);
        assert_eq!(Statistics::of("y", &[f64::NAN]).rms, 0.0);
    }

    #[test]
    fn differences_are_shares_of_the_reference() {
        assert_eq!(difference(&[1.0, 2.0], &[1.0, 2.0]), Some(0.0));
        assert_eq!(difference(&[3.0, 8.0], &[3.0, 4.0]), Some(0.8));
        assert!(difference(&[f64::NAN], &[1.0]).is_some_and(f64::is_nan));
        assert_eq!([difference(&[1.0], &[0.0]), difference(&[1.0], &[1.0, 2.0])], [None, None]);
    }
}
