//! Training, and what a run leaves behind.

pub mod atomic;
pub mod checkpoint;
pub mod schedule;
pub mod signal;
