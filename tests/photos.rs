//! Photos as people have them: kinds of images, cameras held in other ways, files that are none.

#[path = "common/image_files.rs"]
mod image_files;

use std::fs;
use std::path::Path;

use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use image::{DynamicImage, ExtendedColorType, GrayImage, ImageEncoder, ImageFormat, Rgb, RgbImage};
use image_files::{all_pixels, assert_mentions, data_error, gradient, open, save};
use residuum::Error;
use residuum::data::{self, Pack, Split, decode_image};
use tempfile::TempDir;

#[test]
fn kinds_of_images_become_rgb() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image.jpg");

    save(gradient(12, 12), &path, ImageFormat::Png);
    assert_eq!(decode_image(&path, 12).unwrap(), gradient(12, 12).into_raw(), "a PNG by content");

    save(GrayImage::from_fn(8, 8, |x, _| image::Luma([x as u8 * 30])), &path, ImageFormat::Jpeg);
    let grey = decode_image(&path, 8).unwrap();
    assert!(grey.chunks(3).all(|rgb| rgb[0] == rgb[1] && rgb[1] == rgb[2]));
    assert!(grey[0] < 20 && grey[7 * 3] > 190, "{grey:?}");

    let cmyk = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cmyk.jpg");
    let pixels = decode_image(&cmyk, 10).unwrap();
    // 12 by 10 pixels, cut to the middle ten columns.
    for (x, y) in [(0, 0), (9, 9), (4, 5), (9, 0), (0, 9)] {
        let expected = [20 + 18 * (x + 1), 230 - 20 * y, 90 + 6 * (x + 1) + 5 * y];
        for channel in 0..3 {
            let got = i32::from(pixels[((y * 10 + x) * 3) as usize + channel]);
            assert!((got - expected[channel]).abs() <= 8, "{x} {y}: {got} instead of {expected:?}");
        }
    }
}

#[test]
fn images_that_are_not_square_are_cut_to_the_middle() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("wide.png");
    save(gradient(20, 10), &path, ImageFormat::Png);
    let pixels = decode_image(&path, 10).unwrap();
    assert_eq!(pixels, image::imageops::crop_imm(&gradient(20, 10), 5, 0, 10, 10).to_image().into_raw());
    let halved = decode_image(&path, 5).unwrap();
    // Half of 20 by 10 is 10 by 5, cut to columns 2 to 6: column x covers source columns 4 + 2x and 5 + 2x.
    for x in 0..5 {
        let got = i32::from(halved[(2 * 5 + x) * 3]);
        assert!((got - (45 + 20 * x as i32)).abs() <= 3, "column {x}: {got}");
    }
}

/// The bytes of `image` as a camera held in another way stores it: with EXIF's word for it, and pixels that the word turns
/// upright. EXIF names the sides of the upright image where the first row and the first column lie.
fn turned(upright: &RgbImage, orientation: u16, format: ImageFormat) -> Vec<u8> {
    let (width, height) = upright.dimensions();
    let stored_size = if orientation < 5 { (width, height) } else { (height, width) };
    let stored = RgbImage::from_fn(stored_size.0, stored_size.1, |c, r| {
        let (x, y) = match orientation {
            1 => (c, r),
            2 => (width - 1 - c, r),
            3 => (width - 1 - c, height - 1 - r),
            4 => (c, height - 1 - r),
            5 => (r, c),
            6 => (width - 1 - r, c),
            7 => (width - 1 - r, height - 1 - c),
            _ => (r, height - 1 - c),
        };
        *upright.get_pixel(x, y)
    });
    // A big-endian TIFF of one entry: tag 0x112, one SHORT.
    let mut exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01".to_vec();
    exif.extend([orientation.to_be_bytes(), [0; 2], [0; 2], [0; 2]].concat());
    let mut bytes = Vec::new();
    let (width, height) = stored.dimensions();
    match format {
        ImageFormat::Png => write_with(PngEncoder::new(&mut bytes), exif, &stored),
        _ => write_with(JpegEncoder::new_with_quality(&mut bytes, 100), exif, &stored),
    }
    assert_eq!(image::load_from_memory(&bytes).unwrap().into_rgb8().dimensions(), (width, height));
    bytes
}

fn write_with(mut encoder: impl ImageEncoder, exif: Vec<u8>, image: &RgbImage) {
    encoder.set_exif_metadata(exif).unwrap();
    encoder.write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8).unwrap();
}

#[test]
fn photos_are_turned_as_their_exif_orientation_says() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("photo.jpg");
    let upright = gradient(12, 10);
    let middle = image::imageops::crop_imm(&upright, 1, 0, 10, 10).to_image().into_raw();
    for orientation in 1..=8 {
        fs::write(&path, turned(&upright, orientation, ImageFormat::Png)).unwrap();
        assert_eq!(decode_image(&path, 10).unwrap(), middle, "PNG, orientation {orientation}");
        fs::write(&path, turned(&upright, orientation, ImageFormat::Jpeg)).unwrap();
        let pixels = decode_image(&path, 10).unwrap();
        let most = pixels.iter().zip(&middle).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most <= Some(12), "JPEG, orientation {orientation}: {most:?} off");
        assert_eq!(data::decode::dimensions(&path).unwrap(), (12, 10));
    }
}

#[test]
fn the_pack_holds_photos_the_right_way_up() {
    let (dir, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let upright = gradient(16, 16);
    for (path, orientation) in [("train/a/1.png", 6), ("train/a/2.png", 1), ("val/a/1.png", 8)] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, turned(&upright, orientation, ImageFormat::Png)).unwrap();
    }
    for split in [Split::Train, Split::Val] {
        let pack = Pack::open_or_build(&open(dir.path()).unwrap(), split, 16, cache.path()).unwrap();
        assert!(all_pixels(&pack).iter().all(|pixels| pixels == upright.as_raw()));
    }
}

#[test]
fn formats_that_people_have_are_read_pixel_for_pixel() {
    let dir = TempDir::new().unwrap();
    let image = gradient(12, 12);
    let exact = [
        ("1.webp", ImageFormat::WebP),
        ("2.bmp", ImageFormat::Bmp),
        ("3.tif", ImageFormat::Tiff),
        ("4.TIFF", ImageFormat::Tiff),
        ("5.png", ImageFormat::Png),
        // By content, whatever the name.
        ("6.jpe", ImageFormat::WebP),
    ];
    for (name, format) in exact {
        let path = dir.path().join(name);
        save(image.clone(), &path, format);
        assert_eq!(decode_image(&path, 12).unwrap(), image.as_raw().clone(), "{name}");
    }
    // The first of two pictures; a GIF has 256 colours.
    let path = dir.path().join("7.gif");
    let mut encoder = image::codecs::gif::GifEncoder::new(fs::File::create(&path).unwrap());
    for color in [[250, 10, 20], [1, 2, 3]] {
        let frame = DynamicImage::from(RgbImage::from_pixel(12, 12, Rgb(color))).into_rgba8();
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    let pixels = decode_image(&path, 12).unwrap();
    assert!(pixels.chunks(3).all(|pixel| pixel == [250, 10, 20]), "{:?}", &pixels[..3]);
    // What phones write.
    let heic = dir.path().join("8.jpg");
    fs::write(&heic, b"\0\0\0\x18ftypheic\0\0\0\0").unwrap();
    assert_mentions(&data_error(decode_image(&heic, 12)), &["8.jpg: is HEIC or AVIF; convert it to JPEG"]);
}

#[test]
fn cut_files_of_every_format_are_errors() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("photo");
    for format in [ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Gif, ImageFormat::Png]
    {
        save(gradient(24, 24), &path, format);
        let whole = fs::read(&path).unwrap();
        for len in [whole.len() / 3, whole.len() / 2, whole.len() * 3 / 4] {
            fs::write(&path, &whole[..len]).unwrap();
            data_error(decode_image(&path, 12));
        }
    }
}

#[test]
fn files_that_are_no_regular_ones_are_refused_at_once() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe.jpg");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (zero, folder) = (dir.path().join("zero.jpg"), dir.path().join("folder.jpg"));
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    fs::create_dir(&folder).unwrap();
    let round = dir.path().join("round.jpg");
    std::os::unix::fs::symlink(&round, &round).unwrap();
    for (path, what) in [(&pipe, "a named pipe"), (&zero, "a device"), (&folder, "a folder")] {
        assert_mentions(&data_error(decode_image(path, 8)), &["is ", what, "not a file"]);
        assert_mentions(&data_error(data::decode::dimensions(path)), &[what]);
        assert_mentions(&data_error(data::objects::Annotation::read(path)), &[what]);
        assert_mentions(&data_error(data::miniplaces::read_categories(path)), &[what]);
    }
    assert!(matches!(decode_image(&round, 8), Err(Error::Io { .. })));
    // 3 GiB of nothing, which take no room on the disk.
    let sparse = dir.path().join("sparse.jpg");
    fs::File::create(&sparse).unwrap().set_len(3 << 30).unwrap();
    assert_mentions(&data_error(decode_image(&sparse, 8)), &["sparse.jpg: is 3.00 GiB long, more than"]);
}

#[test]
fn broken_images_say_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image.jpg");
    save(gradient(64, 64), &path, ImageFormat::Jpeg);
    let jpeg = fs::read(&path).unwrap();
    save(gradient(64, 64), &path, ImageFormat::Png);
    let png = fs::read(&path).unwrap();
    let cases: [(&[u8], &str); 5] = [
        (&jpeg[..jpeg.len() / 2], "ends early"),
        (&jpeg[..20], "ends early"),
        (&png[..png.len() / 2], "image.jpg"),
        (b"", "is empty"),
        (b"<html>not found</html>", "is no JPEG, PNG"),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        assert_mentions(&data_error(decode_image(&path, 16)), &["image.jpg", expected]);
    }
    assert!(matches!(decode_image(&dir.path().join("none.jpg"), 16), Err(Error::Io { .. })));
}
