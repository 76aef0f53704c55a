//! How a long reduction is divided among blocks: by shapes alone, so that a problem gives the same bits on every device.

use super::variants::{FULL_GPU_BLOCKS, Gemm, MULTIPROCESSORS, Pass, Variant};
use crate::device::cpu::conv::Conv2dDims;
use crate::device::kernels::mma_tile::DEPTH;
use crate::tensor::DType;

/// Fewest pixels of a wgrad's part: below that, beginning and ending a block costs more than its products.
const LEAST_PIXELS_PER_SPLIT: usize = 512;

/// Most blocks a multiprocessor that a wgrad is divided for.
const MOST_BLOCKS_EACH: usize = 4;

/// What writing a part and reading it again costs: bytes a step, which is the time that a multiprocessor takes for one
/// pixel of a 128x128 tile. Steps, and what follows in steps, are fitted to the launches of ResNet-18 and -50 in
/// benches/runs/2026-11-26-h200-speed: a step is 13 ns.
const BYTES_PER_STEP: f64 = 32768.0;

/// Steps of a launch that adds up parts, however few.
const SUM_STEPS: f64 = 200.0;

/// A reduction divided among blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// Positions of each part but the last, which may have fewer.
    pub depth: usize,
    /// Number of parts.
    pub parts: usize,
}

impl Split {
    /// Divides `depth` positions so that with `tiles` tiles a GPU is full, in multiples of `step` and at least `least`.
    pub(crate) fn new(depth: usize, tiles: usize, step: usize, least: usize) -> Split {
        Split::into(FULL_GPU_BLOCKS.div_ceil(tiles).min(depth / least).max(1), depth, step)
    }

    /// Divides `depth` positions into at most `parts`, in multiples of `step`.
    fn into(parts: usize, depth: usize, step: usize) -> Split {
        let part = depth.div_ceil(parts).next_multiple_of(step);
        Split { depth: part, parts: depth.div_ceil(part) }
    }

    /// Of all numbers of parts of a wgrad the one that takes the fewest steps.
    pub(super) fn of_wgrad(variant: &Variant, gemm: &Gemm) -> Split {
        let most_blocks = MOST_BLOCKS_EACH * MULTIPROCESSORS;
        let most =
            most_blocks.div_ceil(variant.num_tiles(gemm)).min(gemm.depth / LEAST_PIXELS_PER_SPLIT).max(1);
        let splits = (1..=most).map(|parts| Split::into(parts, gemm.depth, DEPTH));
        let steps = |split: &Split| split.steps(variant, gemm);
        splits.min_by(|a, b| steps(a).total_cmp(&steps(b))).expect("there is at least one part")
    }

    /// Steps that a wgrad takes, divided so.
    pub(super) fn steps(&self, variant: &Variant, gemm: &Gemm) -> f64 {
        let products = variant.products(variant.num_tiles(gemm) * self.parts) * self.depth as f64;
        let part_bytes = gemm.rows * gemm.cols * DType::F32.size_bytes();
        match self.parts {
            1 => products,
            parts => products + SUM_STEPS + (parts * part_bytes) as f64 / BYTES_PER_STEP,
        }
    }
}

/// How a wgrad's pixels are divided.
pub(super) fn wgrad_split(variant: &Variant, dims: &Conv2dDims) -> Split {
    Split::of_wgrad(variant, &Gemm::new(Pass::Wgrad, dims))
}

/// Scratch bytes of a wgrad: its parts, if there are several.
pub(super) fn wgrad_workspace_bytes(variant: &Variant, dims: &Conv2dDims) -> usize {
    match wgrad_split(variant, dims).parts {
        1 => 0,
        parts => parts * dims.w_elems() * DType::F32.size_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::conv2d::variants::{VARIANTS, choose};

    /// Images of `size` squared before a convolution of `kernel` squared from `c` to `k` channels.
    fn dims(n: usize, size: usize, [c, k]: [usize; 2], kernel: usize) -> Conv2dDims {
        let pad = kernel / 2;
        let (r, s, stride_h, stride_w) = (kernel, kernel, 1, 1);
        Conv2dDims { n, h: size, w: size, c, k, r, s, stride_h, stride_w, pad_h: pad, pad_w: pad }
    }

    #[test]
    fn splits_cover_the_reduction_without_an_empty_part() {
        let covers = |split: Split, depth: usize| {
            assert!(split.depth.is_multiple_of(DEPTH));
            assert!(split.parts * split.depth >= depth && (split.parts - 1) * split.depth < depth);
        };
        for depth in [1, 63, 64, 511, 513, 1000, 4096, 100_000, 262_144] {
            for tiles in [1, 3, 36, 255, 256, 1000] {
                let split = Split::new(depth, tiles, DEPTH, 512);
                covers(split, depth);
                assert!(tiles < 256 || split.parts == 1);
            }
        }
        for variant in VARIANTS.iter().filter(|variant| variant.pass() == Pass::Wgrad) {
            for dims in [dims(1, 5, [8, 16], 3), dims(3, 77, [8, 16], 3), dims(256, 56, [64, 512], 1)] {
                covers(wgrad_split(variant, &dims), dims.n * dims.h * dims.w);
            }
        }
    }

    /// Blocks of a wgrad in bf16, as tiles times parts.
    fn blocks(dims: Conv2dDims) -> (usize, usize) {
        let variant = choose(Pass::Wgrad, DType::Bf16, false, &dims).unwrap();
        (variant.num_tiles(&Gemm::new(Pass::Wgrad, &dims)), wgrad_split(variant, &dims).parts)
    }

    #[test]
    fn the_blocks_of_a_wgrad_go_evenly_round_the_multiprocessors() {
        // ResNets at 128 pixels and batch 128: 261, 252, 128 and 260 blocks for 132 multiprocessors.
        assert_eq!(blocks(dims(128, 16, [128, 128], 3)), (9, 29));
        assert_eq!(blocks(dims(128, 8, [256, 256], 3)), (36, 7));
        assert_eq!(blocks(dims(128, 8, [256, 1024], 1)), (16, 8));
        assert_eq!(blocks(dims(128, 32, [64, 64], 3)), (5, 52));
        // Nearly a block for each, which nothing has to add up.
        assert_eq!(blocks(dims(128, 4, [1024, 2048], 1)), (128, 1));
    }
}
