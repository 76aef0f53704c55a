//! What operations over many tensors at once share: the optimiser's updates, averages, the gradient norm.
//!
//! Their operands are a few leading scalars and then one group of equally shaped tensors per parameter, so that a
//! whole model is updated by one node.

use crate::graph::ValueType;

/// Operand positions of such an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Groups {
    leading: usize,
    arity: usize,
    mutated: Vec<usize>,
}

impl Groups {
    /// `count` groups of `arity` tensors behind `leading` scalars; the tensors at `mutated` positions of each group are
    /// changed.
    pub fn new(leading: usize, arity: usize, mutated: &[usize], count: usize) -> Groups {
        let position = |group: usize, i: &usize| leading + group * arity + i;
        let mutated = (0..count).flat_map(|group| mutated.iter().map(move |i| position(group, i))).collect();
        Groups { leading, arity, mutated }
    }

    /// Positions of the changed operands.
    pub fn mutated(&self) -> &[usize] {
        &self.mutated
    }

    /// Position of the first operand of each group among `num_inputs` operands.
    pub fn starts(&self, num_inputs: usize) -> impl Iterator<Item = usize> + use<> {
        (self.leading..num_inputs).step_by(self.arity)
    }

    /// Checks that the operands are whole groups of one shape and type each.
    pub fn check(&self, inputs: &[ValueType], roles: &str) -> std::result::Result<(), String> {
        let tensors = inputs.get(self.leading..).unwrap_or_default();
        if tensors.is_empty() || !tensors.len().is_multiple_of(self.arity) {
            return Err(format!(
                "takes {} scalars and then {roles} for each tensor, got {}",
                self.leading,
                inputs.len()
            ));
        }
        match tensors.chunks(self.arity).find(|group| group.iter().any(|ty| *ty != group[0])) {
            None => Ok(()),
            Some(group) => Err(format!("needs {roles} of one type and shape, got {group:?}")),
        }
    }
}
