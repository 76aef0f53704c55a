//! An RGB image in memory and the colour at a place in it.

use super::{GREY, NUM_CHANNELS};

/// An RGB image in memory.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    pixels: &'a [[u8; NUM_CHANNELS]],
    width: usize,
    height: usize,
}

impl<'a> Image<'a> {
    /// Of `pixels`, HWC.
    ///
    /// # Panics
    /// If there are not `height * width * 3` of them, or none.
    pub fn new(pixels: &'a [u8], height: usize, width: usize) -> Image<'a> {
        let (triples, rest) = pixels.as_chunks();
        let fits = triples.len() == height * width && rest.is_empty() && !triples.is_empty();
        assert!(fits, "{} bytes are no RGB image of {width} x {height} pixels", pixels.len());
        Image { pixels: triples, width, height }
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels, row by row.
    pub fn pixels(&self) -> &'a [[u8; NUM_CHANNELS]] {
        self.pixels
    }

    /// The mean of the image in grey, in 0..=255: what [`super::Colour::contrast`] turns about.
    pub fn mean_grey(&self) -> f32 {
        let mut sums = [0u64; NUM_CHANNELS];
        // 32 bits hold the sum of this many bytes.
        for part in self.pixels.chunks(1 << 16) {
            let mut part_sums = [0u32; NUM_CHANNELS];
            for pixel in part {
                part_sums.iter_mut().zip(pixel).for_each(|(sum, &byte)| *sum += u32::from(byte));
            }
            sums.iter_mut().zip(part_sums).for_each(|(sum, part)| *sum += u64::from(part));
        }
        let mean = |channel: usize| sums[channel] as f32 / self.pixels.len() as f32;
        GREY[0] * mean(0) + GREY[1] * mean(1) + GREY[2] * mean(2)
    }

    /// The pixel in column `x` of row `y`, black outside.
    #[inline]
    pub(super) fn pixel(&self, x: i32, y: i32) -> [u8; NUM_CHANNELS] {
        let inside = x >= 0 && y >= 0 && (x as usize) < self.width && (y as usize) < self.height;
        if inside { self.pixels[y as usize * self.width + x as usize] } else { [0; NUM_CHANNELS] }
    }

    /// The colour at (x, y), in pixels with whole numbers at their centres; it fades to black within one pixel outside.
    #[inline]
    pub(super) fn bilinear(&self, x: f32, y: f32) -> [f32; NUM_CHANNELS] {
        // Keeps the conversions below in range; that far out everything is black.
        let (x, y) = (x.clamp(-1.0, self.width as f32), y.clamp(-1.0, self.height as f32));
        let ((left, right_share), (top, bottom_share)) = (split(x), split(y));
        let taps = if left >= 0 && top >= 0 && left + 1 < self.width as i32 && top + 1 < self.height as i32 {
            let upper = &self.pixels[top as usize * self.width + left as usize..][..self.width + 2];
            [upper[0], upper[1], upper[self.width], upper[self.width + 1]]
        } else {
            [
                self.pixel(left, top),
                self.pixel(left + 1, top),
                self.pixel(left, top + 1),
                self.pixel(left + 1, top + 1),
            ]
        };
        // Four lanes, of which the last is idle: the width of the narrowest vectors.
        let [upper_left, upper_right, lower_left, lower_right] =
            taps.map(|[r, g, b]| [r, g, b, 0].map(f32::from));
        let blend = |a: [f32; 4], b: [f32; 4], share: f32| -> [f32; 4] {
            std::array::from_fn(|c| blend(a[c], b[c], share))
        };
        let upper = blend(upper_left, upper_right, right_share);
        let lower = blend(lower_left, lower_right, right_share);
        let [r, g, b, _] = blend(upper, lower, bottom_share);
        [r, g, b]
    }
}

/// The whole number at or below `value`, and the rest in 0..1.
#[inline]
fn split(value: f32) -> (i32, f32) {
    let truncated = value as i32;
    let floor = truncated - i32::from(value < truncated as f32);
    (floor, value - floor as f32)
}

/// From `a` to `b`, and exactly `a` where `share` is 0.
#[inline]
fn blend(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_places_need_no_interpolation() {
        let bytes: Vec<u8> = (0..5 * 4 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let image = Image::new(&bytes, 4, 5);
        for (x, y) in (-2..7).flat_map(|x| (-2..6).map(move |y| (x, y))) {
            assert_eq!(image.bilinear(x as f32, y as f32), image.pixel(x, y).map(f32::from), "{x} {y}");
        }
    }
}
