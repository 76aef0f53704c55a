//! The operations of TrivialAugment and RandAugment against the bytes that torchvision made (`golden/auto_augment.py`): of
//! images made by that script as it recorded them, and of real photos where they are and a Python has torchvision.

#[path = "common/python.rs"]
mod python;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use residuum::batch::MagnitudeSpace;
use residuum::data::decode_image;
use residuum::transform::{AutoOp, AutoStep, AutoSteps, Image, NUM_CHANNELS, SampleParams};
use safetensors::SafeTensors;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// Steps from no magnitude to the largest.
const NUM_BINS: u32 = 31;
const PHOTOS: [&str; 3] = [
    "images/train/a/abbey/00000001.jpg",
    "images/train/b/banquet_hall/00000011.jpg",
    "images/train/g/golf_course/00000001.jpg",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn op_called(name: &str) -> AutoOp {
    let found = AutoOp::ALL.into_iter().find(|op| format!("{op:?}") == name);
    found.unwrap_or_else(|| panic!("no operation {name}"))
}

/// What `case` makes of the square image `pixels`.
fn applied(pixels: &[u8], case: &Json) -> Vec<u8> {
    let size = (pixels.len() / NUM_CHANNELS).isqrt();
    let space = match case["space"].as_str().unwrap() {
        "wide" => MagnitudeSpace::Wide,
        "rand" => MagnitudeSpace::Rand,
        other => panic!("no space {other}"),
    };
    let mut steps = AutoSteps::NONE;
    for (step, operation) in steps.steps.iter_mut().zip(case["operations"].as_array().unwrap()) {
        let op = op_called(operation[0].as_str().unwrap());
        let magnitude = space.magnitude(op, operation[1].as_u64().unwrap() as u32, size);
        *step = AutoStep::new(op, operation[2].as_f64().unwrap() as f32 * magnitude, [size; 2]);
    }
    let [mut bytes, mut spare] = [(); 2].map(|()| vec![[7; NUM_CHANNELS]; size * size]);
    steps.run(&SampleParams::NONE, Image::new(pixels, size, size), &mut bytes, &mut spare);
    bytes.into_flattened()
}

/// Fails with the first place where the two differ.
fn assert_same_bytes(name: &str, got: &[u8], expected: &[u8]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    let different = got.iter().zip(expected).filter(|(a, b)| a != b).count();
    if let Some(at) = got.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("{name}: [{at}] is {}, not {}; {different} differ", got[at], expected[at]);
    }
}

#[test]
fn every_operation_makes_the_bytes_of_torchvision() {
    let bytes = fs::read(golden("auto_augment.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases: Json = serde_json::from_slice(&fs::read(golden("auto_augment.json")).unwrap()).unwrap();
    for (name, case) in cases.as_object().unwrap() {
        let tensor = |name: &str| file.tensor(name).unwrap().data().to_vec();
        let pixels = tensor(case["image"].as_str().unwrap());
        assert_same_bytes(name, &applied(&pixels, case), &tensor(name));
    }
    let is_there =
        |op: &AutoOp| cases.as_object().unwrap().keys().any(|name| name.contains(&format!("{op:?}")));
    assert!(cases.as_object().unwrap().len() == 83 && AutoOp::ALL.iter().all(is_there));
}

#[test]
fn every_operation_at_every_magnitude_makes_the_bytes_of_torchvision_on_real_photos() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/miniplaces");
    let root = std::env::var_os("MINIPLACES").map_or(beside, PathBuf::from);
    if !root.join("train.txt").exists() {
        return eprintln!("skipped: no MiniPlaces photos");
    }
    let Some(python) = python::python_with("torch, torchvision, numpy, safetensors") else { return };
    let signs = |op: AutoOp| if op.is_signed() { &[1, -1][..] } else { &[1] };
    let single = AutoOp::ALL.into_iter().flat_map(|op| {
        let bins = (0..NUM_BINS).flat_map(move |bin| signs(op).iter().map(move |sign| (bin, *sign)));
        bins.flat_map(move |(bin, sign)| {
            ["wide", "rand"]
                .map(|space| json!({"space": space, "operations": [[format!("{op:?}"), bin, sign]]}))
        })
    });
    let cases: Vec<Json> = single.collect();
    let folder = TempDir::new().unwrap();
    let [image, wanted, results] = ["image", "cases", "results"].map(|name| folder.path().join(name));
    fs::write(&wanted, serde_json::to_vec(&cases).unwrap()).unwrap();
    // The size of the photos, one that is no power of two, and one whose halves are no whole numbers.
    for (photo, size) in PHOTOS.iter().zip([128, 96, 57]) {
        let pixels = decode_image(&root.join(photo), size).unwrap();
        fs::write(&image, &pixels).unwrap();
        let mut apply = Command::new(&python);
        apply.arg(golden("auto_augment.py")).arg(&image).arg(size.to_string()).args([&wanted, &results]);
        let output = apply.output().unwrap();
        assert!(output.status.success(), "{photo}: {}", String::from_utf8_lossy(&output.stderr));
        let expected = fs::read(&results).unwrap();
        assert_eq!(expected.len(), cases.len() * pixels.len());
        for (case, expected) in cases.iter().zip(expected.chunks_exact(pixels.len())) {
            assert_same_bytes(&format!("{photo} at {size}: {case}"), &applied(&pixels, case), expected);
        }
    }
}
