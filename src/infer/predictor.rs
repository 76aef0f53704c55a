//! A trained model asked about photos: their probabilities, in batches.

use std::borrow::Cow;

use super::model_file::ModelFile;
use crate::batch::Batch;
use crate::batch::collate::Collator;
use crate::device::{Device, Slot};
use crate::error::Result;
use crate::exec::Session;
use crate::ops::PADDING_LABEL;
use crate::step::evaluate::{Views, mirror};
use crate::step::feed::Feed;
use crate::step::values;
use crate::transform::SampleParams;

/// Images run at once.
pub const BATCH_SIZE: usize = 16;

/// A model in an inference session, with the preprocessing of its images.
pub struct Predictor {
    session: Session,
    feed: Feed,
    batch: Batch,
    probs: Slot,
    prepare: Prepare,
    views: Views,
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
        let slot = |name| session.plan(0).slot(name);
        let images = vec![0.0; slot(values::IMAGES)?.shape.num_elems()];
        Ok(Predictor {
            feed: Feed::new(session.plan(0)),
            batch: photos_batch(images, batch_size),
            probs: slot(values::PROBS)?,
            prepare: Prepare::new(file),
            views,
            session,
        })
    }

    /// The probabilities of each category, a row for each of `photos`: HWC u8 as decoded at the model's size.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device fails.
    ///
    /// # Panics
    /// If a photo is of another size.
    pub fn probabilities(&mut self, photos: &[Vec<u8>]) -> Result<Vec<Vec<f32>>> {
        let batch_size = self.batch.labels.len();
        let image_elems = self.batch.images.len() / batch_size;
        let mut rows = Vec::with_capacity(photos.len());
        for photos in photos.chunks(batch_size) {
            for (pixels, image) in photos.iter().zip(self.batch.images.chunks_exact_mut(image_elems)) {
                self.prepare.image(pixels, image);
            }
            let probabilities = self.run()?;
            let per_photo = probabilities.chunks_exact(self.probs.shape.last()).map(<[f32]>::to_vec);
            rows.extend(per_photo.take(photos.len()));
        }
        Ok(rows)
    }

    fn run(&mut self) -> Result<Vec<f32>> {
        let mut probabilities = self.run_view()?.into_owned();
        if self.views == Views::Mirrored {
            mirror(&mut self.batch, self.prepare.image_size);
            let mirrored = self.run_view()?;
            probabilities.iter_mut().zip(&*mirrored).for_each(|(p, q)| *p = 0.5 * (*p + q));
        }
        Ok(probabilities)
    }

    /// One forward pass. All inputs are written: a pass may have put something else where they lay.
    fn run_view(&mut self) -> Result<Cow<'_, [f32]>> {
        self.feed.write(&mut self.session, &self.batch, None)?;
        self.session.run_micro_batch(0)?;
        self.session.read(&self.probs)
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

/// The `count` most probable categories with their probabilities, the first of equals first.
pub fn most_probable(probabilities: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut ranked: Vec<(usize, f32)> = probabilities.iter().copied().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.truncate(count);
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_categories_keep_their_order() {
        assert_eq!(most_probable(&[0.1, 0.4, 0.1, 0.4], 3), [(1, 0.4), (3, 0.4), (0, 0.1)]);
        assert_eq!(most_probable(&[0.3, 0.7], 5).len(), 2);
    }
}
