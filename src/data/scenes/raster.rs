//! Anti-aliased polygon fill, even-odd, onto an RGB canvas in f32.

/// Scan lines per pixel row; coverage along a row is exact, across rows it is the mean of these.
const SUBROWS: usize = 4;

/// A square RGB image of floats in 0..255, HWC, that polygons are painted onto.
pub(super) struct Canvas {
    size: usize,
    pixels: Vec<[f32; 3]>,
    coverage: Vec<f32>,
    crossings: Vec<f32>,
}

impl Canvas {
    /// A black canvas of `size` by `size` pixels.
    pub(super) fn new(size: usize) -> Canvas {
        let crossings = Vec::with_capacity(16);
        Canvas { size, pixels: vec![[0.0; 3]; size * size], coverage: vec![0.0; size], crossings }
    }

    /// The pixels, row by row.
    pub(super) fn pixels(&self) -> &[[f32; 3]] {
        &self.pixels
    }

    /// Paints `polygon`, corners (x, y) in 0..1 from the top left, fading from colour `top` at its highest corner to
    /// `bottom` at its lowest.
    pub(super) fn fill(&mut self, polygon: &[(f32, f32)], top: [f32; 3], bottom: [f32; 3]) {
        let (low, high) =
            polygon.iter().fold((f32::MAX, f32::MIN), |(low, high), &(_, y)| (low.min(y), high.max(y)));
        let scale = self.size as f32;
        let first = (low * scale).floor().max(0.0) as usize;
        let end = ((high * scale).ceil().max(0.0) as usize).min(self.size);
        for row in first..end {
            self.coverage.fill(0.0);
            for subrow in 0..SUBROWS {
                let y = (row as f32 + (subrow as f32 + 0.5) / SUBROWS as f32) / scale;
                self.add_scan_line(polygon, y);
            }
            let depth = (((row as f32 + 0.5) / scale - low) / (high - low).max(1e-6)).clamp(0.0, 1.0);
            let colour: [f32; 3] = std::array::from_fn(|c| top[c] + depth * (bottom[c] - top[c]));
            let pixels = &mut self.pixels[row * self.size..(row + 1) * self.size];
            for (pixel, &coverage) in pixels.iter_mut().zip(&self.coverage) {
                for (value, colour) in pixel.iter_mut().zip(colour) {
                    *value += coverage * (colour - *value);
                }
            }
        }
    }

    /// Adds to the row's coverage the spans of `polygon` at height `y`.
    fn add_scan_line(&mut self, polygon: &[(f32, f32)], y: f32) {
        self.crossings.clear();
        let next = polygon.iter().cycle().skip(1);
        for (&(x0, y0), &(x1, y1)) in polygon.iter().zip(next) {
            if (y0 <= y) != (y1 <= y) {
                self.crossings.push(x0 + (y - y0) / (y1 - y0) * (x1 - x0));
            }
        }
        self.crossings.sort_unstable_by(f32::total_cmp);
        let limit = self.size as f32;
        for span in self.crossings.chunks_exact(2) {
            let (from, to) = ((span[0] * limit).clamp(0.0, limit), (span[1] * limit).clamp(0.0, limit));
            for x in from as usize..to.ceil() as usize {
                let covered = to.min((x + 1) as f32) - from.max(x as f32);
                self.coverage[x] += covered / SUBROWS as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(polygon: &[(f32, f32)]) -> f32 {
        let mut canvas = Canvas::new(20);
        canvas.fill(polygon, [1.0; 3], [1.0; 3]);
        canvas.pixels().iter().map(|pixel| pixel[1]).sum::<f32>() / 400.0
    }

    #[test]
    fn coverage_adds_up_to_the_area() {
        let cases: [(&[(f32, f32)], f32); 4] = [
            (&[(0.1, 0.2), (0.6, 0.2), (0.6, 0.5), (0.1, 0.5)], 0.15),
            (&[(0.13, 0.2), (0.77, 0.2), (0.45, 0.7)], 0.16),
            // Half of it lies outside.
            (&[(-0.5, 0.25), (0.5, 0.25), (0.5, 0.75), (-0.5, 0.75)], 0.25),
            // The crossing of a bow tie leaves two triangles.
            (&[(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)], 0.5),
        ];
        for (polygon, expected) in cases {
            let got = area(polygon);
            assert!((got - expected).abs() < 2e-3, "{polygon:?}: {got} instead of {expected}");
        }
    }

    #[test]
    fn colours_fade_from_top_to_bottom() {
        let mut canvas = Canvas::new(4);
        canvas.fill(&[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)], [0.0; 3], [80.0, 40.0, 0.0]);
        let column: Vec<f32> = canvas.pixels().iter().step_by(4).map(|pixel| pixel[0]).collect();
        assert_eq!(column, [10.0, 30.0, 50.0, 70.0]);
    }
}
