//! Starting from the weights of another network: everything that the backbone has in the same shape, with a new last layer.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::fit::{Fit, listed};
use super::weights::{self, Weights, file_shapes, load_values, model_values};
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::graph::Graph;
use crate::models::{Network, Variant, is_of_layer};
use crate::ops::Mode;
use crate::plan::Persistent;
use crate::run::model_card::ModelCard;
use crate::run::weight_file::WeightFile;
use crate::show::{show_count, show_text};
use crate::tensor::{DType, Shape};

/// What of a weight file a session has taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Number of tensors taken.
    pub num_tensors: usize,
    /// Names and shapes of the tensors of the network in the file that are not taken.
    pub left: Vec<(String, Vec<usize>)>,
    /// Names of the session's values that keep their initial values.
    pub fresh: Vec<String>,
    /// What else the file has, in words.
    pub remark: Option<String>,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors are taken", show_count(self.num_tensors))?;
        let left = self.left.iter().map(|(name, shape)| format!("`{}` {shape:?}", show_text(name)));
        if let Some(left) = listed(left) {
            write!(f, "; {left} of the file are left out")?;
        }
        if let Some(fresh) = listed(self.fresh.iter().map(|name| format!("`{}`", show_text(name)))) {
            write!(f, "; {fresh} begin anew")?;
        }
        self.remark.iter().try_for_each(|remark| write!(f, " ({remark})"))
    }
}

/// Fills the layers of `network`, of form `form`, in `session` with those of the weight file at `path`, torchvision's or
/// this program's, in any form that [`WeightFile`] reads.
///
/// The last layer keeps its initial values, and so do layers that the network's backbone ([`Network::backbone`]) lacks or
/// has in another shape: the second head, for one. Everything else must be in the file.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that is missing, unknown, of another shape or not finite, or the other form
/// that the file says it is of.
pub fn load(session: &mut Session, network: &dyn Network, form: Variant, path: &Path) -> Result<Taken> {
    let file = WeightFile::open(path)?;
    if let Ok(card) = ModelCard::deserialize(file.metadata())
        && card.form != form.to_string()
    {
        let form = show_text(&card.form);
        return Err(Error::checkpoint(path, format!("holds a network of form {form}; give --form {form}")));
    }
    let backbone = backbone_graph(network)?;
    let shapes: HashMap<&str, Shape> = backbone
        .values()
        .iter()
        .filter(|value| value.role.is_persistent())
        .map(|value| (value.name.as_str(), value.ty.shape))
        .collect();
    let last_layer = network.last_layer();
    let is_kept = |name: &str, p: &Persistent| {
        !is_of_layer(name, last_layer) && shapes.get(name) == Some(&p.slot.shape)
    };
    let (kept, fresh): (Vec<_>, Vec<_>) = model_values(session, Weights::Trained)
        .map(|(name, p)| (name.to_string(), p.clone()))
        .partition(|(name, p)| is_kept(name, p));

    let names = weights::model_shapes(&backbone);
    let mut fit = Fit::find(file, names.iter().map(|(name, _)| name.as_str()))?;
    let expected = file_shapes(kept.iter().map(|(name, p)| (name.as_str(), &p.value)));
    // Of the file goes what the model has in another shape, and nothing else: what the backbone lacks is an error.
    let is_expected = |name: &str| expected.iter().any(|(known, _)| known == name);
    let is_of_backbone = |name: &str| names.iter().any(|(known, _)| known == name);
    let left =
        fit.retain(|name| !is_of_layer(name, last_layer) && (is_expected(name) || !is_of_backbone(name)));
    fit.check(&expected, last_layer)?;
    let remark = fit.remark();
    let tensors = fit.read()?;
    load_values(session, &kept, last_layer, &tensors, path)?;
    session.restart_copies()?;
    let fresh = fresh.into_iter().map(|(name, _)| name).collect();
    Ok(Taken { num_tensors: tensors.len(), left, fresh, remark })
}

/// The network's backbone, recorded.
fn backbone_graph(network: &dyn Network) -> Result<Graph> {
    let mut graph = Graph::new(DType::F32);
    // Large enough for five halvings; no parameter depends on it.
    let images = graph.input("images", [1, 32, 32, 3], DType::F32);
    match network.backbone() {
        Some(backbone) => backbone.forward(&mut graph, images.into(), Mode::Eval)?,
        None => network.forward(&mut graph, images.into(), Mode::Eval)?,
    };
    Ok(graph)
}
