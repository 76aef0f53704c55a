//! fprop and dgrad: one implicit GEMM over blocks.
//!
//! A tile is 32 output pixels. What they meet is copied into blocks, tap after tap, zeros where a tap lies in the padding,
//! and multiplied with one panel of 32 packed columns after another. A strip is as many tiles as stay in a core's
//! second-level cache, so that a panel is read once for many of them.

use std::ops::Range;

use half::bf16;
use pulp::{Arch, Simd, WithSimd};

use super::pack::Filters;
use super::product::{BLOCK_ELEMS, Engine, Factor, Product, SIDE, Sums, Unit};
use super::{MIN_TASK_FLOPS, Run, merges_taps, planned_lanes};
use crate::device::cpu::Storage;
use crate::device::cpu::conv::axis::Axis;
use crate::device::cpu::conv::finish::{FinishNorm, PanelNorm};
use crate::device::cpu::conv::pack::Columns;
use crate::device::cpu::conv::parallel::{SharedMut, balanced_part, for_each_task};
use crate::device::cpu::conv::{Conv2dDims, microkernel::PANEL};

const _: () = assert!(PANEL == SIDE, "a batch norm finishes panels as wide as blocks");

/// Blocks that a lane holds of the left factor: 1 MiB, half of a second-level cache.
const LANE_BLOCKS: usize = 512;
/// The most tiles of a strip.
const MAX_STRIP_TILES: usize = 16;

/// Bytes of workspace that [`fprop`] needs.
pub fn fprop_workspace_bytes(d: &Conv2dDims) -> usize {
    Parts::of_fprop(d).num_bytes(planned_lanes())
}

/// Bytes of workspace that [`dgrad`] needs.
pub fn dgrad_workspace_bytes(d: &Conv2dDims) -> usize {
    Parts::of_dgrad(d).num_bytes(planned_lanes())
}

/// y = cross-correlation of x with w, each sum in f32, finished by `norm` if it is given, and rounded once.
///
/// x is NHWC, w KRSC, y NPQK. `workspace` holds at least [`fprop_workspace_bytes`], of any content. Nothing is allocated; the
/// result does not depend on the number of threads or on the instructions of the processor.
///
/// # Panics
/// If a slice does not have the length `d` implies.
pub fn fprop(
    d: &Conv2dDims,
    x: &[bf16],
    w: &[bf16],
    norm: Option<FinishNorm<'_, bf16>>,
    y: &mut [bf16],
    workspace: &mut [f32],
) {
    fprop_on(Engine::of_machine(), d, x, w, norm, y, workspace);
}

/// As [`fprop`], by the instructions of `engine`.
pub(super) fn fprop_on(
    engine: Engine,
    d: &Conv2dDims,
    x: &[bf16],
    w: &[bf16],
    norm: Option<FinishNorm<'_, bf16>>,
    y: &mut [bf16],
    workspace: &mut [f32],
) {
    assert_eq!((x.len(), w.len(), y.len()), (d.x_elems(), d.w_elems(), d.y_elems()), "x, w, y of {d:?}");
    let parts = Parts::of_fprop(d);
    let Split { mean, scale_and_shift, packed, lanes } = parts.split(workspace);
    let norm = norm.map(|norm| PanelNorm::new(d, &norm, mean, scale_and_shift));
    let cols = Axis::fprop(d.w, d.q(), d.s, d.stride_w, d.pad_w);
    let merges = merges_taps(d);
    Gemm {
        d,
        rows: Axis::fprop(d.h, d.p(), d.r, d.stride_h, d.pad_h),
        cols: if merges { Axis { taps: 1, ..cols } } else { cols },
        input: x,
        channels: d.c,
        span: if merges { d.s } else { 1 },
        filters: Filters { d, w, columns: Columns::Filters },
        norm,
        adds: false,
        out: Output { elems: SharedMut::new(y), h: d.p(), w: d.q(), c: d.k },
        engine,
    }
    .compute(packed, lanes, parts.lane_blocks);
}

/// dx of [`fprop`] for the output gradient `dy`: overwritten, or with `adds` the sum of it and what dx holds, rounded once.
///
/// dy is NPQK, w KRSC, dx NHWC. `workspace` holds at least [`dgrad_workspace_bytes`], of any content. Nothing is allocated;
/// the result does not depend on the number of threads or on the instructions of the processor.
///
/// # Panics
/// If a slice does not have the length `d` implies.
pub fn dgrad(d: &Conv2dDims, dy: &[bf16], w: &[bf16], adds: bool, dx: &mut [bf16], workspace: &mut [f32]) {
    dgrad_on(Engine::of_machine(), d, dy, w, adds, dx, workspace);
}

/// As [`dgrad`], by the instructions of `engine`.
pub(super) fn dgrad_on(
    engine: Engine,
    d: &Conv2dDims,
    dy: &[bf16],
    w: &[bf16],
    adds: bool,
    dx: &mut [bf16],
    workspace: &mut [f32],
) {
    assert_eq!((dx.len(), w.len(), dy.len()), (d.x_elems(), d.w_elems(), d.y_elems()), "dx, w, dy of {d:?}");
    let parts = Parts::of_dgrad(d);
    let Split { packed, lanes, .. } = parts.split(workspace);
    let out = Output { elems: SharedMut::new(dx), h: d.h, w: d.w, c: d.c };
    for class_h in 0..d.stride_h {
        for class_w in 0..d.stride_w {
            let rows = Axis::dgrad(d.h, d.p(), d.r, d.stride_h, d.pad_h, class_h);
            let cols = Axis::dgrad(d.w, d.q(), d.s, d.stride_w, d.pad_w, class_w);
            if rows.grid * cols.grid == 0 || (adds && rows.taps * cols.taps == 0) {
                continue;
            }
            Gemm {
                d,
                rows,
                cols,
                input: dy,
                channels: d.k,
                span: 1,
                filters: Filters { d, w, columns: Columns::Channels },
                norm: None,
                adds,
                out,
                engine,
            }
            .compute(packed, lanes, parts.lane_blocks);
        }
    }
}

/// The parts of a workspace.
struct Parts {
    /// Columns, filled up to whole panels.
    columns: usize,
    packed_elems: usize,
    lane_blocks: usize,
}

/// A workspace in its parts.
struct Split<'a> {
    /// For the batch norm: the mean of each column.
    mean: &'a mut [f32],
    /// Its scales, then its shifts.
    scale_and_shift: &'a mut [f32],
    packed: &'a mut [bf16],
    lanes: &'a mut [bf16],
}

impl Parts {
    fn of_fprop(d: &Conv2dDims) -> Parts {
        let depth_blocks =
            if merges_taps(d) { d.r * (d.s * d.c).div_ceil(SIDE) } else { d.r * d.s * d.c.div_ceil(SIDE) };
        Parts::new(d.k, depth_blocks, d.n * d.p() * d.q())
    }

    fn of_dgrad(d: &Conv2dDims) -> Parts {
        Parts::new(d.c, d.r * d.s * d.k.div_ceil(SIDE), d.n * d.h * d.w)
    }

    /// For `num_columns` columns, each the sum over `depth_blocks` blocks, of `num_pixels` pixels.
    fn new(num_columns: usize, depth_blocks: usize, num_pixels: usize) -> Parts {
        let columns = num_columns.next_multiple_of(SIDE);
        Parts {
            columns,
            packed_elems: columns / SIDE * depth_blocks * BLOCK_ELEMS,
            lane_blocks: (depth_blocks * num_pixels.div_ceil(SIDE)).clamp(1, LANE_BLOCKS),
        }
    }

    fn num_bytes(&self, lanes: usize) -> usize {
        3 * self.columns * size_of::<f32>()
            + (self.packed_elems + lanes * self.lane_blocks * BLOCK_ELEMS) * size_of::<bf16>()
    }

    fn split<'a>(&self, workspace: &'a mut [f32]) -> Split<'a> {
        let (mean, rest) = workspace.split_at_mut(self.columns);
        let (scale_and_shift, rest) = rest.split_at_mut(2 * self.columns);
        let (packed, lanes) = bytemuck::cast_slice_mut(rest).split_at_mut(self.packed_elems);
        Split { mean, scale_and_shift, packed, lanes }
    }
}

/// The tensor the columns are written to.
#[derive(Clone, Copy)]
struct Output {
    elems: SharedMut<bf16>,
    h: usize,
    w: usize,
    c: usize,
}

/// One implicit GEMM: all output pixels of a pass or of one parity class, by all columns.
struct Gemm<'a> {
    d: &'a Conv2dDims,
    rows: Axis,
    cols: Axis,
    /// The tensor whose pixels are gathered, and the elements of a pixel.
    input: &'a [bf16],
    channels: usize,
    /// Neighbouring pixels that one tap takes together.
    span: usize,
    filters: Filters<'a>,
    norm: Option<PanelNorm<'a, bf16>>,
    /// Whether the output is added to.
    adds: bool,
    out: Output,
    engine: Engine,
}

/// How a GEMM is cut; none of it changes a result.
#[derive(Clone, Copy)]
struct Cut {
    num_tiles: usize,
    num_strips: usize,
    /// Parts of the panels, where there are fewer strips than lanes.
    panel_parts: usize,
    /// Blocks of the depth that are gathered at a time: all, where a lane has room for them.
    chunk_blocks: usize,
}

impl Gemm<'_> {
    fn num_pixels(&self) -> usize {
        self.d.n * self.rows.grid * self.cols.grid
    }

    fn num_panels(&self) -> usize {
        self.out.c.div_ceil(SIDE)
    }

    fn num_taps(&self) -> usize {
        self.rows.taps * self.cols.taps
    }

    /// Elements summed over under one tap.
    fn run(&self) -> usize {
        self.span * self.channels
    }

    fn run_blocks(&self) -> usize {
        self.run().div_ceil(SIDE)
    }

    fn depth_blocks(&self) -> usize {
        self.num_taps() * self.run_blocks()
    }

    /// Runs the GEMM with `packed` for the filters and `lanes` for parts of `lane_blocks` blocks of the left factor.
    fn compute(&self, packed: &mut [bf16], lanes: &mut [bf16], lane_blocks: usize) {
        let panel_elems = self.depth_blocks() * BLOCK_ELEMS;
        let packed = &mut packed[..self.num_panels() * panel_elems];
        self.pack(packed);
        let packed = &*packed;
        let flops = 2 * self.num_pixels() * self.num_panels() * SIDE * self.depth_blocks() * SIDE;
        let lane_elems = lane_blocks * BLOCK_ELEMS;
        let num_lanes = (lanes.len() / lane_elems).min(flops / MIN_TASK_FLOPS).max(1);
        let cut = self.cut(lane_blocks, num_lanes);
        let num_tasks = cut.num_strips * cut.panel_parts;
        let num_lanes = num_lanes.min(num_tasks);
        let lanes = SharedMut::new(lanes);
        for_each_task(num_lanes, |lane| {
            let tasks = balanced_part(num_tasks, lane, num_lanes);
            // SAFETY: each lane has a place of its own.
            let strip = unsafe { lanes.slice(lane * lane_elems..(lane + 1) * lane_elems) };
            Arch::new().dispatch(Lane { gemm: self, packed, strip, cut, tasks });
        });
    }

    fn cut(&self, lane_blocks: usize, num_lanes: usize) -> Cut {
        let depth_blocks = self.depth_blocks().max(1);
        let num_tiles = self.num_pixels().div_ceil(SIDE);
        let strip_tiles = (lane_blocks / depth_blocks).clamp(1, MAX_STRIP_TILES);
        let num_strips = num_tiles.div_ceil(strip_tiles).max(num_tiles.min(num_lanes));
        let panel_parts = num_lanes.div_ceil(num_strips).min(self.num_panels());
        Cut { num_tiles, num_strips, panel_parts, chunk_blocks: lane_blocks.min(depth_blocks) }
    }

    fn pack(&self, packed: &mut [bf16]) {
        struct PackTap<'a, 'g>(&'a Gemm<'g>, usize, &'a mut [bf16]);
        impl WithSimd for PackTap<'_, '_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                let PackTap(gemm, task, out) = self;
                let (panel, tap) = (task / gemm.num_taps(), task % gemm.num_taps());
                let r = gemm.rows.filter_index(tap / gemm.cols.taps);
                let s = gemm.cols.filter_index(tap % gemm.cols.taps);
                let offset = (r * gemm.d.s + s) * gemm.d.c;
                gemm.filters.pack_tap(simd, panel * SIDE, offset, gemm.run(), out);
            }
        }
        let tap_elems = self.run_blocks() * BLOCK_ELEMS;
        let shared = SharedMut::new(packed);
        for_each_task(self.num_panels() * self.num_taps(), |task| {
            // SAFETY: each task has its own tap of a panel.
            let out = unsafe { shared.slice(task * tap_elems..(task + 1) * tap_elems) };
            Arch::new().dispatch(PackTap(self, task, out));
        });
    }

    /// Row and column of an output pixel in its grid, and its image.
    #[inline(always)]
    fn position(&self, pixel: usize) -> [usize; 3] {
        let positions = self.rows.grid * self.cols.grid;
        let (n, position) = (pixel / positions, pixel % positions);
        [n, position / self.cols.grid, position % self.cols.grid]
    }

    /// Element offset of the first column of an output pixel.
    #[inline(always)]
    fn out_offset(&self, pixel: usize) -> usize {
        let [n, i, j] = self.position(pixel);
        let (h, w) = (self.rows.output_index(i), self.cols.output_index(j));
        ((n * self.out.h + h) * self.out.w + w) * self.out.c
    }

    /// Copies the blocks `blocks` of the depth of one tile to `out`.
    #[inline(always)]
    fn gather(&self, tile: usize, blocks: Range<usize>, out: &mut [bf16]) {
        if blocks.is_empty() {
            return;
        }
        let run_blocks = self.run_blocks();
        for line in 0..SIDE {
            let pixel = tile * SIDE + line;
            let is_pixel = pixel < self.num_pixels();
            let [n, i, j] = self.position(pixel);
            let (mut tap_h, mut tap_w, mut in_run) = {
                let tap = blocks.start / run_blocks;
                (tap / self.cols.taps, tap % self.cols.taps, blocks.start % run_blocks)
            };
            let mut to = line * SIDE;
            let end = blocks.len() * BLOCK_ELEMS;
            while to < end {
                let first = self.cols.origin(j) + tap_w as isize * self.cols.in_tap_step;
                let run = match self.rows.input_index(i, tap_h).filter(|_| is_pixel) {
                    Some(h) => {
                        let row = (n * self.rows.input + h) * self.cols.input * self.channels;
                        Run::new(row, first, self.span, self.cols.input, self.channels)
                    }
                    None => Run::PADDING,
                };
                while in_run < run_blocks && to < end {
                    out[to..to + SIDE].copy_from_slice(&run.block(self.input, in_run * SIDE));
                    (in_run, to) = (in_run + 1, to + BLOCK_ELEMS);
                }
                in_run = 0;
                tap_w += 1;
                if tap_w == self.cols.taps {
                    (tap_h, tap_w) = (tap_h + 1, 0);
                }
            }
        }
    }

    /// Finishes the sums of one tile and panel and writes them; `offsets` are those of the tile's pixels.
    #[inline(always)]
    fn store(&self, sums: &mut Sums, panel: usize, offsets: &[usize]) {
        let first = panel * SIDE;
        let width = SIDE.min(self.out.c - first);
        for (row, offset) in sums.0.iter_mut().zip(offsets) {
            let from = offset + first;
            if let Some(norm) = &self.norm {
                let residual = norm.residual.map(|residual| widened(&residual[from..from + width]));
                norm.finish(row, first, residual.as_ref());
            }
            // SAFETY: a pixel's columns lie in the output, and this task alone has them.
            let out = unsafe { self.out.elems.slice(from..from + width) };
            if self.adds {
                let before = widened(out);
                row.iter_mut().zip(before).for_each(|(sum, before)| *sum += before);
            }
            match out.first_chunk_mut::<SIDE>() {
                Some(out) => *out = row.map(bf16::store),
                None => out.iter_mut().zip(row).for_each(|(to, sum)| *to = bf16::store(*sum)),
            }
        }
    }
}

/// Up to 32 elements in f32, zeros behind the last.
#[inline(always)]
fn widened(elems: &[bf16]) -> [f32; SIDE] {
    if let Some(whole) = elems.first_chunk::<SIDE>() {
        return whole.map(bf16::load);
    }
    let mut row = [0.0; SIDE];
    row.iter_mut().zip(elems).for_each(|(to, elem)| *to = elem.load());
    row
}

/// Some strips by some panels of a [`Gemm`], one after another.
struct Lane<'a, 'g> {
    gemm: &'a Gemm<'g>,
    /// The filters of all panels.
    packed: &'a [bf16],
    /// Room for the left factor.
    strip: &'a mut [bf16],
    cut: Cut,
    tasks: Range<usize>,
}

impl WithSimd for Lane<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Lane { gemm, packed, strip, cut, tasks } = self;
        // SAFETY: `Engine::of_machine` found the engine, or a test answers its instructions; a lane ends before its thread
        // takes another.
        let unit = unsafe { gemm.engine.prepare() };
        let depth_blocks = gemm.depth_blocks();
        let panel_elems = depth_blocks * BLOCK_ELEMS;
        let is_whole = cut.chunk_blocks >= depth_blocks;
        let mut offsets = [0; MAX_STRIP_TILES * SIDE];
        let mut sums = Sums([[0.0; SIDE]; SIDE]);
        for task in tasks {
            let tiles = balanced_part(cut.num_tiles, task / cut.panel_parts, cut.num_strips);
            let panels = balanced_part(gemm.num_panels(), task % cut.panel_parts, cut.panel_parts);
            let pixels = tiles.start * SIDE..gemm.num_pixels().min(tiles.end * SIDE);
            let offsets = &mut offsets[..pixels.len()];
            offsets.iter_mut().zip(pixels).for_each(|(offset, pixel)| *offset = gemm.out_offset(pixel));
            if is_whole {
                for (tile, blocks) in tiles.clone().zip(strip.chunks_exact_mut(panel_elems.max(1))) {
                    gemm.gather(tile, 0..depth_blocks, blocks);
                }
            }
            for panel in panels {
                let packed = &packed[panel * panel_elems..(panel + 1) * panel_elems];
                for ((i, tile), offsets) in tiles.clone().enumerate().zip(offsets.chunks(SIDE)) {
                    let mut done = 0;
                    loop {
                        let blocks = cut.chunk_blocks.min(depth_blocks - done);
                        let left = if is_whole {
                            &strip[i * panel_elems..(i + 1) * panel_elems]
                        } else {
                            gemm.gather(tile, done..done + blocks, strip);
                            &*strip
                        };
                        multiply(
                            simd,
                            &unit,
                            left,
                            &packed[done * BLOCK_ELEMS..],
                            blocks,
                            done > 0,
                            &mut sums,
                        );
                        done += blocks;
                        if done == depth_blocks {
                            break;
                        }
                    }
                    gemm.store(&mut sums, panel, offsets);
                }
            }
        }
    }
}

/// Adds the products of the first `blocks` blocks of two packed factors to `sums`, or writes them there.
#[inline(always)]
fn multiply<S: Simd>(
    simd: S,
    unit: &Unit,
    left: &[bf16],
    right: &[bf16],
    blocks: usize,
    adds: bool,
    sums: &mut Sums,
) {
    assert!(left.len().min(right.len()) >= blocks * BLOCK_ELEMS, "factors of {blocks} blocks");
    let product = Product {
        a: Factor::packed(left.as_ptr()),
        b: Factor::packed(right.as_ptr()),
        blocks,
        adds,
        out: sums.0.as_flattened_mut().as_mut_ptr(),
        out_stride: SIDE,
    };
    // SAFETY: both slices hold the blocks, and `sums` is 32 rows of 32.
    unsafe { product.run(simd, unit) };
}
