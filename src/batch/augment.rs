//! What may happen to a training image, and what does happen to one sample of it.
//!
//! A policy ([`Augment`]) draws a parameter set ([`Augmentation`]) per sample. Geometric augmentations compose into one
//! inverse affine map, from output pixel to source pixel, so that an image is resampled once however many there are.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::rng::Stream;

/// The largest shift as a fraction of the image's side: 20 pixels of 128.
const MAX_SHIFT: f32 = 20.0 / 128.0;

/// The augmentations by the names `--augment` takes.
const KINDS: [(&str, Kind); 2] = [("flip", Kind::Flip), ("shift", Kind::Shift)];

#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Kind {
    /// Mirrored left to right with probability one half.
    Flip,
    /// Moved by a whole number of pixels, each within the limit equally likely.
    Shift,
}

/// Which augmentations are on, as `--augment` gives them: `none`, or names joined by commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Augment {
    enabled: u32,
}

impl Augment {
    /// No augmentation.
    pub const NONE: Augment = Augment { enabled: 0 };

    fn has(self, kind: Kind) -> bool {
        self.enabled & (1 << kind as u32) != 0
    }

    /// Draws what happens to one sample of `image_size` pixels a side.
    ///
    /// Every kind takes its numbers from `stream` whether it is on or not, so a sample that flips does so whatever else
    /// is on.
    pub fn draw(self, image_size: usize, stream: &mut Stream) -> Augmentation {
        let flips = stream.uniform() < 0.5;
        let limit = (image_size as f32 * MAX_SHIFT).round() as i32;
        let (dx, dy) = {
            let mut offset = || stream.below(2 * limit as u32 + 1) as i32 - limit;
            (offset(), offset())
        };
        let mut inverse = Affine::IDENTITY;
        if self.has(Kind::Flip) && flips {
            inverse = inverse.after(Affine::flip(image_size));
        }
        if self.has(Kind::Shift) {
            inverse = inverse.after(Affine::translation(-dx as f32, -dy as f32));
        }
        Augmentation { inverse }
    }
}

impl FromStr for Augment {
    type Err = Error;

    /// # Errors
    /// [`Error::Usage`] listing the known names if one is not known.
    fn from_str(text: &str) -> Result<Augment> {
        if text.trim() == "none" {
            return Ok(Augment::NONE);
        }
        let mut enabled = 0;
        for name in text.split(',').map(str::trim) {
            let (_, kind) = KINDS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
                let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
                Error::Usage(format!(
                    "--augment: unknown augmentation `{name}`; give `none` or a list of {}, as in `{}`",
                    known.join(", "),
                    known.join(",")
                ))
            })?;
            enabled |= 1 << *kind as u32;
        }
        Ok(Augment { enabled })
    }
}

impl fmt::Display for Augment {
    /// What [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            KINDS.iter().filter(|(_, kind)| self.has(*kind)).map(|(name, _)| *name).collect();
        f.pad(&if names.is_empty() { "none".into() } else { names.join(",") })
    }
}

/// What happens to one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augmentation {
    /// From a pixel of the output to the place in the source that it shows.
    pub inverse: Affine,
}

impl Augmentation {
    /// The image as it is.
    pub const NONE: Augmentation = Augmentation { inverse: Affine::IDENTITY };
}

/// The map (x, y) -> (xx x + xy y + x0, yx x + yy y + y0) between pixel indices, with whole numbers at pixel centres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Coefficients of the resulting x: xx, xy, x0.
    pub x: [f32; 3],
    /// Coefficients of the resulting y: yx, yy, y0.
    pub y: [f32; 3],
}

impl Affine {
    /// Every pixel to itself.
    pub const IDENTITY: Affine = Affine { x: [1.0, 0.0, 0.0], y: [0.0, 1.0, 0.0] };

    /// Mirrors left and right.
    pub fn flip(image_size: usize) -> Affine {
        Affine { x: [-1.0, 0.0, image_size as f32 - 1.0], y: [0.0, 1.0, 0.0] }
    }

    /// Moves by (dx, dy).
    pub fn translation(dx: f32, dy: f32) -> Affine {
        Affine { x: [1.0, 0.0, dx], y: [0.0, 1.0, dy] }
    }

    /// The map that applies `first` and then this one.
    pub fn after(self, first: Affine) -> Affine {
        let row = |[along_x, along_y, offset]: [f32; 3]| {
            let part = |i: usize| along_x * first.x[i] + along_y * first.y[i];
            [part(0), part(1), part(2) + offset]
        };
        Affine { x: row(self.x), y: row(self.y) }
    }

    /// Where (x, y) goes.
    pub fn apply(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x[0] * x + self.x[1] * y + self.x[2], self.y[0] * x + self.y[1] * y + self.y[2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Use;

    #[test]
    fn policies_are_read_and_printed() {
        for text in ["none", "flip", "shift", "flip,shift"] {
            assert_eq!(text.parse::<Augment>().unwrap().to_string(), text);
        }
        assert_eq!("shift, flip".parse::<Augment>().unwrap().to_string(), "flip,shift");
        for text in ["flop", "", "flip,none", "flip,,shift"] {
            let error = text.parse::<Augment>().unwrap_err();
            assert!(matches!(error, Error::Usage(_)) && error.to_string().contains("flip, shift"), "{error}");
        }
    }

    #[test]
    fn maps_compose_in_the_stated_order() {
        let turn = Affine { x: [0.0, -1.0, 4.0], y: [1.0, 0.0, 0.5] };
        let (flip, shift) = (Affine::flip(9), Affine::translation(2.0, -3.0));
        let (x, y) = flip.apply(1.5, 6.0);
        let (x, y) = shift.apply(x, y);
        assert_eq!(turn.after(shift).after(flip).apply(1.5, 6.0), turn.apply(x, y));
    }

    #[test]
    fn half_the_samples_flip_and_shifts_fill_their_range() {
        let policy: Augment = "flip,shift".parse().unwrap();
        let drawn: Vec<Affine> =
            (0..4000).map(|i| policy.draw(32, &mut Stream::new(9, 2, i, Use::Augment)).inverse).collect();
        let num_flipped = drawn.iter().filter(|map| map.x[0] < 0.0).count();
        assert!((1850..2150).contains(&num_flipped), "{num_flipped} of 4000");
        for offset in -5..=5 {
            assert!(drawn.iter().any(|map| map.y[2] == offset as f32), "never moved by {offset}");
        }
        assert!(drawn.iter().all(|map| map.y[2].abs() <= 5.0));
    }

    #[test]
    fn a_sample_flips_whatever_else_is_on() {
        let draw = |policy: &str, sample| {
            let policy: Augment = policy.parse().unwrap();
            policy.draw(64, &mut Stream::new(1, 0, sample, Use::Augment)).inverse
        };
        for sample in 0..50 {
            assert_eq!(draw("flip", sample).x[0], draw("flip,shift", sample).x[0]);
            assert_eq!(draw("shift", sample).y[2], draw("flip,shift", sample).y[2]);
        }
    }
}
