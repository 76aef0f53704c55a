//! Starting from the weights of another network: everything that the backbone has in the same shape, with a new last layer.

use std::collections::HashMap;
use std::path::Path;

use super::weights::{Weights, load_values, model_values};
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::graph::Graph;
use crate::models::{Network, Variant, is_of_layer};
use crate::ops::Mode;
use crate::plan::Persistent;
use crate::run::checkpoint::{self, NamedTensor};
use crate::run::model_card::ModelCard;
use crate::tensor::{DType, Shape};

/// Fills the layers of `network`, of form `form`, in `session` with those of the weight file at `path`, torchvision's or
/// this program's.
///
/// The last layer keeps its initial values, and so do layers that the network's backbone ([`Network::backbone`]) lacks or
/// has in another shape: the second head, for one. Everything else must be in the file.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that is missing, unknown or of another shape, or the other form that the
/// file says it is of.
pub fn load(session: &mut Session, network: &dyn Network, form: Variant, path: &Path) -> Result<()> {
    let mut file = checkpoint::read(path).map_err(explain_pickles(path))?;
    file.strip_parallel_prefix();
    if let Ok(card) = serde_json::from_value::<ModelCard>(file.metadata.clone())
        && card.form != form.to_string()
    {
        let form = &card.form;
        return Err(Error::checkpoint(path, format!("holds a network of form {form}; give --form {form}")));
    }
    let backbone = backbone_shapes(network)?;
    let last_layer = network.last_layer();
    let is_kept =
        |name: &str, shape: &Shape| !is_of_layer(name, last_layer) && backbone.get(name) == Some(shape);
    let kept: Vec<(String, Persistent)> = model_values(session, Weights::Trained)
        .filter(|(name, p)| is_kept(name, &p.slot.shape))
        .map(|(name, p)| (name.to_string(), p.clone()))
        .collect();
    // Of the file goes what the model has in another shape, and nothing else: what the backbone lacks is an error.
    let is_left_out = |tensor: &NamedTensor<'_>| {
        let of_backbone =
            |name: &str| backbone.contains_key(name) && !kept.iter().any(|(kept, _)| kept == name);
        let layer = tensor.name.strip_suffix(".num_batches_tracked");
        is_of_layer(&tensor.name, last_layer)
            || layer.map_or_else(
                || of_backbone(&tensor.name),
                |layer| of_backbone(&format!("{layer}.running_var")),
            )
    };
    file.tensors.retain(|tensor| !is_left_out(tensor));
    load_values(session, &kept, last_layer, &file.tensors, path)?;
    session.restart_copies()
}

/// Names and shapes of the persistent values of the network's backbone.
fn backbone_shapes(network: &dyn Network) -> Result<HashMap<String, Shape>> {
    let mut graph = Graph::new(DType::F32);
    // Large enough for five halvings; no parameter depends on it.
    let images = graph.input("images", [1, 32, 32, 3], DType::F32);
    match network.backbone() {
        Some(backbone) => backbone.forward(&mut graph, images.into(), Mode::Eval)?,
        None => network.forward(&mut graph, images.into(), Mode::Eval)?,
    };
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
