//! A box of whole pixels of a sample.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

/// The pixels from `left` and `top` up to, and without, `right` and `bottom`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct PixelBox {
    /// First column.
    pub left: i32,
    /// First row.
    pub top: i32,
    /// Column after the last one.
    pub right: i32,
    /// Row after the last one.
    pub bottom: i32,
}

impl PixelBox {
    /// No pixel.
    pub const NONE: PixelBox = PixelBox { left: 0, top: 0, right: 0, bottom: 0 };

    /// A whole image of `size` times `size` pixels.
    pub fn whole(size: usize) -> PixelBox {
        PixelBox { right: size as i32, bottom: size as i32, ..PixelBox::NONE }
    }

    /// Whether there is no pixel in it.
    pub fn is_empty(&self) -> bool {
        self.left >= self.right || self.top >= self.bottom
    }

    /// The number of its pixels.
    pub fn num_pixels(&self) -> i64 {
        if self.is_empty() {
            return 0;
        }
        i64::from(self.right - self.left) * i64::from(self.bottom - self.top)
    }

    /// The columns of row `y` that lie in it, and nothing where it misses the row.
    #[inline]
    pub fn columns(&self, y: usize) -> Range<usize> {
        let inside = !self.is_empty() && (self.top..self.bottom).contains(&(y as i32));
        if inside { self.left as usize..self.right as usize } else { 0..0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_its_columns_row_by_row() {
        let within = |left, top, right, bottom| PixelBox { left, top, right, bottom };
        let columns = |of: PixelBox| (0..9).map(|y| of.columns(y).len()).collect::<Vec<_>>();
        assert_eq!(columns(within(2, 1, 6, 4)), [0, 4, 4, 4, 0, 0, 0, 0, 0]);
        assert_eq!((within(2, 1, 6, 4).columns(3), within(2, 1, 6, 4).num_pixels()), (2..6, 12));
        for empty in [PixelBox::NONE, within(2, 1, 2, 4), within(2, 1, 6, 1), within(6, 4, 2, 1)] {
            assert!(
                empty.is_empty() && empty.num_pixels() == 0 && columns(empty).iter().all(|&len| len == 0)
            );
        }
        assert_eq!(PixelBox::whole(9).num_pixels(), 81);
    }
}
