//! What the launches of all operations share: grids, and the types that kernels compute in.

use std::ops::RangeInclusive;

use crate::device::Slot;
use crate::device::kernels::channels::{CHANNEL_THREADS, NARROW_COLUMNS, WIDE_COLUMNS};
use crate::device::kernels::common::WARP_THREADS;
use crate::device::kernels::elementwise::ACCESS_BYTES;
use crate::device::kernels::totals::{TOTAL_THREADS, TOTAL_TURNS};
use crate::device::kernels::{Divisor, Grid, loop_grid};
use crate::error::{Error, Result};
use crate::tensor::{DType, Shape};

/// Refuses every type but f32.
///
/// # Errors
/// [`Error::Device`] for every other type.
pub(crate) fn only_f32(op: &'static str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 => Ok(()),
        other => Err(Error::Device(format!("{op} has no kernel for {other}; it computes in f32"))),
    }
}

/// Refuses more than kernels count in 32 bits: `count` must stay below `limit`. Every operation asks for what its kernels
/// compute, and the planner puts the name of the layer before the message.
///
/// # Errors
/// [`Error::Device`] with the limit and the remedy.
pub(crate) fn below(limit: usize, count: usize, what: &str) -> Result<()> {
    if count < limit {
        return Ok(());
    }
    Err(Error::Device(format!(
        "has {count} {what}, and its kernels count fewer than {limit}; use a smaller batch or smaller images"
    )))
}

/// Numbers that a kernel keeps as int32_t.
pub(crate) const SIGNED: usize = 1 << 31;

/// Numbers that a kernel keeps as uint32_t.
pub(crate) const UNSIGNED: usize = 1 << 32;

/// [`loop_grid`] for 16 bytes of a value a thread and turn.
pub(crate) fn vec_grid(slot: &Slot) -> Grid {
    loop_grid(slot.shape.num_elems(), vec_elems(slot.dtype))
}

/// Elements of an access.
pub(crate) fn vec_elems(dtype: DType) -> usize {
    ACCESS_BYTES / dtype.size_bytes()
}

impl Divisor {
    /// What divides numbers below [`SIGNED`] by `divisor`, from 1 to [`SIGNED`], in kernels/divisor.cuh: the factor
    /// ceil(2^(31+shift) / divisor), where 2^shift is the least power of two that is not smaller.
    pub(crate) fn new(divisor: usize) -> Divisor {
        let shift = divisor.next_power_of_two().ilog2();
        let factor = (1_u64 << (31 + shift)).div_ceil(divisor as u64);
        Divisor { divisor: divisor as u32, factor: factor as u32, shift }
    }
}

/// How the blocks of kernels/channels.cuh cover M rows of C channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelGrid {
    pub rows: usize,
    pub channels: usize,
    /// Rows that a block takes.
    pub block_rows: usize,
    /// Threads take 16 bytes of channels each, not one channel.
    pub is_wide: bool,
    tiles: usize,
}

impl ChannelGrid {
    /// Blocks that a GPU has work with: about one round of them on the largest.
    const ENOUGH_BLOCKS: usize = 1024;

    /// For passes that write rows: blocks of few rows, down to one a thread where there is little to do. A thread has two to
    /// four rows under way, and what it does once it does for more rows: half as many blocks keep a GPU busy.
    pub fn rows(shape: Shape, dtype: DType) -> ChannelGrid {
        ChannelGrid::new(shape, dtype, ChannelGrid::ENOUGH_BLOCKS / 2, |turns| turns.clamp(1, 8))
    }

    /// Numbers of rows, of few channels, of which a pass that writes rows gives a thread so many.
    pub fn rows_of_turns(turns: usize) -> RangeInclusive<usize> {
        let of_a_turn = CHANNEL_THREADS / WIDE_COLUMNS * ChannelGrid::ENOUGH_BLOCKS / 2;
        (turns - 1) * of_a_turn + 1..=turns * of_a_turn
    }

    /// For passes that take hundreds of instructions a row and many registers: blocks of few rows, so that the last of a GPU's
    /// rounds of blocks is a small part of all.
    pub fn long_rows(shape: Shape, dtype: DType) -> ChannelGrid {
        ChannelGrid::new(shape, dtype, ChannelGrid::ENOUGH_BLOCKS, |turns| turns.clamp(1, 2))
    }

    /// For passes that sum rows: every block leaves partial sums, so they are no more than keep a GPU busy.
    pub fn sums(shape: Shape, dtype: DType) -> ChannelGrid {
        ChannelGrid::new(shape, dtype, ChannelGrid::ENOUGH_BLOCKS, |turns| turns.max(4))
    }

    fn new(
        shape: Shape,
        dtype: DType,
        enough_blocks: usize,
        limit: impl FnOnce(usize) -> usize,
    ) -> ChannelGrid {
        let channels = shape.last().max(1);
        let rows = shape.num_elems() / channels;
        let vec_elems = vec_elems(dtype);
        let is_wide = channels.is_multiple_of(vec_elems);
        let (columns, width) = if is_wide { (WIDE_COLUMNS, vec_elems) } else { (NARROW_COLUMNS, 1) };
        let tiles = channels.div_ceil(columns * width);
        let rows_per_turn = CHANNEL_THREADS / columns;
        let turns = (rows * tiles).div_ceil(rows_per_turn * enough_blocks);
        ChannelGrid { rows, channels, block_rows: rows_per_turn * limit(turns), is_wide, tiles }
    }

    /// Blocks along the rows.
    pub fn num_blocks(&self) -> usize {
        self.rows.div_ceil(self.block_rows)
    }

    /// How the blocks' partial sums are added up for each channel.
    pub fn totals(&self) -> TotalGrid {
        TotalGrid::new(self.channels, self.num_blocks(), WARP_THREADS)
    }

    /// Blocks along the rows and the channels.
    pub fn grid(&self) -> [usize; 3] {
        [self.num_blocks(), self.tiles, 1]
    }

    /// One block an image and tile of channels.
    pub fn image_grid(&self, images: usize) -> [usize; 3] {
        [images, self.tiles, 1]
    }

    /// Refuses more rows than kernels count.
    ///
    /// # Errors
    /// [`Error::Device`] naming the limit.
    pub fn checked(self) -> Result<ChannelGrid> {
        below(SIGNED, self.rows, "rows of channels")?;
        below(SIGNED, self.channels, "channels")?;
        Ok(self)
    }
}

/// How the blocks of kernels/totals.cuh add up sums of many addends each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TotalGrid {
    /// Neighbouring sums that a block takes.
    pub columns: usize,
    /// Blocks.
    pub blocks: usize,
}

impl TotalGrid {
    /// As many columns as leave a thread [`TOTAL_TURNS`] of the `addends` of each of `sums`: two at least, or blocks would
    /// read the same memory, and `most` at most, so that few sums have several blocks.
    pub fn new(sums: usize, addends: usize, most: usize) -> TotalGrid {
        let wanted = (TOTAL_THREADS * TOTAL_TURNS / addends.max(1)).clamp(2, most);
        let columns = 1 << wanted.ilog2();
        TotalGrid { columns, blocks: sums.div_ceil(columns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid_of(shape: [usize; 2], dtype: DType) -> ChannelGrid {
        ChannelGrid::sums(shape.into(), dtype)
    }

    #[test]
    fn a_multiplication_divides() {
        let ends = [1, 2, 3, 5, 7, 8, 63, 64, 67, 1000, 65_537, (1 << 30) - 1, 1 << 30, SIGNED - 1, SIGNED];
        for divisor in (1..300).chain(ends) {
            let Divisor { factor, shift, .. } = Divisor::new(divisor);
            let multiples = (1..5).map(|i| i * divisor).chain([SIGNED / divisor * divisor, SIGNED]);
            for value in (0..300).chain(multiples.flat_map(|of| [of - 1, of])).filter(|&value| value < SIGNED)
            {
                // As the kernel's 32 bits have it.
                let product = u64::from(2 * value as u32) * u64::from(factor);
                let quotient = (product >> 32) as u32 >> shift;
                assert_eq!(quotient as usize, value / divisor, "{value} / {divisor}");
            }
        }
    }

    #[test]
    fn channels_that_are_whole_accesses_are_taken_in_sixteen_bytes() {
        let is_wide = |channels, dtype| grid_of([5, channels], dtype).is_wide;
        assert!(is_wide(64, DType::Bf16) && is_wide(4, DType::F32));
        assert!(!is_wide(50, DType::Bf16) && !is_wide(4, DType::Bf16) && !is_wide(175, DType::F32));
    }

    #[test]
    fn blocks_cover_every_row_and_channel() {
        for (rows, channels) in [(1, 3), (77, 50), (262_144, 64), (4096, 512), (9, 2048)] {
            for dtype in [DType::F32, DType::Bf16] {
                let shape = Shape::from([rows, channels]);
                for grid in [ChannelGrid::sums(shape, dtype), ChannelGrid::rows(shape, dtype)] {
                    let [blocks, tiles, _] = grid.grid();
                    let tile = if grid.is_wide { 128 / dtype.size_bytes() } else { 32 };
                    assert!(blocks * grid.block_rows >= rows && (blocks - 1) * grid.block_rows < rows);
                    assert!(tiles * tile >= channels && (tiles - 1) * tile < channels);
                }
            }
        }
    }

    #[test]
    fn rows_are_so_many_that_a_thread_has_several() {
        for turns in [1, 2, 4] {
            let rows = ChannelGrid::rows_of_turns(turns);
            for dtype in [DType::F32, DType::Bf16] {
                let turns_of = |rows: usize| {
                    ChannelGrid::rows([rows, 8].into(), dtype).block_rows * WIDE_COLUMNS / CHANNEL_THREADS
                };
                let found = [*rows.start(), *rows.end(), rows.end() + 1].map(turns_of);
                assert_eq!(found, [turns, turns, turns + 1]);
            }
        }
    }

    #[test]
    fn few_sums_of_many_addends_have_many_threads() {
        let grid = |sums, addends| {
            let TotalGrid { columns, blocks } = TotalGrid::new(sums, addends, 32);
            (columns, blocks)
        };
        assert_eq!(grid(64, 1024), (2, 32));
        assert_eq!(grid(128, 256), (8, 16));
        assert_eq!(grid(256, 64), (32, 8));
        assert_eq!(grid(2048, 16), (32, 64));
        assert_eq!(grid(5, 1), (32, 1));
        assert_eq!(grid(3, 1_000_000), (2, 2));
    }

    #[test]
    fn a_thread_has_few_of_the_partial_sums_of_any_matrix() {
        for (rows, channels) in [(77, 50), (524_288, 64), (131_072, 256), (4_000_000, 3), (9, 2048)] {
            for dtype in [DType::F32, DType::Bf16] {
                let grid = ChannelGrid::sums([rows, channels].into(), dtype);
                assert!(grid.num_blocks() * grid.totals().columns <= TOTAL_THREADS * TOTAL_TURNS);
            }
        }
    }

    #[test]
    fn more_rows_than_kernels_count_are_refused() {
        assert!(grid_of([SIGNED - 1, 1], DType::Bf16).checked().is_ok());
        let message = grid_of([SIGNED, 1], DType::Bf16).checked().unwrap_err().to_string();
        assert!(message.contains("2147483648 rows of channels"), "{message}");
        assert!(message.contains("smaller batch"), "{message}");
    }
}
