//! Data from disk to pack: every kind of bad input.

#[path = "common/image_files.rs"]
mod image_files;
#[path = "common/small_miniplaces.rs"]
mod small_miniplaces;

use std::fs;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use image_files::{all_pixels, assert_mentions, data_error, gradient, open, save};
use residuum::Error;
use residuum::data::objects::Annotation;
use residuum::data::scenes::{self, SceneOptions};
use residuum::data::{self, OpenOptions, Pack, Split, miniplaces};
use small_miniplaces::{ALLOW_MISSING, edit, small_miniplaces};
use tempfile::TempDir;

// Lists and folders.

#[test]
fn generated_scenes_on_disk_open_as_miniplaces() {
    let dir = small_miniplaces();
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.format(), "miniplaces");
    assert_eq!(dataset.categories(), scenes::CATEGORIES);
    assert_eq!((dataset.samples(Split::Train).len(), dataset.samples(Split::Val).len()), (40, 20));
    assert_eq!(dataset.samples(Split::Train)[13].path, Path::new("train/d/desert/00000002.jpg"));
    assert_eq!(dataset.samples(Split::Train)[13].label, Some(3));
    let names = miniplaces::read_categories(&dir.path().join("object_categories.txt")).unwrap();
    assert_eq!(names, scenes::OBJECT_CATEGORIES);
    for sample in dataset.samples(Split::Val) {
        let annotation = Annotation::read(&miniplaces::annotation_path(dir.path(), &sample.path)).unwrap();
        assert_eq!(Some(annotation.scene), sample.label);
        assert_eq!(names[annotation.objects[0].class as usize], "sky");
        // The sky fills the image: 1-based pixels from 1 to the size.
        assert_eq!(annotation.objects[0].polygon, [(1.0, 1.0), (24.0, 1.0), (24.0, 24.0), (1.0, 24.0)]);
    }
}

#[test]
fn written_and_rendered_scenes_are_the_same_images() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let from_disk = Pack::open_or_build(&open(dir.path()).unwrap(), Split::Val, 24, cache.path()).unwrap();
    let options =
        SceneOptions { split: Split::Val, num_images: 20, num_categories: 10, image_size: 24, seed: 7 };
    let in_memory = Pack::from_scenes(&options);
    assert_eq!(from_disk.len(), in_memory.len());
    for (index, (read, drawn)) in all_pixels(&from_disk).iter().zip(all_pixels(&in_memory)).enumerate() {
        assert_eq!(from_disk.label(index), in_memory.label(index));
        let pairs = read.iter().zip(&drawn);
        let mean_difference =
            pairs.map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / (24.0 * 24.0 * 3.0);
        assert!(mean_difference < 8.0, "image {index} differs by {mean_difference} a value");
    }
}

#[test]
fn options_keep_the_first_categories_and_spread_a_limit() {
    let dir = small_miniplaces();
    let options = OpenOptions { categories: Some(4), limit_train: Some(6), ..OpenOptions::default() };
    let dataset = data::open(dir.path(), &options).unwrap();
    assert_eq!(dataset.categories(), &scenes::CATEGORIES[..4]);
    let labels: Vec<u32> = dataset.samples(Split::Train).iter().filter_map(|sample| sample.label).collect();
    assert_eq!(labels, [0, 1, 2, 3, 0, 1]);
    assert_eq!(dataset.samples(Split::Val).len(), 8);
    for categories in [0, 11] {
        let options = OpenOptions { categories: Some(categories), ..OpenOptions::default() };
        let error = data::open(dir.path(), &options).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
}

#[test]
fn a_missing_list_is_named() {
    for list in ["train.txt", "val.txt", "categories.txt"] {
        let dir = small_miniplaces();
        fs::remove_file(dir.path().join(list)).unwrap();
        assert_mentions(&data_error(open(dir.path())), &[list, "no such file", "train.txt and val.txt"]);
    }
}

#[test]
fn listed_images_that_are_missing_are_counted_and_named() {
    let dir = small_miniplaces();
    for number in 1..=4 {
        fs::remove_file(dir.path().join(format!("images/train/d/desert/0000000{number}.jpg"))).unwrap();
        fs::remove_file(dir.path().join(format!("images/val/0000000{number}.jpg"))).unwrap();
    }
    let message = data_error(open(dir.path()));
    assert_mentions(
        &message,
        &["8 of the listed images", "train/d/desert/00000001.jpg", "...", "--allow-missing"],
    );
    let dataset = data::open(dir.path(), &ALLOW_MISSING).unwrap();
    assert_eq!((dataset.samples(Split::Train).len(), dataset.samples(Split::Val).len()), (36, 16));
    assert_eq!(dataset.missing().len(), 8);
}

#[test]
fn bad_lines_are_named_by_file_and_line() {
    let cases = [
        ("train.txt", "00000001.jpg 2\n", "00000001.jpg 10\n", "line 3: label 10 is out of range"),
        ("val.txt", "00000002.jpg 1\n", "00000002.jpg -1\n", "line 2: expected `path label`"),
        ("val.txt", "val/00000002.jpg 1\n", "val/00000002.jpg\n", "line 2: expected `path label`"),
        ("train.txt", "train/b/beach", "train/../../beach", "line 1: the path must stay below images/"),
        ("train.txt", "train/b/beach", "/etc/beach", "line 1: the path must stay below images/"),
        ("categories.txt", "bridge 1", "bridge 0", "line 2: index 0 is already that of `beach`"),
        ("categories.txt", "windmill 9", "windmill 12", "none has index 9"),
        ("categories.txt", "/b/bridge 1", "/a/beach 1", "line 2: `beach` is already the name of index 0"),
    ];
    for (list, from, to, expected) in cases {
        let dir = small_miniplaces();
        let path = dir.path().join(list);
        edit(&path, from, to);
        assert_mentions(&data_error(open(dir.path())), &[list, expected]);
    }
}

#[test]
fn lists_with_a_byte_order_mark_are_read_as_without() {
    let dir = small_miniplaces();
    let lists = ["train.txt", "val.txt", "categories.txt", "object_categories.txt"];
    for list in lists {
        let path = dir.path().join(list);
        let text = fs::read(&path).unwrap();
        fs::write(&path, [b"\xEF\xBB\xBF".to_vec(), text].concat()).unwrap();
    }
    // With the mark in its name, the first image of each list would be left out.
    let dataset = data::open(dir.path(), &ALLOW_MISSING).unwrap();
    assert_eq!(dataset.categories(), scenes::CATEGORIES);
    assert_eq!((dataset.samples(Split::Train).len(), dataset.samples(Split::Val).len()), (40, 20));
    assert_eq!(data::check::check(dir.path()).unwrap().num_stopping(), 0);
    for list in lists {
        let utf16 = dir.path().join(list);
        fs::write(&utf16, b"\xFF\xFEa\0 \x000\0\n\0").unwrap();
        assert_mentions(
            &data_error(miniplaces::read_categories(&utf16)),
            &[list, "UTF-16; save it in UTF-8"],
        );
    }
}

#[test]
fn what_lists_say_is_quoted_without_control_characters_and_not_at_length() {
    let dir = small_miniplaces();
    let long = "x".repeat(5 << 20);
    for (list, line) in [
        ("train.txt", format!("{long}\x1b]0;title\x07 y")),
        ("train.txt", format!("\x1b[31m{long}.jpg 0")),
        ("categories.txt", format!("\x1b[31m{long}")),
    ] {
        let text = fs::read_to_string(dir.path().join(list)).unwrap();
        fs::write(dir.path().join(list), format!("{line}\n")).unwrap();
        let message = data_error(open(dir.path()));
        assert!(message.len() < 800 && !message.contains('\x1b'), "{} bytes", message.len());
        fs::write(dir.path().join(list), text).unwrap();
    }
}

#[test]
fn folders_that_are_no_data_set_say_what_was_looked_for() {
    let dir = TempDir::new().unwrap();
    assert_mentions(&data_error(open(dir.path())), &["train.txt", "train/<class>/*.jpg"]);
    assert_mentions(&data_error(open(&dir.path().join("nowhere"))), &["nowhere", "no such folder"]);
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_mentions(&data_error(open(&file)), &["is a file"]);
}

#[test]
fn a_file_where_a_folder_belongs_is_an_error() {
    let dir = small_miniplaces();
    fs::remove_dir_all(dir.path().join("images")).unwrap();
    fs::write(dir.path().join("images"), "x").unwrap();
    assert_mentions(&data_error(open(dir.path())), &["60 of the listed images"]);

    let dir = TempDir::new().unwrap();
    save(gradient(8, 8), &dir.path().join("train/cat/1.jpg"), ImageFormat::Jpeg);
    fs::write(dir.path().join("val"), "x").unwrap();
    assert_mentions(&data_error(open(dir.path())), &["val", "cannot read the folder"]);
}

#[test]
fn empty_lists_are_an_error() {
    for list in ["train.txt", "val.txt", "categories.txt"] {
        let dir = small_miniplaces();
        fs::write(dir.path().join(list), "\n").unwrap();
        let message = data_error(open(dir.path()));
        assert!(message.contains("no images") || message.contains("no category"), "{message}");
    }
}

#[test]
fn a_test_folder_is_an_unlabelled_split_in_order_of_names() {
    let dir = small_miniplaces();
    for name in ["00000002.jpg", "00000010.jpg", "00000001.jpg"] {
        save(gradient(8, 8), &dir.path().join("images/test").join(name), ImageFormat::Jpeg);
    }
    let dataset = open(dir.path()).unwrap();
    let names: Vec<&str> = dataset.samples(Split::Test).iter().map(|s| s.path.to_str().unwrap()).collect();
    assert_eq!(names, ["test/00000001.jpg", "test/00000002.jpg", "test/00000010.jpg"]);
    let cache = TempDir::new().unwrap();
    let pack = Pack::open_or_build(&dataset, Split::Test, 8, cache.path()).unwrap();
    assert_eq!(pack.label(0), None);
}

#[test]
fn a_folder_per_class_opens_in_order_of_names() {
    let dir = TempDir::new().unwrap();
    for path in ["train/dog/b.PNG", "train/dog/a.jpg", "train/cat/1.jpeg", "val/dog/x.jpg"] {
        let format = if path.ends_with("PNG") { ImageFormat::Png } else { ImageFormat::Jpeg };
        save(gradient(9, 8), &dir.path().join(path), format);
    }
    fs::write(dir.path().join("train/dog/notes.txt"), "not an image").unwrap();
    fs::create_dir(dir.path().join("train/.hidden")).unwrap();
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.categories(), ["cat", "dog"]);
    let train: Vec<_> =
        dataset.samples(Split::Train).iter().map(|s| (s.path.to_str().unwrap(), s.label.unwrap())).collect();
    assert_eq!(train, [("train/cat/1.jpeg", 0), ("train/dog/a.jpg", 1), ("train/dog/b.PNG", 1)]);
    assert_eq!(dataset.samples(Split::Val)[0].label, Some(1));

    fs::create_dir(dir.path().join("train/emu")).unwrap();
    assert_mentions(&data_error(open(dir.path())), &["emu", "has no images (.jpg"]);
    fs::remove_dir(dir.path().join("train/emu")).unwrap();
    save(gradient(8, 8), &dir.path().join("val/yak/1.jpg"), ImageFormat::Jpeg);
    assert_mentions(&data_error(open(dir.path())), &["val/yak", "no class of this name"]);
}

// The real photos.

/// The MiniPlaces folder, or `None` with a note where there is none.
fn real_miniplaces() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/miniplaces");
    let root = std::env::var_os("MINIPLACES").map_or(beside, PathBuf::from);
    if !root.join("train.txt").exists() {
        eprintln!("skipped: no MiniPlaces photos");
        return None;
    }
    Some(root)
}

#[test]
fn the_real_photos_open_and_decode() {
    let Some(root) = real_miniplaces() else { return };
    let dataset = open(&root).unwrap();
    assert_eq!(dataset.categories().len(), 100);
    assert_eq!(dataset.categories()[10], "bakery/shop");
    assert_eq!((dataset.samples(Split::Train).len(), dataset.samples(Split::Val).len()), (5774, 2299));
    let cache = TempDir::new().unwrap();
    let pack = Pack::open_or_build(&dataset, Split::Val, 128, cache.path()).unwrap();
    assert_eq!(pack.len(), 2299);
    // At their own size, photos are packed as they are.
    let photo = image::open(dataset.image_path(&dataset.samples(Split::Val)[1000])).unwrap().into_rgb8();
    assert_eq!(pack.pixels(1000, &mut Vec::new()).unwrap(), photo.into_raw());
}

#[test]
fn the_real_annotations_are_as_the_design_says() {
    let Some(root) = real_miniplaces() else { return };
    let names = miniplaces::read_categories(&root.join("object_categories.txt")).unwrap();
    assert_eq!((names.len(), names[169].as_str()), (175, "wall"));
    let dataset = open(&root).unwrap();
    let samples = [Split::Train, Split::Val].into_iter().flat_map(|split| dataset.samples(split));
    let mut annotations = Vec::new();
    for sample in samples {
        let path = miniplaces::annotation_path(&root, &sample.path);
        if path.exists() {
            let annotation = Annotation::read(&path).unwrap();
            assert_eq!(Some(annotation.scene), sample.label, "{}", path.display());
            annotations.push(annotation);
        }
    }
    assert_eq!(annotations.len(), 3873);
    let counts = annotations.iter().map(|annotation| annotation.objects.len());
    assert_eq!(counts.clone().filter(|&count| count == 0).count(), 8);
    assert_eq!((counts.clone().max(), counts.sum()), (Some(111), 53_860));
    let objects = || annotations.iter().flat_map(|annotation| &annotation.objects);
    let classes = || objects().map(|object| object.class);
    assert_eq!((classes().min(), classes().max()), (Some(1), Some(174)));
    let corners = objects().flat_map(|object| &object.polygon).flat_map(|&(x, y)| [x, y]);
    let (low, high) = corners.fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(v), high.max(v)));
    assert_eq!((low, high), (1.0, 128.0));
}
