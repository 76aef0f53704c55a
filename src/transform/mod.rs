//! One sample of an image: where each of its pixels is looked up, and what becomes of the colour found there.
//!
//! [`SampleParams`] says it in numbers that a kernel reads as they lie in memory. Geometry is one inverse affine map,
//! from output pixel to source pixel, so that an image is resampled once however much happens to it: one bilinear
//! sample, everything outside the image black. Colour is one matrix, noise a function of the pixel's number, and a box is
//! erased last.
//! Where operations on bytes come between, [`AutoSteps`] says which.
//! What may happen to a sample is decided elsewhere (`batch::augment`); the kernel `augment` computes the same.

mod affine;
mod auto;
mod colour;
mod image;
mod mix;
mod noise;
mod normalization;
mod pixel_box;

use bytemuck::{Pod, Zeroable};

pub use affine::Affine;
pub use auto::{AutoOp, AutoStep, AutoSteps, MAX_AUTO_STEPS};
pub use colour::Colour;
pub use image::Image;
pub use mix::Mix;
pub use noise::Noise;
pub use normalization::Normalization;
pub use pixel_box::PixelBox;

/// Channels of an RGB image.
pub const NUM_CHANNELS: usize = 3;

/// Weights of red, green and blue in grey (ITU-R BT.601 as torchvision rounds them; their sum is 0.9999).
const GREY: [f32; NUM_CHANNELS] = [0.2989, 0.587, 0.114];

/// Everything that happens to one sample.
///
/// Only fields of 4 bytes, without padding: a row of the operand `params` of the operation `augment`, whose first six
/// numbers are the map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct SampleParams {
    /// From a pixel of the output to the place in the source that it shows.
    pub inverse: Affine,
    /// What becomes of a colour in 0..=255.
    pub colour: Colour,
    /// Pixels that take a random colour, after all other colour.
    pub noise: Noise,
    /// Pixels whose normalised value is 0, the mean of each channel.
    pub erased: PixelBox,
    /// The other sample that shows through.
    pub mix: Mix,
}

impl SampleParams {
    /// 4-byte fields of the struct.
    pub const NUM_ELEMS: usize = size_of::<SampleParams>() / size_of::<f32>();

    /// The image as it is.
    pub const NONE: SampleParams = SampleParams {
        inverse: Affine::IDENTITY,
        colour: Colour::IDENTITY,
        noise: Noise::NONE,
        erased: PixelBox::NONE,
        mix: Mix::NONE,
    };

    /// The image seen through a map.
    pub fn through(inverse: Affine) -> SampleParams {
        SampleParams { inverse, ..SampleParams::NONE }
    }

    /// The bit patterns of many as the operand of an operation takes them: [N, NUM_ELEMS].
    pub fn as_floats(params: &[SampleParams]) -> &[f32] {
        bytemuck::cast_slice(params)
    }

    /// [`SampleParams::as_floats`] back.
    ///
    /// # Panics
    /// If `floats` is not a whole number of rows.
    pub fn from_floats(floats: &[f32]) -> &[SampleParams] {
        bytemuck::cast_slice(floats)
    }

    /// Whether geometry is all that happens to colours before erasing.
    pub fn is_geometric(&self) -> bool {
        self.colour == Colour::IDENTITY && self.noise.probability <= 0.0
    }

    /// The colour of the sample at pixel (x, y) in 0..=255, before erasing, normalisation
    /// and mixing.
    pub fn sample_pixel(&self, image: Image<'_>, x: usize, y: usize) -> [f32; NUM_CHANNELS] {
        let mut colour = [0.0; NUM_CHANNELS];
        self.sample_run(image, (x, y), std::slice::from_mut(&mut colour));
        colour
    }

    /// [`SampleParams::sample_pixel`] of every pixel of row `y`.
    ///
    /// # Panics
    /// If `out` is not as wide as the image.
    pub fn sample_row(&self, image: Image<'_>, y: usize, out: &mut [[f32; NUM_CHANNELS]]) {
        assert_eq!(out.len(), image.width(), "one colour for each column");
        self.sample_run(image, (0, y), out);
    }

    /// The network's input at the pixels from (x, y) to the right, before mixing: `channels` holds
    /// [`Normalization::scale_and_offset`].
    ///
    /// # Panics
    /// If `out` reaches behind the image's last column.
    pub fn input_run(
        &self,
        image: Image<'_>,
        (x, y): (usize, usize),
        channels: &[(f32, f32); NUM_CHANNELS],
        out: &mut [[f32; NUM_CHANNELS]],
    ) {
        assert!(x + out.len() <= image.width(), "pixels of one row");
        self.sample_run(image, (x, y), out);
        for value in out.iter_mut() {
            value.iter_mut().zip(channels).for_each(|(v, (scale, offset))| *v = *v * scale + offset);
        }
        self.erase_run((x, y), out);
    }

    /// Erases what of the pixels from (x, y) to the right lies in the box.
    #[inline]
    pub fn erase_run(&self, (x, y): (usize, usize), out: &mut [[f32; NUM_CHANNELS]]) {
        let columns = self.erased.columns(y);
        let [start, end] = [columns.start, columns.end].map(|column| column.saturating_sub(x).min(out.len()));
        out[start..end].fill([0.0; NUM_CHANNELS]);
    }

    /// The pixels from (x, y) to the right, step by step rather than pixel by pixel.
    #[inline]
    fn sample_run(&self, image: Image<'_>, (x, y): (usize, usize), out: &mut [[f32; NUM_CHANNELS]]) {
        let is_whole = self.inverse.is_whole();
        for (x, out) in (x..).zip(out.iter_mut()) {
            let (x, y) = self.inverse.apply(x as f32, y as f32);
            // A conversion that saturates stays outside.
            *out =
                if is_whole { image.pixel(x as i32, y as i32).map(f32::from) } else { image.bilinear(x, y) };
        }
        if self.colour != Colour::IDENTITY {
            out.iter_mut().for_each(|value| *value = self.colour.apply(*value));
        }
        if self.noise.probability > 0.0 {
            let first = (y * image.width() + x) as u32;
            for (pixel, out) in (first..).zip(out) {
                if let Some(colour) = self.noise.at(pixel) {
                    *out = colour;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_lie_in_memory_as_kernels_read_them() {
        let inverse = Affine { x: [1.0, 2.0, 3.0], y: [4.0, 5.0, 6.0] };
        let colour = Colour { rows: [[7.0, 8.0, 9.0, 10.0], [11.0; 4], [12.0; 4]] };
        let noise = Noise::new(0.5, 0x1_0000_0002, 3, 4);
        let erased = PixelBox { left: 5, top: 6, right: 7, bottom: 8 };
        let inside = PixelBox { left: 9, top: 10, right: 11, bottom: 12 };
        let mix = Mix { partner: -1, weight: 0.25, inside };
        let params = [SampleParams { inverse, colour, noise, erased, mix }];
        let floats = SampleParams::as_floats(&params);
        assert_eq!(floats.len(), SampleParams::NUM_ELEMS);
        assert_eq!(floats[..10], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
        let words: Vec<u32> = floats[18..].iter().map(|float| float.to_bits()).collect();
        assert_eq!(words[..9], [0.5f32.to_bits(), 2, 1, 3, 4, 5, 6, 7, 8]);
        assert_eq!(words[9..], [u32::MAX, 0.25f32.to_bits(), 9, 10, 11, 12]);
        assert_eq!(SampleParams::from_floats(floats), params);
    }
}
