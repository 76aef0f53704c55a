//! The two rearrangements that copies into blocks are made of. Compilers make no vector code of them, so AVX-512, which every
//! processor with a matrix unit has, is written out.

#[cfg(target_arch = "x86_64")]
use std::any::TypeId;

use half::bf16;
use pulp::Simd;

use super::product::{SIDE, TILE};

/// The elements of two rows in turn: those of columns 0 to 15, then those of columns 16 to 31.
#[inline(always)]
pub(super) fn interleave<S: Simd>(_simd: S, even: &[bf16; SIDE], odd: &[bf16; SIDE]) -> [[bf16; SIDE]; 2] {
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<S>() == TypeId::of::<pulp::x86::V4>() {
        // SAFETY: there is a `V4` only where the processor has AVX-512 F and BW.
        return unsafe { avx512::interleave(even, odd) };
    }
    std::array::from_fn(|half| std::array::from_fn(|i| [even, odd][i % 2][half * TILE + i / 2]))
}

/// Exchanges rows and columns.
#[inline(always)]
pub(super) fn transpose<S: Simd>(_simd: S, lines: &mut [[u32; TILE]; TILE]) {
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<S>() == TypeId::of::<pulp::x86::V4>() {
        // SAFETY: as in `interleave`.
        return unsafe { avx512::transpose(lines) };
    }
    *lines = std::array::from_fn(|i| lines.map(|line| line[i]));
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi16, _mm512_permutex2var_epi16, _mm512_set_epi16, _mm512_set1_epi16,
        _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
        _mm512_unpacklo_epi64,
    };
    use std::mem::transmute;

    use super::{SIDE, TILE, bf16};

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn interleave(even: &[bf16; SIDE], odd: &[bf16; SIDE]) -> [[bf16; SIDE]; 2] {
        // Element i of the first row is number i, of the second number 32 + i.
        let low = _mm512_set_epi16(
            47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, //
            39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0,
        );
        let high = _mm512_add_epi16(low, _mm512_set1_epi16(TILE as i16));
        // SAFETY: arrays of 64 bytes, of which any bits are valid.
        unsafe {
            let [even, odd] = transmute::<[[bf16; SIDE]; 2], [__m512i; 2]>([*even, *odd]);
            let halves = [low, high].map(|order| _mm512_permutex2var_epi16(even, order, odd));
            transmute::<[__m512i; 2], [[bf16; SIDE]; 2]>(halves)
        }
    }

    /// Two by two, then four by four inside the 128-bit lanes, then the lanes themselves.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn transpose(lines: &mut [[u32; TILE]; TILE]) {
        // SAFETY: arrays of as many bytes, of which any bits are valid.
        let v = unsafe { transmute::<[[u32; TILE]; TILE], [__m512i; TILE]>(*lines) };
        let mut w = v;
        for i in (0..TILE).step_by(2) {
            w[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
            w[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
        }
        // v[4 g + c] is column c of each lane in the rows of group g.
        let mut v = w;
        for g in (0..TILE).step_by(4) {
            v[g] = _mm512_unpacklo_epi64(w[g], w[g + 2]);
            v[g + 1] = _mm512_unpackhi_epi64(w[g], w[g + 2]);
            v[g + 2] = _mm512_unpacklo_epi64(w[g + 1], w[g + 3]);
            v[g + 3] = _mm512_unpackhi_epi64(w[g + 1], w[g + 3]);
        }
        for c in 0..4 {
            const EVEN: i32 = 0b10_00_10_00;
            const ODD: i32 = 0b11_01_11_01;
            let [a, b, x, y] = [v[c], v[4 + c], v[8 + c], v[12 + c]];
            let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<ODD>(a, b));
            let (xy_even, xy_odd) = (_mm512_shuffle_i32x4::<EVEN>(x, y), _mm512_shuffle_i32x4::<ODD>(x, y));
            w[c] = _mm512_shuffle_i32x4::<EVEN>(ab_even, xy_even);
            w[4 + c] = _mm512_shuffle_i32x4::<EVEN>(ab_odd, xy_odd);
            w[8 + c] = _mm512_shuffle_i32x4::<ODD>(ab_even, xy_even);
            w[12 + c] = _mm512_shuffle_i32x4::<ODD>(ab_odd, xy_odd);
        }
        // SAFETY: as above.
        *lines = unsafe { transmute::<[__m512i; TILE], [[u32; TILE]; TILE]>(w) };
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;

    struct Both;

    impl WithSimd for Both {
        type Output = ([[bf16; SIDE]; 2], [[u32; TILE]; TILE]);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let row = |first: u16| std::array::from_fn(|i| bf16::from_bits(first + i as u16));
            let mut lines = std::array::from_fn(|i| std::array::from_fn(|j| (i * TILE + j) as u32));
            transpose(simd, &mut lines);
            (interleave(simd, &row(100), &row(200)), lines)
        }
    }

    #[test]
    fn rows_are_interleaved_and_exchanged_with_columns_on_every_processor() {
        for (halves, lines) in [Both.with_simd(pulp::Scalar), pulp::Arch::new().dispatch(Both)] {
            for (i, element) in halves.as_flattened().iter().enumerate() {
                assert_eq!(usize::from(element.to_bits()), 100 * (1 + i % 2) + i / 2);
            }
            for (i, line) in lines.iter().enumerate() {
                assert_eq!(*line, std::array::from_fn(|j| (j * TILE + i) as u32));
            }
        }
    }
}
