use std::fs;
use std::io::Cursor;

use serde_json::json;

use super::*;

fn small_file() -> (Vec<NamedTensor<'static>>, Value) {
    let tensors = vec![
        NamedTensor::f32(
            "fc.weight",
            &[3, 2],
            vec![0.5, -0.0, f32::MIN_POSITIVE, f32::NAN, 1e30, f32::INFINITY],
        ),
        NamedTensor::i64("bn1.num_batches_tracked", &[], vec![i64::MIN]),
        NamedTensor {
            name: "seen".into(),
            shape: vec![5],
            data: TensorData::U8(vec![0, 1, 2, 3, 255].into()),
        },
        NamedTensor { name: "labels".into(), shape: vec![1, 2], data: TensorData::I32(vec![-7, 9].into()) },
        NamedTensor::f32("empty", &[0, 4], vec![]),
    ];
    (tensors, json!({ "step": 17, "loss": 0.1, "seed": u64::MAX, "name": "gänse" }))
}

fn bytes_of(tensors: &[NamedTensor], metadata: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors, metadata).unwrap();
    bytes
}

fn parse(bytes: &[u8]) -> std::result::Result<Checkpoint, Damage> {
    read_from(Cursor::new(bytes), bytes.len() as u64)
}

fn message_of(bytes: &[u8]) -> String {
    match parse(bytes) {
        Err(Damage::Format(message)) => message,
        Err(Damage::Io(error)) => panic!("a whole buffer gave an I/O error: {error}"),
        Ok(_) => panic!("the damage was not seen"),
    }
}

/// A file with this header and this many zero bytes after it.
fn file_of(header: &str, num_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + num_bytes, 0);
    bytes
}

#[test]
fn every_bit_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let (tensors, metadata) = small_file();
    write_atomic(&path, &tensors, &metadata).unwrap();
    let read = read(&path).unwrap();
    assert_eq!(read.metadata, metadata);
    assert_eq!(read.tensors.len(), tensors.len());
    for tensor in &tensors {
        let back = read.get(&tensor.name).unwrap();
        assert_eq!(back.shape, tensor.shape);
        assert_eq!(back.data.dtype(), tensor.data.dtype());
        assert_eq!(back.data.as_bytes(), tensor.data.as_bytes(), "{}", tensor.name);
    }
}

#[test]
fn the_same_tensors_give_the_same_bytes_in_any_order() {
    let (mut tensors, metadata) = small_file();
    let bytes = bytes_of(&tensors, &metadata);
    tensors.reverse();
    assert_eq!(bytes_of(&tensors, &metadata), bytes);
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.tensor("fc.weight").unwrap().shape(), [3, 2]);
    assert_eq!(bytes.len() % 4, 1, "only the bytes of `seen` come after the wider elements");
}

#[test]
fn every_truncation_is_named() {
    let (tensors, metadata) = small_file();
    let bytes = bytes_of(&tensors, &metadata);
    for length in 0..bytes.len() {
        let message = message_of(&bytes[..length]);
        assert!(message.contains("restore the file"), "{length}: {message}");
    }
    assert!(message_of(&[]).starts_with("is 0 bytes long"));
    assert!(message_of(&[&bytes[..], b"x"].concat()).contains("where its header promises"));
}

#[test]
fn no_flipped_bit_passes_unseen_and_none_panics() {
    let (tensors, metadata) = small_file();
    let bytes = bytes_of(&tensors, &metadata);
    let whole = parse(&bytes).ok().unwrap();
    let header_end = LENGTH_BYTES as usize + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << bit;
            let outcome = parse(&flipped);
            if let Ok(other) = outcome {
                // Under another key the metadata is that of another program, of which nothing is read.
                assert_eq!(other.metadata, Value::Null, "byte {position} of {header_end}, bit {bit}");
                assert_eq!(format!("{:?}", other.tensors), format!("{:?}", whole.tensors));
            }
        }
    }
}

#[test]
fn a_file_of_an_earlier_version_has_no_checksum_of_its_header() {
    let (_, metadata) = small_file();
    let header = String::from_utf8(bytes_of(&[], &metadata)[LENGTH_BYTES as usize..].to_vec()).unwrap();
    let (before, rest) = header.split_once(r#"\"header_crc32c\":\""#).unwrap();
    let old = format!("{before}{}", &rest[r#"01234567\","#.len()..]);
    assert_eq!(parse(&file_of(&old, 0)).ok().unwrap().metadata, metadata);
}

#[test]
fn damaged_headers_are_named() {
    let tensor = |dtype: &str, shape: &str, from: usize, to: usize| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let overlapping =
        format!(r#"{{"a":{},"b":{}}}"#, tensor("F32", "[2]", 0, 8), tensor("F32", "[2]", 4, 12));
    let cases = [
        (file_of("not json", 0), "header of the file is damaged"),
        (file_of("{}", 9), "holds 9 bytes of tensors where its header promises 0"),
        (file_of(&overlapping, 12), "invalid offset for tensor `b`"),
        (file_of(&format!(r#"{{"a":{}}}"#, tensor("F32", "[3]", 0, 8)), 8), "invalid shape"),
        (file_of(&format!(r#"{{"a":{}}}"#, tensor("F32", "[9223372036854775807,9]", 0, 8)), 8), "overflow"),
        (file_of(&format!(r#"{{"a":{}}}"#, tensor("Q8", "[8]", 0, 8)), 8), "header of the file is damaged"),
        (file_of(r#"{"__metadata__":{"residuum":"{\"crc32c\":-1}"}}"#, 0), "metadata of the file is damaged"),
        (file_of("\u{1}{}", 0), "header of the file is damaged"),
        (vec![0; 40], "header of the file is damaged"),
        (vec![0xff; 40], "cut short or not a safetensors file"),
    ];
    for (bytes, expected) in cases {
        let message = message_of(&bytes);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
    let bools = file_of(&format!(r#"{{"a":{}}}"#, tensor("BOOL", "[8]", 0, 8)), 8);
    assert!(message_of(&bools).contains("tensor `a` has elements of type BOOL"), "{}", message_of(&bools));
}

#[test]
fn other_floats_become_f32() {
    let header = concat!(
        r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"#,
        r#""b":{"dtype":"BF16","shape":[1,1],"data_offsets":[4,6]},"#,
        r#""c":{"dtype":"F64","shape":[2],"data_offsets":[6,22]}}"#
    );
    let mut bytes = file_of(header, 0);
    for bits in [0x3c00_u16, 0xc100, 0xbfc0] {
        bytes.extend(bits.to_le_bytes());
    }
    for double in [0.1_f64, 1e300] {
        bytes.extend(double.to_le_bytes());
    }
    let file = parse(&bytes).ok().unwrap();
    assert_eq!(file.get("c").unwrap().as_f32().unwrap(), [0.1_f32, f32::INFINITY]);
    assert_eq!(file.get("a").unwrap().as_f32().unwrap(), [1.0, -2.5]);
    assert_eq!(file.get("b").unwrap().as_f32().unwrap(), [-1.5]);
    assert_eq!(file.metadata, Value::Null);
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [NamedTensor::f32("a", &[1], vec![1.0]), NamedTensor::f32("a", &[1], vec![2.0])];
    let error = write_atomic(&folder.path().join("x.safetensors"), &tensors, &Value::Null).unwrap_err();
    assert!(error.to_string().contains("two tensors to be written are called `a`"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_file_is_an_io_error_with_its_path() {
    let error = read(Path::new("no/such.safetensors")).unwrap_err();
    assert!(matches!(error, Error::Io { action: "open", .. }), "{error}");
    assert!(error.to_string().contains("no/such.safetensors"));
}

/// Set in the child process of the next test to the file it has to write.
const CHILD_PATH: &str = "RESIDUUM_TEST_FULL_DISK";

/// The operating system itself refuses the write: a child process with a file size limit of 64 KiB replaces a
/// small checkpoint by one of 1 MiB.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_earlier_checkpoint_intact() {
    if let Some(path) = std::env::var_os(CHILD_PATH) {
        let tensors = [NamedTensor::f32("a", &[1 << 18], vec![2.0; 1 << 18])];
        let error = write_atomic(Path::new(&path), &tensors, &Value::Null).unwrap_err();
        println!("refused: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let earlier = [NamedTensor::f32("a", &[2], vec![1.0, 2.0])];
    write_atomic(&path, &earlier, &json!(1)).unwrap();

    // Signal 25 (SIGXFSZ) must be ignored for the limit to show up as a failed write.
    let this_test = "run::checkpoint::tests::a_full_disk_leaves_the_earlier_checkpoint_intact";
    let child = std::process::Command::new("sh")
        .args(["-c", "trap '' 25; ulimit -f 64; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(this_test)
        .env(CHILD_PATH, &path)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{printed}");
    assert!(printed.contains("last.safetensors: cannot be written"), "{printed}");
    assert!(printed.contains("Make room for 1.00 MiB"), "{printed}");

    assert_eq!(read(&path).unwrap().tensors, earlier);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is removed");
}

#[test]
fn tensors_that_nobody_wants_are_passed_over_and_count_for_the_checksum() {
    let (tensors, metadata) = small_file();
    let mut bytes = bytes_of(&tensors, &metadata);
    let read = |bytes: &[u8]| {
        let mut reader = Reader::new(Cursor::new(bytes), bytes.len() as u64).ok().unwrap();
        reader.read(|name| name == "labels" || name == "seen")
    };
    let names: Vec<String> = read(&bytes).ok().unwrap().into_iter().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["labels", "seen"]);
    // The first tensor in the file is another one.
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[LENGTH_BYTES as usize + header_bytes] ^= 1;
    assert!(
        matches!(read(&bytes), Err(Damage::Format(what)) if what.contains("do not match their checksum"))
    );

    let header = concat!(
        r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"#,
        r#""b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#
    );
    let mut foreign = file_of(header, 8);
    let end = foreign.len();
    foreign[end - 4..].copy_from_slice(&2.5_f32.to_le_bytes());
    let mut reader = Reader::new(Cursor::new(&foreign), end as u64).ok().unwrap();
    let read = reader.read(|name| name == "b").ok().unwrap();
    assert_eq!(read[0].as_f32().unwrap(), [2.5]);
}
