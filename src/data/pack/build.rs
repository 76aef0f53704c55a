//! Making the pack of a split, and finding the one that is there.
//!
//! A pack is built in a `.partial` file that is renamed when whole. Each finished chunk is recorded in it, so a build that
//! was stopped goes on where it was; the checksums tell whether a recorded image really arrived on disk. Builds of one
//! cache folder take turns through a lock that the operating system releases if its holder dies.

use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rayon::prelude::*;

use super::cache::open_lock;
use super::file::{Header, Origin, PackFile, Record};
use super::{Pack, PackedImage, Pixels, fingerprint};
use crate::data::files::{FieldHash, first_few};
use crate::data::{Crop, Dataset, Sample, Split, decode};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::show::{show_path, tell};

/// Up to this size every image of a pack is verified whenever it is opened, so that a damaged one is made again at once;
/// reading more would be felt. All images are verified whenever they are read.
const VERIFY_LIMIT_BYTES: u64 = 1 << 30;

/// How often who waits for another process asks whether it may go on.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// Says which signal asks a build to stop, if one does.
pub type Stop<'a> = &'a (dyn Fn() -> Option<i32> + Sync);

/// Opens and makes the pack file of one split at one size.
pub(super) struct Builder<'a> {
    dataset: &'a Dataset,
    stop: Stop<'a>,
    split: Split,
    header: Header,
    path: PathBuf,
}

/// What the pack of `split` of `dataset` with images of this `crop` is known by: everything that decides its pixels.
pub(super) fn key_of(dataset: &Dataset, split: Split, crop: Crop) -> u64 {
    let mut key = FieldHash::default();
    key.write(&dataset.fingerprint(split).to_le_bytes());
    key.write(&(crop.size as u64).to_le_bytes());
    key.write(&(crop.resize as u64).to_le_bytes());
    key.write(&decode::VERSION.to_le_bytes());
    key.finish()
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        dataset: &'a Dataset,
        split: Split,
        crop: Crop,
        cache_dir: &Path,
        stop: Stop<'a>,
    ) -> Builder<'a> {
        let num_images = dataset.samples(split).len() as u64;
        let key = key_of(dataset, split, crop);
        let path = cache_dir.join(format!("{}-{}-{key:016x}.pack", split.name(), crop.size));
        Builder { dataset, stop, split, header: Header { crop, num_images, key }, path }
    }

    /// The finished pack file, or `None` where there is none or it is damaged.
    pub(super) fn open_finished(&self) -> Result<Option<PackFile>> {
        let file = match PackFile::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(Error::io("open", &self.path))?,
        };
        if let Some(file) = file.filter(|file| *file.header() == self.header)
            && (file.num_bytes() > VERIFY_LIMIT_BYTES
                || file.is_all_sound().map_err(Error::io("read", &self.path))?)
        {
            file.mark_used();
            return Ok(Some(file));
        }
        Ok(None)
    }

    /// The pack over its finished file, which is built if there is none or it is damaged.
    pub(super) fn open_or_build(self) -> Result<Pack> {
        if let Some(file) = self.open_finished()? {
            return self.into_pack(file);
        }
        let lock = self.lock()?;
        // Another process may have built it while this one waited for the lock.
        let file = match self.open_finished()? {
            Some(file) => file,
            None => {
                if self.path.exists() {
                    tell(format_args!("{} is damaged and is made again", show_path(&self.path)));
                }
                self.build()?
            }
        };
        drop(lock);
        self.into_pack(file)
    }

    /// The lock of the cache folder, after waiting for whoever holds it.
    fn lock(&self) -> Result<File> {
        let cache_dir = self.path.parent().expect("it was joined to a folder");
        let lock = open_lock(cache_dir)?;
        let mut is_told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", cache_dir)(error)),
                Err(TryLockError::WouldBlock) if !is_told => {
                    is_told = true;
                    tell(format_args!(
                        "waiting for a process that decodes photos into {}",
                        show_path(cache_dir)
                    ));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            self.expect_no_stop()?;
            thread::sleep(LOCK_INTERVAL);
        }
    }

    fn expect_no_stop(&self) -> Result<()> {
        (self.stop)().map_or(Ok(()), |signal| Err(Error::Interrupted { signal }))
    }

    /// Builds the pack, going on from a partial file if there is one. The caller holds the lock.
    fn build(&self) -> Result<PackFile> {
        let path = self.path.with_extension("partial");
        let options = self.dataset.options().clone();
        let data_dir = self.dataset.root().to_string_lossy().into_owned().into();
        let origin = Origin { data_dir, split: self.split, options };
        let file = PackFile::open_partial(&path, self.header, &origin).map_err(Error::io("create", &path))?;
        let records = self.decode_missing(&file)?;
        if let Err(error) = self.check_undecodable(&records) {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            return Err(error);
        }
        file.finish(records, &self.path).map_err(Error::io("write", &path))
    }

    /// Decodes the images that are not in `file`, chunk by chunk in parallel, writes them there, and returns the records of
    /// all.
    fn decode_missing(&self, file: &PackFile) -> Result<Vec<Record>> {
        let chunks = file.chunks();
        let is_there = chunks.par_iter().map(|chunk| file.is_sound(chunk)).collect::<io::Result<Vec<bool>>>();
        let is_there = is_there.map_err(Error::io("read", &self.path))?;
        let missing = || chunks.iter().zip(&is_there).filter(|(_, is_there)| !**is_there);
        let what = format!("decoding {} images to {} pixels", self.split.name(), self.header.crop.size);
        let progress = Progress::start(what, missing().map(|(chunk, _)| chunk.len()).sum());
        let num_written =
            AtomicUsize::new(file.records().len() - missing().map(|(chunk, _)| chunk.len()).sum::<usize>());
        let records = chunks.par_iter().zip(&is_there).map(|(chunk, is_there)| match is_there {
            true => Ok(file.records()[chunk.clone()].to_vec()),
            false => self.decode_chunk(file, chunk, &progress).inspect(|records| {
                num_written.fetch_add(records.len(), Ordering::Relaxed);
            }),
        });
        let records = records.collect::<Result<Vec<_>>>().inspect_err(|error| {
            if matches!(error, Error::Interrupted { .. }) {
                let (done, all) = (num_written.load(Ordering::Relaxed), file.records().len());
                tell(format_args!(
                    "{done} of {all} {} images are decoded; the next start goes on",
                    self.split.name()
                ));
            }
        })?;
        Ok(records.concat())
    }

    fn decode_chunk(
        &self,
        file: &PackFile,
        chunk: &Range<usize>,
        progress: &Progress,
    ) -> Result<Vec<Record>> {
        let crop = self.header.crop;
        let image_bytes = crop.size * crop.size * 3;
        let mut pixels = vec![0; chunk.len() * image_bytes];
        let samples = &self.dataset.samples(self.split)[chunk.clone()];
        let images = samples.iter().zip(pixels.chunks_exact_mut(image_bytes));
        let decode = |(sample, pixels): (&Sample, &mut [u8])| {
            self.expect_no_stop()?;
            let decoded = decode::decode_into(&self.dataset.image_path(sample), crop, pixels);
            progress.add(1);
            Ok(decoded.map_or(Record::Undecodable, |()| Record::Usable(crc32c::crc32c(pixels))))
        };
        let records = images.map(decode).collect::<Result<Vec<Record>>>()?;
        file.write(chunk.start, &pixels, &records)
            .map_err(Error::io("write", self.path.with_extension("partial")))?;
        Ok(records)
    }

    /// The images that are recorded as undecodable.
    fn undecodable<'r>(&self, records: &'r [Record]) -> impl Iterator<Item = &'r Sample>
    where
        'a: 'r,
    {
        let samples = self.dataset.samples(self.split).iter().zip(records);
        samples.filter(|(_, record)| **record == Record::Undecodable).map(|(sample, _)| sample)
    }

    /// Fails on undecodable images unless they are allowed.
    fn check_undecodable(&self, records: &[Record]) -> Result<()> {
        let num_bad = self.undecodable(records).count();
        if num_bad == 0 || self.dataset.options().allow_missing {
            return Ok(());
        }
        // The file does not hold the reasons; decoding the few that are named gives them again.
        let reasons = self.undecodable(records).map(|sample| {
            let decoded = decode::read_and_decode(&self.dataset.image_path(sample));
            decoded.map_or_else(|error| error.to_string(), |_| show_path(&sample.path))
        });
        let message = format!(
            "{num_bad} of the {} {} images cannot be decoded: {}; --allow-missing skips them",
            records.len(),
            self.split.name(),
            first_few(reasons, "; ")
        );
        Err(Error::data(self.dataset.root(), message))
    }

    /// The pack over the finished `file`.
    fn into_pack(self, file: PackFile) -> Result<Pack> {
        let records = file.records();
        self.check_undecodable(records)?;
        let skipped = self.undecodable(records).map(|sample| sample.path.clone()).collect();
        let samples = self.dataset.samples(self.split).iter().zip(records).enumerate();
        let images: Vec<PackedImage> = samples
            .filter(|(_, (_, record))| **record != Record::Undecodable)
            .map(|(slot, (sample, _))| {
                let name = sample.path.display().to_string();
                PackedImage { name, label: sample.label, slot }
            })
            .collect();
        let checksums: Vec<u8> = records.iter().flat_map(|record| record.to_bytes()).collect();
        let fingerprint = fingerprint(self.header.crop.size, &images, &checksums);
        Ok(Pack { crop: self.header.crop, pixels: Pixels::File(file), images, skipped, fingerprint })
    }
}
