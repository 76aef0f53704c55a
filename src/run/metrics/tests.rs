use std::fs;

use serde_json::Value;

use super::*;

fn run(step: u64) -> Run {
    Run {
        step,
        model: "resnet18".into(),
        data: "scenes".into(),
        device: "cpu".into(),
        parameters: 11_181_642,
        train_images: 2_000,
        val_images: 500,
        img_size: 64,
        batch_size: 32,
        epochs: 3,
        data_dir: None,
        command: vec![],
        seed: 7,
    }
}

fn step(step: u64, loss: f64) -> Step {
    Step {
        epoch: step / 10,
        step,
        samples: step * 32,
        loss,
        lr: 0.05,
        grad_norm: Some(1.25),
        img_s: 80.5,
        step_ms: 397.5,
        data_wait_ms: 0.25,
        h2d_ms: None,
        gpu_ms: None,
        exchange_ms: None,
        mem_mib: 512.0,
    }
}

fn epoch(epoch: u64, eval_loss: f64) -> Epoch {
    Epoch {
        epoch,
        step: (epoch + 1) * 10,
        samples: (epoch + 1) * 320,
        lr: 0.025,
        train_loss: 1.5,
        train_err1: 40.0,
        eval_n: 500,
        eval_loss,
        eval_err1: 35.5,
        eval_err5: 4.25,
        train_seconds: 12.5,
        data_wait_seconds: 0.5,
        img_s: 80.0,
    }
}

fn eval(step: u64) -> Eval {
    Eval {
        epoch: 0,
        step,
        split: "val".into(),
        n: 3,
        loss: 1.0,
        top1: 0.0,
        top5: 0.0,
        err1: 0.0,
        err5: 0.0,
        ema: false,
        seconds: 2.0,
    }
    .with_correct(1, 3)
}

fn event(step: u64, name: &str) -> Event {
    Event { step, event: name.into(), message: "why".into() }
}

#[test]
fn lines_have_the_fields_that_other_programs_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::open(&path).unwrap();
    log.append(&step(12, 0.75)).unwrap();
    log.append(&eval(12)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();

    assert!(text.starts_with(r#"{"v":1,"kind":"step","t":"#), "{text}");
    assert!(lines[0]["t"].as_f64().unwrap() > 1.7e9);
    for (field, value) in [("epoch", 1.0), ("step", 12.0), ("samples", 384.0), ("loss", 0.75), ("lr", 0.05)] {
        assert_eq!(lines[0][field].as_f64(), Some(value), "{field}");
    }
    for (field, value) in [("grad_norm", 1.25), ("img_s", 80.5), ("data_wait_ms", 0.25), ("mem_mib", 512.0)] {
        assert_eq!(lines[0][field].as_f64(), Some(value), "{field}");
    }
    assert_eq!(lines[0].get("h2d_ms"), None, "there is no copy on a CPU");
    assert_eq!(lines[1]["kind"], "eval");
    assert_eq!(
        (&lines[1]["split"], &lines[1]["n"], &lines[1]["ema"]),
        (&"val".into(), &3.into(), &false.into())
    );
    for (field, value) in [("top1", 100.0 / 3.0), ("err1", 200.0 / 3.0), ("top5", 100.0), ("err5", 0.0)] {
        assert_eq!(lines[1][field].as_f64(), Some(value), "{field}");
    }
}

#[test]
fn records_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::open(&path).unwrap();
    log.append(&run(0)).unwrap();
    log.append(&step(10, 0.1 + 0.2)).unwrap();
    log.append(&eval(10)).unwrap();
    log.append(&epoch(0, 0.25)).unwrap();
    log.append(&event(10, "checkpoint")).unwrap();
    let records = read(&path).unwrap();
    assert_eq!(records.runs, [run(0)]);
    assert_eq!(records.steps, [step(10, 0.1 + 0.2)]);
    assert_eq!(records.evals, [eval(10)]);
    assert_eq!(records.epochs, [epoch(0, 0.25)]);
    assert_eq!(records.events, [event(10, "checkpoint")]);
}

#[test]
fn a_number_that_is_none_is_null_and_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::open(&path).unwrap();
    log.append(&step(3, f64::NAN)).unwrap();
    log.append(&epoch(0, f64::INFINITY)).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains(r#""loss":null"#));
    let records = read(&path).unwrap();
    assert!(records.steps[0].loss.is_nan());
    assert!(records.epochs[0].eval_loss.is_nan());
    let messages: Vec<&str> = records.events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages, ["loss of the step line is NaN", "eval_loss of the epoch line is inf"]);
    assert_eq!(records.events[0].step, 3);
}

#[test]
fn a_resumed_run_replaces_what_came_after_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::open(&path).unwrap();
    log.append(&run(0)).unwrap();
    for number in [5, 10, 15] {
        log.append(&step(number, 1.0)).unwrap();
    }
    log.append(&epoch(0, 1.0)).unwrap();
    drop(log);
    // Killed while it wrote; the checkpoint is that of step 5.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(br#"{"v":1,"kind":"step","t":17"#).unwrap();
    assert_eq!(read(&path).unwrap().steps.len(), 3, "an unfinished line is left out");

    let mut log = MetricsLog::open(&path).unwrap();
    log.append(&run(5)).unwrap();
    log.append(&step(10, 2.0)).unwrap();
    let records = read(&path).unwrap();
    assert_eq!(records.steps, [step(5, 1.0), step(10, 2.0)]);
    assert_eq!(records.epochs, []);
    assert_eq!(records.runs.len(), 2);
}

#[test]
fn an_evaluation_of_the_same_step_replaces_the_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::open(&path).unwrap();
    for loss in [1.0, 2.0] {
        // Killed after the lines of the epoch and before its checkpoint: that of its last step is there already.
        log.append(&run(epoch(0, loss).step)).unwrap();
        log.append(&eval(10)).unwrap();
        log.append(&epoch(0, loss)).unwrap();
    }
    let records = read(&path).unwrap();
    assert_eq!(records.epochs, [epoch(0, 2.0)]);
    assert_eq!(records.evals, [eval(10)]);
}

#[test]
fn an_unfinished_line_longer_than_a_block_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    for (kept, torn) in [(0, 1), (1, 4095), (1, 4096), (2, 9000), (0, 9000), (3, 0)] {
        let whole = "{}\n".repeat(kept);
        fs::write(&path, format!("{whole}{}", "x".repeat(torn))).unwrap();
        drop(MetricsLog::open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), whole, "{kept} lines, {torn} bytes torn");
    }
}

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let first = MetricsLog::open(&path).unwrap();
    let error = MetricsLog::open(&path).unwrap_err();
    assert!(error.to_string().contains("another process is training"), "{error}");
    drop(first);
    MetricsLog::open(&path).unwrap();
}

#[test]
fn a_damaged_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::open(&path).unwrap();
    log.append(&event(1, "checkpoint")).unwrap();
    fs::write(&path, [fs::read(&path).unwrap(), b"{\"kind\":\"step\"}\n".to_vec()].concat()).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl: line 2 is not a record of a run (missing field"), "{error}");
}

#[test]
fn the_summary_has_the_columns_of_timm() {
    let text = summary_csv(&[epoch(0, 2.0), epoch(1, f64::NAN)]);
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n\
         0,1.500000,2.000000,64.5000,95.7500,2.5e-2\n\
         1,1.500000,NaN,64.5000,95.7500,2.5e-2\n"
    );
}

#[test]
fn what_a_failed_write_left_of_a_line_is_cut_off_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::open(&path).unwrap();
    log.append(&step(1, 0.5)).unwrap();
    // As a disk that is full after half a line.
    let sound = std::mem::replace(&mut log.file, fs::File::open(&path).unwrap());
    log.append(&step(2, 0.5)).unwrap_err();
    fs::write(&path, [&fs::read(&path).unwrap()[..], b"{\"v\":1,\"kind\":\"st"].concat()).unwrap();
    log.file = sound;
    log.append(&step(3, 0.5)).unwrap();
    let steps: Vec<u64> = read(&path).unwrap().steps.iter().map(|step| step.step).collect();
    assert_eq!(steps, [1, 3]);
}
