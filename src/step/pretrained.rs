//! Starting from the weights of another network: everything that a plain residual network has in the same shape, with a
//! new last layer.

use std::collections::HashMap;
use std::path::Path;

use super::weights::{self, load_values, model_values};
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::graph::Graph;
use crate::models::{LAST_LAYER, Model};
use crate::ops::Mode;
use crate::plan::Persistent;
use crate::run::checkpoint::{self, NamedTensor};
use crate::run::model_card::ModelCard;
use crate::tensor::{DType, Shape};

/// Fills the layers of `model` in `session` with those of the weight file at `path`, torchvision's or this program's.
///
/// The last layer keeps its first values, and so do layers that a plain residual network of the same depth lacks or has in
/// another shape: the second head, say. Everything else must be in the file.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that is missing, unknown or of another shape, or the other form that the
/// file says it is of.
pub fn load(session: &mut Session, model: &Model, path: &Path) -> Result<()> {
    let mut file = checkpoint::read(path).map_err(explain_pickles(path))?;
    file.strip_parallel_prefix();
    if let Ok(card) = serde_json::from_value::<ModelCard>(file.metadata.clone())
        && card.form != model.resnet.form.to_string()
    {
        let form = &card.form;
        return Err(Error::checkpoint(path, format!("holds a network of form {form}; give --form {form}")));
    }
    let plain = plain_shapes(model)?;
    let is_kept = |name: &str, shape: &Shape| !name.starts_with(LAST_LAYER) && plain.get(name) == Some(shape);
    let kept: Vec<(String, Persistent)> = model_values(session, "")
        .filter(|(name, p)| is_kept(name, &p.slot.shape))
        .map(|(name, p)| (name.to_string(), p.clone()))
        .collect();
    // Of the file goes what the model has in another shape, and nothing else: what no plain network has is an error.
    let is_left_out = |tensor: &NamedTensor<'_>| {
        let of_plain = |name: &str| plain.contains_key(name) && !kept.iter().any(|(kept, _)| kept == name);
        let layer = tensor.name.strip_suffix(".num_batches_tracked");
        tensor.name.starts_with(LAST_LAYER)
            || layer.map_or_else(|| of_plain(&tensor.name), |layer| of_plain(&format!("{layer}.running_var")))
    };
    file.tensors.retain(|tensor| !is_left_out(tensor));
    load_values(session, &kept, &file.tensors, path)?;
    weights::restart_averages(session)
}

/// Names and shapes of the persistent values of the same network without objects.
fn plain_shapes(model: &Model) -> Result<HashMap<String, Shape>> {
    let mut graph = Graph::new(DType::F32);
    // Large enough for five halvings; no parameter depends on it.
    let images = graph.input("images", [1, 32, 32, 3], DType::F32);
    Model { objects: None, ..*model }.forward(&mut graph, images.into(), Mode::Eval)?;
    let persistent = graph.values().iter().filter(|value| value.role.is_persistent());
    Ok(persistent.map(|value| (value.name.clone(), value.ty.shape)).collect())
}

/// PyTorch's own files end in .pth or .pt, and people give them.
fn explain_pickles(path: &Path) -> impl FnOnce(Error) -> Error {
    move |error| match path.extension().and_then(|extension| extension.to_str()) {
        Some("pth" | "pt" | "bin") => Error::checkpoint(
            path,
            "is a pickle of PyTorch's; save its tensors as safetensors: safetensors.torch.save_file(\
             torch.load(\"in.pth\"), \"out.safetensors\")",
        ),
        _ => error,
    }
}
