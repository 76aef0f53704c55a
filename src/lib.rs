//! residuum trains residual networks on compute code of its own, under a small autograd engine with static graphs.
//!
//! # A network of your own
//!
//! ```
#![doc = include_str!("../examples/train_a_batch.rs")]
//! ```
//!
//! `examples/` goes on from here: gradients of a small graph, a network on a folder of photos, an operation defined outside
//! the crate, a trained model in use.
//!
//! # The tour
//!
//! The modules stand in the order in which a training step passes through them:
//!
//! ```text
//! data -> batch -> graph -> autodiff -> fuse -> plan -> exec -> device -> kernels
//! ```
//!
//! - [`data`] finds the images of a data set and decodes each once into a [`data::Pack`]; [`data::scenes`] generates some
//!   where there is no data set.
//! - [`batch`] makes batches ahead of time on threads; order and augmentation are functions of seed, epoch and image.
//! - [`graph`] holds the recorded computation, and [`graph::Op`], the contract of an operation.
//! - [`ops`] has the operations, one file each, with their gradients and CPU code; [`models`] has [`models::Network`] and the
//!   networks with a name.
//! - [`autodiff`] appends the gradient to a graph, [`fuse`] merges neighbouring nodes, [`plan`] gives every value its
//!   place in one block of memory.
//! - [`exec`] runs the planned steps on a [`device`]; [`check`] holds gradients to finite differences and kernels to the CPU.
//! - [`step`] puts these together: [`step::Training`] is a network in training.
//! - [`train`] is the loop around a step, [`run`] the files that it leaves, [`infer`] a trained model in use.
//!
//! `ARCHITECTURE.md` tells what each pass promises and why it is made so.
//!
//! # Whole runs
//!
//! What `residuum train` does, without the command line:
//!
//! ```no_run
//! use residuum::device::Device;
//! use residuum::train::config::TrainConfig;
//! use residuum::train::trainer::Trainer;
//!
//! # fn main() -> residuum::Result<()> {
//! let data_dir = Some("path/to/miniplaces".into());
//! let config = TrainConfig { img_size: 64, epochs: 3, ..TrainConfig::defaults(data_dir) };
//! let outcome = Trainer::start(config, Device::Cpu)?.run()?;
//! println!("{:.2} % top-1 error, see {}", outcome.last.eval_err1, outcome.dir.file("report.html").display());
//! # Ok(())
//! # }
//! ```

// Tests inside the crate share helpers with those in tests/, which name it.
#[cfg(test)]
extern crate self as residuum;
#[cfg(test)]
#[path = "../tests/common/again.rs"]
mod again;

pub mod error;
mod named;
pub mod prelude;
mod progress;
mod regular_file;
pub mod rng;
mod show;
pub mod tensor;
pub mod transform;

pub mod batch;
pub mod data;

pub mod graph;
pub mod ops;

pub mod autodiff;
pub mod fuse;
pub mod models;
pub mod plan;
pub mod profile;

pub mod device;
pub mod dist;
pub mod exec;

pub mod check;

pub mod infer;
pub mod run;
pub mod step;
pub mod train;

// The program: public for its own `main`, and not part of the library.
#[doc(hidden)]
pub mod cli;
mod report;
mod reproduce;

pub use error::{Error, Result};
