//! The files of a run: its folder, weights and state, log, metrics and report. Formats and numbers only; nothing here
//! knows the engine.

pub mod checkpoint;
pub mod comparison;
pub mod metrics;
pub mod model_card;
pub mod page;
pub mod replace;
pub mod run_dir;
pub mod state;
pub mod tensorboard;
pub mod weight_file;
