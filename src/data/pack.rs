//! The pack: every image of a split decoded once into u8 NHWC pixels, in a file of the cache folder.
//!
//! `file` is what such a file holds and how it is read, `build` how it is made, `cache` what lies in the folder.

mod build;
mod cache;
mod file;

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::build::Builder;
pub use self::build::Stop;
pub use self::cache::{CachedPack, Need, PackAudit, audit_packs, cached_packs, default_cache_dir};
pub use self::file::Origin;
use self::file::PackFile;
use super::files::{FieldHash, first_few};
use super::{Crop, Dataset, Split, scenes};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::show::show_path;

/// The decoded images of one split: square RGB pixels, labels and names.
#[derive(Debug)]
pub struct Pack {
    crop: Crop,
    pixels: Pixels,
    images: Vec<PackedImage>,
    skipped: Vec<PathBuf>,
    fingerprint: u64,
}

/// Where the pixels are.
#[derive(Debug)]
enum Pixels {
    File(PackFile),
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
    /// The pack of `split` in `cache_dir`, built there first if it is not there or is damaged.
    ///
    /// Images that cannot be decoded fail the call, or are left out if the data set allows missing images. Progress goes
    /// to stderr.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first undecodable images; [`Error::Io`] if the cache cannot be written;
    /// [`Error::Setting`] if images are to have no pixels, more than 65,535 a side, or more than the scaled photo.
    pub fn open_or_build(
        dataset: &Dataset,
        split: Split,
        crop: impl Into<Crop>,
        cache_dir: &Path,
    ) -> Result<Pack> {
        Pack::open_or_build_until(dataset, split, crop, cache_dir, &|| None)
    }

    /// [`Pack::open_or_build`], unless `stop` says while it builds that it is to end; what is decoded by then is kept.
    ///
    /// # Errors
    /// [`Error::Interrupted`] with the signal that `stop` returns, and as [`Pack::open_or_build`].
    pub fn open_or_build_until(
        dataset: &Dataset,
        split: Split,
        crop: impl Into<Crop>,
        cache_dir: &Path,
        stop: Stop<'_>,
    ) -> Result<Pack> {
        let crop = crop.into();
        if !(1..=usize::from(u16::MAX)).contains(&crop.size) {
            return Err(Error::setting("img_size", crop.size, "must be between 1 and 65535"));
        }
        if !(crop.size..=usize::from(u16::MAX)).contains(&crop.resize) {
            let message = format!("must be between the {} pixels that are kept and 65535", crop.size);
            return Err(Error::setting("val_resize_size", crop.resize, message));
        }
        fs::create_dir_all(cache_dir).map_err(Error::io("create the cache folder", cache_dir))?;
        Builder::new(dataset, split, crop, cache_dir, stop).open_or_build()
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

    /// The pixels of image `index`, HWC with three channels: in `buffer` if they have to be read.
    ///
    /// # Errors
    /// [`Error::Data`] if the file of the pack cannot be read, or its bytes are not those that were packed.
    ///
    /// # Panics
    /// If `index` is not below [`Pack::len`].
    pub fn pixels<'a>(&'a self, index: usize, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        match &self.pixels {
            Pixels::Memory(pixels) => Ok(self.in_memory(pixels, index)),
            Pixels::File(file) => {
                buffer.resize(self.image_bytes(), 0);
                file.read_image(self.images[index].slot, buffer)?;
                Ok(buffer)
            }
        }
    }

    /// Copies the pixels of image `index` to `out`, which is as long.
    ///
    /// # Errors
    /// As [`Pack::pixels`].
    ///
    /// # Panics
    /// If `index` is not below [`Pack::len`], or `out` has another length.
    pub fn copy_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        assert_eq!(out.len(), self.image_bytes(), "the buffer of an image has another length");
        match &self.pixels {
            Pixels::Memory(pixels) => out.copy_from_slice(self.in_memory(pixels, index)),
            Pixels::File(file) => file.read_image(self.images[index].slot, out)?,
        }
        Ok(())
    }

    fn in_memory<'a>(&self, pixels: &'a [u8], index: usize) -> &'a [u8] {
        &pixels[self.images[index].slot * self.image_bytes()..][..self.image_bytes()]
    }

    fn image_bytes(&self) -> usize {
        self.crop.size * self.crop.size * 3
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
        self.len() * self.image_bytes()
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
