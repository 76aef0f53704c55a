//! Pictures with words: photos, boxes, lines and text on a grid of pixels, written as PNG.

use std::convert::Infallible;
use std::io::Cursor;

use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_9X15};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::prelude::{Dimensions, DrawTarget, Drawable, Pixel, Point, Primitive, Size};
use embedded_graphics::primitives::{Line, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};
use image::{ImageFormat, Rgb, RgbImage};

/// Red, green and blue, 0 to 255.
pub type Color = [u8; 3];

/// Height of letters. Latin-1 characters are drawn; others show as a question mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextSize {
    /// Letters of 6 by 10 pixels.
    Small,
    /// Letters of 9 by 15 pixels.
    Large,
}

impl TextSize {
    fn font(self) -> &'static MonoFont<'static> {
        match self {
            TextSize::Small => &FONT_6X10,
            TextSize::Large => &FONT_9X15,
        }
    }

    /// Width of `text` in pixels.
    pub fn width(self, text: &str) -> u32 {
        text.chars().count() as u32 * self.font().character_size.width
    }

    /// Height of a line in pixels.
    pub fn height(self) -> u32 {
        self.font().character_size.height
    }
}

/// A picture being drawn. Places are (x, y) in pixels from the upper left; what lies outside is left out.
#[derive(Debug, Clone)]
pub struct Canvas {
    image: RgbImage,
}

impl Canvas {
    /// A picture of `width` by `height` pixels in one colour.
    ///
    /// # Panics
    /// If either is 0.
    pub fn new(width: u32, height: u32, background: Color) -> Canvas {
        assert!(width > 0 && height > 0, "a picture has pixels");
        Canvas { image: RgbImage::from_pixel(width, height, Rgb(background)) }
    }

    /// Its extents, width first.
    pub fn size(&self) -> (u32, u32) {
        self.image.dimensions()
    }

    /// Draws an image, HWC u8 with three channels and `image_width` pixels a row, each of them as a square of `zoom`
    /// pixels a side.
    ///
    /// # Panics
    /// If `pixels` are not whole rows.
    pub fn image(&mut self, (x, y): (i32, i32), pixels: &[u8], image_width: usize, zoom: u32) {
        let (pixels, rest) = pixels.as_chunks::<3>();
        assert!(rest.is_empty() && pixels.len().is_multiple_of(image_width), "whole rows of RGB pixels");
        for (index, color) in pixels.iter().enumerate() {
            let (column, row) = ((index % image_width) as i32, (index / image_width) as i32);
            self.rectangle((x + column * zoom as i32, y + row * zoom as i32), (zoom, zoom), *color);
        }
    }

    /// Fills a rectangle of `size` (width, height).
    pub fn rectangle(&mut self, (x, y): (i32, i32), (width, height): (u32, u32), color: Color) {
        let Ok(()) = Rectangle::new(Point::new(x, y), Size::new(width, height))
            .into_styled(PrimitiveStyle::with_fill(rgb(color)))
            .draw(self);
    }

    /// A line of one pixel's width.
    pub fn line(&mut self, (x0, y0): (i32, i32), (x1, y1): (i32, i32), color: Color) {
        let Ok(()) = Line::new(Point::new(x0, y0), Point::new(x1, y1))
            .into_styled(PrimitiveStyle::with_stroke(rgb(color), 1))
            .draw(self);
    }

    /// Writes a line of text whose upper left corner is given.
    pub fn text(&mut self, (x, y): (i32, i32), text: &str, size: TextSize, color: Color) {
        let style = MonoTextStyle::new(size.font(), rgb(color));
        let Ok(_) = Text::with_baseline(text, Point::new(x, y), style, Baseline::Top).draw(self);
    }

    /// Writes a line of text that runs upwards, as next to an axis. Its lower left corner is given; it is as wide as text is
    /// high.
    pub fn text_upwards(&mut self, (x, y): (i32, i32), text: &str, size: TextSize, color: Color) {
        let style = MonoTextStyle::new(size.font(), rgb(color));
        let mut turned = Turned { canvas: self, corner: Point::new(x, y) };
        let Ok(_) = Text::with_baseline(text, Point::zero(), style, Baseline::Top).draw(&mut turned);
    }

    /// The picture as a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        self.image.write_to(&mut file, ImageFormat::Png).expect("memory takes a PNG");
        file.into_inner()
    }
}

impl Dimensions for Canvas {
    fn bounding_box(&self) -> Rectangle {
        let (width, height) = self.size();
        Rectangle::new(Point::zero(), Size::new(width, height))
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(at, color) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y)) else { continue };
            if let Some(pixel) = self.image.get_pixel_mut_checked(x, y) {
                *pixel = Rgb([color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

/// A canvas turned to the left about a corner: what is drawn to the right runs upwards.
struct Turned<'a> {
    canvas: &'a mut Canvas,
    corner: Point,
}

impl Dimensions for Turned<'_> {
    fn bounding_box(&self) -> Rectangle {
        let (width, height) = self.canvas.size();
        Rectangle::new(Point::zero(), Size::new(height, width))
    }
}

impl DrawTarget for Turned<'_> {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        let corner = self.corner;
        let turned = |Pixel(at, color)| Pixel(Point::new(corner.x + at.y, corner.y - 1 - at.x), color);
        self.canvas.draw_iter(pixels.into_iter().map(turned))
    }
}

fn rgb([red, green, blue]: Color) -> Rgb888 {
    Rgb888::new(red, green, blue)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHITE: Color = [255; 3];
    const RED: Color = [255, 0, 0];

    fn decoded(canvas: &Canvas) -> RgbImage {
        image::load_from_memory(&canvas.to_png()).unwrap().to_rgb8()
    }

    #[test]
    fn images_are_zoomed_and_clipped() {
        let mut canvas = Canvas::new(5, 4, WHITE);
        canvas.image((-1, 1), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 2, 2);
        let image = decoded(&canvas);
        let row = |y| (0..5).map(|x| image.get_pixel(x, y).0[0]).collect::<Vec<_>>();
        assert_eq!(row(0), [255; 5]);
        assert_eq!(row(1), [1, 4, 4, 255, 255]);
        assert_eq!(row(3), [7, 10, 10, 255, 255]);
    }

    #[test]
    fn text_fills_the_box_it_says() {
        for size in [TextSize::Small, TextSize::Large] {
            let text = "Wqàj";
            let mut canvas = Canvas::new(100, 40, WHITE);
            canvas.text((7, 9), text, size, RED);
            let image = decoded(&canvas);
            let inked = image.enumerate_pixels().filter(|(.., pixel)| pixel.0 == RED);
            let places: Vec<(u32, u32)> = inked.map(|(x, y, _)| (x, y)).collect();
            assert!(places.len() > 40, "{}", places.len());
            let (right, bottom) = (7 + size.width(text), 9 + size.height());
            assert!(places.iter().all(|&(x, y)| x >= 7 && y >= 9 && x < right && y < bottom));
        }
    }

    #[test]
    fn text_upwards_is_text_turned() {
        let (mut level, mut upwards) = (Canvas::new(40, 20, WHITE), Canvas::new(20, 40, WHITE));
        level.text((3, 5), "Fly", TextSize::Large, RED);
        upwards.text_upwards((5, 37), "Fly", TextSize::Large, RED);
        let (level, upwards) = (decoded(&level), decoded(&upwards));
        assert!(level.enumerate_pixels().all(|(x, y, pixel)| upwards.get_pixel(y, 39 - x) == pixel));
        assert!(level.pixels().any(|pixel| pixel.0 == RED));
    }

    #[test]
    fn lines_reach_both_ends() {
        let mut canvas = Canvas::new(9, 9, WHITE);
        canvas.line((1, 7), (6, 2), RED);
        let image = decoded(&canvas);
        assert_eq!(image.get_pixel(1, 7).0, RED);
        assert_eq!(image.get_pixel(6, 2).0, RED);
        assert_eq!(image.get_pixel(0, 0).0, WHITE);
    }
}
