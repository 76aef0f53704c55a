//! The graph of a training step, and what goes in and out of it: batches, weights, the error on a data set.
//!
//! [`Training`] is all of it in one: a network with its weights and its optimiser on a device.

pub mod evaluate;
mod exchange;
pub mod feed;
pub mod fit;
mod graph;
mod overlap;
pub mod pretrained;
pub mod scores;
pub mod statistics;
mod sync;
mod training;
mod update;
pub mod weights;

pub use exchange::{AllReduce, SumOrder, Traffic, check_sum_order};
pub(crate) use graph::inputs;
pub use graph::{
    EMA_PREFIX, EVAL, IMAGE_SIZES, Optimiser, PixelSource, SMALLER, StepConfig, TRAIN, Trained,
    check_image_size, evaluation_graph, hyper_parameters, program, training_graph, values,
};
pub use training::{BatchResult, Training};
