//! Weights, images and labels by formula: numbers that Rust and Python compute bit for bit alike.
//!
//! Recorded results of whole networks are worth having only with the weights that gave them, and those are too
//! large to commit. So both sides compute them; `tests/golden/formula.py` is the same in numpy, and
//! `tests/golden/formula.json` holds checksums of what it gave.
//!
//! Every stream of numbers has a name. Its draw `i` (from 0) is the top 24 bits of output `i` of splitmix64 seeded
//! with the name's 64-bit FNV-1a hash:
//!
//! ```text
//! z = fnv1a_64(name) + (i + 1) * 0x9E3779B97F4A7C15        (all modulo 2^64)
//! z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
//! z = (z ^ (z >> 27)) * 0x94D049BB133111EB
//! draw = (z ^ (z >> 31)) >> 40        uniform = draw * 2^-24
//! ```
//!
//! Everything below is f64, in the order written, without fused multiply-add, then rounded once to f32.
//!
//! - Tensors: stream = torchvision's name, `i` = flat index in file order (OIHW for filters),
//!   value = `low + (high - low) * uniform`, with `(low, high)` as in [`value_range`].
//! - Images: stream `S.images`; pixel `i` in NCHW order takes the uniforms `u0..u3` at `4i..4i + 4`:
//!   `((((u0 + u1) + u2) + u3) - 2) * sqrt(3)`, which has mean 0 and variance 1.
//! - Labels: stream `S.labels`; label `i` = `(draw * classes) >> 24`.

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The 64-bit FNV-1a hash of `bytes`.
pub fn fnv1a_64(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(FNV_OFFSET, |state, byte| (state ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

/// The values of a network's tensor `name`, in the order of the file: filters OIHW, the others as they are.
///
/// `shape` is the file's. `last_norm` is the norm whose gamma ends a residual branch: `bn2` of basic blocks, `bn3` of
/// bottlenecks. Its gammas are small, so that a training run is not chaotic.
pub fn tensor(name: &str, shape: &[usize], last_norm: &str) -> Vec<f32> {
    let (low, high) = value_range(name, shape, last_norm);
    uniforms(name).take(shape.iter().product()).map(|uniform| (low + (high - low) * uniform) as f32).collect()
}

/// The pixels of a batch of `size`x`size` RGB images, NCHW; a stream (`step0`, `eval`) names each batch.
pub fn images(stream: &str, batch: usize, size: usize) -> Vec<f32> {
    let mut uniforms = uniforms(&format!("{stream}.images"));
    let mut next = || uniforms.next().expect("streams have no end");
    let scale = 3.0_f64.sqrt();
    (0..batch * 3 * size * size)
        .map(|_| {
            let sum = ((next() + next()) + next()) + next();
            ((sum - 2.0) * scale) as f32
        })
        .collect()
}

/// NCHW pixels as NHWC.
pub fn nchw_to_nhwc(pixels: &[f32], [batch, channels, height, width]: [usize; 4]) -> Vec<f32> {
    let plane = height * width;
    let mut nhwc = Vec::with_capacity(pixels.len());
    for image in 0..batch {
        for position in 0..plane {
            nhwc.extend((0..channels).map(|channel| pixels[(image * channels + channel) * plane + position]));
        }
    }
    nhwc
}

/// The labels of a batch, each in `0..classes`.
pub fn labels(stream: &str, batch: usize, classes: usize) -> Vec<i32> {
    draws(&format!("{stream}.labels"))
        .take(batch)
        .map(|draw| ((draw * classes as u64) >> 24) as i32)
        .collect()
}

/// The interval that the values of a tensor are spread over.
fn value_range(name: &str, shape: &[usize], last_norm: &str) -> (f64, f64) {
    match shape {
        // Twice He's: under batch norm larger weights turn less per step, which keeps a training run from chaos.
        [out_channels, _, height, width] => {
            let bound = (24.0 / (out_channels * height * width) as f64).sqrt();
            (-bound, bound)
        }
        // He's in layers that others follow, which would fade the signal out otherwise.
        [_, in_features] => {
            let scale: f64 = if name.starts_with("classifier.") { 6.0 } else { 1.0 };
            let bound = scale.sqrt() / (*in_features as f64).sqrt();
            (-bound, bound)
        }
        _ if name.ends_with(".running_mean") => (-0.3, 0.3),
        _ if name.ends_with(".running_var") => (2.0, 4.0),
        _ if name.ends_with(".bias") => (-0.2, 0.2),
        _ if name.starts_with("layer") && name.ends_with(&format!(".{last_norm}.weight")) => (0.05, 0.2),
        _ => (0.5, 1.5),
    }
}

/// The 24-bit draws of a stream.
fn draws(name: &str) -> impl Iterator<Item = u64> + use<> {
    let mut state = fnv1a_64(name.bytes());
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 40
    })
}

/// Uniform in `[0, 1)`, multiples of 2^-24.
fn uniforms(name: &str) -> impl Iterator<Item = f64> + use<> {
    draws(name).map(|draw| draw as f64 * (1.0 / 16_777_216.0))
}
