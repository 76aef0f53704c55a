//! Every augmentation against the numbers that torchvision computed for it (`golden/augment.py`): on images made by that
//! script, and on real photos where they are.

use std::fs;
use std::path::{Path, PathBuf};

use residuum::data::decode_image;
use residuum::transform::{
    Affine, Colour, Image, NUM_CHANNELS, Noise, Normalization, PixelBox, SampleParams,
};
use safetensors::SafeTensors;
use serde_json::Value as Json;

/// In levels of 255: coordinates are rounded to f32, edges reach 255 levels a pixel.
const TOLERANCE: f32 = 1e-3;
/// JPEG decoders differ by up to two levels; a factor of 1.4375 makes more of it.
const TOLERANCE_PHOTOS: f32 = 3.0;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What a case asks for.
fn params(image: Image<'_>, case: &Json) -> SampleParams {
    let size = image.width();
    let number = |name: &str| case[name].as_f64().unwrap_or_else(|| panic!("{case} has no {name}")) as f32;
    let count = |name: &str| case[name].as_u64().unwrap();
    let mut params = SampleParams::NONE;
    match case["kind"].as_str().unwrap() {
        "flip" => params.inverse = Affine::flip(size),
        "crop" => {
            let scales = ["width", "height"].map(|side| number(side) / size as f32);
            let first = [("left", 0), ("top", 1)].map(|(name, axis)| number(name) + 0.5 * scales[axis] - 0.5);
            params.inverse = Affine::crop(first, scales);
        }
        "shift" => params.inverse = Affine::translation(-number("dx"), -number("dy")),
        "rotate" => params.inverse = Affine::rotation(size, number("degrees")),
        "shear" => params.inverse = Affine::shear(size, number("degrees")),
        "rotate_shear_shift" => {
            params.inverse = Affine::shear(size, number("shear"))
                .after(Affine::rotation(size, number("rotate")))
                .after(Affine::translation(-number("dx"), -number("dy")));
        }
        "brightness" => params.colour = Colour::brightness(number("factor")),
        "contrast" => params.colour = Colour::contrast(number("factor"), image.mean_grey()),
        "saturation" => params.colour = Colour::saturation(number("factor")),
        "drop" => {
            let (epoch, sample) = (count("epoch") as u32, count("sample") as u32);
            params.noise = Noise::new(number("probability"), count("seed"), epoch, sample);
        }
        "scale" => {
            // The crop lies so that every pixel of it is between centres of the photo's pixels.
            let share = size as f32 / number("to");
            let first = ["left", "top"].map(|name| (number(name) + 0.5) * share - 0.5);
            params.inverse = Affine::crop(first, [share; 2]);
        }
        "erase" => {
            let [left, top, width, height] =
                ["left", "top", "width", "height"].map(|name| count(name) as i32);
            params.erased = PixelBox { left, top, right: left + width, bottom: top + height };
        }
        other => panic!("unknown kind {other}"),
    }
    params
}

/// Whether (x, y) shows a place between the centres of the box's pixels. Nearer its edge torchvision repeats the box's
/// last pixel, where we go on to its neighbour in the image.
fn inside_box(params: &SampleParams, case: &Json, x: usize, y: usize) -> bool {
    let (at_x, at_y) = params.inverse.apply(x as f32, y as f32);
    let inside = |at: f32, first: &str, side: &str| {
        let first = case[first].as_f64().unwrap() as f32;
        at >= first && at <= first + case[side].as_f64().unwrap() as f32 - 1.0
    };
    inside(at_x, "left", "width") && inside(at_y, "top", "height")
}

/// Holds one case to its record; the largest difference.
fn check(name: &str, case: &Json, image: Image<'_>, recorded: &[f32], tolerance: f32) {
    let params = params(image, case);
    let step = case["step"].as_u64().unwrap() as usize;
    let is_crop = case["kind"] == "crop";
    let mut row = vec![[f32::NAN; NUM_CHANNELS]; image.width()];
    // What is erased is recorded as the network's input, whose deviations are about a quarter of all levels.
    let channels = (case["kind"] == "erase").then(|| Normalization::default().scale_and_offset());
    let tolerance = channels.map_or(tolerance, |[(scale, _), ..]| tolerance * scale);
    let (recorded, _) = recorded.as_chunks::<NUM_CHANNELS>();
    let mut expected = recorded.iter();
    let mut num_compared = 0;
    for y in (0..image.height()).step_by(step) {
        params.sample_row(image, y, &mut row);
        for x in (0..image.width()).step_by(step) {
            let expected = expected.next().unwrap();
            assert_eq!(params.sample_pixel(image, x, y), row[x], "{name}: pixel and row at {x} {y}");
            if let Some(channels) = &channels {
                params.input_run(image, (x, y), channels, &mut row[x..=x]);
            }
            if is_crop && !inside_box(&params, case, x, y) {
                continue;
            }
            num_compared += 1;
            for (a, b) in expected.iter().zip(row[x]) {
                let error = (a - b).abs();
                assert!(error <= tolerance, "{name} at ({x}, {y}): {b} instead of {a}");
            }
        }
    }
    assert!(
        expected.next().is_none() && num_compared * 4 > recorded.len() * 3,
        "{name}: {num_compared} compared"
    );
}

/// Calls `check` with every case whose image `pixels` finds, and its record.
fn for_each_case(tolerance: f32, pixels: impl Fn(&SafeTensors<'_>, &str) -> Option<Vec<u8>>) -> usize {
    let bytes = fs::read(golden("augment.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases: Json = serde_json::from_slice(&fs::read(golden("augment.json")).unwrap()).unwrap();
    let mut num_checked = 0;
    for (name, case) in cases.as_object().unwrap() {
        let Some(pixels) = pixels(&file, case["image"].as_str().unwrap()) else { continue };
        let size = (pixels.len() / NUM_CHANNELS).isqrt();
        let (numbers, _) = file.tensor(name).unwrap().data().as_chunks();
        let recorded: Vec<f32> = numbers.iter().copied().map(f32::from_le_bytes).collect();
        check(name, case, Image::new(&pixels, size, size), &recorded, tolerance);
        num_checked += 1;
    }
    num_checked
}

#[test]
fn every_augmentation_matches_torchvision() {
    let of_scene = |file: &SafeTensors<'_>, image: &str| Some(file.tensor(image).ok()?.data().to_vec());
    assert_eq!(for_each_case(TOLERANCE, of_scene), 32);
}

#[test]
fn every_augmentation_matches_torchvision_on_real_photos() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/miniplaces");
    let root = std::env::var_os("MINIPLACES").map_or(beside, PathBuf::from);
    if !root.join("train.txt").exists() {
        return eprintln!("skipped: no MiniPlaces photos");
    }
    let of_photo = |_: &SafeTensors<'_>, image: &str| {
        image.ends_with(".jpg").then(|| decode_image(&root.join(image), 128).unwrap())
    };
    assert_eq!(for_each_case(TOLERANCE_PHOTOS, of_photo), 48);
}
