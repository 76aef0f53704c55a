//! The passes against the f64 reference, and against themselves by other instructions and other numbers of threads.

use half::bf16;
use proptest::prelude::*;
use pulp::{Simd, WithSimd};

use super::gemm::{dgrad_on, fprop_on};
use super::product::{BLOCK_ELEMS, Engine, Factor, Product, SIDE, Sums, Unit};
use super::wgrad::wgrad_on;
use super::*;
use crate::device::cpu::Storage;
use crate::device::cpu::conv::finish::FinishNorm;
use crate::device::cpu::conv::tests::square;
use crate::device::cpu::conv::{
    Conv2dDims, conv2d_dgrad_reference, conv2d_fprop_reference, conv2d_wgrad_reference,
};
use crate::rng::{Stream, Use};

/// Error allowed per sum, relative to the sum of the magnitudes of its products.
const TOLERANCE: f64 = 1e-6;
/// Error of one rounding to bf16, relative to the result.
const ROUNDING: f64 = 1.0 / 256.0;

fn random(len: usize, sample: u32) -> Vec<bf16> {
    let mut stream = Stream::new(12, 0, sample, Use::Init);
    (0..len).map(|_| bf16::store(2.0 * stream.uniform() - 1.0)).collect()
}

fn to_f64(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

fn magnitudes(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64().abs()).collect()
}

fn poisoned(bytes: usize) -> Vec<f32> {
    vec![f32::NAN; bytes / size_of::<f32>()]
}

fn nans(len: usize) -> Vec<bf16> {
    vec![bf16::NAN; len]
}

fn assert_close(pass: &str, d: &Conv2dDims, got: &[f64], want: &[f64], scale: &[f64], rounding: f64) {
    for (i, ((got, want), scale)) in got.iter().zip(want).zip(scale).enumerate() {
        let error = (got - want).abs();
        assert!(
            error <= TOLERANCE * scale + rounding * want.abs(),
            "{pass} of {d:?}: [{i}] is {got}, expected {want}"
        );
    }
}

/// What the passes of one convolution make of random tensors.
struct Results {
    y: Vec<bf16>,
    normalized: Vec<bf16>,
    dx: Vec<bf16>,
    added: Vec<bf16>,
    dw: Vec<f32>,
}

impl Results {
    fn new(engine: Engine, d: &Conv2dDims) -> Results {
        let Tensors { x, w, dy, gamma, beta, mean, var } = &Tensors::new(d);
        let mut y = nans(d.y_elems());
        fprop_on(engine, d, x, w, None, &mut y, &mut poisoned(fprop_workspace_bytes(d)));
        let norm = FinishNorm { gamma, beta, mean, var, eps: 1e-5, residual: Some(&**dy), relu: true };
        let mut normalized = nans(d.y_elems());
        let mut workspace = poisoned(fprop_workspace_bytes(d));
        fprop_on(engine, d, x, w, Some(norm), &mut normalized, &mut workspace);
        let (mut dx, mut added) = (nans(d.x_elems()), x.clone());
        dgrad_on(engine, d, dy, w, false, &mut dx, &mut poisoned(dgrad_workspace_bytes(d)));
        dgrad_on(engine, d, dy, w, true, &mut added, &mut poisoned(dgrad_workspace_bytes(d)));
        let mut dw = vec![f32::NAN; d.w_elems()];
        wgrad_on(engine, d, x, dy, &mut dw, &mut poisoned(wgrad_workspace_bytes(d)));
        Results { y, normalized, dx, added, dw }
    }

    fn bits(&self) -> Vec<u32> {
        let narrow = [&self.y, &self.normalized, &self.dx, &self.added];
        let narrow = narrow.into_iter().flatten().map(|v| u32::from(v.to_bits()));
        narrow.chain(self.dw.iter().map(|v| v.to_bits())).collect()
    }
}

/// The operands of the passes.
struct Tensors {
    x: Vec<bf16>,
    w: Vec<bf16>,
    dy: Vec<bf16>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    mean: Vec<f32>,
    var: Vec<f32>,
}

impl Tensors {
    fn new(d: &Conv2dDims) -> Tensors {
        let row = |sample, first: f32| random(d.k, sample).iter().map(|v| first + v.load()).collect();
        Tensors {
            x: random(d.x_elems(), 1),
            w: random(d.w_elems(), 2),
            dy: random(d.y_elems(), 3),
            gamma: row(4, 0.0),
            beta: row(5, 0.0),
            mean: row(6, 0.0),
            var: row(7, 1.5),
        }
    }
}

/// Holds all passes of one convolution to the reference.
fn check(d: &Conv2dDims) {
    let got = Results::new(Engine::Vectors, d);
    let Tensors { x, w, dy, gamma, beta, mean, var } = &Tensors::new(d);
    let reference = |f: fn(&Conv2dDims, &[f64], &[f64], &mut [f64]), a: &[bf16], b: &[bf16], len| {
        let (mut want, mut scale) = (vec![0.0; len], vec![0.0; len]);
        f(d, &to_f64(a), &to_f64(b), &mut want);
        f(d, &magnitudes(a), &magnitudes(b), &mut scale);
        (want, scale)
    };

    let (mut want, mut scale) = reference(conv2d_fprop_reference, x, w, d.y_elems());
    assert_close("fprop", d, &to_f64(&got.y), &want, &scale, ROUNDING);
    for (i, (want, scale)) in want.iter_mut().zip(&mut scale).enumerate() {
        let k = i % d.k;
        let factor = f64::from(gamma[k]) / (f64::from(var[k]) + 1e-5).sqrt();
        *want = (*want - f64::from(mean[k])) * factor + f64::from(beta[k]) + dy[i].to_f64();
        *want = want.max(0.0);
        *scale = (*scale + 1.0) * factor.abs() + 2.0;
    }
    assert_close("fprop and batch norm", d, &to_f64(&got.normalized), &want, &scale, ROUNDING);

    let (mut want, mut scale) =
        reference(|d, dy, w, dx| conv2d_dgrad_reference(d, dy, w, false, dx), dy, w, d.x_elems());
    assert_close("dgrad", d, &to_f64(&got.dx), &want, &scale, ROUNDING);
    want.iter_mut().zip(x).for_each(|(want, x)| *want += x.to_f64());
    scale.iter_mut().zip(x).for_each(|(scale, x)| *scale += x.to_f64().abs());
    assert_close("dgrad added to dx", d, &to_f64(&got.added), &want, &scale, ROUNDING);

    let (want, scale) = reference(conv2d_wgrad_reference, x, dy, d.w_elems());
    let dw: Vec<f64> = got.dw.iter().copied().map(f64::from).collect();
    assert_close("wgrad", d, &dw, &want, &scale, 0.0);
}

prop_compose! {
    fn any_dims(limit: u64)(
        (n, h, w) in (1..15usize, 1..13usize, 1..13usize),
        (c, k) in (1..70usize, 1..70usize),
        (r, s) in (1..8usize, 1..8usize),
        (stride_h, stride_w) in (1..4usize, 1..4usize),
        (pad_h, pad_w) in (0..6usize, 0..6usize),
    ) -> Conv2dDims {
        // Small enough for the reference, and the kernel inside the image.
        let (pad_h, pad_w) = (pad_h.max(r.saturating_sub(h).div_ceil(2)), pad_w.max(s.saturating_sub(w).div_ceil(2)));
        let mut d = Conv2dDims { n, h, w, c, k, r, s, stride_h, stride_w, pad_h, pad_w };
        while d.flops() > limit {
            (d.n, d.k) = (d.n.div_ceil(2), d.k.div_ceil(2));
        }
        d
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn all_passes_match_the_reference_on_any_dims(d in any_dims(40_000_000)) {
        check(&d);
    }
}

#[test]
fn layers_of_networks_match_the_reference() {
    for (size, c, k, kernel, stride) in [
        (32, 3, 64, 7, 2),
        (16, 12, 64, 4, 1),
        (16, 64, 64, 3, 1),
        (16, 64, 128, 3, 2),
        (16, 64, 128, 1, 2),
        (4, 256, 512, 3, 2),
        (2, 512, 512, 3, 1),
        (8, 512, 128, 1, 1),
        (4, 1024, 2048, 1, 2),
    ] {
        check(&square(2, size, c, k, kernel, stride));
    }
}

#[test]
fn classes_of_pixels_that_meet_no_column_of_the_filter_match_the_reference() {
    check(&Conv2dDims { stride_w: 2, pad_w: 1, ..square(1, 1, 1, 1, 1, 1) });
}

#[test]
fn more_pixels_than_are_copied_at_a_time_match_the_reference() {
    check(&square(5, 16, 32, 40, 3, 1));
}

#[test]
fn depths_that_no_lane_holds_match_the_reference() {
    check(&square(1, 5, 1100, 33, 5, 1));
}

#[test]
fn results_have_the_same_bits_for_any_number_of_threads() {
    for d in [square(3, 40, 3, 50, 7, 2), square(5, 20, 64, 96, 3, 1), square(9, 9, 70, 130, 1, 2)] {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| Results::new(Engine::Vectors, &d).bits())
        };
        let alone = on(1);
        assert!(alone == on(2) && alone == on(3), "{d:?}");
    }
}

/// Blocks of two factors: numbers of all sizes, subnormal ones among them, whose products reach below and above what f32 has
/// in full.
fn factors(blocks: usize, exponents: std::ops::Range<u32>, sample: u32) -> [Vec<bf16>; 2] {
    let mut stream = Stream::new(13, 0, sample, Use::Init);
    [(); 2].map(|()| {
        let number = |_| {
            let exponent = exponents.start + stream.next_u32() % exponents.len() as u32;
            bf16::from_bits((stream.next_u32() & 0x807F | exponent << 7) as u16)
        };
        (0..blocks * BLOCK_ELEMS).map(number).collect()
    })
}

/// One product by the code for some vectors.
struct OnVectors<'a>(&'a [Vec<bf16>; 2], bool, Sums);

impl WithSimd for OnVectors<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<u32> {
        let OnVectors([a, b], adds, mut sums) = self;
        run(simd, &Unit::Vectors, a, b, adds, &mut sums);
        sums.0.as_flattened().iter().map(|sum| sum.to_bits()).collect()
    }
}

#[inline(always)]
fn run<S: Simd>(simd: S, unit: &Unit, a: &[bf16], b: &[bf16], adds: bool, sums: &mut Sums) {
    let out = sums.0.as_flattened_mut().as_mut_ptr();
    let [left, right] = [a, b].map(|factor| Factor::packed(factor.as_ptr()));
    let product = Product { a: left, b: right, blocks: a.len() / BLOCK_ELEMS, adds, out, out_stride: SIDE };
    // SAFETY: the factors hold the blocks, and the sums are 32 rows of 32.
    unsafe { product.run(simd, unit) };
}

/// The sums by the definition, each number flushed by hand.
fn by_definition([a, b]: &[Vec<bf16>; 2], adds: bool, sums: &Sums) -> Vec<u32> {
    let flushed = |v: f32| if v.is_subnormal() { 0.0_f32.copysign(v) } else { v };
    let element = |i: usize, j: usize| {
        let mut sum = if adds { sums.0[i][j] } else { 0.0 };
        for (a, b) in a.chunks(BLOCK_ELEMS).zip(b.chunks(BLOCK_ELEMS)) {
            let mut chains = [0.0_f32; 2];
            for depth in 0..SIDE {
                let left = flushed(a[i * SIDE + depth].load());
                let right = b[j / 16 * BLOCK_ELEMS / 2 + depth / 2 * SIDE + j % 16 * 2 + depth % 2];
                let chain = &mut chains[depth % 2];
                *chain = flushed(left.mul_add(flushed(right.load()), *chain));
            }
            sum = flushed(flushed(sum) + flushed(chains[0] + chains[1]));
        }
        sum.to_bits()
    };
    (0..BLOCK_ELEMS).map(|at| element(at / SIDE, at % SIDE)).collect()
}

fn all_ways(factors: &[Vec<bf16>; 2], adds: bool, sums: Sums) -> Vec<(&'static str, Vec<u32>)> {
    let on = |_| OnVectors(factors, adds, sums);
    let mut ways = vec![("no vectors", Simd::vectorize(pulp::Scalar, on(())))];
    #[cfg(target_arch = "x86_64")]
    {
        ways.extend(pulp::x86::V3::try_new().map(|simd| ("AVX2", Simd::vectorize(simd, on(())))));
        ways.extend(pulp::x86::V4::try_new().map(|simd| ("AVX-512", Simd::vectorize(simd, on(())))));
    }
    #[cfg(target_arch = "aarch64")]
    ways.extend(pulp::aarch64::Neon::try_new().map(|simd| ("NEON", Simd::vectorize(simd, on(())))));
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        let mut sums = sums;
        answer_amx_if_absent();
        // SAFETY: the matrix unit is there or answered.
        let unit = unsafe { Engine::Amx.prepare() };
        run(pulp::Scalar, &unit, &factors[0], &factors[1], adds, &mut sums);
        ways.push(("AMX", sums.0.as_flattened().iter().map(|sum| sum.to_bits()).collect()));
    }
    ways
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn answer_amx_if_absent() {
    if let Err(absence) = amx() {
        eprintln!("{absence}: its instructions are answered by a signal handler");
        answered::answer_amx();
    }
}

#[test]
fn a_product_has_the_same_bits_by_all_instructions() {
    // Numbers about 1; down to subnormal operands; products and sums that become subnormal; sums that overflow.
    for (i, exponents) in [120..132, 0..64, 50..80, 180..255].into_iter().enumerate() {
        for (blocks, adds) in [(0, true), (1, false), (3, true), (5, false)] {
            let factors = factors(blocks, exponents.clone(), i as u32);
            let start = random(BLOCK_ELEMS, 9);
            let sums = Sums(std::array::from_fn(|i| {
                std::array::from_fn(|j| {
                    start[i * SIDE + j].load() * f32::from_bits(exponents.start << 23 | 1)
                })
            }));
            let want = by_definition(&factors, adds, &sums);
            for (way, got) in all_ways(&factors, adds, sums) {
                for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                    let [got, want] = [got, want].map(|bits| f32::from_bits(*bits));
                    let is_same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                    assert!(is_same, "{way}, {exponents:?}, {blocks} blocks, [{at}]: {got:e}, not {want:e}");
                }
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn all_passes_have_the_same_bits_on_the_matrix_unit(d in any_dims(2_000_000)) {
        answer_amx_if_absent();
        assert!(Results::new(Engine::Amx, &d).bits() == Results::new(Engine::Vectors, &d).bits(), "{d:?}");
    }
}
