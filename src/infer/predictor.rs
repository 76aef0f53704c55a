//! A trained model asked about photos: their scores, in batches.

use std::path::PathBuf;

use super::model_file::ModelFile;
use crate::batch::Batch;
use crate::batch::collate::Collator;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::ops::PADDING_LABEL;
use crate::step::evaluate::{Evaluator, Views};
use crate::step::values;
use crate::transform::SampleParams;

/// Images run at once.
pub const BATCH_SIZE: usize = 16;

/// A model in an inference session, with the preprocessing of its images.
pub struct Predictor {
    session: Session,
    evaluator: Evaluator,
    batch: Batch,
    prepare: Prepare,
    weights: PathBuf,
}

/// Turns decoded photos into the input of one model.
#[derive(Debug)]
pub struct Prepare {
    collator: Collator,
    image_size: usize,
}

impl Prepare {
    /// As the model of `file` expects its images.
    pub fn new(file: &ModelFile) -> Prepare {
        Prepare { collator: Collator::new(file.card.normalization()), image_size: file.card.img_size }
    }

    /// Writes `pixels`, HWC u8 as decoded at the model's size, to `image`, HWC f32 normalised.
    ///
    /// # Panics
    /// If either is of another size.
    pub fn image(&self, pixels: &[u8], image: &mut [f32]) {
        self.collator.sample(pixels, self.image_size, &SampleParams::NONE, image);
    }

    /// [`Prepare::image`] into memory of its own.
    ///
    /// # Panics
    /// If `pixels` are of another size.
    pub fn to_image(&self, pixels: &[u8]) -> Vec<f32> {
        let mut image = vec![0.0; pixels.len()];
        self.image(pixels, &mut image);
        image
    }
}

impl Predictor {
    /// For the model of `file`, on `device`, for up to `num_photos` at a time; `views` are averaged over.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] naming the first tensor that does not fit the model.
    pub fn new(file: &ModelFile, num_photos: usize, views: Views, device: Device) -> Result<Predictor> {
        let batch_size = num_photos.clamp(1, BATCH_SIZE);
        let session = file.session(batch_size, device)?;
        let images = vec![0.0; session.plan(0).shape(values::IMAGES)?.num_elems()];
        Ok(Predictor {
            evaluator: Evaluator::new(&session, 0)?.with_views(views),
            batch: photos_batch(images, batch_size),
            prepare: Prepare::new(file),
            weights: file.path.clone(),
            session,
        })
    }

    /// The scores of each category, a row for each of `photos`, as [`crate::step::scores`] has them; the photos are HWC u8 as decoded at the
    /// model's size.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails, [`Error::Checkpoint`] if a score is not a number.
    ///
    /// # Panics
    /// If a photo is of another size.
    pub fn scores(&mut self, photos: &[Vec<u8>]) -> Result<Vec<Vec<f64>>> {
        let batch_size = self.batch.labels.len();
        let image_elems = self.batch.images.len() / batch_size;
        let mut rows = Vec::with_capacity(photos.len());
        for photos in photos.chunks(batch_size) {
            for (pixels, image) in photos.iter().zip(self.batch.images.chunks_exact_mut(image_elems)) {
                self.prepare.image(pixels, image);
            }
            let batch = std::slice::from_mut(&mut self.batch);
            let scores = self.evaluator.scores(&mut self.session, batch, &[None])?;
            if scores.iter().any(|score| score.is_nan()) {
                let what = "gives scores that are not numbers: its weights are too large";
                return Err(Error::checkpoint(&self.weights, what));
            }
            rows.extend(
                scores.chunks_exact(scores.len() / batch_size).map(<[f64]>::to_vec).take(photos.len()),
            );
        }
        Ok(rows)
    }
}

/// Photos without labels and without annotations.
pub(crate) fn photos_batch(images: Vec<f32>, batch_size: usize) -> Batch {
    Batch {
        images,
        params: vec![SampleParams::NONE; batch_size],
        labels: vec![PADDING_LABEL; batch_size],
        ..Batch::default()
    }
}
