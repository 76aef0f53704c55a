//! VGG-11 with batch norm, under torchvision's names and shapes, so that weights go both ways.
//!
//! Source: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition" (2014), configuration
//! A; batch norm, dropout and the pooling to 7x7 as in torchvision's `vgg11_bn`.

use std::sync::Arc;

use super::{Inputs, Network, Options};
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::ops::{
    BnConfig, Conv2dConfig, Mode, PoolWindow, adaptive_avg_pool, add_bias, batch_norm, conv2d, dropout,
    flatten, linear, max_pool, relu,
};

/// Filters of the convolutions, in groups that end with a halving of height and width.
const GROUPS: [&[usize]; 5] = [&[64], &[128], &[256, 256], &[512, 512], &[512, 512]];
/// Features of the two hidden layers.
const HIDDEN: usize = 4096;
/// Height and width of the map that they see.
const MAP: [usize; 2] = [7, 7];

/// The network, for any size of image from 32 pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vgg11Bn {
    /// Number of categories.
    pub num_classes: usize,
    /// Probability with which training drops a feature of a hidden layer; [`Vgg11Bn::new`] sets 0.5.
    pub dropout: f32,
}

impl Vgg11Bn {
    /// The network of the paper, for `num_classes` categories.
    pub fn new(num_classes: usize) -> Vgg11Bn {
        Vgg11Bn { num_classes, dropout: 0.5 }
    }
}

pub(super) fn build(options: &Options) -> Arc<dyn Network> {
    Arc::new(Vgg11Bn::new(options.num_classes))
}

impl Network for Vgg11Bn {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        let mut x = inputs.images;
        // torchvision numbers the modules of `features` in their order.
        let mut module = 0;
        for group in GROUPS {
            for &out_channels in group {
                let name = |offset: usize| format!("features.{}", module + offset);
                x = conv2d(graph, &name(0), x, Conv2dConfig::square(out_channels, 3, 1))?;
                x = add_bias(graph, &name(0), x)?;
                x = batch_norm(graph, &name(1), x, BnConfig::new(mode))?;
                x = relu(graph, &name(2), x)?;
                module += 3;
            }
            x = max_pool(graph, &format!("features.{module}"), x, PoolWindow::square(2, 2, 0))?;
            module += 1;
        }
        x = adaptive_avg_pool(graph, "avgpool", x, MAP)?;
        x = flatten(graph, "flatten", x)?;
        for layer in [0, 3] {
            x = linear(graph, &format!("classifier.{layer}"), x, HIDDEN)?;
            x = relu(graph, &format!("classifier.{}", layer + 1), x)?;
            x = dropout(graph, &format!("classifier.{}", layer + 2), x, self.dropout, mode)?;
        }
        linear(graph, self.last_layer(), x, self.num_classes)
    }

    fn last_layer(&self) -> &str {
        "classifier.6"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn names_shapes_and_the_number_of_parameters_are_torchvisions() {
        for (size, classes, parameters) in [(224, 1000, 132_868_840), (64, 10, 128_812_810)] {
            let mut graph = Graph::new(DType::F32);
            let images = graph.input("images", [2, size, size, 3], DType::F32);
            let network = Vgg11Bn::new(classes);
            let logits = network.forward(&mut graph, images.into(), Mode::Train).unwrap();
            assert_eq!(graph.shape(logits), [2, classes].into());
            let count: usize = graph.parameters().map(|id| graph.shape(id).num_elems()).sum();
            assert_eq!(count, parameters);
            for (name, shape) in [
                ("features.0.weight", &[64, 3, 3, 3][..]),
                ("features.0.bias", &[64]),
                ("features.26.running_var", &[512]),
                ("classifier.0.weight", &[4096, 25088]),
                ("classifier.6.bias", &[classes]),
            ] {
                let id = graph.find(name).unwrap_or_else(|| panic!("no {name}"));
                assert_eq!(graph.shape(id).dims(), shape, "{name}");
            }
        }
    }
}
