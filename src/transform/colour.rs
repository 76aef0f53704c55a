//! The colours of a sample: an affine map of red, green and blue.

use bytemuck::{Pod, Zeroable};

use super::{GREY, NUM_CHANNELS};

/// A matrix of three rows over (red, green, blue, 1); what it gives is clamped to 0..=255.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct Colour {
    /// Rows of the resulting red, green and blue.
    pub rows: [[f32; NUM_CHANNELS + 1]; NUM_CHANNELS],
}

impl Colour {
    /// Every colour to itself.
    pub const IDENTITY: Colour =
        Colour { rows: [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]] };

    /// All channels times `factor`.
    pub fn brightness(factor: f32) -> Colour {
        Colour::towards([0.0; 4], factor)
    }

    /// The distance to `grey`, a brightness in 0..=255, times `factor`.
    pub fn contrast(factor: f32, grey: f32) -> Colour {
        Colour::towards([0.0, 0.0, 0.0, grey], factor)
    }

    /// The distance to the pixel's own grey times `factor`.
    pub fn saturation(factor: f32) -> Colour {
        Colour::towards([GREY[0], GREY[1], GREY[2], 0.0], factor)
    }

    /// `factor` of the colour and the rest of what the row `other` gives.
    fn towards(other: [f32; NUM_CHANNELS + 1], factor: f32) -> Colour {
        let mut rows = [other.map(|coefficient| (1.0 - factor) * coefficient); NUM_CHANNELS];
        rows.iter_mut().enumerate().for_each(|(channel, row)| row[channel] += factor);
        Colour { rows }
    }

    /// The matrix that applies `first` and then this one, without clamping between them.
    pub fn after(self, first: Colour) -> Colour {
        let row = |[r, g, b, offset]: [f32; 4]| {
            let part = |i: usize| r * first.rows[0][i] + g * first.rows[1][i] + b * first.rows[2][i];
            [part(0), part(1), part(2), part(3) + offset]
        };
        Colour { rows: self.rows.map(row) }
    }

    /// What becomes of a colour.
    #[inline]
    pub fn apply(&self, [r, g, b]: [f32; NUM_CHANNELS]) -> [f32; NUM_CHANNELS] {
        self.rows
            .map(|[of_r, of_g, of_b, offset]| (of_r * r + of_g * g + of_b * b + offset).clamp(0.0, 255.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_keep_what_they_turn_about_and_are_clamped() {
        let close = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 0.02);
        assert!(close(Colour::contrast(0.3, 90.0).apply([90.0; 3]), [90.0; 3]));
        assert!(close(Colour::saturation(0.0).apply([100.0; 3]), [99.99; 3]));
        let both = Colour::contrast(2.0, 50.0).after(Colour::brightness(0.5));
        assert!(close(both.apply([100.0, 0.0, 255.0]), [50.0, 0.0, 205.0]));
        assert_eq!(Colour::brightness(3.0).apply([100.0, 0.0, 80.0]), [255.0, 0.0, 240.0]);
    }
}
