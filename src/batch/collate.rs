//! From u8 pixels to the normalised f32 pixels a network takes, through a sample's geometric map.
//!
//! The value at an output pixel is the bilinear sample of the source at the place the inverse map gives, where everything
//! outside the image is black. Maps that only flip and move by whole pixels hit pixel centres; they take a shorter way
//! to the same bits.

use std::ops::Range;

use super::augment::Affine;

/// Channels of an RGB image.
pub const NUM_CHANNELS: usize = 3;

/// Mean and standard deviation of each channel of an image whose values are in 0..1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Subtracted.
    pub mean: [f32; NUM_CHANNELS],
    /// Divided by.
    pub std: [f32; NUM_CHANNELS],
}

impl Default for Normalization {
    /// Those of ImageNet.
    fn default() -> Normalization {
        Normalization { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }
}

impl Normalization {
    /// The input value of a pixel value in 0..=255.
    pub fn apply(&self, value: f32, channel: usize) -> f32 {
        (value / 255.0 - self.mean[channel]) / self.std[channel]
    }
}

/// Samples and normalises images; holds the normalised value of each byte per channel.
#[derive(Debug, Clone)]
pub struct Collator {
    normalization: Normalization,
    table: Vec<[f32; NUM_CHANNELS]>,
}

impl Collator {
    /// A collator for images normalised by `normalization`.
    pub fn new(normalization: Normalization) -> Collator {
        let value = |byte: u8| std::array::from_fn(|channel| normalization.apply(f32::from(byte), channel));
        Collator { normalization, table: (0..=u8::MAX).map(value).collect() }
    }

    /// Writes the image `pixels`, HWC u8, seen through `inverse` to `out`, HWC f32 of the same extents.
    ///
    /// # Panics
    /// If `pixels` and `out` are not both `image_size * image_size * 3` long.
    pub fn sample(&self, pixels: &[u8], image_size: usize, inverse: &Affine, out: &mut [f32]) {
        let num_elems = image_size * image_size * NUM_CHANNELS;
        assert!(pixels.len() == num_elems && out.len() == num_elems, "one RGB triple per pixel");
        let (pixels, _) = pixels.as_chunks();
        let (out, _) = out.as_chunks_mut();
        match WholePixels::from_affine(inverse) {
            Some(map) => self.copy(pixels, image_size, map, out),
            None => self.resample(pixels, image_size, inverse, out),
        }
    }

    fn normalised(&self, pixel: [u8; NUM_CHANNELS]) -> [f32; NUM_CHANNELS] {
        std::array::from_fn(|channel| self.table[usize::from(pixel[channel])][channel])
    }

    /// The way for maps that hit pixel centres: whole runs of a row.
    fn copy(&self, source: &[[u8; 3]], size: usize, map: WholePixels, out: &mut [[f32; 3]]) {
        let black = self.normalised([0; 3]);
        let inside = map.columns_inside(size);
        for (y, row) in out.chunks_exact_mut(size).enumerate() {
            let source_y = y as i64 + map.dy;
            if inside.is_empty() || !(0..size as i64).contains(&source_y) {
                row.fill(black);
                continue;
            }
            let source_row = &source[source_y as usize * size..][..size];
            row[..inside.start].fill(black);
            row[inside.end..].fill(black);
            // The source column of the first output column inside.
            let first = map.column(inside.start as i64);
            let shown = &mut row[inside.clone()];
            if map.flips {
                let run = &source_row[(first + 1) as usize - shown.len()..=first as usize];
                shown
                    .iter_mut()
                    .zip(run.iter().rev())
                    .for_each(|(out, &pixel)| *out = self.normalised(pixel));
            } else {
                let run = &source_row[first as usize..][..shown.len()];
                shown.iter_mut().zip(run).for_each(|(out, &pixel)| *out = self.normalised(pixel));
            }
        }
    }

    /// The way for every map: one bilinear sample per output pixel.
    fn resample(&self, source: &[[u8; 3]], size: usize, inverse: &Affine, out: &mut [[f32; 3]]) {
        let limit = size as f32;
        for (i, out) in out.iter_mut().enumerate() {
            let (x, y) = inverse.apply((i % size) as f32, (i / size) as f32);
            // Keeps the conversions below in range; that far out everything is black.
            let (x, y) = (x.clamp(-1.0, limit), y.clamp(-1.0, limit));
            let (x0, y0) = (x.floor(), y.floor());
            let (right, down) = (x - x0, y - y0);
            let tap = |dx: f32, dy: f32| {
                let (x, y) = (x0 + dx, y0 + dy);
                let inside = x >= 0.0 && y >= 0.0 && x < limit && y < limit;
                if inside { source[y as usize * size + x as usize].map(f32::from) } else { [0.0; 3] }
            };
            let (upper, lower) = ((tap(0.0, 0.0), tap(1.0, 0.0)), (tap(0.0, 1.0), tap(1.0, 1.0)));
            *out = std::array::from_fn(|c| {
                let blend = |a: f32, b: f32, part: f32| a * (1.0 - part) + b * part;
                let value =
                    blend(blend(upper.0[c], upper.1[c], right), blend(lower.0[c], lower.1[c], right), down);
                self.normalization.apply(value, c)
            });
        }
    }
}

/// A map that flips or not and then moves by whole pixels.
#[derive(Debug, Clone, Copy)]
struct WholePixels {
    flips: bool,
    dx: i64,
    dy: i64,
}

impl WholePixels {
    fn from_affine(map: &Affine) -> Option<WholePixels> {
        let [xx, xy, dx] = map.x;
        let [yx, yy, dy] = map.y;
        let whole =
            xx.abs() == 1.0 && xy == 0.0 && yx == 0.0 && yy == 1.0 && dx.fract() == 0.0 && dy.fract() == 0.0;
        whole.then_some(WholePixels { flips: xx < 0.0, dx: dx as i64, dy: dy as i64 })
    }

    /// The source column shown at output column `x`.
    fn column(&self, x: i64) -> i64 {
        if self.flips { self.dx - x } else { self.dx + x }
    }

    /// The output columns that show the image.
    fn columns_inside(&self, size: usize) -> Range<usize> {
        let size = size as i64;
        let (start, end) =
            if self.flips { (self.dx - size + 1, self.dx + 1) } else { (-self.dx, size - self.dx) };
        let (start, end) = (start.clamp(0, size), end.clamp(0, size));
        if start < end { start as usize..end as usize } else { 0..0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, Use};

    const SIZE: usize = 7;

    fn image() -> Vec<u8> {
        let mut stream = Stream::new(5, 0, 0, Use::Scenes);
        (0..SIZE * SIZE * 3).map(|_| stream.below(256) as u8).collect()
    }

    fn collator() -> Collator {
        Collator::new(Normalization { mean: [0.1, 0.4, 0.7], std: [0.5, 0.2, 0.3] })
    }

    /// The map through `sample`, over an output poisoned with NaN.
    fn sampled(map: &Affine) -> Vec<f32> {
        let mut out = vec![f32::NAN; SIZE * SIZE * 3];
        collator().sample(&image(), SIZE, map, &mut out);
        out
    }

    /// The plain loops: flip if asked, then move right by `dx` and down by `dy`, black outside.
    fn moved(flips: bool, dx: i64, dy: i64) -> Vec<f32> {
        let (source, normalization) = (image(), collator().normalization);
        let size = SIZE as i64;
        let mut out = Vec::new();
        for y in 0..size {
            for x in 0..size {
                for channel in 0..3 {
                    let (from_x, from_y) = (x - dx, y - dy);
                    let from_x = if flips { size - 1 - from_x } else { from_x };
                    let inside = (0..size).contains(&from_x) && (0..size).contains(&from_y);
                    let at = ((from_y * size + from_x) * 3 + channel) as usize;
                    let value = if inside { f32::from(source[at]) } else { 0.0 };
                    out.push(normalization.apply(value, channel as usize));
                }
            }
        }
        out
    }

    #[test]
    fn flips_and_shifts_match_plain_loops_bit_for_bit() {
        for flips in [false, true] {
            for (dx, dy) in [(0, 0), (2, -3), (-6, 6), (7, 0), (0, -7), (-40, 1), (1, 40)] {
                let base = if flips { Affine::flip(SIZE) } else { Affine::IDENTITY };
                let map = base.after(Affine::translation(-dx as f32, -dy as f32));
                assert_eq!(sampled(&map), moved(flips, dx, dy), "flip {flips}, shift {dx} {dy}");
            }
        }
    }

    #[test]
    fn both_ways_give_the_same_bits_at_pixel_centres() {
        for map in
            [Affine::IDENTITY, Affine::flip(SIZE), Affine::flip(SIZE).after(Affine::translation(2.0, -3.0))]
        {
            let (source, collator) = (image(), collator());
            let mut out = vec![[f32::NAN; 3]; SIZE * SIZE];
            collator.resample(source.as_chunks().0, SIZE, &map, &mut out);
            assert_eq!(out.as_flattened(), sampled(&map));
        }
    }

    #[test]
    fn half_a_pixel_is_the_mean_of_two_and_fades_to_black() {
        let out = sampled(&Affine::translation(0.5, 0.0));
        let (source, normalization) = (image(), collator().normalization);
        for y in 0..SIZE {
            for x in 0..SIZE {
                for channel in 0..3 {
                    let value = |x: usize| f32::from(source[(y * SIZE + x) * 3 + channel]);
                    let right = if x + 1 < SIZE { value(x + 1) } else { 0.0 };
                    let expected = normalization.apply(0.5 * (value(x) + right), channel);
                    let got = out[(y * SIZE + x) * 3 + channel];
                    assert!((got - expected).abs() <= 1e-5, "{x} {y} {channel}: {got} instead of {expected}");
                }
            }
        }
    }

    #[test]
    fn a_quarter_turn_moves_every_pixel() {
        // Output (x, y) shows source (size - 1 - y, x).
        let turn = Affine { x: [0.0, -1.0, SIZE as f32 - 1.0], y: [1.0, 0.0, 0.0] };
        let (out, plain) = (sampled(&turn), sampled(&Affine::IDENTITY));
        for y in 0..SIZE {
            for x in 0..SIZE {
                let pixel = |image: &[f32], x: usize, y: usize| image[(y * SIZE + x) * 3..][..3].to_vec();
                assert_eq!(pixel(&out, x, y), pixel(&plain, SIZE - 1 - y, x));
            }
        }
    }

    #[test]
    fn far_away_everything_is_black() {
        let black: Vec<f32> =
            (0..SIZE * SIZE * 3).map(|i| collator().normalization.apply(0.0, i % 3)).collect();
        for offset in [1e6, -1e6, f32::MAX, 1e30, 0.5 - 3e4] {
            assert_eq!(sampled(&Affine::translation(offset, 0.25)), black);
        }
    }
}
