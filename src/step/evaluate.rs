//! Error of a model on a set of images: every image counted exactly once.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::feed::Feed;
use super::values;
use crate::batch::{Batch, Loader, LoaderOptions};
use crate::data::annotations::Annotations;
use crate::data::pack::Pack;
use crate::device::Slot;
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::transform::Affine;

/// The views of an image whose probabilities are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Views {
    /// The image.
    #[default]
    One,
    /// The image and its mirror image.
    Mirrored,
}

/// What the model says of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Position in the pack.
    pub index: u32,
    /// True category.
    pub label: u32,
    /// Most probable category.
    pub guess: u32,
    /// Probability of the guess.
    pub guess_probability: f32,
}

/// The sums of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Images counted.
    pub num_images: u64,
    /// Mean loss.
    pub loss: f64,
    /// Images whose label was the first guess.
    pub correct1: u64,
    /// Images whose label was among the first five guesses.
    pub correct5: u64,
    /// Image by image, in the order of the pack.
    pub predictions: Vec<Prediction>,
    /// Wall time.
    pub elapsed: Duration,
}

impl Evaluation {
    /// Share of images whose label was not the first guess, in percent.
    pub fn top1_error(&self) -> f64 {
        100.0 * (1.0 - self.correct1 as f64 / self.num_images as f64)
    }

    /// Share of images whose label was not among the first five guesses, in percent.
    pub fn top5_error(&self) -> f64 {
        100.0 * (1.0 - self.correct5 as f64 / self.num_images as f64)
    }

    /// Counts by true category and guess, row by row.
    pub fn confusion(&self, num_classes: usize) -> Vec<u32> {
        count_confusion(&self.predictions, num_classes)
    }
}

/// Counts of `predictions` by true category and guess, row by row.
pub fn count_confusion(predictions: &[Prediction], num_classes: usize) -> Vec<u32> {
    let mut counts = vec![0; num_classes * num_classes];
    for p in predictions {
        counts[p.label as usize * num_classes + p.guess as usize] += 1;
    }
    counts
}

/// The values of an evaluation graph that the host touches.
#[derive(Debug)]
pub struct Evaluator {
    plan: usize,
    feed: Feed,
    width: usize,
    loss: Slot,
    hits: Slot,
    probs: Slot,
    logits: Slot,
    views: Views,
}

/// Sums over the images of one batch.
#[derive(Debug, Clone, Copy, Default)]
struct BatchSums {
    images: u64,
    loss: f64,
    correct1: u64,
    correct5: u64,
}

impl Evaluator {
    /// For plan `plan` of the session, made from an evaluation graph; one view of each image.
    ///
    /// # Errors
    /// [`Error::Graph`] if the plan is of another kind of graph.
    pub fn new(session: &Session, plan: usize) -> Result<Evaluator> {
        let slot = |name| session.plan(plan).slot(name);
        Ok(Evaluator {
            plan,
            feed: Feed::new(session.plan(plan)),
            width: session.plan(plan).shape(values::IMAGES)?.dims()[2],
            loss: slot(values::LOSS)?,
            hits: slot(values::HITS)?,
            probs: slot(values::PROBS)?,
            logits: slot(values::LOGITS)?,
            views: Views::One,
        })
    }

    /// The same over other views.
    pub fn with_views(self, views: Views) -> Evaluator {
        Evaluator { views, ..self }
    }

    /// Runs over every image of `pack`, with its objects where the model takes them in; `stop` is asked between batches.
    ///
    /// # Errors
    /// What the loader reports, or [`Error::Interrupted`] with the signal that `stop` returns.
    pub fn run(
        &mut self,
        session: &mut Session,
        (pack, annotations): (&Arc<Pack>, Option<&Annotations>),
        options: &LoaderOptions,
        stop: impl Fn() -> Option<i32>,
    ) -> Result<Evaluation> {
        let start = Instant::now();
        let mut loader = Loader::eval(Arc::clone(pack), options)?;
        let mut sums = Evaluation {
            num_images: 0,
            loss: 0.0,
            correct1: 0,
            correct5: 0,
            predictions: Vec::with_capacity(pack.len()),
            elapsed: Duration::ZERO,
        };
        while let Some(mut batch) = loader.next()? {
            if let Some(signal) = stop() {
                return Err(Error::Interrupted { signal });
            }
            let (batch_sums, probs) = self.run_batch(session, &mut batch, annotations)?;
            sums.loss += batch_sums.loss;
            sums.correct1 += batch_sums.correct1;
            sums.correct5 += batch_sums.correct5;
            sums.num_images += batch_sums.images;
            let rows = probs.chunks_exact(self.probs.shape.last());
            for ((row, &label), &index) in rows.zip(&batch.labels).zip(&batch.indices) {
                if let Ok(label) = u32::try_from(label) {
                    sums.predictions.push(predict(row, label, index));
                }
            }
            loader.recycle(batch);
        }
        assert_eq!(sums.num_images, pack.len() as u64, "an evaluation counts every image once");
        sums.loss /= sums.num_images as f64;
        sums.elapsed = start.elapsed();
        Ok(sums)
    }

    /// The scores of a batch, row by row.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn logits(&mut self, session: &mut Session, batch: &Batch) -> Result<Vec<f32>> {
        self.run_view(session, batch, None)?;
        Ok(session.read::<f32>(&self.logits)?.into_owned())
    }

    /// One forward pass. All inputs are written: a pass may have put something else where they lay.
    fn run_view(
        &mut self,
        session: &mut Session,
        batch: &Batch,
        annotations: Option<&Annotations>,
    ) -> Result<()> {
        self.feed.write(session, batch, annotations)?;
        session.run_micro_batch(self.plan)
    }

    /// What the model says of `batch`, whose images are mirrored afterwards where there are two views.
    fn run_batch<'s>(
        &mut self,
        session: &'s mut Session,
        batch: &mut Batch,
        annotations: Option<&Annotations>,
    ) -> Result<(BatchSums, Cow<'s, [f32]>)> {
        self.run_view(session, batch, annotations)?;
        if self.views == Views::One {
            let &[correct1, correct5, counted] = &*session.read::<i32>(&self.hits)? else {
                unreachable!("the loss counts top-1, top-5 and images")
            };
            let loss = f64::from(session.read::<f32>(&self.loss)?[0]) * f64::from(counted);
            let [images, correct1, correct5] = [counted, correct1, correct5].map(|count| count as u64);
            return Ok((BatchSums { images, loss, correct1, correct5 }, session.read(&self.probs)?));
        }
        let mut probs = session.read::<f32>(&self.probs)?.into_owned();
        mirror(batch, self.width);
        self.run_view(session, batch, annotations)?;
        let mirrored = session.read::<f32>(&self.probs)?;
        probs.iter_mut().zip(&*mirrored).for_each(|(p, q)| *p = 0.5 * (*p + q));
        Ok((sums_of(&probs, self.probs.shape.last(), &batch.labels), Cow::Owned(probs)))
    }
}

/// Counts of one batch from averaged probabilities, ranked as the loss of the graph ranks.
fn sums_of(probs: &[f32], num_classes: usize, labels: &[i32]) -> BatchSums {
    let mut sums = BatchSums::default();
    for (row, &label) in probs.chunks_exact(num_classes).zip(labels) {
        let Ok(label) = usize::try_from(label) else { continue };
        let own = row[label];
        let before = row.iter().enumerate().filter(|&(i, &p)| p > own || (p == own && i < label)).count();
        sums.images += 1;
        sums.loss -= f64::from(own).ln();
        sums.correct1 += u64::from(before < 1);
        sums.correct5 += u64::from(before < 5);
    }
    sums
}

/// Mirrors the images of a batch as the host made them, `width` pixels a row, left to right, and their objects with them.
pub fn mirror(batch: &mut Batch, width: usize) {
    let (pixels, _) = batch.images.as_chunks_mut::<3>();
    pixels.chunks_exact_mut(width).for_each(<[[f32; 3]]>::reverse);
    batch.params.iter_mut().for_each(|params| params.inverse = params.inverse.after(Affine::flip(width)));
}

fn predict(probabilities: &[f32], label: u32, index: u32) -> Prediction {
    let (guess, &guess_probability) = probabilities
        .iter()
        .enumerate()
        .max_by(|(i, a), (j, b)| a.total_cmp(b).then(j.cmp(i)))
        .expect("a model has at least one category");
    Prediction { index, label, guess: guess as u32, guess_probability }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::SampleParams;

    #[test]
    fn rows_are_mirrored_pixel_by_pixel() {
        let images: Vec<f32> = (0..18).map(|elem| elem as f32).collect();
        let mut batch = Batch { images, params: vec![SampleParams::NONE], ..Batch::default() };
        mirror(&mut batch, 3);
        let expected = [6, 7, 8, 3, 4, 5, 0, 1, 2, 15, 16, 17, 12, 13, 14, 9, 10, 11];
        assert_eq!(batch.params[0].inverse.apply(0.0, 1.0), (2.0, 1.0));
        assert_eq!(batch.images, expected.map(|elem| elem as f32));
    }

    #[test]
    fn equal_probabilities_rank_by_their_number_and_padding_does_not_count() {
        let probs = [0.1, 0.2, 0.2, 0.1, 0.1, 0.1, 0.2, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
        let sums = sums_of(&probs, 7, &[5, -1]);
        assert_eq!((sums.images, sums.correct1, sums.correct5), (1, 0, 0), "five categories rank before it");
        assert!((sums.loss + f64::from(0.1f32).ln()).abs() < 1e-12);
        let sums = sums_of(&probs, 7, &[4, 0]);
        assert_eq!((sums.images, sums.correct1, sums.correct5), (2, 1, 1));
        assert_eq!(sums_of(&probs, 7, &[3, 1]).correct5, 2);
    }
}
