//! Safetensors files read in two parts: the header, which says what there is, then the elements that are asked for.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::Value;

use super::{LENGTH_BYTES, METADATA_KEY, NO_CHECKSUM, NamedTensor, OwnMetadata, TensorData, checksum_digits};
use crate::error::{Error, Result};
use crate::regular_file;
use crate::show::show_text;

/// The largest header the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Elements that are passed over only for the checksum are read in parts of this size.
const PASSED_BYTES: usize = 1 << 20;

/// Why a file of tensors could not be read.
pub(in crate::run) enum Damage {
    Io(io::Error),
    Format(String),
}

impl From<io::Error> for Damage {
    fn from(source: io::Error) -> Damage {
        Damage::Io(source)
    }
}

impl Damage {
    /// The error about the file at `path`.
    pub(in crate::run) fn of(self, path: &Path) -> Error {
        match self {
            Damage::Io(source) => Error::io("read", path)(source),
            Damage::Format(message) => Error::checkpoint(path, message),
        }
    }
}

/// A message for a file that is damaged in itself.
pub(in crate::run) fn damaged(what: impl std::fmt::Display) -> Damage {
    Damage::Format(format!("{what}; restore the file from a copy, or save or download it again"))
}

/// Opens the file of tensors at `path`, and says how many bytes it has.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened; [`Error::Checkpoint`] saying what it is if it is no regular file.
pub(in crate::run) fn open(path: &Path) -> Result<(File, u64)> {
    let file = regular_file::open(path).map_err(|error| match error {
        Error::Data { path, message } => Error::checkpoint(path, message),
        other => other,
    })?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    Ok((file, length))
}

/// A safetensors file of which the header is read and checked.
#[derive(Debug)]
pub(in crate::run) struct Reader<R> {
    file: R,
    header: Metadata,
    data_start: u64,
    own: Option<OwnMetadata<'static>>,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the header of a file of `length` bytes.
    pub(in crate::run) fn new(mut file: R, length: u64) -> std::result::Result<Reader<R>, Damage> {
        let mut header_bytes = read_header(&mut file, length)?;
        let header: Metadata = serde_json::from_slice(&header_bytes).map_err(|error| {
            let error = error.to_string();
            damaged(format_args!("the header of the file is damaged ({})", show_text(&error)))
        })?;
        let data_start = LENGTH_BYTES + header_bytes.len() as u64;
        let found_bytes = length - data_start;
        let promised_bytes = header.data_len() as u64;
        if found_bytes != promised_bytes {
            return Err(damaged(format_args!(
                "holds {found_bytes} bytes of tensors where its header promises {promised_bytes}"
            )));
        }
        let own = own_metadata(&header)?;
        if let Some(written) = own.as_ref().and_then(|own| own.header_crc32c.as_deref()) {
            check_header(&mut header_bytes, written)?;
        }
        Ok(Reader { file, header, data_start, own })
    }

    /// Names and shapes, in the order of the file.
    pub(in crate::run) fn shapes(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        self.infos().map(|(name, info)| (name, info.shape.clone()))
    }

    fn infos(&self) -> impl Iterator<Item = (String, &TensorInfo)> {
        self.header.offset_keys().into_iter().map(|name| {
            let info = self.header.info(&name).expect("offset_keys lists tensors of this header");
            (name, info)
        })
    }

    /// The tensors whose names are `wanted`, in the order of the file, each read straight into the memory it stays in.
    ///
    /// The others are passed over: unread, or, where the file has a checksum of its tensors, read for that in small parts.
    pub(in crate::run) fn read(
        &mut self,
        wanted: impl Fn(&str) -> bool,
    ) -> std::result::Result<Vec<NamedTensor<'static>>, Damage> {
        let infos: Vec<(String, TensorInfo)> =
            self.infos().map(|(name, info)| (name, info.clone())).collect();
        let mut crc32c = 0;
        let mut tensors = Vec::new();
        self.file.seek(SeekFrom::Start(self.data_start))?;
        for (name, info) in infos {
            let (start, end) = info.data_offsets;
            if wanted(&name) {
                let num_elems = info.shape.iter().product();
                let data = read_elems(&mut self.file, info.dtype, num_elems, &mut crc32c, &name)?;
                tensors.push(NamedTensor { name, shape: info.shape, data });
            } else if self.own.is_some() {
                pass(&mut self.file, end - start, &mut crc32c)?;
            } else {
                self.file.seek(SeekFrom::Start(self.data_start + end as u64))?;
            }
        }
        match &self.own {
            Some(own) if own.crc32c != crc32c => Err(damaged(format_args!(
                "the tensors do not match their checksum ({crc32c:08x}, written as {:08x})",
                own.crc32c
            ))),
            _ => Ok(tensors),
        }
    }

    /// Takes out what the writer gave to [`super::write_atomic`]; null in files of other programs.
    pub(in crate::run) fn take_metadata(&mut self) -> Value {
        self.own.as_mut().map_or(Value::Null, |own| std::mem::take(own.content.to_mut()))
    }
}

/// The JSON header of a file of `length` bytes; the reader then stands at the first tensor.
fn read_header(reader: &mut impl Read, length: u64) -> std::result::Result<Vec<u8>, Damage> {
    if length < LENGTH_BYTES {
        return Err(damaged(format_args!("is {length} bytes long, too short for a safetensors file")));
    }
    let mut header_length = [0; LENGTH_BYTES as usize];
    reader.read_exact(&mut header_length)?;
    let header_length = u64::from_le_bytes(header_length);
    if header_length > MAX_HEADER_BYTES || header_length > length - LENGTH_BYTES {
        return Err(damaged(format_args!(
            "is cut short or not a safetensors file (header of {header_length} bytes, file of {length})"
        )));
    }
    let mut header = vec![0; header_length as usize];
    reader.read_exact(&mut header)?;
    Ok(header)
}

/// Fails unless the header's own checksum is the one that was `written`.
fn check_header(header: &mut [u8], written: &str) -> std::result::Result<(), Damage> {
    if let Some(digits) = checksum_digits(header) {
        digits.copy_from_slice(NO_CHECKSUM.as_bytes());
    }
    match format!("{:08x}", crc32c::crc32c(header)) {
        computed if computed == written => Ok(()),
        computed => Err(damaged(format_args!(
            "the header does not match its checksum ({computed}, written as {})",
            show_text(written)
        ))),
    }
}

fn own_metadata(header: &Metadata) -> std::result::Result<Option<OwnMetadata<'static>>, Damage> {
    let Some(text) = header.metadata().as_ref().and_then(|map| map.get(METADATA_KEY)) else {
        return Ok(None);
    };
    let own = serde_json::from_str(text)
        .map_err(|error| damaged(format_args!("the metadata of the file is damaged ({error})")))?;
    Ok(Some(own))
}

/// Reads `num_bytes` for the checksum alone.
fn pass(reader: &mut impl Read, num_bytes: usize, crc32c: &mut u32) -> io::Result<()> {
    let mut part = vec![0; num_bytes.min(PASSED_BYTES)];
    let mut left = num_bytes;
    while left > 0 {
        let part = &mut part[..left.min(PASSED_BYTES)];
        reader.read_exact(part)?;
        *crc32c = crc32c::crc32c_append(*crc32c, part);
        left -= part.len();
    }
    Ok(())
}

/// The next `num_elems` elements of type `dtype`.
fn read_elems(
    reader: &mut impl Read,
    dtype: Dtype,
    num_elems: usize,
    crc32c: &mut u32,
    name: &str,
) -> std::result::Result<TensorData<'static>, Damage> {
    fn typed<T: bytemuck::Pod>(
        reader: &mut impl Read,
        num_elems: usize,
        crc32c: &mut u32,
    ) -> io::Result<Vec<T>> {
        let mut elems = vec![T::zeroed(); num_elems];
        let bytes = bytemuck::cast_slice_mut(&mut elems);
        reader.read_exact(bytes)?;
        *crc32c = crc32c::crc32c_append(*crc32c, bytes);
        Ok(elems)
    }
    Ok(match dtype {
        Dtype::F32 => TensorData::F32(typed::<f32>(reader, num_elems, crc32c)?.into()),
        Dtype::F16 => TensorData::from_f16(&typed(reader, num_elems, crc32c)?),
        Dtype::BF16 => TensorData::from_bf16(&typed(reader, num_elems, crc32c)?),
        Dtype::F64 => TensorData::from_f64(&typed(reader, num_elems, crc32c)?),
        Dtype::I64 => TensorData::I64(typed::<i64>(reader, num_elems, crc32c)?.into()),
        Dtype::I32 => TensorData::I32(typed::<i32>(reader, num_elems, crc32c)?.into()),
        Dtype::U8 => TensorData::U8(typed::<u8>(reader, num_elems, crc32c)?.into()),
        other => return Err(unknown_elements(name, other)),
    })
}

/// A message for elements of a type that nothing here computes with.
pub(in crate::run) fn unknown_elements(name: &str, dtype: impl std::fmt::Display) -> Damage {
    Damage::Format(format!(
        "tensor `{}` has elements of type {dtype}, which cannot be read; save the file with f32 tensors",
        show_text(name)
    ))
}
