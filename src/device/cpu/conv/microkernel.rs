//! The register tiles: up to 12 rows by one panel of 32 columns, accumulated by fused multiply-add.
//!
//! Both tiles read one factor by broadcast and the other as vectors, so neither needs its broadcast factor
//! packed or transposed. With 32 vector registers, 12x2 accumulators leave room for two vectors and a broadcast;
//! machines with 16 registers use tiles of 6 rows. Each output is one chain of fused multiply-adds in a fixed
//! order, whatever tile it falls into, so results do not depend on the tiling.

use pulp::{Arch, Simd, WithSimd};

/// Columns of one panel: two AVX-512 vectors; narrower machines take it in several strips.
pub(super) const PANEL: usize = 32;
/// The most rows of a tile on any machine.
pub(super) const MAX_ROWS: usize = 12;
/// Taps whose pointers are on the stack at a time; kernels above 8x8 accumulate in several rounds.
pub(super) const TAPS_PER_ROUND: usize = 64;

/// The most rows a tile may have on this machine.
pub(super) fn rows_per_tile() -> usize {
    struct Rows;
    impl WithSimd for Rows {
        type Output = usize;
        fn with_simd<S: Simd>(self, _simd: S) -> usize {
            if S::REGISTER_COUNT >= 32 { MAX_ROWS } else { MAX_ROWS / 2 }
        }
    }
    Arch::new().dispatch(Rows)
}

/// Columns that a tile takes at once on this machine: two vectors, a panel at most.
pub(super) fn columns_per_strip() -> usize {
    struct Columns;
    impl WithSimd for Columns {
        type Output = usize;
        fn with_simd<S: Simd>(self, _simd: S) -> usize {
            2 * S::F32_LANES
        }
    }
    Arch::new().dispatch(Columns)
}

/// What the accumulators of a tile start from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    Zero,
    /// The same vector of all columns in every row.
    Row(*const f32),
    /// What the output holds.
    Output,
}

/// The input rows that one tap of a tile multiplies, and the panel rows it multiplies them with.
#[derive(Debug, Clone, Copy)]
pub(super) struct TapRows {
    pub(super) rows: [*const f32; MAX_ROWS],
    /// Elements from the panel's start to this tap's `run` rows.
    pub(super) panel_offset: usize,
}

/// `out[i][j] = start + sum over taps, then over u in 0..run, of tap.rows[i][u] * panel[tap][u][j]`.
pub(super) struct GatherTile<'a> {
    pub(super) taps: &'a [TapRows],
    pub(super) run: usize,
    /// Columns of the panel: whole strips.
    pub(super) columns: usize,
    pub(super) panel: *const f32,
    pub(super) start: Start,
    /// Output rows, each of so many columns.
    pub(super) out: [*mut f32; MAX_ROWS],
}

/// The offsets of one pair of rows that [`OuterTile`] multiplies.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowPair {
    pub(super) broadcast: u32,
    pub(super) vector: u32,
}

/// `out[i][j] = start + sum over pairs of broadcast[pair + i] * vector[pair + j]`: a sum of outer products.
pub(super) struct OuterTile<'a> {
    pub(super) pairs: &'a [RowPair],
    pub(super) broadcast: *const f32,
    pub(super) vector: *const f32,
    pub(super) start: Start,
    pub(super) out: *mut f32,
    /// Elements between output rows.
    pub(super) out_stride: usize,
}

struct Fixed<T, const ROWS: usize>(T);

/// Runs `$tile` with its number of rows as a constant.
macro_rules! with_fixed_rows {
    ($simd:expr, $rows:expr, $tile:expr, [$($n:literal)*]) => {
        match $rows {
            $($n => $simd.vectorize(Fixed::<_, $n>($tile)),)*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

impl GatherTile<'_> {
    /// Computes the first `rows` rows of the tile.
    ///
    /// # Safety
    /// For each of those rows, every `rows[i]` of every tap is readable for `run` elements and `out[i]` writable
    /// for `columns`; `panel` is readable for `run * columns` elements from each tap's `panel_offset`, and so is
    /// the row in `start` for `columns`.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, simd: S, rows: usize) {
        with_fixed_rows!(simd, rows, self, [1 2 3 4 5 6 7 8 9 10 11 12])
    }
}

impl OuterTile<'_> {
    /// Computes the first `rows` rows of the tile.
    ///
    /// # Safety
    /// For every pair, `broadcast` is readable for `rows` elements and `vector` for [`PANEL`] from the pair's
    /// offsets; `out` is writable for [`PANEL`] elements at `rows` multiples of `out_stride`; so is the row in
    /// `start` readable.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, simd: S, rows: usize) {
        with_fixed_rows!(simd, rows, self, [1 2 3 4 5 6 7 8 9 10 11 12])
    }
}

/// # Safety
/// `from` is readable for one vector.
#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    // SAFETY: the caller's promise; any bit pattern is a valid vector.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

/// # Safety
/// `to` is writable for one vector.
#[inline(always)]
unsafe fn store<S: Simd>(to: *mut f32, value: S::f32s) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<S::f32s>().write_unaligned(value) }
}

/// # Safety
/// What `start` and `out` point to is readable for two vectors from `column`.
#[inline(always)]
unsafe fn start_accumulators<S: Simd, const ROWS: usize>(
    simd: S,
    start: Start,
    column: usize,
    out: impl Fn(usize) -> *mut f32,
) -> [[S::f32s; 2]; ROWS] {
    let mut acc = [[simd.splat_f32s(0.0); 2]; ROWS];
    for (i, acc) in acc.iter_mut().enumerate() {
        let from = match start {
            Start::Zero => continue,
            Start::Row(row) => row,
            Start::Output => out(i).cast_const(),
        };
        // SAFETY: the caller's promise.
        *acc = unsafe { [load::<S>(from.add(column)), load::<S>(from.add(column + S::F32_LANES))] };
    }
    acc
}

impl<const ROWS: usize> WithSimd for Fixed<GatherTile<'_>, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let GatherTile { taps, run, columns, panel, start, out } = self.0;
        for column in (0..columns).step_by(2 * S::F32_LANES) {
            // SAFETY: `column` plus two vectors stays within the columns, and `GatherTile::run` was promised that rows,
            // panel, start and out cover that.
            unsafe {
                let mut acc = start_accumulators::<S, ROWS>(simd, start, column, |i| out[i]);
                for tap in taps {
                    let rows: [*const f32; ROWS] = std::array::from_fn(|i| tap.rows[i]);
                    let mut vector = panel.add(tap.panel_offset + column);
                    for u in 0..run {
                        let b = [load::<S>(vector), load::<S>(vector.add(S::F32_LANES))];
                        for (acc, row) in acc.iter_mut().zip(rows) {
                            let a = simd.splat_f32s(*row.add(u));
                            *acc =
                                [simd.mul_add_e_f32s(a, b[0], acc[0]), simd.mul_add_e_f32s(a, b[1], acc[1])];
                        }
                        vector = vector.add(columns);
                    }
                }
                for (out, acc) in out.into_iter().zip(acc) {
                    store::<S>(out.add(column), acc[0]);
                    store::<S>(out.add(column + S::F32_LANES), acc[1]);
                }
            }
        }
    }
}

impl<const ROWS: usize> WithSimd for Fixed<OuterTile<'_>, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let OuterTile { pairs, broadcast, vector, start, out, out_stride } = self.0;
        for column in (0..PANEL).step_by(2 * S::F32_LANES) {
            // SAFETY: `column` plus two vectors stays within PANEL, and `OuterTile::run` was promised that
            // broadcast, vector, start and out cover that.
            unsafe {
                let mut sum =
                    start_accumulators::<S, ROWS>(simd, Start::Zero, column, |i| out.add(i * out_stride));
                for pair in pairs {
                    let a_row = broadcast.add(pair.broadcast as usize);
                    let b_row = vector.add(pair.vector as usize + column);
                    let b = [load::<S>(b_row), load::<S>(b_row.add(S::F32_LANES))];
                    for (i, sum) in sum.iter_mut().enumerate() {
                        let a = simd.splat_f32s(*a_row.add(i));
                        *sum = [simd.mul_add_e_f32s(a, b[0], sum[0]), simd.mul_add_e_f32s(a, b[1], sum[1])];
                    }
                }
                // The sum of this block is added as a whole: two short chains round less than one long one.
                let total = start_accumulators::<S, ROWS>(simd, start, column, |i| out.add(i * out_stride));
                for (i, (sum, total)) in sum.into_iter().zip(total).enumerate() {
                    let to = out.add(i * out_stride + column);
                    store::<S>(to, simd.add_f32s(sum[0], total[0]));
                    store::<S>(to.add(S::F32_LANES), simd.add_f32s(sum[1], total[1]));
                }
            }
        }
    }
}
