//! What a trained model is used for: pictures, explanations, submissions, files for other programs.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use image::imageops;
use residuum::run::checkpoint::{self, NamedTensor};
use serde_json::Value;

use crate::program::{PHOTO, Program, failed, signal};

/// Extents of the PNG at `path`.
fn extents(path: &Path) -> (u32, u32) {
    let bytes = fs::read(path).unwrap();
    assert!(bytes.starts_with(b"\x89PNG"), "{}", path.display());
    let image = image::load_from_memory(&bytes).unwrap();
    (image.width(), image.height())
}

#[test]
fn photos_are_drawn_and_explained() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("--max-steps 2").display());
    let photos: Vec<String> =
        (1..=3).map(|number| format!("scenes/images/val/0000000{number}.jpg")).collect();
    let predict = format!("predict {run} {}", photos.join(" "));
    let said =
        program.succeeds(&format!("{predict} --output sheet.png --explain heat.png --category castle"));
    assert!(said.contains("picture: sheet.png") && said.contains("where it was seen: heat.png"), "{said}");
    // Two columns and two rows; a photo is 256 pixels wide, an explained one twice that.
    let (width, height) = extents(&program.path("sheet.png"));
    assert!((2 * 256..3 * 256).contains(&width) && height > 2 * 256, "{width} {height}");
    let (width, height) = extents(&program.path("heat.png"));
    assert!((4 * 256..5 * 256).contains(&width) && (2 * 256..3 * 256).contains(&height), "{width} {height}");

    let one = format!("predict {run} {PHOTO}");
    let unknown = format!("{one} --explain heat.png --category cas");
    program.fails(&unknown, 2, &["--category `cas`", "10 categories", "castle"]);
    program.fails(
        &format!("{one} --output no/such.png"),
        2,
        &["--output no/such.png", "no folder no", "make it"],
    );
    program.fails(&format!("{one} --explain heat.jpg"), 2, &["--explain heat.jpg", "end in .png"]);
    program.fails(&format!("{one} --category castle"), 2, &["--explain"]);
    program.fails(&format!("predict {run}"), 2, &["PHOTO", "--input", "--submission"]);
    fs::write(program.path("text.jpg"), "text").unwrap();
    program.fails(&format!("predict {run} text.jpg --output t.png"), 4, &["text.jpg", "is no JPEG, PNG"]);
    assert!(!program.path("t.png").exists());
}

#[test]
fn two_views_see_a_photo_and_its_mirror_image_alike() {
    let program = Program::with_scenes();
    let run = program.trains("");
    let run = format!("--run {}", run.display());
    let photo = image::open(program.path(PHOTO)).unwrap().to_rgb8();
    photo.save(program.path("photo.png")).unwrap();
    imageops::flip_horizontal(&photo).save(program.path("mirrored.png")).unwrap();
    let shares = |name: &str, flags: &str| {
        let said = program.succeeds(&format!("predict {run} {name} {flags}"));
        said.split_once('\n').unwrap().1.to_string()
    };
    assert_eq!(shares("photo.png", "--tta"), shares("mirrored.png", "--tta"));
    assert_ne!(shares("photo.png", ""), shares("mirrored.png", ""));
    let eval = program.succeeds(&format!("eval {run} --tta --batch-size 7"));
    assert!(eval.contains("on 20 val images") && eval.contains("top-5 error"), "{eval}");
    assert_eq!(eval.lines().skip(1).collect::<Vec<_>>(), {
        let whole = program.succeeds(&format!("eval {run} --tta --batch-size 20"));
        whole.lines().skip(1).map(str::to_string).collect::<Vec<_>>()
    });
}

#[test]
fn eval_draws_the_confusion_matrix() {
    let program = Program::with_scenes();
    let eval = format!("eval --run {}", program.trains("--max-steps 1").display());
    let said = program.succeeds(&format!("{eval} --confusion confusion.png"));
    assert!(said.contains("confusion matrix: confusion.png"), "{said}");
    let (width, height) = extents(&program.path("confusion.png"));
    assert!(width > 10 * 34 && height > 10 * 34, "{width} {height}");
    program.fails(
        &format!("{eval} --confusion no/such.png"),
        2,
        &["--confusion no/such.png", "no folder no"],
    );
}

#[test]
fn a_submission_has_five_labels_for_each_photo_of_the_split() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("").display());
    let submit = format!("predict {run} --submission out.txt");
    let said = program.succeeds(&format!("{submit} --split val --tta"));
    assert!(said.contains("20 photos of the val split in out.txt"), "{said}");
    program.succeeds(&format!("{submit} --split val"));
    let text = fs::read_to_string(program.path("out.txt")).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 20);
    for (number, line) in (1..).zip(&lines) {
        assert_eq!((line.len(), line[0]), (6, format!("val/{number:08}.jpg").as_str()));
        let mut labels: Vec<u32> = line[1..].iter().map(|label| label.parse().unwrap()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert!(labels.len() == 5 && labels[4] < 10, "{line:?}");
    }
    // The labels are those that `predict` names, in its order.
    let said = program.succeeds(&format!("predict {run} {PHOTO}"));
    let names = said.lines().skip(1).map(|line| line.split_once(" %  ").unwrap().1);
    let labels = names.map(|name| residuum::data::scenes::CATEGORIES.iter().position(|known| *known == name));
    let labels: Vec<String> = labels.map(|label| label.unwrap().to_string()).collect();
    assert_eq!(lines[0][1..], labels);

    // The test split is the default.
    program.fails(&submit, 4, &["no photos of the test split", "images/test"]);
    let test = program.path("scenes/images/test");
    fs::create_dir(&test).unwrap();
    for number in [2, 1, 4] {
        fs::copy(program.path(PHOTO), test.join(format!("{number:08}.jpg"))).unwrap();
    }
    program.fails(&submit, 4, &["1 of the 4 photos of the test split", "test/00000003.jpg", "put them back"]);
    fs::write(test.join("00000003.jpg"), "text").unwrap();
    program.fails(&submit, 4, &["00000003.jpg", "is no JPEG, PNG"]);
    fs::copy(program.path(PHOTO), test.join("00000003.jpg")).unwrap();
    program.succeeds(&submit);
    let text = fs::read_to_string(program.path("out.txt")).unwrap();
    let paths: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert_eq!(paths, ["test/00000001.jpg", "test/00000002.jpg", "test/00000003.jpg", "test/00000004.jpg"]);

    // Photos missing from the split matter, photos missing from others do not.
    fs::remove_file(program.path("scenes/images/train").join(first_train_photo(&program))).unwrap();
    program.succeeds(&submit);
    for number in 3..=9 {
        fs::remove_file(program.path(format!("scenes/images/val/{number:08}.jpg"))).unwrap();
    }
    let parts = ["7 of the 20 photos of the val split", "val/00000003.jpg", "..."];
    program.fails(&format!("{submit} --split val"), 4, &parts);
    assert_eq!(
        fs::read_to_string(program.path("out.txt")).unwrap(),
        text,
        "a refused submission writes nothing"
    );
}

/// The path of the first image of `train.txt` below `images/train`.
fn first_train_photo(program: &Program) -> String {
    let list = fs::read_to_string(program.path("scenes/train.txt")).unwrap();
    let path = list.split(' ').next().unwrap();
    path.strip_prefix("train/").unwrap().to_string()
}

#[test]
fn submissions_that_cannot_be_made() {
    let program = Program::new();
    program.write_classes(&["a", "b", "c"]);
    program.succeeds("train --data-dir classes --img-size 32 --batch-size 8 --epochs 1 --lr 0.01");
    let run = program.only_run("runs");
    let submit = format!("predict --run {} --submission out.txt --split val", run.display());
    program.fails(&submit, 1, &["knows 3 categories", "5 labels"]);
    let weights = program.checkpoint(&run, "last.safetensors");
    let call = format!("predict --weights {} --submission out.txt", weights.display());
    program.fails(&call, 2, &["--submission", "--data-dir"]);
    program.fails(&format!("{call} --data-dir classes a.jpg"), 2, &["--submission", "PHOTO"]);
    program.fails(&format!("{call} --data-dir classes --split train"), 2, &["--split", "train", "val"]);
    program.fails(&format!("{call} --data-dir classes --output o.png"), 2, &["--output", "--submission"]);
    assert!(!program.path("out.txt").exists());
}

#[test]
fn models_are_exported_for_other_programs() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 1");
    let said = program.succeeds(&format!("export --run {} --output model.onnx", run.display()));
    assert!(said.contains("resnet18, 10 categories, 32 pixels: model.onnx"), "{said}");
    assert!(fs::metadata(program.path("model.onnx")).unwrap().len() > 40_000_000);
    program.succeeds(&format!("export --run {} --output w.safetensors", run.display()));
    let by_weights = program.succeeds(&format!("predict --weights w.safetensors {PHOTO}"));
    assert_eq!(by_weights, program.succeeds(&format!("predict --run {} {PHOTO}", run.display())));

    let export = format!("export --run {}", run.display());
    program.fails(&format!("{export} --output model.pt"), 2, &["--output model.pt", ".onnx", "--format"]);
    program.fails(&format!("{export} --output no/such.onnx"), 2, &["no folder no"]);
    program.fails(&format!("{export} --output runs --format onnx"), 2, &["--output runs", "is a folder"]);
    let tensor = NamedTensor::f32("fc.bias", &[2], vec![1.0, 2.0]);
    checkpoint::write_atomic(&program.path("bare.safetensors"), &[tensor], &Value::Null).unwrap();
    let bare = "export --weights bare.safetensors --output model.onnx";
    program.fails(bare, 1, &["does not say which model", "--model resnet50"]);
    let other = "export --weights w.safetensors --model resnet34 --output model.onnx";
    program.fails(other, 1, &["w.safetensors", "`layer1.2.conv1.weight`"]);
}

#[cfg(unix)]
#[test]
fn a_run_stopped_after_a_resume_still_shows_its_last_evaluation() {
    let program = Program::new();
    residuum::data::scenes::write_miniplaces(&program.path("scenes"), 800, 20, 32, 7).unwrap();
    let train = "train --data-dir scenes --img-size 32 --batch-size 8 --epochs 1 --lr 0.01 --log-interval 1";
    program.succeeds(train);
    let run = program.only_run("runs");
    let page = || fs::read_to_string(program.path(&run).join("report.html")).unwrap();
    for part in ["Confusion matrix", "Surest hits", "Grad-CAM", "Time of a training step"] {
        assert!(page().contains(part), "{part}");
    }
    let config = program.path(&run).join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("epochs = 1", "epochs = 4")).unwrap();
    let resume = format!("train --resume {}", run.display());
    let mut child = program.command(&resume).stderr(Stdio::piped()).spawn().unwrap();
    program.wait_for_steps(&mut child, 102);
    signal(&child, "INT");
    failed(&child.wait_with_output().unwrap(), &resume, 130, &["stopped by"]);
    assert_eq!(program.records(&run).epochs.len(), 1, "stopped within the second epoch");
    assert!(page().contains("stopped by a signal") && page().contains("Confusion matrix"));
}
