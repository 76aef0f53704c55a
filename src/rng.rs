//! Counter-based random numbers: Philox4x32-10, the same function on host and device.
//!
//! A draw is a pure function of a key and a counter, so the order of samples is f(seed, epoch) and the
//! augmentation of a sample is f(seed, epoch, index) whatever thread computes it and wherever a run resumes.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;

/// What a stream of random numbers is used for; streams with different uses never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Use {
    /// Order of the training samples within an epoch.
    Shuffle = 1,
    /// Augmentation of one sample.
    Augment = 2,
    /// Initial values of parameters.
    Init = 3,
    /// Generated scenes.
    Scenes = 4,
    /// Noise on the pixels of one augmented sample.
    Noise = 5,
    /// Mixing of the samples of one batch.
    Mix = 6,
    /// Elements that a layer drops.
    Dropout = 7,
    /// The box that one augmented sample loses.
    Erase = 8,
    /// The operation that TrivialAugment draws for one sample.
    TrivialAugment = 9,
    /// Those of RandAugment.
    RandAugment = 10,
}

/// Four random words for one counter under one key: ten rounds of Philox4x32.
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product_0 = u64::from(MULTIPLIER_0) * u64::from(counter[0]);
        let product_1 = u64::from(MULTIPLIER_1) * u64::from(counter[2]);
        counter = [
            (product_1 >> 32) as u32 ^ counter[1] ^ key[0],
            product_1 as u32,
            (product_0 >> 32) as u32 ^ counter[3] ^ key[1],
            product_0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL_0), key[1].wrapping_add(WEYL_1)];
    }
    counter
}

/// A random word as a number in `[0, 1)`, a multiple of 2^-24.
pub fn unit_interval(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A sequence of draws from the counters `(draw, epoch, sample, use)` under `seed`.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    buffer: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of one sample in one epoch for one use.
    pub fn new(seed: u64, epoch: u32, sample: u32, usage: Use) -> Stream {
        Stream {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [0, epoch, sample, usage as u32],
            buffer: [0; 4],
            used: 4,
        }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.buffer = philox4x32_10(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        unit_interval(self.next_u32())
    }

    /// Uniform integer in `0..bound` by multiply and shift; the bias is below `bound / 2^32`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// Standard normal by Box and Muller, one value a call.
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * f64::from(1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(self.uniform());
        (radius * angle.cos()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_known_answers() {
        // Known-answer vectors of the Random123 distribution (kat_vectors, philox4x32 10).
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let mut stream = Stream::new(7, 0, 0, Use::Init);
        let normals: Vec<f64> = (0..40_000).map(|_| f64::from(stream.normal())).collect();
        let mean = normals.iter().sum::<f64>() / 40_000.0;
        let variance = normals.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 40_000.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        assert!((0..10_000).map(|_| stream.below(7)).all(|v| v < 7));
    }

    #[test]
    fn streams_differ_by_every_part_of_the_counter() {
        let first = |seed, epoch, sample, usage| Stream::new(seed, epoch, sample, usage).next_u32();
        let base = first(1, 2, 3, Use::Shuffle);
        for other in [
            first(2, 2, 3, Use::Shuffle),
            first(1, 3, 3, Use::Shuffle),
            first(1, 2, 4, Use::Shuffle),
            first(1, 2, 3, Use::Augment),
        ] {
            assert_ne!(base, other);
        }
    }
}
