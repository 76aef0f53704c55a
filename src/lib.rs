//! residuum trains residual networks on compute code it owns, under a small static-graph autograd engine.
//!
//! The modules stand in the order in which a training step passes through them:
//!
//! ```text
//! data -> batch -> graph -> autodiff -> fuse -> plan -> exec -> device -> kernels
//! ```
//!
//! # The tour
//!
//! - [`data`] finds the images of a data set and decodes each once into a [`data::Pack`]; [`data::scenes`] draws some
//!   where there is none.
//! - [`batch`] makes batches ahead of time on threads; order and augmentation are functions of seed, epoch and image.
//! - [`graph`] holds the recorded computation, and [`graph::Op`], the contract of an operation.
//! - [`ops`] has the operations, one file each, with their gradients and CPU code; [`models`] records networks with them.
//! - [`autodiff`] appends the gradient to a graph, [`fuse`] merges neighbouring nodes, [`plan`] gives every value its
//!   place in one block of memory.
//! - [`exec`] runs the planned steps on a [`device`]; [`check`] holds the kernels of one to the CPU.
//! - [`train`] is the loop around a step, with its checkpoints and logs; [`report`] the page that shows them; [`cli`] the
//!   program.
//!
//! `ARCHITECTURE.md` tells what each pass promises and why it is made so.
//!
//! # From a graph to gradients
//!
//! One linear layer with its two parameters, recorded, differentiated, planned and run:
//!
//! ```
//! use residuum::autodiff::differentiate;
//! use residuum::device::{Device, DeviceKind};
//! use residuum::exec::{Session, Start};
//! use residuum::graph::{Graph, Phase};
//! use residuum::ops::{fill, linear, softmax_xent};
//! use residuum::plan::plan;
//! use residuum::tensor::DType;
//!
//! # fn main() -> residuum::Result<()> {
//! // Record: two rows of three features, four classes; parameters `fc.weight` [4, 3] and `fc.bias` [4].
//! let mut graph = Graph::new(DType::F32);
//! let x = graph.input("x", [2, 3], DType::F32);
//! let labels = graph.input("labels", [2], DType::I32);
//! let logits = linear(&mut graph, "fc", x, 4)?;
//! let loss = softmax_xent(&mut graph, "loss", logits, labels, 0.0)?.loss;
//! graph.keep(loss);
//!
//! // Differentiate: the seed is the gradient of the loss by itself.
//! let parameters: Vec<_> = graph.parameters().collect();
//! graph.set_phase(Phase::Backward);
//! let seed = fill(&mut graph, "seed", [], 1.0)?;
//! let gradients = differentiate(&mut graph, loss, seed, &parameters)?;
//! let bias_gradient = graph.value(gradients[1]).name.clone();
//! gradients.into_iter().for_each(|id| graph.keep(id));
//!
//! // Plan: from here on it is known what runs, in which order, and in how many bytes.
//! let program = plan(&[&graph], DeviceKind::Cpu)?;
//! let peak_bytes = program.peak_bytes;
//!
//! // Run: the session allocates those bytes, once. Parameters are zero here; `Session::new` would initialise them.
//! let mut session = Session::open(program, Device::Cpu, Start::Zeros)?;
//! assert_eq!(session.arena_bytes(), peak_bytes);
//! let slot = |session: &Session, name: &str| session.plan(0).slot(name);
//! let (x, labels) = (slot(&session, "x")?, slot(&session, "labels")?);
//! session.write::<f32>(&x, &[1.0, 2.0, 3.0, -1.0, 0.5, 0.0])?;
//! session.write::<i32>(&labels, &[1, 3])?;
//! session.run_micro_batch(0)?;
//!
//! let loss = session.read::<f32>(&slot(&session, "loss")?)?[0];
//! assert!((loss - 4.0_f32.ln()).abs() < 1e-6);
//! let bias_gradient = session.read::<f32>(&slot(&session, &bias_gradient)?)?;
//! assert_eq!(*bias_gradient, [0.25, -0.25, 0.25, -0.25]);
//! # Ok(())
//! # }
//! ```
//!
//! # Training from the library
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

pub mod error;
mod named;
pub mod prelude;
pub mod reproduce;
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

pub mod device;
pub mod exec;

pub mod check;

pub mod cli;
pub mod infer;
pub mod report;
pub mod run;
pub mod step;
pub mod train;

pub use error::{Error, Result};
