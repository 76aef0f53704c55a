//! Two samples of a batch in one image: mixup and cutmix.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

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
    /// First column of the box.
    pub left: i32,
    /// First row of the box.
    pub top: i32,
    /// Column after the last one of the box.
    pub right: i32,
    /// Row after the last one of the box.
    pub bottom: i32,
}

impl Mix {
    /// The own sample alone.
    pub const NONE: Mix = Mix { partner: 0, weight: 1.0, left: 0, top: 0, right: 0, bottom: 0 };

    /// Whether there is anything of the other sample.
    pub fn is_none(&self) -> bool {
        self.weight >= 1.0 || self.left >= self.right || self.top >= self.bottom
    }

    /// The share of the own sample in an image of that many pixels: the weight of its label.
    pub fn own_share(&self, num_pixels: usize) -> f32 {
        if self.is_none() {
            return 1.0;
        }
        let area = (i64::from(self.right - self.left) * i64::from(self.bottom - self.top)) as f32;
        1.0 - (1.0 - self.weight) * (area / num_pixels as f32)
    }

    /// The columns of row `y` that lie in the box, and nothing where it misses the row.
    pub fn columns(&self, y: usize) -> Range<usize> {
        let inside = !self.is_none() && (self.top..self.bottom).contains(&(y as i32));
        if inside { self.left as usize..self.right as usize } else { 0..0 }
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
        let mix = |weight, right, bottom| Mix { partner: 1, weight, left: 2, top: 1, right, bottom };
        assert_eq!(mix(0.0, 6, 4).own_share(100), 0.88);
        assert_eq!(mix(0.5, 12, 11).own_share(100), 0.5);
        for nothing in [Mix::NONE, mix(1.0, 6, 4), mix(0.0, 2, 4), mix(0.0, 6, 1)] {
            assert!(nothing.is_none());
            assert_eq!((nothing.own_share(100), nothing.columns(2)), (1.0, 0..0));
        }
        assert_eq!((mix(0.0, 6, 4).columns(3), mix(0.0, 6, 4).columns(4)), (2..6, 0..0));
    }
}
