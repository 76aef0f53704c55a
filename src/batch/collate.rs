//! From u8 pixels to the normalised f32 pixels a network takes, through what happens to a sample.
//!
//! Maps that only flip and move by whole pixels hit pixel centres; where nothing else happens they take a shorter way to
//! the same bits: whole runs of a row, through a table.

use std::ops::Range;

use crate::transform::{Affine, AutoSteps, Image, Mix, NUM_CHANNELS, Normalization, SampleParams};

/// Samples and normalises images; holds the normalised value of each byte per channel.
#[derive(Debug, Clone)]
pub struct Collator {
    normalization: Normalization,
    table: Box<[[f32; NUM_CHANNELS]; 256]>,
}

impl Collator {
    /// A collator for images normalised by `normalization`.
    pub fn new(normalization: Normalization) -> Collator {
        let value = |byte: usize| std::array::from_fn(|channel| normalization.apply(byte as f32, channel));
        Collator { normalization, table: Box::new(std::array::from_fn(value)) }
    }

    /// Writes the image `pixels`, HWC u8, as `params` says to `out`, HWC f32 of the same extents. Mixing is left out:
    /// it takes two samples, see [`mix`].
    ///
    /// # Panics
    /// If `pixels` and `out` are not both `image_size * image_size * 3` long.
    pub fn sample(&self, pixels: &[u8], image_size: usize, params: &SampleParams, out: &mut [f32]) {
        assert_eq!(pixels.len(), out.len(), "one value for each byte");
        let image = Image::new(pixels, image_size, image_size);
        let (out, _) = out.as_chunks_mut();
        match WholePixels::from_affine(&params.inverse).filter(|_| params.is_geometric()) {
            Some(map) => {
                self.copy(image.pixels(), image_size, map, out);
                let rows = out.chunks_exact_mut(image_size).enumerate();
                rows.for_each(|(y, row)| params.erase_run((0, y), row));
            }
            None => self.resample(image, params, out),
        }
    }

    /// [`Collator::sample`] with operations on the bytes between; `room` holds them meanwhile.
    ///
    /// # Panics
    /// As [`Collator::sample`].
    pub fn sample_through(
        &self,
        pixels: &[u8],
        image_size: usize,
        (params, steps): (&SampleParams, &AutoSteps),
        room: &mut [Vec<[u8; NUM_CHANNELS]>; 2],
        out: &mut [f32],
    ) {
        let image = Image::new(pixels, image_size, image_size);
        room.iter_mut().for_each(|bytes| bytes.resize(image.pixels().len(), [0; NUM_CHANNELS]));
        let [bytes, spare] = room;
        steps.run(params, image, bytes, spare);
        self.sample(bytes.as_flattened(), image_size, &params.without_bytes(), out);
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
                shown.iter_mut().rev().zip(run).for_each(|(out, &pixel)| *out = self.normalised(pixel));
            } else {
                let run = &source_row[first as usize..][..shown.len()];
                shown.iter_mut().zip(run).for_each(|(out, &pixel)| *out = self.normalised(pixel));
            }
        }
    }

    /// The way for all that can happen: one bilinear sample per output pixel, colour, noise, erasing.
    fn resample(&self, image: Image<'_>, params: &SampleParams, out: &mut [[f32; NUM_CHANNELS]]) {
        let channels = self.normalization.scale_and_offset();
        for (y, row) in out.chunks_exact_mut(image.width()).enumerate() {
            params.input_run(image, (0, y), &channels, row);
        }
    }
}

/// Mixes two samples that are each other's partners, both HWC f32, `width` pixels wide and normalised.
///
/// # Panics
/// If they are not of one length, or the box of `mix` reaches over their edge.
pub fn mix(mix: &Mix, width: usize, a: &mut [f32], b: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "samples of one size");
    let row_elems = width * NUM_CHANNELS;
    for (y, (a, b)) in a.chunks_exact_mut(row_elems).zip(b.chunks_exact_mut(row_elems)).enumerate() {
        let columns = mix.columns(y);
        let elems = columns.start * NUM_CHANNELS..columns.end * NUM_CHANNELS;
        for (a, b) in a[elems.clone()].iter_mut().zip(&mut b[elems]) {
            (*a, *b) = (mix.blend(*a, *b), mix.blend(*b, *a));
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
    use crate::transform::PixelBox;

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
        collator().sample(&image(), SIZE, &SampleParams::through(*map), &mut out);
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
            collator.resample(Image::new(&source, SIZE, SIZE), &SampleParams::through(map), &mut out);
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
    fn partners_are_mixed_inside_the_box_only() {
        let (own, other) = (sampled(&Affine::IDENTITY), sampled(&Affine::flip(SIZE)));
        for (weight, [left, top, right, bottom]) in
            [(0.25, [0, 0, 7, 7]), (0.0, [2, 1, 5, 4]), (0.0, [3, 3, 3, 6])]
        {
            let rule = Mix { partner: 0, weight, inside: PixelBox { left, top, right, bottom } };
            let (mut a, mut b) = (own.clone(), other.clone());
            mix(&rule, SIZE, &mut a, &mut b);
            for i in 0..own.len() {
                let (x, y) = ((i / 3 % SIZE) as i32, (i / 3 / SIZE) as i32);
                let inside = (left..right).contains(&x) && (top..bottom).contains(&y);
                let share = if inside { weight } else { 1.0 };
                assert_eq!(a[i], share * own[i] + (1.0 - share) * other[i]);
                assert_eq!(b[i], share * other[i] + (1.0 - share) * own[i]);
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
