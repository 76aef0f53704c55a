//! What others wrote, read: the inputs in the folders next to this file, and thousands that are made of them.
//!
//! `scripts/fuzz.sh` gives the same readers to a fuzzer.

mod readers;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use readers::{READERS, reader};
use residuum::rng::{Stream, Use};
use tempfile::TempDir;

/// Where the inputs of the reader `name` are.
fn folder_of(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    // What PyTorch wrote is stored once.
    if name == "pickle" { tests.join("golden/torch") } else { tests.join("corpora").join(name) }
}

fn inputs_of(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder_of(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    let inputs: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!inputs.is_empty(), "{name} has no inputs");
    inputs
}

/// `input` with bytes changed, taken out, put in twice, or cut off, as `random` has it.
fn variant(input: &[u8], random: &mut Stream) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(3) {
        let place = |random: &mut Stream, bytes: &[u8]| random.below(bytes.len() as u32 + 1) as usize;
        let (a, b) = (place(random, &bytes), place(random, &bytes));
        let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 16));
        match random.below(5) {
            0 => bytes.truncate(from),
            1 => drop(bytes.drain(from..to)),
            2 => bytes.extend_from_within(from..to),
            3 => bytes[from..to].iter_mut().for_each(|byte| *byte = 0xff),
            _ => bytes[from..to].iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        }
    }
    bytes
}

/// Gives the reader `name` its inputs, and so many made of each. A panic of it ends the test.
#[track_caller]
fn read_all_of(name: &str, num_variants: u32) {
    let folder = TempDir::new().unwrap();
    for (index, input) in inputs_of(name).iter().enumerate() {
        reader(name)(folder.path(), input);
        let mut random = Stream::new(7, 0, index as u32, Use::Shuffle);
        for _ in 0..num_variants {
            reader(name)(folder.path(), &variant(input, &mut random));
        }
    }
}

#[test]
fn text_of_others_ends_with_a_value_or_an_error() {
    for name in ["annotations", "config", "lists", "metrics", "predictions", "recipe"] {
        read_all_of(name, 60);
    }
}

#[test]
fn weights_of_others_end_with_a_value_or_an_error() {
    for name in ["card", "pickle", "safetensors", "state"] {
        read_all_of(name, 60);
    }
}

#[test]
fn photos_of_others_end_with_pixels_or_an_error() {
    read_all_of("images", 60);
}

#[test]
fn a_pack_gives_what_was_packed_whatever_became_of_its_file() {
    // Each that is made again is told of on stderr.
    read_all_of("pack", 4);
}

#[test]
fn every_reader_is_fuzzed() {
    let targets = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets"));
    // The package has no fuzz folder.
    let Ok(targets) = targets else { return };
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_string();
    let targets: BTreeSet<String> = targets.map(|entry| stem(entry.unwrap().path())).collect();
    assert_eq!(targets, READERS.map(|(name, _)| name.to_string()).into());
}
