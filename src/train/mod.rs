//! The training loop: settings, data, schedule, and what is written after every epoch.

pub mod capacity;
pub mod config;
pub mod growth;
mod log;
mod loss_watch;
pub mod precision;
pub mod predictions;
mod prepare;
mod progress;
pub mod recipe;
pub mod replay;
pub mod resume;
pub mod schedule;
pub mod setting;
pub mod signal;
pub mod source;
pub mod summary;
pub mod trainer;
pub mod value;
