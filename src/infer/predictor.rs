//! A trained model asked about photos: their scores, in batches.

use std::path::PathBuf;

use super::model_file::ModelFile;
use crate::batch::Batch;
use crate::batch::collate::Collator;
use crate::data::Crop;
use crate::data::annotations::Capacity;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::ops::PADDING_LABEL;
use crate::step::evaluate::{Evaluator, Views};
use crate::transform::SampleParams;

/// Images run at once.
pub const BATCH_SIZE: usize = 16;

/// A model in an inference session, with the preprocessing of its images.
pub struct Predictor {
    session: Session,
    evaluator: Evaluator,
    /// One for each crop, and what makes its images.
    batches: Vec<Batch>,
    prepare: Vec<Prepare>,
    weights: PathBuf,
}

/// A photo cut in each of the ways that a [`Predictor`] was made for: HWC u8, as [`decode_crops`](crate::data::decode_crops) has them.
pub type Photo = Vec<Vec<u8>>;

/// Turns decoded photos into the input of one model.
#[derive(Debug)]
pub struct Prepare {
    collator: Collator,
    image_size: usize,
}

impl Prepare {
    /// As the model of `file` expects its images, at its own size.
    pub fn new(file: &ModelFile) -> Prepare {
        Prepare::at_size(file, file.card.img_size)
    }

    fn at_size(file: &ModelFile, image_size: usize) -> Prepare {
        Prepare { collator: Collator::new(file.card.normalization()), image_size }
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
    /// For the model of `file`, on `device`, for photos cut in the ways `crops` and up to `num_photos` of them at a time;
    /// averages over `views` and over the crops.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first tensor that does not fit the model, [`Error::Setting`] for a size that no
    /// network takes.
    ///
    /// # Panics
    /// If there are no crops.
    pub fn new(
        file: &ModelFile,
        crops: &[Crop],
        views: Views,
        num_photos: usize,
        device: Device,
    ) -> Result<Predictor> {
        let batch_size = num_photos.clamp(1, BATCH_SIZE);
        let sizes: Vec<usize> = crops.iter().map(|crop| crop.size).collect();
        let room = Capacity { points: 1, objects: 1 };
        let session = file.session_at_sizes(&sizes, batch_size, device, room)?;
        let batch = |&size: &usize| photos_batch(vec![0.0; batch_size * size * size * 3], batch_size);
        Ok(Predictor {
            evaluator: Evaluator::at_sizes(&session, &sizes)?.with_views(views),
            batches: sizes.iter().map(batch).collect(),
            prepare: sizes.iter().map(|&size| Prepare::at_size(file, size)).collect(),
            weights: file.path.clone(),
            session,
        })
    }

    /// The scores of each category, a row for each of `photos`, as [`crate::step::scores`] has them.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails, [`Error::Checkpoint`] if a score is not a number.
    ///
    /// # Panics
    /// If a photo is cut in other ways.
    pub fn scores(&mut self, photos: &[Photo]) -> Result<Vec<Vec<f64>>> {
        let batch_size = self.batches[0].labels.len();
        let mut rows = Vec::with_capacity(photos.len());
        for photos in photos.chunks(batch_size) {
            for (nth, (batch, prepare)) in self.batches.iter_mut().zip(&self.prepare).enumerate() {
                let image_elems = batch.images.len() / batch_size;
                for (photo, image) in photos.iter().zip(batch.images.chunks_exact_mut(image_elems)) {
                    prepare.image(&photo[nth], image);
                }
            }
            let annotations = vec![None; self.batches.len()];
            let scores = self.evaluator.scores(&mut self.session, &mut self.batches, &annotations)?;
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
