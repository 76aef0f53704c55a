//! The operations computed on the CPU, on images of 8-bit pixels.
//!
//! All but three are a table of 256 values for each channel, made from what the image holds.

use super::{AutoStep, AutoSteps};
use crate::transform::{GREY, Image, NUM_CHANNELS, SampleParams};

type Pixel = [u8; NUM_CHANNELS];

/// What each value of each channel becomes.
type Table = [[u8; 256]; NUM_CHANNELS];

impl AutoSteps {
    /// Writes what the photo `image` becomes to `bytes`: seen through the map, coloured and with noise as `params` says, whose own map
    /// does not count, rounded to bytes, and changed by each step in turn. What is in `spare` is lost.
    ///
    /// # Panics
    /// If `bytes` and `spare` are not both as large as the image.
    pub fn run(&self, params: &SampleParams, image: Image<'_>, bytes: &mut [Pixel], spare: &mut [Pixel]) {
        let extents = [image.height(), image.width()];
        let num_pixels = image.pixels().len();
        assert!(bytes.len() == num_pixels && spare.len() == num_pixels, "one pixel for each");
        let num_moves = self.steps.iter().filter(|step| step.moves(extents)).count();
        let (mut now, mut next) = if num_moves % 2 == 0 { (bytes, spare) } else { (spare, bytes) };
        first(&SampleParams { inverse: self.inverse, ..*params }, image, now);
        for step in &self.steps {
            if step.moves(extents) {
                if step.kind == AutoStep::MAP {
                    step.gather(extents, now, next)
                } else {
                    step.sharpen(extents, now, next)
                }
                std::mem::swap(&mut now, &mut next);
            } else if step.kind == AutoStep::COLOR {
                now.iter_mut()
                    .for_each(|pixel| *pixel = pixel.map(|own| step.blended(own, grey(*pixel).into())));
            } else if let Some(table) = step.table(now) {
                for pixel in now.iter_mut() {
                    *pixel = std::array::from_fn(|channel| table[channel][usize::from(pixel[channel])]);
                }
            }
        }
    }
}

/// Pixels that are rounded together.
const RUN: usize = 64;

/// The bytes before any step.
fn first(params: &SampleParams, image: Image<'_>, bytes: &mut [Pixel]) {
    let mut colours = [[0.0; NUM_CHANNELS]; RUN];
    for (y, row) in bytes.chunks_exact_mut(image.width()).enumerate() {
        for (i, run) in row.chunks_mut(RUN).enumerate() {
            let colours = &mut colours[..run.len()];
            params.sample_run(image, (i * RUN, y), colours);
            for (byte, colour) in run.as_flattened_mut().iter_mut().zip(colours.as_flattened()) {
                *byte = rounded(*colour) as u8;
            }
        }
    }
}

/// The nearest whole number to `value`, the even one of two, for values below 2^22 either way: where the sum lies, numbers are
/// one apart.
#[inline]
fn rounded(value: f32) -> f32 {
    const EXPONENT: f32 = 12_582_912.0;
    (value + EXPONENT) - EXPONENT
}

/// The grey of a pixel, cut off to a whole number.
#[inline]
fn grey([red, green, blue]: Pixel) -> u8 {
    (GREY[0] * f32::from(red) + GREY[1] * f32::from(green) + GREY[2] * f32::from(blue)) as u8
}

/// The place along an axis of `extent` pixels, whose half is `half`, for a place from -1 to 1: one rounding for product and sum.
#[inline]
fn unnormalised(place: f32, half: f64) -> f32 {
    // Both factors have few digits, so f64 holds product and difference exactly.
    (f64::from(place + 1.0) * half - 0.5) as f32
}

impl AutoStep {
    /// The own value blended with another, cut off to a whole number in 0..=255.
    #[inline]
    fn blended(&self, own: u8, other: f32) -> u8 {
        // A conversion to u8 cuts off and stays in its range.
        (self.factor * f32::from(own) + self.rest * other) as u8
    }

    fn gather(&self, [height, width]: [usize; 2], from: &[Pixel], to: &mut [Pixel]) {
        let centred = |at: usize, extent: usize| at as f32 - 0.5 * extent as f32 + 0.5;
        let halves = [height, width].map(|extent| 0.5 * extent as f64);
        let (lowest, rightmost) = (height as f32, width as f32);
        for (y, row) in to.chunks_exact_mut(width).enumerate() {
            let y = centred(y, height);
            let (x_of_row, y_of_row) = (self.map_x[1] * y, self.map_y[1] * y);
            for (x, out) in row.iter_mut().enumerate() {
                let x = centred(x, width);
                let at_x = self.map_x[0] * x + x_of_row + self.map_x[2];
                let at_y = self.map_y[0] * x + y_of_row + self.map_y[2];
                let at_x = rounded(unnormalised(at_x, halves[1]).clamp(-1.0, rightmost));
                let at_y = rounded(unnormalised(at_y, halves[0]).clamp(-1.0, lowest));
                let is_inside = at_x >= 0.0 && at_y >= 0.0 && at_x < rightmost && at_y < lowest;
                *out =
                    if is_inside { from[at_y as usize * width + at_x as usize] } else { [0; NUM_CHANNELS] };
            }
        }
    }

    /// Blends every pixel with the mean of itself, five times, and its eight neighbours; one at the edge with itself.
    fn sharpen(&self, [height, width]: [usize; 2], from: &[Pixel], to: &mut [Pixel]) {
        for (y, row) in to.chunks_exact_mut(width).enumerate() {
            for (x, out) in row.iter_mut().enumerate() {
                let at = y * width + x;
                let own = from[at];
                let mut other = own.map(f32::from);
                if x > 0 && y > 0 && x + 1 < width && y + 1 < height {
                    let mut sums = own.map(|own| 4 * u32::from(own));
                    for line in [at - width, at, at + width] {
                        for pixel in &from[line - 1..=line + 1] {
                            sums.iter_mut().zip(pixel).for_each(|(sum, &byte)| *sum += u32::from(byte));
                        }
                    }
                    // Rounded to the nearest; a thirteenth is never in the middle.
                    other = sums.map(|sum| ((2 * sum + 13) / 26) as f32);
                }
                *out = std::array::from_fn(|channel| self.blended(own[channel], other[channel]));
            }
        }
    }

    /// What values become, where they alone decide.
    fn table(&self, image: &[Pixel]) -> Option<Table> {
        let of_value =
            |becomes: &dyn Fn(u8) -> u8| [std::array::from_fn(|value| becomes(value as u8)); NUM_CHANNELS];
        Some(match self.kind {
            AutoStep::BRIGHTNESS => of_value(&|value| self.blended(value, 0.0)),
            AutoStep::CONTRAST => {
                let sum: u64 = image.iter().map(|&pixel| u64::from(grey(pixel))).sum();
                let mean = sum as f32 / image.len() as f32;
                of_value(&|value| self.blended(value, mean))
            }
            AutoStep::POSTERIZE => of_value(&|value| value & self.level as u8),
            AutoStep::SOLARIZE => {
                of_value(&|value| if u32::from(value) >= self.level { 255 - value } else { value })
            }
            AutoStep::AUTO_CONTRAST => std::array::from_fn(|channel| stretched(image, channel)),
            AutoStep::EQUALIZE => std::array::from_fn(|channel| equalised(image, channel)),
            _ => return None,
        })
    }
}

/// The least value of a channel becomes 0 and the largest 255; a channel of one value stays.
fn stretched(image: &[Pixel], channel: usize) -> [u8; 256] {
    let (mut least, mut largest) = (u8::MAX, 0);
    for pixel in image {
        (least, largest) = (least.min(pixel[channel]), largest.max(pixel[channel]));
    }
    if least == largest {
        return std::array::from_fn(|value| value as u8);
    }
    // PyTorch divides a number by a tensor so: two roundings.
    let scale = 1.0 / f32::from(largest - least) * 255.0;
    std::array::from_fn(|value| ((value as f32 - f32::from(least)) * scale) as u8)
}

/// As many pixels of a channel for each value as its histogram allows; a channel of too few pixels apart from its largest
/// value stays.
fn equalised(image: &[Pixel], channel: usize) -> [u8; 256] {
    let mut counts = [0u32; 256];
    image.iter().for_each(|pixel| counts[usize::from(pixel[channel])] += 1);
    let last = counts.iter().rev().find(|&&count| count > 0).expect("an image has pixels");
    let share = (image.len() as u32 - last) / 255;
    if share == 0 {
        return std::array::from_fn(|value| value as u8);
    }
    let mut below = 0;
    counts.map(|count| {
        let becomes = (below + share / 2) / share;
        below += count;
        becomes.min(255) as u8
    })
}
