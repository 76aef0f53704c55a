//! fprop and dgrad: one implicit GEMM whose rows are gathered through pointers.
//!
//! A tile is up to 12 output pixels by one panel of columns. For each tap the tile has one pointer per pixel, to
//! the contiguous channels of the input pixel that tap meets, or to a row of zeros in the padding; a tap that is
//! padding for all pixels of the tile is left out. dgrad with a stride falls into parity classes (see `axis`),
//! each a problem of its own without a single multiplication by an inserted zero.

use std::ops::Range;

use arrayvec::ArrayVec;
use pulp::{Arch, Simd, WithSimd};

use super::Conv2dDims;
use super::axis::Axis;
use super::finish::{Finish, PanelNorm};
use super::microkernel::{GatherTile, MAX_ROWS, PANEL, Start, TAPS_PER_ROUND, TapRows, rows_per_tile};
use super::pack::{Columns, Filters, pad_image, padded_elems};
use super::parallel::{SharedMut, TASKS_PER_THREAD, balanced_part, for_each_task};
use super::pixel_panels::{self, PixelPanels};

/// Panels a task goes through per tile, so that they stay in a core's second-level cache.
const PANEL_BLOCK_BYTES: usize = 384 << 10;
/// Enough work to pay for handing a task to another thread.
const TASK_FLOPS: usize = 6_000_000;
/// Maps up to this many pixels take the pixels of a tile from different images of the batch.
const SMALL_MAP_PIXELS: usize = 64;

/// Elements of workspace [`conv2d_fprop`] needs.
pub fn fprop_workspace_elems(d: &Conv2dDims) -> usize {
    let run = if merges_taps(d) { d.s * d.c } else { d.c };
    let padded = if merges_taps(d) { padded_elems(d) } else { 0 };
    d.k.next_multiple_of(PANEL) * (d.r * d.s * d.c + 1) + run + padded
}

/// Elements of workspace [`conv2d_fprop`] needs to finish by a batch norm.
pub fn fprop_norm_workspace_elems(d: &Conv2dDims) -> usize {
    fprop_workspace_elems(d) + 2 * d.k.next_multiple_of(PANEL)
}

/// Elements of workspace [`conv2d_dgrad`] needs.
pub fn dgrad_workspace_elems(d: &Conv2dDims) -> usize {
    d.c.next_multiple_of(PANEL) * d.r * d.s * d.k + d.k
}

/// Whether so few channels would make each tap's run too short, so that the image is padded in the workspace
/// and one row of the filter becomes one run of `s * c`.
pub(super) fn merges_taps(d: &Conv2dDims) -> bool {
    d.s > 1 && d.c < 16
}

/// y = cross-correlation of x with w, finished as `finish` says; y is overwritten.
///
/// x is NHWC, w KRSC, y NPQK. `workspace` holds at least [`fprop_workspace_elems`], with a batch norm
/// [`fprop_norm_workspace_elems`], of any content. Nothing is allocated; the result does not depend on the number of
/// threads, and has the bits of a batch norm that runs after the convolution.
///
/// # Panics
/// If a slice does not have the length `d` implies.
pub fn conv2d_fprop(
    d: &Conv2dDims,
    x: &[f32],
    w: &[f32],
    finish: Finish<'_>,
    y: &mut [f32],
    workspace: &mut [f32],
) {
    let by_pixels = !merges_taps(d) && pixel_panels::pays(d);
    fprop(d, x, w, finish, y, workspace, by_pixels);
}

/// [`conv2d_fprop`] by panels of pixels, or of filters.
pub(super) fn fprop(
    d: &Conv2dDims,
    x: &[f32],
    w: &[f32],
    finish: Finish<'_>,
    y: &mut [f32],
    workspace: &mut [f32],
    by_pixels: bool,
) {
    assert_eq!((x.len(), w.len(), y.len()), (d.x_elems(), d.w_elems(), d.y_elems()), "x, w, y of {d:?}");
    let rows = Axis::fprop(d.h, d.p(), d.r, d.stride_h, d.pad_h);
    let cols = Axis::fprop(d.w, d.q(), d.s, d.stride_w, d.pad_w);
    let (panels, workspace) = workspace.split_at_mut(d.k.next_multiple_of(PANEL) * d.r * d.s * d.c);
    let (row, mut workspace) = workspace.split_at_mut(d.k.next_multiple_of(PANEL));
    let (mut start, mut norm) = (FirstRound::Zero, None);
    match finish {
        Finish::None => {}
        Finish::Bias(bias) => {
            assert_eq!(bias.len(), d.k, "bias of {d:?}");
            row[..d.k].copy_from_slice(bias);
            row[d.k..].fill(0.0);
            start = FirstRound::Bias(row);
        }
        Finish::Norm(finish) => {
            let (rows, rest) = workspace.split_at_mut(2 * row.len());
            norm = Some(PanelNorm::new(d, &finish, row, rows));
            workspace = rest;
        }
    }
    let filters = Filters { d, columns: Columns::Filters, w };
    let out = Output { elems: SharedMut::new(y), h: d.p(), w: d.q(), c: d.k };
    if merges_taps(d) {
        let (zeros, workspace) = workspace.split_at_mut(d.s * d.c);
        let padded = &mut workspace[..padded_elems(d)];
        pad_image(d, x, padded);
        let padded_w = d.w + 2 * d.pad_w;
        let rows = Axis::fprop(d.h + 2 * d.pad_h, d.p(), d.r, d.stride_h, 0);
        let cols = Axis { taps: 1, ..Axis::fprop(padded_w, d.q(), d.s, d.stride_w, 0) };
        zeros.fill(0.0);
        let input = Input { elems: padded, pixel_elems: d.c, run: d.s * d.c, zeros };
        Gemm { norm, ..Gemm::new(rows, cols, input, filters, start, out) }.compute(panels);
    } else {
        let zeros = &mut workspace[..d.c];
        zeros.fill(0.0);
        if by_pixels {
            let bias = if let FirstRound::Bias(row) = start { Some(row) } else { None };
            return PixelPanels { d, rows, cols, x, w, bias, norm, zeros, y: out.elems }.compute(panels);
        }
        let input = Input { elems: x, pixel_elems: d.c, run: d.c, zeros };
        Gemm { norm, ..Gemm::new(rows, cols, input, filters, start, out) }.compute(panels);
    }
}

/// dx of [`conv2d_fprop`] for the output gradient `dy`: overwritten, or added to where `accumulate` is set.
///
/// dy is NPQK, w KRSC, dx NHWC. `workspace` holds at least [`dgrad_workspace_elems`], of any content. Nothing is
/// allocated; the result does not depend on the number of threads.
///
/// # Panics
/// If a slice does not have the length `d` implies.
pub fn conv2d_dgrad(
    d: &Conv2dDims,
    dy: &[f32],
    w: &[f32],
    accumulate: bool,
    dx: &mut [f32],
    workspace: &mut [f32],
) {
    assert_eq!((dx.len(), w.len(), dy.len()), (d.x_elems(), d.w_elems(), d.y_elems()), "dx, w, dy of {d:?}");
    let (panels, workspace) = workspace.split_at_mut(d.c.next_multiple_of(PANEL) * d.r * d.s * d.k);
    let zeros = &mut workspace[..d.k];
    zeros.fill(0.0);
    let filters = Filters { d, columns: Columns::Channels, w };
    let out = Output { elems: SharedMut::new(dx), h: d.h, w: d.w, c: d.c };
    let start = if accumulate { FirstRound::Accumulate } else { FirstRound::Zero };
    for class_h in 0..d.stride_h {
        for class_w in 0..d.stride_w {
            let rows = Axis::dgrad(d.h, d.p(), d.r, d.stride_h, d.pad_h, class_h);
            let cols = Axis::dgrad(d.w, d.q(), d.s, d.stride_w, d.pad_w, class_w);
            if rows.grid * cols.grid == 0 || (accumulate && rows.taps * cols.taps == 0) {
                continue;
            }
            let input = Input { elems: dy, pixel_elems: d.k, run: d.k, zeros };
            Gemm::new(rows, cols, input, filters, start, out).compute(panels);
        }
    }
}

/// Whether consecutive pixels of a tile are of consecutive images instead of consecutive positions. Small maps want
/// that: their tiles then skip the many taps that are padding at one position.
pub(super) fn is_batch_inner(n: usize, positions: usize, taps: usize) -> bool {
    positions <= SMALL_MAP_PIXELS && n >= MAX_ROWS / 2 && taps > 1
}

/// What the first round of taps starts from; later rounds add to the output.
#[derive(Clone, Copy)]
enum FirstRound<'a> {
    Zero,
    Bias(&'a [f32]),
    Accumulate,
}

/// The gathered factor.
#[derive(Clone, Copy)]
struct Input<'a> {
    elems: &'a [f32],
    /// Elements from one pixel to the next in a row.
    pixel_elems: usize,
    /// Contiguous elements each tap contributes to the sum.
    run: usize,
    /// `run` zeros.
    zeros: &'a [f32],
}

/// The tensor the columns are written to.
#[derive(Clone, Copy)]
struct Output {
    elems: SharedMut<f32>,
    h: usize,
    w: usize,
    c: usize,
}

/// One implicit GEMM: all output pixels of a pass or of one parity class, by all columns.
struct Gemm<'a> {
    n: usize,
    rows: Axis,
    cols: Axis,
    input: Input<'a>,
    filters: Filters<'a>,
    start: FirstRound<'a>,
    norm: Option<PanelNorm<'a, f32>>,
    out: Output,
    /// See [`is_batch_inner`].
    batch_inner: bool,
    /// Pixels are cut into segments, and these into tiles.
    segment_pixels: usize,
    tiles_per_segment: usize,
}

/// One output pixel of a tile.
#[derive(Clone, Copy)]
struct Pixel {
    /// Element offset of its image in the input.
    image: usize,
    origin_h: isize,
    origin_w: isize,
    /// Element offset of its first column in the output.
    out: usize,
}

impl<'a> Gemm<'a> {
    fn new(
        rows: Axis,
        cols: Axis,
        input: Input<'a>,
        filters: Filters<'a>,
        start: FirstRound<'a>,
        out: Output,
    ) -> Gemm<'a> {
        let n = filters.d.n;
        let positions = rows.grid * cols.grid;
        let batch_inner = is_batch_inner(n, positions, rows.taps * cols.taps);
        let segment_pixels = if batch_inner { n } else { n * positions };
        let tiles_per_segment = segment_pixels.div_ceil(rows_per_tile());
        let norm = None;
        Gemm {
            n,
            rows,
            cols,
            input,
            filters,
            start,
            norm,
            out,
            batch_inner,
            segment_pixels,
            tiles_per_segment,
        }
    }

    /// Elements of one tap of one panel.
    fn tap_elems(&self) -> usize {
        self.input.run * PANEL
    }

    fn panel_elems(&self) -> usize {
        self.rows.taps * self.cols.taps * self.tap_elems()
    }

    fn num_panels(&self) -> usize {
        self.out.c.div_ceil(PANEL)
    }

    fn num_tiles(&self) -> usize {
        self.n * self.rows.grid * self.cols.grid / self.segment_pixels * self.tiles_per_segment
    }

    /// Runs the GEMM with `workspace` for the packed filters; how the work is cut changes no result.
    fn compute(&self, workspace: &mut [f32]) {
        let lanes = TASKS_PER_THREAD * rayon::current_num_threads();
        let activations = self.num_tiles() * MAX_ROWS * (self.input.run + self.out.c);
        if self.num_panels() >= 2 * lanes && self.panel_elems() * self.num_panels() > activations {
            self.compute_in_lanes(lanes, workspace);
        } else {
            self.pack_all(workspace);
            self.compute_packed(workspace);
        }
    }

    /// For large filters on small maps: each lane packs a panel, uses it up, and packs the next into the same
    /// place, so that packed filters never leave the cache.
    fn compute_in_lanes(&self, lanes: usize, workspace: &mut [f32]) {
        let panel_elems = self.panel_elems();
        let shared = SharedMut::new(workspace);
        for_each_task(lanes, |lane| {
            // SAFETY: each lane has its own panel, and the workspace has one for each of all the panels, which are more.
            let packed = unsafe { shared.slice(lane * panel_elems..(lane + 1) * panel_elems) };
            for panel in balanced_part(self.num_panels(), lane, lanes) {
                for tap in 0..self.rows.taps * self.cols.taps {
                    self.pack_tap(panel, tap, &mut packed[tap * self.tap_elems()..][..self.tap_elems()]);
                }
                let panels = panel..panel + 1;
                Arch::new().dispatch(Task { gemm: self, packed, panels, tiles: 0..self.num_tiles() });
            }
        });
    }

    fn pack_all(&self, workspace: &mut [f32]) {
        let taps = self.rows.taps * self.cols.taps;
        let shared = SharedMut::new(workspace);
        for_each_task(self.num_panels() * taps, |task| {
            // SAFETY: each task has its own tap of a panel, and the workspace has room for them all.
            let out = unsafe { shared.slice(task * self.tap_elems()..(task + 1) * self.tap_elems()) };
            self.pack_tap(task / taps, task % taps, out);
        });
    }

    fn pack_tap(&self, panel: usize, tap: usize, out: &mut [f32]) {
        let r = self.rows.filter_index(tap / self.cols.taps);
        let s = self.cols.filter_index(tap % self.cols.taps);
        self.filters.pack_tap(panel, r, s, out);
    }

    fn compute_packed(&self, packed: &[f32]) {
        let (num_panels, num_tiles) = (self.num_panels(), self.num_tiles());
        let panel_elems = self.panel_elems().max(1);
        let panels_per_block = (PANEL_BLOCK_BYTES / (panel_elems * size_of::<f32>())).clamp(1, num_panels);
        let num_blocks = num_panels.div_ceil(panels_per_block);
        let tile_flops = 2 * MAX_ROWS * panel_elems * panels_per_block;
        let num_parts = num_tiles.div_ceil((TASK_FLOPS / tile_flops).max(1));
        for_each_task(num_blocks * num_parts, |task| {
            let panels = balanced_part(num_panels, task / num_parts, num_blocks);
            let tiles = balanced_part(num_tiles, task % num_parts, num_parts);
            let packed = &packed[panels.start * self.panel_elems()..panels.end * self.panel_elems()];
            Arch::new().dispatch(Task { gemm: self, packed, panels, tiles });
        });
    }

    fn tile_pixels(&self, tile: usize) -> ArrayVec<Pixel, MAX_ROWS> {
        let segment = tile / self.tiles_per_segment;
        let range = balanced_part(self.segment_pixels, tile % self.tiles_per_segment, self.tiles_per_segment);
        range.map(|i| self.pixel(segment * self.segment_pixels + i)).collect()
    }

    fn pixel(&self, index: usize) -> Pixel {
        let positions = self.rows.grid * self.cols.grid;
        let (n, position) = if self.batch_inner {
            (index % self.n, index / self.n)
        } else {
            (index / positions, index % positions)
        };
        let (i, j) = (position / self.cols.grid, position % self.cols.grid);
        let (out_h, out_w) = (self.rows.output_index(i), self.cols.output_index(j));
        Pixel {
            image: n * self.rows.input * self.cols.input * self.input.pixel_elems,
            origin_h: self.rows.origin(i),
            origin_w: self.cols.origin(j),
            out: ((n * self.out.h + out_h) * self.out.w + out_w) * self.out.c,
        }
    }

    /// The pointers of the taps in `round` that meet at least one input pixel.
    #[inline(always)]
    fn tap_rows(&self, pixels: &[Pixel], round: Range<usize>) -> ArrayVec<TapRows, TAPS_PER_ROUND> {
        let mut taps = ArrayVec::new();
        let zeros = self.input.zeros.as_ptr();
        for tap in round {
            let step_h = (tap / self.cols.taps) as isize * self.rows.in_tap_step;
            let step_w = (tap % self.cols.taps) as isize * self.cols.in_tap_step;
            let mut rows = [zeros; MAX_ROWS];
            let mut meets_input = false;
            for (row, pixel) in rows.iter_mut().zip(pixels) {
                // A negative index becomes a huge one, so that one comparison serves both ends.
                let (h, w) = ((pixel.origin_h + step_h) as usize, (pixel.origin_w + step_w) as usize);
                if h < self.rows.input && w < self.cols.input {
                    let offset = pixel.image + (h * self.cols.input + w) * self.input.pixel_elems;
                    *row = self.input.elems[offset..offset + self.input.run].as_ptr();
                    meets_input = true;
                }
            }
            if meets_input {
                taps.push(TapRows { rows, panel_offset: tap * self.tap_elems() });
            }
        }
        taps
    }
}

/// Some tiles by some panels of a [`Gemm`].
struct Task<'a> {
    gemm: &'a Gemm<'a>,
    /// The panels' filters.
    packed: &'a [f32],
    panels: Range<usize>,
    tiles: Range<usize>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let gemm = self.gemm;
        let num_taps = gemm.rows.taps * gemm.cols.taps;
        for tile in self.tiles {
            let pixels = gemm.tile_pixels(tile);
            let num_rounds = num_taps.div_ceil(TAPS_PER_ROUND).max(1);
            for round in 0..num_rounds {
                let first_tap = round * TAPS_PER_ROUND;
                let taps = gemm.tap_rows(&pixels, first_tap..num_taps.min(first_tap + TAPS_PER_ROUND));
                for (i, panel) in self.panels.clone().enumerate() {
                    let packed = &self.packed[i * gemm.panel_elems()..(i + 1) * gemm.panel_elems()];
                    let part = Part { is_first: round == 0, is_last: round + 1 == num_rounds };
                    gemm.compute_tile(simd, &pixels, &taps, packed, panel * PANEL, part);
                }
            }
        }
    }
}

/// Which of the rounds of taps it is.
#[derive(Clone, Copy)]
struct Part {
    is_first: bool,
    is_last: bool,
}

impl Gemm<'_> {
    /// Computes one tile by one panel, for one round of taps.
    #[inline(always)]
    fn compute_tile<S: Simd>(
        &self,
        simd: S,
        pixels: &[Pixel],
        taps: &[TapRows],
        packed: &[f32],
        first_column: usize,
        part: Part,
    ) {
        let width = PANEL.min(self.out.c - first_column);
        let start = match self.start {
            _ if !part.is_first => Start::Output,
            FirstRound::Zero => Start::Zero,
            FirstRound::Bias(bias) => Start::Row(bias[first_column..first_column + PANEL].as_ptr()),
            FirstRound::Accumulate => Start::Output,
        };
        let mut buffer = [0.0; MAX_ROWS * PANEL];
        let mut out = [std::ptr::null_mut(); MAX_ROWS];
        for (i, pixel) in pixels.iter().enumerate() {
            let to = pixel.out + first_column;
            if width == PANEL {
                // SAFETY: a pixel's columns lie inside the output.
                out[i] = unsafe { self.out.elems.at(to) };
            } else {
                let row = &mut buffer[i * PANEL..(i + 1) * PANEL];
                out[i] = row.as_mut_ptr();
                if let Start::Output = start {
                    // SAFETY: inside the output, and this task alone has this pixel's columns.
                    row[..width].copy_from_slice(unsafe { self.out.elems.slice(to..to + width) });
                }
            }
        }
        let tile =
            GatherTile { taps, run: self.input.run, columns: PANEL, panel: packed.as_ptr(), start, out };
        // SAFETY: `tap_rows` took each pointer from a slice of `run` elements, the panel slice holds `run * PANEL`
        // elements for each tap, the bias slice a whole panel, and the output rows are PANEL columns of the output
        // that this task alone has, or rows of the buffer.
        unsafe { tile.run(simd, pixels.len()) };
        if let Some(norm) = self.norm.as_ref().filter(|_| part.is_last) {
            for (&out, pixel) in out.iter().zip(pixels) {
                // SAFETY: as above, and nothing else holds the row.
                let row = unsafe { &mut *out.cast::<[f32; PANEL]>() };
                let first = pixel.out + first_column;
                norm.finish_at(row, first_column, first..first + width);
            }
        }
        if width < PANEL {
            for (i, pixel) in pixels.iter().enumerate() {
                let to = pixel.out + first_column;
                // SAFETY: as above.
                let row = unsafe { self.out.elems.slice(to..to + width) };
                row.copy_from_slice(&buffer[i * PANEL..i * PANEL + width]);
            }
        }
    }
}
