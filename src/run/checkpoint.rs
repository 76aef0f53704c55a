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
use std::io::{self, Read, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::regular_file;
use crate::run::replace;
use crate::show::show_bytes;

const _: () = assert!(cfg!(target_endian = "little"), "tensors are written as they lie in memory");

/// The one key under which this program keeps metadata in a file's header.
const METADATA_KEY: &str = "residuum";
/// The largest header the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The length field before the header.
const LENGTH_BYTES: u64 = 8;
/// The prefix PyTorch's `DataParallel` puts before every name.
const PARALLEL_PREFIX: &str = "module.";
/// A counter of batch norm that old PyTorch files lack and no computation here reads.
const OPTIONAL_SUFFIX: &str = ".num_batches_tracked";

/// The elements of a tensor, owned after reading or borrowed for writing.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData<'a> {
    /// IEEE single precision; files with f16 or bf16 elements are widened to it.
    F32(Cow<'a, [f32]>),
    /// Signed 64-bit integers: PyTorch's counters.
    I64(Cow<'a, [i64]>),
    /// Signed 32-bit integers.
    I32(Cow<'a, [i32]>),
    /// Unsigned bytes.
    U8(Cow<'a, [u8]>),
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

    /// Removes the `module.` that PyTorch's `DataParallel` puts before every name, if every name has it.
    pub fn strip_parallel_prefix(&mut self) {
        if self.tensors.iter().all(|tensor| tensor.name.starts_with(PARALLEL_PREFIX)) {
            for tensor in &mut self.tensors {
                tensor.name.drain(..PARALLEL_PREFIX.len());
            }
        }
    }
}

/// What stands before the digits of the header's checksum, and what stands in their place while it is computed.
const CHECKSUM_LABEL: &[u8] = br#"\"header_crc32c\":\""#;
const NO_CHECKSUM: &str = "00000000";

/// What stands under [`METADATA_KEY`].
#[derive(Serialize, Deserialize)]
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

/// Reads the safetensors file at `path`. Elements of type f16 and bf16 become f32.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened or read; [`Error::Checkpoint`], naming the damage and the
/// remedy, if it is not a whole safetensors file or has elements of another type than those of
/// [`TensorData`], f16 or bf16.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let file = regular_file::open(path).map_err(|error| match error {
        Error::Data { path, message } => Error::checkpoint(path, message),
        other => other,
    })?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    read_from(file, length).map_err(|damage| match damage {
        Damage::Io(source) => Error::io("read", path)(source),
        Damage::Format(message) => Error::checkpoint(path, message),
    })
}

/// Why a file could not be read.
enum Damage {
    Io(io::Error),
    Format(String),
}

impl From<io::Error> for Damage {
    fn from(source: io::Error) -> Damage {
        Damage::Io(source)
    }
}

/// A message for a file that is damaged in itself.
fn damaged(what: impl std::fmt::Display) -> Damage {
    Damage::Format(format!("{what}; restore the file from a copy, or save or download it again"))
}

/// Reads the `length` bytes of a file, each tensor straight into the memory it stays in.
fn read_from(mut reader: impl Read, length: u64) -> std::result::Result<Checkpoint, Damage> {
    let mut header_bytes = read_header(&mut reader, length)?;
    let header: Metadata = serde_json::from_slice(&header_bytes)
        .map_err(|error| damaged(format_args!("the header of the file is damaged ({error})")))?;
    let found_bytes = length - LENGTH_BYTES - header_bytes.len() as u64;
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
    let mut crc32c = 0;
    let mut tensors = Vec::new();
    for name in header.offset_keys() {
        let info = header.info(&name).expect("offset_keys lists tensors of this header");
        let num_elems = info.shape.iter().product();
        let data = read_elems(&mut reader, info.dtype, num_elems, &mut crc32c, &name)?;
        tensors.push(NamedTensor { name, shape: info.shape.clone(), data });
    }
    match own {
        Some(own) if own.crc32c != crc32c => Err(damaged(format_args!(
            "the tensors do not match their checksum ({crc32c:08x}, written as {:08x})",
            own.crc32c
        ))),
        Some(own) => Ok(Checkpoint { tensors, metadata: own.content.into_owned() }),
        None => Ok(Checkpoint { tensors, metadata: Value::Null }),
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
            "the header does not match its checksum ({computed}, written as {written})"
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
        Dtype::F16 => {
            let halves = typed::<u16>(reader, num_elems, crc32c)?;
            TensorData::F32(halves.iter().map(|&bits| half::f16::from_bits(bits).to_f32()).collect())
        }
        Dtype::BF16 => {
            let halves = typed::<u16>(reader, num_elems, crc32c)?;
            TensorData::F32(halves.iter().map(|&bits| half::bf16::from_bits(bits).to_f32()).collect())
        }
        Dtype::I64 => TensorData::I64(typed::<i64>(reader, num_elems, crc32c)?.into()),
        Dtype::I32 => TensorData::I32(typed::<i32>(reader, num_elems, crc32c)?.into()),
        Dtype::U8 => TensorData::U8(typed::<u8>(reader, num_elems, crc32c)?.into()),
        other => {
            return Err(Damage::Format(format!(
                "tensor `{name}` has elements of type {other}, which cannot be read; save the file with \
                 f32 tensors"
            )));
        }
    })
}

/// Checks that the tensors of the file at `path` have the names and shapes that a model expects.
///
/// `num_batches_tracked` may be missing: PyTorch before 0.4.1 did not write it, and nothing here computes
/// with it.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first tensor that differs (in the order of `expected`, then of the file),
/// how many differ, and the flag to change.
pub fn check_names(
    expected: &[(String, Vec<usize>)],
    found: &[NamedTensor],
    last_layer: &str,
    path: &Path,
) -> Result<()> {
    let shapes: HashMap<&str, &[usize]> =
        found.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    let names: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();

    let differing = expected.iter().filter_map(|(name, shape)| match shapes.get(name.as_str()) {
        Some(found) if found == shape => None,
        Some(found) => Some((name.as_str(), format!("has shape {found:?} where the model has {shape:?}"))),
        None if name.ends_with(OPTIONAL_SUFFIX) => None,
        None => Some((name.as_str(), format!("of shape {shape:?} is missing"))),
    });
    let unexpected = found
        .iter()
        .filter(|tensor| !names.contains(tensor.name.as_str()))
        .map(|tensor| (tensor.name.as_str(), format!("of shape {:?} is not in the model", tensor.shape)));
    let differences: Vec<(&str, String)> = differing.chain(unexpected).collect();

    let Some((name, what)) = differences.first() else { return Ok(()) };
    let count = match differences.len() {
        1 => "the only tensor that differs".to_string(),
        count => format!("the first of {count} tensors that differ"),
    };
    let weight = format!("{last_layer}.weight");
    let is_of_last_layer =
        |name: &str| name.strip_prefix(last_layer).is_some_and(|rest| rest.starts_with('.'));
    let categories = shapes.get(weight.as_str()).and_then(|shape| shape.first());
    let remedy = match categories {
        Some(categories) if differences.iter().all(|(name, _)| is_of_last_layer(name)) => {
            format!("the file has {categories} categories: give --categories {categories}")
        }
        _ => "give the --model (and --categories) that the file was saved from".to_string(),
    };
    Err(Error::checkpoint(path, format!("tensor `{name}` {what} ({count}); {remedy}")))
}

#[cfg(test)]
mod tests;
