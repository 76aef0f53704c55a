//! The formula that weights and inputs of the recorded networks come from gives the same bits here as in Python.

mod common;

use common::formula::{fnv1a_64, images, labels, nchw_to_nhwc, tensor};
use serde_json::Value;

fn record() -> Value {
    serde_json::from_str(include_str!("golden/formula.json")).expect("formula.json is JSON")
}

fn extents(case: &Value) -> Vec<usize> {
    serde_json::from_value(case["shape"].clone()).expect("a case has its shape")
}

fn assert_same_bits(values: &[f32], case: &Value) {
    let first: Vec<f32> = serde_json::from_value(case["first"].clone()).expect("a case has its first values");
    assert_eq!(&values[..first.len()], first, "{case}");
    let hash = fnv1a_64(values.iter().flat_map(|value| value.to_le_bytes()));
    assert_eq!(format!("{hash:016x}"), case["fnv1a_64"], "{case}");
}

#[test]
fn tensors_have_the_bits_that_python_recorded() {
    let record = record();
    let cases = record["tensors"].as_array().expect("a list of tensors");
    assert!(!cases.is_empty());
    for case in cases {
        let [name, last_norm] = ["name", "last_norm"].map(|key| case[key].as_str().expect("a string"));
        assert_same_bits(&tensor(name, &extents(case), last_norm), case);
    }
}

#[test]
fn images_and_labels_are_those_that_python_recorded() {
    let record = record();
    let case = &record["images"];
    let shape = extents(case);
    assert_same_bits(&images(case["stream"].as_str().expect("a string"), shape[0], shape[2]), case);

    let case = &record["labels"];
    let expected: Vec<i32> = serde_json::from_value(case["values"].clone()).expect("a list of labels");
    assert_eq!(labels("step0", expected.len(), 100), expected);
}

#[test]
fn nhwc_keeps_every_pixel_with_its_channels() {
    let nchw: Vec<f32> = (0..24).map(|v| v as f32).collect();
    let nhwc = nchw_to_nhwc(&nchw, [2, 3, 1, 4]);
    assert_eq!(nhwc[..6], [0., 4., 8., 1., 5., 9.]);
    assert_eq!(nhwc[12..15], [12., 16., 20.]);
}
