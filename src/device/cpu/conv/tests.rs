//! The engine against the f64 reference: outputs and workspaces poisoned, dimensions unequal, NaN fails.

use proptest::prelude::*;

use super::*;
use crate::rng::{Stream, Use};

/// Error allowed per output, relative to the sum of the magnitudes of its products.
const TOLERANCE: f64 = 1e-6;

fn random(len: usize, sample: u32) -> Vec<f32> {
    let mut stream = Stream::new(11, 0, sample, Use::Init);
    (0..len).map(|_| 2.0 * stream.uniform() - 1.0).collect()
}

fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn magnitudes(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(v.abs())).collect()
}

fn poisoned(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

fn assert_close(pass: &str, d: &Conv2dDims, got: &[f32], want: &[f64], scale: &[f64]) {
    for (i, ((&got, want), scale)) in got.iter().zip(want).zip(scale).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= TOLERANCE * scale, "{pass} of {d:?}: [{i}] is {got}, expected {want}");
    }
}

/// Scale, shift, mean and variance of a batch norm.
fn norm_rows(d: &Conv2dDims) -> [Vec<f32>; 4] {
    let [gamma, beta, mean, mut var] = [5, 6, 7, 8].map(|sample| random(d.k, sample));
    var.iter_mut().for_each(|var| *var += 1.5);
    [gamma, beta, mean, var]
}

/// Holds an fprop that is finished by a batch norm to the bits of the two apart.
fn check_norm(d: &Conv2dDims, x: &[f32], w: &[f32]) {
    let [gamma, beta, mean, var] = norm_rows(d);
    let (residual, eps) = (random(d.y_elems(), 9), 1e-5);
    let mut sums = poisoned(d.y_elems());
    conv2d_fprop(d, x, w, Finish::None, &mut sums, &mut poisoned(fprop_workspace_elems(d)));
    for (relu, residual) in [(false, None), (true, None), (true, Some(&*residual))] {
        let norm = FinishNorm { gamma: &gamma, beta: &beta, mean: &mean, var: &var, eps, residual, relu };
        let mut y = poisoned(d.y_elems());
        let mut workspace = poisoned(fprop_norm_workspace_elems(d));
        conv2d_fprop(d, x, w, Finish::Norm(norm), &mut y, &mut workspace);
        for (i, (&y, &sum)) in y.iter().zip(&sums).enumerate() {
            let k = i % d.k;
            let mut want = (sum - mean[k]) * (gamma[k] * (1.0 / (var[k] + eps).sqrt())) + beta[k];
            want += residual.map_or(0.0, |residual| residual[i]);
            let want = if relu && want <= 0.0 { 0.0 } else { want };
            assert_eq!(y, want, "[{i}] of {d:?}, relu {relu}, residual {}", residual.is_some());
        }
    }
}

/// Holds all passes of one convolution to the reference.
fn check(d: &Conv2dDims) {
    let (x, w, dy) = (random(d.x_elems(), 1), random(d.w_elems(), 2), random(d.y_elems(), 3));
    let reference = |f: fn(&Conv2dDims, &[f64], &[f64], &mut [f64]), a: &[f32], b: &[f32], len| {
        let (mut want, mut scale) = (vec![0.0; len], vec![0.0; len]);
        f(d, &to_f64(a), &to_f64(b), &mut want);
        f(d, &magnitudes(a), &magnitudes(b), &mut scale);
        (want, scale)
    };

    let (mut want, scale) = reference(conv2d_fprop_reference, &x, &w, d.y_elems());
    let mut y = poisoned(d.y_elems());
    conv2d_fprop(d, &x, &w, Finish::None, &mut y, &mut poisoned(fprop_workspace_elems(d)));
    assert_close("fprop", d, &y, &want, &scale);

    let bias = random(d.k, 4);
    let mut y = poisoned(d.y_elems());
    conv2d_fprop(d, &x, &w, Finish::Bias(&bias), &mut y, &mut poisoned(fprop_workspace_elems(d)));
    want.iter_mut().zip(bias.iter().cycle()).for_each(|(want, &bias)| *want += f64::from(bias));
    let with_bias: Vec<f64> =
        scale.iter().zip(bias.iter().cycle()).map(|(s, b)| s + f64::from(b.abs())).collect();
    assert_close("fprop with bias", d, &y, &want, &with_bias);
    check_norm(d, &x, &w);

    let (mut want, mut scale) =
        reference(|d, dy, w, dx| conv2d_dgrad_reference(d, dy, w, false, dx), &dy, &w, d.x_elems());
    let mut dx = poisoned(d.x_elems());
    conv2d_dgrad(d, &dy, &w, false, &mut dx, &mut poisoned(dgrad_workspace_elems(d)));
    assert_close("dgrad", d, &dx, &want, &scale);

    let mut dx = x.clone();
    conv2d_dgrad(d, &dy, &w, true, &mut dx, &mut poisoned(dgrad_workspace_elems(d)));
    want.iter_mut().zip(&x).for_each(|(want, &x)| *want += f64::from(x));
    scale.iter_mut().zip(&x).for_each(|(scale, x)| *scale += f64::from(x.abs()));
    assert_close("accumulating dgrad", d, &dx, &want, &scale);

    let (want, scale) = reference(conv2d_wgrad_reference, &x, &dy, d.w_elems());
    let mut dw = poisoned(d.w_elems());
    conv2d_wgrad(d, &x, &dy, &mut dw, &mut poisoned(wgrad_workspace_elems(d)));
    assert_close("wgrad", d, &dw, &want, &scale);
}

/// A square convolution with "same" padding.
pub(super) fn square(n: usize, size: usize, c: usize, k: usize, kernel: usize, stride: usize) -> Conv2dDims {
    Conv2dDims {
        n,
        h: size,
        w: size,
        c,
        k,
        r: kernel,
        s: kernel,
        stride_h: stride,
        stride_w: stride,
        pad_h: kernel / 2,
        pad_w: kernel / 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn all_passes_match_the_reference_on_any_dims(
        (n, h, w) in (1..15usize, 1..13usize, 1..13usize),
        (c, k) in (1..70usize, 1..70usize),
        (r, s) in (1..8usize, 1..8usize),
        (stride_h, stride_w) in (1..4usize, 1..4usize),
        (pad_h, pad_w) in (0..6usize, 0..6usize),
    ) {
        let d = Conv2dDims { n, h, w, c, k, r, s, stride_h, stride_w, pad_h, pad_w };
        prop_assume!(r <= h + 2 * pad_h && s <= w + 2 * pad_w && d.flops() < 40_000_000);
        check(&d);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn panels_of_pixels_have_the_bits_of_panels_of_filters(
        (n, h, w) in (1..12usize, 1..4usize, 1..4usize),
        (c, k) in (16..70usize, 90..200usize),
        (r, s) in (1..5usize, 1..5usize),
        (stride_h, stride_w) in (1..3usize, 1..3usize),
        (pad_h, pad_w) in (0..3usize, 0..3usize),
    ) {
        let d = Conv2dDims { n, h, w, c, k, r, s, stride_h, stride_w, pad_h, pad_w };
        prop_assume!(r <= h + 2 * pad_h && s <= w + 2 * pad_w && pixel_panels::pays(&d));
        let (x, w) = (random(d.x_elems(), 1), random(d.w_elems(), 2));
        let [gamma, beta, mean, var] = norm_rows(&d);
        let residual = random(d.y_elems(), 9);
        let residual = Some(&*residual);
        let norm = FinishNorm { gamma: &gamma, beta: &beta, mean: &mean, var: &var, eps: 1e-5, residual, relu: true };
        for finish in [Finish::None, Finish::Bias(&beta), Finish::Norm(norm)] {
            let [pixels, filters] = [true, false].map(|by_pixels| {
                let mut y = poisoned(d.y_elems());
                let mut workspace = poisoned(fprop_norm_workspace_elems(&d));
                implicit_gemm::fprop(&d, &x, &w, finish, &mut y, &mut workspace, by_pixels);
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            prop_assert!(pixels == filters, "{finish:?} of {d:?}");
        }
    }
}

#[test]
fn channel_counts_off_the_panel_match_the_reference() {
    for (c, k) in [(3, 50), (50, 33), (175, 64), (64, 175), (1, 1), (31, 3), (16, 97)] {
        check(&Conv2dDims { h: 7, w: 9, stride_w: 2, ..square(3, 0, c, k, 3, 1) });
    }
}

#[test]
fn stems_match_the_reference() {
    check(&square(2, 33, 3, 64, 7, 2));
    check(&Conv2dDims { pad_w: 1, stride_h: 3, ..square(3, 17, 5, 50, 7, 2) });
}

#[test]
fn kernels_above_one_round_of_taps_match_the_reference() {
    check(&Conv2dDims { pad_h: 7, r: 11, s: 9, ..square(2, 6, 17, 34, 9, 1) });
}

#[test]
fn single_row_and_column_outputs_match_the_reference() {
    check(&Conv2dDims { h: 3, pad_h: 0, ..square(5, 8, 20, 40, 3, 1) });
    check(&Conv2dDims { w: 2, pad_w: 0, s: 2, ..square(13, 8, 33, 65, 4, 2) });
}

#[test]
fn small_maps_that_tile_across_the_batch_match_the_reference() {
    for (n, size, kernel, stride) in [(16, 2, 3, 1), (13, 4, 3, 2), (25, 1, 3, 1), (8, 5, 5, 3)] {
        check(&square(n, size, 36, 68, kernel, stride));
    }
}

#[test]
fn linear_layers_match_the_reference() {
    check(&square(16, 1, 512, 100, 1, 1));
    check(&square(7, 1, 687, 10, 1, 1));
}

/// The convolutions of ResNet-18 and ResNet-50 at 64 pixels, (map, c, k, kernel, stride).
const RESNET_LAYERS: &[(usize, usize, usize, usize, usize)] = &[
    (64, 3, 64, 7, 2),
    (16, 64, 64, 3, 1),
    (16, 64, 128, 3, 2),
    (16, 64, 128, 1, 2),
    (8, 128, 128, 3, 1),
    (8, 128, 256, 3, 2),
    (4, 256, 256, 3, 1),
    (4, 256, 512, 3, 2),
    (2, 512, 512, 3, 1),
    (16, 64, 256, 1, 1),
    (16, 256, 64, 1, 1),
    (16, 128, 128, 3, 2),
    (8, 512, 128, 1, 1),
    (8, 512, 1024, 1, 2),
    (4, 1024, 256, 1, 1),
    (4, 1024, 2048, 1, 2),
    (2, 512, 2048, 1, 1),
];

#[test]
fn resnet_layers_match_the_reference() {
    for &(size, c, k, kernel, stride) in RESNET_LAYERS {
        check(&square(2, size, c, k, kernel, stride));
    }
}

#[test]
fn results_have_the_same_bits_for_any_number_of_threads() {
    let passes = |d: &Conv2dDims, threads: usize| {
        let (x, w, dy) = (random(d.x_elems(), 1), random(d.w_elems(), 2), random(d.y_elems(), 3));
        let (mut y, mut dx, mut dw) = (poisoned(d.y_elems()), poisoned(d.x_elems()), poisoned(d.w_elems()));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            conv2d_fprop(d, &x, &w, Finish::None, &mut y, &mut poisoned(fprop_workspace_elems(d)));
            conv2d_dgrad(d, &dy, &w, false, &mut dx, &mut poisoned(dgrad_workspace_elems(d)));
            conv2d_wgrad(d, &x, &dy, &mut dw, &mut poisoned(wgrad_workspace_elems(d)));
        });
        [y, dx, dw].map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let many_filters = square(2, 2, 64, 260, 3, 1);
    assert!(pixel_panels::pays(&many_filters));
    let many_pixels = [square(3, 40, 3, 50, 7, 2), square(5, 20, 64, 96, 3, 1), square(9, 9, 70, 130, 1, 2)];
    // The implicit GEMM packs one panel after another.
    let many_of_both = square(5, 9, 384, 384, 3, 1);
    for d in many_pixels.into_iter().chain([many_filters, many_of_both]) {
        let alone = passes(&d, 1);
        assert!(alone == passes(&d, 2) && alone == passes(&d, 3), "{d:?}");
    }
}
