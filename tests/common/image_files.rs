//! Images on disk, and what is said of data that cannot be used.

use std::fs;
use std::path::Path;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use residuum::Result;
use residuum::data::{self, Dataset, OpenOptions, Pack};

/// The data set at `root`.
pub fn open(root: &Path) -> Result<Dataset> {
    data::open(root, &OpenOptions::default())
}

/// The message of a data error, and proof that it is one.
pub fn data_error<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    error.to_string()
}

/// Checks that `message` has all of these parts.
#[track_caller]
pub fn assert_mentions(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// An image of which every pixel differs from its neighbours.
pub fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 10) as u8, (y * 10) as u8, 128]))
}

/// Writes `image` to `path`, whose folder is made.
pub fn save(image: impl Into<DynamicImage>, path: &Path, format: ImageFormat) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.into().save_with_format(path, format).unwrap();
}

/// The pixels of every image of `pack`.
pub fn all_pixels(pack: &Pack) -> Vec<Vec<u8>> {
    (0..pack.len()).map(|index| pack.pixels(index, &mut Vec::new()).unwrap().to_vec()).collect()
}
