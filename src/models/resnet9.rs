//! ResNet-9, the small network of speed runs on small images: eight 3x3 convolutions, two residual pairs, a linear layer.
//!
//! Source: D. Page, "How to train your ResNet" (2018). The source takes the maximum of the last map and scales the scores by
//! 0.125. Here the map is averaged, as in other residual networks, so that the same learning rates serve.

use std::sync::Arc;

use super::{Inputs, Network, Options};
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::ops::{
    BnConfig, Conv2dConfig, Mode, PoolWindow, add, batch_norm, conv2d, global_avg_pool, linear, max_pool,
    relu,
};

#[derive(Debug, Clone, Copy)]
struct ResNet9 {
    num_classes: usize,
}

pub(super) fn build(options: &Options) -> Arc<dyn Network> {
    Arc::new(ResNet9 { num_classes: options.num_classes })
}

impl Network for ResNet9 {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        let x = unit(graph, "prep", inputs.images, 64, mode)?;
        let x = stage(graph, "layer1", x, 128, mode)?;
        let x = residual(graph, "layer1.residual", x, mode)?;
        let x = stage(graph, "layer2", x, 256, mode)?;
        let x = stage(graph, "layer3", x, 512, mode)?;
        let x = residual(graph, "layer3.residual", x, mode)?;
        let x = global_avg_pool(graph, "pool", x)?;
        linear(graph, self.last_layer(), x, self.num_classes)
    }
}

/// Convolution, batch norm, ReLU.
fn unit(graph: &mut Graph, name: &str, x: ValueId, out_channels: usize, mode: Mode) -> Result<ValueId> {
    graph.scoped(name, |graph| {
        let x = conv2d(graph, "conv", x, Conv2dConfig::square(out_channels, 3, 1))?;
        let x = batch_norm(graph, "bn", x, BnConfig::new(mode))?;
        relu(graph, "relu", x)
    })
}

/// A unit that halves height and width.
fn stage(graph: &mut Graph, name: &str, x: ValueId, out_channels: usize, mode: Mode) -> Result<ValueId> {
    let x = unit(graph, name, x, out_channels, mode)?;
    max_pool(graph, &format!("{name}.pool"), x, PoolWindow::square(2, 2, 0))
}

/// x plus two units of x.
fn residual(graph: &mut Graph, name: &str, x: ValueId, mode: Mode) -> Result<ValueId> {
    let channels = graph.shape(x).last();
    let y = unit(graph, &format!("{name}.0"), x, channels, mode)?;
    let y = unit(graph, &format!("{name}.1"), y, channels, mode)?;
    add(graph, &format!("{name}.add"), x, y)
}
