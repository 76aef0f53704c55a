//! Two samples of a batch in one image: mixup and cutmix.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::PixelBox;

/// How another sample of the batch shows through: inside a box, own * weight + partner * (1 - weight).
///
/// The box is the whole image for mixup and part of it, with weight 0, for cutmix.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct Mix {
    /// Row of the other sample in the batch.
    pub partner: i32,
    /// Share of the own sample inside the box.
    pub weight: f32,
    /// Where the other sample shows through.
    pub inside: PixelBox,
}

impl Mix {
    /// The own sample alone.
    pub const NONE: Mix = Mix { partner: 0, weight: 1.0, inside: PixelBox::NONE };

    /// Whether there is anything of the other sample.
    pub fn is_none(&self) -> bool {
        self.weight >= 1.0 || self.inside.is_empty()
    }

    /// The share of the own sample in an image of that many pixels: the weight of its label.
    pub fn own_share(&self, num_pixels: usize) -> f32 {
        if self.is_none() {
            return 1.0;
        }
        1.0 - (1.0 - self.weight) * (self.inside.num_pixels() as f32 / num_pixels as f32)
    }

    /// The columns of row `y` that lie in the box, and nothing where it misses the row.
    pub fn columns(&self, y: usize) -> Range<usize> {
        if self.is_none() { 0..0 } else { self.inside.columns(y) }
    }

    /// A normalised value of the own sample mixed with that of the other.
    #[inline]
    pub fn blend(&self, own: f32, partner: f32) -> f32 {
        own * self.weight + partner * (1.0 - self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_of_a_label_is_the_share_of_its_image() {
        let mix = |weight, right, bottom| {
            let inside = PixelBox { left: 2, top: 1, right, bottom };
            Mix { partner: 1, weight, inside }
        };
        assert_eq!(mix(0.0, 6, 4).own_share(100), 0.88);
        assert_eq!(mix(0.5, 12, 11).own_share(100), 0.5);
        for nothing in [Mix::NONE, mix(1.0, 6, 4), mix(0.0, 2, 4), mix(0.0, 6, 1)] {
            assert!(nothing.is_none());
            assert_eq!((nothing.own_share(100), nothing.columns(2)), (1.0, 0..0));
        }
        assert_eq!((mix(0.0, 6, 4).columns(3), mix(0.0, 6, 4).columns(4)), (2..6, 0..0));
    }
}
