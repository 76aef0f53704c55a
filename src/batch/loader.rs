//! The loader: a stream of batches made on worker threads, endless for training, once through for evaluation.

use std::sync::Arc;
use std::time::Duration;

use super::augment::Drawn;
use super::collate::{self, Collator};
use super::policy::Augment;
use super::prefetch::Prefetcher;
use super::shuffle::shuffle;
use crate::data::Pack;
use crate::error::{Error, Result};
use crate::transform::{AutoSteps, Image, Mix, NUM_CHANNELS, Normalization, SampleParams};

/// In what form a batch carries its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchContents {
    /// The network's input in [`Batch::images`], made by the workers: for the CPU.
    #[default]
    Images,
    /// The images as they are in [`Batch::pixels`], for a device that makes the input of them and [`Batch::params`].
    Pixels,
    /// Only which images in [`Batch::rows`], for a device that holds the whole data set.
    Indices,
}

/// Which batches of a stream a loader makes, where several share it: every `count`th, from number `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// All batches.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// The share of loader `index`, from 0, of `count` loaders.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn new(index: usize, count: usize) -> Shard {
        assert!(index < count, "loader {index} of {count}");
        Shard { index, count }
    }

    /// The number in the whole stream of batch `number` of this share.
    fn in_stream(self, number: u64) -> u64 {
        number * self.count as u64 + self.index as u64
    }
}

/// How batches are made.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// Images per batch.
    pub batch_size: usize,
    /// What may happen to training images; evaluation takes them as they are.
    pub augment: Augment,
    /// What pixel values become.
    pub normalization: Normalization,
    /// What batches carry.
    pub contents: BatchContents,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Which of the batches are made; the others are as they would be if they were.
    pub shard: Shard,
    /// Batches of training that belong together: a pass over the images ends with the last whole set of so many.
    pub batches_per_update: usize,
    /// Threads that make batches.
    pub workers: usize,
    /// Batches made ahead of time, those in the making counted: fewer than `workers` leave threads idle.
    pub prefetch: usize,
}

impl LoaderOptions {
    /// Batches of `batch_size` images as they are, normalised as for ImageNet, made by one thread.
    pub fn new(batch_size: usize) -> LoaderOptions {
        LoaderOptions {
            batch_size,
            augment: Augment::NONE,
            normalization: Normalization::default(),
            contents: BatchContents::Images,
            seed: 0,
            shard: Shard::WHOLE,
            batches_per_update: 1,
            workers: 1,
            prefetch: 4,
        }
    }
}

/// One batch, always of the full batch size; the last of an evaluation is padded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Normalised pixels, NHWC with three channels; zero in padding. Empty but for [`BatchContents::Images`].
    pub images: Vec<f32>,
    /// Pixels of the images as they are, NHWC with three channels; zero in padding. Empty but for [`BatchContents::Pixels`].
    pub pixels: Vec<u8>,
    /// Where each row's pixels are: the row itself for [`BatchContents::Pixels`], the number in the pack for
    /// [`BatchContents::Indices`]; -1 in padding. Empty for [`BatchContents::Images`].
    pub rows: Vec<i32>,
    /// What happens to each row's image; [`SampleParams::NONE`] in padding.
    pub params: Vec<SampleParams>,
    /// The operations on each row's bytes, where the policy may have some; else empty.
    pub steps: Vec<AutoSteps>,
    /// Categories, one per row; -1 in padding and for images without a label.
    pub labels: Vec<i32>,
    /// Categories of what shows through: those of the partners where the batch is mixed, else `labels` again.
    pub partner_labels: Vec<i32>,
    /// Weight of `labels` against `partner_labels`, one per row; 1 where nothing is mixed.
    pub weights: Vec<f32>,
    /// Which images of the pack these are, without padding.
    pub indices: Vec<u32>,
    /// Epoch the batch belongs to; 0 in evaluation.
    pub epoch: u32,
    /// Number of the batch within its epoch.
    pub index_in_epoch: usize,
}

impl Batch {
    /// A batch of normalised images, NHWC with three channels, and their categories, -1 for an image without one.
    pub fn new(images: Vec<f32>, labels: Vec<i32>) -> Batch {
        let (params, weights) = (vec![SampleParams::NONE; labels.len()], vec![1.0; labels.len()]);
        Batch { images, params, partner_labels: labels.clone(), weights, labels, ..Batch::default() }
    }
}

/// Delivers batches in a fixed order while threads make the next ones.
#[derive(Debug)]
pub struct Loader {
    batches: Prefetcher<Batch>,
}

/// The number of batches in an epoch of training on `num_images`; a partial last batch is dropped.
///
/// # Errors
/// [`Error::Setting`] if `batch_size` is 0 or there are fewer images than that.
pub fn batches_per_epoch(num_images: usize, batch_size: usize) -> Result<usize> {
    match num_images.checked_div(batch_size) {
        None => Err(no_batch()),
        Some(0) => {
            let message = format!("there are {num_images} training images; give at most {num_images}");
            Err(Error::setting("batch_size", batch_size, message))
        }
        Some(num_batches) => Ok(num_batches),
    }
}

fn no_batch() -> Error {
    Error::setting("batch_size", 0, "must be at least 1")
}

impl Loader {
    /// An endless stream of shuffled, augmented training batches, the shard of those from batch `first_batch` of `epoch` on.
    ///
    /// Batch b of epoch e is the same however the stream came to it, and whoever makes it.
    ///
    /// # Errors
    /// [`Error::Usage`] if the batch size does not suit the pack, or there is to be no worker.
    pub fn train(pack: Arc<Pack>, options: &LoaderOptions, epoch: u32, first_batch: usize) -> Result<Loader> {
        let (batches, update) =
            (batches_per_epoch(pack.len(), options.batch_size)?, options.batches_per_update);
        let per_epoch = match batches.checked_div(update) {
            Some(updates) if updates > 0 => (updates * update) as u64,
            _ => {
                return Err(Error::Usage(format!(
                    "an update takes {update} batches and the training images are {batches}; take smaller batches, or fewer \
                     of them"
                )));
            }
        };
        let first = u64::from(epoch) * per_epoch + first_batch as u64;
        let mut maker = BatchMaker::new(pack, options);
        let buffers = maker.buffers();
        let mut order = vec![0; maker.pack.len()];
        let (mut order_epoch, shard) = (None, options.shard);
        let make = move |number: u64, batch: &mut Batch| {
            let number = first + shard.in_stream(number);
            batch.epoch = (number / per_epoch) as u32;
            batch.index_in_epoch = (number % per_epoch) as usize;
            if order_epoch != Some(batch.epoch) {
                shuffle(maker.options.seed, batch.epoch, &mut order);
                order_epoch = Some(batch.epoch);
            }
            let batch_size = maker.options.batch_size;
            batch.indices.clear();
            batch.indices.extend_from_slice(&order[batch.index_in_epoch * batch_size..][..batch_size]);
            maker.draw(batch)?;
            maker.fill(batch)
        };
        Loader::start(make, options, u64::MAX, buffers)
    }

    /// The shard of batches that have every image of `pack` exactly once, in order and as it is; the last is padded.
    ///
    /// # Errors
    /// [`Error::Usage`] if the batch size is 0 or there is to be no worker.
    pub fn eval(pack: Arc<Pack>, options: &LoaderOptions) -> Result<Loader> {
        if options.batch_size == 0 {
            return Err(no_batch());
        }
        let num_images = pack.len();
        let (shard, num_batches) = (options.shard, num_images.div_ceil(options.batch_size));
        let num_batches = num_batches.saturating_sub(shard.index).div_ceil(shard.count);
        let mut maker = BatchMaker::new(pack, options);
        let buffers = maker.buffers();
        let make = move |number: u64, batch: &mut Batch| {
            let number = shard.in_stream(number);
            let first = number as usize * maker.options.batch_size;
            let end = (first + maker.options.batch_size).min(num_images);
            batch.epoch = 0;
            batch.index_in_epoch = number as usize;
            batch.indices.clear();
            batch.indices.extend(first as u32..end as u32);
            batch.params.clear();
            batch.params.resize(maker.options.batch_size, SampleParams::NONE);
            maker.fill(batch)
        };
        Loader::start(make, options, num_batches as u64, buffers)
    }

    /// Starts the workers, each with a copy of `make`.
    fn start<M>(make: M, options: &LoaderOptions, num_batches: u64, buffers: Vec<Batch>) -> Result<Loader>
    where
        M: FnMut(u64, &mut Batch) -> Result<()> + Clone + Send + 'static,
    {
        if options.workers == 0 || options.prefetch == 0 {
            return Err(Error::Usage("workers and batches made ahead must be at least 1".into()));
        }
        let workers = vec![make; options.workers];
        Ok(Loader { batches: Prefetcher::start(workers, options.prefetch, num_batches, buffers)? })
    }

    /// The next batch; `None` after the last of an evaluation.
    ///
    /// Hand it back with [`Loader::recycle`] when done, and nothing is allocated in the long run.
    ///
    /// # Errors
    /// [`Error::Data`] if the pack cannot be read or is not what was packed, or a worker panicked, which is a bug here.
    #[expect(
        clippy::should_implement_trait,
        reason = "a Loader is asked for time and takes batches back meanwhile"
    )]
    pub fn next(&mut self) -> Result<Option<Batch>> {
        self.batches.next()
    }

    /// Takes the buffers of a used batch back.
    pub fn recycle(&mut self, batch: Batch) {
        self.batches.recycle(batch);
    }

    /// The time [`Loader::next`] has waited for batches, all calls together.
    pub fn wait_time(&self) -> Duration {
        self.batches.wait_time()
    }
}

/// Fills batches whose indices are set; every worker has its own.
#[derive(Clone)]
struct BatchMaker {
    pack: Arc<Pack>,
    options: LoaderOptions,
    collator: Arc<Collator>,
    /// Of the image in hand, where it has to be read.
    pixels: Vec<u8>,
    /// Of the image in hand, while operations change them.
    room: [Vec<[u8; NUM_CHANNELS]>; 2],
}

impl BatchMaker {
    fn new(pack: Arc<Pack>, options: &LoaderOptions) -> BatchMaker {
        let collator = Arc::new(Collator::new(options.normalization));
        BatchMaker { pack, options: options.clone(), collator, pixels: Vec::new(), room: Default::default() }
    }

    /// As many batches as go round, with all the memory they need.
    fn buffers(&self) -> Vec<Batch> {
        let LoaderOptions { batch_size, contents, prefetch, .. } = self.options;
        let num_elems = batch_size * self.pack.image_size().pow(2) * NUM_CHANNELS;
        let elems_if = |is_delivered| if is_delivered { num_elems } else { 0 };
        let buffer = || Batch {
            images: Vec::with_capacity(elems_if(contents == BatchContents::Images)),
            pixels: Vec::with_capacity(elems_if(contents == BatchContents::Pixels)),
            rows: Vec::with_capacity(batch_size),
            params: Vec::with_capacity(batch_size),
            steps: Vec::with_capacity(if self.options.augment.has_steps() { batch_size } else { 0 }),
            labels: Vec::with_capacity(batch_size),
            partner_labels: Vec::with_capacity(batch_size),
            weights: Vec::with_capacity(batch_size),
            indices: Vec::with_capacity(batch_size),
            epoch: 0,
            index_in_epoch: 0,
        };
        (0..=prefetch).map(|_| buffer()).collect()
    }

    /// Draws what happens to the images of a full batch: to each, and between row i and row N-1-i.
    fn draw(&mut self, batch: &mut Batch) -> Result<()> {
        let BatchMaker { pack, options: LoaderOptions { augment, seed, .. }, pixels, .. } = self;
        let size = pack.image_size();
        let mix = augment.draw_mix(size, *seed, batch.epoch, batch.index_in_epoch as u32);
        let last = batch.indices.len() as i32 - 1;
        batch.params.clear();
        batch.steps.clear();
        for (&index, row) in batch.indices.iter().zip(0..) {
            let mut read = Ok(());
            let Drawn { params, steps } =
                augment.draw(size, *seed, batch.epoch, index, || match pack.pixels(index as usize, pixels) {
                    Ok(pixels) => Image::new(pixels, size, size).mean_grey(),
                    Err(error) => {
                        read = Err(error);
                        0.0
                    }
                });
            read?;
            let mix = if mix.is_none() { Mix::NONE } else { Mix { partner: last - row, ..mix } };
            batch.params.push(SampleParams { mix, ..params });
            batch.steps.extend(steps);
        }
        Ok(())
    }

    /// Fills `batch` from its indices and parameters.
    fn fill(&mut self, batch: &mut Batch) -> Result<()> {
        let (batch_size, num_rows) = (self.options.batch_size, batch.indices.len());
        self.fill_labels(batch);
        batch.rows.clear();
        match self.options.contents {
            BatchContents::Images => self.fill_images(batch)?,
            BatchContents::Pixels => {
                self.fill_pixels(batch)?;
                batch.rows.extend(0..num_rows as i32);
                batch.rows.resize(batch_size, -1);
            }
            BatchContents::Indices => {
                batch.rows.extend(batch.indices.iter().map(|&index| index as i32));
                batch.rows.resize(batch_size, -1);
            }
        }
        Ok(())
    }

    fn fill_labels(&self, batch: &mut Batch) {
        let num_pixels = self.pack.image_size().pow(2);
        let labels = batch.indices.iter().map(|&index| self.pack.label(index as usize));
        batch.labels.clear();
        batch.labels.extend(labels.map(|label| label.map_or(-1, |label| label as i32)));
        batch.labels.resize(self.options.batch_size, -1);
        batch.partner_labels.clone_from(&batch.labels);
        batch.weights.clear();
        for (row, params) in batch.params.iter().enumerate() {
            if !params.mix.is_none() {
                batch.partner_labels[row] = batch.labels[params.mix.partner as usize];
            }
            batch.weights.push(params.mix.own_share(num_pixels));
        }
    }

    fn fill_images(&mut self, batch: &mut Batch) -> Result<()> {
        let size = self.pack.image_size();
        let image_elems = size * size * NUM_CHANNELS;
        batch.images.resize(self.options.batch_size * image_elems, 0.0);
        let mut rows = batch.images.chunks_exact_mut(image_elems);
        for (i, ((&index, params), row)) in batch.indices.iter().zip(&batch.params).zip(&mut rows).enumerate()
        {
            let pixels = self.pack.pixels(index as usize, &mut self.pixels)?;
            match batch.steps.get(i) {
                Some(steps) => {
                    self.collator.sample_through(pixels, size, (params, steps), &mut self.room, row);
                }
                None => self.collator.sample(pixels, size, params, row),
            }
        }
        rows.for_each(|padding| padding.fill(0.0));
        let mut rest = batch.images.as_mut_slice();
        // Partners stand as far from the end as from the beginning, so each pair is mixed once. A row in the middle is
        // its own partner and stays.
        for params in batch.params[..batch.params.len() / 2].iter().take_while(|params| !params.mix.is_none())
        {
            let (first, behind) = rest.split_at_mut(image_elems);
            let (between, last) = behind.split_at_mut(behind.len() - image_elems);
            collate::mix(&params.mix, size, first, last);
            rest = between;
        }
        Ok(())
    }

    fn fill_pixels(&self, batch: &mut Batch) -> Result<()> {
        let image_elems = self.pack.image_size().pow(2) * NUM_CHANNELS;
        batch.pixels.resize(self.options.batch_size * image_elems, 0);
        let mut rows = batch.pixels.chunks_exact_mut(image_elems);
        for (&index, row) in batch.indices.iter().zip(&mut rows) {
            self.pack.copy_pixels(index as usize, row)?;
        }
        rows.for_each(|padding| padding.fill(0));
        Ok(())
    }
}
