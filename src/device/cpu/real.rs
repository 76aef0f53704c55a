//! The two floating-point types the CPU computes in: f32 for training, f64 as the oracle.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use super::storage::Storage;

/// Arithmetic that CPU code written once for f32 and f64 may use.
pub trait Real:
    Storage<Sum = Self>
    + PartialOrd
    + Default
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    /// Multiplicative identity.
    const ONE: Self;

    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;
    /// This value in double precision, exactly.
    fn to_f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to the power of this.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
}

macro_rules! real {
    ($ty:ty) => {
        impl Real for $ty {
            const ONE: $ty = 1.0;

            #[inline(always)]
            fn from_f64(value: f64) -> $ty {
                value as $ty
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn sqrt(self) -> $ty {
                self.sqrt()
            }
            #[inline(always)]
            fn exp(self) -> $ty {
                self.exp()
            }
            #[inline(always)]
            fn ln(self) -> $ty {
                self.ln()
            }
            #[inline(always)]
            fn tanh(self) -> $ty {
                self.tanh()
            }
        }
    };
}
real!(f32);
real!(f64);
