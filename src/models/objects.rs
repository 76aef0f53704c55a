//! Networks that see where objects are: the paper's two heads, and its two proposals for later.
//!
//! Source: section 5 of the MiniPlaces paper. The numbers of the two heads are its own: a stem of 50 channels, heads that
//! end at a quarter of the image's height and width with 128 channels each, the rest of the network after both.

use std::sync::Arc;

use super::resnet::{HeadWidths, ResNet};
use super::{Inputs, Network, Options};
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::named::named;
use crate::ops::{Mode, Paint, concat, linear};

/// Prefix of the second head's tensors.
pub const MASK_HEAD_PREFIX: &str = "mask_head.";

/// Channels after the stem of each head.
const STEM_CHANNELS: usize = 50;
/// Channels at the end of each head.
const HEAD_CHANNELS: usize = 128;

/// How a network takes objects in, and how many classes of them there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objects {
    /// How the network takes objects in.
    pub kind: ObjectsKind,
    /// Number of classes of objects.
    pub num_classes: usize,
}

impl Objects {
    /// What the image of the objects shows; none for a vector, which is not an image.
    pub fn paint(self) -> Option<Paint> {
        let num_classes = self.num_classes;
        match self.kind {
            ObjectsKind::Masks => Some(Paint::Masks { num_classes }),
            ObjectsKind::Codes => Some(Paint::Codes { num_classes }),
            ObjectsKind::Vector => None,
        }
    }
}

named! {
    /// The ways in, as `--objects` names them.
    pub enum ObjectsKind {
        /// One binary mask per class through a head of its own: `[N, H, W, classes]`.
        Masks = "masks",
        /// Which classes are there, joined to the pooled features: `[N, classes]`.
        Vector = "vector",
        /// The code of the class at each pixel, joined to the image: `[N, H, W, codes]`.
        Codes = "codes",
    }
}

/// A residual network with its last layer.
#[derive(Debug, Clone, Copy)]
struct Classifier {
    resnet: ResNet,
    num_classes: usize,
    objects: Option<Objects>,
}

/// The model of `depth` layers, one of those that [`ResNet::new`] knows.
pub(super) fn build(depth: usize, options: &Options) -> Arc<dyn Network> {
    let Options { num_classes, form, objects, zero_init_last } = *options;
    let mut resnet = ResNet::new(depth, form).expect("the table lists depths that exist");
    resnet.zero_init_last = zero_init_last;
    Arc::new(Classifier { resnet, num_classes, objects })
}

impl Network for Classifier {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        let features = features(&self.resnet, self.objects, graph, inputs, mode)?;
        linear(graph, self.last_layer(), features, self.num_classes)
    }

    fn objects(&self) -> Option<Objects> {
        self.objects
    }

    fn backbone(&self) -> Option<Arc<dyn Network>> {
        self.objects.map(|_| -> Arc<dyn Network> { Arc::new(Classifier { objects: None, ..*self }) })
    }
}

/// Records everything before the last layer, objects included where the model takes them in.
///
/// # Panics
/// If a network that takes objects in is not given any: whoever records the graph asks [`super::Network::objects`].
fn features(
    resnet: &ResNet,
    taken_in: Option<Objects>,
    graph: &mut Graph,
    inputs: Inputs,
    mode: Mode,
) -> Result<ValueId> {
    let Some(Objects { kind, .. }) = taken_in else {
        return resnet.features(graph, inputs.images, mode);
    };
    let objects = inputs.objects.expect("a network that takes objects in is given objects");
    match kind {
        ObjectsKind::Masks => {
            let widths = HeadWidths { stem: STEM_CHANNELS, stage: resnet.width_of(HEAD_CHANNELS) };
            let of_image = resnet.head(graph, inputs.images, widths, mode)?;
            let scope = MASK_HEAD_PREFIX.trim_end_matches('.');
            let of_masks = graph.scoped(scope, |graph| resnet.head(graph, objects, widths, mode))?;
            let both = concat(graph, "heads", &[of_image, of_masks])?;
            resnet.tail(graph, both, mode)
        }
        ObjectsKind::Vector => {
            let features = resnet.features(graph, inputs.images, mode)?;
            concat(graph, "features", &[features, objects])
        }
        ObjectsKind::Codes => {
            let joined = concat(graph, "image_and_codes", &[inputs.images, objects])?;
            resnet.features(graph, joined, mode)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Model, Network, Options, Variant};
    use crate::tensor::DType;

    /// The graph of a model for 10 categories and 175 classes of objects, and its logits.
    fn recorded(name: &str, form: Variant, kind: ObjectsKind) -> Graph {
        let (num_images, size, num_classes) = (2, 128, 175);
        let objects = Some(Objects { kind, num_classes });
        let model = Model::new(name, Options { form, objects, ..Options::new(10) }).unwrap();
        assert!(model.title().ends_with(&format!("-{kind}")), "{}", model.title());
        let mut graph = Graph::new(DType::F32);
        let images = graph.input("images", [num_images, size, size, 3], DType::F32);
        let objects = match kind {
            ObjectsKind::Masks => graph.input("objects", [num_images, size, size, num_classes], DType::F32),
            ObjectsKind::Codes => graph.input("objects", [num_images, size, size, 18], DType::F32),
            ObjectsKind::Vector => graph.input("objects", [num_images, num_classes], DType::F32),
        };
        let inputs = Inputs { images, objects: Some(objects) };
        let logits = model.forward(&mut graph, inputs, Mode::Train).unwrap();
        assert_eq!(graph.shape(logits), [num_images, 10].into());
        graph.keep(logits);
        graph.verify().unwrap();
        graph
    }

    fn shape_of(graph: &Graph, name: &str) -> Vec<usize> {
        let id = graph.find(name).unwrap_or_else(|| panic!("no {name}"));
        graph.shape(id).dims().to_vec()
    }

    #[test]
    fn two_heads_have_the_papers_numbers() {
        let graph = recorded("resnet50", Variant::V1_5, ObjectsKind::Masks);
        for (name, shape) in [
            ("conv1.weight", &[50, 7, 7, 3][..]),
            ("mask_head.conv1.weight", &[50, 7, 7, 175]),
            ("mask_head.layer1.2.bn3.weight", &[128]),
            ("layer1.2.add", &[2, 32, 32, 128]),
            ("mask_head.layer1.2.add", &[2, 32, 32, 128]),
            ("heads", &[2, 32, 32, 256]),
            ("layer2.0.conv1.weight", &[128, 1, 1, 256]),
            ("layer4.2.conv3.weight", &[2048, 1, 1, 512]),
        ] {
            assert_eq!(shape_of(&graph, name), shape, "{name}");
        }
    }

    #[test]
    fn every_depth_and_form_takes_objects_in() {
        for name in ["resnet18", "resnet50"] {
            for form in [Variant::V1, Variant::V1_5, Variant::V2] {
                for kind in [ObjectsKind::Masks, ObjectsKind::Vector, ObjectsKind::Codes] {
                    recorded(name, form, kind);
                }
            }
        }
    }

    #[test]
    fn vectors_widen_the_last_layer_and_codes_the_first() {
        let graph = recorded("resnet18", Variant::V1_5, ObjectsKind::Vector);
        assert_eq!(shape_of(&graph, "fc.weight"), [10, 512 + 175]);
        let graph = recorded("resnet18", Variant::V1_5, ObjectsKind::Codes);
        assert_eq!(shape_of(&graph, "conv1.weight"), [64, 7, 7, 21]);
    }
}
