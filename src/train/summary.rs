//! What a run shows of its epochs: a line each, `summary.csv` and `report.html`.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};

use super::evaluate::{Evaluation, Prediction};
use super::metrics::{self, Epoch, summary_csv};
use super::page::{RunPage, WorstImage};
use super::run_dir::{Env, RunDir};
use super::source::Source;
use crate::error::{Error, Result};
use crate::report::Confusion;

/// Images shown as the surest mistakes.
const NUM_WORST: usize = 12;

/// `epoch 3/5  train loss 0.52  val loss 0.61 ...`.
pub fn epoch_line(row: &Epoch, epochs: u64) -> String {
    format!(
        "epoch {}/{epochs}  train loss {:.4}  val loss {:.4}  top-1 error {:.2} %  top-5 error {:.2} %  {:.1} images/s  \
         waiting for data {:.1} %",
        row.epoch + 1,
        row.train_loss,
        row.eval_loss,
        row.eval_err1,
        row.eval_err5,
        row.img_s,
        100.0 * row.data_wait_seconds / row.train_seconds
    )
}

/// Writes `summary.csv` and `report.html` of a run that stands at `history`.
///
/// # Errors
/// [`Error::Io`] if a file cannot be written.
pub fn write(
    dir: &RunDir,
    env: &Env,
    source: &Source,
    history: &[Epoch],
    evaluation: Option<&Evaluation>,
    status: &str,
) -> Result<()> {
    dir.write("summary.csv", summary_csv(history))?;
    let records = metrics::read(&dir.metrics())?;
    let num_classes = source.categories.len();
    let confusion = evaluation.map(|e| Confusion::new(source.categories.clone(), &e.confusion(num_classes)));
    let worst = evaluation.map(|e| worst_images(source, e)).transpose()?.unwrap_or_default();
    let name = dir.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let page =
        RunPage { name: &name, status, records: &records, env, confusion: confusion.as_ref(), worst: &worst };
    dir.write("report.html", page.page().to_html())
}

/// The mistakes the model was surest of, worst first.
fn worst_images(source: &Source, evaluation: &Evaluation) -> Result<Vec<WorstImage>> {
    let mut wrong: Vec<&Prediction> = evaluation.predictions.iter().filter(|p| p.guess != p.label).collect();
    wrong.sort_by(|a, b| b.guess_probability.total_cmp(&a.guess_probability).then(a.index.cmp(&b.index)));
    wrong.truncate(NUM_WORST);
    wrong
        .into_iter()
        .map(|p| {
            let name = |label: u32| source.categories[label as usize].clone();
            Ok(WorstImage {
                name: source.val.name(p.index as usize).to_string(),
                image: png(source.val.pixels(p.index as usize), source.val.image_size())?,
                truth: name(p.label),
                guess: name(p.guess),
                probability: f64::from(p.guess_probability),
            })
        })
        .collect()
}

fn png(pixels: &[u8], image_size: usize) -> Result<Vec<u8>> {
    let side = image_size as u32;
    let image =
        RgbImage::from_raw(side, side, pixels.to_vec()).expect("a packed image has three bytes a pixel");
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|source| Error::data("report.html", format!("cannot encode a picture: {source}")))?;
    Ok(bytes.into_inner())
}
