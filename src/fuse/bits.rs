//! Masks of ReLUs as bits.

use std::sync::Arc;

use super::Editor;
use crate::graph::{Node, Op, Role, Value, ValueId};
use crate::ops::{BatchNormApply, BatchNormBwd, BatchNormJoin, Conv2dDgradSums, Mask};
use crate::tensor::{DType, Layout};

impl Editor<'_> {
    /// The end of a block in bf16, and what reads its result for the mask of its ReLU alone: that reads bits instead.
    pub(super) fn mask_bits(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(mut norm) = self.nodes[index].clone() else { continue };
            norm.op = match (norm.op_as(), norm.op_as()) {
                (Some(&BatchNormApply { relu: true, residual: true, .. }), _) => {
                    Arc::new(BatchNormApply { relu: true, residual: true, bits: true })
                }
                (_, Some(&BatchNormJoin { relu: true, .. })) => {
                    Arc::new(BatchNormJoin { relu: true, bits: true })
                }
                _ => continue,
            };
            let y = norm.outputs[0];
            let Value { ty, name, .. } = self.graph.value(y).clone();
            if ty.dtype != DType::Bf16 || !ty.shape.last().is_multiple_of(16) {
                continue;
            }
            let masked = |&reader: &usize| Some((reader, by_bits(self.nodes[reader].as_ref()?, y)?));
            let masked: Vec<(usize, (Node, usize))> =
                self.readers[y.index()].iter().filter_map(masked).collect();
            if masked.is_empty() {
                continue;
            }
            let bits = self.graph.push_value(Value {
                name: format!("{name}.bits"),
                ty: Mask::Bits.operand(ty),
                role: Role::Activation,
                layout: Layout::Nhwc,
                init: None,
            });
            norm.outputs.push(bits);
            self.nodes[index] = Some(norm);
            for (index, (mut reader, place)) in masked {
                reader.inputs[place] = bits;
                self.nodes[index] = Some(reader);
            }
        }
    }
}

/// A node that masks by `y` as one that masks by bits, and the place of their operand.
fn by_bits(node: &Node, y: ValueId) -> Option<(Node, usize)> {
    let (op, place): (Arc<dyn Op>, usize) = match (node.op_as(), node.op_as()) {
        (Some(&Conv2dDgradSums { mask: Some(Mask::Result), dgrad, joins }), _) => {
            (Arc::new(Conv2dDgradSums { mask: Some(Mask::Bits), dgrad, joins }), 6)
        }
        (_, Some(&BatchNormBwd { mask: Some(Mask::Result), residual })) => {
            (Arc::new(BatchNormBwd { mask: Some(Mask::Bits), residual }), 5)
        }
        _ => return None,
    };
    (node.inputs[place] == y).then(|| (Node { op, ..node.clone() }, place))
}
