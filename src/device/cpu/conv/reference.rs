//! Convolution as the textbook writes it: the oracle in f64, and the definition the fast engine is held to.

use super::Conv2dDims;
use crate::device::cpu::Real;

/// y = cross-correlation of x with w: `y[n,p,q,k] = sum_rsc x[n, p*stride_h-pad_h+r, q*stride_w-pad_w+s, c] * w[k,r,s,c]`.
///
/// x is NHWC, w KRSC, y NPQK; pixels outside the image count as zero.
pub fn conv2d_fprop_reference<T: Real>(d: &Conv2dDims, x: &[T], w: &[T], y: &mut [T]) {
    y.fill(T::ZERO);
    for_each_product(d, |x_idx, w_idx, y_idx| y[y_idx] += x[x_idx] * w[w_idx]);
}

/// dx of [`conv2d_fprop_reference`] for the output gradient `dy`; added to what dx holds, or written over it.
pub fn conv2d_dgrad_reference<T: Real>(d: &Conv2dDims, dy: &[T], w: &[T], accumulate: bool, dx: &mut [T]) {
    if !accumulate {
        dx.fill(T::ZERO);
    }
    for_each_product(d, |x_idx, w_idx, y_idx| dx[x_idx] += dy[y_idx] * w[w_idx]);
}

/// dw of [`conv2d_fprop_reference`] for the output gradient `dy`; dw is overwritten.
pub fn conv2d_wgrad_reference<T: Real>(d: &Conv2dDims, x: &[T], dy: &[T], dw: &mut [T]) {
    dw.fill(T::ZERO);
    for_each_product(d, |x_idx, w_idx, y_idx| dw[w_idx] += x[x_idx] * dy[y_idx]);
}

/// Calls `f(x_idx, w_idx, y_idx)` for every product of the convolution; the three passes differ only in
/// which of the three factors they sum into.
fn for_each_product(d: &Conv2dDims, mut f: impl FnMut(usize, usize, usize)) {
    let (num_p, num_q) = (d.p(), d.q());
    for n in 0..d.n {
        for p in 0..num_p {
            for q in 0..num_q {
                for r in 0..d.r {
                    let Some(h) = input_index(p, r, d.stride_h, d.pad_h, d.h) else { continue };
                    for s in 0..d.s {
                        let Some(w) = input_index(q, s, d.stride_w, d.pad_w, d.w) else { continue };
                        for k in 0..d.k {
                            for c in 0..d.c {
                                f(
                                    ((n * d.h + h) * d.w + w) * d.c + c,
                                    ((k * d.r + r) * d.s + s) * d.c + c,
                                    ((n * num_p + p) * num_q + q) * d.k + k,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The input row (or column) under tap `tap` of output `output`, or `None` in the padding.
fn input_index(output: usize, tap: usize, stride: usize, pad: usize, extent: usize) -> Option<usize> {
    (output * stride + tap).checked_sub(pad).filter(|&index| index < extent)
}
