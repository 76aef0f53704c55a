//! Weights that lie in several files next to an index, which says which of them has which tensor.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::{Component, Path};

use serde::Deserialize;

use super::{Listed, WeightFile};
use crate::error::{Error, Result};
use crate::regular_file;
use crate::show::{show_path, show_text};

/// The index of a network with a million tensors.
const MAX_INDEX_BYTES: usize = 64 << 20;

/// The part of an index that is read.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// The files of the index at `path`, and the tensors that it names.
pub(super) fn open(path: &Path) -> Result<(Vec<WeightFile>, Vec<Listed>)> {
    let bytes = regular_file::read(path, MAX_INDEX_BYTES).map_err(|error| match error {
        Error::Data { path, message } => Error::checkpoint(path, message),
        other => other,
    })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let index: Index = serde_json::from_slice(bytes).map_err(|error| {
        let what = "is JSON and not the index of weights in several files";
        let error = error.to_string();
        Error::checkpoint(path, format!("{what} ({}); name the file of the weights", show_text(&error)))
    })?;
    let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, file) in &index.weight_map {
        by_file.entry(file).or_default().push(name);
    }
    let mut shards = Vec::with_capacity(by_file.len());
    let mut tensors = Vec::with_capacity(index.weight_map.len());
    for (file, names) in by_file {
        let shard = open_shard(path, file)?;
        check_contents(&shard, &names, path)?;
        tensors.extend(shard.tensors.iter().cloned());
        shards.push(shard);
    }
    Ok((shards, tensors))
}

/// Fails unless `shard` has the tensors called `names`, which are sorted, and no others.
fn check_contents(shard: &WeightFile, names: &[&str], index: &Path) -> Result<()> {
    let found: HashSet<&str> = shard.tensors.iter().map(|listed| listed.name.as_str()).collect();
    let differs = |what: &str, name: &str| {
        let (name, index) = (show_text(name), show_path(index));
        let message = format!("{what} `{name}`, other than its index {index} says; download both again");
        Err(Error::checkpoint(shard.path(), message))
    };
    if let Some(missing) = names.iter().find(|name| !found.contains(*name)) {
        return differs("has no tensor", missing);
    }
    match shard.tensors.iter().find(|listed| names.binary_search(&listed.name.as_str()).is_err()) {
        Some(more) => differs("has a tensor", &more.name),
        None => Ok(()),
    }
}

fn open_shard(index: &Path, file: &str) -> Result<WeightFile> {
    // An index must not lead out of its folder.
    let mut parts = Path::new(file).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        let file = show_text(file);
        return Err(Error::checkpoint(index, format!("names `{file}`, which is no file in its own folder")));
    }
    let path = index.with_file_name(file);
    let shard = WeightFile::open_one(&path).map_err(|error| match error {
        Error::Io { ref source, .. } if source.kind() == ErrorKind::NotFound => {
            Error::checkpoint(index, format!("is the index of several files, and one is not there ({error})"))
        }
        error => error,
    })?;
    shard
        .ok_or_else(|| Error::checkpoint(&path, format!("is an index itself, named by {}", show_path(index))))
}
