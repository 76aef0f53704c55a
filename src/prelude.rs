//! What a program that builds and trains a network needs: `use residuum::prelude::*;`.

pub use crate::batch::Batch;
pub use crate::device::Device;
pub use crate::graph::{Graph, ValueId};
pub use crate::models::{Inputs, Model, Network, Options};
pub use crate::ops::{
    AdamConfig, BnConfig, Conv2dConfig, Mode, PoolWindow, SgdConfig, Window, adaptive_avg_pool, add,
    add_bias, batch_norm, concat, conv2d, dropout, flatten, global_avg_pool, linear, max_pool, relu,
};
pub use crate::step::{Optimiser, StepConfig, Training};
pub use crate::{Error, Result};
