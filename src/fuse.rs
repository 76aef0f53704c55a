//! Rewrites of the textbook graph into the one that runs: the same numbers in fewer passes over memory.
//!
//! Each [`Rewrite`] looks for one pattern and replaces its nodes by fewer, or by as many that pass over memory less often; values
//! keep their ids and names. They act on
//! the differentiated graph, so the patterns of the backward pass are found next to those of the forward pass. A [`Fusion`]
//! says which of them run.

mod bits;
mod fusion;
mod pool;

use std::sync::Arc;

pub use self::fusion::Fusion;
use crate::error::Result;
use crate::graph::{Graph, Node, Op, Phase, Role, ValueId};
use crate::named::named;
use crate::ops::{
    Add, AugmentBlocks, AugmentFwd, BatchNormApply, BatchNormBwd, BatchNormDx, BatchNormInference,
    BatchNormJoin, BatchNormJoinDx, BatchNormTrain, Cast, CastTensors, Conv2dBatchNorm, Conv2dDgrad,
    Conv2dDgradSums, Conv2dFprop, Conv2dStats, Mask, Relu, ReluBwd, SpaceToDepth,
};
use crate::tensor::DType;

/// Defines [`Rewrite`]. A row is what the rewrite does, in a line, `Variant = name => function;`; they run in the order of
/// the rows.
macro_rules! rewrites {
    ($(#[doc = $does:literal] $variant:ident = $name:literal => $find:expr;)+) => {
        named! {
            /// One pattern and what it becomes.
            pub enum Rewrite {
                $(#[doc = $does] $variant = $name,)+
            }
        }

        impl Rewrite {
            /// Every rewrite, in the order in which they run.
            pub const ALL: [Rewrite; Rewrite::NAMES.len()] = [$(Rewrite::$variant),+];

            /// What it does, in a line.
            pub fn does(self) -> &'static str {
                match self {
                    $(Rewrite::$variant => $does.trim_ascii().trim_end_matches('.'),)+
                }
            }

            /// Finds all its places.
            fn find<'g>(self) -> fn(&mut Editor<'g>) {
                match self {
                    $(Rewrite::$variant => $find,)+
                }
            }
        }
    };
}

rewrites! {
    /// Batch norm, shortcut's add and ReLU in one pass.
    BnAddRelu = "bn-add-relu" => Editor::bn_add_relu;
    /// In inference, a convolution stores normalised.
    ConvBn = "conv-bn" => Editor::conv_bn;
    /// A dgrad adds to another branch's gradient.
    DgradAdd = "dgrad-add" => Editor::dgrad_add;
    /// A dgrad applies the mask and takes the sums.
    DgradSums = "dgrad-sums" => Editor::dgrad_sums;
    /// Gradients of ReLU and batch norm in one pass.
    BnAddReluBwd = "bn-add-relu-bwd" => Editor::bn_add_relu_bwd;
    /// In training, a convolution takes the statistics.
    ConvStats = "conv-stats" => Editor::conv_stats;
    /// A block's end normalises its shortcut, too.
    BnJoin = "bn-join" => Editor::bn_join;
    /// Gradients of what bn-join joins, in one pass.
    BnJoinBwd = "bn-join-bwd" => Editor::bn_join_bwd;
    /// A block's end leaves its ReLU's mask as bits.
    MaskBits = "mask-bits" => Editor::mask_bits;
    /// Batch norm, ReLU and max pooling in one pass.
    BnPool = "bn-pool" => Editor::bn_pool;
    /// A dgrad takes the sums of what bn-pool joins.
    BnPoolBwd = "bn-pool-bwd" => Editor::bn_pool_bwd;
    /// One node makes the bf16 copies of all filters.
    MultiTensorCast = "multi-tensor-cast" => Editor::multi_tensor_cast;
    /// Images are made in the blocks of the stem.
    AugmentBlocks = "augment-blocks" => Editor::augment_blocks;
}

/// The graph after `rewrites`.
///
/// # Errors
/// [`crate::Error::Graph`] if the result does not verify.
pub fn fuse(graph: &Graph, rewrites: &[Rewrite]) -> Result<Graph> {
    let mut graph = graph.clone();
    for rewrite in rewrites {
        let mut editor = Editor::new(&mut graph);
        rewrite.find()(&mut editor);
        let nodes = editor.nodes.into_iter().flatten().collect();
        graph.set_nodes(nodes);
    }
    graph.verify()?;
    Ok(graph)
}

/// The node list under change: `None` where a node was merged into another.
struct Editor<'g> {
    graph: &'g mut Graph,
    nodes: Vec<Option<Node>>,
    /// By value: the node that makes it, and the nodes that read it, in order.
    maker: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
    is_result: Vec<bool>,
}

impl Editor<'_> {
    fn new(graph: &mut Graph) -> Editor<'_> {
        let mut maker = vec![None; graph.values().len()];
        let mut readers = vec![Vec::new(); graph.values().len()];
        for (index, node) in graph.nodes().iter().enumerate() {
            node.outputs.iter().for_each(|id| maker[id.index()] = Some(index));
            node.inputs.iter().for_each(|id| readers[id.index()].push(index));
        }
        let mut is_result = vec![false; graph.values().len()];
        graph.results().iter().for_each(|id| is_result[id.index()] = true);
        let nodes = graph.nodes().iter().cloned().map(Some).collect();
        Editor { graph, nodes, maker, readers, is_result }
    }

    /// Batch norm, then an optional residual add, then ReLU: one pass that normalises, adds and clips.
    fn bn_add_relu(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(relu) = self.nodes[index].clone().filter(|node| node.op_as::<Relu>().is_some()) else {
                continue;
            };
            let sum = self.only_maker(relu.inputs[0]).filter(|&i| self.is::<Add>(i));
            let candidates = match sum.and_then(|i| self.nodes[i].as_ref()) {
                Some(add) => vec![(add.inputs[0], Some(add.inputs[1])), (add.inputs[1], Some(add.inputs[0]))],
                None => vec![(relu.inputs[0], None)],
            };
            for (normalised, residual) in candidates {
                let Some(norm_index) = self.only_maker(normalised) else { continue };
                let Some(norm) = self.nodes[norm_index].clone() else { continue };
                let Some(op) = with_relu(&norm, residual.is_some()) else { continue };
                let mut outputs = norm.outputs.clone();
                outputs[0] = relu.outputs[0];
                let inputs = norm.inputs.iter().copied().chain(residual).collect();
                self.nodes[index] = Some(Node { op, inputs, outputs, name: norm.name, phase: relu.phase });
                self.nodes[norm_index] = None;
                if let Some(sum) = sum {
                    self.nodes[sum] = None;
                }
                break;
            }
        }
    }

    /// Convolution, then a batch norm by running statistics with what [`Rewrite::BnAddRelu`] merged into it: the convolution
    /// normalises, adds and clips as it stores. What needs the sums, such as a gradient, keeps them apart.
    fn conv_bn(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(norm) = self.nodes[index].clone() else { continue };
            let Some(&norm_op) = norm.op_as::<BatchNormInference>() else { continue };
            let Some(conv_index) = self.only_maker(norm.inputs[0]) else { continue };
            let Some(conv) = self.nodes[conv_index].clone() else { continue };
            let Some(&Conv2dFprop { window }) = conv.op_as() else { continue };
            self.nodes[index] = Some(Node {
                op: Arc::new(Conv2dBatchNorm { window, norm: norm_op }),
                inputs: conv.inputs.into_iter().chain(norm.inputs.into_iter().skip(1)).collect(),
                outputs: norm.outputs,
                name: conv.name,
                phase: norm.phase,
            });
            self.nodes[conv_index] = None;
        }
    }

    /// ReLU backward, then batch norm backward: the mask is applied while the sums are taken, and the masked gradient is written only where the shortcut needs it. Where the
    /// ReLU followed the batch norm at once, the mask is computed from x once more.
    fn bn_add_relu_bwd(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(mask) = self.nodes[index].clone().filter(|node| node.op_as::<ReluBwd>().is_some())
            else {
                continue;
            };
            let masked = mask.outputs[0];
            let readers = &self.readers[masked.index()];
            // The first reader runs before every other, so it can hand the masked gradient on.
            let Some(&first) = readers.first().filter(|_| !self.is_result[masked.index()]) else { continue };
            let shared = readers.len() > 1;
            let Some(norm) = self.nodes[first].clone() else { continue };
            let plain = norm.op_as::<BatchNormBwd>().is_some_and(|op| op.mask.is_none() && !op.residual);
            if !plain || norm.inputs[0] != masked || norm.inputs[1..].contains(&masked) {
                continue;
            }
            let y = mask.inputs[1];
            let beta = self.beta_behind(y, norm.inputs[1]).filter(|_| !shared);
            let kind = if beta.is_some() { Mask::Recomputed } else { Mask::Result };
            let op = Arc::new(BatchNormBwd { mask: Some(kind), residual: shared });
            let mut inputs = norm.inputs.clone();
            inputs[0] = mask.inputs[0];
            inputs.push(beta.unwrap_or(y));
            let outputs = norm.outputs.iter().copied().chain(shared.then_some(masked)).collect();
            self.nodes[first] = Some(Node { op, inputs, outputs, ..norm });
            self.nodes[index] = None;
        }
    }

    /// dgrad, perhaps ReLU backward, then batch norm backward: the convolution stores behind the mask and takes the sums, and one
    /// pass is left of the batch norm. Where several batch norms read the same gradient, the first.
    fn dgrad_sums(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(norm) = self.nodes[index].clone() else { continue };
            if norm.op_as() != Some(&BatchNormBwd { mask: None, residual: false }) {
                continue;
            }
            let &[dz, x, gamma, mean, rstd] = norm.inputs.as_slice() else { continue };
            let Some(maker) = self.maker[dz.index()] else { continue };
            let relu = self.nodes[maker].clone().filter(|node| node.op_as::<ReluBwd>().is_some());
            let Some(dgrad_index) = relu.as_ref().map_or(Some(maker), |relu| self.only_maker(relu.inputs[0]))
            else {
                continue;
            };
            let Some(dgrad) = self.nodes[dgrad_index].clone() else { continue };
            let Some(&op) = dgrad.op_as::<Conv2dDgrad>() else { continue };
            let (mask, of_mask) = match relu.map(|relu| relu.inputs[1]) {
                None => (None, None),
                Some(y) => match self.beta_behind(y, x) {
                    Some(beta) => (Some(Mask::Recomputed), Some(beta)),
                    None => (Some(Mask::Result), Some(y)),
                },
            };
            let (operands, sum) = dgrad.inputs.split_at(2);
            let sums = [norm.outputs[1], norm.outputs[2]];
            if mask.is_some() {
                self.nodes[maker] = None;
            }
            self.nodes[dgrad_index] = Some(Node {
                op: Arc::new(Conv2dDgradSums { dgrad: op, mask, joins: false }),
                inputs: [operands, &[x, gamma, mean, rstd], of_mask.as_slice(), sum].concat(),
                outputs: vec![dz, sums[0], sums[1]],
                ..dgrad
            });
            self.nodes[index] = Some(Node {
                op: Arc::new(BatchNormDx),
                inputs: vec![dz, x, gamma, mean, rstd, sums[0], sums[1]],
                outputs: vec![norm.outputs[0]],
                ..norm
            });
        }
    }

    /// Convolution, then a batch norm by the statistics of the batch: the convolution takes them as it stores, and one pass is
    /// left of the batch norm.
    fn conv_stats(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(norm) = self.nodes[index].clone() else { continue };
            let Some(&BatchNormTrain { eps, bn_momentum, relu, residual }) = norm.op_as() else { continue };
            let Some(conv_index) = self.maker[norm.inputs[0].index()] else { continue };
            let Some(conv) = self.nodes[conv_index].clone() else { continue };
            let Some(&Conv2dFprop { window }) = conv.op_as() else { continue };
            let (y, gamma, beta) = (norm.inputs[0], norm.inputs[1], norm.inputs[2]);
            let statistics = &norm.outputs[1..];
            self.nodes[conv_index] = Some(Node {
                op: Arc::new(Conv2dStats { window, eps, bn_momentum }),
                inputs: [&conv.inputs, &norm.inputs[3..5]].concat(),
                outputs: [&[y], statistics].concat(),
                ..conv
            });
            self.nodes[index] = Some(Node {
                op: Arc::new(BatchNormApply { relu, residual, bits: false }),
                inputs: [&[y, gamma, beta], statistics, &norm.inputs[5..]].concat(),
                outputs: vec![norm.outputs[0]],
                ..norm
            });
        }
    }

    /// What [`Rewrite::ConvStats`] left of a shortcut's batch norm, and of the batch norm that adds it: one pass normalises both.
    fn bn_join(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(norm) = self.nodes[index].clone() else { continue };
            let Some(&BatchNormApply { relu, residual: true, bits: false }) = norm.op_as() else { continue };
            let (operands, shortcut) = norm.inputs.split_at(5);
            let Some(shortcut_index) = self.only_maker(shortcut[0]) else { continue };
            let Some(shortcut) = self.nodes[shortcut_index].clone() else { continue };
            if shortcut.op_as() != Some(&BatchNormApply { relu: false, residual: false, bits: false }) {
                continue;
            }
            let inputs = [operands, &shortcut.inputs].concat();
            self.nodes[index] =
                Some(Node { op: Arc::new(BatchNormJoin { relu, bits: false }), inputs, ..norm });
            self.nodes[shortcut_index] = None;
        }
    }

    /// What [`Rewrite::DgradSums`] made of one of two batch norms that read the same gradient, and the other: the dgrad takes the
    /// sums of both, and one pass is left of them.
    fn bn_join_bwd(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(sums) = self.nodes[index].clone() else { continue };
            let Some(&op) = sums.op_as::<Conv2dDgradSums>() else { continue };
            let dz = sums.outputs[0];
            let &[dx_index, norm_index] = self.readers[dz.index()].as_slice() else { continue };
            let (Some(dx), Some(norm)) = (self.nodes[dx_index].clone(), self.nodes[norm_index].clone())
            else {
                continue;
            };
            let is_plain = norm.op_as() == Some(&BatchNormBwd { mask: None, residual: false });
            let reads_dz = |node: &Node| node.inputs[0] == dz && !node.inputs[1..].contains(&dz);
            let is_pair = dx.op_as::<BatchNormDx>().is_some() && is_plain && reads_dz(&dx) && reads_dz(&norm);
            if op.mask != Some(Mask::Result) || !is_pair || self.is_result[dz.index()] {
                continue;
            }
            let &[_, x, gamma, mean, rstd] = norm.inputs.as_slice() else { continue };
            let &[norm_dx, dgamma, dbeta] = norm.outputs.as_slice() else { continue };
            let (operands, sum) = sums.inputs.split_at(7);
            self.nodes[index] = Some(Node {
                op: Arc::new(Conv2dDgradSums { joins: true, ..op }),
                inputs: [operands, &[x, mean, rstd], sum].concat(),
                outputs: [&sums.outputs[..], &[dgamma, dbeta]].concat(),
                ..sums
            });
            self.nodes[dx_index] = Some(Node {
                op: Arc::new(BatchNormJoinDx),
                inputs: [&dx.inputs[..], &[x, gamma, mean, rstd, dgamma, dbeta]].concat(),
                outputs: vec![dx.outputs[0], norm_dx],
                ..dx
            });
            self.nodes[norm_index] = None;
        }
    }

    /// The beta of the batch norm that makes `y` of `x` alone, with its ReLU.
    fn beta_behind(&self, y: ValueId, x: ValueId) -> Option<ValueId> {
        let node = self.nodes[self.maker[y.index()]?].as_ref()?;
        let op = node.op_as::<BatchNormTrain>()?;
        (op.relu && !op.residual && node.inputs[0] == x).then(|| node.inputs[2])
    }

    /// dgrad, then the sum with another branch's gradient: the convolution adds to the sum as it stores.
    fn dgrad_add(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(sum) = self.nodes[index].clone().filter(|node| node.op_as::<Add>().is_some()) else {
                continue;
            };
            let Some(dgrad_index) = self.only_maker(sum.inputs[1]) else { continue };
            let Some(dgrad) = self.nodes[dgrad_index].clone() else { continue };
            let Some(&op) = dgrad.op_as::<Conv2dDgrad>().filter(|op| !op.accumulate) else { continue };
            self.nodes[index] = Some(Node {
                op: Arc::new(Conv2dDgrad { accumulate: true, ..op }),
                inputs: dgrad.inputs.iter().copied().chain([sum.inputs[0]]).collect(),
                outputs: sum.outputs,
                name: dgrad.name,
                phase: dgrad.phase,
            });
            self.nodes[dgrad_index] = None;
        }
    }

    /// The casts of the forward pass that bring parameters to bf16: one node before the first of their readers makes all
    /// copies.
    fn multi_tensor_cast(&mut self) {
        let graph = &*self.graph;
        let brings_parameter = |node: &Node| {
            node.phase == Phase::Forward
                && node.op_as::<Cast>() == Some(&Cast(DType::Bf16))
                && graph.value(node.inputs[0]).role == Role::Parameter
        };
        let mut copies: Option<(usize, Node)> = None;
        for (index, place) in self.nodes.iter_mut().enumerate() {
            let Some(node) = place.take_if(|node| brings_parameter(node)) else { continue };
            match &mut copies {
                // Parameters change in the update only, so all can be read where the first is.
                None => copies = Some((index, node)),
                Some((_, first)) => {
                    first.op = Arc::new(CastTensors(DType::Bf16));
                    first.inputs.extend(node.inputs);
                    first.outputs.extend(node.outputs);
                }
            }
        }
        if let Some((index, node)) = copies {
            self.nodes[index] = Some(node);
        }
    }

    /// Images made from photos, then blocks of their pixels: the images are made in blocks at once.
    fn augment_blocks(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(blocks) =
                self.nodes[index].clone().filter(|node| node.op_as::<SpaceToDepth>().is_some())
            else {
                continue;
            };
            let Some(augment_index) = self.only_maker(blocks.inputs[0]) else { continue };
            let Some(augment) = self.nodes[augment_index].clone() else { continue };
            let Some(&op) = augment.op_as::<AugmentFwd>() else { continue };
            let op = Arc::new(AugmentBlocks(op));
            self.nodes[augment_index] = Some(Node { op, outputs: blocks.outputs, ..augment });
            self.nodes[index] = None;
        }
    }

    /// The node that makes `value`, if a single node reads it and the host does not.
    fn only_maker(&self, value: ValueId) -> Option<usize> {
        let private = self.readers[value.index()].len() == 1 && !self.is_result[value.index()];
        self.maker[value.index()].filter(|_| private)
    }

    fn is<T: Op>(&self, index: usize) -> bool {
        self.nodes[index].as_ref().is_some_and(|node| node.op_as::<T>().is_some())
    }
}

/// A plain batch norm's operation with ReLU and, if asked, the residual add; `None` for every other node.
fn with_relu(norm: &Node, residual: bool) -> Option<Arc<dyn Op>> {
    if let Some(&op) = norm.op_as::<BatchNormTrain>().filter(|op| !op.relu && !op.residual) {
        return Some(Arc::new(BatchNormTrain { relu: true, residual, ..op }));
    }
    let &op = norm.op_as::<BatchNormInference>().filter(|op| !op.relu && !op.residual)?;
    Some(Arc::new(BatchNormInference { relu: true, residual, ..op }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Conv2dConfig, conv2d};

    #[test]
    fn one_node_makes_the_bf16_copies_of_all_filters() {
        let mut graph = Graph::new(DType::Bf16);
        let images = graph.input("images", [2, 9, 7, 3], DType::F32);
        let mut x = graph.apply_one("images.bf16", Cast(DType::Bf16), &[images]).unwrap();
        for (name, out_channels) in [("conv1", 8), ("conv2", 5), ("conv3", 11)] {
            x = conv2d(&mut graph, name, x, Conv2dConfig::square(out_channels, 3, 1)).unwrap();
        }
        graph.keep(x);
        let fused = fuse(&graph, &[Rewrite::MultiTensorCast]).unwrap();
        let names: Vec<_> = fused.nodes().iter().map(|node| node.op.name()).collect();
        assert_eq!(names, ["cast", "cast_tensors", "conv2d_fprop", "conv2d_fprop", "conv2d_fprop"]);
        assert_eq!(fused.nodes()[1].outputs.len(), 3);
    }

    #[test]
    fn a_single_filter_keeps_its_cast() {
        let mut graph = Graph::new(DType::Bf16);
        let x = graph.input("x", [2, 9, 7, 3], DType::Bf16);
        conv2d(&mut graph, "conv", x, Conv2dConfig::square(5, 3, 1)).unwrap();
        let fused = fuse(&graph, &Rewrite::ALL).unwrap();
        assert_eq!(fused.nodes()[0].op.name(), "cast");
    }
}
