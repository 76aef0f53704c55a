//! Weights between a session and files: first values, torchvision's names and shapes, the whole state of a run.

use std::path::Path;

use rayon::prelude::*;

use super::EMA_PREFIX;
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::graph::{Init, Role};
use crate::plan::Persistent;
use crate::rng::{Stream, Use};
use crate::run::checkpoint::{NamedTensor, check_names};
use crate::tensor::{Layout, Shape, Tensor};

/// Fills every persistent value with its starting contents: a pure function of `seed` and the value's name.
///
/// # Errors
/// [`Error::Device`] if the device refuses the copy.
pub fn initialise(session: &mut Session, seed: u64) -> Result<()> {
    let persistent: Vec<Persistent> = kept(session).cloned().collect();
    let contents: Vec<Vec<f32>> = persistent.par_iter().map(|p| first_values(p, seed)).collect();
    for (p, contents) in persistent.iter().zip(contents) {
        session.write::<f32>(&p.slot, &contents)?;
    }
    restart_averages(session)
}

/// The values that a run learns or keeps count of: everything persistent but the data.
fn kept(session: &Session) -> impl Iterator<Item = &Persistent> {
    session.program().persistent.iter().filter(|p| p.value.role != Role::Data)
}

fn first_values(persistent: &Persistent, seed: u64) -> Vec<f32> {
    let name = persistent.value.name.as_str();
    let mut stream = Stream::new(seed, 0, crc32c::crc32c(name.as_bytes()), Use::Init);
    let len = persistent.slot.shape.num_elems();
    match persistent.value.init {
        Some(Init::Normal { std }) => (0..len).map(|_| std * stream.normal()).collect(),
        Some(Init::Uniform { bound }) => (0..len).map(|_| bound * (2.0 * stream.uniform() - 1.0)).collect(),
        Some(Init::Constant(value)) => vec![value; len],
        None => vec![0.0; len],
    }
}

/// Sets every average to the value it averages.
///
/// # Errors
/// [`Error::Device`] if the device refuses the copy.
pub fn restart_averages(session: &mut Session) -> Result<()> {
    let persistent: Vec<Persistent> = kept(session).cloned().collect();
    for average in &persistent {
        let Some(source) = average.value.name.strip_prefix(EMA_PREFIX) else { continue };
        if let Some(source) = persistent.iter().find(|p| p.value.name == source) {
            let contents = session.read::<f32>(&source.slot)?.into_owned();
            session.write::<f32>(&average.slot, &contents)?;
        }
    }
    Ok(())
}

/// Parameters and running statistics whose names start with `prefix` (empty for the trained ones), without it.
pub(super) fn model_values<'a>(
    session: &'a Session,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Persistent)> {
    kept(session).filter_map(move |p| {
        let name = p.value.name.strip_prefix(prefix)?;
        let running = name.ends_with(".running_mean") || name.ends_with(".running_var");
        let learned = p.value.role == Role::Parameter || name.ends_with(".weight") || name.ends_with(".bias");
        let of_model = (running || learned) && is_plain(name);
        of_model.then_some((name, p))
    })
}

/// Whether a name belongs to the model itself and not to an average or the optimiser.
fn is_plain(name: &str) -> bool {
    ![EMA_PREFIX, super::OPTIMISER_PREFIX, super::ACCUMULATED_PREFIX].iter().any(|p| name.starts_with(p))
}

/// The model under torchvision's names and shapes: filters OIHW, `num_batches_tracked` beside each running variance.
/// `prefix` selects the averaged weights.
///
/// # Errors
/// [`Error::Device`] if the device refuses the copy.
pub fn model_tensors(session: &Session, prefix: &str, num_batches: u64) -> Result<Vec<NamedTensor<'static>>> {
    let mut tensors = Vec::new();
    for (name, p) in model_values(session, prefix) {
        let tensor = Tensor::new(p.slot.shape, session.read::<f32>(&p.slot)?.into_owned());
        let tensor = tensor.to_file_layout(p.value.layout);
        tensors.push(NamedTensor::f32(name, tensor.shape().dims(), tensor.into_data()));
        if let Some(layer) = name.strip_suffix(".running_var") {
            let count = vec![num_batches as i64];
            tensors.push(NamedTensor::i64(format!("{layer}.num_batches_tracked"), [].as_slice(), count));
        }
    }
    Ok(tensors)
}

/// Reads a model written by [`model_tensors`], or by torchvision, into the session's trained weights.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that is missing, unknown or of another shape.
pub fn load_model(
    session: &mut Session,
    prefix: &str,
    tensors: &[NamedTensor<'_>],
    path: &Path,
) -> Result<()> {
    let values: Vec<(String, Persistent)> =
        model_values(session, prefix).map(|(name, p)| (name.to_string(), p.clone())).collect();
    load_values(session, &values, tensors, path)
}

/// Reads the values called so from a file that has them and nothing more.
pub(super) fn load_values(
    session: &mut Session,
    values: &[(String, Persistent)],
    tensors: &[NamedTensor<'_>],
    path: &Path,
) -> Result<()> {
    let mut names: Vec<(String, Vec<usize>)> = Vec::new();
    for (name, p) in values {
        names.push((name.clone(), file_shape(p)));
        if let Some(layer) = name.strip_suffix(".running_var") {
            names.push((format!("{layer}.num_batches_tracked"), vec![]));
        }
    }
    check_names(&names, tensors, path)?;
    for (name, p) in values {
        let found = tensors.iter().find(|t| t.name == *name);
        let data = found.and_then(NamedTensor::as_f32);
        let data =
            data.ok_or_else(|| Error::checkpoint(path, format!("tensor `{name}` does not hold floats")))?;
        let tensor = Tensor::new(Shape::new(&file_shape(p)), data.to_vec()).from_file_layout(p.value.layout);
        session.write::<f32>(&p.slot, tensor.data())?;
    }
    Ok(())
}

fn file_shape(p: &Persistent) -> Vec<usize> {
    match (p.value.layout, p.slot.shape.as_4d()) {
        (Layout::Krsc, Some([k, r, s, c])) => vec![k, c, r, s],
        _ => p.slot.shape.dims().to_vec(),
    }
}

/// Every persistent value as it lies in memory, borrowed on the CPU: what a resumed run starts from.
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

/// The first persistent value with an element that is no finite number.
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

/// The inverse of [`state_tensors`].
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that differs from what this configuration keeps.
pub fn load_state(session: &mut Session, tensors: &[NamedTensor<'_>], path: &Path) -> Result<()> {
    let persistent: Vec<Persistent> = kept(session).cloned().collect();
    let expected: Vec<(String, Vec<usize>)> =
        persistent.iter().map(|p| (p.value.name.clone(), p.slot.shape.dims().to_vec())).collect();
    check_names(&expected, tensors, path)?;
    for p in &persistent {
        let found = tensors.iter().find(|t| t.name == p.value.name).and_then(NamedTensor::as_f32);
        let message = || format!("tensor `{}` does not hold floats", p.value.name);
        session.write::<f32>(&p.slot, found.ok_or_else(|| Error::checkpoint(path, message()))?)?;
    }
    Ok(())
}
