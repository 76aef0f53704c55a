//! The images of a run: a data set on disk, or generated scenes.

use std::sync::Arc;

use super::config::TrainConfig;
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
}

impl Source {
    /// Opens the data set and decodes what is not decoded yet; generates scenes where no data set is given.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and line that cannot be used, [`Error::Usage`] if nothing is left to train on.
    pub fn open(config: &TrainConfig) -> Result<Source> {
        let Some(dataset) = open_dataset(config)? else {
            return Ok(Source {
                format: "scenes".into(),
                categories: scene_categories(config)?,
                train: scenes_of(config, Split::Train)?,
                val: scenes_of(config, Split::Val)?,
            });
        };
        let source = Source {
            format: dataset.format().to_string(),
            categories: dataset.categories().to_vec(),
            train: Arc::new(open_pack(config, &dataset, Split::Train)?),
            val: Arc::new(open_pack(config, &dataset, Split::Val)?),
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

/// One split of the data set, or of the generated scenes, with the category names.
///
/// # Errors
/// As [`Source::open`].
pub fn open_split(config: &TrainConfig, split: Split) -> Result<(Vec<String>, Arc<Pack>)> {
    match open_dataset(config)? {
        Some(dataset) => Ok((dataset.categories().to_vec(), Arc::new(open_pack(config, &dataset, split)?))),
        None => Ok((scene_categories(config)?, scenes_of(config, split)?)),
    }
}

fn open_dataset(config: &TrainConfig) -> Result<Option<Dataset>> {
    let TrainConfig { allow_missing, categories, limit_train, .. } = *config;
    let options = OpenOptions { allow_missing, categories, limit_train };
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
    let num_images = match split {
        Split::Train => config.limit_train.unwrap_or(usize::MAX).min(NUM_SCENES.0),
        Split::Val | Split::Test => NUM_SCENES.1,
    };
    let num_categories = scene_categories(config)?.len();
    let (image_size, seed) = (config.img_size, SCENES_SEED);
    let options = SceneOptions { split, num_images, num_categories, image_size, seed };
    Ok(Arc::new(Pack::from_scenes(&options)))
}
