//! Grad-CAM: where in a photo a category was seen.
//!
//! The weight of a channel of the last feature map that has places to tell apart is the mean gradient of the category's score over the channel's
//! pixels; the weighted sum of the channels, where it is positive, shows the evidence. The gradients are the engine's own:
//! the evaluation graph, differentiated from a seed at the scores to the operand of the global average pooling, or to the
//! map of an earlier layer where that has fewer than 4 x 4 places.
//! Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization" (2017).

use std::any::Any;

use super::model_file::ModelFile;
use super::predictor::photos_batch;
use crate::autodiff::differentiate;
use crate::device::{Device, Slot};
use crate::error::{Error, Result};
use crate::exec::{Session, Start};
use crate::fuse::fuse;
use crate::graph::{Graph, Node, Phase, ValueId};
use crate::models::Network;
use crate::ops::{AdaptiveAvgPool, GlobalAvgPool, MaxPool, Mode};
use crate::plan::plan;
use crate::step::feed::Feed;
use crate::step::{self, StepConfig, values};
use crate::tensor::DType;

/// The gradient of the class scores that the backward pass starts from.
const SEED: &str = "seed";
/// Rows and columns that a map has at least: of fewer, next to nothing can be seen.
const MIN_EXTENT: usize = 4;

/// A model and its gradients, in a session for one image at a time.
pub struct Explainer {
    session: Session,
    feed: Feed,
    seed: Slot,
    logits: Slot,
    features: Slot,
    gradient: Slot,
    layer: String,
}

/// What speaks for one category in one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Label of the explained category.
    pub category: usize,
    /// Probability of the explained category.
    pub probability: f32,
    /// Rows and columns of the map.
    pub extents: [usize; 2],
    /// Row by row, the evidence at each place in units of the category's score; negative where it speaks against.
    pub evidence: Vec<f32>,
}

impl Explanation {
    /// The evidence in favour as shares of the largest, 0..=1; all 0 if nothing speaks for the category.
    pub fn heat(&self) -> Vec<f32> {
        let most = self.evidence.iter().copied().fold(0.0, f32::max);
        let share = |&evidence: &f32| if most > 0.0 { evidence.max(0.0) / most } else { 0.0 };
        self.evidence.iter().map(share).collect()
    }
}

impl Explainer {
    /// For the model of `file`, on `device`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first tensor that does not fit the model, [`Error::Graph`] if the model has
    /// no pooling, or no map of 4 x 4 places before it.
    pub fn new(file: &ModelFile, device: Device) -> Result<Explainer> {
        let mut graph = Graph::new(DType::F32);
        // In f32 whatever the sessions of the file run in: it is one photo at a time.
        let config = StepConfig { float: DType::F32, ..file.step_config(1)? };
        let inputs = step::inputs(&mut graph, &config, Mode::Eval)?;
        let logits = file.model()?.forward(&mut graph, inputs, Mode::Eval)?;
        let seed = graph.input(SEED, graph.shape(logits), DType::F32);
        let features = explained_features(&graph, last_features(&graph)?)?;
        graph.set_phase(Phase::Backward);
        let gradient = differentiate(&mut graph, logits, seed, &[features])?[0];
        let kept = [logits, features, gradient];
        kept.iter().for_each(|&id| graph.keep(id));
        let [logits, features, gradient] = kept.map(|id| graph.value(id).name.clone());
        let graph = fuse(&graph, &file.fuse.rewrites())?;

        let mut session = Session::open(plan(&[&graph], device.kind())?, device, Start::Zeros)?;
        file.load_into(&mut session)?;
        let slot = |name: &str| session.plan(0).slot(name);
        let layer = features.clone();
        Ok(Explainer {
            feed: Feed::new(session.plan(0)),
            seed: slot(SEED)?,
            logits: slot(&logits)?,
            features: slot(&features)?,
            gradient: slot(&gradient)?,
            layer,
            session,
        })
    }

    /// Name of the value whose channels are weighed.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// Rows and columns of the maps.
    pub fn extents(&self) -> [usize; 2] {
        let [_, rows, columns, _] = self.features.shape.nhwc();
        [rows, columns]
    }

    /// What speaks for `category`, or for the most probable one, in `image`: HWC f32, normalised.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    ///
    /// # Panics
    /// If the image is of another size or the model has no such category.
    pub fn explain(&mut self, image: &[f32], category: Option<usize>) -> Result<Explanation> {
        let mut seed = vec![0.0f32; self.logits.shape.last()];
        let category = match category {
            Some(category) => category,
            None => {
                self.run(image, &seed)?;
                largest(&self.session.read(&self.logits)?)
            }
        };
        seed[category] = 1.0;
        self.run(image, &seed)?;
        let (features, gradient) = (self.session.read(&self.features)?, self.session.read(&self.gradient)?);
        Ok(Explanation {
            category,
            probability: softmax(&self.session.read(&self.logits)?, category),
            extents: self.extents(),
            evidence: weighted_sum(&features, &gradient, self.features.shape.last()),
        })
    }

    /// One pass. Both inputs are written: a pass may have put something else where they lay.
    fn run(&mut self, image: &[f32], seed: &[f32]) -> Result<()> {
        self.feed.write(&mut self.session, &photos_batch(image.to_vec(), 1), None)?;
        self.session.write(&self.seed, seed)?;
        self.session.run_micro_batch(0)
    }
}

/// The feature map that the model pools last, before poolings that follow each other: in residual networks the output of
/// the last block, normalised and clipped in form v2.
fn last_features(graph: &Graph) -> Result<ValueId> {
    let pools = |node: &Node| {
        let op: &dyn Any = node.op.as_ref();
        op.is::<GlobalAvgPool>() || op.is::<AdaptiveAvgPool>() || op.is::<MaxPool>()
    };
    let mut nodes = graph.nodes().iter().rev();
    let mut last = nodes.find(|node| pools(node)).ok_or_else(|| Error::Graph {
        op: "explain",
        node: "model".into(),
        message: "has no pooling, whose operand Grad-CAM weighs".into(),
    })?;
    while let Some(before) =
        nodes.find(|node| node.outputs.contains(&last.inputs[0])).filter(|node| pools(node))
    {
        last = before;
    }
    Ok(last.inputs[0])
}

/// The last value with a map of at least 4 x 4 places that all that becomes of the images passes through, up to `last`: in a
/// residual network the output of a block, for a branch of it would leave out what passes by on the shortcut.
fn explained_features(graph: &Graph, last: ValueId) -> Result<ValueId> {
    let images = graph.find(values::IMAGES).expect("an evaluation graph has images");
    // Of what is made of the images, what is still to be read. Nodes are in an order of execution.
    let last_use = |id: ValueId| graph.nodes().iter().rposition(|node| node.inputs.contains(&id));
    let mut of_images: Vec<(ValueId, usize)> = last_use(images).map(|at| (images, at)).into_iter().collect();
    let mut found = None;
    for (at, node) in graph.nodes().iter().enumerate() {
        if node.inputs.iter().any(|input| of_images.iter().any(|(id, _)| id == input)) {
            of_images.extend(node.outputs.iter().filter_map(|&id| Some((id, last_use(id)?))));
        }
        of_images.retain(|&(_, last_use)| last_use > at);
        if let [(only, _)] = of_images[..]
            && has_places(graph, only)
        {
            found = Some(only);
        }
        if node.outputs.contains(&last) {
            break;
        }
    }
    found.ok_or_else(|| Error::Graph {
        op: "explain",
        node: "model".into(),
        message: format!(
            "has no map of {MIN_EXTENT} x {MIN_EXTENT} places before its last pooling; take larger images"
        ),
    })
}

fn has_places(graph: &Graph, id: ValueId) -> bool {
    matches!(graph.shape(id).dims(), [_, rows, columns, _] if *rows.min(columns) >= MIN_EXTENT)
}

/// At each pixel, the channels of `features` weighted by the mean of their `gradient` over all pixels.
fn weighted_sum(features: &[f32], gradient: &[f32], channels: usize) -> Vec<f32> {
    let pixels = gradient.len() / channels;
    let mut weights = vec![0.0f64; channels];
    for pixel in gradient.chunks_exact(channels) {
        weights.iter_mut().zip(pixel).for_each(|(sum, &dy)| *sum += f64::from(dy) / pixels as f64);
    }
    let evidence =
        |pixel: &[f32]| weights.iter().zip(pixel).map(|(w, &x)| w * f64::from(x)).sum::<f64>() as f32;
    features.chunks_exact(channels).map(evidence).collect()
}

fn largest(scores: &[f32]) -> usize {
    let ranked = scores.iter().enumerate().max_by(|(i, a), (j, b)| a.total_cmp(b).then(j.cmp(i)));
    ranked.expect("a model has at least one category").0
}

/// The probability of `category` under these scores.
fn softmax(scores: &[f32], category: usize) -> f32 {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |score: f32| f64::from(score - most).exp();
    (weight(scores[category]) / scores.iter().map(|&score| weight(score)).sum::<f64>()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_weigh_as_much_as_their_mean_gradient() {
        let features = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
        let gradient = [3.0, 0.0, 0.0, 0.0, 0.0, -3.0];
        assert_eq!(weighted_sum(&features, &gradient, 2), [-9.0, -18.0, -27.0]);
    }

    #[test]
    fn heat_is_the_positive_part_as_shares_of_the_most() {
        let mut explanation =
            Explanation { category: 0, probability: 1.0, extents: [1, 3], evidence: vec![-1.0, 2.0, 4.0] };
        assert_eq!(explanation.heat(), [0.0, 0.5, 1.0]);
        explanation.evidence = vec![-1.0, -2.0, 0.0];
        assert_eq!(explanation.heat(), [0.0; 3]);
    }

    #[test]
    fn probabilities_of_large_scores_are_numbers() {
        assert_eq!(softmax(&[1000.0, 1000.0], 1), 0.5);
        assert_eq!(largest(&[1.0, 3.0, 3.0]), 1);
    }
}
