//! Residual networks of 18 to 152 layers in three variants.
//!
//! Parameters carry torchvision's names, so weights go both ways for [`Variant::V1_5`] and [`Variant::V1`]. Sources: He, Zhang,
//! Ren, Sun, "Deep residual learning for image recognition" (2015) for v1; torchvision for v1.5; the same authors'
//! "Identity mappings in deep residual networks" (2016) for v2.

use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::named::named;
use crate::ops::{
    BnConfig, Conv2dConfig, Mode, PoolWindow, add, batch_norm, conv2d, global_avg_pool, max_pool, relu,
    stem_conv2d,
};

named! {
    /// Where the stride and the normalisation of a block sit.
    pub enum Variant {
        /// Bottlenecks stride in their first 1x1 (He 2015, Keras).
        V1 = "v1",
        /// Bottlenecks stride in their 3x3 (torchvision).
        V1_5 = "v1.5",
        /// Pre-activation: batch norm and ReLU before each convolution, an identity from block to block (He 2016).
        V2 = "v2",
    }
}

/// Depth and form of a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResNet {
    /// Number of layers with weights, counted as in the paper.
    pub depth: usize,
    /// Variant of the blocks.
    pub form: Variant,
    /// Whether the last gamma of every branch starts at zero, and so each block of form v1 or v1.5 as relu(shortcut(x)).
    pub zero_init_last: bool,
    blocks: [usize; 4],
    bottleneck: bool,
}

const WIDTHS: [usize; 4] = [64, 128, 256, 512];
/// Output channels of a bottleneck over its inner width.
const EXPANSION: usize = 4;

/// Widths before the second stage.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadWidths {
    /// Channels after the stem.
    pub(super) stem: usize,
    /// Inner width of the first stage.
    pub(super) stage: usize,
}

/// One residual block: inner width, output channels and stride.
#[derive(Debug, Clone, Copy)]
struct Block {
    width: usize,
    out_channels: usize,
    stride: usize,
}

impl ResNet {
    /// The network of `depth` layers, if He et al. define one.
    pub fn new(depth: usize, form: Variant) -> Option<ResNet> {
        let (blocks, bottleneck) = match depth {
            18 => ([2, 2, 2, 2], false),
            34 => ([3, 4, 6, 3], false),
            50 => ([3, 4, 6, 3], true),
            101 => ([3, 4, 23, 3], true),
            152 => ([3, 8, 36, 3], true),
            _ => return None,
        };
        Some(ResNet { depth, form, zero_init_last: false, blocks, bottleneck })
    }

    /// Records everything before the last layer: images (NHWC) to features `[N, C]`.
    pub(super) fn features(&self, graph: &mut Graph, images: ValueId, mode: Mode) -> Result<ValueId> {
        let x = self.head(graph, images, HeadWidths { stem: WIDTHS[0], stage: WIDTHS[0] }, mode)?;
        self.tail(graph, x, mode)
    }

    /// Records the stem and the first stage: a quarter of the height and width of `x`.
    pub(super) fn head(
        &self,
        graph: &mut Graph,
        x: ValueId,
        widths: HeadWidths,
        mode: Mode,
    ) -> Result<ValueId> {
        let bn = BnConfig::new(mode);
        let mut x = stem_conv2d(graph, "conv1", x, widths.stem)?;
        if self.form != Variant::V2 {
            x = batch_norm(graph, "bn1", x, bn)?;
            x = relu(graph, "relu", x)?;
        }
        x = max_pool(graph, "maxpool", x, PoolWindow::square(3, 2, 1))?;
        self.stage(graph, 0, widths.stage, x, bn)
    }

    /// Records the other stages and the pooling: features `[N, C]`.
    pub(super) fn tail(&self, graph: &mut Graph, mut x: ValueId, mode: Mode) -> Result<ValueId> {
        let bn = BnConfig::new(mode);
        for (stage, &width) in WIDTHS.iter().enumerate().skip(1) {
            x = self.stage(graph, stage, width, x, bn)?;
        }
        if self.form == Variant::V2 {
            x = batch_norm(graph, "norm", x, bn)?;
            x = relu(graph, "relu", x)?;
        }
        global_avg_pool(graph, "avgpool", x)
    }

    /// Inner width of the first stage that ends with that many channels.
    pub(super) fn width_of(&self, out_channels: usize) -> usize {
        if self.bottleneck { out_channels / EXPANSION } else { out_channels }
    }

    fn stage(
        &self,
        graph: &mut Graph,
        stage: usize,
        width: usize,
        mut x: ValueId,
        bn: BnConfig,
    ) -> Result<ValueId> {
        for index in 0..self.blocks[stage] {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let out_channels = if self.bottleneck { width * EXPANSION } else { width };
            let block = Block { width, out_channels, stride };
            x = graph.scoped(&format!("layer{}.{index}", stage + 1), |graph| match self.form {
                Variant::V2 => self.pre_activation_block(graph, x, block, bn),
                Variant::V1 | Variant::V1_5 => self.block(graph, x, block, bn),
            })?;
        }
        Ok(x)
    }

    /// y = relu(branch(x) + shortcut(x)), the branch ending in batch norm.
    fn block(&self, graph: &mut Graph, x: ValueId, block: Block, bn: BnConfig) -> Result<ValueId> {
        let convs = self.convolutions(block);
        let mut branch = x;
        for (i, conv) in convs.iter().enumerate() {
            let is_last = i + 1 == convs.len();
            let gamma_init = if is_last && self.zero_init_last { 0.0 } else { bn.gamma_init };
            branch = conv2d(graph, &format!("conv{}", i + 1), branch, *conv)?;
            branch = batch_norm(graph, &format!("bn{}", i + 1), branch, BnConfig { gamma_init, ..bn })?;
            if !is_last {
                branch = relu(graph, &format!("relu{}", i + 1), branch)?;
            }
        }
        let mut shortcut = x;
        if let Some(projection) = projection(graph, x, block) {
            shortcut = conv2d(graph, "downsample.0", x, projection)?;
            shortcut = batch_norm(graph, "downsample.1", shortcut, bn)?;
        }
        let sum = add(graph, "add", branch, shortcut)?;
        relu(graph, "relu", sum)
    }

    /// y = branch(x) + shortcut(x), each convolution of the branch after its own batch norm and ReLU; a projection
    /// takes the first activation instead of x.
    fn pre_activation_block(
        &self,
        graph: &mut Graph,
        x: ValueId,
        block: Block,
        bn: BnConfig,
    ) -> Result<ValueId> {
        let mut branch = x;
        let mut shortcut = x;
        for (i, conv) in self.convolutions(block).into_iter().enumerate() {
            branch = batch_norm(graph, &format!("bn{}", i + 1), branch, bn)?;
            branch = relu(graph, &format!("relu{}", i + 1), branch)?;
            if let Some(projection) = projection(graph, x, block).filter(|_| i == 0) {
                shortcut = conv2d(graph, "downsample.0", branch, projection)?;
            }
            branch = conv2d(graph, &format!("conv{}", i + 1), branch, conv)?;
        }
        add(graph, "add", branch, shortcut)
    }

    fn convolutions(&self, block: Block) -> Vec<Conv2dConfig> {
        let Block { width, out_channels, stride } = block;
        let conv = Conv2dConfig::square;
        match (self.bottleneck, self.form) {
            (false, _) => vec![conv(width, 3, stride), conv(out_channels, 3, 1)],
            (true, Variant::V1) => vec![conv(width, 1, stride), conv(width, 3, 1), conv(out_channels, 1, 1)],
            (true, _) => vec![conv(width, 1, 1), conv(width, 3, stride), conv(out_channels, 1, 1)],
        }
    }
}

/// The 1x1 convolution of a shortcut whose shape changes.
fn projection(graph: &Graph, x: ValueId, block: Block) -> Option<Conv2dConfig> {
    (block.stride != 1 || graph.shape(x).last() != block.out_channels)
        .then(|| Conv2dConfig::square(block.out_channels, 1, block.stride))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Init, Role};
    use crate::models::{Model, Network, Options};
    use crate::tensor::DType;

    fn recorded(depth: usize, form: Variant, classes: usize, size: usize) -> (Graph, ValueId) {
        let mut graph = Graph::new(DType::F32);
        let images = graph.input("images", [2, size, size, 3], DType::F32);
        let model = Model::new(&format!("resnet{depth}"), Options { form, ..Options::new(classes) }).unwrap();
        let logits = model.forward(&mut graph, images.into(), Mode::Train).unwrap();
        graph.keep(logits);
        graph.verify().unwrap();
        (graph, logits)
    }

    #[test]
    fn parameter_counts_are_torchvisions() {
        for (depth, classes, parameters, tensors) in [
            (18, 1000, 11_689_512, 62),
            (18, 100, 11_227_812, 62),
            (34, 1000, 21_797_672, 110),
            (50, 1000, 25_557_032, 161),
            (50, 100, 23_712_932, 161),
            (101, 1000, 44_549_160, 314),
            (152, 1000, 60_192_808, 467),
        ] {
            let (graph, logits) = recorded(depth, Variant::V1_5, classes, 64);
            let count: usize = graph.parameters().map(|id| graph.shape(id).num_elems()).sum();
            assert_eq!(count, parameters, "resnet{depth}");
            assert_eq!(graph.parameters().count(), tensors, "resnet{depth}");
            assert_eq!(graph.shape(logits), [2, classes].into());
        }
    }

    #[test]
    fn names_and_shapes_are_torchvisions() {
        let (graph, _) = recorded(50, Variant::V1_5, 10, 64);
        for (name, shape) in [
            ("conv1.weight", &[64, 7, 7, 3][..]),
            ("bn1.running_var", &[64]),
            ("layer1.0.downsample.0.weight", &[256, 1, 1, 64]),
            ("layer2.0.conv2.weight", &[128, 3, 3, 128]),
            ("layer4.2.bn3.bias", &[2048]),
            ("fc.weight", &[10, 2048]),
        ] {
            let id = graph.find(name).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(graph.shape(id).dims(), shape, "{name}");
        }
        let states = graph.values().iter().filter(|value| value.role == Role::State).count();
        assert_eq!(states, 2 * 53, "running mean and variance of 53 batch norms");
    }

    #[test]
    fn forms_differ_in_where_they_stride() {
        let width_after = |form| {
            let (graph, _) = recorded(50, form, 10, 64);
            graph.shape(graph.find("layer2.0.conv1").unwrap()).dims()[2]
        };
        assert_eq!(width_after(Variant::V1), 8);
        assert_eq!(width_after(Variant::V1_5), 16);
        assert_eq!(width_after(Variant::V2), 16);
    }

    #[test]
    fn the_gammas_that_start_at_zero_are_torchvisions() {
        for (depth, last, num_blocks) in [(18, "bn2", 8), (50, "bn3", 16)] {
            let mut graph = Graph::new(DType::F32);
            let images = graph.input("images", [2, 64, 64, 3], DType::F32);
            let options = Options { zero_init_last: true, ..Options::new(10) };
            let model = Model::new(&format!("resnet{depth}"), options).unwrap();
            model.forward(&mut graph, images.into(), Mode::Train).unwrap();
            let is_gamma = |name: &str| name.contains("bn") && name.ends_with(".weight");
            let parameters = graph.parameters().map(|id| graph.value(id));
            let at_zero: Vec<&str> = parameters
                .filter(|value| is_gamma(&value.name) && value.init == Some(Init::Constant(0.0)))
                .map(|value| value.name.as_str())
                .collect();
            // `zero_init_residual` of torchvision's ResNet.
            assert!(at_zero.iter().all(|name| name.ends_with(&format!(".{last}.weight"))), "{at_zero:?}");
            assert_eq!(at_zero.len(), num_blocks);
        }
    }

    #[test]
    fn unknown_depths_are_refused() {
        assert!(ResNet::new(20, Variant::V1).is_none());
        assert!("v3".parse::<Variant>().unwrap_err().to_string().contains("v1.5"));
    }
}
