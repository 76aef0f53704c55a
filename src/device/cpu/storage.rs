//! What tensors hold and what is computed of it: f32 and f64 are computed in as they are, bf16 in f32.

use half::bf16;

use super::args::Element;
use super::real::Real;

/// A floating-point type of tensors. CPU code written once for all of them loads elements, computes in [`Storage::Sum`] and
/// stores, rounding once, as kernels do. Sums, statistics and parameters are of type `Sum` themselves.
///
/// [`Real`] types store themselves: loading and storing them is nothing.
pub trait Storage: Element {
    /// What is computed in, at least as wide.
    type Sum: Real;

    /// Zero.
    const ZERO: Self;
    /// The largest number that is stored as zero.
    const LARGEST_ZERO: Self::Sum;

    /// This number, exactly.
    fn load(self) -> Self::Sum;
    /// The nearest number of this type, of two the even one; NaN stays NaN.
    fn store(sum: Self::Sum) -> Self;
}

macro_rules! stores_itself {
    ($($ty:ty),*) => {
        $(impl Storage for $ty {
            type Sum = $ty;

            const ZERO: $ty = 0.0;
            const LARGEST_ZERO: $ty = 0.0;

            #[inline(always)]
            fn load(self) -> $ty {
                self
            }
            #[inline(always)]
            fn store(sum: $ty) -> $ty {
                sum
            }
        })*
    };
}
stores_itself!(f32, f64);

/// In integers and without the branches that the conversions of `half` have, so that compilers make vectors of a loop.
impl Storage for bf16 {
    type Sum = f32;

    const ZERO: bf16 = bf16::ZERO;
    // Halfway to the smallest bf16: a tie, and zero is even.
    const LARGEST_ZERO: f32 = f32::from_bits(0x8000);

    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn store(sum: f32) -> bf16 {
        let bits = sum.to_bits();
        // Half of the last place that stays, less where that is even already: a tie goes to the even one. The carry may
        // reach the exponent, and there infinity.
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        // A NaN whose upper half is all zeros but the exponent would be infinite.
        let quiet = (bits >> 16) | 0x40;
        bf16::from_bits(if sum.is_nan() { quiet } else { rounded } as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each sign and exponent, with what stays and what goes at all places where rounding turns.
    fn edges() -> impl Iterator<Item = u32> {
        let upper = [0, 1, 2, 0x3F, 0x40, 0x7E, 0x7F];
        let lower = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF];
        (0..=0x1FF_u32).flat_map(move |exponent| {
            upper.into_iter().flat_map(move |upper| {
                lower.into_iter().map(move |lower| (exponent << 23) | (upper << 16) | lower)
            })
        })
    }

    #[test]
    fn bf16_is_stored_as_half_rounds_it() {
        let strides = (0..u32::MAX).step_by(65_521);
        for bits in edges().chain(strides) {
            let value = f32::from_bits(bits);
            let (stored, expected) = (bf16::store(value), bf16::from_f32(value));
            assert_eq!(stored.to_bits(), expected.to_bits(), "{value:e} ({bits:#010x})");
            assert_eq!(stored.is_nan(), value.is_nan());
        }
    }

    #[test]
    fn every_bf16_is_loaded_exactly_and_stored_again() {
        for bits in 0..=u16::MAX {
            let value = bf16::from_bits(bits);
            assert_eq!(value.load().to_bits(), u32::from(bits) << 16);
            let again = bf16::store(value.load());
            assert!(again.to_bits() == bits || (value.is_nan() && again.to_bits() == bits | 0x40));
        }
    }

    #[test]
    fn nothing_larger_is_stored_as_zero() {
        assert_eq!(bf16::store(bf16::LARGEST_ZERO), bf16::ZERO);
        assert!(bf16::store(bf16::LARGEST_ZERO.next_up()) > bf16::ZERO);
        assert_eq!((f32::LARGEST_ZERO, f64::LARGEST_ZERO), (0.0, 0.0));
    }

    #[test]
    fn a_real_stores_itself() {
        for value in [0.0, -1.5, f32::MIN_POSITIVE / 3.0, f32::INFINITY, f32::NAN] {
            assert_eq!(f32::store(value.load()).to_bits(), value.to_bits());
            assert_eq!(f64::store(f64::from(value).load()).to_bits(), f64::from(value).to_bits());
        }
    }
}
