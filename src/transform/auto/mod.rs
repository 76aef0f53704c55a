//! Operations on 8-bit images, one after another: those of which TrivialAugment and RandAugment draw.
//!
//! They are those of torchvision's `autoaugment` for tensors of u8, byte by byte: nearest neighbours, black outside,
//! values cut off where they leave 0..=255 and between them. Every rounding is written down, here and in the kernel
//! `auto_augment`, so both make the same bytes.
//! Which operation a sample gets, and how strong, is decided elsewhere (`batch::auto`).

mod bytes;

use bytemuck::{Pod, Zeroable};

use super::{Affine, SampleParams};

/// One of the operations, in torchvision's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoOp {
    /// Nothing happens.
    Identity,
    /// Slanted along x, about the upper left corner; the magnitude is the slope.
    ShearX,
    /// Slanted along y.
    ShearY,
    /// Moved to the right by pixels; a fraction of one is dropped.
    TranslateX,
    /// Moved down.
    TranslateY,
    /// Turned anticlockwise about the centre by degrees.
    Rotate,
    /// The distance to black times 1 + magnitude.
    Brightness,
    /// The distance to the pixel's own grey times 1 + magnitude.
    Color,
    /// The distance to the image's mean grey times 1 + magnitude.
    Contrast,
    /// The distance to the image smoothed over 3x3 pixels times 1 + magnitude.
    Sharpness,
    /// The magnitude is the number of bits that each value keeps.
    Posterize,
    /// Values from the magnitude on are turned round.
    Solarize,
    /// Each channel is stretched to 0..=255.
    AutoContrast,
    /// Each channel's histogram is made as flat as it can be.
    Equalize,
}

impl AutoOp {
    /// All of them.
    pub const ALL: [AutoOp; 14] = [
        AutoOp::Identity,
        AutoOp::ShearX,
        AutoOp::ShearY,
        AutoOp::TranslateX,
        AutoOp::TranslateY,
        AutoOp::Rotate,
        AutoOp::Brightness,
        AutoOp::Color,
        AutoOp::Contrast,
        AutoOp::Sharpness,
        AutoOp::Posterize,
        AutoOp::Solarize,
        AutoOp::AutoContrast,
        AutoOp::Equalize,
    ];

    /// Whether the magnitude goes either way.
    pub fn is_signed(self) -> bool {
        (AutoOp::ShearX as u8..=AutoOp::Sharpness as u8).contains(&(self as u8))
    }
}

/// One operation with its numbers: what a kernel reads. Only fields of 4 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct AutoStep {
    /// Which pass it is: one of the constants.
    pub kind: u32,
    /// Of [`AutoStep::POSTERIZE`], the bits that are kept; of [`AutoStep::SOLARIZE`], the least value that is turned round.
    pub level: u32,
    /// Share of the image itself in a blend.
    pub factor: f32,
    /// Share of what it is blended with: 1 - factor, rounded from f64.
    pub rest: f32,
    /// Of [`AutoStep::MAP`]: from a pixel of the result, counted from the image's centre, to the x that it shows, from -1
    /// at the image's left edge to 1 at its right one.
    pub map_x: [f32; 3],
    /// The same of y.
    pub map_y: [f32; 3],
}

impl AutoStep {
    /// The image stays as it is.
    pub const NOTHING: u32 = 0;
    /// Pixels come from elsewhere.
    pub const MAP: u32 = 1;
    /// Blended with black.
    pub const BRIGHTNESS: u32 = 2;
    /// Blended with the mean grey.
    pub const CONTRAST: u32 = 3;
    /// Some bits are dropped.
    pub const POSTERIZE: u32 = 4;
    /// High values are turned round.
    pub const SOLARIZE: u32 = 5;
    /// Channels are stretched.
    pub const AUTO_CONTRAST: u32 = 6;
    /// Histograms are flattened.
    pub const EQUALIZE: u32 = 7;
    /// Blended with each pixel's grey.
    pub const COLOR: u32 = 8;
    /// Blended with the smoothed image.
    pub const SHARPNESS: u32 = 9;

    /// The image as it is.
    pub const NONE: AutoStep = AutoStep {
        kind: AutoStep::NOTHING,
        level: 0,
        factor: 1.0,
        rest: 0.0,
        map_x: [0.0; 3],
        map_y: [0.0; 3],
    };

    /// `op` at `magnitude` on images of `height` x `width`; see [`AutoOp`] for what a magnitude is.
    pub fn new(op: AutoOp, magnitude: f32, [height, width]: [usize; 2]) -> AutoStep {
        let of_kind = |kind| AutoStep { kind, ..AutoStep::NONE };
        let blend = |kind| {
            let factor = 1.0 + f64::from(magnitude);
            AutoStep { factor: factor as f32, rest: (1.0 - factor) as f32, ..of_kind(kind) }
        };
        match op {
            AutoOp::Identity => AutoStep::NONE,
            AutoOp::ShearX | AutoOp::ShearY | AutoOp::TranslateX | AutoOp::TranslateY | AutoOp::Rotate => {
                let [half_height, half_width] = [height, width].map(|extent| 0.5 * extent as f32);
                let [map_x, map_y] = inverse(op, magnitude.into(), [height, width]);
                // Rounded once to f32 and then divided, as PyTorch does.
                AutoStep {
                    map_x: map_x.map(|number| number as f32 / half_width),
                    map_y: map_y.map(|number| number as f32 / half_height),
                    ..of_kind(AutoStep::MAP)
                }
            }
            AutoOp::Brightness => blend(AutoStep::BRIGHTNESS),
            AutoOp::Color => blend(AutoStep::COLOR),
            AutoOp::Contrast => blend(AutoStep::CONTRAST),
            AutoOp::Sharpness => blend(AutoStep::SHARPNESS),
            AutoOp::Posterize => {
                let dropped = 8 - (magnitude as u32).min(8);
                AutoStep { level: (0xFF << dropped) & 0xFF, ..of_kind(AutoStep::POSTERIZE) }
            }
            AutoOp::Solarize => AutoStep { level: magnitude.ceil() as u32, ..of_kind(AutoStep::SOLARIZE) },
            AutoOp::AutoContrast => of_kind(AutoStep::AUTO_CONTRAST),
            AutoOp::Equalize => of_kind(AutoStep::EQUALIZE),
        }
    }

    /// From a pixel of the result to the pixel that it shows, before rounding to a whole one.
    fn affine(&self, [height, width]: [usize; 2]) -> Affine {
        if self.kind != AutoStep::MAP {
            return Affine::IDENTITY;
        }
        let centre = [width, height].map(|extent| 0.5 * extent as f64 - 0.5);
        let row = |map: [f32; 3], axis: usize| {
            let [a, b, c] = map.map(|number| f64::from(number) * (centre[axis] + 0.5));
            [a, b, c + centre[axis] - a * centre[0] - b * centre[1]].map(|number| number as f32)
        };
        Affine { x: row(self.map_x, 0), y: row(self.map_y, 1) }
    }

    /// Whether the result cannot be written over the image.
    fn moves(&self, [height, width]: [usize; 2]) -> bool {
        self.kind == AutoStep::MAP || (self.kind == AutoStep::SHARPNESS && height > 2 && width > 2)
    }
}

/// The rows of the inverse map of `op`, both counted from the image's centre.
fn inverse(op: AutoOp, magnitude: f64, [height, width]: [usize; 2]) -> [[f64; 3]; 2] {
    // The slope goes through degrees and back, and the corner is added and taken away, as torchvision has it: the roundings
    // are part of the result.
    let angle = || magnitude.atan().to_degrees().to_radians();
    let [down, right] = [height, width].map(|extent| 0.5 * extent as f64);
    match op {
        AutoOp::ShearX => {
            let slope = angle().tan();
            [[1.0, slope, (right + slope * down) - right], [0.0, 1.0, 0.0]]
        }
        AutoOp::ShearY => {
            let (sin, cos) = angle().sin_cos();
            let slope = sin / cos;
            [[1.0, 0.0, 0.0], [slope, 1.0, (slope * right + down) - down]]
        }
        AutoOp::TranslateX => [[1.0, 0.0, -magnitude.trunc()], [0.0, 1.0, 0.0]],
        AutoOp::TranslateY => [[1.0, 0.0, 0.0], [0.0, 1.0, -magnitude.trunc()]],
        AutoOp::Rotate => {
            let (sin, cos) = (-magnitude).to_radians().sin_cos();
            [[cos, sin, 0.0], [-sin, cos, 0.0]]
        }
        _ => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    }
}

/// Operations that a sample can get.
pub const MAX_AUTO_STEPS: usize = 9;

/// What happens to one sample's bytes, from the photo to what is left to normalise, erase and mix.
///
/// Only fields of 4 bytes: a row of the operand `steps` of the operation `auto_augment`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct AutoSteps {
    /// From a pixel to the place in the photo that it shows, before any step.
    pub inverse: Affine,
    /// The steps in order; those behind the last are [`AutoStep::NONE`].
    pub steps: [AutoStep; MAX_AUTO_STEPS],
}

impl AutoSteps {
    /// 4-byte fields of the struct.
    pub const NUM_ELEMS: usize = size_of::<AutoSteps>() / size_of::<f32>();

    /// The photo as it is.
    pub const NONE: AutoSteps =
        AutoSteps { inverse: Affine::IDENTITY, steps: [AutoStep::NONE; MAX_AUTO_STEPS] };

    /// From a pixel of the result to the place in the photo that it shows, on images of `height` x `width`: through the
    /// steps, last one first. Rounding to whole pixels is left out.
    pub fn whole_inverse(&self, [height, width]: [usize; 2]) -> Affine {
        let maps = self.steps.iter().filter(|step| step.kind == AutoStep::MAP);
        maps.fold(self.inverse, |inverse, step| inverse.after(step.affine([height, width])))
    }

    /// The bit patterns of many as the operand of an operation takes them: [N, NUM_ELEMS].
    pub fn as_floats(steps: &[AutoSteps]) -> &[f32] {
        bytemuck::cast_slice(steps)
    }

    /// [`AutoSteps::as_floats`] back.
    ///
    /// # Panics
    /// If `floats` is not a whole number of rows.
    pub fn from_floats(floats: &[f32]) -> &[AutoSteps] {
        bytemuck::cast_slice(floats)
    }
}

impl SampleParams {
    /// What is left to do where the bytes of a sample are made: erasing and mixing.
    pub fn without_bytes(&self) -> SampleParams {
        SampleParams { erased: self.erased, mix: self.mix, ..SampleParams::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Image;

    const EXTENTS: [usize; 2] = [24, 31];

    /// Calls `check` with each pixel of what the steps make, that is not black, and the place in the photo that it shows by the
    /// whole map; pixels of the photo hold their own place.
    fn for_each_shown(steps: &AutoSteps, mut check: impl FnMut([f32; 2], [f32; 2])) {
        let [height, width] = EXTENTS;
        let photo: Vec<u8> =
            (0..height * width).flat_map(|i| [(i % width) as u8, (i / width) as u8, 1]).collect();
        let [mut bytes, mut spare] = [(); 2].map(|()| vec![[0; 3]; height * width]);
        steps.run(&SampleParams::NONE, Image::new(&photo, height, width), &mut bytes, &mut spare);
        let inverse = steps.whole_inverse(EXTENTS);
        for (i, &[x, y, is_shown]) in bytes.iter().enumerate() {
            let (at_x, at_y) = inverse.apply((i % width) as f32, (i / width) as f32);
            if is_shown == 1 {
                check([x.into(), y.into()], [at_x, at_y]);
            }
        }
    }

    fn steps(ops: &[(AutoOp, f32)]) -> AutoSteps {
        let mut steps = AutoSteps::NONE;
        for (step, (op, magnitude)) in steps.steps.iter_mut().zip(ops) {
            *step = AutoStep::new(*op, *magnitude, EXTENTS);
        }
        steps
    }

    #[test]
    fn the_whole_map_says_what_pixels_show() {
        use AutoOp::{Equalize, Rotate, ShearX, ShearY, TranslateX, TranslateY};
        // Each step rounds to whole pixels, half a pixel along each axis at most, and the next slants and turns that.
        for (ops, most) in [
            (&[(ShearX, 0.4)][..], 0.501),
            (&[(ShearY, -0.7)], 0.501),
            (&[(TranslateX, 5.9)], 0.001),
            (&[(TranslateY, -3.2)], 0.001),
            (&[(Rotate, 40.0)], 0.501),
            (&[(Rotate, -25.0), (TranslateX, -4.0), (ShearX, 0.3)], 1.2),
        ] {
            let mut num_shown = 0;
            for_each_shown(&steps(ops), |got, expected| {
                let errors = [0, 1].map(|axis| (got[axis] - expected[axis]).abs());
                assert!(errors.iter().all(|error| *error <= most), "{ops:?}: {got:?}, not {expected:?}");
                num_shown += 1;
            });
            assert!(num_shown > 24 * 31 / 3, "{ops:?}: {num_shown}");
        }
        assert_eq!(steps(&[(Equalize, 0.0)]).whole_inverse(EXTENTS), Affine::IDENTITY);
    }

    #[test]
    fn what_is_left_after_the_bytes_is_erasing_and_mixing() {
        use crate::transform::{Colour, Mix, Noise, PixelBox};
        let erased = PixelBox { left: 1, top: 2, right: 3, bottom: 4 };
        let mix = Mix { partner: 3, weight: 0.25, inside: erased };
        let (inverse, colour) = (Affine::flip(9), Colour::brightness(0.5));
        let params = SampleParams { inverse, colour, noise: Noise::new(0.5, 1, 2, 3), erased, mix };
        assert_eq!(params.without_bytes(), SampleParams { erased, mix, ..SampleParams::NONE });
    }
}
