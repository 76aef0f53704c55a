//! A folder per class, as people have them: folders by other names, what lies about, links.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use image::{Rgb, RgbImage};
use residuum::data::check::{Fault, check};
use residuum::data::{self, Dataset, OpenOptions, Split};
use residuum::{Error, Result};
use tempfile::TempDir;

/// A tree with these images; the folder of each is made.
fn tree(paths: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    paths.iter().for_each(|path| add(dir.path(), path));
    dir
}

fn add(root: &Path, path: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let shade = path.as_os_str().len() as u8;
    let image = RgbImage::from_pixel(4, 4, Rgb([shade, 7, 9]));
    image.save_with_format(path, image::ImageFormat::Png).unwrap();
}

fn write(root: &Path, path: &str, text: &str) {
    fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
    fs::write(root.join(path), text).unwrap();
}

fn open(root: &Path) -> Result<Dataset> {
    data::open(root, &OpenOptions::default())
}

fn names(dataset: &Dataset, split: Split) -> Vec<&str> {
    dataset.samples(split).iter().map(|sample| sample.path.to_str().unwrap()).collect()
}

#[track_caller]
fn fails(root: &Path, parts: &[&str]) {
    let error = open(root).unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
}

/// Both ways to look at a tree say this of it.
#[track_caller]
fn remarks(root: &Path, expected: &[&str]) {
    let dataset = open(root).unwrap();
    assert_eq!(dataset.remarks().len(), expected.len(), "{:?}", dataset.remarks());
    for (remark, part) in dataset.remarks().iter().zip(expected) {
        assert!(remark.contains(part), "`{part}` is not in: {remark}");
    }
}

#[test]
fn validation_images_are_found_under_each_usual_name() {
    for name in ["val", "valid", "validation", "test"] {
        let val = |path: &str| format!("{name}/{path}");
        let dir = tree(&["train/cat/1.png", "train/dog/1.png", &val("cat/1.png"), &val("dog/2.png")]);
        let dataset = open(dir.path()).unwrap();
        assert_eq!(names(&dataset, Split::Val), [val("cat/1.png"), val("dog/2.png")]);
        assert!(dataset.samples(Split::Test).is_empty());
        let expected = [format!("validation images: those in {name}/")];
        let expected: Vec<&str> = expected.iter().map(String::as_str).filter(|_| name != "val").collect();
        remarks(dir.path(), &expected);
        let audit = check(dir.path()).unwrap();
        assert_eq!((audit.splits[1].usable, audit.num_stopping()), (2, 0), "{:?}", audit.faults);
        assert_eq!(audit.remarks, dataset.remarks());
    }
}

#[test]
fn without_one_folder_of_validation_images_the_message_says_what_is_there() {
    let dir = tree(&["train/cat/1.png", "dev/cat/1.png", "test/1.png"]);
    fails(dir.path(), &["looked for val, valid, validation", "found dev, test, train"]);
    assert!(check(dir.path()).unwrap().faults[&Fault::List][0].contains("found dev, test, train"));
    add(dir.path(), "val/cat/1.png");
    assert_eq!(names(&open(dir.path()).unwrap(), Split::Test), ["test/1.png"]);
    add(dir.path(), "valid/cat/1.png");
    fails(dir.path(), &["more than one", "val, valid", "leave one"]);
    let dir = tree(&["cat/1.png", "dog/1.png"]);
    fails(dir.path(), &["not a data set", "train/<class>", "found the folders cat, dog"]);
}

#[test]
fn what_is_left_out_is_counted_by_name_and_litter_is_not() {
    let dir = tree(&["train/cat/1.png", "train/cat/2.webp", "val/cat/1.jfif"]);
    for path in ["train/cat/3.heic", "train/cat/4.HEIC", "train/notes.txt", "val/cat/README"] {
        write(dir.path(), path, "x");
    }
    for litter in [
        "train/@eaDir/cat@SynoEAStream",
        "train/cat/@eaDir/1.png",
        "train/__MACOSX/._cat",
        "train/cat/.DS_Store",
        "val/cat/Thumbs.db",
        "train/.ipynb_checkpoints/1.png",
    ] {
        write(dir.path(), litter, "x");
    }
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.categories(), ["cat"]);
    assert_eq!(names(&dataset, Split::Train), ["train/cat/1.png", "train/cat/2.webp"]);
    let left_out = "4 left out that are no images this program reads: 2 .heic, 1 .txt, 1 without extension";
    remarks(dir.path(), &[left_out, "one category"]);
    let audit = check(dir.path()).unwrap();
    let places = ["train/cat/3.heic", "train/cat/4.HEIC", "train/notes.txt", "val/cat/README"];
    let mut found = audit.faults[&Fault::LeftOut].clone();
    found.sort_unstable();
    assert_eq!(found, places);
}

#[test]
fn images_in_subfolders_belong_to_their_class() {
    let dir = tree(&[
        "train/cat/1.png",
        "train/cat/old/a/2.png",
        "train/dog/x.png/3.png",
        "val/cat/b/1.png",
        "test/c/1.png",
    ]);
    let dataset = open(dir.path()).unwrap();
    let train = ["train/cat/1.png", "train/cat/old/a/2.png", "train/dog/x.png/3.png"];
    assert_eq!(names(&dataset, Split::Train), train);
    assert_eq!(dataset.samples(Split::Train)[2].label, Some(1));
    assert_eq!(
        (names(&dataset, Split::Val), names(&dataset, Split::Test)),
        (vec!["val/cat/b/1.png"], vec!["test/c/1.png"])
    );
    remarks(dir.path(), &["3 images in subfolders of classes belong to the class: train/cat/old/a/2.png"]);
    let audit = check(dir.path()).unwrap();
    assert_eq!(audit.splits.map(|split| split.usable), [3, 1, 1]);
    assert!(!audit.faults.contains_key(&Fault::NotListed), "{:?}", audit.faults);
}

#[test]
fn a_stray_list_does_not_make_a_tree_of_classes_a_miniplaces() {
    let dir = tree(&["train/cat/1.png", "train/dog/1.png", "val/cat/1.png"]);
    write(dir.path(), "train.txt", "cat/1.png 0\n");
    assert_eq!(open(dir.path()).unwrap().format(), "folder per class");
    remarks(dir.path(), &["not read, since the folders decide: train.txt"]);
    assert_eq!(check(dir.path()).unwrap().format, "folder per class");
}

#[test]
fn an_empty_class_is_an_error_that_says_what_lies_there() {
    let dir = tree(&["train/cat/1.png", "val/cat/1.png"]);
    write(dir.path(), "train/emu/1.heic", "x");
    fails(dir.path(), &["train/emu: the class folder has no images", "1 .heic", "add some, or remove it"]);
    let audit = check(dir.path()).unwrap();
    assert!(audit.faults[&Fault::List][0].contains("1 .heic"), "{:?}", audit.faults);
}

#[test]
fn links_that_lead_round_or_nowhere_are_named() {
    let dir = tree(&["train/cat/1.png", "val/cat/1.png"]);
    symlink("..", dir.path().join("train/cat/up")).unwrap();
    fails(dir.path(), &["train/cat/up", "is a link to a folder that it lies in"]);
    assert!(check(dir.path()).unwrap().faults[&Fault::List][0].contains("train/cat/up"));
    fs::remove_file(dir.path().join("train/cat/up")).unwrap();
    symlink("nothing.png", dir.path().join("train/cat/2.png")).unwrap();
    symlink("3.png", dir.path().join("train/cat/3.png")).unwrap();
    fails(dir.path(), &["2 of the listed images are missing", "train/cat/2.png, train/cat/3.png"]);
    let options = OpenOptions { allow_missing: true, ..OpenOptions::default() };
    let dataset = data::open(dir.path(), &options).unwrap();
    assert_eq!(names(&dataset, Split::Train), ["train/cat/1.png"]);
    assert_eq!(dataset.remarks()[0], "2 listed images left out that are missing");
}

#[test]
fn a_pipe_among_the_images_is_left_out_by_name() {
    let dir = tree(&["train/cat/1.png", "train/dog/1.png", "val/cat/1.png"]);
    let pipe = dir.path().join("train/cat/2.jpg");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    remarks(dir.path(), &["1 no file (train/cat/2.jpg)"]);
    assert_eq!(check(dir.path()).unwrap().faults[&Fault::LeftOut], ["train/cat/2.jpg"]);
}
