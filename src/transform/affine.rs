//! The geometry of a sample: an affine map between pixel places.

use bytemuck::{Pod, Zeroable};

/// The map (x, y) -> (xx x + xy y + x0, yx x + yy y + y0) between pixel indices, with whole numbers at pixel centres.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
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

    /// Turns clockwise about the centre of the image, so that an image seen through it is turned anticlockwise.
    pub fn rotation(image_size: usize, degrees: f32) -> Affine {
        let (sin, cos) = f64::from(degrees).to_radians().sin_cos();
        Affine::about_centre(image_size, [[cos, -sin], [sin, cos]])
    }

    /// Slants horizontally about the centre, so that an image seen through it leans right at the top.
    pub fn shear(image_size: usize, degrees: f32) -> Affine {
        Affine::about_centre(image_size, [[1.0, f64::from(degrees).to_radians().tan()], [0.0, 1.0]])
    }

    /// Fills the output with the box of `scale_x` times `scale_y` of the image whose first pixel shows (x0, y0).
    ///
    /// Centres of boxes agree, as in every resize that does not align corners: the box's own upper left corner, half an
    /// output pixel before its first pixel's centre, is at x0 + 0.5 - 0.5 * scale_x in a count from the image's corner.
    pub fn crop([x0, y0]: [f32; 2], [scale_x, scale_y]: [f32; 2]) -> Affine {
        Affine { x: [scale_x, 0.0, x0], y: [0.0, scale_y, y0] }
    }

    /// A linear map that keeps the centre of the image where it is.
    fn about_centre(image_size: usize, [x, y]: [[f64; 2]; 2]) -> Affine {
        let centre = (image_size as f64 - 1.0) / 2.0;
        let row = |[a, b]: [f64; 2]| [a as f32, b as f32, (centre - (a + b) * centre) as f32];
        Affine { x: row(x), y: row(y) }
    }

    /// The map that applies `first` and then this one.
    pub fn after(self, first: Affine) -> Affine {
        let row = |[along_x, along_y, offset]: [f32; 3]| {
            let part = |i: usize| along_x * first.x[i] + along_y * first.y[i];
            [part(0), part(1), part(2) + offset]
        };
        Affine { x: row(self.x), y: row(self.y) }
    }

    /// Whether it takes pixels to pixels.
    pub(super) fn is_whole(&self) -> bool {
        self.x.iter().chain(&self.y).all(|coefficient| coefficient.fract() == 0.0)
    }

    /// Where (x, y) goes.
    #[inline]
    pub fn apply(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x[0] * x + self.x[1] * y + self.x[2], self.y[0] * x + self.y[1] * y + self.y[2])
    }
}
