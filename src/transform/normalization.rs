//! The scale of a network's input.

use super::NUM_CHANNELS;

/// Mean and standard deviation of each channel of an image whose values are in 0..1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Mean subtracted from each channel, for values in 0..1.
    pub mean: [f32; NUM_CHANNELS],
    /// Standard deviation by which each channel is then divided.
    pub std: [f32; NUM_CHANNELS],
}

impl Default for Normalization {
    /// Those of ImageNet.
    fn default() -> Normalization {
        Normalization { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }
}

impl Normalization {
    /// Factor and summand of each channel that take a value in 0..=255 to the network's input.
    pub fn scale_and_offset(&self) -> [(f32, f32); NUM_CHANNELS] {
        std::array::from_fn(|c| {
            let (mean, std) = (f64::from(self.mean[c]), f64::from(self.std[c]));
            ((1.0 / (255.0 * std)) as f32, (-mean / std) as f32)
        })
    }

    /// The input value of a pixel value in 0..=255.
    pub fn apply(&self, value: f32, channel: usize) -> f32 {
        let (scale, offset) = self.scale_and_offset()[channel];
        value * scale + offset
    }
}
