//! Data sets: where the images are, which label each has, and the pack of decoded pixels.
//!
//! One on-disk format per file: [`miniplaces`] (lists and nested category folders) and [`folder`] (one folder
//! per class). [`open`] detects which it is; everything after it sees only a [`Dataset`]. [`scenes`] draws images
//! instead of reading them, [`objects`] reads one file of polygons, [`annotations`] keeps those of a split, and [`pack`]
//! decodes every image once. [`check`] looks through a whole tree for what is wrong with it.

pub mod annotations;
pub mod check;
mod dataset;
pub mod decode;
#[cfg(feature = "fetch")]
pub mod fetch;
mod files;
pub mod folder;
mod jpeg;
pub mod miniplaces;
pub mod objects;
mod open;
pub mod pack;
pub mod scenes;

pub use annotations::Annotations;
pub(crate) use dataset::kept_categories;
pub use dataset::{Dataset, Only, OpenOptions, Sample, Split};
pub use decode::{Crop, decode_crops, decode_image};
pub use files::photos_below;
pub(crate) use open::absolute;
pub use open::open;
pub use pack::{Pack, default_cache_dir};
