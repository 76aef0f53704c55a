//! Tensors in safetensors files: written atomically and reproducibly, read with every kind of damage named.
//!
//! A file is `u64` header length, JSON header, then the elements of all tensors, little-endian, end to end.
//! Tensors are sorted by element type and name, and the caller's metadata is one JSON-valued key (the
//! header's own metadata is an unordered map, so two keys would change the bytes from run to run): the same
//! tensors give the same bytes.
//!
//! The format has no checksum. Files written here carry two in the metadata, the CRC-32C of their data and that of the
//! header itself, so that no bit of a file can change unseen. They are checked where they are present; files of other
//! programs are read without, those of earlier versions without the second.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::run::replace;
use crate::show::show_bytes;

pub(in crate::run) mod reader;

use reader::{Damage, Reader};

const _: () = assert!(cfg!(target_endian = "little"), "tensors are written as they lie in memory");

/// The one key under which this program keeps metadata in a file's header.
const METADATA_KEY: &str = "residuum";
/// The length field before the header.
const LENGTH_BYTES: u64 = 8;

/// The elements of a tensor, owned after reading or borrowed for writing.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData<'a> {
    /// IEEE single precision; elements of type f16 and bf16 are widened to it, those of type f64 rounded.
    F32(Cow<'a, [f32]>),
    /// Signed 64-bit integers: PyTorch's counters.
    I64(Cow<'a, [i64]>),
    /// Signed 32-bit integers.
    I32(Cow<'a, [i32]>),
    /// Unsigned bytes.
    U8(Cow<'a, [u8]>),
}

impl TensorData<'static> {
    /// Half precision, widened.
    pub(in crate::run) fn from_f16(elems: &[half::f16]) -> TensorData<'static> {
        TensorData::F32(elems.iter().map(|elem| elem.to_f32()).collect())
    }

    /// The upper halves of f32, widened.
    pub(in crate::run) fn from_bf16(elems: &[half::bf16]) -> TensorData<'static> {
        TensorData::F32(elems.iter().map(|elem| elem.to_f32()).collect())
    }

    /// Double precision, rounded; what f32 cannot hold becomes infinite.
    pub(in crate::run) fn from_f64(elems: &[f64]) -> TensorData<'static> {
        TensorData::F32(elems.iter().map(|&elem| elem as f32).collect())
    }
}

impl TensorData<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            TensorData::F32(_) => Dtype::F32,
            TensorData::I64(_) => Dtype::I64,
            TensorData::I32(_) => Dtype::I32,
            TensorData::U8(_) => Dtype::U8,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            TensorData::F32(elems) => bytemuck::cast_slice(elems),
            TensorData::I64(elems) => bytemuck::cast_slice(elems),
            TensorData::I32(elems) => bytemuck::cast_slice(elems),
            TensorData::U8(elems) => elems,
        }
    }

    fn num_elems(&self) -> usize {
        match self {
            TensorData::F32(elems) => elems.len(),
            TensorData::I64(elems) => elems.len(),
            TensorData::I32(elems) => elems.len(),
            TensorData::U8(elems) => elems.len(),
        }
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor<'a> {
    /// The key in the file, such as `layer1.0.conv1.weight`.
    pub name: String,
    /// The extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, innermost dimension fastest.
    pub data: TensorData<'a>,
}

impl<'a> NamedTensor<'a> {
    /// A tensor of f32 elements, borrowed or owned.
    pub fn f32(
        name: impl Into<String>,
        shape: &[usize],
        elems: impl Into<Cow<'a, [f32]>>,
    ) -> NamedTensor<'a> {
        NamedTensor { name: name.into(), shape: shape.to_vec(), data: TensorData::F32(elems.into()) }
    }

    /// A tensor of i64 elements, borrowed or owned.
    pub fn i64(
        name: impl Into<String>,
        shape: &[usize],
        elems: impl Into<Cow<'a, [i64]>>,
    ) -> NamedTensor<'a> {
        NamedTensor { name: name.into(), shape: shape.to_vec(), data: TensorData::I64(elems.into()) }
    }

    /// The f32 elements, or `None` for another element type.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(elems) => Some(elems),
            _ => None,
        }
    }

    /// The f32 elements by value, or `None` for another element type.
    pub fn into_f32(self) -> Option<Vec<f32>> {
        match self.data {
            TensorData::F32(elems) => Some(elems.into_owned()),
            _ => None,
        }
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The tensors, in the order of the file.
    pub tensors: Vec<NamedTensor<'static>>,
    /// What the writer gave to [`write_atomic`]; null in files of other programs.
    pub metadata: Value,
}

impl Checkpoint {
    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&NamedTensor<'static>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// What stands before the digits of the header's checksum, and what stands in their place while it is computed.
const CHECKSUM_LABEL: &[u8] = br#"\"header_crc32c\":\""#;
const NO_CHECKSUM: &str = "00000000";

/// What stands under [`METADATA_KEY`].
#[derive(Debug, Serialize, Deserialize)]
// Else a damaged name of a checksum would switch its check off.
#[serde(deny_unknown_fields)]
struct OwnMetadata<'a> {
    /// CRC-32C of the header with [`NO_CHECKSUM`] in this place, in hexadecimal; the first field, so that nothing of the
    /// content is taken for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header_crc32c: Option<String>,
    /// CRC-32C of everything after the header.
    crc32c: u32,
    content: Cow<'a, Value>,
}

/// Writes `tensors` and `metadata` to the safetensors file at `path`, replacing an earlier one atomically.
///
/// Borrowed elements are not copied.
///
/// # Errors
/// [`Error::Checkpoint`] if two tensors share a name, or if the file cannot be written, as on a full disk;
/// the earlier file at `path` is then intact.
///
/// # Panics
/// If a tensor's elements do not fill its shape.
pub fn write_atomic(path: &Path, tensors: &[NamedTensor], metadata: &Value) -> Result<()> {
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        return Err(Error::checkpoint(
            path,
            format!("two tensors to be written are called `{}`", twice.name),
        ));
    }
    replace::replace(path, |writer| write_to(writer, tensors, metadata)).map_err(|source| {
        let num_bytes = tensors.iter().map(|tensor| tensor.data.as_bytes().len()).sum();
        Error::checkpoint(
            path,
            format!(
                "cannot be written ({source}); an earlier file of this name is intact. Make room for {}, \
                 or choose another folder with --output",
                show_bytes(num_bytes)
            ),
        )
    })
}

/// The bytes of a file, in order.
fn write_to(writer: &mut dyn Write, tensors: &[NamedTensor], metadata: &Value) -> io::Result<()> {
    let mut sorted: Vec<&NamedTensor> = tensors.iter().collect();
    // Wider elements first keeps every tensor aligned to its own element.
    sorted.sort_by(|a, b| b.data.dtype().cmp(&a.data.dtype()).then_with(|| a.name.cmp(&b.name)));

    let header = header_of(&sorted, metadata).map_err(io::Error::other)?;
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(&header)?;
    sorted.iter().try_for_each(|tensor| writer.write_all(tensor.data.as_bytes()))
}

/// The JSON header, padded with blanks to a multiple of eight bytes.
fn header_of(
    sorted: &[&NamedTensor],
    metadata: &Value,
) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut crc32c = 0;
    let mut offset = 0;
    let mut infos = Vec::with_capacity(sorted.len());
    for tensor in sorted {
        let bytes = tensor.data.as_bytes();
        assert_eq!(
            tensor.shape.iter().product::<usize>(),
            tensor.data.num_elems(),
            "tensor `{}` of shape {:?} needs as many elements",
            tensor.name,
            tensor.shape
        );
        crc32c = crc32c::crc32c_append(crc32c, bytes);
        let data_offsets = (offset, offset + bytes.len());
        offset = data_offsets.1;
        let info = TensorInfo { dtype: tensor.data.dtype(), shape: tensor.shape.clone(), data_offsets };
        infos.push((tensor.name.clone(), info));
    }
    let header_crc32c = Some(NO_CHECKSUM.into());
    let own =
        serde_json::to_string(&OwnMetadata { header_crc32c, crc32c, content: Cow::Borrowed(metadata) })?;
    let header = Metadata::new(Some(HashMap::from([(METADATA_KEY.to_string(), own)])), infos)
        .map_err(|error| error.to_string())?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES as usize), b' ');
    let checksum = format!("{:08x}", crc32c::crc32c(&header));
    let digits = checksum_digits(&mut header).expect("the metadata begins with this field");
    digits.copy_from_slice(checksum.as_bytes());
    Ok(header)
}

/// The digits of the header's own checksum, if it has one.
fn checksum_digits(header: &mut [u8]) -> Option<&mut [u8]> {
    let label = header.windows(CHECKSUM_LABEL.len()).position(|bytes| bytes == CHECKSUM_LABEL)?;
    header.get_mut(label + CHECKSUM_LABEL.len()..)?.get_mut(..NO_CHECKSUM.len())
}

/// Reads the safetensors file at `path`. Elements of type f16, bf16 and f64 become f32.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened or read; [`Error::Checkpoint`], naming the damage and the
/// remedy, if it is not a whole safetensors file or has elements of another type than those of
/// [`TensorData`], f16, bf16 or f64.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let (file, length) = reader::open(path)?;
    read_from(file, length).map_err(|damage| damage.of(path))
}

/// What the `length` bytes of a file hold.
fn read_from(file: impl Read + Seek, length: u64) -> std::result::Result<Checkpoint, Damage> {
    let mut reader = Reader::new(file, length)?;
    let tensors = reader.read(|_| true)?;
    Ok(Checkpoint { tensors, metadata: reader.take_metadata() })
}

#[cfg(test)]
mod tests;
