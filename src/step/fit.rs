//! Which tensors of a weight file are a network's: under what names they lie there, and whether names, shapes and values
//! are such that the network can have them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use crate::error::{Error, Result};
use crate::models::is_of_layer;
use crate::run::checkpoint::NamedTensor;
use crate::run::weight_file::WeightFile;
use crate::show::{show_count, show_path, show_text};

/// A counter of batch norm that old PyTorch files lack and no computation here reads.
pub(super) const COUNTER_SUFFIX: &str = ".num_batches_tracked";
/// The statistic next to that counter.
pub(super) const VARIANCE_SUFFIX: &str = ".running_var";
/// What `torch.compile`, activation checkpointing and FSDP put into the names of the layers that they wrap, at any depth.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"];
/// A word in the names of averaged weights.
const AVERAGED: &str = "ema";
/// Names that a message lists.
const NUM_LISTED: usize = 4;

/// The tensors of a weight file that are a network's, under the network's names; none is read.
#[derive(Debug)]
pub struct Fit {
    file: WeightFile,
    /// What stands before every name in the file.
    prefix: String,
    /// Name in the network, place in the file.
    tensors: Vec<(String, usize)>,
    /// Places in the file of what lies next to them, such as the state of an optimiser.
    outside: Vec<usize>,
}

impl Fit {
    /// Looks in `file` for the tensors of a network that are called `names`.
    ///
    /// What stands before them all is found by the names themselves: `module.` of DataParallel, `model.` of Lightning,
    /// `state_dict.` of a checkpoint, or several of these. Where the file has two sets that fit equally, averaged weights
    /// (`ema`) are taken, as they are from a run.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is no such tensor, or if it cannot be told which set to take.
    pub fn find<'a>(file: WeightFile, names: impl Iterator<Item = &'a str>) -> Result<Fit> {
        let names: HashSet<&str> = names.collect();
        let unwrapped: Vec<String> = file.tensors().iter().map(|listed| unwrapped(&listed.name)).collect();
        let prefix = prefix_of(&unwrapped, &names).map_err(|what| Error::checkpoint(file.path(), what))?;
        let mut tensors = Vec::new();
        let mut outside = Vec::new();
        for (place, name) in unwrapped.iter().enumerate() {
            match name.strip_prefix(&prefix) {
                Some(name) => tensors.push((name.to_string(), place)),
                None => outside.push(place),
            }
        }
        let mut seen: HashSet<&str> = HashSet::new();
        if let Some((twice, _)) = tensors.iter().find(|(name, _)| !seen.insert(name)) {
            let message = format!("has tensor `{}` both wrapped and not; keep one of them", show_text(twice));
            return Err(Error::checkpoint(file.path(), message));
        }
        let is_missing = |name: &&str| !name.ends_with(COUNTER_SUFFIX) && !seen.contains(*name);
        if is_one_of_several(file.path()) && names.iter().any(is_missing) {
            let message =
                "is one of several files that hold the weights; give their index, which ends in .index.json";
            return Err(Error::checkpoint(file.path(), message));
        }
        Ok(Fit { prefix, tensors, outside, file })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The shape of the network's tensor `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let (_, place) = self.tensors.iter().find(|(known, _)| known == name)?;
        Some(&self.file.tensors()[*place].shape)
    }

    /// What the file has next to the network's tensors, in words, if it has something.
    pub fn remark(&self) -> Option<String> {
        let others = self.outside.iter().map(|&place| quoted(&self.file.tensors()[place].name));
        let list = listed(others)?;
        let (path, prefix) = (show_path(self.path()), show_text(&self.prefix));
        Some(format!("{path}: the weights are those under `{prefix}`; the file also has {list}"))
    }

    /// Leaves out the tensors for which `keep` does not hold, and says their names and shapes.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) -> Vec<(String, Vec<usize>)> {
        let (kept, left) = std::mem::take(&mut self.tensors).into_iter().partition(|(name, _)| keep(name));
        self.tensors = kept;
        let left: Vec<(String, usize)> = left;
        left.into_iter().map(|(name, place)| (name, self.file.tensors()[place].shape.clone())).collect()
    }

    /// Fails unless these are the network's tensors, by name and shape; `num_batches_tracked` may be missing.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first tensor that differs, how many differ, and the flag to change.
    pub fn check(&self, expected: &[(String, Vec<usize>)], last_layer: &str) -> Result<()> {
        let found = self
            .tensors
            .iter()
            .map(|(name, place)| (name.as_str(), self.file.tensors()[*place].shape.as_slice()));
        check_names(expected, &found.collect::<Vec<_>>(), last_layer, self.path())
    }

    /// Reads the tensors, which are finite.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Checkpoint`] if the file cannot be read, or naming the first tensor with a value that no
    /// network has.
    pub fn read(mut self) -> Result<Vec<NamedTensor<'static>>> {
        let names: HashMap<String, String> = self
            .tensors
            .into_iter()
            .map(|(name, place)| (self.file.tensors()[place].name.clone(), name))
            .collect();
        let mut tensors = self.file.read(&|name| names.contains_key(name))?;
        for tensor in &mut tensors {
            tensor.name.clone_from(&names[&tensor.name]);
            refuse_values(tensor).map_err(|what| Error::checkpoint(self.file.path(), what))?;
        }
        Ok(tensors)
    }
}

/// Whether the name ends as in `model-00001-of-00002.safetensors`.
fn is_one_of_several(path: &Path) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.rsplit_once("-of-")
        .is_some_and(|(before, total)| is_number(total) && before.rsplit('-').next().is_some_and(is_number))
}

/// `name` without the wrappers within it.
fn unwrapped(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    parts.join(".")
}

/// What stands in `found` before most of `names`.
fn prefix_of(found: &[String], names: &HashSet<&str>) -> std::result::Result<String, String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in found {
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
        for start in starts.filter(|&start| names.contains(&name[start..])) {
            *counts.entry(&name[..start]).or_default() += 1;
        }
    }
    let Some(most) = counts.values().copied().max() else {
        let has = listed(found.iter().map(|name| quoted(name))).unwrap_or_else(|| "no tensor".into());
        return Err(format!(
            "has no tensor of this network, but {has}; give the --model that the file was saved from"
        ));
    };
    let best: Vec<&str> =
        counts.into_iter().filter(|(_, count)| *count == most).map(|(prefix, _)| prefix).collect();
    let is_averaged = |prefix: &str| prefix.split(['.', '_']).any(|word| word == AVERAGED);
    let averaged: Vec<&str> = best.iter().copied().filter(|prefix| is_averaged(prefix)).collect();
    match (&best[..], &averaged[..]) {
        ([only], _) | (_, [only]) => Ok((*only).to_string()),
        (both, _) => Err(format!(
            "has weights of the network under {} alike; save those that are meant alone: torch.save({{name: tensor for name, \
             tensor in tensors.items() if name.startswith(\"...\")}}, \"weights.pth\")",
            both.iter().map(|prefix| quoted(prefix)).collect::<Vec<_>>().join(" and ")
        )),
    }
}

/// The first few of `items`, and how many more there are; `None` if there is none.
pub(super) fn listed(mut items: impl Iterator<Item = String>) -> Option<String> {
    let first: Vec<String> = items.by_ref().take(NUM_LISTED).collect();
    match (first.is_empty(), items.count()) {
        (true, _) => None,
        (false, 0) => Some(first.join(", ")),
        (false, more) => Some(format!("{} and {} more", first.join(", "), show_count(more))),
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", show_text(name))
}

/// Fails if `tensor` has an element that is not finite, or is a variance below zero.
fn refuse_values(tensor: &NamedTensor<'_>) -> std::result::Result<(), String> {
    let Some(elems) = tensor.as_f32() else { return Ok(()) };
    let name = show_text(&tensor.name);
    if let Some(place) = elems.iter().position(|elem| !elem.is_finite()) {
        let (value, total) = (elems[place], elems.len());
        let count = match elems.iter().filter(|elem| !elem.is_finite()).count() {
            1 => format!("1 of its {total} elements is"),
            count => format!("{count} of its {total} elements are"),
        };
        return Err(format!(
            "tensor `{name}` holds {value} at {:?} ({count} not finite): the training that made it diverged, or the file is \
             damaged; give weights from before that",
            indices(place, &tensor.shape)
        ));
    }
    if tensor.name.ends_with(VARIANCE_SUFFIX)
        && let Some(place) = elems.iter().position(|&elem| elem < 0.0)
    {
        return Err(format!(
            "tensor `{name}` holds {} at {:?}, and no variance is negative: the file is damaged; give another",
            elems[place],
            indices(place, &tensor.shape)
        ));
    }
    Ok(())
}

/// Where the element `place` of a tensor of this shape is.
fn indices(mut place: usize, shape: &[usize]) -> Vec<usize> {
    let mut indices: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&extent| {
            let index = place % extent;
            place /= extent;
            index
        })
        .collect();
    indices.reverse();
    indices
}

/// Checks that the tensors of the file at `path` have the names and shapes that a model expects.
///
/// `num_batches_tracked` may be missing: PyTorch before 0.4.1 did not write it, and nothing here computes
/// with it.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that differs (in the order of `expected`, then of the file),
/// how many differ, and the flag to change.
pub(super) fn check_names(
    expected: &[(String, Vec<usize>)],
    found: &[(&str, &[usize])],
    last_layer: &str,
    path: &Path,
) -> Result<()> {
    let shapes: HashMap<&str, &[usize]> = found.iter().copied().collect();
    let names: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();

    let differing = expected.iter().filter_map(|(name, shape)| match shapes.get(name.as_str()) {
        Some(found) if found == shape => None,
        Some(found) => Some((name.as_str(), format!("has shape {found:?} where the model has {shape:?}"))),
        None if name.ends_with(COUNTER_SUFFIX) => None,
        None => Some((name.as_str(), format!("of shape {shape:?} is missing"))),
    });
    let unexpected = found
        .iter()
        .filter(|(name, _)| !names.contains(name))
        .map(|(name, shape)| (*name, format!("of shape {shape:?} is not in the model")));
    let differences: Vec<(&str, String)> = differing.chain(unexpected).collect();

    let Some((name, what)) = differences.first() else { return Ok(()) };
    let count = match differences.len() {
        1 => "the only tensor that differs".to_string(),
        count => format!("the first of {count} tensors that differ"),
    };
    let weight = format!("{last_layer}.weight");
    let categories = shapes.get(weight.as_str()).and_then(|shape| shape.first());
    let remedy = match categories {
        Some(categories) if differences.iter().all(|(name, _)| is_of_layer(name, last_layer)) => {
            format!("the file has {categories} categories: give --categories {categories}")
        }
        _ => "give the --model (and --categories) that the file was saved from".to_string(),
    };
    Err(Error::checkpoint(path, format!("tensor `{}` {what} ({count}); {remedy}", show_text(name))))
}

#[cfg(test)]
mod tests;
