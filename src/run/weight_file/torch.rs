//! Files of `torch.save`, read by the crate `pytorch-reader`, which runs nothing of a pickle; before it, limits and words.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use pytorch_reader::{DType, OpCode, PickleError, PytorchError, PytorchReader, Tensor};
use zip::read::ZipFile;
use zip::result::ZipError;
use zip::{ZipArchive, ZipReadOptions};

use super::pickle_size::{self, Budget};
use crate::run::checkpoint::reader::{Damage, damaged, unknown_elements};
use crate::run::checkpoint::{NamedTensor, TensorData};
use crate::show::show_text;

type Result<T> = std::result::Result<T, Damage>;

/// The tensors of a file by their paths in it.
pub(super) type Tensors = HashMap<String, Tensor>;

/// What to do about a file with more than tensors by name.
const SAVE_STATE: &str = "save the weights alone: torch.save(model.state_dict(), \"weights.pth\")";
/// The pickle in an archive of `torch.save`.
const PICKLE: &str = "data.pkl";
/// Which end of a number comes first, in a few letters.
const MAX_BYTE_ORDER_BYTES: u64 = 64;
/// Pickles of a file of before PyTorch 1.6: magic number, version, machine, the object, names of what follows.
const NUM_OLD_PICKLES: usize = 5;

/// Lists the tensors of the zip archive `file` at `path`.
pub(super) fn open_archive(path: &Path, file: File) -> Result<Tensors> {
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| match error {
        ZipError::Io(source) => Damage::Io(source),
        error => damaged(format_args!(
            "is a zip archive, as torch.save writes them, that is cut short or damaged ({error})"
        )),
    })?;
    let names: Vec<String> =
        archive.file_names().filter_map(|name| name.ok().map(|name| name.into_owned())).collect();
    // The outermost one: archives of programs have more of them.
    let pickles = names.iter().filter(|name| name.strip_suffix(PICKLE).is_some_and(is_folder));
    let Some(pickle) = pickles.min_by_key(|name| name.len()) else {
        return Err(Damage::Format(without_pickle(&names)));
    };
    let folder = pickle.strip_suffix(PICKLE).expect("the name ends so");
    if names.iter().any(|name| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with("code/"))) {
        return Err(Damage::Format(
            "is a program of TorchScript; save its weights alone: torch.save(torch.jit.load(\"in.pt\").state_dict(), \
             \"weights.pth\")"
                .into(),
        ));
    }
    let byte_order = format!("{folder}byteorder");
    if names.contains(&byte_order) {
        let mut order = String::new();
        let entry = entry(&mut archive, &byte_order)?;
        entry.take(MAX_BYTE_ORDER_BYTES).read_to_string(&mut order).map_err(unreadable)?;
        if order.trim() == "big" {
            return Err(big_endian());
        }
    }
    // What the directory says of a compressed entry's length need not be true.
    let bytes = entry(&mut archive, pickle)?.take(pickle_size::MAX_BYTES + 1);
    pass(&mut Budget::of_a_file(), &mut BufReader::new(bytes))?;
    drop(archive);
    list(path)
}

/// Lists the tensors of the pickles `file` at `path`.
pub(super) fn open_pickles(path: &Path, file: File) -> Result<Tensors> {
    let mut reader = BufReader::new(file);
    let mut budget = Budget::of_a_file();
    for _ in 0..NUM_OLD_PICKLES {
        pass(&mut budget, &mut reader)?;
    }
    list(path)
}

fn is_folder(name: &str) -> bool {
    name.is_empty() || name.ends_with('/')
}

fn entry<'a>(
    archive: &'a mut ZipArchive<BufReader<File>>,
    name: &str,
) -> Result<ZipFile<'a, BufReader<File>>> {
    // PyTorch may be told to write none; where there are some, the crate compares them when it reads.
    let unchecked = ZipReadOptions::new().ignore_crc32(true);
    let index = archive.index_for_name(name).ok_or(ZipError::FileNotFound);
    index
        .and_then(|index| archive.by_index_with_options(index, unchecked))
        .map_err(|error| damaged(format_args!("`{}` in it is damaged ({error})", show_text(name))))
}

/// What a zip archive is that `torch.save` did not write.
fn without_pickle(names: &[String]) -> String {
    let some: Vec<String> = names.iter().take(3).map(|name| format!("`{}`", show_text(name))).collect();
    let holds = if some.is_empty() { "nothing".to_string() } else { some.join(", ") };
    format!(
        "is a zip archive that torch.save did not write (it holds {holds}); unpack it, and name the file of weights in it"
    )
}

fn pass(budget: &mut Budget, reader: &mut impl io::BufRead) -> Result<()> {
    budget.pass(reader).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => Damage::Format(error.to_string()),
        _ => unreadable(error),
    })
}

/// Bytes that are not there, or not as they should be, or a system that does not give them.
fn unreadable(error: io::Error) -> Damage {
    match error.raw_os_error() {
        Some(_) => Damage::Io(error),
        None => damaged(format_args!("is cut short or damaged ({})", show_text(&error.to_string()))),
    }
}

fn list(path: &Path) -> Result<Tensors> {
    let tensors = PytorchReader::new(path).map_err(explain)?.into_tensors();
    if tensors.is_empty() {
        return Err(Damage::Format(format!("is a pickle without tensors of PyTorch; {SAVE_STATE}")));
    }
    Ok(tensors)
}

fn big_endian() -> Damage {
    Damage::Format(
        "was saved on a big-endian machine; load it with PyTorch on any other and save it again: \
         torch.save(torch.load(\"in.pth\"), \"weights.pth\")"
            .into(),
    )
}

/// The crate's errors in words of this program.
fn explain(error: PytorchError) -> Damage {
    match error {
        PytorchError::Io(source) => unreadable(source),
        PytorchError::Pickle(PickleError::UnsupportedType(class)) => Damage::Format(format!(
            "holds tensors within an object of `{}`, which only Python could make again; {SAVE_STATE}",
            show_text(&class)
        )),
        PytorchError::Pickle(PickleError::UnexpectedOpCode(
            OpCode::SetItem | OpCode::SetItems | OpCode::Append | OpCode::Appends,
        )) => Damage::Format(format!(
            "holds a dict or list of a class of its own, such as a defaultdict, which only Python could make again; \
             {SAVE_STATE}"
        )),
        PytorchError::InvalidFormat(what) if what.starts_with("Big-endian") => big_endian(),
        PytorchError::InvalidFormat(what) if what.starts_with("Expected a dictionary") => {
            let found = what.rsplit(' ').next().unwrap_or_default();
            Damage::Format(format!("holds `{}` and not tensors by name; {SAVE_STATE}", show_text(found)))
        }
        PytorchError::Pickle(PickleError::NoDataSource) => {
            Damage::Format(format!("is a pickle that torch.save did not write; {SAVE_STATE}"))
        }
        other => damaged(format_args!("is cut short or damaged ({})", show_text(&other.to_string()))),
    }
}

/// The tensor `name` with its elements.
pub(super) fn read(name: &str, tensor: &Tensor) -> Result<NamedTensor<'static>> {
    let bytes = || tensor.read().map_err(unreadable);
    // Elements of another width than a byte may lie anywhere among the bytes.
    let data = match tensor.dtype() {
        DType::F32 => TensorData::F32(bytemuck::pod_collect_to_vec(&bytes()?).into()),
        DType::F64 => TensorData::from_f64(&bytemuck::pod_collect_to_vec(&bytes()?)),
        DType::F16 => TensorData::from_f16(&bytemuck::pod_collect_to_vec(&bytes()?)),
        DType::BF16 => TensorData::from_bf16(&bytemuck::pod_collect_to_vec(&bytes()?)),
        DType::I64 => TensorData::I64(bytemuck::pod_collect_to_vec(&bytes()?).into()),
        DType::I32 => TensorData::I32(bytemuck::pod_collect_to_vec(&bytes()?).into()),
        DType::U8 => TensorData::U8(bytes()?.into()),
        other @ (DType::I16 | DType::I8 | DType::U64 | DType::U32 | DType::U16 | DType::Bool) => {
            return Err(unknown_elements(name, format_args!("{other:?}")));
        }
    };
    Ok(NamedTensor { name: name.to_string(), shape: tensor.shape().to_vec(), data })
}
