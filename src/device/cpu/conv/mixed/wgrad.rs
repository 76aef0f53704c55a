//! wgrad: sums over pixels, in an order that all taps share.
//!
//! Output pixels are numbered row by row with gaps, so wide that the pixel which a tap meets is always as many places ahead,
//! and a gap meets nothing but zeros. A tap of a stride-1 convolution is then an offset into one copy of x; with strides,
//! into the copy of its plane: the pixels of x whose row and column leave the same remainders. dy is copied as rows of
//! pixels by filter, x as pairs of pixels, and because a pair may begin at an even or at an odd place, twice.

use std::ops::Range;

use half::bf16;
use pulp::{Arch, Simd, WithSimd};

use super::pack::transpose_block;
use super::product::{Engine, Factor, Product, SIDE, Sums, TILE, Unit};
use super::shuffle::interleave;
use super::{MIN_TASK_FLOPS, Run, merges_taps, planned_lanes};
use crate::device::cpu::conv::Conv2dDims;
use crate::device::cpu::conv::parallel::{SharedMut, balanced_part, for_each_task};

/// Elements of a lane's copies: 1 MiB, half of a second-level cache.
const LANE_ELEMS: usize = 512 << 10;
/// The fewest and the most pixels that are copied at a time.
const MIN_PIXELS: usize = 128;
const MAX_PIXELS: usize = 768;

/// Bytes of workspace that [`wgrad`] needs.
pub fn wgrad_workspace_bytes(d: &Conv2dDims) -> usize {
    let order = Order::new(d);
    planned_lanes() * order.lane_elems(d.k.next_multiple_of(SIDE)) * size_of::<bf16>()
}

/// dw of [`fprop`](super::fprop) for the output gradient `dy`, in f32; dw is overwritten.
///
/// x is NHWC, dy NPQK, dw KRSC. `workspace` holds at least [`wgrad_workspace_bytes`], of any content. Nothing is allocated;
/// the result does not depend on the number of threads or on the instructions of the processor.
///
/// # Panics
/// If a slice does not have the length `d` implies.
pub fn wgrad(d: &Conv2dDims, x: &[bf16], dy: &[bf16], dw: &mut [f32], workspace: &mut [f32]) {
    wgrad_on(Engine::of_machine(), d, x, dy, dw, workspace);
}

/// As [`wgrad`], by the instructions of `engine`.
pub(super) fn wgrad_on(
    engine: Engine,
    d: &Conv2dDims,
    x: &[bf16],
    dy: &[bf16],
    dw: &mut [f32],
    workspace: &mut [f32],
) {
    assert_eq!((x.len(), dw.len(), dy.len()), (d.x_elems(), d.w_elems(), d.y_elems()), "x, dw, dy of {d:?}");
    let order = Order::new(d);
    let lane_elems = order.lane_elems(d.k.next_multiple_of(SIDE));
    let workspace: &mut [bf16] = bytemuck::cast_slice_mut(workspace);
    let (filter_blocks, channel_blocks) = (d.k.div_ceil(SIDE), order.run.div_ceil(SIDE));
    let flops = 2 * order.len() * filter_blocks * channel_blocks * SIDE * SIDE * order.num_taps();
    let num_lanes = (workspace.len() / lane_elems).min(flops / MIN_TASK_FLOPS).max(1);
    let filter_parts = num_lanes.min(filter_blocks);
    let channel_parts = (num_lanes / filter_parts).min(channel_blocks);
    let lanes = SharedMut::new(workspace);
    let wgrad = Wgrad { d, order, x, dy, dw: SharedMut::new(dw), engine };
    for_each_task(filter_parts * channel_parts, |task| {
        // SAFETY: each task has a place of its own; there are no more tasks than lanes.
        let copies = unsafe { lanes.slice(task * lane_elems..(task + 1) * lane_elems) };
        let filters = balanced_part(filter_blocks, task / channel_parts, filter_parts);
        let channels = balanced_part(channel_blocks, task % channel_parts, channel_parts);
        Arch::new().dispatch(Lane { wgrad: &wgrad, copies, filters, channels });
    });
}

/// One axis of the order of pixels.
#[derive(Debug, Clone, Copy)]
struct AxisOrder {
    /// Output pixels, and places of which they are the first.
    outputs: usize,
    places: usize,
    /// Pixels of x.
    inputs: usize,
    taps: usize,
    stride: usize,
    pad: usize,
}

impl AxisOrder {
    fn new(inputs: usize, outputs: usize, taps: usize, stride: usize, pad: usize) -> AxisOrder {
        let mut axis = AxisOrder { outputs, places: outputs, inputs, taps, stride, pad };
        for plane in 0..axis.planes() {
            // What a tap meets must be a place, and where it is one of the next row, zeros: the padding in front.
            let reach = outputs + (taps - 1 - plane) / stride;
            let zeros = pad.saturating_sub(plane).div_ceil(stride);
            let end = (inputs + pad).saturating_sub(plane).div_ceil(stride);
            axis.places = axis.places.max(end.min(reach)).max(reach.saturating_sub(zeros));
        }
        axis
    }

    /// Remainders of a tap divided by the stride.
    fn planes(&self) -> usize {
        self.stride.min(self.taps)
    }

    /// The pixel of x, before or behind it too, at `place` of `plane`.
    #[inline(always)]
    fn input(&self, place: usize, plane: usize) -> isize {
        (place * self.stride + plane) as isize - self.pad as isize
    }
}

/// The order of pixels, and what a tap means in it.
#[derive(Debug, Clone, Copy)]
struct Order {
    images: usize,
    rows: AxisOrder,
    cols: AxisOrder,
    /// Neighbouring pixels of x that one tap takes together, and their elements.
    span: usize,
    run: usize,
}

impl Order {
    fn new(d: &Conv2dDims) -> Order {
        let rows = AxisOrder::new(d.h, d.p(), d.r, d.stride_h, d.pad_h);
        if merges_taps(d) {
            // Runs begin at the first pixel of a filter row, and their places need no gaps.
            let cols = AxisOrder {
                outputs: d.q(),
                places: d.q(),
                inputs: d.w,
                taps: 1,
                stride: d.stride_w,
                pad: d.pad_w,
            };
            return Order { images: d.n, rows, cols, span: d.s, run: d.s * d.c };
        }
        let cols = AxisOrder::new(d.w, d.q(), d.s, d.stride_w, d.pad_w);
        Order { images: d.n, rows, cols, span: 1, run: d.c }
    }

    /// Places of all images.
    fn len(&self) -> usize {
        self.images * self.rows.places * self.cols.places
    }

    fn num_taps(&self) -> usize {
        self.rows.taps * self.cols.taps
    }

    /// Where a tap is: its plane, and how many places ahead.
    #[inline(always)]
    fn tap(&self, tap: usize) -> (usize, usize) {
        let (r, s) = (tap / self.cols.taps, tap % self.cols.taps);
        let plane = r % self.rows.stride * self.cols.planes() + s % self.cols.stride;
        (plane, r / self.rows.stride * self.cols.places + s / self.cols.stride)
    }

    fn num_planes(&self) -> usize {
        self.rows.planes() * self.cols.planes()
    }

    /// Pairs begin at even places, and at odd ones too if a tap is ahead.
    fn parities(&self) -> usize {
        if self.halo() > 0 { 2 } else { 1 }
    }

    /// The most places a tap is ahead.
    fn halo(&self) -> usize {
        (self.rows.taps - 1) / self.rows.stride * self.cols.places + (self.cols.taps - 1) / self.cols.stride
    }

    /// Pairs of x for `pixels` pixels.
    fn num_pairs(&self, pixels: usize) -> usize {
        (pixels + self.halo()).div_ceil(2)
    }

    /// Elements of the copies for `pixels` pixels of `filters` filters and `channels` elements of runs.
    fn copied_elems(&self, pixels: usize, filters: usize, channels: usize) -> usize {
        pixels * filters + self.num_planes() * self.parities() * self.num_pairs(pixels) * 2 * channels
    }

    fn lane_elems(&self, filters: usize) -> usize {
        let channels = self.run.next_multiple_of(SIDE);
        let all = self.len().next_multiple_of(SIDE);
        let least = self.copied_elems(MIN_PIXELS.min(all), filters, channels);
        let most = self.copied_elems(MAX_PIXELS.min(all), filters, channels);
        least.max(LANE_ELEMS.min(most))
    }

    /// The pixels that are copied at a time where a lane has room for `lane_elems`.
    fn block_pixels(&self, lane_elems: usize, filters: usize, channels: usize) -> usize {
        let all = self.len().next_multiple_of(SIDE);
        let fits = |blocks: &usize| self.copied_elems(blocks * SIDE, filters, channels) <= lane_elems;
        let most = MAX_PIXELS.min(all) / SIDE;
        (1..=most).rev().find(fits).expect("a lane has room for the fewest pixels") * SIDE
    }

    /// Image, row and column of a place.
    #[inline(always)]
    fn position(&self, place: usize) -> Position {
        let (row, j) = (place / self.cols.places, place % self.cols.places);
        Position { n: row / self.rows.places, i: row % self.rows.places, j }
    }
}

#[derive(Debug, Clone, Copy)]
struct Position {
    n: usize,
    i: usize,
    j: usize,
}

impl Position {
    #[inline(always)]
    fn next(self, order: &Order) -> Position {
        let Position { n, i, j } = self;
        if j + 1 < order.cols.places {
            Position { n, i, j: j + 1 }
        } else if i + 1 < order.rows.places {
            Position { n, i: i + 1, j: 0 }
        } else {
            Position { n: n + 1, i: 0, j: 0 }
        }
    }
}

struct Wgrad<'a> {
    d: &'a Conv2dDims,
    order: Order,
    x: &'a [bf16],
    dy: &'a [bf16],
    dw: SharedMut<f32>,
    engine: Engine,
}

impl Wgrad<'_> {
    /// The filters of dy's pixel at a place; zeros in a gap.
    #[inline(always)]
    fn dy_run(&self, at: Position) -> Run {
        let Order { images, rows, cols, .. } = &self.order;
        if at.n < *images && at.i < rows.outputs && at.j < cols.outputs {
            let row = (at.n * rows.outputs + at.i) * cols.outputs * self.d.k;
            Run::new(row, at.j as isize, 1, cols.outputs, self.d.k)
        } else {
            Run::PADDING
        }
    }

    /// What stands at a place of a plane of x.
    #[inline(always)]
    fn x_run(&self, at: Position, plane: usize) -> Run {
        let Order { images, rows, cols, span, .. } = &self.order;
        let h = rows.input(at.i, plane / cols.planes());
        let inside = usize::try_from(h).ok().filter(|&h| h < rows.inputs && at.n < *images);
        match inside {
            Some(h) => {
                let row = (at.n * rows.inputs + h) * cols.inputs * self.d.c;
                Run::new(row, cols.input(at.j, plane % cols.planes()), *span, cols.inputs, self.d.c)
            }
            None => Run::PADDING,
        }
    }

    /// Copies dy at `pixels` places from `start` on: for each filter a row of pixels.
    #[inline(always)]
    fn copy_dy<S: Simd>(
        &self,
        simd: S,
        start: usize,
        pixels: usize,
        filters: Range<usize>,
        out: &mut [bf16],
    ) {
        let mut at = self.order.position(start);
        for first_pixel in (0..pixels).step_by(SIDE) {
            let mut runs = [Run::PADDING; SIDE];
            for run in &mut runs {
                *run = self.dy_run(at);
                at = at.next(&self.order);
            }
            for (i, block) in filters.clone().enumerate() {
                let rows = runs.map(|run| run.block(self.dy, block * SIDE));
                transpose_block(simd, &rows, &mut out[i * SIDE * pixels + first_pixel..], pixels);
            }
        }
    }

    /// Copies `pairs` pairs of a plane of x from place `start` on: the elements of both pixels in turn.
    #[inline(always)]
    fn copy_x<S: Simd>(
        &self,
        simd: S,
        start: usize,
        pairs: usize,
        plane: usize,
        channels: Range<usize>,
        out: &mut [bf16],
    ) {
        let mut at = self.order.position(start);
        for line in out.chunks_exact_mut(2 * channels.len() * SIDE).take(pairs) {
            let even = self.x_run(at, plane);
            at = at.next(&self.order);
            let odd = self.x_run(at, plane);
            at = at.next(&self.order);
            for (block, part) in channels.clone().zip(line.chunks_exact_mut(2 * SIDE)) {
                let [even, odd] = [even, odd].map(|run| run.block(self.x, block * SIDE));
                part.copy_from_slice(interleave(simd, &even, &odd).as_flattened());
            }
        }
    }
}

/// Some blocks of filters by some blocks of channels of a [`Wgrad`].
struct Lane<'a> {
    wgrad: &'a Wgrad<'a>,
    copies: &'a mut [bf16],
    filters: Range<usize>,
    channels: Range<usize>,
}

impl WithSimd for Lane<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Lane { wgrad, copies, filters, channels } = self;
        let order = &wgrad.order;
        // SAFETY: `Engine::of_machine` found the engine, or a test answers its instructions; a lane ends before its thread
        // takes another.
        let unit = unsafe { wgrad.engine.prepare() };
        let (num_filters, num_channels) = (filters.len() * SIDE, channels.len() * SIDE);
        let block_pixels = order.block_pixels(copies.len(), num_filters, num_channels);
        let (dy, x) = copies.split_at_mut(block_pixels * num_filters);
        for start in (0..order.len()).step_by(block_pixels) {
            let pixels = block_pixels.min((order.len() - start).next_multiple_of(SIDE));
            let pairs = order.num_pairs(pixels);
            let copy_elems = pairs * 2 * num_channels;
            wgrad.copy_dy(simd, start, pixels, filters.clone(), dy);
            for (i, copy) in
                x.chunks_exact_mut(copy_elems).take(order.num_planes() * order.parities()).enumerate()
            {
                let (plane, parity) = (i / order.parities(), i % order.parities());
                wgrad.copy_x(simd, start + parity, pairs, plane, channels.clone(), copy);
            }
            for (c, channel) in channels.clone().enumerate() {
                for (k, filter) in filters.clone().enumerate() {
                    for tap in 0..order.num_taps() {
                        let (plane, ahead) = order.tap(tap);
                        let copy = plane * order.parities() + ahead % 2;
                        let from = copy * copy_elems + ahead / 2 * 2 * num_channels + c * 2 * SIDE;
                        let a = Factor {
                            start: dy[k * SIDE * pixels..].as_ptr(),
                            row: pixels,
                            half: TILE * pixels,
                            block: SIDE,
                        };
                        let b = Factor {
                            start: x[from..].as_ptr(),
                            row: 2 * num_channels,
                            half: SIDE,
                            block: TILE * 2 * num_channels,
                        };
                        let part = Part { tap, filter, channel, blocks: pixels / SIDE, adds: start > 0 };
                        wgrad.add(simd, &unit, a, b, part);
                    }
                }
            }
        }
    }
}

/// Which sums of dw a product is added to.
#[derive(Clone, Copy)]
struct Part {
    tap: usize,
    /// The block of filters.
    filter: usize,
    /// The block of a run's elements.
    channel: usize,
    blocks: usize,
    adds: bool,
}

impl Wgrad<'_> {
    /// Adds a product to 32 filters by 32 elements of a tap, or writes it there.
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, unit: &Unit, a: Factor, b: Factor, part: Part) {
        let Part { tap, filter, channel, blocks, adds } = part;
        let run = self.order.run;
        let stride = self.order.num_taps() * run;
        let (first_filter, first) = (filter * SIDE, channel * SIDE);
        let (height, width) = (SIDE.min(self.d.k - first_filter), SIDE.min(run - first));
        let at = first_filter * stride + tap * run + first;
        if (height, width) == (SIDE, SIDE) {
            // SAFETY: 32 filters and 32 elements of a tap lie in dw, and this task alone has them; the copies hold what
            // `blocks` blocks of both factors need: rows of `pixels` of 32 filters, and pairs for as many pixels from the
            // farthest tap on.
            unsafe {
                let out = self.dw.at(at);
                Product { a, b, blocks, adds, out, out_stride: stride }.run(simd, unit);
            }
            return;
        }
        let mut sums = Sums([[0.0; SIDE]; SIDE]);
        // SAFETY: as above.
        let row = |i: usize| unsafe { self.dw.slice(at + i * stride..at + i * stride + width) };
        if adds {
            (0..height).for_each(|i| sums.0[i][..width].copy_from_slice(row(i)));
        }
        let out = sums.0.as_flattened_mut().as_mut_ptr();
        // SAFETY: as above, and `sums` is 32 rows of 32.
        unsafe { Product { a, b, blocks, adds, out, out_stride: SIDE }.run(simd, unit) };
        (0..height).for_each(|i| row(i).copy_from_slice(&sums.0[i][..width]));
    }
}
