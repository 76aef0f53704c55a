//! Weights as people have them: files of `torch.save`, wrapped names, values and sizes that no network has.

use std::fs;
use std::path::Path;

use residuum::run::checkpoint::{self, NamedTensor};
use serde_json::{Value, json};

use crate::program::{PHOTO, Program, failed, texts};

/// A program with scenes of ten categories, and `resnet18.pth` for as many, which PyTorch wrote.
fn with_weights() -> Program {
    let program = Program::with_scenes();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch/resnet18.pth");
    fs::copy(golden, program.path("resnet18.pth")).unwrap();
    program
}

/// The four uses of the file of weights `name`.
fn uses(name: &str) -> [String; 4] {
    let weights = format!("--weights {name} --model resnet18");
    [
        format!("predict {weights} --img-size 32 {PHOTO}"),
        format!("eval {weights} --img-size 32 --data-dir scenes"),
        format!("export {weights} --output exported.onnx"),
        format!("train --pretrained {name} --data-dir scenes --img-size 32 --batch-size 8 --max-steps 1"),
    ]
}

/// The tensors of `resnet18.pth`, from its export.
fn tensors(program: &Program) -> Vec<NamedTensor<'static>> {
    program.succeeds("export --weights resnet18.pth --model resnet18 --output plain.safetensors");
    checkpoint::read(&program.path("plain.safetensors")).unwrap().tensors
}

fn write(program: &Program, name: &str, tensors: &[NamedTensor], card: &Value) {
    checkpoint::write_atomic(&program.path(name), tensors, card).unwrap();
}

#[test]
fn every_command_takes_a_file_of_torch_save() {
    let program = with_weights();
    let [predict, eval, export, train] = uses("resnet18.pth");
    let said = program.succeeds(&predict);
    assert!(program.succeeds(&eval).contains("on 20 val images"));
    program.succeeds(&export);
    let output = program.command(&train).output().unwrap();
    let (_, stderr) = texts(&output);
    assert!(output.status.success(), "{stderr}");
    for part in ["resnet18.pth: 120 tensors are taken", "`fc.weight` [10, 512]", "begin anew"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let run = program.only_run("runs");
    let log = fs::read_to_string(program.path(&run).join("metrics.jsonl")).unwrap();
    assert!(log.contains("120 tensors are taken"), "{log}");

    // The same weights as safetensors, and wrapped as others wrap them.
    let mut tensors = tensors(&program);
    assert_eq!(
        program.succeeds(&uses("plain.safetensors")[0]),
        said.replace("resnet18.pth", "plain.safetensors")
    );
    let names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    for prefix in ["_orig_mod.", "module.", "module._orig_mod.", "state_dict.model.net."] {
        for (tensor, name) in tensors.iter_mut().zip(&names) {
            tensor.name = format!("{prefix}{name}");
        }
        write(&program, "wrapped.safetensors", &tensors, &Value::Null);
        assert_eq!(program.succeeds(&uses("wrapped.safetensors")[0]), said, "{prefix}");
    }
    // What lies next to the weights is said.
    tensors.push(NamedTensor::f32("optimizer.step", &[1], vec![f32::NAN]));
    write(&program, "wrapped.safetensors", &tensors, &Value::Null);
    for call in uses("wrapped.safetensors") {
        let output = program.command(&call).output().unwrap();
        let (_, stderr) = texts(&output);
        assert!(output.status.success(), "{call}: {stderr}");
        for part in ["those under `state_dict.model.net.`", "also has `optimizer.step`"] {
            assert!(stderr.contains(part), "{call}: {stderr}");
        }
    }
}

#[test]
fn values_that_no_network_has_are_refused_by_every_command() {
    let program = with_weights();
    let plain = tensors(&program);
    for (name, value, parts) in [
        ("conv1.weight", f32::NAN, ["`conv1.weight` holds NaN at [0, 0, 0, 0]", "diverged"]),
        ("layer4.1.bn2.bias", f32::INFINITY, ["`layer4.1.bn2.bias` holds inf at [0]", "diverged"]),
        ("bn1.running_var", -0.25, ["`bn1.running_var` holds -0.25 at [0]", "no variance is negative"]),
    ] {
        let mut tensors = plain.clone();
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        let mut elems = tensor.as_f32().unwrap().to_vec();
        elems[0] = value;
        *tensor = NamedTensor::f32(name, &tensor.shape.clone(), elems);
        write(&program, "bad.safetensors", &tensors, &Value::Null);
        for call in uses("bad.safetensors") {
            program.fails(&call, 1, &[&["bad.safetensors: tensor"], &parts[..]].concat());
        }
    }
    assert!(!program.path("exported.onnx").exists() && !program.path("runs").exists());
}

#[test]
fn what_is_no_file_of_weights_explains_itself_in_every_command() {
    let program = with_weights();
    let bytes = fs::read(program.path("resnet18.pth")).unwrap();
    fs::write(program.path("cut.pth"), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(program.path("page.pth"), "<!DOCTYPE html>\n<html>Not found</html>").unwrap();
    fs::write(program.path("lfs.pth"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap();
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch/list.pth");
    fs::copy(list, program.path("list.pth")).unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch/zip.pth");
    fs::copy(tiny, program.path("tiny.pth")).unwrap();
    for (name, parts) in [
        ("cut.pth", ["cut short or damaged", "download it again"]),
        ("page.pth", ["is a web page", "address"]),
        ("lfs.pth", ["Git LFS", "git lfs pull"]),
        ("list.pth", ["not tensors by name", "torch.save(model.state_dict()"]),
        ("tiny.pth", ["no tensor of this network, but `bn.num_batches_tracked`", "--model"]),
    ] {
        for call in uses(name) {
            program.fails(&call, 1, &[&[name], &parts[..]].concat());
        }
    }
    let unnamed = format!("predict --weights resnet18.pth {PHOTO}");
    program.fails(&unnamed, 1, &["resnet18.pth", "which model", "--model resnet50"]);
}

/// Sizes that a file promises cost nothing before its names and shapes are compared: the process has a gigabyte.
#[test]
fn shapes_are_compared_before_there_is_memory_for_them() {
    let program = with_weights();
    let mut tensors = tensors(&program);
    // Eight gigabytes of a tensor next to one that belongs here, none of it on the disk.
    let header = concat!(
        r#"{"fc.bias":{"dtype":"F32","shape":[10],"data_offsets":[0,40]},"#,
        r#""x":{"dtype":"F32","shape":[2147483648],"data_offsets":[40,8589934632]}}"#
    );
    let head = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(program.path("sparse.safetensors"), &head).unwrap();
    let sparse = fs::File::options().write(true).open(program.path("sparse.safetensors")).unwrap();
    sparse.set_len(head.len() as u64 + 8_589_934_632).unwrap();
    // A million categories, and weights for ten.
    let names: Vec<String> = (0..1_000_000).map(|label| format!("category {label}")).collect();
    let card = json!({
        "model": "resnet18", "form": "v1.5", "img_size": 32, "categories": names,
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    });
    write(&program, "categories.safetensors", &tensors, &card);
    // And as many by the shape of the last layer's bias.
    tensors.retain(|tensor| tensor.name != "fc.bias");
    tensors.push(NamedTensor::f32("fc.bias", &[1_000_000], vec![0.0; 1_000_000]));
    write(&program, "bias.safetensors", &tensors, &Value::Null);
    for (name, parts) in [
        ("sparse.safetensors", ["tensor `conv1.weight` of shape [64, 3, 7, 7] is missing", "the first of"]),
        ("categories.safetensors", ["tensor `fc.weight` has shape [10, 512]", "[1000000, 512]"]),
        ("bias.safetensors", ["tensor `fc.weight` has shape [10, 512]", "[1000000, 512]"]),
    ] {
        for call in &uses(name)[..3] {
            let output = program.command_after("ulimit -v 1000000", call).output().unwrap();
            failed(&output, call, 1, &[&[name], &parts[..]].concat());
        }
    }
}
