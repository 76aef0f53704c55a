//! The cache folder: which packs lie there, whether somebody still needs them, and whether photos are still as they were
//! packed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;

use super::build::key_of;
use super::file::{Origin, PackFile, Record};
use crate::data::{self, Dataset, OpenOptions, Split, decode};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The folder packs are cached in: `RESIDUUM_CACHE`, else `XDG_CACHE_HOME/residuum`, else `~/.cache/residuum`.
///
/// # Errors
/// [`Error::Usage`] if none of the three variables (the third is `HOME`) is set.
pub fn default_cache_dir() -> Result<PathBuf> {
    cache_dir_from(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn cache_dir_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    variable("RESIDUUM_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("residuum")))
        .or_else(|| Some(variable("HOME")?.join(".cache").join("residuum")))
        .ok_or_else(|| Error::Usage("no folder to cache decoded images in; give --cache-dir".into()))
}

/// The lock that whoever builds a pack in the cache holds.
pub(super) fn open_lock(cache_dir: &Path) -> Result<File> {
    let path = cache_dir.join("packs.lock");
    File::create(&path).map_err(Error::io("create", &path))
}

/// A pack in the cache, whole or in the making.
#[derive(Debug)]
pub struct CachedPack {
    /// Its file.
    pub path: PathBuf,
    /// Length of the file.
    pub num_bytes: u64,
    /// When it was last opened for use.
    pub last_used: Option<SystemTime>,
    /// Height and width of its images, and what was packed; `None` if the file is damaged or of another version.
    pub contents: Option<(usize, Origin)>,
    /// Whether it may still be used.
    pub need: Need,
}

impl CachedPack {
    /// Removes the file, but for one that a process has begun to build; says whether it did. Who has it open reads on.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be removed.
    pub fn remove(&self) -> Result<bool> {
        let cache_dir = self.path.parent().expect("it was found in a folder");
        let lock = open_lock(cache_dir)?;
        let is_free = lock.try_lock().is_ok();
        if is_partial(&self.path) && !is_free {
            return Ok(false);
        }
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))?;
        Ok(true)
    }
}

/// Whether a pack may still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Its data set is there as it was packed.
    Needed,
    /// A process is building it, or another one.
    InTheMaking,
    /// It is damaged, or of another version of the program, which makes packs of its own.
    OtherVersion,
    /// There is no data set any more where it was packed.
    NoDataSet,
    /// The data set has other photos now.
    DataSetChanged,
    /// Nobody has opened it for as long as was asked about.
    Unused,
}

/// Data sets that were opened already, with what came of it.
#[derive(Default)]
struct Datasets(Vec<(PathBuf, OpenOptions, Option<Dataset>)>);

impl Datasets {
    fn open(&mut self, root: &Path, options: &OpenOptions) -> Option<&Dataset> {
        let is_it = |(path, with, _): &(PathBuf, OpenOptions, _)| path == root && with == options;
        let at = self.0.iter().position(is_it).unwrap_or_else(|| {
            self.0.push((root.to_path_buf(), options.clone(), data::open(root, options).ok()));
            self.0.len() - 1
        });
        self.0[at].2.as_ref()
    }
}

/// The packs in `cache_dir`, by name; those that were not opened since `unused_since` are no more needed.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read.
pub fn cached_packs(cache_dir: &Path, unused_since: Option<SystemTime>) -> Result<Vec<CachedPack>> {
    let is_building =
        cache_dir.exists() && matches!(open_lock(cache_dir)?.try_lock(), Err(TryLockError::WouldBlock));
    let mut datasets = Datasets::default();
    let mut packs = Vec::new();
    for path in files_of(cache_dir)? {
        let metadata = fs::metadata(&path).map_err(Error::io("inspect", &path))?;
        let is_partial = is_partial(&path);
        let file = if is_partial { PackFile::open_begun(&path) } else { PackFile::open(&path) };
        let file = file.map_err(Error::io("read", &path))?;
        let file = file.and_then(|file| file.origin().map(|origin| (file, origin)));
        let last_used = metadata.modified().ok();
        let is_unused = unused_since.zip(last_used).is_some_and(|(since, used)| used < since);
        let need = match &file {
            _ if is_partial && is_building => Need::InTheMaking,
            None => Need::OtherVersion,
            Some((file, origin)) => match datasets.open(&origin.data_dir, &origin.options) {
                None => Need::NoDataSet,
                Some(dataset) if !file.is_of(dataset, origin.split) => Need::DataSetChanged,
                Some(_) if is_unused => Need::Unused,
                Some(_) => Need::Needed,
            },
        };
        let contents = file.map(|(file, origin)| (file.header().crop.size, origin));
        packs.push(CachedPack { path, num_bytes: metadata.len(), last_used, contents, need });
    }
    Ok(packs)
}

/// The files of packs in `cache_dir`, which may not exist, by name.
fn files_of(cache_dir: &Path) -> Result<Vec<PathBuf>> {
    if !cache_dir.exists() {
        return Ok(Vec::new());
    }
    let is_pack = |path: &PathBuf| is_partial(path) || path.extension().is_some_and(|kind| kind == "pack");
    let read = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.path());
    let entries =
        fs::read_dir(cache_dir).and_then(|entries| entries.map(read).collect::<io::Result<Vec<_>>>());
    let mut paths = entries.map_err(Error::io("read", cache_dir))?;
    paths.retain(|path| is_pack(path) && path.is_file());
    paths.sort_unstable();
    Ok(paths)
}

fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "partial")
}

/// What became of the photos of a pack.
#[derive(Debug)]
pub struct PackAudit {
    /// File of the pack.
    pub path: PathBuf,
    /// The split that was packed.
    pub split: Split,
    /// Height and width of its images.
    pub image_size: usize,
    /// How many images were packed.
    pub num_images: usize,
    /// Whether the file holds what was written.
    pub is_sound: bool,
    /// The photos that are not as they were packed, in the order of the list.
    pub changed: Vec<PathBuf>,
}

/// Decodes the photos of the data set at `root` again, for every pack in `cache_dir` that would serve it, and holds the
/// packs to them: an edit that keeps a file's length and time is not seen otherwise. Progress goes to stderr.
///
/// # Errors
/// [`Error::Io`] if the cache cannot be read.
pub fn audit_packs(root: &Path, cache_dir: &Path) -> Result<Vec<PackAudit>> {
    let root = data::absolute(root)?;
    let mut datasets = Datasets::default();
    let mut audits = Vec::new();
    for path in files_of(cache_dir)?.into_iter().filter(|path| !is_partial(path)) {
        let Some(file) = PackFile::open(&path).map_err(Error::io("read", &path))? else { continue };
        let Some(Origin { split, options, .. }) = file.origin() else { continue };
        let Some(dataset) = datasets.open(&root, &options).filter(|dataset| file.is_of(dataset, split))
        else {
            continue;
        };
        audits.push(PackAudit {
            split,
            image_size: file.header().crop.size,
            num_images: file.records().len(),
            is_sound: file.is_all_sound().unwrap_or(false),
            changed: changed(dataset, split, &file),
            path,
        });
    }
    Ok(audits)
}

/// The photos of `split` that are not as they were packed in `file`.
fn changed(dataset: &Dataset, split: Split, file: &PackFile) -> Vec<PathBuf> {
    let crop = file.header().crop;
    let samples = dataset.samples(split);
    let what = format!("decoding {} images to {} pixels", split.name(), crop.size);
    let progress = Progress::start(what, samples.len());
    let is_changed = |pixels: &mut Vec<u8>, (sample, record): (&data::Sample, &Record)| {
        let decoded = decode::decode_into(&dataset.image_path(sample), crop, pixels);
        progress.add(1);
        let now = decoded.map_or(Record::Undecodable, |()| Record::Usable(crc32c::crc32c(pixels)));
        (now != *record).then(|| sample.path.clone())
    };
    let buffer = || vec![0; crop.size * crop.size * 3];
    samples.par_iter().zip(file.records()).map_init(buffer, is_changed).flatten_iter().collect()
}

impl PackFile {
    /// Whether the file is the pack of `split` of `dataset` at the size of its images.
    fn is_of(&self, dataset: &Dataset, split: Split) -> bool {
        self.header().key == key_of(dataset, split, self.header().crop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_is_the_first_of_three_that_is_set() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> =
                set.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            cache_dir_from(move |name| set.iter().find(|(key, _)| key == name).map(|(_, value)| value.into()))
        };
        let all = [("RESIDUUM_CACHE", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(with(&all).unwrap(), Path::new("/c"));
        assert_eq!(with(&all[1..]).unwrap(), Path::new("/x/residuum"));
        assert_eq!(with(&all[2..]).unwrap(), Path::new("/h/.cache/residuum"));
        assert!(matches!(with(&[]), Err(Error::Usage(_))));
    }
}
