//! The pack: every image of a split decoded once into u8 NHWC pixels, cached in a file and memory-mapped.
//!
//! ```text
//! header   magic, format version, image size, number of images, key
//! table    one record per chunk: done flag, CRC-32C of its pixels and status bytes
//! status   one byte per image: usable or undecodable
//! pixels   image 0, image 1, ...; from the next multiple of 4096 bytes on
//! ```
//!
//! A pack is built in a `.partial` file that is renamed when whole. Each finished chunk is recorded in the table, so a
//! build that was killed goes on where it stopped; the checksum tells whether a recorded chunk really arrived on disk.
//! Builds of one cache folder take turns through a lock that the operating system releases if its holder dies.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;

use super::files::{FieldHash, first_few};
use super::{Crop, Dataset, Split, decode, scenes};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::show::{show_path, tell};

const MAGIC: &[u8; 8] = b"RSDMPACK";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const RECORD_BYTES: usize = 8;
/// Mapped pixels start on a page, as a later copy to a device likes them.
const PIXEL_ALIGN_BYTES: usize = 4096;
/// Pixels decoded between two records of the table: what a kill can cost each thread.
const CHUNK_TARGET_BYTES: usize = 4 << 20;
/// Up to this size a pack's checksums are verified whenever it is opened; reading more would be felt.
const VERIFY_LIMIT_BYTES: usize = 1 << 30;

const DONE: u32 = 0x656E_6F64;
const STATUS_USABLE: u8 = 1;
const STATUS_UNDECODABLE: u8 = 2;

/// The decoded images of one split: square RGB pixels, labels and names.
#[derive(Debug)]
pub struct Pack {
    crop: Crop,
    pixels: Pixels,
    images: Vec<PackedImage>,
    skipped: Vec<PathBuf>,
    fingerprint: u64,
}

/// Where the pixels live.
#[derive(Debug)]
enum Pixels {
    Mapped { map: Mmap, offset_bytes: usize },
    Memory(Vec<u8>),
}

/// One usable image and its place among the pixels.
#[derive(Debug)]
struct PackedImage {
    name: String,
    label: Option<u32>,
    slot: usize,
}

impl Pack {
    /// The pack of `split`, mapped from `cache_dir`, built there first if it is not there or is damaged.
    ///
    /// Images that cannot be decoded fail the call, or are left out if the data set allows missing images. Progress goes
    /// to stderr.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first undecodable images; [`Error::Io`] if the cache cannot be written.
    ///
    /// # Panics
    /// If `crop` has no pixels, or more than the scaled photo.
    pub fn open_or_build(
        dataset: &Dataset,
        split: Split,
        crop: impl Into<Crop>,
        cache_dir: &Path,
    ) -> Result<Pack> {
        let crop = crop.into();
        assert!(0 < crop.size && crop.size <= crop.resize, "{crop:?} is no square of a photo");
        fs::create_dir_all(cache_dir).map_err(Error::io("create the cache folder", cache_dir))?;
        let builder = Builder::new(dataset, split, crop, cache_dir);
        if let Some(file) = builder.open_finished()? {
            return builder.into_pack(file);
        }
        let lock_path = cache_dir.join("packs.lock");
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        lock.lock().map_err(Error::io("lock", &lock_path))?;
        // Another process may have built it while this one waited for the lock.
        let file = match builder.open_finished()? {
            Some(file) => file,
            None => builder.build()?,
        };
        drop(lock);
        builder.into_pack(file)
    }

    /// A pack of generated scenes, drawn in parallel into memory.
    pub fn from_scenes(options: &scenes::SceneOptions) -> Pack {
        let image_bytes = options.image_size * options.image_size * 3;
        let mut pixels = vec![0; options.num_images * image_bytes];
        let progress =
            Progress::start(format!("drawing {} scenes", options.split.name()), options.num_images);
        let images: Vec<PackedImage> = pixels
            .par_chunks_mut(image_bytes)
            .enumerate()
            .map(|(index, pixels)| {
                let scene = options.scene(index);
                scene.render(options.image_size, pixels);
                progress.add(1);
                let name = format!("{}/{}/{index}", options.split.name(), scene.category_name());
                PackedImage { name, label: Some(scene.category), slot: index }
            })
            .collect();
        let image_size = options.image_size;
        let fingerprint = fingerprint(image_size, &images, &crc32c::crc32c(&pixels).to_le_bytes());
        Pack {
            crop: Crop::whole(image_size),
            pixels: Pixels::Memory(pixels),
            images,
            skipped: Vec::new(),
            fingerprint,
        }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Width and height of every image in pixels.
    pub fn image_size(&self) -> usize {
        self.crop.size
    }

    /// How the photos became these images; generated scenes are whole.
    pub fn crop(&self) -> Crop {
        self.crop
    }

    /// The pixels of image `index`, HWC with three channels.
    ///
    /// # Panics
    /// If `index` is not below [`Pack::len`].
    pub fn pixels(&self, index: usize) -> &[u8] {
        let all = match &self.pixels {
            Pixels::Mapped { map, offset_bytes } => &map[*offset_bytes..],
            Pixels::Memory(pixels) => pixels,
        };
        let image_bytes = self.crop.size * self.crop.size * 3;
        let slot = self.images[index].slot;
        &all[slot * image_bytes..(slot + 1) * image_bytes]
    }

    /// The category of image `index`; `None` in a test split.
    ///
    /// # Panics
    /// If `index` is not below [`Pack::len`].
    pub fn label(&self, index: usize) -> Option<u32> {
        self.images[index].label
    }

    /// What to call image `index` in reports: its path below the image folder.
    ///
    /// # Panics
    /// If `index` is not below [`Pack::len`].
    pub fn name(&self, index: usize) -> &str {
        &self.images[index].name
    }

    /// Bytes that the pixels of all images take.
    pub fn num_bytes(&self) -> usize {
        self.len() * self.crop.size * self.crop.size * 3
    }

    /// A hash of the names, labels and pixels of the images, the same wherever they lie and whenever they were packed.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Images left out because they could not be decoded, which only `allow_missing` lets happen.
    pub fn skipped(&self) -> &[PathBuf] {
        &self.skipped
    }

    /// What people are to know of [`Pack::skipped`], if there is something; `split` is that of the pack.
    pub fn remark(&self, split: Split) -> Option<String> {
        let names = self.skipped.iter().map(|path| show_path(path));
        let count = Some(self.skipped.len()).filter(|&count| count > 0)?;
        let names = first_few(names, ", ");
        Some(format!("{count} {} images left out that cannot be decoded: {names}", split.name()))
    }
}

/// What [`Pack::fingerprint`] says of images whose pixels have these `checksums`.
fn fingerprint(image_size: usize, images: &[PackedImage], checksums: &[u8]) -> u64 {
    let mut hash = FieldHash::default();
    hash.write(&(image_size as u64).to_le_bytes());
    for image in images {
        hash.write(image.name.as_bytes());
        hash.write(&image.label.map_or(u64::MAX, u64::from).to_le_bytes());
    }
    hash.write(checksums);
    hash.finish()
}

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

/// Sizes and offsets of a pack file, which follow from the number of images and their size.
#[derive(Debug, Clone, Copy)]
struct FileLayout {
    num_images: usize,
    image_bytes: usize,
}

impl FileLayout {
    fn chunk_images(&self) -> usize {
        (CHUNK_TARGET_BYTES / self.image_bytes).max(1)
    }

    fn num_chunks(&self) -> usize {
        self.num_images.div_ceil(self.chunk_images())
    }

    /// The images of chunk `chunk`.
    fn images(&self, chunk: usize) -> Range<usize> {
        let first = chunk * self.chunk_images();
        first..(first + self.chunk_images()).min(self.num_images)
    }

    fn record_offset(&self, chunk: usize) -> usize {
        HEADER_BYTES + chunk * RECORD_BYTES
    }

    fn status_offset(&self, image: usize) -> usize {
        self.record_offset(self.num_chunks()) + image
    }

    fn pixel_offset(&self, image: usize) -> usize {
        self.status_offset(self.num_images).next_multiple_of(PIXEL_ALIGN_BYTES) + image * self.image_bytes
    }

    fn file_bytes(&self) -> usize {
        self.pixel_offset(self.num_images)
    }

    /// Whether chunk `chunk` of a file with these `bytes` is recorded as done and matches its checksum.
    fn chunk_is_sound(&self, bytes: &[u8], chunk: usize) -> bool {
        let images = self.images(chunk);
        let crc = checksum(
            &bytes[self.pixel_offset(images.start)..self.pixel_offset(images.end)],
            &bytes[self.status_offset(images.start)..self.status_offset(images.end)],
        );
        let at = self.record_offset(chunk);
        bytes[at..at + RECORD_BYTES] == record(crc)
    }
}

/// The table entry of a finished chunk.
fn record(crc: u32) -> [u8; RECORD_BYTES] {
    (u64::from(crc) << 32 | u64::from(DONE)).to_le_bytes()
}

fn checksum(pixels: &[u8], status: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(pixels), status)
}

/// Opens and makes the pack file of one split at one size.
struct Builder<'a> {
    dataset: &'a Dataset,
    split: Split,
    crop: Crop,
    layout: FileLayout,
    header: [u8; HEADER_BYTES],
    path: PathBuf,
}

impl<'a> Builder<'a> {
    fn new(dataset: &'a Dataset, split: Split, crop: Crop, cache_dir: &Path) -> Builder<'a> {
        let image_size = crop.size;
        let num_images = dataset.samples(split).len();
        let mut key = FieldHash::default();
        key.write(&dataset.fingerprint(split).to_le_bytes());
        key.write(&(image_size as u64).to_le_bytes());
        if crop != Crop::whole(image_size) {
            key.write(&(crop.resize as u64).to_le_bytes());
        }
        key.write(&decode::VERSION.to_le_bytes());
        let key = key.finish();
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(image_size as u32).to_le_bytes());
        header[16..24].copy_from_slice(&(num_images as u64).to_le_bytes());
        header[24..].copy_from_slice(&key.to_le_bytes());
        let layout = FileLayout { num_images, image_bytes: image_size * image_size * 3 };
        let path = cache_dir.join(format!("{}-{image_size}-{key:016x}.pack", split.name()));
        Builder { dataset, split, crop, layout, header, path }
    }

    /// The finished pack file, or `None` where there is none or it is damaged.
    fn open_finished(&self) -> Result<Option<Mmap>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { action: "open", path: self.path.clone(), source }),
        };
        if file.metadata().map_err(Error::io("inspect", &self.path))?.len() == self.layout.file_bytes() as u64
        {
            let map = self.map(&file)?;
            let too_long_to_verify = self.layout.file_bytes() > VERIFY_LIMIT_BYTES;
            let progress = Progress::start("verifying decoded images", self.layout.num_images);
            let sound = |chunk| {
                progress.add(self.layout.images(chunk).len());
                self.layout.chunk_is_sound(&map, chunk)
            };
            if map[..HEADER_BYTES] == self.header
                && (too_long_to_verify || (0..self.layout.num_chunks()).into_par_iter().all(sound))
            {
                return Ok(Some(map));
            }
        }
        tell(format_args!("{} is damaged and is made again", self.path.display()));
        Ok(None)
    }

    /// Maps `file`, whose length has been checked.
    fn map(&self, file: &File) -> Result<Mmap> {
        // SAFETY: the mapping is read-only and as long as the file. Packs are replaced by renaming and never
        // truncated or written in place, so the mapped file stays as it is.
        unsafe { Mmap::map(file) }.map_err(Error::io("map", &self.path))
    }

    /// Builds the pack, going on from a partial file if there is one. The caller holds the lock.
    fn build(&self) -> Result<Mmap> {
        let partial_path = self.path.with_extension("partial");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&partial_path).map_err(Error::io("create", &partial_path))?;
        let chunks = self.chunks_to_do(&file).map_err(Error::io("write", &partial_path))?;
        self.decode_chunks(&file, &chunks).map_err(Error::io("write", &partial_path))?;
        let map = self.map(&file)?;
        if let Err(error) = self.check_undecodable(&map) {
            fs::remove_file(&partial_path).map_err(Error::io("remove", &partial_path))?;
            return Err(error);
        }
        file.sync_all().map_err(Error::io("write", &partial_path))?;
        fs::rename(&partial_path, &self.path).map_err(Error::io("rename", &partial_path))?;
        Ok(map)
    }

    /// Gives the partial file its length and header, and returns the chunks that it does not hold yet.
    fn chunks_to_do(&self, file: &File) -> io::Result<Vec<usize>> {
        let file_bytes = self.layout.file_bytes() as u64;
        let chunks = 0..self.layout.num_chunks();
        if file.metadata()?.len() == file_bytes {
            // SAFETY: the mapping is read-only and as long as the file, and only the holder of the lock, this thread,
            // writes to partial files; it is gone before it does.
            let map = unsafe { Mmap::map(file) }?;
            if map[..HEADER_BYTES] == self.header {
                return Ok(chunks
                    .into_par_iter()
                    .filter(|&c| !self.layout.chunk_is_sound(&map, c))
                    .collect());
            }
        }
        file.set_len(0)?;
        file.set_len(file_bytes)?;
        file.write_all_at(&self.header, 0)?;
        Ok(chunks.collect())
    }

    /// Decodes the images of `chunks` in parallel and writes them to `file`, the record of each chunk last.
    fn decode_chunks(&self, file: &File, chunks: &[usize]) -> io::Result<()> {
        let samples = self.dataset.samples(self.split);
        let what = format!("decoding {} images to {} pixels", self.split.name(), self.crop.size);
        let progress =
            Progress::start(what, chunks.iter().map(|&chunk| self.layout.images(chunk).len()).sum());
        chunks.par_iter().try_for_each(|&chunk| {
            let images = self.layout.images(chunk);
            let mut pixels = vec![0; images.len() * self.layout.image_bytes];
            let mut status = vec![STATUS_USABLE; images.len()];
            let outputs = pixels.chunks_exact_mut(self.layout.image_bytes).zip(&mut status);
            for (sample, (pixels, status)) in samples[images.clone()].iter().zip(outputs) {
                let path = self.dataset.image_path(sample);
                if decode::decode_into(&path, self.crop, pixels).is_err() {
                    *status = STATUS_UNDECODABLE;
                }
                progress.add(1);
            }
            file.write_all_at(&pixels, self.layout.pixel_offset(images.start) as u64)?;
            file.write_all_at(&status, self.layout.status_offset(images.start) as u64)?;
            file.write_all_at(&record(checksum(&pixels, &status)), self.layout.record_offset(chunk) as u64)
        })
    }

    /// The images that `map` records as undecodable.
    fn undecodable(&self, map: &Mmap) -> impl Iterator<Item = &'a super::Sample> {
        let status = &map[self.layout.status_offset(0)..self.layout.status_offset(self.layout.num_images)];
        let samples = self.dataset.samples(self.split).iter();
        samples.zip(status).filter(|(_, status)| **status == STATUS_UNDECODABLE).map(|(sample, _)| sample)
    }

    /// Fails on undecodable images unless they are allowed.
    fn check_undecodable(&self, map: &Mmap) -> Result<()> {
        let num_bad = self.undecodable(map).count();
        if num_bad == 0 || self.dataset.allow_missing() {
            return Ok(());
        }
        // The file does not hold the reasons; decoding the few that are named gives them again.
        let reasons = self.undecodable(map).map(|sample| {
            let decoded = decode::read_and_decode(&self.dataset.image_path(sample));
            decoded.map_or_else(|error| error.to_string(), |_| show_path(&sample.path))
        });
        let message = format!(
            "{num_bad} of the {} {} images cannot be decoded: {}; --allow-missing skips them",
            self.layout.num_images,
            self.split.name(),
            first_few(reasons, "; ")
        );
        Err(Error::data(self.dataset.root(), message))
    }

    /// The pack over the finished file `map`.
    fn into_pack(self, map: Mmap) -> Result<Pack> {
        self.check_undecodable(&map)?;
        let skipped = self.undecodable(&map).map(|sample| sample.path.clone()).collect();
        let status = &map[self.layout.status_offset(0)..];
        let samples = self.dataset.samples(self.split).iter().enumerate();
        let images: Vec<PackedImage> = samples
            .filter(|(slot, _)| status[*slot] != STATUS_UNDECODABLE)
            .map(|(slot, sample)| {
                let name = sample.path.display().to_string();
                PackedImage { name, label: sample.label, slot }
            })
            .collect();
        let offset_bytes = self.layout.pixel_offset(0);
        let checksums = &map[HEADER_BYTES..self.layout.status_offset(self.layout.num_images)];
        let fingerprint = fingerprint(self.crop.size, &images, checksums);
        Ok(Pack {
            crop: self.crop,
            pixels: Pixels::Mapped { map, offset_bytes },
            images,
            skipped,
            fingerprint,
        })
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

    #[test]
    fn the_parts_of_a_file_follow_each_other() {
        let layout = FileLayout { num_images: 1000, image_bytes: 48 * 48 * 3 };
        assert_eq!(layout.chunk_images(), 606);
        assert_eq!(layout.images(1), 606..1000);
        assert_eq!(layout.status_offset(0), HEADER_BYTES + 2 * RECORD_BYTES);
        assert_eq!(layout.pixel_offset(0), PIXEL_ALIGN_BYTES);
        assert_eq!(layout.file_bytes(), PIXEL_ALIGN_BYTES + 1000 * 48 * 48 * 3);
    }
}
