//! What operations over many tensors at once share: the optimiser's updates, averages, the gradient norm, bf16 copies.
//!
//! Their operands are a few leading scalars and then one group of equally shaped tensors per parameter, so that a
//! whole model is updated by one node.

use bytemuck::Zeroable;

use crate::device::kernels::TensorTable;
use crate::device::kernels::multi_tensor::{CHUNK_ELEMS, MAX_TENSORS, PLACE_BYTES};
use crate::device::{ALIGNMENT_BYTES, LaunchArgs, Slot};
use crate::error::{Error, Result};
use crate::graph::{Cost, InferResult, Op, ValueType};
use crate::ops::checks::{Draw, Trial, in_f32, state};
use crate::ops::launch::only_f32;
use crate::ops::{float, sum_dtype};
use crate::tensor::Shape;

/// Operand positions of such an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Groups {
    leading: usize,
    arity: usize,
    mutated: Vec<usize>,
}

impl Groups {
    /// `count` groups of `arity` tensors after `leading` scalars; the tensors at `mutated` positions of each group are
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
    pub fn check(&self, inputs: &[ValueType], roles: &str) -> InferResult<()> {
        let tensors = inputs.get(self.leading..).unwrap_or_default();
        if tensors.is_empty() || !tensors.len().is_multiple_of(self.arity) {
            return Err(format!(
                "takes {} scalars and then {roles} for each tensor, got {}",
                self.leading,
                inputs.len()
            ));
        }
        if float(tensors[0])?.dtype != sum_dtype(tensors[0].dtype) {
            return Err(format!("needs {roles} in f32, got {}", tensors[0]));
        }
        match tensors.chunks(self.arity).find(|group| group.iter().any(|ty| *ty != group[0])) {
            None => Ok(()),
            Some(group) => Err(format!("needs {roles} of one type and shape, got {group:?}")),
        }
    }

    /// The cost of a pass over all groups with `flops` operations an element.
    pub fn cost(&self, flops: usize, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let elems: usize = self.starts(inputs.len()).map(|start| inputs[start].shape.num_elems()).sum();
        Cost::traffic(inputs, outputs).and_again(inputs, &self.mutated).with_flops(flops * elems)
    }

    /// Calls `launch` with a table of the operands and the number of its blocks, as often as all groups need.
    ///
    /// # Errors
    /// [`Error::Device`] if a tensor is of a type or a size that the kernels cannot take, and what `launch` returns.
    pub fn launch_tables<const ARITY: usize>(
        &self,
        args: &LaunchArgs<'_>,
        launch: impl FnMut(TensorTable<ARITY>, usize) -> Result<()>,
    ) -> Result<()> {
        let (groups, _) = args.inputs[self.leading..].as_chunks();
        groups.iter().try_for_each(|group| only_f32("an operation on many tensors", group[0].dtype))?;
        launch_tables(groups.iter().copied(), launch)
    }
}

/// [`Groups::launch_tables`] for groups that are not consecutive operands, of types that the kernel takes.
///
/// # Errors
/// As in the other struct.
pub(crate) fn launch_tables<const ARITY: usize>(
    groups: impl Iterator<Item = [Slot; ARITY]>,
    mut launch: impl FnMut(TensorTable<ARITY>, usize) -> Result<()>,
) -> Result<()> {
    let (mut table, mut table_blocks) = (TensorTable::zeroed(), 0);
    for group in groups.filter(|group| group[0].shape.num_elems() > 0) {
        if table.num_tensors as usize == MAX_TENSORS {
            launch(table, table_blocks)?;
            (table, table_blocks) = (TensorTable::zeroed(), 0);
        }
        let tensor = table.num_tensors as usize;
        table.first_block[tensor] = word(table_blocks, &group)?;
        table.num_elems[tensor] = word(group[0].shape.num_elems(), &group)?;
        for (places, slot) in table.places.iter_mut().zip(&group) {
            assert_eq!(slot.offset_bytes % PLACE_BYTES, 0, "the planner aligns every value");
            places[tensor] = word(slot.offset_bytes / PLACE_BYTES, &group)?;
        }
        table.num_tensors += 1;
        table_blocks += num_blocks(group[0].shape);
    }
    if table.num_tensors > 0 { launch(table, table_blocks) } else { Ok(()) }
}

fn word(value: usize, group: &[Slot]) -> Result<u32> {
    u32::try_from(value)
        .map_err(|_| Error::Device(format!("an update of {} is more than a kernel counts", group[0].shape)))
}

const _: () = assert!(ALIGNMENT_BYTES.is_multiple_of(PLACE_BYTES), "tables count places in this unit");

/// Blocks that a tensor takes.
pub(crate) fn num_blocks(shape: Shape) -> usize {
    shape.num_elems().div_ceil(CHUNK_ELEMS)
}

/// An update of tensors in `roles`, after the hyper-parameters where there are any.
pub(crate) fn update_trial<T: Op>(
    draw: &mut Draw,
    name: &str,
    num_hyper: usize,
    roles: &'static [&'static str],
    op: impl Fn(usize) -> T + 'static,
) -> Trial {
    let sizes = draw.tensor_sizes();
    let title = format!("{name}: {} tensors, the first of {}", sizes.len(), sizes[0]);
    Trial::new(title, move |graph| {
        let mut operands = Vec::new();
        if num_hyper > 0 {
            operands.push(in_f32(graph, "hyper", [num_hyper]));
            operands.push(in_f32(graph, "grad_scale", []));
        }
        for (i, &size) in sizes.iter().enumerate() {
            operands.extend(roles.iter().map(|role| state(graph, &format!("{role}.{i}"), [size])));
        }
        graph.apply("update", op(sizes.len()), &operands)?;
        Ok(())
    })
}
