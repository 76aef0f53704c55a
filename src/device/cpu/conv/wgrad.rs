//! wgrad: per tap, a sum of outer products of dy pixels and the x pixels they meet.
//!
//! A tile is up to 12 filters by 32 channels of one tap, so it is stored to dw (KRSC) as it stands. The pixel pairs
//! of a tap are listed as offsets, padding left out. The sum over pixels is cut into blocks, by the dimensions
//! alone; each element of dw is summed by one task, block after block, so the result has the same bits for any
//! number of threads.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::Conv2dDims;
use super::axis::Axis;
use super::implicit_gemm::merges_taps;
use super::microkernel::{MAX_ROWS, OuterTile, PANEL, RowPair, Start, rows_per_tile};
use super::pack::{pad_image, padded_elems};
use super::parallel::{SharedMut, balanced_part, for_each_task};

/// The most pixels of a block: its list of pairs is on the stack.
const MAX_BLOCK_PIXELS: usize = 512;
/// The x pixels of a block stay in a core's second-level cache.
const BLOCK_BYTES: usize = 384 << 10;
/// Tasks are cut to about this number, so that a thread that is held up elsewhere does not hold up the others. Where
/// they are cut changes no result.
const TASKS_PER_THREAD: usize = 4;
/// The taps of a task share its reads of x and dy, so taps are cut into few parts, and filters into the rest.
const TAP_PARTS: usize = 3;
/// Above this x and dy come from memory, and taps are not cut at all.
const SHARED_CACHE_BYTES: usize = 8 << 20;
/// Enough work to pay for handing a task to another thread.
const TASK_FLOPS: usize = 3_000_000;

/// Elements of workspace [`conv2d_wgrad`] needs.
pub fn wgrad_workspace_elems(d: &Conv2dDims) -> usize {
    if copies_image(d) { padded_elems(d) + PANEL } else { 0 }
}

/// Whether x is copied to the workspace: where the last vector of a pixel would reach past the end of x.
fn copies_image(d: &Conv2dDims) -> bool {
    !d.c.is_multiple_of(PANEL)
}

/// dw of [`conv2d_fprop`](super::conv2d_fprop) for the output gradient `dy`; dw is overwritten.
///
/// x is NHWC, dy NPQK, dw KRSC. `workspace` holds at least [`wgrad_workspace_elems`], of any content. Nothing is
/// allocated; the result does not depend on the number of threads.
///
/// # Panics
/// If a slice does not have the length `d` implies.
pub fn conv2d_wgrad(d: &Conv2dDims, x: &[f32], dy: &[f32], dw: &mut [f32], workspace: &mut [f32]) {
    assert_eq!((x.len(), dw.len(), dy.len()), (d.x_elems(), d.w_elems(), d.y_elems()), "x, dw, dy of {d:?}");
    assert!(
        u32::try_from(x.len().max(dy.len()).max(padded_elems(d))).is_ok(),
        "wgrad takes at most 2^32 elements"
    );
    let (p, q) = (d.p(), d.q());
    if !copies_image(d) {
        let rows = Axis::fprop(d.h, p, d.r, d.stride_h, d.pad_h);
        let cols = Axis::fprop(d.w, q, d.s, d.stride_w, d.pad_w);
        return Wgrad { d, rows, cols, run: d.c, x, dy, dw: SharedMut::new(dw) }.compute();
    }
    let workspace = &mut workspace[..padded_elems(d) + PANEL];
    pad_image(d, x, workspace);
    let rows = Axis::fprop(d.h + 2 * d.pad_h, p, d.r, d.stride_h, 0);
    let cols = Axis::fprop(d.w + 2 * d.pad_w, q, d.s, d.stride_w, 0);
    let x = &*workspace;
    let dw = SharedMut::new(dw);
    if merges_taps(d) {
        let cols = Axis { taps: 1, ..cols };
        Wgrad { d, rows, cols, run: d.s * d.c, x, dy, dw }.compute();
    } else {
        Wgrad { d, rows, cols, run: d.c, x, dy, dw }.compute();
    }
}

struct Wgrad<'a> {
    d: &'a Conv2dDims,
    rows: Axis,
    cols: Axis,
    /// Contiguous elements of x one tap meets: the channels, or a whole filter row of them.
    run: usize,
    /// x, readable for [`PANEL`] elements from any run's start.
    x: &'a [f32],
    dy: &'a [f32],
    dw: SharedMut<f32>,
}

impl Wgrad<'_> {
    fn compute(&self) {
        let pixels = self.d.n * self.rows.grid * self.cols.grid;
        let taps = self.rows.taps * self.cols.taps;
        let num_tiles = self.d.k.div_ceil(rows_per_tile());
        let flops = 2 * self.d.k * taps * self.run.next_multiple_of(PANEL) * pixels;
        let wanted_tasks = (TASKS_PER_THREAD * rayon::current_num_threads()).min(flops / TASK_FLOPS).max(1);
        let fits_cache = (self.x.len() + self.dy.len()) * size_of::<f32>() <= SHARED_CACHE_BYTES;
        let tap_parts = if fits_cache { taps.min(TAP_PARTS).min(wanted_tasks) } else { 1 };
        let tile_parts = wanted_tasks.div_ceil(tap_parts).min(num_tiles);
        for_each_task(tap_parts * tile_parts, |task| {
            let taps = balanced_part(taps, task / tile_parts, tap_parts);
            let tiles = balanced_part(num_tiles, task % tile_parts, tile_parts);
            Arch::new().dispatch(Task { wgrad: self, taps, tiles, num_tiles });
        });
    }

    /// Lists the offsets in dy and x of those pixels of `block` whose tap is not padding.
    fn list_pairs<'p>(
        &self,
        tap: usize,
        block: Range<usize>,
        pairs: &'p mut [RowPair; MAX_BLOCK_PIXELS],
    ) -> &'p [RowPair] {
        let (tap_h, tap_w) = (tap / self.cols.taps, tap % self.cols.taps);
        let valid_cols = self.cols.valid_outputs(tap_w);
        let (p, q) = (self.rows.grid, self.cols.grid);
        let x_step = self.cols.in_step * self.d.c;
        let mut len = 0;
        let mut pixel = block.start;
        while pixel < block.end {
            // One output row at a time: its part inside the block.
            let (image_row, begin) = (pixel / q, pixel % q);
            let end = q.min(begin + block.end - pixel);
            pixel += end - begin;
            let (n, i) = (image_row / p, image_row % p);
            let (first, last) = (begin.max(valid_cols.start), end.min(valid_cols.end));
            let Some(h) = self.rows.input_index(i, tap_h) else { continue };
            let Some(w) = self.cols.input_index(first, tap_w).filter(|_| first < last) else { continue };
            let x_first = ((n * self.rows.input + h) * self.cols.input + w) * self.d.c;
            let dy_first = (image_row * q + first) * self.d.k;
            for (j, pair) in pairs[len..len + last - first].iter_mut().enumerate() {
                *pair = RowPair {
                    broadcast: (dy_first + j * self.d.k) as u32,
                    vector: (x_first + j * x_step) as u32,
                };
            }
            len += last - first;
        }
        &pairs[..len]
    }
}

/// Some tiles of filters, by all channels, of some taps.
struct Task<'a> {
    wgrad: &'a Wgrad<'a>,
    taps: Range<usize>,
    tiles: Range<usize>,
    num_tiles: usize,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let wgrad = self.wgrad;
        let pixels = wgrad.d.n * wgrad.rows.grid * wgrad.cols.grid;
        let cached_pixels = BLOCK_BYTES / (wgrad.run * size_of::<f32>());
        let num_blocks = pixels.div_ceil(cached_pixels.clamp(64, MAX_BLOCK_PIXELS));
        let mut pairs = [RowPair::default(); MAX_BLOCK_PIXELS];
        for block in 0..num_blocks {
            for tap in self.taps.clone() {
                let pairs = wgrad.list_pairs(tap, balanced_part(pixels, block, num_blocks), &mut pairs);
                for first_column in (0..wgrad.run).step_by(PANEL) {
                    for tile in self.tiles.clone() {
                        let filters = balanced_part(wgrad.d.k, tile, self.num_tiles);
                        wgrad.compute_tile(simd, pairs, tap, filters, first_column, block == 0);
                    }
                }
            }
        }
    }
}

impl Wgrad<'_> {
    /// Adds the products of `pairs` to one tile of dw; the first block overwrites.
    #[inline(always)]
    fn compute_tile<S: Simd>(
        &self,
        simd: S,
        pairs: &[RowPair],
        tap: usize,
        filters: Range<usize>,
        first_column: usize,
        is_first_block: bool,
    ) {
        let width = PANEL.min(self.run - first_column);
        let filter_stride = self.rows.taps * self.cols.taps * self.run;
        let dw_offset = |k: usize| k * filter_stride + tap * self.run + first_column;
        let is_whole = width == PANEL;
        let mut buffer = [0.0; MAX_ROWS * PANEL];
        let (out, out_stride) = if is_whole {
            // SAFETY: a filter's columns lie inside dw.
            (unsafe { self.dw.at(dw_offset(filters.start)) }, filter_stride)
        } else {
            (buffer.as_mut_ptr(), PANEL)
        };
        let tile = OuterTile {
            pairs,
            broadcast: self.dy[filters.start..].as_ptr(),
            vector: self.x[first_column..].as_ptr(),
            start: if is_whole && !is_first_block { Start::Output } else { Start::Zero },
            out,
            out_stride,
        };
        // SAFETY: `pairs` holds pixels of dy and x, so the filters from a pair's dy pixel are inside dy; PANEL elements
        // from a pair's x pixel are inside x, as x was copied in front of PANEL spare elements where its channels are
        // no multiple of that; out is rows of dw that this task alone has, or the buffer.
        unsafe { tile.run(simd, filters.len()) };
        if !is_whole {
            for (k, from) in filters.zip(buffer.chunks_exact(PANEL)) {
                let to = dw_offset(k);
                // SAFETY: inside dw, and this task alone has this filter's columns.
                let row = unsafe { self.dw.slice(to..to + width) };
                for (to, from) in row.iter_mut().zip(from) {
                    *to = if is_first_block { *from } else { *to + *from };
                }
            }
        }
    }
}
