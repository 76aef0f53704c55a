//! The graph of a training step, and what goes in and out of it: batches, weights, the error on a data set.

pub mod evaluate;
pub mod feed;
mod graph;
pub mod pretrained;
pub mod weights;

pub(crate) use graph::{ACCUMULATED_PREFIX, inputs};
pub use graph::{
    EMA_PREFIX, OPTIMISER_PREFIX, Optimiser, PixelSource, StepConfig, Trained, evaluation_graph,
    hyper_parameters, training_graph, values,
};
