//! Data from disk to pack: every kind of bad input, and the pack across damage, kills and builds at once.

#[path = "common/image_files.rs"]
mod image_files;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image::{ImageFormat, Rgb, RgbImage};
use image_files::{all_pixels, assert_mentions, data_error, gradient, open, save};
use residuum::Error;
use residuum::data::objects::Annotation;
use residuum::data::scenes::{self, SceneOptions};
use residuum::data::{self, Dataset, OpenOptions, Pack, Split, decode_image, miniplaces};
use tempfile::TempDir;

const ALLOW_MISSING: OpenOptions =
    OpenOptions { allow_missing: true, categories: None, limit_train: None, limit_val: None, only: None };

/// A small MiniPlaces folder: 40 training and 20 held-out scenes of 24 pixels.
fn small_miniplaces() -> TempDir {
    let dir = TempDir::new().unwrap();
    scenes::write_miniplaces(dir.path(), 40, 20, 24, 7).unwrap();
    dir
}

/// Replaces `from` by `to` in the file at `path`.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no `{from}`", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn first_image(dataset: &Dataset) -> PathBuf {
    dataset.image_path(&dataset.samples(Split::Train)[0])
}

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
    for index in 0..in_memory.len() {
        assert_eq!(from_disk.label(index), in_memory.label(index));
        let pairs = from_disk.pixels(index).iter().zip(in_memory.pixels(index));
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

// The pack.

/// The files in `cache` with this extension.
fn files(cache: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

#[test]
fn undecodable_images_fail_a_pack_or_are_skipped() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let broken = dir.path().join("images/train/d/desert/00000002.jpg");
    fs::write(&broken, "").unwrap();
    let build = |options| {
        Pack::open_or_build(&data::open(dir.path(), &options).unwrap(), Split::Train, 16, cache.path())
    };
    let message = data_error(build(OpenOptions::default()));
    assert_mentions(
        &message,
        &["1 of the 40 train images", "00000002.jpg: the file is empty", "--allow-missing"],
    );
    assert!(files(cache.path(), "pack").is_empty() && files(cache.path(), "partial").is_empty());
    // Once made and once opened.
    for _ in 0..2 {
        let pack = build(ALLOW_MISSING).unwrap();
        assert_eq!(pack.len(), 39);
        assert_eq!(pack.skipped(), [Path::new("train/d/desert/00000002.jpg")]);
        assert_eq!(
            (pack.name(12), pack.name(13)),
            ("train/c/castle/00000002.jpg", "train/f/forest/00000002.jpg")
        );
        assert_eq!(pack.label(13), Some(4));
        let expected = decode_image(&dir.path().join("images/train/f/forest/00000002.jpg"), 16).unwrap();
        assert_eq!(pack.pixels(13), expected);
    }
    assert_mentions(&data_error(build(OpenOptions::default())), &["1 of the 40 train images"]);
}

#[test]
fn a_damaged_pack_is_made_again() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let dataset = open(dir.path()).unwrap();
    let open_pack = || Pack::open_or_build(&dataset, Split::Val, 16, cache.path()).unwrap();
    let expected = all_pixels(&open_pack());
    let path = files(cache.path(), "pack").pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let damages =
        [flipped(whole.len() - 5), flipped(30), flipped(45), whole[..whole.len() - 1].to_vec(), Vec::new()];
    for damage in damages {
        // As a failing disk would: another file, since mapped packs must not change in place.
        fs::remove_file(&path).unwrap();
        fs::write(&path, damage).unwrap();
        assert_eq!(all_pixels(&open_pack()), expected);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn a_killed_build_goes_on_where_it_stopped() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let dataset =
        data::open(dir.path(), &OpenOptions { limit_train: Some(7), ..OpenOptions::default() }).unwrap();
    // So large that a chunk holds two images: four chunks.
    let size = 800;
    let open_pack = || Pack::open_or_build(&dataset, Split::Train, size, cache.path());
    let expected = all_pixels(&open_pack().unwrap());
    let path = files(cache.path(), "pack").pop().unwrap();
    let partial = path.with_extension("partial");
    let mut bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    // Chunk 1 was never recorded; chunk 3 was, but its last page did not reach the disk.
    bytes[32 + 8..32 + 16].fill(0);
    let end = bytes.len();
    bytes[end - 4096..].fill(0);
    fs::write(&partial, &bytes).unwrap();
    // Images of the sound chunks are gone: decoding them again would fail.
    for index in [0, 1, 4, 5] {
        fs::remove_file(dataset.image_path(&dataset.samples(Split::Train)[index])).unwrap();
    }
    assert_eq!(all_pixels(&open_pack().unwrap()), expected);
    assert!(!partial.exists());

    // A partial file that is no such file is started over, which needs the images.
    fs::remove_file(&path).unwrap();
    fs::write(&partial, "something else").unwrap();
    assert_mentions(&data_error(open_pack()), &["4 of the 7 train images"]);
}

#[test]
fn builds_at_once_do_not_disturb_each_other() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let dataset = open(dir.path()).unwrap();
    let packs: Vec<Vec<Vec<u8>>> = std::thread::scope(|scope| {
        let build = || all_pixels(&Pack::open_or_build(&dataset, Split::Train, 20, cache.path()).unwrap());
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(build)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(packs.iter().all(|pack| pack == &packs[0]));
    assert_eq!(files(cache.path(), "pack").len(), 1);
    assert!(files(cache.path(), "partial").is_empty());
}

#[test]
fn an_edited_image_or_list_makes_another_pack() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let build = || Pack::open_or_build(&open(dir.path()).unwrap(), Split::Train, 12, cache.path()).unwrap();
    let before = build();
    let image = first_image(&open(dir.path()).unwrap());
    save(RgbImage::from_pixel(12, 12, Rgb([1, 2, 3])), &image, ImageFormat::Png);
    let after = build();
    assert_ne!(before.pixels(0), after.pixels(0));
    assert_eq!(before.pixels(1), after.pixels(1));
    // The same length, written at another time.
    let file = fs::File::options().append(true).open(&image).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    build();
    edit(&dir.path().join("train.txt"), "beach/00000001.jpg 0", "beach/00000001.jpg 5");
    assert_eq!(build().label(0), Some(5));
    assert_eq!(files(cache.path(), "pack").len(), 4);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let dir = small_miniplaces();
    let file = dir.path().join("cache");
    fs::write(&file, "x").unwrap();
    for cache in [file.clone(), file.join("below")] {
        let error = Pack::open_or_build(&open(dir.path()).unwrap(), Split::Train, 12, &cache).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert_mentions(&error.to_string(), &["cannot create the cache folder", "cache"]);
    }
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
    assert_eq!(pack.pixels(1000), photo.into_raw());
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
