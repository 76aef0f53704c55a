//! From the bytes of an image file to square RGB pixels of the wanted size.
//!
//! The format is told by content, not by extension. A decoder that panics is an error about that file, and so is a
//! JPEG that ends early, which decoders otherwise fill up with grey.

use std::borrow::Cow;
use std::io::Cursor;
use std::panic;
use std::path::Path;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::jpeg;
use crate::error::{Error, Result};
use crate::regular_file;

/// Increases whenever the same file would give other pixels, so that packs made before are not used any more.
pub(super) const VERSION: u32 = 4;
/// Longer files are no photos. A decoder holds all of a file, and `image` limits what it makes of it to as much.
const MAX_FILE_BYTES: usize = 512 << 20;
/// An image that is more times longer than wide is cut to this before it is scaled: it would take memory by its length
/// times the size asked for, of which the square keeps next to nothing. The rest is more than scaling looks at.
const MAX_ASPECT: u32 = 8;

/// How a photo becomes a square: its shorter side is scaled to `resize` pixels, and the middle is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crop {
    /// Height and width of the square.
    pub size: usize,
    /// Pixels of the shorter side before the middle is taken, at least `size`.
    pub resize: usize,
}

impl Crop {
    /// As much of the photo as a square holds.
    pub fn whole(size: usize) -> Crop {
        Crop { size, resize: size }
    }
}

impl From<usize> for Crop {
    fn from(size: usize) -> Crop {
        Crop::whole(size)
    }
}

/// The pixels of the image file at `path`, JPEG, PNG, WebP, BMP, GIF (first picture) or TIFF, as
/// `image_size * image_size * 3` bytes, HWC.
///
/// An EXIF orientation is applied. The shorter side is scaled to `image_size` (cubic, anti-aliased; untouched where it
/// already has that size) and the middle of the longer side is kept; of an image more than eight times longer than wide,
/// only the middle is scaled. Grey, palette and CMYK images become RGB; transparency is dropped.
///
/// # Errors
/// [`Error::Data`] if the file is no regular one, is empty, ends early, or cannot be decoded; [`Error::Io`] if it cannot
/// be read.
pub fn decode_image(path: &Path, image_size: usize) -> Result<Vec<u8>> {
    let mut pixels = vec![0; image_size * image_size * 3];
    decode_into(path, Crop::whole(image_size), &mut pixels)?;
    Ok(pixels)
}

/// [`decode_image`] for several squares of one photo, in their order.
///
/// # Errors
/// As [`decode_image`].
pub fn decode_crops(path: &Path, crops: &[Crop]) -> Result<Vec<Vec<u8>>> {
    let (_, decoded) = read_and_decode(path)?;
    Ok(crops.iter().map(|&crop| fit(&decoded, crop)).collect())
}

/// One square of [`decode_crops`] into `pixels`.
pub(super) fn decode_into(path: &Path, crop: Crop, pixels: &mut [u8]) -> Result<()> {
    let (_, decoded) = read_and_decode(path)?;
    pixels.copy_from_slice(&fit(&decoded, crop));
    Ok(())
}

/// The bytes of the file at `path` and the image that they are, at its own size.
///
/// # Errors
/// As [`decode_image`].
pub(super) fn read_and_decode(path: &Path) -> Result<(Vec<u8>, RgbImage)> {
    let bytes = regular_file::read(path, MAX_FILE_BYTES)?;
    let decoded = careful(path, || decode_bytes(&bytes))?;
    Ok((bytes, decoded))
}

/// Width and height of the image in the file at `path` as it is shown, from its header.
///
/// # Errors
/// [`Error::Data`] if it is of no format that is read or has no sound header; [`Error::Io`] if it cannot be read.
pub fn dimensions(path: &Path) -> Result<(u32, u32)> {
    let bytes = regular_file::read(path, MAX_FILE_BYTES)?;
    careful(path, || {
        let mut decoder = open_decoder(&bytes)?;
        let (width, height) = decoder.dimensions();
        Ok(match orientation(&mut decoder) {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
            _ => (width, height),
        })
    })
}

/// What `work` on the file at `path` comes to; a panic is an error about that file, and so is a reason why not.
fn careful<T>(
    path: &Path,
    work: impl FnOnce() -> std::result::Result<T, String> + panic::UnwindSafe,
) -> Result<T> {
    panic::catch_unwind(work)
        .unwrap_or_else(|_| Err("the decoder panicked on it".into()))
        .map_err(|reason| Error::data(path, reason))
}

/// Decodes `bytes` to RGB at their own size, the right way up; the error is the reason why not.
fn decode_bytes(bytes: &[u8]) -> std::result::Result<RgbImage, String> {
    let mut decoder = open_decoder(bytes)?;
    let orientation = orientation(&mut decoder);
    let limited = |decoder: &mut dyn ImageDecoder| {
        let mut limits = Limits::default();
        limits.reserve(decoder.total_bytes())?;
        decoder.set_limits(limits)
    };
    let decoded = limited(&mut decoder).and_then(|()| DynamicImage::from_decoder(decoder));
    let mut decoded = DynamicImage::from(decoded.map_err(|error| error.to_string())?.into_rgb8());
    decoded.apply_orientation(orientation);
    if decoded.width() == 0 || decoded.height() == 0 {
        return Err("the image has no pixels".into());
    }
    Ok(decoded.into_rgb8())
}

/// A decoder that has read the header of `bytes`.
fn open_decoder(bytes: &[u8]) -> std::result::Result<impl ImageDecoder + '_, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let format = match image::guess_format(bytes) {
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Bmp
            | ImageFormat::Gif
            | ImageFormat::Tiff),
        ) => format,
        // The container of HEIC and AVIF, which phones write.
        _ if bytes.get(4..8) == Some(b"ftyp") => return Err("is HEIC or AVIF; convert it to JPEG".into()),
        _ => return Err("is no JPEG, PNG, WebP, BMP, GIF or TIFF image".into()),
    };
    if format == ImageFormat::Jpeg {
        jpeg::expect_whole(bytes)?;
    }
    ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(|error| error.to_string())
}

/// How the image is to be turned to be shown, as cameras say that did not turn the pixels (EXIF). What cannot be read
/// says nothing.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

/// How an image becomes a square: of its middle, the shorter side is scaled, and the middle of the longer one is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit {
    /// Where the part that is scaled begins, and its extents: all of an image that is not very thin.
    origin: (u32, u32),
    part: (u32, u32),
    scaled: (u32, u32),
    corner: (u32, u32),
}

impl Fit {
    /// For an image of these extents, width first.
    pub(super) fn new(original: (u32, u32), crop: Crop) -> Fit {
        let [size, resize] = [crop.size, crop.resize].map(|pixels| pixels as u32);
        let shorter = original.0.min(original.1).max(1);
        let longest = shorter.saturating_mul(MAX_ASPECT);
        // A multiple of the shorter side is scaled without rounding; as much of it is cut off at both ends.
        let part_of = |side: u32| if side <= longest { side } else { shorter * (MAX_ASPECT - side % 2) };
        let part = (part_of(original.0), part_of(original.1));
        let scale = |side: u32| {
            let exact = u64::from(side) * u64::from(resize);
            ((exact + u64::from(shorter) / 2) / u64::from(shorter)) as u32
        };
        let scaled = (scale(part.0), scale(part.1));
        let margin = |side: u32| side.saturating_sub(size) / 2;
        Fit {
            origin: ((original.0 - part.0) / 2, (original.1 - part.1) / 2),
            part,
            scaled,
            corner: (margin(scaled.0), margin(scaled.1)),
        }
    }

    /// Where a place in the image comes to lie in the square; both count from the centre of the first pixel.
    pub(super) fn place(&self, x: f32, y: f32) -> [f32; 2] {
        let along = |place: f32, origin: u32, scaled: u32, part: u32, corner: u32| {
            (place - origin as f32 + 0.5) * (scaled as f32 / part.max(1) as f32) - 0.5 - corner as f32
        };
        [
            along(x, self.origin.0, self.scaled.0, self.part.0, self.corner.0),
            along(y, self.origin.1, self.scaled.1, self.part.1, self.corner.1),
        ]
    }
}

/// The square of `image` that `crop` says.
fn fit(image: &RgbImage, crop: Crop) -> Vec<u8> {
    let Fit { origin, part, scaled: (width, height), corner: (left, top) } =
        Fit::new(image.dimensions(), crop);
    let image = if image.dimensions() == part {
        Cow::Borrowed(image)
    } else {
        Cow::Owned(imageops::crop_imm(image, origin.0, origin.1, part.0, part.1).to_image())
    };
    let scaled = if image.dimensions() == (width, height) {
        image
    } else {
        Cow::Owned(imageops::resize(&*image, width, height, FilterType::CatmullRom))
    };
    let size = crop.size as u32;
    if scaled.dimensions() == (size, size) {
        return scaled.into_owned().into_raw();
    }
    imageops::crop_imm(&*scaled, left, top, size, size).to_image().into_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 9) as u8, (y * 7) as u8, (x * y) as u8]))
    }

    #[test]
    fn the_middle_of_the_longer_side_is_kept() {
        let wide = gradient(11, 6);
        let pixels = fit(&wide, Crop::whole(6));
        let expected = RgbImage::from_fn(6, 6, |x, y| *wide.get_pixel(x + 2, y));
        assert_eq!(pixels, expected.into_raw());
        for (width, height) in [(6, 11), (5, 40), (300, 7), (1, 1)] {
            assert_eq!(fit(&gradient(width, height), Crop::whole(6)).len(), 6 * 6 * 3);
        }
    }

    #[test]
    fn a_thin_image_is_cut_before_it_is_scaled_and_looks_the_same() {
        let wave =
            |x: u32, y: u32| image::Rgb([(128.0 + 100.0 * (x as f32 * 0.7).sin()) as u8, 77, (40 * y) as u8]);
        for (longer, shorter, size) in [(40, 1, 7), (41, 1, 7), (99, 3, 5), (402, 3, 2), (207, 9, 4)] {
            let thin = RgbImage::from_fn(longer, shorter, wave);
            let scaled = imageops::resize(
                &thin,
                (longer * size + shorter / 2) / shorter,
                size,
                FilterType::CatmullRom,
            );
            let left = (scaled.width() - size) / 2;
            let expected = imageops::crop_imm(&scaled, left, 0, size, size).to_image();
            let whole = Crop::whole(size as usize);
            let upright = fit(&imageops::rotate90(&thin), whole);
            let upright = imageops::rotate270(&RgbImage::from_raw(size, size, upright).unwrap()).into_raw();
            for pixels in [fit(&thin, whole), upright] {
                for (got, want) in pixels.iter().zip(expected.as_raw()) {
                    assert!(got.abs_diff(*want) <= 1, "{longer} x {shorter}: {pixels:?}, not {expected:?}");
                }
            }
        }
        let ends_of = |length: u32| Fit::new((length, 1), Crop::whole(128)).scaled;
        assert_eq!((ends_of(500_001), ends_of(u32::MAX)), ((7 * 128, 128), (7 * 128, 128)));
    }

    #[test]
    fn the_middle_of_a_scaled_image_is_kept() {
        let image = gradient(22, 12);
        let scaled = imageops::resize(&image, 18, 10, FilterType::CatmullRom);
        let expected = imageops::crop_imm(&scaled, 6, 2, 6, 6).to_image().into_raw();
        assert_eq!(fit(&image, Crop { size: 6, resize: 10 }), expected);
        assert_eq!(Fit::new((20, 10), Crop { size: 6, resize: 10 }).place(7.0, 2.0), [0.0, 0.0]);
    }

    #[test]
    fn a_flat_image_stays_flat_when_scaled() {
        let flat = RgbImage::from_pixel(29, 31, image::Rgb([200, 3, 77]));
        assert!(fit(&flat, Crop::whole(12)).chunks(3).all(|pixel| pixel == [200, 3, 77]));
    }

    #[test]
    fn places_follow_their_pixels_through_scaling_and_cropping() {
        let same = Fit::new((128, 128), Crop::whole(128));
        assert_eq!(same.place(0.0, 127.0), [0.0, 127.0]);
        // Two pixels become one; the middle 6 of 11 columns stay.
        assert_eq!(Fit::new((22, 12), Crop::whole(6)).place(4.5, 0.5), [0.0, 0.0]);
        // Of 100 columns, 46 to 53 are scaled to 32; the square is columns 14 to 17 of these.
        assert_eq!(Fit::new((100, 1), Crop::whole(4)).place(49.5, 0.0), [1.5, 1.5]);
        // The corners of the image stay its corners.
        assert_eq!(Fit::new((128, 128), Crop::whole(32)).place(-0.5, 127.5), [-0.5, 31.5]);
    }
}
