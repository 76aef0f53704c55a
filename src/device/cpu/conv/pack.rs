//! Copies into the workspace: filters as panels, images with their padding.

use super::Conv2dDims;
use super::microkernel::PANEL;
use super::parallel::{SharedMut, for_each_task};

/// Which two dimensions of the filters a pass sums over and spreads over columns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Columns {
    /// fprop: columns are K, the sum runs over C, or over a filter row of S times C.
    Filters,
    /// dgrad: columns are C, the sum runs over K.
    Channels,
}

/// The filters w (KRSC), to be packed as panels `[columns / PANEL][row taps][column taps][run][PANEL]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filters<'a> {
    pub(super) d: &'a Conv2dDims,
    pub(super) columns: Columns,
    pub(super) w: &'a [f32],
}

impl Filters<'_> {
    /// Packs filter position (`r`, `s`) of one panel; `out` is `[run][PANEL]`, zero-filled beyond the last column.
    pub(super) fn pack_tap(&self, panel: usize, r: usize, s: usize, out: &mut [f32]) {
        let d = self.d;
        let filter_stride = d.r * d.s * d.c;
        let tap_offset = (r * d.s + s) * d.c;
        let first = panel * PANEL;
        match self.columns {
            Columns::Filters => {
                let width = PANEL.min(d.k - first);
                let of_tap = &self.w[first * filter_stride + tap_offset..];
                transpose(PANEL, width, |column| &of_tap[column * filter_stride..], out);
            }
            Columns::Channels => {
                let width = PANEL.min(d.c - first);
                for (k, row) in out.chunks_exact_mut(PANEL).enumerate() {
                    let from = k * filter_stride + tap_offset + first;
                    copy_zero_filled(row, &self.w[from..from + width]);
                }
            }
        }
    }
}

/// `out[u][j] = row(j)[u]` for `j < width`, where `out` is rows of `columns`; the columns from `width` on become zero.
#[inline(always)]
pub(super) fn transpose<'a>(columns: usize, width: usize, row: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
    const BLOCK: usize = 4;
    /// Short enough that the strip of `out` stays in the first-level cache, long enough to read whole cache lines.
    const STRIP: usize = 64;
    let run = out.len() / columns;
    if width < columns {
        out.fill(0.0);
    }
    let (blocked_run, blocked_width) = (run / BLOCK * BLOCK, width / BLOCK * BLOCK);
    for strip in (0..blocked_run).step_by(STRIP) {
        for j in (0..blocked_width).step_by(BLOCK) {
            let rows: [&[f32]; BLOCK] = std::array::from_fn(|i| row(j + i));
            for u in (strip..blocked_run.min(strip + STRIP)).step_by(BLOCK) {
                let block: [[f32; BLOCK]; BLOCK] = std::array::from_fn(|i| {
                    let row = &rows[i][u..][..BLOCK];
                    [row[0], row[1], row[2], row[3]]
                });
                for i in 0..BLOCK {
                    out[(u + i) * columns + j..][..BLOCK].copy_from_slice(&block.map(|row| row[i]));
                }
            }
        }
    }
    for u in 0..run {
        let first_left = if u < blocked_run { blocked_width } else { 0 };
        for j in first_left..width {
            out[u * columns + j] = row(j)[u];
        }
    }
}

fn copy_zero_filled(to: &mut [f32], from: &[f32]) {
    let (head, tail) = to.split_at_mut(from.len());
    head.copy_from_slice(from);
    tail.fill(0.0);
}

/// Elements of x with its padding.
pub(super) fn padded_elems(d: &Conv2dDims) -> usize {
    d.n * (d.h + 2 * d.pad_h) * (d.w + 2 * d.pad_w) * d.c
}

/// Copies x (NHWC) into `padded`, surrounded by its padding of zeros.
pub(super) fn pad_image(d: &Conv2dDims, x: &[f32], padded: &mut [f32]) {
    let (row, margin) = (d.w * d.c, d.pad_w * d.c);
    let padded_row = row + 2 * margin;
    let padded_h = d.h + 2 * d.pad_h;
    let shared = SharedMut::new(padded);
    for_each_task(d.n, |n| {
        // SAFETY: each task has the rows of its own image.
        let image = unsafe { shared.slice(n * padded_h * padded_row..(n + 1) * padded_h * padded_row) };
        for (i, to) in image.chunks_exact_mut(padded_row).enumerate() {
            match i.checked_sub(d.pad_h).filter(|&h| h < d.h) {
                None => to.fill(0.0),
                Some(h) => {
                    let from = (n * d.h + h) * row;
                    to[..margin].fill(0.0);
                    to[margin..margin + row].copy_from_slice(&x[from..from + row]);
                    to[margin + row..].fill(0.0);
                }
            }
        }
    });
}
