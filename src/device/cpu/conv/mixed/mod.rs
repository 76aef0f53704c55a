//! Convolutions of bf16 tensors with sums in f32, on AMX where there is one and on vectors elsewhere.
//!
//! All passes are products of blocks (`product`): 32 rows and 32 columns over 32 depths, both factors copied into the order
//! that the matrix unit reads. fprop and dgrad are an implicit GEMM (`gemm`), wgrad sums over pixels that all taps share
//! (`wgrad`). Every output is one chain of block sums in an order that the dimensions fix, so the bits are the same for any
//! number of threads and with or without a matrix unit.

mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod answered;
mod gemm;
mod pack;
mod product;
mod shuffle;
#[cfg(test)]
mod tests;
mod wgrad;

pub use amx::{AmxAbsence, amx};
pub use gemm::{dgrad, dgrad_workspace_bytes, fprop, fprop_workspace_bytes};
pub use wgrad::{wgrad, wgrad_workspace_bytes};

use half::bf16;

use super::Conv2dDims;
use product::SIDE;

/// Lanes that work through tasks in a place of the workspace: more than threads, so that one held up does not hold up all.
const LANES_PER_THREAD: usize = 2;
/// Enough work to pay for handing a task to another thread.
const MIN_TASK_FLOPS: usize = 16_000_000;

/// The lanes that a workspace has room for.
fn planned_lanes() -> usize {
    LANES_PER_THREAD * rayon::current_num_threads()
}

/// Contiguous elements that a pixel meets under one tap: part of an image row, zeros where it reaches past the image.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Offset of the first element, in the image or before it.
    base: isize,
    /// The elements that are in the image.
    start: usize,
    end: usize,
}

impl Run {
    /// All zeros.
    const PADDING: Run = Run { base: 0, start: 0, end: 0 };

    /// `span` pixels of `channels` elements from pixel `first` on, of the row of `width` pixels at offset `row`.
    #[inline(always)]
    fn new(row: usize, first: isize, span: usize, width: usize, channels: usize) -> Run {
        let before = (-first).clamp(0, span as isize) as usize;
        let inside = (width as isize - first).clamp(before as isize, span as isize) as usize;
        Run {
            base: row as isize + first * channels as isize,
            start: before * channels,
            end: inside * channels,
        }
    }

    /// Elements `first..first + 32` of the run.
    #[inline(always)]
    fn block(&self, image: &[bf16], first: usize) -> [bf16; SIDE] {
        let at = |elem: usize| self.base + elem as isize;
        let (start, end) = (self.start.max(first), self.end.min(first + SIDE));
        if start >= end {
            return [bf16::ZERO; SIDE];
        }
        let window = usize::try_from(at(first)).ok().and_then(|at| image[at..].first_chunk::<SIDE>());
        match window {
            Some(whole) if end - start == SIDE => *whole,
            // What stands in front of the run and behind it is read too, and left out.
            Some(window) => {
                std::array::from_fn(
                    |i| {
                        if (start..end).contains(&(first + i)) { window[i] } else { bf16::ZERO }
                    },
                )
            }
            None => {
                let mut block = [bf16::ZERO; SIDE];
                let inside = &image[at(start) as usize..at(end) as usize];
                block[start - first..end - first].copy_from_slice(inside);
                block
            }
        }
    }
}

/// Whether a tap's channels fill blocks so badly that a whole row of the filter is taken for one tap.
fn merges_taps(d: &Conv2dDims) -> bool {
    d.s > 1 && !d.c.is_multiple_of(SIDE)
}
