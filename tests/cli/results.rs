//! What `predict` and `eval` tell other programs, and that they agree.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use image::imageops;
use residuum::infer::model_file::{CardOverrides, ModelFile};
use residuum::run::checkpoint::NamedTensor;
use serde_json::Value;

use crate::program::{Program, failed, texts};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// A run on scenes whose best weights are replaced by those of a network that is sure of itself: probabilities of all
/// but one category round to 0.
fn sure_run(program: &Program) -> PathBuf {
    let run = program.trains("");
    let best = program.checkpoint(&run, "best.safetensors");
    let file = ModelFile::read(&best, &CardOverrides::default()).unwrap();
    let tensors = file.tensors().iter().map(|tensor| match tensor.as_f32() {
        Some(elems) if tensor.name.starts_with("fc.") => {
            let elems: Vec<f32> = elems.iter().map(|elem| 3000.0 * elem).collect();
            NamedTensor::f32(tensor.name.clone(), &tensor.shape, elems)
        }
        _ => tensor.clone(),
    });
    ModelFile::new(&best, file.card.clone(), tensors.collect()).write(&best).unwrap();
    run
}

#[test]
fn predict_and_submissions_rank_as_eval_counts() {
    let program = Program::with_scenes();
    let run = format!("--run {}", sure_run(&program).display());
    let list = fs::read_to_string(program.path("scenes/val.txt")).unwrap();
    let labels: HashMap<&str, u64> = list
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(p, l)| (p, l.parse().unwrap()))
        .collect();
    for flags in ["", "--tta", "--tta-sizes 32,48"] {
        let eval = json(&program.succeeds(&format!("eval {run} --json {flags}")));
        let predict = format!("predict {run} --json {flags} scenes/images/val");
        let answers = json(&program.succeeds(&predict));
        let submission = format!("predict {run} --submission out.txt --split val {flags}");
        program.succeeds(&submission);
        let submitted = fs::read_to_string(program.path("out.txt")).unwrap();
        let (mut top1, mut top5, mut num_impossible) = (0, 0, 0);
        for answer in answers.as_array().unwrap() {
            let path = answer["image"].as_str().unwrap().strip_prefix("scenes/images/").unwrap();
            let predictions = answer["predictions"].as_array().unwrap();
            let guesses: Vec<u64> = predictions.iter().map(|p| p["label"].as_u64().unwrap()).collect();
            num_impossible += predictions.iter().filter(|p| p["probability"] == 0.0).count();
            top1 += u64::from(guesses[0] == labels[path]);
            top5 += u64::from(guesses.contains(&labels[path]));
            let line = submitted.lines().find(|line| line.starts_with(path)).unwrap();
            let numbers: Vec<u64> = line.split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
            assert_eq!(numbers, guesses);
        }
        assert!(num_impossible > 20, "probabilities round to 0: {num_impossible}");
        for (error, hits) in [("top1_error", top1), ("top5_error", top5)] {
            let expected = 100.0 * (1.0 - hits as f64 / 20.0);
            assert!((eval[error].as_f64().unwrap() - expected).abs() < 1e-9, "{flags} {error}");
        }
        assert!(eval["loss"].as_f64().unwrap() > 100.0, "a finite loss, however wrong: {}", eval["loss"]);
    }
}

#[test]
fn predict_answers_for_folders_as_text_json_and_csv() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("--max-steps 2").display());
    let text = program.succeeds(&format!("predict {run} scenes/images/val --top 3"));
    assert_eq!(text.lines().count(), 20 * 4);
    let answers = json(&program.succeeds(&format!("predict {run} scenes/images/val --top 3 --json")));
    let csv = program.succeeds(&format!("predict {run} scenes/images/val --top 3 --csv"));
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    assert_eq!(rows.headers().unwrap(), vec!["image", "rank", "label", "category", "probability"]);
    let mut rows = rows.records().map(Result::unwrap);
    for answer in answers.as_array().unwrap() {
        for (rank, prediction) in (1..).zip(answer["predictions"].as_array().unwrap()) {
            let row = rows.next().unwrap();
            let numbers = [&row[1], &row[2], &row[4]].map(|field| field.parse::<f64>().unwrap());
            let probability = prediction["probability"].as_f64().unwrap();
            assert_eq!(numbers[..2], [f64::from(rank), prediction["label"].as_f64().unwrap()]);
            assert!((numbers[2] - probability).abs() < 1e-6);
            assert_eq!(
                (&row[0], &row[3]),
                (answer["image"].as_str().unwrap(), prediction["category"].as_str().unwrap())
            );
        }
    }
    assert!(rows.next().is_none());
    // More than there are is all of them.
    let all =
        json(&program.succeeds(&format!("predict {run} scenes/images/val/00000001.jpg --top 99 --json")));
    let all: Vec<f64> = all[0]["predictions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["probability"].as_f64().unwrap())
        .collect();
    assert!(all.len() == 10 && (all.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{all:?}");
    fs::create_dir(program.path("none")).unwrap();
    program.fails(&format!("predict {run} none"), 4, &["none", "no photos"]);
    program.fails(&format!("predict {run} scenes/images/val --top 0"), 2, &["--top"]);
}

#[test]
fn one_bad_photo_does_not_cost_the_others() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("--max-steps 2").display());
    let val = program.path("scenes/images/val");
    fs::write(val.join("00000005.jpg"), "text").unwrap();
    fs::write(val.join("notes.txt"), "text").unwrap();
    let call = format!("predict {run} scenes/images/val --output sheet.png --json");
    let output = program.command(&call).output().unwrap();
    failed(&output, &call, 4, &["00000005.jpg", "is no JPEG, PNG", "notes.txt"]);
    let answers = json(&texts(&output).0);
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 20);
    for answer in answers {
        let bad = answer["image"].as_str().unwrap().ends_with("00000005.jpg");
        assert_eq!(answer["error"].is_string(), bad);
        assert_eq!(answer["predictions"].is_array(), !bad);
    }
    assert!(program.path("sheet.png").exists());
    let call = format!("predict {run} none.jpg scenes/images/val --csv");
    let output = program.command(&call).output().unwrap();
    failed(
        &output,
        &call,
        4,
        &["cannot read none.jpg", "00000005.jpg", "2 of 21 photos", "the others are done"],
    );
    assert_eq!(texts(&output).0.lines().count(), 1 + 19 * 5);
}

#[test]
fn a_full_picture_costs_no_answer() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("--max-steps 1").display());
    let many = vec!["scenes/images/val/00000001.jpg"; 66].join(" ");
    let call = format!("predict {run} {many} --top 1 --output many.png");
    let output = program.command(&call).output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success() && stderr.contains("room for 64 photos"), "{stderr}");
    assert_eq!(stdout.lines().count(), 66 * 2 + 1);
    assert!(program.path("many.png").exists());
}

#[test]
fn eval_tells_errors_by_category_as_json_and_csv() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("").display());
    let eval = json(&program.succeeds(&format!("eval {run} --json")));
    assert_eq!((eval["split"].as_str(), eval["images"].as_u64()), (Some("val"), Some(20)));
    let categories = eval["categories"].as_array().unwrap();
    let wrong: f64 = categories
        .iter()
        .filter_map(|row| Some(row["images"].as_f64()? * row["top1_error"].as_f64()? / 100.0))
        .sum();
    assert!((5.0 * wrong - eval["top1_error"].as_f64().unwrap()).abs() < 1e-9);
    let csv = program.succeeds(&format!("eval {run} --csv"));
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    for (row, category) in rows.records().map(Result::unwrap).zip(categories) {
        assert_eq!(&row[1], category["category"].as_str().unwrap());
        assert_eq!(row[3].parse::<f64>().ok(), category["top1_error"].as_f64());
        assert_eq!(Some(&row[4]).filter(|name| !name.is_empty()), category["most_taken_for"].as_str());
    }
    assert_eq!(categories.len(), 10);
    program.fails(&format!("eval {run} --csv --json"), 2, &["--csv", "--json"]);
}

/// Copies the scenes of one split into `to/<category>/`, for the categories that `wanted` holds for.
fn class_folders(program: &Program, split: &str, to: &str, wanted: impl Fn(&str) -> bool) -> usize {
    let list = fs::read_to_string(program.path(format!("scenes/{split}.txt"))).unwrap();
    let mut count = 0;
    for line in list.lines() {
        let (path, label) = line.split_once(' ').unwrap();
        let name = residuum::data::scenes::CATEGORIES[label.parse::<usize>().unwrap()];
        if wanted(name) {
            let folder = program.path(to).join(name);
            fs::create_dir_all(&folder).unwrap();
            let from = program.path("scenes/images").join(path);
            fs::copy(&from, folder.join(Path::new(path).file_name().unwrap())).unwrap();
            count += 1;
        }
    }
    count
}

#[test]
fn eval_takes_a_data_set_with_one_split() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("").display());
    let errors = |flags: &str| -> BTreeMap<String, Value> {
        let eval = json(&program.succeeds(&format!("eval {run} --json {flags}")));
        let rows = eval["categories"].as_array().unwrap().iter();
        rows.map(|row| (row["category"].as_str().unwrap().to_string(), row["top1_error"].clone())).collect()
    };
    let whole = errors("");
    class_folders(&program, "val", "photos", |_| true);
    assert_eq!(errors("--data-dir photos"), whole, "class folders and nothing else");
    class_folders(&program, "val", "tested/test", |_| true);
    assert_eq!(errors("--data-dir tested --split test"), whole);
    program.fails(
        &format!("eval {run} --data-dir tested"),
        4,
        &["looked for val, valid, validation", "found test"],
    );

    // Some of the categories: labels are those of the model.
    let wanted = |name: &str| ["windmill", "castle"].contains(&name);
    let count = class_folders(&program, "val", "some/valid", wanted);
    let some = errors("--data-dir some");
    for (name, error) in &whole {
        assert_eq!(&some[name], if wanted(name) { error } else { &Value::Null }, "{name}");
    }
    let said = program.succeeds(&format!("eval {run} --data-dir some"));
    assert!(said.contains(&format!("on {count} val images")), "{said}");

    // MiniPlaces without its training list, and its test photos, which have no labels.
    fs::remove_file(program.path("scenes/train.txt")).unwrap();
    assert_eq!(errors(""), whole);
    program.fails(&format!("eval {run} --split test"), 4, &["no test.txt", "no labels", "predict"]);
    fs::create_dir_all(program.path("flat/test")).unwrap();
    fs::copy(program.path("scenes/images/val/00000001.jpg"), program.path("flat/test/1.jpg")).unwrap();
    program.fails(&format!("eval {run} --data-dir flat --split test"), 4, &["no class folders", "predict"]);
    class_folders(&program, "val", "other/val", wanted);
    fs::rename(program.path("other/val/castle"), program.path("other/val/hovel")).unwrap();
    program.fails(&format!("eval {run} --data-dir other"), 1, &["hovel", "--data-dir"]);
}

#[test]
fn the_middle_of_a_photo_is_shown_where_that_is_asked_for() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("").display());
    let photo = image::open(program.path("scenes/images/val/00000001.jpg")).unwrap().to_rgb8();
    let large = imageops::resize(&photo, 90, 64, imageops::FilterType::Triangle);
    large.save(program.path("large.png")).unwrap();
    imageops::crop_imm(&large, 29, 16, 32, 32).to_image().save(program.path("middle.png")).unwrap();
    let predictions = |args: &str| {
        json(&program.succeeds(&format!("predict {run} --json {args}")))[0]["predictions"].clone()
    };
    let middle = predictions("middle.png");
    assert_eq!(predictions("large.png --val-resize-size 64"), middle);
    assert_eq!(predictions("large.png --crop-pct 0.5"), middle);
    assert_ne!(predictions("large.png"), middle);

    // The same of a data set, packed.
    fs::create_dir_all(program.path("one/val/castle")).unwrap();
    fs::create_dir_all(program.path("two/val/castle")).unwrap();
    fs::copy(program.path("large.png"), program.path("one/val/castle/1.png")).unwrap();
    fs::copy(program.path("middle.png"), program.path("two/val/castle/1.png")).unwrap();
    let loss = |args: &str| json(&program.succeeds(&format!("eval {run} --json {args}")))["loss"].clone();
    assert_eq!(loss("--data-dir one --crop-pct 0.5"), loss("--data-dir two"));
    assert_ne!(loss("--data-dir one"), loss("--data-dir two"));

    for (flags, parts) in [
        ("--crop-pct 0", vec!["--crop-pct 0", "0.875"]),
        ("--crop-pct 1.5", vec!["--crop-pct 1.5", "at most 1"]),
        ("--val-resize-size 16", vec!["--val-resize-size 16", "at least", "32"]),
        ("--val-resize-size 64 --crop-pct 0.5", vec!["--val-resize-size", "--crop-pct"]),
        ("--crop-pct 0.001", vec!["--crop-pct 0.001", "at least 0.008"]),
        ("--val-resize-size 5000", vec!["--val-resize-size 5000", "at most 4096"]),
        ("--tta-sizes 32,7", vec!["--tta-sizes 7", "from 8 to 1024"]),
        ("--tta-sizes 5000", vec!["--tta-sizes 5000", "from 8 to 1024"]),
    ] {
        program.fails(&format!("predict {run} large.png {flags}"), 2, &parts);
    }
}

#[test]
fn scores_at_several_sizes_are_averaged() {
    let program = Program::with_scenes();
    let run = format!("--run {}", program.trains("").display());
    let log_probabilities = |flags: &str| -> BTreeMap<u64, f64> {
        let call = format!("predict {run} scenes/images/val/00000003.jpg --top 10 --json {flags}");
        let answers = json(&program.succeeds(&call));
        let rows = answers[0]["predictions"].as_array().unwrap().iter();
        rows.map(|p| (p["label"].as_u64().unwrap(), p["probability"].as_f64().unwrap().ln())).collect()
    };
    let [small, large] = ["--img-size 32", "--img-size 64"].map(log_probabilities);
    let mean: BTreeMap<u64, f64> =
        small.iter().map(|(label, score)| (*label, 0.5 * (score + large[label]))).collect();
    let total = mean.values().map(|score| score.exp()).sum::<f64>().ln();
    for (label, score) in log_probabilities("--tta-sizes 32,64") {
        assert!((score - (mean[&label] - total)).abs() < 1e-4, "{label}: {score}");
    }
    let eval = json(&program.succeeds(&format!("eval {run} --tta-sizes 32,64 --tta --json")));
    assert_eq!((eval["sizes"].clone(), eval["mirrored"].clone()), (serde_json::json!([32, 64]), true.into()));
}
