//! Noise: some pixels of a sample take a random colour.

use bytemuck::{Pod, Zeroable};

use super::NUM_CHANNELS;
use crate::rng::{Use, philox4x32_10, unit_interval};

/// Pixels that take a random colour, each with a probability and by its own draw: a function of seed, epoch, sample and
/// the pixel's number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct Noise {
    /// Probability that a pixel takes a random colour, in 0..=1.
    pub probability: f32,
    /// Lower and upper half of the seed, the key of the random numbers.
    pub key: [u32; 2],
    /// Epoch, a word of the counter.
    pub epoch: u32,
    /// Number of the image, a word of the counter.
    pub sample: u32,
}

impl Noise {
    /// No pixel changes.
    pub const NONE: Noise = Noise { probability: 0.0, key: [0; 2], epoch: 0, sample: 0 };

    /// Each pixel with `probability`.
    pub fn new(probability: f32, seed: u64, epoch: u32, sample: u32) -> Noise {
        Noise { probability, key: [seed as u32, (seed >> 32) as u32], epoch, sample }
    }

    /// The colour that pixel number `pixel` takes; most pixels take none.
    #[inline]
    pub(super) fn at(&self, pixel: u32) -> Option<[f32; NUM_CHANNELS]> {
        let words = philox4x32_10([pixel, self.epoch, self.sample, Use::Noise as u32], self.key);
        let [red, green, blue, _] = words[1].to_le_bytes();
        (unit_interval(words[0]) < self.probability).then(|| [red, green, blue].map(f32::from))
    }
}
