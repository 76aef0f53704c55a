//! A trained model ready to be asked: weights from a run or a file, in an inference session.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::data::annotations::Capacity;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Session, Start};
use crate::fuse::Fusion;
use crate::graph::Graph;
use crate::models::{Model, Network, Objects, Options, Variant};
use crate::plan::plan;
use crate::run::checkpoint::{self, NamedTensor};
use crate::run::model_card::ModelCard;
use crate::run::run_dir::RunDir;
use crate::run::weight_file::WeightFile;
use crate::step::fit::Fit;
use crate::step::weights;
use crate::step::{StepConfig, check_image_size, evaluation_graph};
use crate::tensor::DType;
use crate::transform::Normalization;

/// The categories of ImageNet's challenge (ILSVRC 2012) by label, one a line, in the words that torchvision uses.
const IMAGENET_CATEGORIES: &str = include_str!("imagenet.txt");
/// The most categories that a file of another program may have.
const MAX_CATEGORIES: usize = 1_000_000;

/// Weights in memory, and what they are.
#[derive(Debug)]
pub struct ModelFile {
    /// Where they came from.
    pub path: PathBuf,
    /// Model, categories, preprocessing.
    pub card: ModelCard,
    /// What else the file has, in words.
    pub remark: Option<String>,
    /// The rewrites of the graphs that its sessions run; all unless it is set otherwise.
    pub fuse: Fusion,
    /// The type of their activations, f32 or bf16; f32 unless it is set otherwise.
    pub float: DType,
    /// Whether its convolutions of f32 may multiply in TF32 ([`Window::allow_tf32`](crate::ops::Window::allow_tf32)); false at
    /// first.
    pub allow_tf32: bool,
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
        ModelFile {
            path: path.to_path_buf(),
            card,
            remark: None,
            fuse: Fusion::ALL,
            float: DType::F32,
            allow_tf32: false,
            tensors,
        }
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

    /// A weight file, of this program or of torchvision, in any form that [`WeightFile`] reads.
    ///
    /// Names and shapes are compared with the model's before a tensor is read.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is damaged, does not say what model it is and `overrides` do not either, or naming the
    /// first tensor that does not fit the model or is not finite.
    pub fn read(path: &Path, overrides: &CardOverrides) -> Result<ModelFile> {
        let file = WeightFile::open(path)?;
        let own = ModelCard::deserialize(file.metadata()).ok();
        let is_foreign = own.is_none();
        let mut card = own.map_or_else(|| foreign_card(overrides, path), Ok)?;
        card.model = overrides.model.clone().unwrap_or(card.model);
        card.form = overrides.form.clone().unwrap_or(card.form);
        card.img_size = overrides.img_size.unwrap_or(card.img_size);
        let shapes = shapes_of(&card)?;
        let fit = Fit::find(file, shapes.iter().map(|(name, _)| name.as_str()))?;
        let last_layer = model_of(&card)?.last_layer().to_string();
        let shapes = if is_foreign {
            let num_classes = num_classes(&fit, &last_layer, &card.model)?;
            card.categories = (0..num_classes).map(|label| label.to_string()).collect();
            shapes_of(&card)?
        } else {
            shapes
        };
        fit.check(&shapes, &last_layer)?;
        let remark = fit.remark();
        Ok(ModelFile { remark, ..ModelFile::new(path, card, fit.read()?) })
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
        self.session_at_sizes(&[self.card.img_size], batch_size, device, Capacity { points: 1, objects: 1 })
    }

    /// [`ModelFile::session`] with a plan for each of these sizes of the images, and with room for so large an annotation
    /// of every image, where the model takes objects in.
    ///
    /// # Errors
    /// As [`ModelFile::session`], and [`Error::Setting`] for a size that no network takes.
    pub fn session_at_sizes(
        &self,
        image_sizes: &[usize],
        batch_size: usize,
        device: Device,
        largest_annotation: Capacity,
    ) -> Result<Session> {
        let graph = |&image_size: &usize| {
            check_image_size("img_size", image_size)?;
            let step = StepConfig { largest_annotation, image_size, ..self.step_config(batch_size)? };
            evaluation_graph(&step, "")
        };
        let graphs: Vec<Graph> = image_sizes.iter().map(graph).collect::<Result<_>>()?;
        let program = plan(&graphs.iter().collect::<Vec<_>>(), device.kind())?;
        let mut session = Session::open(program, device, Start::Zeros)?;
        self.load_into(&mut session)?;
        Ok(session)
    }

    /// What its evaluation graph is made from, without room for annotations.
    ///
    /// # Errors
    /// [`Error::Usage`] if its name or form are unknown, or its images have a size that no network takes.
    pub fn step_config(&self, batch_size: usize) -> Result<StepConfig> {
        check_image_size("img_size", self.card.img_size)?;
        let normalization = self.card.normalization();
        let config = StepConfig::new(self.model()?, batch_size, self.card.img_size);
        let (fuse, float, allow_tf32) = (self.fuse, self.float, self.allow_tf32);
        Ok(StepConfig { normalization, fuse, float, allow_tf32, ..config })
    }

    /// Whether the file names its categories: those of other programs have the numbers of their labels for names.
    pub fn has_names(&self) -> bool {
        self.card.categories.iter().enumerate().any(|(label, name)| *name != label.to_string())
    }

    /// What people call the categories, by label: ImageNet's names where a file of another program has as many
    /// categories and names none.
    pub fn shown_categories(&self) -> Vec<&str> {
        let imagenet: Vec<&str> = IMAGENET_CATEGORIES.lines().collect();
        match imagenet.len() == self.card.categories.len() && !self.has_names() {
            true => imagenet,
            false => self.card.categories.iter().map(String::as_str).collect(),
        }
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

/// Names and shapes of the tensors of the model that a card describes.
fn shapes_of(card: &ModelCard) -> Result<Vec<(String, Vec<usize>)>> {
    check_image_size("img_size", card.img_size)?;
    let graph = evaluation_graph(&StepConfig::new(model_of(card)?, 1, card.img_size), "")?;
    Ok(weights::model_shapes(&graph))
}

/// The card of a file without one, for one category until it is known how many there are.
fn foreign_card(overrides: &CardOverrides, path: &Path) -> Result<ModelCard> {
    let model = overrides.model.clone().ok_or_else(|| {
        Error::checkpoint(
            path,
            "does not say which model it is for; name it with --model, as in --model resnet50",
        )
    })?;
    let Normalization { mean, std } = Normalization::default();
    Ok(ModelCard {
        model,
        form: Variant::V1_5.to_string(),
        img_size: 224,
        objects: None,
        categories: vec![String::new()],
        mean,
        std,
    })
}

/// The number of categories that the last layer of a file tells.
fn num_classes(fit: &Fit, last_layer: &str, model: &str) -> Result<usize> {
    let bias = format!("{last_layer}.bias");
    let what = match fit.shape(&bias) {
        Some(&[num_classes]) if (1..=MAX_CATEGORIES).contains(&num_classes) => return Ok(num_classes),
        Some(shape) => format!("tensor `{bias}` has shape {shape:?}"),
        None => format!("has no tensor `{bias}`"),
    };
    Err(Error::checkpoint(fit.path(), format!("{what}; it is not a weight file of {model}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(categories: Vec<String>) -> ModelFile {
        let Normalization { mean, std } = Normalization::default();
        let (model, form) = ("resnet18".into(), Variant::V1_5.to_string());
        let card = ModelCard { model, form, img_size: 224, objects: None, categories, mean, std };
        ModelFile::new(Path::new("weights"), card, Vec::new())
    }

    #[test]
    fn a_thousand_numbers_are_the_categories_of_imagenet() {
        let numbers = |count: usize| (0..count).map(|label| label.to_string()).collect::<Vec<_>>();
        let file = file_of(numbers(1000));
        let shown = file.shown_categories();
        let some: Vec<&str> = [0, 207, 281, 999].into_iter().map(|label| shown[label]).collect();
        assert_eq!(some, ["tench", "golden retriever", "tabby", "toilet tissue"]);
        assert!(shown.iter().all(|name| !name.is_empty()) && !file.has_names());
        assert_eq!(file_of(numbers(10)).shown_categories()[7], "7");
        let named = file_of(numbers(999).into_iter().chain(["last".into()]).collect());
        assert!(named.has_names() && named.shown_categories()[0] == "0");
    }
}
