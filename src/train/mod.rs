//! Training, and what a run leaves behind.

pub mod atomic;
pub mod checkpoint;
pub mod metrics;
pub mod page;
pub mod run_dir;
pub mod schedule;
pub mod signal;
pub mod state;
pub mod tensorboard;
