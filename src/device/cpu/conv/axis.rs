//! The index maps of the implicit GEMM along one image axis.
//!
//! Height and width are treated alike and apart. Output pixel `i` of a pass reads, for its tap `t`, the input
//! pixel `i*in_step + in_first + t*in_tap_step`, weighs it with filter row `filter_first + t*filter_step`, and
//! stands at `out_first + i*out_step` of the output tensor. That one form covers fprop (taps walk forwards,
//! pixels step by the stride) and each parity class of dgrad (taps walk backwards through every `stride`-th
//! filter row, output pixels are `stride` apart).

use std::ops::Range;

/// One axis of a pass: which input pixel and which filter row each (output pixel, tap) pair meets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// Output pixels.
    pub(super) grid: usize,
    /// Extent of the input; taps outside read zeros.
    pub(super) input: usize,
    pub(super) in_step: usize,
    pub(super) in_first: isize,
    pub(super) in_tap_step: isize,
    pub(super) taps: usize,
    pub(super) filter_first: usize,
    pub(super) filter_step: usize,
    pub(super) out_first: usize,
    pub(super) out_step: usize,
}

impl Axis {
    /// The axis of fprop: y pixel `p` reads x pixel `p*stride - pad + r` for filter row `r`.
    pub(super) fn fprop(input: usize, output: usize, kernel: usize, stride: usize, pad: usize) -> Axis {
        Axis {
            grid: output,
            input,
            in_step: stride,
            in_first: -(pad as isize),
            in_tap_step: 1,
            taps: kernel,
            filter_first: 0,
            filter_step: 1,
            out_first: 0,
            out_step: 1,
        }
    }

    /// The axis of dgrad for the dx pixels `class, class + stride, ...` below `extent`.
    ///
    /// dx pixel `h` collects from the dy pixels `p` with `p*stride - pad + r = h`. All pixels of one class share
    /// the filter rows `r` that make `h + pad - r` divisible by the stride, maybe none.
    pub(super) fn dgrad(
        extent: usize,
        dy_extent: usize,
        kernel: usize,
        stride: usize,
        pad: usize,
        class: usize,
    ) -> Axis {
        let filter_first = (class + pad) % stride;
        Axis {
            grid: extent.saturating_sub(class).div_ceil(stride),
            input: dy_extent,
            in_step: 1,
            in_first: ((class + pad) / stride) as isize,
            in_tap_step: -1,
            taps: kernel.saturating_sub(filter_first).div_ceil(stride),
            filter_first,
            filter_step: stride,
            out_first: class,
            out_step: stride,
        }
    }

    /// Where the first tap of output pixel `i` reads; may lie outside the input.
    pub(super) fn origin(&self, i: usize) -> isize {
        (i * self.in_step) as isize + self.in_first
    }

    /// The input pixel of output pixel `i` under tap `tap`, or `None` outside the input.
    pub(super) fn input_index(&self, i: usize, tap: usize) -> Option<usize> {
        let index = self.origin(i) + tap as isize * self.in_tap_step;
        usize::try_from(index).ok().filter(|&index| index < self.input)
    }

    /// The output pixels for which tap `tap` meets an input pixel, where taps walk forwards as in fprop.
    pub(super) fn valid_outputs(&self, tap: usize) -> Range<usize> {
        let first = self.in_first + tap as isize * self.in_tap_step;
        let reach = |bound: isize| ((bound - first).max(0) as usize).div_ceil(self.in_step).min(self.grid);
        reach(0)..reach(self.input as isize)
    }

    /// The filter row of tap `tap`.
    pub(super) fn filter_index(&self, tap: usize) -> usize {
        self.filter_first + tap * self.filter_step
    }

    /// The position of output pixel `i` in the output tensor.
    pub(super) fn output_index(&self, i: usize) -> usize {
        self.out_first + i * self.out_step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Calls `check` with every small (input, output, kernel, stride, pad).
    fn for_all_small_axes(mut check: impl FnMut(usize, usize, usize, usize, usize)) {
        for input in 1..=7 {
            for kernel in 1..=5 {
                for stride in 1..=4 {
                    for pad in 0..=kernel + 1 {
                        if kernel <= input + 2 * pad {
                            check(input, (input + 2 * pad - kernel) / stride + 1, kernel, stride, pad);
                        }
                    }
                }
            }
        }
    }

    /// All (input, output, filter row) triples the definition `input = output*stride - pad + row` allows.
    fn triples(
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        pad: usize,
    ) -> BTreeSet<(usize, usize, usize)> {
        let mut set = BTreeSet::new();
        for h in 0..input {
            for p in 0..output {
                set.extend((0..kernel).filter(|r| p * stride + r == h + pad).map(|r| (h, p, r)));
            }
        }
        set
    }

    #[test]
    fn fprop_axis_meets_exactly_the_defined_triples() {
        for_all_small_axes(|input, output, kernel, stride, pad| {
            let axis = Axis::fprop(input, output, kernel, stride, pad);
            let mut met = Vec::new();
            for i in 0..axis.grid {
                for t in 0..axis.taps {
                    let read = axis.input_index(i, t);
                    met.extend(read.map(|h| (h, axis.output_index(i), axis.filter_index(t))));
                }
            }
            let expected = triples(input, output, kernel, stride, pad);
            assert_eq!(met.len(), expected.len());
            assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), expected);
        });
    }

    #[test]
    fn valid_outputs_are_those_that_meet_an_input_pixel() {
        for_all_small_axes(|input, output, kernel, stride, pad| {
            let axis = Axis::fprop(input, output, kernel, stride, pad);
            for tap in 0..kernel {
                let expected: Vec<usize> =
                    (0..output).filter(|&i| axis.input_index(i, tap).is_some()).collect();
                assert_eq!(axis.valid_outputs(tap).collect::<Vec<_>>(), expected);
            }
        });
    }

    #[test]
    fn dgrad_classes_meet_exactly_the_defined_triples_and_every_pixel_once() {
        for_all_small_axes(|input, output, kernel, stride, pad| {
            let (mut met, mut written) = (Vec::new(), Vec::new());
            for class in 0..stride {
                let axis = Axis::dgrad(input, output, kernel, stride, pad, class);
                for i in 0..axis.grid {
                    written.push(axis.output_index(i));
                    for t in 0..axis.taps {
                        assert!(axis.filter_index(t) < kernel);
                        let read = axis.input_index(i, t);
                        met.extend(read.map(|p| (axis.output_index(i), p, axis.filter_index(t))));
                    }
                }
            }
            written.sort_unstable();
            assert_eq!(written, (0..input).collect::<Vec<_>>());
            let expected = triples(input, output, kernel, stride, pad);
            assert_eq!(met.len(), expected.len());
            assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), expected);
        });
    }
}
