//! The CPU device: an arena in host memory and the code that operations share.

mod arena;
mod args;
pub mod conv;
mod parallel;
mod real;
mod storage;

pub use arena::Arena;
pub use args::{BorrowFlags, CpuArgs, Element};
pub use parallel::{
    ChannelTile, for_each_channel_tile, for_each_chunk, for_each_chunk_pair, for_each_chunk_triple,
    for_each_range, lanes, lanes_mut, vectorized,
};
pub use real::Real;
pub use storage::Storage;
