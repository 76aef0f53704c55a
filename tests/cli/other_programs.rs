//! What a run writes, read by TensorBoard and by pandas.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{Program, texts};
use crate::python::python_with;

/// The column `name` of rows of a table.
fn column<'a>(rows: &'a Value, name: &'a str) -> Vec<&'a Value> {
    rows.as_array().unwrap().iter().map(|row| &row[name]).collect()
}

#[track_caller]
fn assert_numbers(found: &[&Value], expected: impl Iterator<Item = f64>, tolerance: f64) {
    let expected: Vec<f64> = expected.collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        let error = (found.as_f64().unwrap() - expected).abs();
        assert!(error <= tolerance * expected.abs(), "{found} is not {expected}");
    }
}

#[test]
fn tensorboard_and_pandas_read_what_the_program_itself_reads() {
    let Some(python) = python_with("pandas, tensorboard") else { return };
    let program = Program::with_scenes();
    let run = program.trains("--log-interval 1 --checkpoint-hist 2");
    // The second epoch once more, as after a kill: its lines are there twice, in two files of events.
    fs::copy(
        program.checkpoint(&run, "epoch-0001.state.safetensors"),
        program.checkpoint(&run, "last.state.safetensors"),
    )
    .unwrap();
    program.succeeds(&format!("train --resume {}", run.display()));
    let image = fs::read(program.path("scenes/images/val/00000001.jpg")).unwrap();
    let names = ["=1+1, \"quoted\".jpg", "two\nlines.jpg", "\u{e9}.jpg"];
    fs::create_dir(program.path("photos")).unwrap();
    names.iter().for_each(|name| fs::write(program.path("photos").join(name), &image).unwrap());
    for (file, call) in [
        ("predictions.csv", format!("predict --run {} --csv --top 2 photos", run.display())),
        ("evaluation.csv", format!("eval --run {} --csv", run.display())),
    ] {
        fs::write(program.path(file), program.succeeds(&call)).unwrap();
    }

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/read_run.py");
    let mut command = program.settle(Command::new(python));
    let output = command.arg(script).arg(&run).args(["predictions.csv", "evaluation.csv"]).output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stderr}");
    let read: Value = serde_json::from_str(&stdout).unwrap();
    let records = program.records(&run);
    let (steps, epochs) = (&records.steps, &records.epochs);
    assert_eq!((steps.len(), epochs.len()), (10, 2));

    assert_numbers(&column(&read["steps"], "step"), steps.iter().map(|step| step.step as f64), 0.0);
    assert_numbers(&column(&read["steps"], "loss"), steps.iter().map(|step| step.loss), 1e-14);
    // TensorBoard keeps f32.
    let events = |tag: &str, place: usize| -> Vec<&Value> {
        read["tensorboard"][tag].as_array().unwrap().iter().map(|event| &event[place]).collect()
    };
    for (tag, of_step) in [
        ("train/loss", steps.iter().map(|step| step.loss).collect::<Vec<f64>>()),
        ("train/lr", steps.iter().map(|step| step.lr).collect()),
    ] {
        assert_numbers(&events(tag, 0), steps.iter().map(|step| step.step as f64), 0.0);
        assert_numbers(&events(tag, 1), of_step.into_iter(), 1e-7);
    }
    assert_numbers(&events("val/loss", 0), epochs.iter().map(|epoch| epoch.step as f64), 0.0);
    assert_numbers(&events("val/loss", 1), epochs.iter().map(|epoch| epoch.eval_loss), 1e-7);
    assert_numbers(&events("val/top1_error", 1), epochs.iter().map(|epoch| epoch.eval_err1), 1e-7);

    // summary.csv has six decimals.
    assert_numbers(&column(&read["summary"], "eval_loss"), epochs.iter().map(|epoch| epoch.eval_loss), 1e-6);
    assert_numbers(&column(&read["summary"], "lr"), epochs.iter().map(|epoch| epoch.lr), 1e-9);
    let (labels, guesses) = (column(&read["of_images"], "label"), column(&read["of_images"], "guess"));
    let num_wrong = labels.iter().zip(&guesses).filter(|(label, guess)| label != guess).count();
    assert_eq!((labels.len(), 5.0 * num_wrong as f64), (20, epochs[1].eval_err1));

    let images = column(&read["predictions"], "image");
    for name in names {
        let path = format!("photos/{name}");
        assert_eq!(
            images.iter().filter(|image| image.as_str() == Some(&path)).count(),
            2,
            "{path}: {images:?}"
        );
    }
    let best = epochs.iter().map(|epoch| epoch.eval_err1).min_by(f64::total_cmp).unwrap();
    let errors = column(&read["evaluation"], "top1_error");
    let mean = errors.iter().map(|error| error.as_f64().unwrap()).sum::<f64>() / errors.len() as f64;
    assert_eq!((errors.len(), mean), (10, best));
}
