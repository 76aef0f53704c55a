//! What a network is to the engine.

use std::fmt;
use std::sync::Arc;

use super::Objects;
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::ops::Mode;

/// The values a network is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs {
    /// Normalised images, NHWC with 3 channels.
    pub images: ValueId,
    /// What [`Network::objects`] asks for, for a network that takes objects in.
    pub objects: Option<ValueId>,
}

impl From<ValueId> for Inputs {
    /// Images alone.
    fn from(images: ValueId) -> Inputs {
        Inputs { images, objects: None }
    }
}

/// Anything that records a forward pass.
///
/// A network holds no weights: it records operations and names their parameters, and a session holds the values. Names are
/// torchvision's where weights are to go both ways.
pub trait Network: Send + Sync {
    /// Records the forward pass and returns the scores of the categories, `[N, num_classes]`.
    ///
    /// # Errors
    /// [`crate::Error::Graph`] if the inputs do not fit the network.
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId>;

    /// Name of the layer that makes the scores, whose tensors are `<name>.weight` and `<name>.bias`. Fine-tuning gives it
    /// new values, and freezing trains it alone.
    fn last_layer(&self) -> &str {
        "fc"
    }

    /// How the network takes in where objects are; `None` for images alone.
    fn objects(&self) -> Option<Objects> {
        None
    }

    /// The network whose weights this one can start from, where that is another one. Tensors of the same name and shape
    /// are taken over.
    fn backbone(&self) -> Option<Arc<dyn Network>> {
        None
    }
}

impl fmt::Debug for dyn Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({})", self.last_layer())
    }
}

/// Whether the tensor called `name` belongs to the layer called `layer`.
pub(crate) fn is_of_layer(name: &str, layer: &str) -> bool {
    name.strip_prefix(layer).is_some_and(|rest| rest.starts_with('.'))
}
