//! `metrics.jsonl`: what a run measured, one JSON object a line, and `summary.csv`, its short form.
//!
//! The file is only ever appended to. A resumed run logs the steps after its checkpoint once more; the `run`
//! line it starts with says from which step, and [`read`] drops what that replaces. So that nothing is lost
//! in between, a trainer logs first and writes the checkpoint of the same step afterwards.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};

/// The version of the lines, their field `v`.
const VERSION: u32 = 1;

/// A line of `metrics.jsonl` without the fields all lines have: `v`, `kind` and `t`, the time in Unix
/// seconds.
pub trait Body: Serialize {
    /// The value of the field `kind`.
    const KIND: &'static str;

    /// The numbers of this line that may stop being finite. One that does is written as null, and an
    /// [`Event`] says so.
    fn numbers(&self) -> impl Iterator<Item = (&'static str, f64)> {
        std::iter::empty()
    }

    /// The optimiser step the line belongs to.
    fn step(&self) -> u64;
}

/// A process starts to train, anew or from a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Steps already done: 0, or those of the checkpoint.
    pub step: u64,
    /// The model, such as `resnet18`.
    pub model: String,
    /// The data set, such as `miniplaces`.
    pub data: String,
    /// The device, such as `cpu (2 cores)`.
    pub device: String,
    /// Trainable numbers of the model.
    pub parameters: u64,
    /// Images in the training set.
    pub train_images: u64,
    /// Images in the validation set.
    pub val_images: u64,
    /// Height and width of the network's input in pixels.
    pub img_size: u64,
    /// Images in a batch.
    pub batch_size: u64,
    /// Epochs of the run.
    pub epochs: u64,
    /// The seed of all random numbers.
    pub seed: u64,
    /// The folder of the data set; absent for generated scenes, and in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
    /// The command line, the program by its name alone; absent in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// One optimiser step, or the means since the last one logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// Optimiser steps done.
    pub step: u64,
    /// Training images seen.
    pub samples: u64,
    /// Mean training loss.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f64,
    /// The learning rate.
    #[serde(deserialize_with = "nan_if_null")]
    pub lr: f64,
    /// The norm of the gradient over all parameters before clipping, where it was computed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grad_norm: Option<f64>,
    /// Images a second.
    pub img_s: f64,
    /// Wall time of a step in milliseconds.
    pub step_ms: f64,
    /// The part of `step_ms` spent waiting for data.
    pub data_wait_ms: f64,
    /// The part of `step_ms` that the host spent copying to the device, where there is one to copy to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub h2d_ms: Option<f64>,
    /// The time the device was busy with the step, where it is not the host itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gpu_ms: Option<f64>,
    /// The part of `step_ms` that was waited for exchanges with other ranks, where there are some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exchange_ms: Option<f64>,
    /// Device memory of the run in MiB.
    pub mem_mib: f64,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// Optimiser steps done.
    pub step: u64,
    /// `val` or `test`.
    pub split: String,
    /// Images counted, each once.
    pub n: u64,
    /// Mean loss.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f64,
    /// Percent of images whose label is the first guess.
    #[serde(deserialize_with = "nan_if_null")]
    pub top1: f64,
    /// Percent of images whose label is among the first five guesses.
    #[serde(deserialize_with = "nan_if_null")]
    pub top5: f64,
    /// `100 - top1`.
    #[serde(deserialize_with = "nan_if_null")]
    pub err1: f64,
    /// `100 - top5`.
    #[serde(deserialize_with = "nan_if_null")]
    pub err5: f64,
    /// Whether the averaged weights were evaluated.
    pub ema: bool,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl Eval {
    /// Sets the four percentages from counts over the `n` images; 0 images give NaN.
    pub fn with_correct(mut self, correct1: u64, correct5: u64) -> Eval {
        let percent = |count: u64| 100.0 * count as f64 / self.n as f64;
        (self.top1, self.top5) = (percent(correct1), percent(correct5));
        // Counted, not subtracted: 100 - 14.7 is 85.3 only up to rounding.
        let wrong = |correct: u64| percent(self.n.saturating_sub(correct));
        (self.err1, self.err5) = (wrong(correct1), wrong(correct5));
        self
    }
}

/// One epoch, complete with its evaluation: a row of `summary.csv`, of the report, and of the training state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// Optimiser steps done at its end.
    pub step: u64,
    /// Training images seen at its end.
    pub samples: u64,
    /// The learning rate of its last step.
    #[serde(deserialize_with = "nan_if_null")]
    pub lr: f64,
    /// Mean training loss.
    #[serde(deserialize_with = "nan_if_null")]
    pub train_loss: f64,
    /// Top-1 error on the training images, as augmented and seen, in percent.
    #[serde(deserialize_with = "nan_if_null")]
    pub train_err1: f64,
    /// Validation images counted.
    pub eval_n: u64,
    /// Mean validation loss.
    #[serde(deserialize_with = "nan_if_null")]
    pub eval_loss: f64,
    /// Top-1 validation error in percent.
    #[serde(deserialize_with = "nan_if_null")]
    pub eval_err1: f64,
    /// Top-5 validation error in percent.
    #[serde(deserialize_with = "nan_if_null")]
    pub eval_err5: f64,
    /// Wall time of training in seconds, without the evaluation.
    pub train_seconds: f64,
    /// The part of `train_seconds` spent waiting for data.
    pub data_wait_seconds: f64,
    /// Training images a second.
    pub img_s: f64,
}

/// Something worth a line: a checkpoint, a signal, a number that is not finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Optimiser steps done.
    pub step: u64,
    /// What kind of event, such as `checkpoint` or `non_finite`.
    pub event: String,
    /// The rest, for people.
    pub message: String,
}

impl Body for Run {
    const KIND: &'static str = "run";

    fn step(&self) -> u64 {
        self.step
    }
}

impl Body for Step {
    const KIND: &'static str = "step";

    fn numbers(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [("loss", self.loss), ("lr", self.lr), ("grad_norm", self.grad_norm.unwrap_or_default())].into_iter()
    }

    fn step(&self) -> u64 {
        self.step
    }
}

impl Body for Epoch {
    const KIND: &'static str = "epoch";

    fn numbers(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [("train_loss", self.train_loss), ("eval_loss", self.eval_loss)].into_iter()
    }

    fn step(&self) -> u64 {
        self.step
    }
}

impl Body for Eval {
    const KIND: &'static str = "eval";

    fn numbers(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [("loss", self.loss)].into_iter()
    }

    fn step(&self) -> u64 {
        self.step
    }
}

impl Body for Event {
    const KIND: &'static str = "event";

    fn step(&self) -> u64 {
        self.step
    }
}

#[derive(Serialize)]
struct Line<'a, B> {
    v: u32,
    kind: &'static str,
    t: f64,
    #[serde(flatten)]
    body: &'a B,
}

/// The end of `metrics.jsonl`. While it lives, no other process can open the same file to write.
#[derive(Debug)]
pub struct MetricsLog {
    file: File,
    path: PathBuf,
    /// Reused, so that a line costs no allocation.
    buffer: Vec<u8>,
    /// A write failed, and may have left a part of its line.
    is_torn: bool,
}

impl MetricsLog {
    /// Opens the file at `path` to append, and makes it if it is missing. A last line that a killed process
    /// left unfinished is cut off.
    ///
    /// # Errors
    /// [`Error::Usage`] if another process has the file open here, [`Error::Io`] if it cannot be opened.
    pub fn open(path: &Path) -> Result<MetricsLog> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(Error::io("open", path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Usage(format!(
                    "{}: another process is training in this run folder; wait for it, or stop it first",
                    path.display()
                )));
            }
            // A file system without locks: the guard is missing, the run is not.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        cut_unfinished_line(&mut file).map_err(Error::io("read", path))?;
        Ok(MetricsLog { file, path: path.to_path_buf(), buffer: Vec::with_capacity(1024), is_torn: false })
    }

    /// Appends one line, with a single write; and an event for each of its numbers that is not finite.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written, as on a full disk. What may be left of the line is cut off by the next
    /// call, so the file is sound whenever there is room again.
    pub fn append<B: Body>(&mut self, body: &B) -> Result<()> {
        self.buffer.clear();
        let t = unix_seconds();
        push_line(&mut self.buffer, body, t);
        for (field, value) in body.numbers().filter(|(_, value)| !value.is_finite()) {
            let event = Event {
                step: body.step(),
                event: "non_finite".to_string(),
                message: format!("{field} of the {} line is {value}", B::KIND),
            };
            push_line(&mut self.buffer, &event, t);
        }
        // The error owns its path: it is only made when there is one, or each line would cost an allocation.
        self.write().map_err(|source| Error::io("append to", &self.path)(source))
    }

    fn write(&mut self) -> io::Result<()> {
        if self.is_torn {
            cut_unfinished_line(&mut self.file)?;
        }
        self.is_torn = true;
        self.file.write_all(&self.buffer)?;
        self.is_torn = false;
        Ok(())
    }
}

fn push_line<B: Body>(buffer: &mut Vec<u8>, body: &B, t: f64) {
    serde_json::to_writer(&mut *buffer, &Line { v: VERSION, kind: B::KIND, t, body })
        .expect("a record of numbers and strings is JSON, and memory takes it");
    buffer.push(b'\n');
}

/// Now, in Unix seconds to the millisecond.
fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1e3
}

/// Truncates `file` after its last line feed.
fn cut_unfinished_line(file: &mut File) -> io::Result<()> {
    const BLOCK_BYTES: u64 = 4096;
    let length = file.seek(SeekFrom::End(0))?;
    let mut end = length;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        Read::by_ref(file).take(end - start).read_to_end(&mut block)?;
        if let Some(position) = block.iter().rposition(|&byte| byte == b'\n') {
            end = start + position as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length { file.set_len(end) } else { Ok(()) }
}

/// All that a run logged and did not log anew, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    /// Lines about the processes that trained, one each.
    pub runs: Vec<Run>,
    /// Logged steps, rising.
    pub steps: Vec<Step>,
    /// Epochs, rising.
    pub epochs: Vec<Epoch>,
    /// Evaluations, by step.
    pub evals: Vec<Eval>,
    /// Events, as they came.
    pub events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Record {
    Run(Run),
    Step(Step),
    Epoch(Epoch),
    Eval(Eval),
    Event(Event),
}

impl Records {
    fn push(&mut self, record: Record) {
        match record {
            Record::Run(run) => {
                self.steps.retain(|record| record.step <= run.step);
                self.epochs.retain(|record| record.step <= run.step);
                self.evals.retain(|record| record.step <= run.step);
                self.runs.push(run);
            }
            Record::Step(step) => self.steps.push(step),
            // A run killed between these lines and its checkpoint evaluates the same step once more.
            Record::Epoch(epoch) => {
                self.epochs.retain(|record| record.step < epoch.step);
                self.epochs.push(epoch);
            }
            Record::Eval(eval) => {
                self.evals.retain(|record| (record.step, &record.split) != (eval.step, &eval.split));
                self.evals.push(eval);
            }
            Record::Event(event) => self.events.push(event),
        }
    }
}

/// Reads the `metrics.jsonl` at `path`. A last line that is unfinished is left out, and so is what a resumed
/// run replaced.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Checkpoint`] naming the line that is not a record.
pub fn read(path: &Path) -> Result<Records> {
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    let mut records = Records::default();
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let record = serde_json::from_slice(line).map_err(|error| {
            Error::checkpoint(
                path,
                format!("line {} is not a record of a run ({error}); remove it", index + 1),
            )
        })?;
        records.push(record);
    }
    Ok(records)
}

/// `summary.csv` with timm's columns: top-1 and top-5 are accuracies in percent.
pub fn summary_csv(epochs: &[Epoch]) -> Vec<u8> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let mut write = |row: [String; 6]| table.write_record(row).expect("memory takes a row");
    write(["epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr"].map(String::from));
    for row in epochs {
        let losses = [row.train_loss, row.eval_loss].map(|loss| format!("{loss:.6}"));
        let accuracies = [row.eval_err1, row.eval_err5].map(|error| format!("{:.4}", 100.0 - error));
        let ([train, eval], [top1, top5]) = (losses, accuracies);
        write([row.epoch.to_string(), train, eval, top1, top5, format!("{:e}", row.lr)]);
    }
    table.into_inner().expect("memory takes text")
}

/// Null as NaN: JSON has no other way to write one.
fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests;
