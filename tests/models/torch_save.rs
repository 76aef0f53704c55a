//! Networks that torchvision made and `torch.save` wrote, read as their users have them.

use std::path::Path;
use std::process::Command;

use residuum::device::Device;
use residuum::infer::model_file::{CardOverrides, ModelFile};
use residuum::step::evaluate::Evaluator;
use tempfile::TempDir;

use crate::common::formula;
use crate::python::python_with;
use crate::{golden, relative_l2};

const BATCH: usize = 4;
const SIZE: usize = 64;
/// Both sides sum up to 4,608 products of f32 for an element, in different orders, through up to 50 layers.
const TOLERANCE: f64 = 2e-5;

/// The logits of the network in the file at `path`.
fn logits(name: &str, path: &Path) -> Vec<f32> {
    let overrides =
        CardOverrides { model: Some(name.into()), img_size: Some(SIZE), ..CardOverrides::default() };
    let file = ModelFile::read(path, &overrides).unwrap();
    assert_eq!(file.card.categories.len(), 1000);
    let mut session = file.session(BATCH, Device::Cpu).unwrap();
    let images = formula::nchw_to_nhwc(&formula::images("eval", BATCH, SIZE), [BATCH, 3, SIZE, SIZE]);
    let batch = residuum::batch::Batch::new(images, vec![0; BATCH]);
    Evaluator::new(&session, 0, SIZE).unwrap().logits(&mut session, &batch).unwrap()
}

#[test]
fn torchvision_s_own_files_give_the_logits_of_pytorch() {
    let Some(python) = python_with("torch, torchvision") else { return };
    for name in ["resnet18", "resnet34", "resnet50"] {
        let folder = TempDir::new().unwrap();
        let mut save = Command::new(&python);
        save.arg(golden("torchvision_weights.py")).arg(name).arg(folder.path());
        let output = save.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::read(folder.path().join("logits.f32")).unwrap();
        let expected: Vec<f32> =
            bytes.chunks_exact(4).map(|elem| f32::from_le_bytes(elem.try_into().unwrap())).collect();
        let of = |file: &str| logits(name, &folder.path().join(file));
        let found = of("weights.pth");
        let error = relative_l2(&found, &expected);
        eprintln!("{name}: relative error {error:.1e}");
        assert!(error <= TOLERANCE, "{name}: {error}");
        for file in ["legacy.pth", "module.pth", "ddp.pth"] {
            assert_eq!(of(file), found, "{name} {file}: the same weights in another form");
        }
    }
}
