//! The extents of one convolution, in the vocabulary N H W C, K R S, P Q.

/// The extents of a 2-D cross-correlation: x `[n, h, w, c]`, w `[k, r, s, c]`, y `[n, p, q, k]`.
///
/// A linear layer is the 1x1 convolution on 1x1 maps: `n` = batch, `c` = features in, `k` = features out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv2dDims {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub k: usize,
    pub r: usize,
    pub s: usize,
    pub stride_h: usize,
    pub stride_w: usize,
    pub pad_h: usize,
    pub pad_w: usize,
}

impl Conv2dDims {
    /// Output height.
    ///
    /// # Panics
    /// If the filter is higher than the padded image or the stride is zero.
    pub fn p(&self) -> usize {
        output_extent(self.h, self.r, self.stride_h, self.pad_h)
    }

    /// Output width.
    ///
    /// # Panics
    /// If the filter is wider than the padded image or the stride is zero.
    pub fn q(&self) -> usize {
        output_extent(self.w, self.s, self.stride_w, self.pad_w)
    }

    /// Elements of x and dx.
    pub fn x_elems(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Elements of w and dw.
    pub fn w_elems(&self) -> usize {
        self.k * self.r * self.s * self.c
    }

    /// Elements of y and dy.
    pub fn y_elems(&self) -> usize {
        self.n * self.p() * self.q() * self.k
    }

    /// Multiplications and additions of one pass, taps that fall into the padding counted.
    pub fn flops(&self) -> u64 {
        2 * self.y_elems() as u64 * (self.r * self.s * self.c) as u64
    }
}

fn output_extent(input: usize, kernel: usize, stride: usize, pad: usize) -> usize {
    let padded = input + 2 * pad;
    assert!(kernel <= padded, "a kernel of {kernel} does not fit the padded extent {padded}");
    (padded - kernel) / stride + 1
}
