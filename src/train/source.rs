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
        let Some(dataset) = open_dataset(config)? else { return generated(config) };
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
        None => {
            let scenes = generated(config)?;
            Ok((scenes.categories, if split == Split::Train { scenes.train } else { scenes.val }))
        }
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

fn generated(config: &TrainConfig) -> Result<Source> {
    let num_categories = data::kept_categories(scenes::CATEGORIES.len(), config.categories)?;
    let num_train = config.limit_train.unwrap_or(usize::MAX).min(NUM_SCENES.0);
    let pack = |split, num_images| {
        let (image_size, seed) = (config.img_size, SCENES_SEED);
        let options = SceneOptions { split, num_images, num_categories, image_size, seed };
        Arc::new(Pack::from_scenes(&options))
    };
    Ok(Source {
        format: "scenes".into(),
        categories: scenes::CATEGORIES[..num_categories].iter().map(|&name| name.into()).collect(),
        train: pack(Split::Train, num_train),
        val: pack(Split::Val, NUM_SCENES.1),
    })
}
