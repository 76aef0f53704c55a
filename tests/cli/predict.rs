//! Trained models asked: by their run, by their weight file, by the file of another program.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use residuum::device::Device;
use residuum::infer::model_file::{CardOverrides, ModelFile};
use residuum::run::checkpoint::{self, NamedTensor};
use residuum::step::values;
use residuum::tensor::{Shape, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::program::{Program, SMALL_RUN};

const NUM_IMAGES: usize = 19;
const IMAGE_SIZE: usize = 24;

/// Images NCHW by formula, written to `input.safetensors`.
fn write_input(program: &Program) -> Vec<f32> {
    let shape = [NUM_IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE];
    let elems = (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.7).sin());
    let elems: Vec<f32> = elems.collect();
    write_tensor(program, "input", &shape, &elems);
    elems
}

fn write_tensor(program: &Program, name: &str, shape: &[usize], elems: &[f32]) {
    let tensor = NamedTensor::f32(name, shape, elems);
    checkpoint::write_atomic(&program.path("input.safetensors"), &[tensor], &Value::Null).unwrap();
}

fn logits(program: &Program, name: &str) -> Vec<f32> {
    let file = checkpoint::read(&program.path(name)).unwrap();
    let logits = file.get("logits").unwrap();
    assert_eq!(logits.shape, [NUM_IMAGES, 10]);
    logits.as_f32().unwrap().to_vec()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |most, elem| most.max(elem.abs()));
    for (a, b) in found.iter().zip(expected) {
        let error = (a - b).abs() / scale;
        assert!(error <= 1e-5, "{a} and {b}");
    }
}

/// The weights at `path` as another program would write them, each name with `prefix` before it.
fn write_foreign(path: &Path, prefix: &str, to: PathBuf) {
    let file = checkpoint::read(path).unwrap();
    let tensors: Vec<_> = file.tensors.iter().filter(|tensor| tensor.as_f32().is_some()).collect();
    let bytes: Vec<&[u8]> =
        tensors.iter().map(|tensor| bytemuck::cast_slice(tensor.as_f32().unwrap())).collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).unwrap();
        (format!("{prefix}{}", tensor.name), view)
    });
    let views: HashMap<String, TensorView> = views.collect();
    fs::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn logits_of_tensors_are_those_of_the_evaluation_graph() {
    let program = Program::with_scenes();
    let run = program.trains("");
    let weights = program.checkpoint(&run, "last.safetensors");
    let input = write_input(&program);

    let mut file = ModelFile::read(&weights, &CardOverrides::default()).unwrap();
    file.card.img_size = IMAGE_SIZE;
    let mut session = file.session(NUM_IMAGES, Device::Cpu).unwrap();
    let [images, labels, scores] =
        [values::IMAGES, values::LABELS, values::LOGITS].map(|name| session.plan(0).slot(name).unwrap());
    let nchw = Tensor::new(Shape::new(&[NUM_IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE]), input);
    session.write(&images, nchw.permuted([0, 2, 3, 1]).data()).unwrap();
    session.write(&labels, &[-1i32; NUM_IMAGES]).unwrap();
    session.run_micro_batch(0).unwrap();
    let expected = session.read::<f32>(&scores).unwrap().into_owned();

    let predict = "predict --input input.safetensors --output logits.safetensors";
    let said = program.succeeds(&format!("{predict} --weights {}", weights.display()));
    assert!(said.contains("logits of 19 images in logits.safetensors"), "{said}");
    let own = logits(&program, "logits.safetensors");
    assert_close(&own, &expected);

    for prefix in ["", "module."] {
        write_foreign(&weights, prefix, program.path("foreign.safetensors"));
        program.succeeds(&format!("{predict} --weights foreign.safetensors --model resnet18"));
        assert_eq!(logits(&program, "logits.safetensors"), own, "prefix `{prefix}`");
    }
}

#[test]
fn eval_says_what_the_run_said() {
    let program = Program::with_scenes();
    let said = program.succeeds(SMALL_RUN);
    let run = program.only_run("runs");
    let errors = said.split(" on 20 images").next().unwrap();
    let weights = format!("--weights {}", program.checkpoint(&run, "last.safetensors").display());
    let eval = program.succeeds(&format!("eval {weights} --data-dir scenes --batch-size 7"));
    assert!(eval.contains(errors) && eval.contains("on 20 val images"), "{said}{eval}");
    let of_run = program.succeeds(&format!("eval --run {}", run.display()));
    assert!(of_run.contains("20 val images") && of_run.contains("windmill"), "{of_run}");
    let train = program.succeeds(&format!("eval --run {} --split train", run.display()));
    assert!(train.contains("40 train images"), "{train}");

    // The same weights without a word about themselves.
    write_foreign(
        &program.checkpoint(&run, "last.safetensors"),
        "module.",
        program.path("foreign.safetensors"),
    );
    let foreign = "eval --weights foreign.safetensors --model resnet18 --img-size 32 --data-dir scenes";
    let foreign = program.succeeds(foreign);
    assert!(foreign.contains(errors), "{said}{foreign}");
}

#[test]
fn photos_get_the_names_of_their_categories() {
    let program = Program::with_scenes();
    let run = program.trains("");
    let photos = "scenes/images/val/00000001.jpg scenes/images/val/00000002.jpg";
    let said = program.succeeds(&format!("predict {photos} --run {}", run.display()));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 12, "{said}");
    for photo in lines.chunks(6) {
        assert!(photo[0].ends_with(".jpg"), "{said}");
        let shares = photo[1..].iter().map(|line| {
            let (share, name) = line.trim().split_once(" %  ").unwrap();
            assert!(residuum::data::scenes::CATEGORIES.contains(&name), "{line}");
            share.parse::<f64>().unwrap()
        });
        let shares: Vec<f64> = shares.collect();
        assert!(shares.is_sorted_by(|a, b| a >= b) && shares.iter().sum::<f64>() <= 100.3, "{said}");
    }

    let run = format!("--run {}", run.display());
    fs::write(program.path("empty.jpg"), "").unwrap();
    fs::write(program.path("text.jpg"), "text").unwrap();
    program.fails(&format!("predict none.jpg {run}"), 1, &["cannot read none.jpg"]);
    program.fails(&format!("predict empty.jpg {run}"), 4, &["empty.jpg", "the file is empty"]);
    program.fails(&format!("predict text.jpg {run}"), 4, &["text.jpg", "is no JPEG, PNG"]);

    // Tensors of a shape or name that cannot be meant.
    let predict = format!("predict --input input.safetensors --output out.safetensors {run}");
    program.fails(&predict, 1, &["cannot open input.safetensors"]);
    for (name, shape) in [("input", vec![2, 1, 8, 8]), ("input", vec![2, 3, 8, 9]), ("input", vec![3, 8, 8])]
    {
        write_tensor(&program, name, &shape, &vec![0.0; shape.iter().product()]);
        program.fails(&predict, 4, &["input.safetensors", "[N, 3, S, S]", &format!("{shape:?}")]);
    }
    write_tensor(&program, "images", &[1, 3, 8, 8], &[0.0; 192]);
    program.fails(&predict, 4, &["input.safetensors", "no tensor `input`"]);
    fs::write(program.path("input.safetensors"), "garbage").unwrap();
    program.fails(&predict, 1, &["input.safetensors"]);
    write_input(&program);
    let nowhere = predict.replace("out.safetensors", "no/such/out.safetensors");
    program.fails(&nowhere, 2, &["no/such/out.safetensors", "no folder no/such", "make it"]);
}

#[test]
fn real_photos_train() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/miniplaces");
    let root = std::env::var_os("MINIPLACES").map_or(beside, PathBuf::from);
    if !root.join("train.txt").exists() {
        eprintln!("skipped: no MiniPlaces photos");
        return;
    }
    let program = Program::new();
    let call = format!(
        "train --data-dir {} --categories 20 --limit-train 128 --img-size 32 --batch-size 16 --max-steps 3",
        root.display()
    );
    let said = program.succeeds(&call);
    assert!(said.contains("top-1 error") && said.contains("after 1 epoch "), "{said}");
}
