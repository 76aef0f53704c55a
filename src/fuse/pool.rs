//! Max pooling behind a batch norm and its ReLU.

use std::sync::Arc;

use super::Editor;
use crate::graph::{Node, Role, Value};
use crate::ops::{
    BatchNormApply, BatchNormBwd, BatchNormPool, BatchNormPoolDx, Conv2dDgrad, Conv2dDgradSums, Mask,
    MaxPool, MaxPoolBwd,
};
use crate::tensor::Layout;

impl Editor<'_> {
    /// What `Rewrite::ConvStats` left of a batch norm with its ReLU, then max pooling: one pass takes the largest and
    /// normalises it.
    pub(super) fn bn_pool(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(pool) = self.nodes[index].clone() else { continue };
            let Some(&MaxPool(window)) = pool.op_as() else { continue };
            let Some(norm_index) = self.only_maker(pool.inputs[0]) else { continue };
            let Some(norm) = self.nodes[norm_index].clone() else { continue };
            if norm.op_as() != Some(&BatchNormApply { relu: true, residual: false, bits: false }) {
                continue;
            }
            let Value { ty, name, .. } = self.graph.value(pool.outputs[0]).clone();
            let largest = self.graph.push_value(Value {
                name: format!("{name}.largest"),
                ty,
                role: Role::Activation,
                layout: Layout::Nhwc,
                init: None,
            });
            self.nodes[index] = Some(Node {
                op: Arc::new(BatchNormPool { window }),
                inputs: norm.inputs,
                outputs: [&pool.outputs[..], &[largest]].concat(),
                name: norm.name,
                ..pool
            });
            self.nodes[norm_index] = None;
        }
    }

    /// The gradients of what `Rewrite::BnPool` joined, where a dgrad makes that of its result: the dgrad applies the mask and
    /// takes the sums, for which the pixels that the windows took are enough, and one pass gathers what reaches a pixel. That is
    /// written nowhere.
    pub(super) fn bn_pool_bwd(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(norm) = self.nodes[index].clone() else { continue };
            if norm.op_as() != Some(&BatchNormBwd { mask: Some(Mask::Recomputed), residual: false }) {
                continue;
            }
            let Some(pool_index) = self.only_maker(norm.inputs[0]) else { continue };
            let Some(pool) = self.nodes[pool_index].clone() else { continue };
            let Some(&MaxPoolBwd { window, .. }) = pool.op_as() else { continue };
            let &[dz, argmax] = pool.inputs.as_slice() else { continue };
            let forward = self.maker[argmax.index()].and_then(|maker| self.nodes[maker].as_ref());
            let Some(forward) = forward.filter(|node| node.op_as::<BatchNormPool>().is_some()) else {
                continue;
            };
            let largest = forward.outputs[2];
            let Some(dgrad_index) = self.only_maker(dz) else { continue };
            let Some(dgrad) = self.nodes[dgrad_index].clone() else { continue };
            let Some(&op) = dgrad.op_as::<Conv2dDgrad>() else { continue };
            let &[_, x, gamma, mean, rstd, beta] = norm.inputs.as_slice() else { continue };
            let &[dx, dgamma, dbeta] = norm.outputs.as_slice() else { continue };
            let (operands, sum) = dgrad.inputs.split_at(2);
            self.nodes[dgrad_index] = Some(Node {
                op: Arc::new(Conv2dDgradSums { dgrad: op, mask: Some(Mask::Recomputed), joins: false }),
                inputs: [operands, &[largest, gamma, mean, rstd, beta], sum].concat(),
                outputs: vec![dz, dgamma, dbeta],
                ..dgrad
            });
            self.nodes[pool_index] = None;
            self.nodes[index] = Some(Node {
                op: Arc::new(BatchNormPoolDx { window }),
                inputs: vec![dz, x, gamma, mean, rstd, dgamma, dbeta, argmax],
                outputs: vec![dx],
                ..norm
            });
        }
    }
}
