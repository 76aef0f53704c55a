//! Copies of filters, images and gradients into blocks.

use half::bf16;
use pulp::Simd;

use super::product::{BLOCK_ELEMS, SIDE, TILE};
use super::shuffle::{interleave, transpose};
use crate::device::cpu::conv::Conv2dDims;
use crate::device::cpu::conv::pack::Columns;

/// The filters w (KRSC), to be packed as blocks of the right factor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filters<'a> {
    pub(super) d: &'a Conv2dDims,
    pub(super) w: &'a [bf16],
    pub(super) columns: Columns,
}

impl Filters<'_> {
    /// Packs what 32 columns, from `first` on, meet under the tap at offset `tap` of a filter: `run` elements of each are
    /// summed over. Zeros stand behind the last column and the last element.
    #[inline(always)]
    pub(super) fn pack_tap<S: Simd>(&self, simd: S, first: usize, tap: usize, run: usize, out: &mut [bf16]) {
        let Filters { d, w, columns } = *self;
        let filter = d.r * d.s * d.c;
        for (b, block) in out.chunks_exact_mut(BLOCK_ELEMS).enumerate() {
            let depths = b * SIDE..run.min((b + 1) * SIDE);
            match columns {
                Columns::Filters => {
                    let row = |j: usize| {
                        let from = (first + j) * filter + tap;
                        &w[from + depths.start..from + depths.end]
                    };
                    transpose_into_pairs(simd, row, SIDE.min(d.k - first), block);
                }
                Columns::Channels => {
                    let width = SIDE.min(d.c - first);
                    let row = |depth: usize| {
                        let from = depth * filter + tap + first;
                        padded(if depths.contains(&depth) { &w[from..from + width] } else { &[] })
                    };
                    let (low, high) = block.split_at_mut(BLOCK_ELEMS / 2);
                    let lines = low.chunks_exact_mut(SIDE).zip(high.chunks_exact_mut(SIDE));
                    for ((low, high), depth) in lines.zip((depths.start..).step_by(2)) {
                        let [first, second] = interleave(simd, &row(depth), &row(depth + 1));
                        low.copy_from_slice(&first);
                        high.copy_from_slice(&second);
                    }
                }
            }
        }
    }
}

/// The first 32 elements of `row`, zeros behind its end.
#[inline(always)]
fn padded(row: &[bf16]) -> [bf16; SIDE] {
    row.first_chunk().copied().unwrap_or_else(|| {
        let mut whole = [bf16::ZERO; SIDE];
        whole[..row.len()].copy_from_slice(row);
        whole
    })
}

/// Writes columns given as rows of up to 32 depths, `row(j)` for `j < width`, as a block of the right factor.
#[inline(always)]
fn transpose_into_pairs<'a, S: Simd>(
    simd: S,
    row: impl Fn(usize) -> &'a [bf16],
    width: usize,
    block: &mut [bf16],
) {
    for (tile, half) in block.chunks_exact_mut(BLOCK_ELEMS / 2).enumerate() {
        let mut lines = [[0u32; TILE]; TILE];
        for (j, line) in lines.iter_mut().enumerate() {
            let j = tile * TILE + j;
            if j < width {
                *line = bytemuck::cast(padded(row(j)));
            }
        }
        transpose(simd, &mut lines);
        half.copy_from_slice(bytemuck::cast_slice(lines.as_flattened()));
    }
}

/// Writes 32 rows of 32 elements with rows and columns exchanged, `stride` elements from one to the next.
#[inline(always)]
pub(super) fn transpose_block<S: Simd>(
    simd: S,
    rows: &[[bf16; SIDE]; SIDE],
    out: &mut [bf16],
    stride: usize,
) {
    let mut halves = [[[0u32; TILE]; TILE]; 2];
    let [low, high] = &mut halves;
    for (pair, (low, high)) in rows.as_chunks::<2>().0.iter().zip(low.iter_mut().zip(high)) {
        [*low, *high] = bytemuck::cast(interleave(simd, &pair[0], &pair[1]));
    }
    for (tile, lines) in halves.iter_mut().enumerate() {
        transpose(simd, lines);
        for (j, line) in lines.iter().enumerate() {
            let to = (tile * TILE + j) * stride;
            out[to..to + SIDE].copy_from_slice(bytemuck::cast_slice(line));
        }
    }
}
