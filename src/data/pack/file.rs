//! The file of a pack: its layout, and reading from it what was written.
//!
//! ```text
//! header   magic, versions, crop, number of images, key, length of the origin, CRC-32C of all before the pixels
//! origin   what was packed, as JSON: for people, and for `data clean`
//! records  one per image: whether it could be decoded, CRC-32C of its pixels
//! pixels   image 0, image 1, ...; from the next multiple of 4096 bytes on
//! ```
//!
//! Pixels are read, not mapped: of a mapped file that is cut short, a process dies without a word. Every image is held to its
//! checksum whenever it is read, so what is not as it was packed is an error, however long the file is and however long
//! it has been open.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::{Crop, OpenOptions, Split, decode};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"RSDMPACK";
const FORMAT_VERSION: u32 = 2;
const HEADER_BYTES: usize = 48;
/// Where in the header the checksum is, which covers the rest of it; it comes last.
const CRC_AT: usize = 44;
const RECORD_BYTES: usize = 8;
/// Pixels start on a page of the disk.
const PIXEL_ALIGN_BYTES: u64 = 4096;
/// Images are decoded and verified in chunks of about this many bytes: what a kill can cost each thread.
const CHUNK_TARGET_BYTES: usize = 4 << 20;

/// What was packed, in the file of the pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Folder of the data set, when it was packed.
    pub data_dir: PathBuf,
    /// The split that was packed.
    pub split: Split,
    /// What the data set was opened with.
    pub options: OpenOptions,
}

/// What the header says besides the versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// How photos became the images.
    pub(super) crop: Crop,
    pub(super) num_images: u64,
    pub(super) key: u64,
}

/// Whether an image is in a file, and with which pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// It is not decoded yet.
    Missing,
    /// It is there, and its pixels have this CRC-32C.
    Usable(u32),
    /// It cannot be decoded.
    Undecodable,
}

/// As far apart as words are, so that no bit that turns makes one of the other.
const USABLE: [u8; 4] = *b"done";
const UNDECODABLE: [u8; 4] = *b"none";

impl Record {
    pub(super) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let (state, crc) = match self {
            Record::Missing => ([0; 4], 0),
            Record::Usable(crc) => (USABLE, crc),
            Record::Undecodable => (UNDECODABLE, 0),
        };
        let mut bytes = [0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&state);
        bytes[4..].copy_from_slice(&u32::to_le_bytes(crc));
        bytes
    }

    /// What a build that was killed left half written is missing.
    fn from_bytes(bytes: [u8; RECORD_BYTES]) -> Record {
        let [a, b, c, d, crc @ ..] = bytes;
        match [a, b, c, d] {
            USABLE => Record::Usable(u32::from_le_bytes(crc)),
            UNDECODABLE => Record::Undecodable,
            _ => Record::Missing,
        }
    }
}

/// Sizes and offsets of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    num_images: usize,
    image_bytes: usize,
    origin_bytes: usize,
}

impl Layout {
    /// `None` for numbers that no file has.
    fn new(header: &Header, origin_bytes: u32) -> Option<Layout> {
        let image_bytes = header.crop.size.checked_pow(2)?.checked_mul(3).filter(|&bytes| bytes > 0)?;
        let num_images = usize::try_from(header.num_images).ok()?;
        num_images.checked_mul(image_bytes.checked_add(RECORD_BYTES)?)?.checked_add(1 << 33)?;
        Some(Layout { num_images, image_bytes, origin_bytes: origin_bytes as usize })
    }

    fn record_offset(&self, image: usize) -> u64 {
        (HEADER_BYTES + self.origin_bytes + image * RECORD_BYTES) as u64
    }

    fn pixel_offset(&self, image: usize) -> u64 {
        let records_end = self.record_offset(self.num_images);
        records_end.next_multiple_of(PIXEL_ALIGN_BYTES) + (image * self.image_bytes) as u64
    }

    fn file_bytes(&self) -> u64 {
        self.pixel_offset(self.num_images)
    }
}

/// An open file, finished or in the making.
#[derive(Debug)]
pub(super) struct PackFile {
    file: File,
    path: PathBuf,
    header: Header,
    layout: Layout,
    origin: Vec<u8>,
    records: Vec<Record>,
}

impl PackFile {
    /// The file at `path`, which is finished; `None` where its header or its records are damaged or of another version.
    pub(super) fn open(path: &Path) -> io::Result<Option<PackFile>> {
        PackFile::read(File::open(path)?, path, |table, crc| crc32c::crc32c(table) == crc)
    }

    /// The file at `path`, which a build has begun; `None` where its header is damaged or of another version.
    pub(super) fn open_begun(path: &Path) -> io::Result<Option<PackFile>> {
        PackFile::read(File::open(path)?, path, |_, _| true)
    }

    /// The file at `path` for a build to go on with: the one that is there, if it is of the same `header`, or a new one.
    pub(super) fn open_partial(path: &Path, header: Header, origin: &Origin) -> io::Result<PackFile> {
        let options = || File::options().read(true).write(true).create(true).truncate(false).open(path);
        if let Some(begun) = PackFile::read(options()?, path, |_, _| true)?
            && begun.header == header
        {
            return Ok(begun);
        }
        let file = options()?;
        let origin = serde_json::to_vec(origin)?;
        let origin_bytes = u32::try_from(origin.len()).map_err(io::Error::other)?;
        let too_large = || io::Error::other("there are too many images");
        let layout = Layout::new(&header, origin_bytes).ok_or_else(too_large)?;
        let records = vec![Record::Missing; layout.num_images];
        file.set_len(0)?;
        file.set_len(layout.file_bytes())?;
        let begun = PackFile { file, path: path.to_path_buf(), header, layout, origin, records };
        begun.file.write_all_at(&begun.table()[..HEADER_BYTES + begun.layout.origin_bytes], 0)?;
        Ok(begun)
    }

    /// Reads what stands before the pixels, if that `is_sound`, given its bytes without the checksum, and that.
    fn read(file: File, path: &Path, is_sound: impl Fn(&[u8], u32) -> bool) -> io::Result<Option<PackFile>> {
        let file_bytes = file.metadata()?.len();
        let mut bytes = vec![0; HEADER_BYTES];
        if file_bytes < HEADER_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut bytes, 0)?;
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let is_of_this_version =
            bytes.starts_with(MAGIC) && (u32_at(8), u32_at(12)) == (FORMAT_VERSION, decode::VERSION);
        let [size, resize] = [16, 40].map(|at| u32_at(at) as usize);
        let header = Header { crop: Crop { size, resize }, num_images: u64_at(24), key: u64_at(32) };
        let crc = u32_at(CRC_AT);
        let layout = Layout::new(&header, u32_at(20)).filter(|layout| layout.file_bytes() == file_bytes);
        let (Some(layout), true) = (layout, is_of_this_version) else { return Ok(None) };
        bytes[CRC_AT..HEADER_BYTES].fill(0);
        bytes.resize(layout.record_offset(layout.num_images) as usize, 0);
        file.read_exact_at(&mut bytes[HEADER_BYTES..], HEADER_BYTES as u64)?;
        if !is_sound(&bytes, crc) {
            return Ok(None);
        }
        let origin = bytes[HEADER_BYTES..][..layout.origin_bytes].to_vec();
        let (records, _) = bytes[HEADER_BYTES + layout.origin_bytes..].as_chunks();
        let records = records.iter().map(|bytes| Record::from_bytes(*bytes)).collect();
        Ok(Some(PackFile { file, path: path.to_path_buf(), header, layout, origin, records }))
    }

    /// What stands before the pixels, without its checksum.
    fn table(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.layout.record_offset(self.records.len()) as usize);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(decode::VERSION.to_le_bytes());
        bytes.extend((self.header.crop.size as u32).to_le_bytes());
        bytes.extend((self.layout.origin_bytes as u32).to_le_bytes());
        bytes.extend(self.header.num_images.to_le_bytes());
        bytes.extend(self.header.key.to_le_bytes());
        bytes.extend((self.header.crop.resize as u32).to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(&self.origin);
        bytes.extend(self.records.iter().flat_map(|record| record.to_bytes()));
        bytes
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// What was packed, as far as the file says it.
    pub(super) fn origin(&self) -> Option<Origin> {
        serde_json::from_slice(&self.origin).ok()
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(super) fn num_bytes(&self) -> u64 {
        self.layout.file_bytes()
    }

    /// Marks the file as used now, for whoever clears the cache. It may belong to somebody else.
    pub(super) fn mark_used(&self) {
        let _ = self.file.set_modified(std::time::SystemTime::now());
    }

    /// Consecutive images, about as many bytes each.
    pub(super) fn chunks(&self) -> Vec<Range<usize>> {
        let (all, step) = (self.layout.num_images, (CHUNK_TARGET_BYTES / self.layout.image_bytes).max(1));
        (0..all).step_by(step).map(|first| first..(first + step).min(all)).collect()
    }

    /// Whether every image of `chunk` is there with the pixels that were written.
    pub(super) fn is_sound(&self, chunk: &Range<usize>) -> io::Result<bool> {
        let records = &self.records[chunk.clone()];
        if records.contains(&Record::Missing) {
            return Ok(false);
        }
        let mut pixels = vec![0; records.len() * self.layout.image_bytes];
        self.file.read_exact_at(&mut pixels, self.layout.pixel_offset(chunk.start))?;
        let mut images = records.iter().zip(pixels.chunks_exact(self.layout.image_bytes));
        Ok(images.all(|(record, pixels)| match record {
            Record::Usable(crc) => crc32c::crc32c(pixels) == *crc,
            Record::Undecodable | Record::Missing => true,
        }))
    }

    /// Whether every image is there with the pixels that were written.
    pub(super) fn is_all_sound(&self) -> io::Result<bool> {
        let chunks = self.chunks();
        chunks.par_iter().map(|chunk| self.is_sound(chunk)).try_reduce(|| true, |a, b| Ok(a && b))
    }

    /// Writes the pixels of the images from `first` on, and then their records.
    pub(super) fn write(&self, first: usize, pixels: &[u8], records: &[Record]) -> io::Result<()> {
        self.file.write_all_at(pixels, self.layout.pixel_offset(first))?;
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.to_bytes()).collect();
        self.file.write_all_at(&bytes, self.layout.record_offset(first))
    }

    /// Makes the file, all of whose images have these `records`, a finished one at `path`, on the disk.
    pub(super) fn finish(mut self, records: Vec<Record>, path: &Path) -> io::Result<PackFile> {
        self.records = records;
        let crc = crc32c::crc32c(&self.table());
        self.file.write_all_at(&crc.to_le_bytes(), CRC_AT as u64)?;
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        Ok(PackFile { path: path.to_path_buf(), ..self })
    }

    /// Reads image `image` into `pixels`, which is as long as an image.
    ///
    /// # Errors
    /// [`Error::Data`] if the file cannot be read or its bytes are not those that were packed, after which it is removed.
    pub(super) fn read_image(&self, image: usize, pixels: &mut [u8]) -> Result<()> {
        match self.file.read_exact_at(pixels, self.layout.pixel_offset(image)) {
            Ok(()) if Record::Usable(crc32c::crc32c(pixels)) == self.records[image] => Ok(()),
            Ok(()) => Err(self.spoilt(&format!("has other bytes in image {image} than were packed"))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.spoilt(&format!("was cut short and ends before image {image}")))
            }
            Err(error) => Err(Error::data(&self.path, format!("cannot read image {image}: {error}"))),
        }
    }

    /// The error of a file that is not what was written, which is of no use to anybody and is removed.
    fn spoilt(&self, what: &str) -> Error {
        // Under its name there may be another file by now.
        let is_this = |found: &fs::Metadata| {
            self.file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        };
        let is_gone = match fs::metadata(&self.path) {
            Ok(found) if is_this(&found) => fs::remove_file(&self.path).is_ok(),
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let remedy = if is_gone {
            "it is removed now, and the next start makes it again"
        } else {
            "remove it, and the next start makes it again"
        };
        Error::data(
            &self.path,
            format!("{what}; this pack of decoded photos changed while it was in use; {remedy}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_parts_of_a_file_follow_each_other() {
        let header = Header { crop: Crop::whole(48), num_images: 1000, key: 7 };
        let layout = Layout::new(&header, 52).unwrap();
        assert_eq!(layout.record_offset(0), 100);
        assert_eq!(layout.record_offset(1000), 8100);
        assert_eq!(layout.pixel_offset(0), 8192);
        assert_eq!(layout.file_bytes(), 8192 + 1000 * 48 * 48 * 3);
        for header in
            [Header { crop: Crop::whole(usize::MAX), ..header }, Header { num_images: u64::MAX, ..header }]
        {
            assert_eq!(Layout::new(&header, 0), None);
        }
    }

    #[test]
    fn every_bit_before_the_pixels_counts() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.partial");
        let origin =
            Origin { data_dir: "/photos".into(), split: Split::Val, options: OpenOptions::default() };
        let header = Header { crop: Crop { size: 2, resize: 3 }, num_images: 3, key: 5 };
        let file = PackFile::open_partial(&path, header, &origin).unwrap();
        let pixels: Vec<u8> = (0..36).collect();
        let crc = |image: usize| Record::Usable(crc32c::crc32c(&pixels[12 * image..][..12]));
        let records = vec![crc(0), Record::Undecodable, crc(2)];
        file.write(0, &pixels, &records).unwrap();
        let path = folder.path().join("a.pack");
        let file = file.finish(records.clone(), &path).unwrap();
        assert!(file.is_all_sound().unwrap());
        let reopened = PackFile::open(&path).unwrap().unwrap();
        assert_eq!((reopened.header, reopened.origin()), (header, Some(origin)));
        assert_eq!(reopened.records, records);
        let whole = fs::read(&path).unwrap();
        for bit in 0..8 * reopened.layout.record_offset(3) as usize {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            assert!(PackFile::open(&path).unwrap().is_none(), "bit {bit}");
        }
    }
}
