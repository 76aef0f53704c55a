//! A trained model as a file for other programs: torchvision's weights, or an ONNX model that is complete in itself.

use std::path::Path;

use super::model_file::ModelFile;
use super::onnx::{self, OnnxModel};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::models::Network;
use crate::ops::Mode;
use crate::run::replace;
use crate::step::weights::{self, Weights};
use crate::tensor::DType;

const NUM_BATCHES_SUFFIX: &str = ".num_batches_tracked";

/// Writes the weights under torchvision's names and shapes, with the card that `predict` and `eval` read.
///
/// # Errors
/// [`Error::Checkpoint`] if the weights do not fit their model or the file cannot be written.
pub fn write_safetensors(file: &ModelFile, path: &Path) -> Result<()> {
    let session = file.session(1, Device::Cpu)?;
    let count = file.tensors().iter().find(|tensor| tensor.name.ends_with(NUM_BATCHES_SUFFIX));
    let num_batches = match count.map(|tensor| &tensor.data) {
        Some(crate::run::checkpoint::TensorData::I64(count)) => {
            count.first().map_or(0, |&count| count as u64)
        }
        _ => 0,
    };
    let tensors = weights::model_tensors(&session, Weights::Trained, num_batches)?;
    ModelFile::new(path, file.card.clone(), tensors).write(path)
}

/// Writes an ONNX model: input `images` (`[batch, 3, S, S]`, RGB, normalised), output `logits` (`[batch, classes]`).
///
/// Its metadata says how the images are normalised and what the labels mean.
///
/// # Errors
/// [`Error::Checkpoint`] if the weights do not fit their model, [`Error::Graph`] if the model has an operation that the
/// export does not know, [`Error::Io`] if the file cannot be written.
pub fn write_onnx(file: &ModelFile, path: &Path) -> Result<()> {
    let card = &file.card;
    if let Some(objects) = &card.objects {
        return Err(Error::Usage(format!(
            "{}: takes objects in ({}), for which ONNX has no operation; export it with --format safetensors",
            file.path.display(),
            objects.kind
        )));
    }
    // Names and shapes are checked where weights are loaded.
    file.session(1, Device::Cpu)?;
    let mut graph = Graph::new(DType::F32);
    let images = graph.input(onnx::IMAGES, [1, card.img_size, card.img_size, 3], DType::F32);
    let logits = file.model()?.forward(&mut graph, images.into(), Mode::Eval)?;
    let metadata = [
        ("model", card.model.clone()),
        ("form", card.form.clone()),
        ("img_size", card.img_size.to_string()),
        ("mean", join(card.mean)),
        ("std", join(card.std)),
        (
            "normalisation",
            "(pixel / 255 - mean) / std of each channel, in the order red, green, blue".to_string(),
        ),
        ("categories", serde_json::to_string(&card.categories).expect("names are JSON")),
    ];
    let weights = |name: &str| {
        let found =
            file.tensors().iter().find(|tensor| tensor.name == name).and_then(|tensor| tensor.as_f32());
        found.ok_or_else(|| Error::checkpoint(&file.path, format!("has no floats called `{name}`")))
    };
    let model = OnnxModel { graph: &graph, images, logits, weights: &weights, metadata: &metadata };
    let bytes = model.to_bytes()?;
    replace::replace(path, |writer| writer.write_all(&bytes)).map_err(Error::io("write", path))
}

fn join(channels: [f32; 3]) -> String {
    channels.map(|channel| channel.to_string()).join(",")
}
