//! Error of a model on a set of images: every image counted exactly once.

mod judged;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::judged::{Judged, Labelled};
use super::feed::Feed;
use super::{scores, values};
use crate::batch::{Batch, Loader, LoaderOptions, Shard};
use crate::data::annotations::Annotations;
use crate::data::pack::Pack;
use crate::device::{READBACK_BYTES, Slot};
use crate::dist::{Collective, Rank};
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::progress::Progress;
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
    /// Sums up what was found of images, in this order.
    fn of(judged: &[Judged]) -> Evaluation {
        let prediction = |&Judged { index, label, guess, guess_probability, .. }: &Judged| Prediction {
            index,
            label,
            guess,
            guess_probability,
        };
        let within = |rank| judged.iter().filter(|judged| judged.rank < rank).count() as u64;
        Evaluation {
            num_images: judged.len() as u64,
            loss: judged.iter().fold(0.0, |sum, judged| sum + judged.loss) / judged.len() as f64,
            correct1: within(1),
            correct5: within(5),
            predictions: judged.iter().map(prediction).collect(),
            elapsed: Duration::ZERO,
        }
    }

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

/// How a model does on the images of one category.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CategoryError {
    /// Images of the category.
    pub images: u32,
    /// Those that were taken for another.
    pub wrong: u32,
    /// The category that they were most often taken for, the first of equals, and how often.
    pub mistaken_for: Option<(usize, u32)>,
}

impl CategoryError {
    /// Of each category, from counts by true category and guess, row by row.
    pub fn of_each(confusion: &[u32], num_classes: usize) -> Vec<CategoryError> {
        let rows = confusion.chunks_exact(num_classes).enumerate();
        rows.map(|(label, row)| {
            let images: u32 = row.iter().sum();
            let wrong = row.iter().copied().enumerate().filter(|&(guess, times)| guess != label && times > 0);
            let mistaken_for = wrong.max_by_key(|&(guess, times)| (times, Reverse(guess)));
            CategoryError { images, wrong: images - row[label], mistaken_for }
        })
        .collect()
    }

    /// Share of the images that were taken for another category, in percent; `None` if there are no images.
    pub fn percent(&self) -> Option<f64> {
        (self.images > 0).then(|| 100.0 * f64::from(self.wrong) / f64::from(self.images))
    }
}

/// An evaluation graph, or several that take the same images at different sizes.
#[derive(Debug)]
pub struct Evaluator {
    passes: Vec<Pass>,
    num_classes: usize,
    views: Views,
    /// The scores of one batch, a row for each image: of the views so far, and of one more.
    scores: Vec<f64>,
    view_scores: Vec<f64>,
}

/// The values of an evaluation graph that the host touches.
#[derive(Debug)]
struct Pass {
    plan: usize,
    feed: Feed,
    /// Pixels of a side of the images. A graph that makes images in the blocks of its stem has no value of that size.
    image_size: usize,
    logits: Slot,
}

/// Images at the size of one graph, and their objects where the model takes them in.
pub type EvaluatedImages<'a> = (&'a Arc<Pack>, Option<&'a Annotations>);

impl Evaluator {
    /// For plan `plan` of the session, made from an evaluation graph of images with `image_size` pixels a side; one view of
    /// each image.
    ///
    /// # Errors
    /// [`Error::Graph`] if the plan is of another kind of graph.
    pub fn new(session: &Session, plan: usize, image_size: usize) -> Result<Evaluator> {
        Ok(Evaluator::over(vec![Pass::new(session, plan, image_size)?]))
    }

    /// For the first plans of the session, one for each of these sizes of the images; the logits at all sizes are averaged.
    ///
    /// # Errors
    /// As [`Evaluator::new`].
    ///
    /// # Panics
    /// If there are no sizes.
    pub fn at_sizes(session: &Session, image_sizes: &[usize]) -> Result<Evaluator> {
        let sizes = image_sizes.iter().copied().enumerate();
        let passes = sizes.map(|(plan, size)| Pass::new(session, plan, size)).collect::<Result<_>>()?;
        Ok(Evaluator::over(passes))
    }

    fn over(passes: Vec<Pass>) -> Evaluator {
        let num_classes = passes.first().expect("an evaluation has a graph").logits.shape.last();
        let (scores, view_scores) = (Vec::new(), Vec::new());
        Evaluator { passes, num_classes, views: Views::One, scores, view_scores }
    }

    /// The same over other views.
    pub fn with_views(self, views: Views) -> Evaluator {
        Evaluator { views, ..self }
    }

    /// Runs over every image, given at the size of each plan; `stop` is asked between batches. Ranks that `collective` reaches
    /// share the batches, have all of the result, and do not ask `stop`.
    ///
    /// # Errors
    /// What the loader reports, [`Error::Interrupted`] with the signal that `stop` returns, or what the collective reports.
    ///
    /// # Panics
    /// If there are not as many sets of images as plans, or not as many images in each.
    pub fn run(
        &mut self,
        session: &mut Session,
        images: &[EvaluatedImages],
        options: &LoaderOptions,
        stop: impl Fn() -> Option<i32>,
        mut collective: Option<&mut dyn Collective>,
    ) -> Result<Evaluation> {
        let num_images = images[0].0.len();
        assert!(images.iter().all(|(pack, _)| pack.len() == num_images), "the same images at every size");
        let start = Instant::now();
        let rank = collective.as_deref().map_or(Rank::ALONE, Collective::rank);
        let options = &LoaderOptions { shard: Shard::new(rank.index, rank.count), ..options.clone() };
        let open = |(pack, _): &EvaluatedImages| Loader::eval(Arc::clone(pack), options);
        let mut loaders: Vec<Loader> = images.iter().map(open).collect::<Result<_>>()?;
        let annotations: Vec<Option<&Annotations>> =
            images.iter().map(|&(_, annotations)| annotations).collect();
        let most = num_images.div_ceil(options.batch_size * rank.count) * options.batch_size;
        let progress = Progress::start("evaluating", num_images.div_ceil(rank.count));
        let mut judged = Vec::with_capacity(most);
        leaving_nothing(session, |session, before| {
            let mut unread = Vec::new();
            while let Some(mut batches) = next_of_each(&mut loaders)? {
                if let Some(signal) = stop().filter(|_| collective.is_none()) {
                    return Err(Error::Interrupted { signal });
                }
                if self.bytes_of_rows(unread.len() + batches[0].labels.len()) > READBACK_BYTES {
                    self.judge(session, before, &mut unread, &mut judged)?;
                }
                unread.extend(Labelled::of_batch(&batches[0]));
                self.enqueue(session, &mut batches, &annotations)?;
                progress.add(batches[0].indices.len());
                loaders.iter_mut().zip(batches).for_each(|(loader, batch)| loader.recycle(batch));
            }
            self.judge(session, before, &mut unread, &mut judged)
        })?;
        if let Some(collective) = &mut collective {
            judged = Judged::gather(judged, most, *collective)?;
        }
        assert_eq!(judged.len(), num_images, "an evaluation counts every image once");
        Ok(Evaluation { elapsed: start.elapsed(), ..Evaluation::of(&judged) })
    }

    /// The scores of the same images at the size of each plan, a row for each image, as [`scores`] has them. The images
    /// are mirrored afterwards where there are two views.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    ///
    /// # Panics
    /// If there are not as many batches and annotations as plans.
    pub fn scores(
        &mut self,
        session: &mut Session,
        batches: &mut [Batch],
        annotations: &[Option<&Annotations>],
    ) -> Result<&[f64]> {
        leaving_nothing(session, |session, before| {
            self.enqueue(session, batches, annotations)?;
            session.take_readback_after(before, |logits| self.add_up(logits))
        })?;
        Ok(&self.scores)
    }

    /// Runs over a batch at the size of each plan and leaves the logits of all views with the device.
    fn enqueue(
        &mut self,
        session: &mut Session,
        batches: &mut [Batch],
        annotations: &[Option<&Annotations>],
    ) -> Result<()> {
        let num_passes = self.passes.len();
        assert_eq!([batches.len(), annotations.len()], [num_passes; 2], "images are given for each plan");
        for ((pass, batch), &annotations) in self.passes.iter_mut().zip(batches).zip(annotations) {
            pass.run(session, batch, annotations)?;
            session.enqueue_readback(&pass.logits)?;
            if self.views == Views::Mirrored {
                mirror(batch, pass.image_size);
                pass.run(session, batch, annotations)?;
                session.enqueue_readback(&pass.logits)?;
            }
        }
        Ok(())
    }

    /// Bytes of the logits of so many images, of all views at all sizes.
    fn bytes_of_rows(&self, num_rows: usize) -> usize {
        let num_views = match self.views {
            Views::One => 1,
            Views::Mirrored => 2,
        };
        num_rows * self.passes.len() * num_views * self.num_classes * size_of::<f32>()
    }

    /// Makes scores of what [`Evaluator::enqueue`] has left of one batch.
    fn add_up(&mut self, logits: &[u8]) {
        let Evaluator { passes, num_classes, views, scores, view_scores } = self;
        scores.clear();
        for logits in logits.chunks_exact(logits.len() / passes.len()) {
            view_scores.clear();
            match views {
                Views::One => view_scores.extend(elems(logits)),
                Views::Mirrored => {
                    let (one_view, mirrored) = logits.split_at(logits.len() / 2);
                    view_scores.extend(elems(mirrored));
                    add_mirrored(view_scores, elems(one_view).collect(), *num_classes);
                }
            }
            if scores.is_empty() {
                scores.extend_from_slice(view_scores);
            } else {
                scores.iter_mut().zip(&*view_scores).for_each(|(sum, score)| *sum += score);
            }
        }
        if passes.len() > 1 {
            scores.iter_mut().for_each(|sum| *sum /= passes.len() as f64);
        }
    }

    /// Reads the scores of the images in `unread`, which is left empty, and says what is true of them.
    fn judge(
        &mut self,
        session: &mut Session,
        before: usize,
        unread: &mut Vec<Option<Labelled>>,
        judged: &mut Vec<Judged>,
    ) -> Result<()> {
        let batch_rows = self.passes[0].logits.shape.num_elems() / self.num_classes;
        let batch_bytes = self.bytes_of_rows(batch_rows);
        session.take_readback_after(before, |logits| {
            for (logits, images) in logits.chunks_exact(batch_bytes).zip(unread.chunks(batch_rows)) {
                self.add_up(logits);
                let rows = self.scores.chunks_exact(self.num_classes).zip(images);
                judged.extend(rows.filter_map(|(row, image)| Some(Judged::of_image(row, (*image)?))));
            }
        })?;
        unread.clear();
        Ok(())
    }

    /// The logits of a batch from the first plan, row by row.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn logits(&mut self, session: &mut Session, batch: &Batch) -> Result<Vec<f32>> {
        let pass = &mut self.passes[0];
        pass.run(session, batch, None)?;
        Ok(session.read::<f32>(&pass.logits)?.into_owned())
    }
}

impl Pass {
    fn new(session: &Session, plan: usize, image_size: usize) -> Result<Pass> {
        Ok(Pass {
            plan,
            feed: Feed::new(session.plan(plan)),
            image_size,
            logits: session.plan(plan).slot(values::LOGITS)?,
        })
    }

    /// One forward pass. All inputs are written: a pass may have put something else where they lay.
    fn run(&mut self, session: &mut Session, batch: &Batch, annotations: Option<&Annotations>) -> Result<()> {
        self.feed.write(session, batch, annotations)?;
        session.run_micro_batch(self.plan)
    }
}

/// Does `work`, which is told how many bytes a training has left unread in the session; if it fails, what it has added to them
/// is dropped.
fn leaving_nothing<R>(
    session: &mut Session,
    work: impl FnOnce(&mut Session, usize) -> Result<R>,
) -> Result<R> {
    let before = session.readback_bytes();
    let result = work(session, before);
    if result.is_err() {
        // A device that fails here has failed before, which is told.
        let _ = session.take_readback_after(before, |_| ());
    }
    result
}

/// Logits as the device has left them.
fn elems(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes).into())
}

/// The next batch of each loader, `None` after the last.
fn next_of_each(loaders: &mut [Loader]) -> Result<Option<Vec<Batch>>> {
    loaders.iter_mut().map(Loader::next).collect()
}

/// Turns the logits of a mirrored view into the scores of both.
fn add_mirrored(mirrored: &mut [f64], mut one_view: Vec<f64>, num_classes: usize) {
    let rows = mirrored.chunks_exact_mut(num_classes).zip(one_view.chunks_exact_mut(num_classes));
    for (row, other) in rows {
        scores::normalise(row);
        scores::normalise(other);
        row.iter_mut().zip(other).for_each(|(score, other)| *score = scores::log_add(*score, *other));
    }
}

/// Mirrors the images of a batch as the host made them, `width` pixels a row, left to right, and their objects with them.
pub fn mirror(batch: &mut Batch, width: usize) {
    let (pixels, _) = batch.images.as_chunks_mut::<3>();
    pixels.chunks_exact_mut(width).for_each(<[[f32; 3]]>::reverse);
    batch.params.iter_mut().for_each(|params| params.inverse = params.inverse.after(Affine::flip(width)));
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
    fn errors_of_categories_come_from_the_confusion_matrix() {
        let errors = CategoryError::of_each(&[2, 1, 1, 0, 0, 0, 0, 3, 1], 3);
        let error = |images, wrong, mistaken_for| CategoryError { images, wrong, mistaken_for };
        let expected = [error(4, 2, Some((1, 1))), error(0, 0, None), error(4, 3, Some((1, 3)))];
        assert_eq!(errors, expected);
        assert_eq!(
            errors.iter().map(CategoryError::percent).collect::<Vec<_>>(),
            [Some(50.0), None, Some(75.0)]
        );
    }

    #[test]
    fn an_evaluation_counts_what_is_not_padding() {
        let scores = [0.0, 2.0, 1.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let labels = vec![2, -1];
        let batch = Batch { labels, indices: vec![7], ..Batch::default() };
        let images = scores.chunks_exact(7).zip(Labelled::of_batch(&batch));
        let judged: Vec<Judged> =
            images.filter_map(|(row, image)| Some(Judged::of_image(row, image?))).collect();
        let evaluation = Evaluation::of(&judged);
        assert_eq!((evaluation.num_images, evaluation.correct1, evaluation.correct5), (1, 0, 1));
        let [prediction] = *evaluation.predictions else { panic!("one image") };
        assert_eq!((prediction.index, prediction.label, prediction.guess), (7, 2, 4));
        let others = 4.0 + 2.0_f64.exp() + 3.0_f64.exp();
        assert!((evaluation.loss - (1.0 + others / 1.0_f64.exp()).ln()).abs() < 1e-12);
    }
}
