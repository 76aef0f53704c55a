use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::run::checkpoint;

const NAMES: [&str; 4] = ["conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "fc.bias"];

fn one(name: &str) -> NamedTensor<'static> {
    NamedTensor::f32(name, &[1], vec![1.0])
}

/// A file of tensors called `names`.
fn file_of(folder: &TempDir, names: impl IntoIterator<Item = String>) -> PathBuf {
    let path = folder.path().join("weights.safetensors");
    let tensors: Vec<NamedTensor> = names.into_iter().map(|name| one(&name)).collect();
    checkpoint::write_atomic(&path, &tensors, &Value::Null).unwrap();
    path
}

fn find(path: &Path) -> Result<Fit> {
    Fit::find(WeightFile::open(path).unwrap(), NAMES.into_iter())
}

/// The names that a network finds in a file with each of [`NAMES`] called as `wrap` has it, and with `others`.
fn found(wrap: impl Fn(&str) -> String, others: &[&str]) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    let names = NAMES.iter().map(|name| wrap(name)).chain(others.iter().map(|name| (*name).to_string()));
    let fit = find(&file_of(&folder, names)).unwrap();
    assert_eq!(fit.remark().is_some(), !others.is_empty());
    let mut names: Vec<String> = fit.read().unwrap().into_iter().map(|tensor| tensor.name).collect();
    names.sort();
    names
}

#[test]
fn names_are_found_whatever_stands_before_them() {
    let mut expected = NAMES.map(String::from);
    expected.sort();
    let prefixes = [
        "",
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "net.",
        "backbone.",
        "state_dict.",
        "model_state_dict.module.",
        "state_dict.model._orig_mod.backbone.",
        "ema.module.",
    ];
    for prefix in prefixes {
        assert_eq!(found(|name| format!("{prefix}{name}"), &[]), expected, "{prefix}");
        // What a wrapper's name alone stands before is the network.
        if !unwrapped(prefix).is_empty() {
            let others = ["optimizer.state.0.momentum_buffer", "criterion.weight", "n_averaged"];
            assert_eq!(found(|name| format!("{prefix}{name}"), &others), expected, "{prefix}");
        }
    }
    let inner = |name: &str| name.replace("layer1.0.", "layer1._orig_mod.0._checkpoint_wrapped_module.");
    assert_eq!(found(inner, &[]), expected);
}

#[test]
fn of_two_sets_the_averaged_one_is_taken_and_others_must_be_chosen() {
    let folder = TempDir::new().unwrap();
    let both = |a: &str, b: &str| {
        let names = |prefix: &str| NAMES.map(|name| format!("{prefix}.{name}"));
        find(&file_of(&folder, names(a).into_iter().chain(names(b))))
    };
    for [plain, averaged] in
        [["model", "ema"], ["model", "model_ema.module"], ["state_dict", "state_dict_ema"]]
    {
        let remark = both(plain, averaged).unwrap().remark().unwrap();
        assert!(remark.contains(&format!("under `{averaged}.`")) && remark.contains(plain), "{remark}");
    }
    let error = both("student", "teacher").unwrap_err().to_string();
    assert!(error.contains("under `student.` and `teacher.`") && error.contains("torch.save("), "{error}");
}

#[test]
fn a_file_without_any_of_the_names_says_what_it_has() {
    let folder = TempDir::new().unwrap();
    let names = (0..9).map(|i| format!("encoder.{i}.kernel"));
    let error = find(&file_of(&folder, names)).unwrap_err().to_string();
    for part in ["no tensor of this network", "`encoder.0.kernel`", "and 5 more", "--model"] {
        assert!(error.contains(part), "{error}");
    }
    let error = find(&file_of(&folder, [])).unwrap_err().to_string();
    assert!(error.contains("but no tensor"), "{error}");
    let twice = ["a.fc.bias", "a._orig_mod.fc.bias"].map(String::from);
    let error = find(&file_of(&folder, twice)).unwrap_err().to_string();
    assert!(error.contains("`fc.bias` both wrapped and not"), "{error}");
}

#[test]
fn one_of_several_files_asks_for_their_index() {
    let folder = TempDir::new().unwrap();
    let find_in = |name: &str, names: &[&str]| {
        let path = folder.path().join(name);
        let tensors: Vec<NamedTensor> = names.iter().map(|name| one(name)).collect();
        checkpoint::write_atomic(&path, &tensors, &Value::Null).unwrap();
        find(&path)
    };
    let error = find_in("model-00001-of-00002.safetensors", &NAMES[..2]).unwrap_err().to_string();
    assert!(error.contains("is one of several files") && error.contains(".index.json"), "{error}");
    assert!(find_in("model-00001-of-00001.safetensors", &NAMES).is_ok());
    for whole in ["end-of-2.safetensors", "1-of-many.safetensors", "model.safetensors"] {
        assert!(find_in(whole, &NAMES[..2]).is_ok(), "{whole}");
    }
}

#[test]
fn values_that_no_network_has_are_refused_by_name_and_place() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights.safetensors");
    let message = |name: &str, values: [f32; 4]| {
        let tensor = NamedTensor::f32(format!("model.{name}"), &[2, 2], values.to_vec());
        checkpoint::write_atomic(&path, &[tensor, one("model.fc.bias")], &Value::Null).unwrap();
        match find(&path).unwrap().read() {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    let nan = message("conv1.weight", [0.0, 1.0, f32::NAN, f32::INFINITY]);
    assert!(
        nan.contains("tensor `conv1.weight` holds NaN at [1, 0] (2 of its 4 elements are not finite)"),
        "{nan}"
    );
    let infinite = message("conv1.weight", [0.0, f32::NEG_INFINITY, 0.0, 0.0]);
    assert!(infinite.contains("holds -inf at [0, 1] (1 of its 4 elements is not finite)"), "{infinite}");
    let negative = message("bn1.running_var", [0.0, 1.0, 2.0, -0.5]);
    assert!(negative.contains("tensor `bn1.running_var` holds -0.5 at [1, 1]"), "{negative}");
    assert_eq!(message("conv1.weight", [-1.0, 0.0, 1e30, -1e-30]), "");
    assert_eq!(message("bn1.running_var", [0.0, -0.0, 1e30, 1e-30]), "");
    // A tensor that is not read may hold what it wants.
    let tensors = [NamedTensor::f32("loss.weight", &[1], vec![f32::NAN]), one("model.fc.bias")];
    checkpoint::write_atomic(&path, &tensors, &Value::Null).unwrap();
    assert_eq!(find(&path).unwrap().read().unwrap().len(), 1);
    fs::remove_file(path).unwrap();
}

#[test]
fn the_first_difference_is_named_with_its_remedy() {
    let path = Path::new("runs/a/checkpoints/best.safetensors");
    let expected: Vec<(String, Vec<usize>)> = [
        ("conv1.weight", vec![64, 3, 7, 7]),
        ("bn1.num_batches_tracked", vec![]),
        ("fc.weight", vec![10, 512]),
        ("fc.bias", vec![10]),
    ]
    .map(|(name, shape)| (name.to_string(), shape))
    .into();
    let zeros =
        |name: &str, shape: &[usize]| NamedTensor::f32(name, shape, vec![0.0; shape.iter().product()]);
    let check = |found: &[NamedTensor]| {
        let found: Vec<(&str, &[usize])> = found.iter().map(|t| (t.name.as_str(), &t.shape[..])).collect();
        check_names(&expected, &found, "fc", path)
    };
    let message = |found: &[NamedTensor]| check(found).unwrap_err().to_string();

    let conv1 = zeros("conv1.weight", &[64, 3, 7, 7]);
    let fc = [zeros("fc.weight", &[10, 512]), zeros("fc.bias", &[10])];
    check(&[conv1.clone(), fc[0].clone(), fc[1].clone()]).unwrap();

    assert_eq!(
        message(&[zeros("fc.bias", &[100]), conv1.clone(), zeros("fc.weight", &[100, 512])]),
        "runs/a/checkpoints/best.safetensors: tensor `fc.weight` has shape [100, 512] where the model has \
         [10, 512] (the first of 2 tensors that differ); the file has 100 categories: give --categories 100"
    );
    let missing = message(&fc);
    assert!(
        missing.contains("tensor `conv1.weight` of shape [64, 3, 7, 7] is missing (the only"),
        "{missing}"
    );
    assert!(missing.contains("give the --model"), "{missing}");
    let unexpected = message(&[conv1, fc[0].clone(), fc[1].clone(), zeros("layer1.2.bn3.bias", &[256])]);
    assert!(
        unexpected.contains("tensor `layer1.2.bn3.bias` of shape [256] is not in the model"),
        "{unexpected}"
    );
}
