//! The images of a run: a data set on disk, or generated scenes.

use std::sync::Arc;

use super::config::{DataFacts, TrainConfig};
use crate::data::annotations::{Annotations, SplitAnnotations};
use crate::data::pack::{self, Pack, Stop};
use crate::data::scenes::{self, SceneOptions};
use crate::data::{self, Crop, Dataset, Only, OpenOptions, Split};
use crate::error::{Error, Result};

/// Generated scenes for training and for validation.
const NUM_SCENES: (usize, usize) = (7000, 1000);
/// The same scenes for every run: `--seed` varies the training, not the data.
const SCENES_SEED: u64 = 1;

/// Decoded images of a run.
#[derive(Debug, Clone)]
pub struct Source {
    /// `miniplaces`, `folder` or `scenes`.
    pub format: String,
    /// Names of the categories, by label.
    pub categories: Vec<String>,
    /// Training images.
    pub train: Arc<Pack>,
    /// The same at the smaller sizes from which they grow.
    pub smaller: Vec<Arc<Pack>>,
    /// Validation images.
    pub val: Arc<Pack>,
    /// The objects in them, where the run takes objects in.
    pub annotations: Option<SplitAnnotations>,
    /// What people are to know of the data: what is left out, what serves in place of what.
    pub remarks: Vec<String>,
}

/// The numbers of a data set that decide how much memory a run on it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Number of training images.
    pub train: usize,
    /// Number of validation images.
    pub val: usize,
    /// What the network has to know.
    pub facts: DataFacts,
}

impl Extent {
    /// What the settings come to, without decoding an image: listed images count although they may turn out to be
    /// unreadable.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn of(config: &TrainConfig) -> Result<Extent> {
        let dataset = open_dataset(config, None)?;
        let read = |split| match &dataset {
            Some(dataset) => {
                let read = |_| Annotations::of_split(dataset, split, config.img_size).map(Arc::new);
                Ok::<_, Error>((dataset.samples(split).len(), config.objects.map(read).transpose()?))
            }
            None => {
                let options = scene_options(config, split, config.img_size)?;
                let draw = |_| Arc::new(Annotations::from_scenes(&options));
                Ok((options.num_images, config.objects.map(draw)))
            }
        };
        let ((train, of_train), (val, of_val)) = (read(Split::Train)?, read(Split::Val)?);
        let num_classes = match &dataset {
            Some(dataset) => dataset.categories().len(),
            None => scene_categories(config)?.len(),
        };
        let annotations = of_train.zip(of_val).map(|(train, val)| SplitAnnotations { train, val });
        Ok(Extent { train, val, facts: DataFacts::new(num_classes, annotations.as_ref()) })
    }
}

impl Source {
    /// Opens the data set and decodes what is not decoded yet, unless `stop` says that this is to end; generates scenes
    /// where no data set is given.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and line that cannot be used, [`Error::Usage`] if nothing is left to train on,
    /// [`Error::Interrupted`] with the signal that `stop` returns.
    pub fn open(config: &TrainConfig, stop: Stop<'_>) -> Result<Source> {
        let dataset = open_dataset(config, None)?;
        let crop = Crop::whole(config.img_size);
        let (train, of_train) = read_images(config, dataset.as_ref(), Split::Train, crop, stop)?;
        let (val, of_val) = read_images(config, dataset.as_ref(), Split::Val, crop, stop)?;
        let at_smaller = |&size: &usize| {
            let crop = Crop::whole(size);
            read_images(config, dataset.as_ref(), Split::Train, crop, stop).map(|(pack, _)| pack)
        };
        let sizes = config.growth(0).smaller_sizes();
        let smaller: Vec<Arc<Pack>> = sizes.iter().map(at_smaller).collect::<Result<_>>()?;
        if let Some((dataset, pack)) =
            dataset.as_ref().zip(smaller.iter().find(|pack| pack.len() != train.len()))
        {
            return Err(Error::data(
                dataset.root(),
                format!(
                    "has {} usable training images at {} pixels and {} at {}: files changed meanwhile; start again",
                    train.len(),
                    train.image_size(),
                    pack.len(),
                    pack.image_size()
                ),
            ));
        }
        if let Some(dataset) = dataset.as_ref().filter(|_| val.is_empty()) {
            return Err(Error::data(
                dataset.root(),
                "has no validation images; training measures its error on them",
            ));
        }
        let mut remarks = dataset.as_ref().map_or(Vec::new(), |dataset| dataset.remarks().to_vec());
        remarks.extend(train.remark(Split::Train));
        remarks.extend(val.remark(Split::Val));
        let annotations = of_train.zip(of_val);
        Ok(Source {
            format: dataset.as_ref().map_or("scenes", Dataset::format).into(),
            categories: match dataset {
                Some(dataset) => dataset.categories().to_vec(),
                None => scene_categories(config)?,
            },
            train,
            smaller,
            val,
            annotations: annotations.map(|(train, val)| SplitAnnotations { train, val }),
            remarks,
        })
    }

    /// The training images with this height and width: the full ones if there are no others.
    pub fn train_at(&self, image_size: usize) -> &Arc<Pack> {
        self.smaller.iter().find(|pack| pack.image_size() == image_size).unwrap_or(&self.train)
    }

    /// What the network has to know of the data.
    pub fn facts(&self) -> DataFacts {
        DataFacts::new(self.categories.len(), self.annotations.as_ref())
    }

    /// Of the training and of the validation images, with their objects where the run takes those in.
    pub fn fingerprints(&self) -> [u64; 2] {
        let [train, val] = match &self.annotations {
            Some(SplitAnnotations { train, val }) => [train.fingerprint(), val.fingerprint()],
            None => [0; 2],
        };
        [self.train.fingerprint() ^ train, self.val.fingerprint() ^ val]
    }

    /// What decides the memory of a run.
    pub fn extent(&self) -> Extent {
        Extent { train: self.train.len(), val: self.val.len(), facts: self.facts() }
    }
}

/// One split of a data set, or of the generated scenes.
#[derive(Debug, Clone)]
pub struct SplitSource {
    /// Names of the categories, by label.
    pub categories: Vec<String>,
    /// The images, once for each crop that was asked for.
    pub images: Vec<SplitImages>,
    /// What people are to know of the split: what is left out.
    pub remarks: Vec<String>,
}

/// The decoded images of a split, and the objects in them where the settings take objects in.
pub type SplitImages = (Arc<Pack>, Option<Arc<Annotations>>);

impl SplitSource {
    /// Opens one split, its photos cut in each of the ways `crops`; the other splits need not be there.
    ///
    /// # Errors
    /// As [`Source::open`], and [`Error::Usage`] for generated scenes that are not to be whole.
    pub fn open(config: &TrainConfig, only: Only, crops: &[Crop], stop: Stop<'_>) -> Result<SplitSource> {
        let split = only.split;
        let dataset = open_dataset(config, Some(only))?;
        let read = |&crop: &Crop| read_images(config, dataset.as_ref(), split, crop, stop);
        let images: Vec<SplitImages> = crops.iter().map(read).collect::<Result<_>>()?;
        let (categories, mut remarks) = match &dataset {
            Some(dataset) => (dataset.categories().to_vec(), dataset.remarks().to_vec()),
            None => (scene_categories(config)?, Vec::new()),
        };
        remarks.extend(images.first().and_then(|(pack, _)| pack.remark(split)));
        Ok(SplitSource { categories, images, remarks })
    }
}

fn read_images(
    config: &TrainConfig,
    dataset: Option<&Dataset>,
    split: Split,
    crop: Crop,
    stop: Stop<'_>,
) -> Result<SplitImages> {
    let takes_objects = config.objects.is_some();
    let Some(dataset) = dataset else {
        if crop != Crop::whole(crop.size) {
            let what = "generated scenes are drawn at the size that is asked for; --crop-pct and --val-resize-size take \
                        photos, of --data-dir";
            return Err(Error::Usage(what.into()));
        }
        let options = scene_options(config, split, crop.size)?;
        let annotations = takes_objects.then(|| Arc::new(Annotations::from_scenes(&options)));
        return Ok((Arc::new(Pack::from_scenes(&options)), annotations));
    };
    let cache = match &config.cache_dir {
        Some(dir) => dir.clone(),
        None => pack::default_cache_dir()?,
    };
    let pack = Arc::new(Pack::open_or_build_until(dataset, split, crop, &cache, stop)?);
    let annotations = takes_objects.then(|| Annotations::read(dataset, &pack).map(Arc::new)).transpose()?;
    Ok((pack, annotations))
}

fn open_dataset(config: &TrainConfig, only: Option<Only>) -> Result<Option<Dataset>> {
    let TrainConfig { allow_missing, categories, limit_train, limit_val, .. } = *config;
    let options = OpenOptions { allow_missing, categories, limit_train, limit_val, only };
    config.data_dir.as_deref().map(|root| data::open(root, &options)).transpose()
}

fn scene_categories(config: &TrainConfig) -> Result<Vec<String>> {
    let count = data::kept_categories(scenes::CATEGORIES.len(), config.categories)?;
    Ok(scenes::CATEGORIES[..count].iter().map(|&name| name.into()).collect())
}

fn scene_options(config: &TrainConfig, split: Split, image_size: usize) -> Result<SceneOptions> {
    let num_images = match split {
        Split::Train => config.limit_train.unwrap_or(usize::MAX).min(NUM_SCENES.0),
        Split::Val | Split::Test => config.limit_val.unwrap_or(usize::MAX).min(NUM_SCENES.1),
    };
    let num_categories = scene_categories(config)?.len();
    Ok(SceneOptions { split, num_images, num_categories, image_size, seed: SCENES_SEED })
}
