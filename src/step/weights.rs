//! Weights between a session and files: torchvision's names and shapes, and the whole state of a run.

use std::path::Path;

use crc32c::crc32c;

use super::fit::{COUNTER_SUFFIX, VARIANCE_SUFFIX, check_names};
use super::graph::ACCUMULATED_PREFIX;
use crate::device::Slot;
use crate::dist::Collective;
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::graph::{Graph, Init, Role, Value};
use crate::plan::Persistent;
use crate::run::checkpoint::NamedTensor;
use crate::tensor::{Shape, Tensor};

/// Which of the two sets of weights of a training session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Those that updates change.
    Trained,
    /// Their moving averages.
    Averaged,
}

/// The values that a run learns or keeps count of: what is persistent, but for the data, what ranks exchange, and sums of
/// gradients, which are zeros between two updates.
fn kept(session: &Session) -> impl Iterator<Item = &Persistent> {
    let is_kept = |role| !matches!(role, Role::Data | Role::Exchanged | Role::Accumulated);
    session.program().persistent.iter().filter(move |p| is_kept(p.value.role))
}

/// Parameters and running statistics, each with its name in weight files.
pub(super) fn model_values(session: &Session, weights: Weights) -> impl Iterator<Item = (&str, &Persistent)> {
    kept(session).filter_map(move |p| match (&p.value.init, weights) {
        (Some(Init::CopyOf(name)), Weights::Averaged) if p.value.role == Role::Average => {
            Some((name.as_str(), p))
        }
        (_, Weights::Trained) if p.value.role.is_model() => Some((p.value.name.as_str(), p)),
        _ => None,
    })
}

/// The model under torchvision's names and shapes: filters OIHW, `num_batches_tracked` next to each running variance.
///
/// # Errors
/// [`Error::Device`] if the device refuses the copy.
pub fn model_tensors(
    session: &Session,
    weights: Weights,
    num_batches: u64,
) -> Result<Vec<NamedTensor<'static>>> {
    let mut tensors = Vec::new();
    for (name, p) in model_values(session, weights) {
        let tensor = Tensor::new(p.slot.shape, session.read::<f32>(&p.slot)?.into_owned());
        let tensor = tensor.to_file_layout(p.value.layout);
        tensors.push(NamedTensor::f32(name, tensor.shape().dims(), tensor.into_data()));
        if let Some(counter) = counter_of(name) {
            tensors.push(NamedTensor::i64(counter, [].as_slice(), vec![num_batches as i64]));
        }
    }
    Ok(tensors)
}

/// Names and shapes that the weight file of the network recorded in `graph` has.
pub fn model_shapes(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    let values = graph.values().iter().filter(|value| value.role.is_model());
    file_shapes(values.map(|value| (value.name.as_str(), value)))
}

/// Names and shapes in files of values that are called so there.
pub(super) fn file_shapes<'a>(
    values: impl Iterator<Item = (&'a str, &'a Value)>,
) -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    for (name, value) in values {
        shapes.push((name.to_string(), value.layout.file_extents(value.ty.shape)));
        shapes.extend(counter_of(name).map(|counter| (counter, vec![])));
    }
    shapes
}

/// The name of the counter next to the statistic `name`, if it is a variance.
fn counter_of(name: &str) -> Option<String> {
    name.strip_suffix(VARIANCE_SUFFIX).map(|layer| format!("{layer}{COUNTER_SUFFIX}"))
}

/// Reads a model written by [`model_tensors`], or by torchvision, into the session's trained weights. `last_layer` is
/// [`crate::models::Network::last_layer`]; messages call the file `path`.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that is missing, unknown or of another shape.
pub fn load_model(
    session: &mut Session,
    last_layer: &str,
    tensors: &[NamedTensor<'_>],
    path: &Path,
) -> Result<()> {
    let values: Vec<(String, Persistent)> =
        model_values(session, Weights::Trained).map(|(name, p)| (name.to_string(), p.clone())).collect();
    load_values(session, &values, last_layer, tensors, path)
}

/// Reads the values called so from a file that has them and nothing more.
pub(super) fn load_values(
    session: &mut Session,
    values: &[(String, Persistent)],
    last_layer: &str,
    tensors: &[NamedTensor<'_>],
    path: &Path,
) -> Result<()> {
    let shapes = file_shapes(values.iter().map(|(name, p)| (name.as_str(), &p.value)));
    check_names(&shapes, &names_and_shapes(tensors), last_layer, path)?;
    for (name, p) in values {
        let found = tensors.iter().find(|t| t.name == *name);
        let data = found.and_then(NamedTensor::as_f32);
        let data =
            data.ok_or_else(|| Error::checkpoint(path, format!("tensor `{name}` does not hold floats")))?;
        let tensor = Tensor::new(Shape::new(&p.value.layout.file_extents(p.slot.shape)), data.to_vec())
            .from_file_layout(p.value.layout);
        session.write::<f32>(&p.slot, tensor.data())?;
    }
    Ok(())
}

fn names_and_shapes<'a>(tensors: &'a [NamedTensor<'_>]) -> Vec<(&'a str, &'a [usize])> {
    tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect()
}

/// Every value that a resumed run starts from, as it lies in memory; borrowed on the CPU. How many micro-batches an update sums
/// is not to be seen in them.
///
/// # Errors
/// [`Error::Device`] if the device refuses the copy.
pub fn state_tensors(session: &Session) -> Result<Vec<NamedTensor<'_>>> {
    kept(session)
        .map(|p| {
            Ok(NamedTensor::f32(p.value.name.as_str(), p.slot.shape.dims(), session.read::<f32>(&p.slot)?))
        })
        .collect()
}

/// Gives every rank the state of rank 0.
///
/// # Errors
/// [`Error::Device`] if the device refuses the copy, or what the collective reports.
pub(super) fn share_state(session: &mut Session, collective: &mut dyn Collective) -> Result<()> {
    let slots: Vec<Slot> = kept(session).map(|p| p.slot).collect();
    for slot in &slots {
        let mut elems = session.read::<f32>(slot)?.into_owned();
        collective.broadcast(bytemuck::cast_slice_mut(&mut elems))?;
        if collective.rank().index > 0 {
            session.write::<f32>(slot, &elems)?;
        }
    }
    Ok(())
}

/// Fails unless every rank has the state of the others.
///
/// # Errors
/// [`Error::Replicas`] on every rank, naming the ranks that differ from most and the first tensor in which they do, and what
/// device and collective report.
pub(super) fn check_replicas(session: &Session, collective: &mut dyn Collective) -> Result<()> {
    let own = kept(session).map(|p| Ok(crc32c(bytemuck::cast_slice(&session.read::<f32>(&p.slot)?))));
    let own: Vec<u32> = own.collect::<Result<_>>()?;
    let count = collective.rank().count;
    let mut all = vec![0; count * own.len()];
    collective.all_gather(bytemuck::cast_slice(&own), bytemuck::cast_slice_mut(&mut all))?;
    let of_tensor = |tensor: usize| all[tensor..].iter().step_by(own.len()).copied();
    for (tensor, p) in kept(session).enumerate() {
        let times = |sum: u32| of_tensor(tensor).filter(|other| *other == sum).count();
        // Of equally many, those of the lower rank count as right.
        let usual = of_tensor(tensor).rev().max_by_key(|&sum| times(sum)).expect("there are ranks");
        let is_other = |rank: &usize| all[rank * own.len() + tensor] != usual;
        let others: Vec<String> = (0..count).filter(is_other).map(|rank| (rank + 1).to_string()).collect();
        if !others.is_empty() {
            return Err(Error::Replicas(format!(
                "of {count} ranks, {} no longer have the weights of the others; the first tensor that differs is `{}`. A device \
                 has computed something else than the others, or they run different builds: go on from the last checkpoint on \
                 others",
                others.join(", "),
                p.value.name
            )));
        }
    }
    Ok(())
}

/// The first persistent value with an element that is infinite or not a number.
///
/// # Errors
/// [`Error::Device`] if the device refuses the copy.
pub fn first_not_finite(session: &Session) -> Result<Option<&str>> {
    for p in kept(session) {
        if session.read::<f32>(&p.slot)?.iter().any(|elem| !elem.is_finite()) {
            return Ok(Some(&p.value.name));
        }
    }
    Ok(None)
}

/// The inverse of [`state_tensors`]; sums of gradients, which earlier versions saved as the zeros that they were, begin at zero.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that differs from what this configuration keeps.
pub fn load_state(
    session: &mut Session,
    last_layer: &str,
    tensors: &[NamedTensor<'_>],
    path: &Path,
) -> Result<()> {
    let persistent: Vec<Persistent> = kept(session).cloned().collect();
    let expected: Vec<(String, Vec<usize>)> =
        persistent.iter().map(|p| (p.value.name.clone(), p.slot.shape.dims().to_vec())).collect();
    let is_kept = |of: &str| expected.iter().any(|(name, _)| name == of);
    let is_sum = |name: &str| name.strip_prefix(ACCUMULATED_PREFIX).is_some_and(is_kept);
    let mut found = names_and_shapes(tensors);
    found.retain(|(name, _)| !is_sum(name));
    check_names(&expected, &found, last_layer, path)?;
    for p in &persistent {
        let found = tensors.iter().find(|t| t.name == p.value.name).and_then(NamedTensor::as_f32);
        let message = || format!("tensor `{}` does not hold floats", p.value.name);
        session.write::<f32>(&p.slot, found.ok_or_else(|| Error::checkpoint(path, message()))?)?;
    }
    let is_sum = |p: &&Persistent| p.value.role == Role::Accumulated;
    let sums: Vec<Slot> = session.program().persistent.iter().filter(is_sum).map(|p| p.slot).collect();
    sums.iter().try_for_each(|sum| session.write(sum, &vec![0.0_f32; sum.shape.num_elems()]))
}
