//! Copies of filters, images and gradients into blocks.

use half::bf16;

use super::product::{BLOCK_ELEMS, SIDE, TILE};
use crate::device::cpu::conv::Conv2dDims;

/// Which two dimensions of the filters a pass sums over and spreads over columns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Columns {
    /// fprop: columns are K, the sum runs over C, or over a filter row of S times C.
    Filters,
    /// dgrad: columns are C, the sum runs over K.
    Channels,
}

/// Packs the filter elements that 32 columns, from `first` on, meet under one tap, as blocks of the right factor; zero behind
/// the last column and the last of the `run` elements that are summed over.
///
/// `tap` is the offset of the tap in a filter, in elements.
#[inline(always)]
pub(super) fn pack_filters(
    d: &Conv2dDims,
    w: &[bf16],
    columns: Columns,
    first: usize,
    tap: usize,
    run: usize,
    out: &mut [bf16],
) {
    let filter = d.r * d.s * d.c;
    let num_columns = match columns {
        Columns::Filters => d.k,
        Columns::Channels => d.c,
    };
    let width = SIDE.min(num_columns - first);
    for (b, block) in out.chunks_exact_mut(BLOCK_ELEMS).enumerate() {
        let depths = b * SIDE..run.min((b + 1) * SIDE);
        match columns {
            Columns::Filters => {
                let rows = |j: usize| {
                    let from = (first + j) * filter + tap;
                    &w[from + depths.start..from + depths.end]
                };
                transpose_into_pairs(rows, width, block);
            }
            Columns::Channels => {
                let row = |depth: usize| {
                    let from = depth * filter + tap + first;
                    if depths.contains(&depth) { &w[from..from + width] } else { &[] }
                };
                for u in 0..TILE {
                    let depth = depths.start + 2 * u;
                    let (even, odd) = (row(depth), row(depth + 1));
                    let (low, high) = block.split_at_mut(BLOCK_ELEMS / 2);
                    for (tile, half) in [low, high].into_iter().enumerate() {
                        let part = |row: &[bf16]| widened::<TILE>(row.get(tile * TILE..).unwrap_or(&[]));
                        interleave(&part(even), &part(odd), &mut half[u * SIDE..(u + 1) * SIDE]);
                    }
                }
            }
        }
    }
}

/// The first elements of `row`, zeros behind its end.
#[inline(always)]
fn widened<const N: usize>(row: &[bf16]) -> [bf16; N] {
    row.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [bf16::ZERO; N];
        padded[..row.len()].copy_from_slice(row);
        padded
    })
}

/// `out[2 * i + e]` is element `i` of `even` where `e` is 0, of `odd` where it is 1.
#[inline(always)]
pub(super) fn interleave<const N: usize>(even: &[bf16; N], odd: &[bf16; N], out: &mut [bf16]) {
    for (out, (even, odd)) in out.as_chunks_mut::<2>().0.iter_mut().zip(even.iter().zip(odd)) {
        *out = [*even, *odd];
    }
}

/// Writes columns given as rows of up to 32 depths, `row(j)` for `j < width`, as a block of the right factor.
#[inline(always)]
fn transpose_into_pairs<'a>(row: impl Fn(usize) -> &'a [bf16], width: usize, block: &mut [bf16]) {
    for (tile, half) in block.chunks_exact_mut(BLOCK_ELEMS / 2).enumerate() {
        let mut lines = [[0u32; TILE]; TILE];
        for (j, line) in lines.iter_mut().enumerate() {
            let j = tile * TILE + j;
            if j < width {
                *line = bytemuck::cast(widened::<SIDE>(row(j)));
            }
        }
        transpose(&mut lines);
        half.copy_from_slice(bytemuck::cast_slice(lines.as_flattened()));
    }
}

/// Exchanges rows and columns.
#[inline(always)]
fn transpose(lines: &mut [[u32; TILE]; TILE]) {
    exchange::<8>(lines);
    exchange::<4>(lines);
    exchange::<2>(lines);
    exchange::<1>(lines);
}

/// Exchanges what stands `DISTANCE` to the right of its place with what stands as far below.
#[inline(always)]
fn exchange<const DISTANCE: usize>(lines: &mut [[u32; TILE]; TILE]) {
    for i in 0..TILE {
        if i & DISTANCE == 0 {
            let (upper, lower) = (lines[i], lines[i + DISTANCE]);
            let is_left = |j: usize| j & DISTANCE == 0;
            lines[i] = std::array::from_fn(|j| if is_left(j) { upper[j] } else { lower[j ^ DISTANCE] });
            lines[i + DISTANCE] =
                std::array::from_fn(|j| if is_left(j) { upper[j ^ DISTANCE] } else { lower[j] });
        }
    }
}

/// Writes 32 rows of 32 elements as 32 rows again, exchanged: `out(j)[i]` is element `j` of row `i`.
#[inline(always)]
pub(super) fn transpose_block(rows: &[[bf16; SIDE]; SIDE], out: &mut [bf16], stride: usize) {
    for tile in 0..2 {
        let mut lines = [[0u32; TILE]; TILE];
        for (pair, line) in rows.as_chunks::<2>().0.iter().zip(&mut lines) {
            for (j, line) in line.iter_mut().enumerate() {
                let [low, high] = [pair[0][tile * TILE + j], pair[1][tile * TILE + j]].map(bf16::to_bits);
                *line = u32::from(low) | u32::from(high) << 16;
            }
        }
        transpose(&mut lines);
        for (j, line) in lines.iter().enumerate() {
            let to = (tile * TILE + j) * stride;
            out[to..to + SIDE].copy_from_slice(bytemuck::cast_slice(line));
        }
    }
}
