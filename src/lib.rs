//! residuum trains residual networks on kernels it owns.
//!
//! The modules stand in the order in which a training step passes through them:
//!
//! ```text
//! data -> batch -> graph -> autodiff -> fuse -> plan -> exec -> device -> kernels
//! ```

pub mod error;
pub mod rng;
pub mod tensor;

pub mod batch;
pub mod data;

pub mod graph;
pub mod ops;

pub mod autodiff;
pub mod fuse;
pub mod models;
pub mod plan;

pub mod device;
pub mod exec;

pub mod check;

pub mod cli;
pub mod report;
pub mod train;

pub use error::{Error, Result};
