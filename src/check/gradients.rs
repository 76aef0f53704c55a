//! Gradients against finite differences, in f64 on the CPU.

use super::{Outcome, Recording};
use crate::error::Result;
use crate::ops::Case;
use crate::tensor::DType;

/// Distance of the central difference. Its own error is of order `STEP^2`, rounding adds about 1e-16 / `STEP`.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-7;

/// Holds the gradients of a case, of its operands and of its parameters, to central differences of its result in f64,
/// element by element. An error is measured by one plus the difference's magnitude.
///
/// # Errors
/// What recording and running the case returns.
///
/// # Example
/// ```
/// use residuum::check::finite_differences;
/// use residuum::ops::{Case, relu};
///
/// let case = Case::new("relu_of_a_matrix", &[&[3, 5]], |graph, x| relu(graph, "relu", x[0]));
/// let outcome = finite_differences(&case)?;
/// assert!(outcome.passed(), "{}", outcome.worst);
/// # Ok::<(), residuum::Error>(())
/// ```
pub fn finite_differences(case: &Case) -> Result<Outcome> {
    let mut recorded = Recording::of_case(case, DType::F64)?.on_cpu()?;
    let mut contents = recorded.contents(17);
    let (_, dy) = contents.iter().find(|(name, _)| name == "dy").cloned().expect("every recording has one");
    let gradients = recorded.evaluate(&contents)?.split_off(1);
    let mut outcome = Outcome::new(case.name, DType::F64, TOLERANCE);
    for (name, gradient) in recorded.recording.differentiated.clone().iter().zip(&gradients) {
        let place = contents.iter().position(|(other, _)| other == name).expect("all have contents");
        for (i, &analytic) in gradient.iter().enumerate() {
            let at = contents[place].1[i];
            let mut projected = |value: f64| -> Result<f64> {
                contents[place].1[i] = value;
                let y = &recorded.evaluate(&contents)?[0];
                Ok(y.iter().zip(&dy).map(|(y, dy)| y * dy).sum())
            };
            let difference = (projected(at + STEP)? - projected(at - STEP)?) / (2.0 * STEP);
            contents[place].1[i] = at;
            let error = (difference - analytic).abs() / (1.0 + difference.abs());
            outcome.note(error, || {
                format!("`{name}`[{i}]: finite difference {difference}, gradient {analytic}")
            });
        }
    }
    Ok(outcome)
}
