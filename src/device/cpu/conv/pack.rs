//! Copies into the workspace: filters as panels, images with their padding.

use super::Conv2dDims;
use super::axis::Axis;
use super::microkernel::PANEL;
use super::parallel::{SharedMut, for_each_task};

/// Which two dimensions of the filters a pass sums over and spreads over columns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Columns {
    /// fprop: columns are K, the sum runs over C.
    Filters,
    /// dgrad: columns are C, the sum runs over K.
    Channels,
}

/// Packs w (KRSC) as panels `[columns / PANEL][row taps][column taps][run][PANEL]`, zero-filled to whole panels.
pub(super) fn pack_filters(
    d: &Conv2dDims,
    columns: Columns,
    rows: &Axis,
    cols: &Axis,
    run: usize,
    w: &[f32],
    panels: &mut [f32],
) {
    let num_columns = match columns {
        Columns::Filters => d.k,
        Columns::Channels => d.c,
    };
    let taps = rows.taps * cols.taps;
    let filter_stride = d.r * d.s * d.c;
    let shared = SharedMut::new(panels);
    for_each_task(num_columns.div_ceil(PANEL) * taps, |task| {
        let (panel, tap) = (task / taps, task % taps);
        let (r, s) = (rows.filter_index(tap / cols.taps), cols.filter_index(tap % cols.taps));
        let first = panel * PANEL;
        let width = PANEL.min(num_columns - first);
        // SAFETY: each task has its own `run * PANEL` elements, and there are as many such pieces as tasks.
        let out = unsafe { shared.slice(task * run * PANEL..(task + 1) * run * PANEL) };
        let tap_offset = (r * d.s + s) * d.c;
        match columns {
            Columns::Filters => {
                transpose(&w[first * filter_stride + tap_offset..], filter_stride, width, run, out)
            }
            Columns::Channels => {
                for (k, row) in out.chunks_exact_mut(PANEL).enumerate() {
                    let from = k * filter_stride + tap_offset + first;
                    copy_zero_filled(row, &w[from..from + width]);
                }
            }
        }
    });
}

/// `out[u][j] = from[j * stride + u]` for `u < run`, `j < width`; columns up to [`PANEL`] become zero.
fn transpose(from: &[f32], stride: usize, width: usize, run: usize, out: &mut [f32]) {
    const BLOCK: usize = 4;
    /// Short enough that the strip of `out` stays in the first-level cache, long enough to read whole cache lines.
    const STRIP: usize = 64;
    if width < PANEL {
        out.fill(0.0);
    }
    let (blocked_run, blocked_width) = (run / BLOCK * BLOCK, width / BLOCK * BLOCK);
    for strip in (0..blocked_run).step_by(STRIP) {
        for j in (0..blocked_width).step_by(BLOCK) {
            for u in (strip..blocked_run.min(strip + STRIP)).step_by(BLOCK) {
                let block: [[f32; BLOCK]; BLOCK] = std::array::from_fn(|i| {
                    let row = &from[(j + i) * stride + u..][..BLOCK];
                    [row[0], row[1], row[2], row[3]]
                });
                for i in 0..BLOCK {
                    out[(u + i) * PANEL + j..][..BLOCK].copy_from_slice(&block.map(|row| row[i]));
                }
            }
        }
    }
    for u in 0..run {
        let first_left = if u < blocked_run { blocked_width } else { 0 };
        for j in first_left..width {
            out[u * PANEL + j] = from[j * stride + u];
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
