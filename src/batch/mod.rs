//! Batches: from packed pixels to the network's input, in a fixed order, ahead of time.
//!
//! [`shuffle`] orders an epoch, [`Augment`] draws what happens to a sample, [`collate`] samples and normalises its
//! pixels, and [`Loader`] does all three on worker threads, or the first two where a device does the third. Order and augmentation are functions of the seed, the epoch
//! and the image alone, so neither the number of threads, nor the step a run resumes from, nor how many loaders share a stream changes a bit of any batch.

mod augment;
mod auto;
pub mod collate;
mod loader;
mod policy;
mod prefetch;
pub mod shuffle;

pub use augment::Drawn;
pub use auto::MagnitudeSpace;
pub use loader::{Batch, BatchContents, Loader, LoaderOptions, Shard, batches_per_epoch};
pub use policy::Augment;
pub use shuffle::batch_indices;

pub use crate::transform::Normalization;
