//! The images of a run: a data set on disk, or generated scenes.

use std::sync::Arc;

use super::config::{DataFacts, TrainConfig};
use crate::data::annotations::{Annotations, Capacity, SplitAnnotations};
use crate::data::pack::{self, Pack};
use crate::data::scenes::{self, SceneOptions};
use crate::data::{self, Dataset, OpenOptions, Split};
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
    /// Names by label.
    pub categories: Vec<String>,
    /// Training images.
    pub train: Arc<Pack>,
    /// Validation images.
    pub val: Arc<Pack>,
    /// The objects in them, where the run takes objects in.
    pub annotations: Option<SplitAnnotations>,
}

impl Source {
    /// Opens the data set and decodes what is not decoded yet; generates scenes where no data set is given.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and line that cannot be used, [`Error::Usage`] if nothing is left to train on.
    pub fn open(config: &TrainConfig) -> Result<Source> {
        let takes_objects = config.objects.is_some();
        let Some(dataset) = open_dataset(config)? else {
            let annotations = |split| Ok(Arc::new(Annotations::from_scenes(&scene_options(config, split)?)));
            let both = || {
                Ok::<_, Error>(SplitAnnotations {
                    train: annotations(Split::Train)?,
                    val: annotations(Split::Val)?,
                })
            };
            return Ok(Source {
                format: "scenes".into(),
                categories: scene_categories(config)?,
                train: scenes_of(config, Split::Train)?,
                val: scenes_of(config, Split::Val)?,
                annotations: takes_objects.then(both).transpose()?,
            });
        };
        let train = open_pack(config, &dataset, Split::Train)?;
        let val = open_pack(config, &dataset, Split::Val)?;
        let both = || {
            let annotations = |pack| Annotations::read(&dataset, pack).map(Arc::new);
            Ok::<_, Error>(SplitAnnotations { train: annotations(&train)?, val: annotations(&val)? })
        };
        let annotations = takes_objects.then(both).transpose()?;
        let source = Source {
            format: dataset.format().to_string(),
            categories: dataset.categories().to_vec(),
            train: Arc::new(train),
            val: Arc::new(val),
            annotations,
        };
        if source.val.is_empty() {
            return Err(Error::data(
                dataset.root(),
                "has no validation images; training measures its error on them",
            ));
        }
        Ok(source)
    }
}

impl Source {
    /// What the network has to know of the data.
    pub fn facts(&self) -> DataFacts {
        let plain = DataFacts::from(self.categories.len());
        self.annotations.as_ref().map_or(plain, |SplitAnnotations { train, val }| {
            let [train_room, val_room] = [train, val].map(|annotations| annotations.capacity(1));
            DataFacts {
                num_object_classes: train.num_classes(),
                largest_annotation: Capacity {
                    points: train_room.points.max(val_room.points),
                    objects: train_room.objects.max(val_room.objects),
                },
                ..plain
            }
        })
    }
}

/// One split of a data set, or of the generated scenes.
#[derive(Debug, Clone)]
pub struct SplitSource {
    /// Names by label.
    pub categories: Vec<String>,
    /// The images.
    pub pack: Arc<Pack>,
    /// The objects in them, where the settings take objects in.
    pub annotations: Option<Arc<Annotations>>,
}

impl SplitSource {
    /// Opens `split` as [`Source::open`] does.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open(config: &TrainConfig, split: Split) -> Result<SplitSource> {
        let takes_objects = config.objects.is_some();
        match open_dataset(config)? {
            Some(dataset) => {
                let pack = open_pack(config, &dataset, split)?;
                let annotations = takes_objects.then(|| Annotations::read(&dataset, &pack).map(Arc::new));
                let annotations = annotations.transpose()?;
                Ok(SplitSource {
                    categories: dataset.categories().to_vec(),
                    pack: Arc::new(pack),
                    annotations,
                })
            }
            None => {
                let options = scene_options(config, split)?;
                let annotations = takes_objects.then(|| Arc::new(Annotations::from_scenes(&options)));
                let pack = Arc::new(Pack::from_scenes(&options));
                Ok(SplitSource { categories: scene_categories(config)?, pack, annotations })
            }
        }
    }
}

fn open_dataset(config: &TrainConfig) -> Result<Option<Dataset>> {
    let TrainConfig { allow_missing, categories, limit_train, limit_val, .. } = *config;
    let options = OpenOptions { allow_missing, categories, limit_train, limit_val };
    config.data_dir.as_deref().map(|root| data::open(root, &options)).transpose()
}

fn open_pack(config: &TrainConfig, dataset: &Dataset, split: Split) -> Result<Pack> {
    let cache = match &config.cache_dir {
        Some(dir) => dir.clone(),
        None => pack::default_cache_dir()?,
    };
    Pack::open_or_build(dataset, split, config.img_size, &cache)
}

fn scene_categories(config: &TrainConfig) -> Result<Vec<String>> {
    let count = data::kept_categories(scenes::CATEGORIES.len(), config.categories)?;
    Ok(scenes::CATEGORIES[..count].iter().map(|&name| name.into()).collect())
}

fn scenes_of(config: &TrainConfig, split: Split) -> Result<Arc<Pack>> {
    Ok(Arc::new(Pack::from_scenes(&scene_options(config, split)?)))
}

fn scene_options(config: &TrainConfig, split: Split) -> Result<SceneOptions> {
    let num_images = match split {
        Split::Train => config.limit_train.unwrap_or(usize::MAX).min(NUM_SCENES.0),
        Split::Val | Split::Test => config.limit_val.unwrap_or(usize::MAX).min(NUM_SCENES.1),
    };
    let num_categories = scene_categories(config)?.len();
    let (image_size, seed) = (config.img_size, SCENES_SEED);
    Ok(SceneOptions { split, num_images, num_categories, image_size, seed })
}
