//! What is found of each image of an evaluation.

use std::iter;

use crate::batch::Batch;
use crate::dist::Collective;
use crate::error::Result;
use crate::step::scores;

/// What a model says of one image, and how far that is from its label.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Judged {
    pub(super) loss: f64,
    /// Categories that the model thinks more probable than the label.
    pub(super) rank: u32,
    pub(super) index: u32,
    pub(super) label: u32,
    pub(super) guess: u32,
    pub(super) guess_probability: f32,
    reserved: u32,
}

impl Judged {
    /// Stands for no image.
    const NONE: Judged = Judged {
        loss: 0.0,
        rank: 0,
        index: u32::MAX,
        label: 0,
        guess: 0,
        guess_probability: 0.0,
        reserved: 0,
    };

    /// Of an image of category `label`, from the scores of all categories.
    pub(super) fn of_image(row: &[f64], Labelled { index, label }: Labelled) -> Judged {
        let (loss, rank) = (scores::loss(row, label as usize), scores::rank(row, label as usize) as u32);
        let (guess, guess_probability) = scores::top(row, 1)[0];
        Judged { loss, rank, index, label, guess: guess as u32, guess_probability, reserved: 0 }
    }

    /// What every rank found, `most` images each or fewer, in the order of the pack.
    pub(super) fn gather(
        mut own: Vec<Judged>,
        most: usize,
        collective: &mut dyn Collective,
    ) -> Result<Vec<Judged>> {
        own.resize(most, Judged::NONE);
        let mut all = vec![Judged::NONE; most * collective.rank().count];
        collective.all_gather(bytemuck::cast_slice(&own), bytemuck::cast_slice_mut(&mut all))?;
        all.retain(|judged| judged.index != Judged::NONE.index);
        all.sort_by_key(|judged| judged.index);
        Ok(all)
    }
}

/// An image in a batch whose scores are still to be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Labelled {
    /// Position in the pack.
    pub(super) index: u32,
    /// True category.
    pub(super) label: u32,
}

impl Labelled {
    /// A place for each row of a batch; `None` for what fills it up.
    pub(super) fn of_batch(batch: &Batch) -> impl Iterator<Item = Option<Labelled>> {
        let indices = batch.indices.iter().map(Some).chain(iter::repeat(None));
        let image = |(&label, index): (&i32, Option<&u32>)| {
            Some(Labelled { index: *index?, label: u32::try_from(label).ok()? })
        };
        batch.labels.iter().zip(indices).map(image)
    }
}
