//! A trained model ready to be asked: weights from a run or a file, in an inference session.

use std::path::{Path, PathBuf};

use crate::data::annotations::Capacity;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Session, Start};
use crate::models::{Model, Network, Objects, Options, Variant};
use crate::plan::plan;
use crate::run::checkpoint::{self, NamedTensor};
use crate::run::model_card::ModelCard;
use crate::run::run_dir::RunDir;
use crate::step::weights;
use crate::step::{StepConfig, check_image_size, evaluation_graph};
use crate::transform::Normalization;

/// Weights in memory, and what they are.
#[derive(Debug)]
pub struct ModelFile {
    /// Where they came from.
    pub path: PathBuf,
    /// Model, categories, preprocessing.
    pub card: ModelCard,
    tensors: Vec<NamedTensor<'static>>,
}

/// What a weight file of another program does not say.
#[derive(Debug, Clone, Default)]
pub struct CardOverrides {
    /// Name of the model.
    pub model: Option<String>,
    /// Variant of its blocks.
    pub form: Option<String>,
    /// Height and width of its images.
    pub img_size: Option<usize>,
}

impl ModelFile {
    /// Weights under torchvision's names and shapes; `path` stands for them in messages.
    pub fn new(path: &Path, card: ModelCard, tensors: Vec<NamedTensor<'static>>) -> ModelFile {
        ModelFile { path: path.to_path_buf(), card, tensors }
    }

    /// The best weights of a run.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] or [`Error::Io`] if the run has none or they are damaged.
    pub fn of_run(run: &RunDir, overrides: &CardOverrides) -> Result<ModelFile> {
        let best = run.best_weights();
        let path = if best.exists() { best } else { run.last_weights() };
        ModelFile::read(&path, overrides)
    }

    /// A weight file, of this program or of torchvision.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is damaged, or does not say what model it is and `overrides` do not either.
    pub fn read(path: &Path, overrides: &CardOverrides) -> Result<ModelFile> {
        let mut file = checkpoint::read(path)?;
        file.strip_parallel_prefix();
        let card = match serde_json::from_value::<ModelCard>(file.metadata.clone()) {
            Ok(card) => ModelCard {
                model: overrides.model.clone().unwrap_or(card.model),
                form: overrides.form.clone().unwrap_or(card.form),
                img_size: overrides.img_size.unwrap_or(card.img_size),
                ..card
            },
            Err(_) => foreign_card(&file, overrides, path)?,
        };
        Ok(ModelFile { path: path.to_path_buf(), card, tensors: file.tensors })
    }

    /// Writes weights and card to the safetensors file at `path`, replacing an earlier one atomically.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let metadata = serde_json::to_value(&self.card).expect("a model card is plain data");
        checkpoint::write_atomic(path, &self.tensors, &metadata)
    }

    /// The weights, in the order of the file.
    pub fn tensors(&self) -> &[NamedTensor<'static>] {
        &self.tensors
    }

    /// The model that these weights are for.
    ///
    /// # Errors
    /// [`Error::Usage`] if its name or form are unknown.
    pub fn model(&self) -> Result<Model> {
        model_of(&self.card)
    }

    /// Reads the weights into a session of their network.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first tensor that does not fit the model.
    pub fn load_into(&self, session: &mut Session) -> Result<()> {
        weights::load_model(session, self.model()?.last_layer(), &self.tensors, &self.path)
    }

    /// An inference session on `device` for batches of `batch_size` images with these weights.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first tensor that does not fit the model.
    pub fn session(&self, batch_size: usize, device: Device) -> Result<Session> {
        self.session_with_room(batch_size, device, Capacity { points: 1, objects: 1 })
    }

    /// [`ModelFile::session`] with room for so large an annotation of every image, where the model takes objects in.
    ///
    /// # Errors
    /// As [`ModelFile::session`].
    pub fn session_with_room(
        &self,
        batch_size: usize,
        device: Device,
        largest_annotation: Capacity,
    ) -> Result<Session> {
        let step = StepConfig { largest_annotation, ..self.step_config(batch_size)? };
        let graph = evaluation_graph(&step, "")?;
        let mut session = Session::open(plan(&[&graph], device.kind())?, device, Start::Zeros)?;
        self.load_into(&mut session)?;
        Ok(session)
    }

    /// What its evaluation graph is made from, without room for annotations.
    ///
    /// # Errors
    /// [`Error::Usage`] if its name or form are unknown, or its images have a size that no network takes.
    pub fn step_config(&self, batch_size: usize) -> Result<StepConfig> {
        check_image_size(self.card.img_size)?;
        let normalization = self.card.normalization();
        Ok(StepConfig { normalization, ..StepConfig::new(self.model()?, batch_size, self.card.img_size) })
    }

    /// Fails if a label means something else in a data set of these `categories`, which may go on after the model's.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first category that differs.
    pub fn check_labels(&self, categories: &[String]) -> Result<()> {
        let known = &self.card.categories;
        let differs = |what: String| {
            let remedy = "give the data set it was trained on with --data-dir, or its run folder with --run";
            Err(Error::checkpoint(&self.path, format!("{what}; {remedy}")))
        };
        if known.len() > categories.len() {
            let (known, found) = (known.len(), categories.len());
            return differs(format!("knows {known} categories and the data set has {found}"));
        }
        // A file that names no categories has their numbers for names.
        let mut pairs = known.iter().zip(categories).enumerate();
        match pairs.find(|(label, (known, found))| known != found && **known != label.to_string()) {
            Some((label, (known, found))) => {
                differs(format!("label {label} is `{known}` to it and `{found}` in the data set"))
            }
            None => Ok(()),
        }
    }
}

/// The model that a card describes.
fn model_of(card: &ModelCard) -> Result<Model> {
    let form: Variant = card.form.parse()?;
    let objects = card.objects.as_ref().map(|objects| {
        Ok::<_, Error>(Objects { kind: objects.kind.parse()?, num_classes: objects.num_classes })
    });
    let options = Options {
        num_classes: card.categories.len(),
        form,
        objects: objects.transpose()?,
        zero_init_last: false,
    };
    Model::new(&card.model, options)
}

/// The card of a file without one: the last layer tells the number of categories, the flags the rest.
fn foreign_card(file: &checkpoint::Checkpoint, overrides: &CardOverrides, path: &Path) -> Result<ModelCard> {
    let model = overrides.model.clone().ok_or_else(|| {
        Error::checkpoint(
            path,
            "does not say which model it is for; name it with --model, as in --model resnet50",
        )
    })?;
    let Normalization { mean, std } = Normalization::default();
    let mut card = ModelCard {
        model,
        form: overrides.form.clone().unwrap_or_else(|| Variant::V1_5.to_string()),
        img_size: overrides.img_size.unwrap_or(224),
        objects: None,
        categories: Vec::new(),
        mean,
        std,
    };
    let bias = format!("{}.bias", model_of(&card)?.last_layer());
    let num_classes = file.get(&bias).map(|bias| bias.shape.iter().product()).ok_or_else(|| {
        Error::checkpoint(path, format!("has no tensor `{bias}`; it is not a weight file of {}", card.model))
    })?;
    card.categories = (0..num_classes).map(|label: usize| label.to_string()).collect();
    Ok(card)
}
