//! The networks, one file each: ordinary Rust that records a graph.

pub mod resnet;

use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use crate::ops::Mode;

pub use resnet::{Form, ResNet};

/// Every name that [`Model::parse`] takes.
pub const NAMES: [&str; 5] = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"];

/// A network to record: which, in which form, for how many categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// The residual network.
    pub resnet: ResNet,
    /// Number of categories.
    pub num_classes: usize,
}

impl Model {
    /// The network called `name` in the given form.
    ///
    /// # Errors
    /// [`Error::Usage`] listing the known names.
    pub fn parse(name: &str, form: Form, num_classes: usize) -> Result<Model> {
        let depth = name.strip_prefix("resnet").and_then(|depth| depth.parse().ok());
        let resnet = depth.and_then(|depth| ResNet::new(depth, form)).ok_or_else(|| {
            Error::Usage(format!("--model `{name}` is unknown; take one of {}", NAMES.join(", ")))
        })?;
        Ok(Model { resnet, num_classes })
    }

    /// `resnet18`; other forms than v1.5 append theirs, as in `resnet50-v2`.
    pub fn name(&self) -> String {
        match self.resnet.form {
            Form::V1_5 => format!("resnet{}", self.resnet.depth),
            form => format!("resnet{}-{form}", self.resnet.depth),
        }
    }

    /// Records the forward pass of `images` (NHWC, 3 channels, normalised) and returns the logits `[N, num_classes]`.
    ///
    /// # Errors
    /// [`Error::Graph`] if the images do not fit the network.
    pub fn forward(&self, graph: &mut Graph, images: ValueId, mode: Mode) -> Result<ValueId> {
        self.resnet.forward(graph, images, self.num_classes, mode)
    }
}
