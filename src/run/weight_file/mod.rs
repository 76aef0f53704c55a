//! Files of weights as people have them, of this program and of others: what tensors there are, then the elements of those
//! that are asked for.
//!
//! A file is known by its content, not by its name: safetensors, the index of weights that lie in several files, and both
//! formats of `torch.save`. Of a pickle nothing is run. What is none of these is called by its name where that is known.

mod kind;
mod pickle_size;
mod shards;
mod torch;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::NamedTensor;
use super::checkpoint::reader::{self, Damage, Reader};
use super::state;
use crate::error::{Error, Result};
use kind::Kind;

/// Enough of a file to know its kind: the mark of a tar archive ends at byte 262.
const HEAD_BYTES: u64 = 512;

/// A file of weights that is open: its tensors are listed, none is read.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    metadata: Value,
    tensors: Vec<Listed>,
    source: Source,
}

/// One tensor of a file, before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path through the file, such as `state_dict.model.conv1.weight`.
    pub name: String,
    /// The extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

/// Where the elements are.
#[derive(Debug)]
enum Source {
    Safetensors(Reader<File>),
    Torch(HashMap<String, pytorch_reader::Tensor>),
    Shards(Vec<WeightFile>),
}

impl WeightFile {
    /// Opens the file at `path` and lists what is in it. No tensor is read, whatever size the file says it has.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or read; [`Error::Checkpoint`] saying what it is, or how it is damaged, and
    /// the remedy.
    pub fn open(path: &Path) -> Result<WeightFile> {
        match WeightFile::open_one(path)? {
            Some(file) => Ok(file),
            None => WeightFile::of_shards(path),
        }
    }

    /// [`WeightFile::open`] of a file that holds tensors itself; `None` if it is an index of others.
    fn open_one(path: &Path) -> Result<Option<WeightFile>> {
        let (mut file, length) = reader::open(path)?;
        let mut head = Vec::new();
        file.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(Error::io("read", path))?;
        file.rewind().map_err(Error::io("read", path))?;
        match kind::of(&head, length).map_err(|what| Error::checkpoint(path, what))? {
            Kind::Index => return Ok(None),
            Kind::Safetensors => {
                WeightFile::of_safetensors(path, file, length).map_err(|damage| damage.of(path))
            }
            Kind::Zip => WeightFile::of_torch(path, torch::open_archive(path, file)),
            Kind::Pickle => WeightFile::of_torch(path, torch::open_pickles(path, file)),
        }
        .map(Some)
    }

    fn of_safetensors(path: &Path, file: File, length: u64) -> std::result::Result<WeightFile, Damage> {
        let mut reader = Reader::new(file, length)?;
        let tensors = reader.shapes().map(|(name, shape)| Listed { name, shape }).collect();
        let metadata = reader.take_metadata();
        if state::is_state(&metadata) {
            return Err(Damage::Format(
                "is the state of a run, for train --resume; its weights are in last.safetensors next to it"
                    .into(),
            ));
        }
        Ok(WeightFile { path: path.to_path_buf(), metadata, tensors, source: Source::Safetensors(reader) })
    }

    fn of_torch(path: &Path, tensors: std::result::Result<torch::Tensors, Damage>) -> Result<WeightFile> {
        let tensors = tensors.map_err(|damage| damage.of(path))?;
        let mut listed: Vec<Listed> = tensors
            .iter()
            .map(|(name, tensor)| Listed { name: name.clone(), shape: tensor.shape().to_vec() })
            .collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let path = path.to_path_buf();
        Ok(WeightFile { path, metadata: Value::Null, tensors: listed, source: Source::Torch(tensors) })
    }

    fn of_shards(path: &Path) -> Result<WeightFile> {
        let (shards, tensors) = shards::open(path)?;
        let path = path.to_path_buf();
        Ok(WeightFile { path, metadata: Value::Null, tensors, source: Source::Shards(shards) })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What this program wrote next to the tensors; null in files of others.
    pub fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// Every tensor of the file.
    pub fn tensors(&self) -> &[Listed] {
        &self.tensors
    }

    /// The tensors whose names are `wanted`, in the order of [`WeightFile::tensors`]. Elements of type f16, bf16 and f64 become
    /// f32.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Checkpoint`] if it is damaged, or a wanted tensor has elements of
    /// another type than those of [`super::checkpoint::TensorData`], f16, bf16 or f64.
    pub fn read(&mut self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<NamedTensor<'static>>> {
        let path = &self.path;
        match &mut self.source {
            Source::Safetensors(reader) => reader.read(wanted).map_err(|damage| damage.of(path)),
            Source::Torch(tensors) => {
                let listed = self.tensors.iter().filter(|listed| wanted(&listed.name));
                let read = listed.map(|listed| torch::read(&listed.name, &tensors[&listed.name]));
                read.collect::<std::result::Result<_, _>>().map_err(|damage| damage.of(path))
            }
            Source::Shards(shards) => {
                let mut tensors = Vec::new();
                for shard in shards {
                    tensors.extend(shard.read(wanted)?);
                }
                Ok(tensors)
            }
        }
    }
}
