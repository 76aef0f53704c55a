//! fprop where filters outnumber pixels: the pixels are packed, and the filters are read where they lie.
//!
//! The implicit GEMM packs all filters for every call, which costs as much as a few dozen pixels' products; the last layers of a
//! network have no more pixels than that, and the most filters. Here the factors change places: a panel is a strip of pixels, tap
//! by tap, and a tile's rows are filters, whose taps follow one another in memory. Each output is the same chain of multiply-adds,
//! with the same bits.

use std::ops::Range;

use arrayvec::ArrayVec;
use pulp::{Arch, Simd, WithSimd};

use super::Conv2dDims;
use super::axis::Axis;
use super::finish::PanelNorm;
use super::implicit_gemm::is_batch_inner;
use super::microkernel::{
    GatherTile, MAX_ROWS, PANEL, Start, TAPS_PER_ROUND, TapRows, columns_per_strip, rows_per_tile,
};
use super::pack::transpose;
use super::parallel::{SharedMut, TASKS_PER_THREAD, balanced_part, for_each_task};

// What an fprop costs besides its products, in multiply-adds. Estimates that agree with measurements of the layers of ResNet-50 at
// 64 pixels (AMD EPYC with AVX2, batches of 16 and of 1, both ways in turn).
/// To pack an element of a filter, which comes from memory.
const PACK_FILTER: usize = 40;
/// To pack an element of a pixel, which comes from a cache.
const PACK_PIXEL: usize = 16;
/// To turn a sum round and store it.
const STORE: usize = 50;

/// An fprop by panels of pixels.
pub(super) struct PixelPanels<'a> {
    pub(super) d: &'a Conv2dDims,
    pub(super) rows: Axis,
    pub(super) cols: Axis,
    pub(super) x: &'a [f32],
    pub(super) w: &'a [f32],
    /// What the sums of a filter start from, if not from 0; whole panels.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) norm: Option<PanelNorm<'a, f32>>,
    /// As many zeros as there are channels.
    pub(super) zeros: &'a [f32],
    pub(super) y: SharedMut<f32>,
}

/// One output pixel: its image, row and column.
type Pixel = (usize, usize, usize);

/// Pixels that panels are cut from, each lot by itself.
fn lot_pixels(d: &Conv2dDims) -> usize {
    let positions = d.p() * d.q();
    if is_batch_inner(d.n, positions, d.r * d.s) { d.n } else { d.n * positions }
}

/// Panels of up to `columns` pixels.
fn num_panels(d: &Conv2dDims, columns: usize) -> usize {
    d.n * d.p() * d.q() / lot_pixels(d) * lot_pixels(d).div_ceil(columns)
}

/// Whether this is less work on this machine than to pack filters, and takes no more memory.
pub(super) fn pays(d: &Conv2dDims) -> bool {
    let (run, columns) = (d.r * d.s * d.c, columns_per_strip());
    let (pixels, filters) = (num_panels(d, columns) * columns, d.k.next_multiple_of(PANEL));
    let by_pixels = pixels * (d.k + d.k * STORE / run + PACK_PIXEL);
    let by_filters = filters * (d.n * d.p() * d.q() + PACK_FILTER);
    pixels <= filters && by_pixels < by_filters
}

impl PixelPanels<'_> {
    /// Runs it, where it [`pays`], with a workspace that would hold the packed filters; how the work is cut changes no result.
    pub(super) fn compute(&self, workspace: &mut [f32]) {
        let columns = columns_per_strip();
        let panel_elems = self.panel_elems(columns);
        let num_panels = num_panels(self.d, columns);
        let packed = &mut workspace[..num_panels * panel_elems];
        let shared = SharedMut::new(packed);
        for_each_task(num_panels, |panel| {
            // SAFETY: each task has its own panel.
            let panel_of_task = unsafe { shared.slice(panel * panel_elems..(panel + 1) * panel_elems) };
            self.pack(&self.pixels(panel, columns), columns, panel_of_task);
        });
        let packed = &*packed;
        // A task takes its filters through all panels, so that they come from memory once, unless there are more threads.
        let blocks = self.d.k.div_ceil(PANEL);
        let parts = (TASKS_PER_THREAD * rayon::current_num_threads()).div_ceil(blocks).min(num_panels);
        for_each_task(blocks * parts, |task| {
            let panels = balanced_part(num_panels, task % parts, parts);
            Arch::new().dispatch(Task { layer: self, packed, columns, panels, first: task / parts * PANEL });
        });
    }

    fn panel_elems(&self, columns: usize) -> usize {
        self.d.r * self.d.s * self.d.c * columns
    }

    /// The pixels of a panel.
    fn pixels(&self, panel: usize, columns: usize) -> ArrayVec<Pixel, PANEL> {
        let d = self.d;
        let (height, width) = (self.rows.grid, self.cols.grid);
        let (lot, positions) = (lot_pixels(d), height * width);
        let panels = lot.div_ceil(columns);
        let range = balanced_part(lot, panel % panels, panels);
        let first = panel / panels * lot + range.start;
        let batch_inner = is_batch_inner(d.n, positions, d.r * d.s);
        let (mut n, position) =
            if batch_inner { (first % d.n, first / d.n) } else { (first / positions, first % positions) };
        let (mut i, mut j) = (position / width, position % width);
        // Steps instead of divisions, which would take as long as a product of few channels.
        range
            .map(|_| {
                let pixel = (n, i, j);
                if batch_inner {
                    n += 1;
                } else {
                    j += 1;
                    (i, j) = if j == width { (i + 1, 0) } else { (i, j) };
                    (n, i) = if i == height { (n + 1, 0) } else { (n, i) };
                }
                pixel
            })
            .collect()
    }

    /// The channels that `pixel` meets under tap (`r`, `s`); none in the padding.
    fn channels(&self, (n, i, j): Pixel, (r, s): (usize, usize)) -> Option<&[f32]> {
        let d = self.d;
        let (h, w) = (self.rows.input_index(i, r)?, self.cols.input_index(j, s)?);
        let at = ((n * d.h + h) * d.w + w) * d.c;
        Some(&self.x[at..at + d.c])
    }

    /// The taps, in rounds, under which a pixel of `pixels` is not padding.
    fn taps_of_round(&self, pixels: &[Pixel], round: usize, taps: &mut ArrayVec<usize, TAPS_PER_ROUND>) {
        let d = self.d;
        let end = (d.r * d.s).min((round + 1) * TAPS_PER_ROUND);
        let meets_input =
            |tap: &usize| pixels.iter().any(|&pixel| self.channels(pixel, (tap / d.s, tap % d.s)).is_some());
        taps.clear();
        taps.extend((round * TAPS_PER_ROUND..end).filter(meets_input));
    }

    /// Packs `pixels` as `[taps][channels][columns]`; a tap that is padding for all of them is left as it is.
    fn pack(&self, pixels: &[Pixel], columns: usize, panel: &mut [f32]) {
        let d = self.d;
        for (tap, out) in panel.chunks_exact_mut(d.c * columns).enumerate() {
            let of_pixel = |&pixel: &Pixel| self.channels(pixel, (tap / d.s, tap % d.s));
            if pixels.iter().any(|pixel| of_pixel(pixel).is_some()) {
                let rows: ArrayVec<&[f32], PANEL> =
                    pixels.iter().map(|pixel| of_pixel(pixel).unwrap_or(self.zeros)).collect();
                transpose(columns, rows.len(), |column| rows[column], out);
            }
        }
    }
}

/// The filters from `first` on, of a whole panel or what is left, by the pixels of some panels.
struct Task<'a> {
    layer: &'a PixelPanels<'a>,
    packed: &'a [f32],
    columns: usize,
    panels: Range<usize>,
    first: usize,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Task { layer, packed, columns, panels, first } = self;
        let d = layer.d;
        let width = PANEL.min(d.k - first);
        let parts = width.div_ceil(rows_per_tile());
        // `[filters][columns]`, and turned round.
        let mut sums = [0.0; PANEL * PANEL];
        let mut by_pixel = [0.0; PANEL * PANEL];
        let mut taps = ArrayVec::new();
        let mut rows = ArrayVec::<TapRows, TAPS_PER_ROUND>::new();
        let panel_elems = layer.panel_elems(columns);
        for panel in panels {
            let packed = &packed[panel * panel_elems..(panel + 1) * panel_elems];
            let pixels = layer.pixels(panel, columns);
            for (filter, sums) in sums.chunks_exact_mut(columns).take(width).enumerate() {
                sums.fill(layer.bias.map_or(0.0, |bias| bias[first + filter]));
            }
            for round in 0..(d.r * d.s).div_ceil(TAPS_PER_ROUND) {
                layer.taps_of_round(&pixels, round, &mut taps);
                for part in 0..parts {
                    let filters = balanced_part(width, part, parts);
                    rows.clear();
                    rows.extend(taps.iter().map(|&tap| {
                        let of_filter = |filter: usize| {
                            let at = ((first + filter) * d.r * d.s + tap) * d.c;
                            layer.w[at..at + d.c].as_ptr()
                        };
                        let mut rows = [std::ptr::null(); MAX_ROWS];
                        rows.iter_mut()
                            .zip(filters.clone())
                            .for_each(|(row, filter)| *row = of_filter(filter));
                        TapRows { rows, panel_offset: tap * d.c * columns }
                    }));
                    let mut out = [std::ptr::null_mut(); MAX_ROWS];
                    let sums = sums[filters.start * columns..filters.end * columns].chunks_exact_mut(columns);
                    out.iter_mut().zip(sums).for_each(|(out, sums)| *out = sums.as_mut_ptr());
                    let panel = packed.as_ptr();
                    let tile =
                        GatherTile { taps: &rows, run: d.c, columns, panel, start: Start::Output, out };
                    // SAFETY: each row is of `d.c` channels of a filter, the panel has as many rows of `columns` for each
                    // tap, and an output row is `columns` sums.
                    unsafe { tile.run(simd, filters.len()) };
                }
            }
            let turned = &mut by_pixel[..columns * PANEL];
            transpose(PANEL, width, |filter| &sums[filter * columns..][..columns], turned);
            for (&(n, i, j), row) in pixels.iter().zip(turned.as_chunks_mut::<PANEL>().0) {
                let at = ((n * layer.rows.grid + i) * layer.cols.grid + j) * d.k + first;
                if let Some(norm) = &layer.norm {
                    norm.finish_at(row, first, at..at + width);
                }
                // SAFETY: each task has its own filters of a pixel.
                unsafe { layer.y.slice(at..at + width) }.copy_from_slice(&row[..width]);
            }
        }
    }
}
