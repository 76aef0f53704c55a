//! Grad-CAM against PyTorch's autograd (`tests/golden/explain.py`).

use residuum::device::Device;
use residuum::infer::grad_cam::Explainer;

use crate::common::formula;
use crate::{CLASSES, formula_model, golden_json};

/// Heights and widths of the images, and rows and columns of the map that is explained: the last one, and one before it where
/// that has fewer than 4 x 4 places.
const SIZES: [(usize, usize); 2] = [(128, 4), (96, 6)];
const BATCH: usize = 2;

fn check(recorded_name: &str, name: &str, form: &str) {
    SIZES.iter().for_each(|&(size, extent)| check_size(recorded_name, name, form, size, extent));
}

fn check_size(recorded_name: &str, name: &str, form: &str, size: usize, extent: usize) {
    let record = golden_json("explain.json");
    let mut explainer = Explainer::new(&formula_model(name, form, CLASSES, size), Device::Cpu).unwrap();
    assert_eq!(explainer.extents(), [extent; 2]);
    let nchw = formula::images("explain", BATCH, size);
    let images = formula::nchw_to_nhwc(&nchw, [BATCH, 3, size, size]);
    let records = record[recorded_name][size.to_string()]["images"].as_array().unwrap();
    assert_eq!(records.len(), BATCH);
    for (image, record) in images.chunks_exact(images.len() / BATCH).zip(records) {
        let best = explainer.explain(image, None).unwrap();
        assert_eq!(best.category as u64, record["best"].as_u64().unwrap());
        let error = (f64::from(best.probability) - record["probability"].as_f64().unwrap()).abs();
        assert!(error <= 1e-6, "{recorded_name} at {size}: probability is off by {error}");
        for (category, expected) in record["evidence"].as_object().unwrap() {
            let category = category.parse().unwrap();
            let found = explainer.explain(image, Some(category)).unwrap();
            let expected: Vec<f64> = expected
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|row| row.as_array().unwrap())
                .map(|value| value.as_f64().unwrap())
                .collect();
            assert_eq!((found.category, found.extents), (category, [extent; 2]));
            assert_eq!(found.evidence.len(), expected.len());
            let scale = expected.iter().fold(0.0f64, |most, value| most.max(value.abs()));
            for (found, expected) in found.evidence.iter().zip(expected) {
                let error = (f64::from(*found) - expected).abs() / scale;
                assert!(
                    error <= 1e-5,
                    "{recorded_name} at {size}, category {category}: {found}, PyTorch's {expected}"
                );
            }
            if category == best.category {
                assert_eq!(found, best);
            }
        }
    }
}

#[test]
fn resnet18_sees_where_pytorch_sees() {
    check("resnet18", "resnet18", "v1.5");
}

#[test]
fn resnet50_sees_where_pytorch_sees() {
    check("resnet50", "resnet50", "v1.5");
}

#[test]
fn resnet50_v1_sees_where_pytorch_sees() {
    check("resnet50_v1", "resnet50", "v1");
}

#[test]
fn pre_activation_nets_are_explained_after_their_last_norm() {
    check("resnet18_v2", "resnet18", "v2");
}
