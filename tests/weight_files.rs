//! Files of weights as others write them: every form of `torch.save`, several files with an index, and what is none of these.

use std::fs;
use std::path::{Path, PathBuf};

use residuum::run::checkpoint::{self, NamedTensor, TensorData};
use residuum::run::weight_file::WeightFile;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What `tests/golden/torch_files.py` wrote.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch").join(name)
}

/// The tensors that all of those files hold.
fn expected() -> [NamedTensor<'static>; 3] {
    let quarters: Vec<f32> = (0..24).map(|i| i as f32 / 4.0 - 1.0).collect();
    [
        NamedTensor::i64("bn.num_batches_tracked", &[], vec![7]),
        NamedTensor::f32("bn.running_var", &[3], vec![1.0, 2.0, 3.0]),
        NamedTensor::f32("conv.weight", &[2, 3, 2, 2], quarters),
    ]
}

fn read_all(path: &Path) -> residuum::error::Result<Vec<NamedTensor<'static>>> {
    WeightFile::open(path)?.read(&|_| true)
}

/// The tensors under `prefix`, without it.
fn read_under(path: &Path, prefix: &str) -> Vec<NamedTensor<'static>> {
    let mut tensors = WeightFile::open(path).unwrap().read(&|name| name.starts_with(prefix)).unwrap();
    tensors.iter_mut().for_each(|tensor| drop(tensor.name.drain(..prefix.len())));
    tensors
}

#[track_caller]
fn refused(path: &Path, parts: &[&str]) {
    let error = WeightFile::open(path).unwrap_err();
    assert_eq!(error.exit_code(), 1, "{error}");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "does not say `{part}`: {message}");
    }
    assert!(message.starts_with(&*path.to_string_lossy()), "{message}");
}

#[test]
fn every_form_of_torch_save_holds_the_same_numbers() {
    let forms = [
        "zip.pth",
        "protocol_4.pth",
        "legacy.pth",
        "legacy_protocol_4.pth",
        "legacy_strided.pth",
        "half.pth",
        "bfloat16.pth",
        "double.pth",
        "strided.pth",
        "parameters.pth",
        "compressed.pth",
        "without_checksums.pth",
    ];
    for form in forms {
        assert_eq!(read_all(&golden(form)).unwrap(), expected(), "{form}");
    }
    assert_eq!(read_under(&golden("checkpoint.pth"), "state_dict.conv"), without("conv", &expected()[2..]));
}

fn without(prefix: &str, tensors: &[NamedTensor<'static>]) -> Vec<NamedTensor<'static>> {
    let strip = |tensor: &NamedTensor<'static>| NamedTensor {
        name: tensor.name.strip_prefix(prefix).unwrap().to_string(),
        ..tensor.clone()
    };
    tensors.iter().map(strip).collect()
}

#[test]
fn a_whole_module_and_a_whole_checkpoint_have_the_names_of_the_state_dict() {
    let names = |file: &str| -> Vec<String> {
        let file = WeightFile::open(&golden(file)).unwrap();
        file.tensors().iter().map(|listed| listed.name.clone()).collect()
    };
    let all = ["bn.num_batches_tracked", "bn.running_mean", "bn.running_var", "conv.weight"];
    assert_eq!(names("module.pth"), all);
    let mut nested: Vec<String> = all.iter().map(|name| format!("state_dict.{name}")).collect();
    nested.insert(0, "optimizer.state.0.momentum_buffer".into());
    assert_eq!(names("checkpoint.pth"), nested);
    for (file, prefix) in [("module.pth", ""), ("checkpoint.pth", "state_dict.")] {
        let tensors = read_under(&golden(file), prefix);
        for tensor in expected() {
            let found = tensors.iter().find(|found| found.name == tensor.name).unwrap();
            // `load_state_dict` of the module counts in its own tensor.
            assert_eq!(*found, tensor, "{file}");
        }
    }
}

#[test]
fn tensors_may_share_their_numbers() {
    let tensors = read_all(&golden("tied.pth")).unwrap();
    let of = |name: &str| tensors.iter().find(|tensor| tensor.name == name).unwrap();
    assert_eq!(of("tied.weight").data, of("conv.weight").data);
    assert_eq!(of("tied.first").shape, [3, 2, 2]);
    assert_eq!(of("tied.first").as_f32().unwrap(), &of("conv.weight").as_f32().unwrap()[..12]);
}

#[test]
fn only_what_is_wanted_is_read() {
    let mut file = WeightFile::open(&golden("zip.pth")).unwrap();
    let read = file.read(&|name| name == "bn.running_var").unwrap();
    assert_eq!(read, expected()[1..2]);
    // One of these has elements that cannot be read; it is listed all the same.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mixed.safetensors");
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"BOOL","shape":[4],"data_offsets":[4,8]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 8]);
    fs::write(&path, bytes).unwrap();
    let mut file = WeightFile::open(&path).unwrap();
    assert_eq!(file.read(&|name| name == "a").unwrap().len(), 1);
    let error = file.read(&|_| true).unwrap_err().to_string();
    assert!(error.contains("`b` has elements of type BOOL"), "{error}");
}

#[test]
fn pickles_that_hold_more_than_tensors_by_name_say_how_to_save_them() {
    let state = "torch.save(model.state_dict()";
    refused(&golden("optimiser_object.pth"), &["class of its own, such as a defaultdict", state]);
    refused(&golden("sparse.pth"), &["`torch._utils._rebuild_sparse_tensor`", state]);
    refused(&golden("complex.pth"), &["ComplexFloatStorage", state]);
    refused(&golden("list.pth"), &["`list`", "not tensors by name", state]);
    refused(&golden("without_tensors.pth"), &["without tensors", state]);
    refused(&golden("script.pt"), &["TorchScript", "torch.jit.load"]);
    refused(&golden("big_endian.pth"), &["big-endian", "torch.load"]);
    refused(&golden("arrays.npz"), &["zip archive that torch.save did not write", "`weight.npy`"]);
}

#[test]
fn nothing_that_a_pickle_calls_is_run() {
    let folder = TempDir::new().unwrap();
    let (path, touched) = (folder.path().join("weights.pth"), folder.path().join("touched"));
    // {"a": posix.system("touch ...")}
    let command = format!("touch {}", touched.display());
    let mut bytes = b"\x80\x02}X\x01\0\0\0acposix\nsystem\nX".to_vec();
    bytes.extend((command.len() as u32).to_le_bytes());
    bytes.extend(command.as_bytes());
    bytes.extend(b"\x85Rs.");
    fs::write(&path, bytes).unwrap();
    refused(&path, &["without tensors"]);
    assert!(!touched.exists());
}

#[test]
fn files_that_are_no_weights_are_called_by_their_names() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights.pth");
    let tar = [&[0; 257][..], b"ustar\0", &[0; 300]].concat();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n";
    let cases: [(&[u8], &[&str]); 18] = [
        (b"", &["is empty", "download it again"]),
        (pointer, &["Git LFS", "git lfs pull"]),
        (b"\x1f\x8b\x08\0\0", &["gzip", "gunzip"]),
        (b"BZh91AY", &["bzip2"]),
        (b"\xfd7zXZ\0\0", &["by xz"]),
        (b"\x28\xb5\x2f\xfd\0", &["zstd"]),
        (&tar, &["tar archive", "unpack it"]),
        (b"7z\xbc\xaf\x27\x1c\0", &["7z archive"]),
        (b"Rar!\x1a\x07", &["RAR archive"]),
        (b"\x89HDF\r\n\x1a\n", &["HDF5", "Keras"]),
        (b"\x93NUMPY\x01\0", &["numpy"]),
        (b"GGUF\x03\0\0\0", &["GGUF"]),
        (b"\r\n <!DOCTYPE html><html>", &["web page", "address of the file"]),
        (b"{\"model_type\": \"resnet\"}", &["JSON", "index", "weight_map"]),
        (b"epoch loss\n", &["neither a safetensors file", "`epoch loss\\n`"]),
        (b"\x1b[2Jxxxxxxxxxxxxxxxxxxxxxx", &["\\u{1b}[2J"]),
        (b"PK\x03\x04", &["zip archive", "cut short or damaged", "download it again"]),
        (b"\x80\x02}q\0.", &["without tensors"]),
    ];
    for (bytes, parts) in cases {
        fs::write(&path, bytes).unwrap();
        refused(&path, parts);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused(&path, &["is a folder"]);
}

#[test]
fn every_cut_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights.pth");
    for form in ["zip.pth", "legacy.pth", "checkpoint.pth", "compressed.pth"] {
        let bytes = fs::read(golden(form)).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let error = read_all(&path).unwrap_err().to_string();
            assert!(error.starts_with(&*path.to_string_lossy()), "{error}");
        }
    }
}

#[test]
fn no_flipped_bit_changes_a_number_of_an_archive_and_none_panics() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights.pth");
    for form in ["zip.pth", "compressed.pth", "legacy.pth", "module.pth"] {
        let bytes = fs::read(golden(form)).unwrap();
        let whole = read_all(&golden(form)).unwrap();
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << (position % 8);
            fs::write(&path, &flipped).unwrap();
            // The pickles of before PyTorch 1.6 have no checksum.
            if let Ok(tensors) = read_all(&path)
                && form != "legacy.pth"
            {
                assert_eq!(tensors, whole, "{form}: byte {position}");
            }
        }
    }
}

#[test]
fn a_small_file_takes_little_memory_whatever_it_promises() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights.pth");
    // A string of 2^62 bytes, and a file of two million objects.
    fs::write(&path, b"\x80\x04}\x8e\0\0\0\0\0\0\0\x40").unwrap();
    refused(&path, &["more next to its tensors", "torch.save"]);
    fs::write(&path, [b"\x80\x02".to_vec(), vec![b'N'; 3_000_000]].concat()).unwrap();
    refused(&path, &["more next to its tensors"]);
}

/// Two files of weights with their index; the names of each.
fn sharded(folder: &Path) -> (PathBuf, Value) {
    let [count, variance, weight] = expected();
    let write = |name: &str, tensors: &[NamedTensor]| {
        checkpoint::write_atomic(&folder.join(name), tensors, &Value::Null).unwrap();
    };
    write("model-00001-of-00002.safetensors", &[weight]);
    write("model-00002-of-00002.safetensors", &[count, variance]);
    let index = json!({
        "metadata": { "total_size": 116 },
        "weight_map": {
            "conv.weight": "model-00001-of-00002.safetensors",
            "bn.running_var": "model-00002-of-00002.safetensors",
            "bn.num_batches_tracked": "model-00002-of-00002.safetensors",
        }
    });
    let path = folder.join("model.safetensors.index.json");
    fs::write(&path, index.to_string()).unwrap();
    (path, index)
}

#[test]
fn weights_in_several_files_are_read_by_their_index() {
    let folder = TempDir::new().unwrap();
    let (path, mut index) = sharded(folder.path());
    let mut tensors = read_all(&path).unwrap();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(tensors, expected());
    // Files of torch.save have the same kind of index.
    fs::copy(golden("zip.pth"), folder.path().join("pytorch_model.bin")).unwrap();
    for file in index["weight_map"].as_object_mut().unwrap().values_mut() {
        *file = "pytorch_model.bin".into();
    }
    fs::write(&path, format!("\u{feff} {index}")).unwrap();
    assert_eq!(read_all(&path).unwrap(), expected());
}

#[test]
fn an_index_that_does_not_fit_its_files_is_refused() {
    let folder = TempDir::new().unwrap();
    let (path, index) = sharded(folder.path());
    let says = |name: &str, file: &str| {
        let mut index = index.clone();
        index["weight_map"][name] = file.into();
        fs::write(&path, index.to_string()).unwrap();
        WeightFile::open(&path).unwrap_err().to_string()
    };
    for outside in ["../secret.safetensors", "/etc/passwd", "..", "", "a/b.safetensors"] {
        let message = says("conv.weight", outside);
        assert!(message.contains("no file in its own folder"), "{outside}: {message}");
    }
    let message = says("fc.bias", "model-00001-of-00002.safetensors");
    assert!(message.contains("00001-of-00002.safetensors: has no tensor `fc.bias`"), "{message}");
    let message = says("bn.running_var", "model-00001-of-00002.safetensors");
    assert!(message.contains("has no tensor `bn.running_var`"), "{message}");
    let message = says("conv.weight", "model-00003-of-00003.safetensors");
    assert!(message.contains("one is not there") && message.contains("00003-of-00003"), "{message}");
    let message = says("conv.weight", "model.safetensors.index.json");
    assert!(message.contains("is an index itself"), "{message}");
    let mut fewer = index.clone();
    fewer["weight_map"].as_object_mut().unwrap().remove("bn.running_var");
    fs::write(&path, fewer.to_string()).unwrap();
    let message = WeightFile::open(&path).unwrap_err().to_string();
    assert!(message.contains("00002-of-00002.safetensors: has a tensor `bn.running_var`"), "{message}");
}

#[test]
fn counters_stay_integers() {
    let tensors = read_all(&golden("half.pth")).unwrap();
    assert!(matches!(&tensors[0].data, TensorData::I64(count) if **count == [7]));
}
