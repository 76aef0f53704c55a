//! The pack across damage, kills, builds at once and changes while it is in use.

#[path = "common/image_files.rs"]
mod image_files;
#[path = "common/small_miniplaces.rs"]
mod small_miniplaces;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image::ImageFormat;
use image_files::{all_pixels, assert_mentions, data_error, gradient, open, save};
use residuum::Error;
use residuum::data::{self, OpenOptions, Pack, Split, decode_image};
use small_miniplaces::{ALLOW_MISSING, edit, small_miniplaces};
use tempfile::TempDir;

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
        assert_eq!(all_pixels(&pack)[13], expected);
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
    let damages = [
        flipped(whole.len() - 5),
        flipped(30),
        flipped(60),
        flipped(200),
        whole[..whole.len() - 1].to_vec(),
        Vec::new(),
    ];
    for damage in damages {
        // As a failing disk would: another file, since mapped packs must not change in place.
        fs::remove_file(&path).unwrap();
        fs::write(&path, damage).unwrap();
        assert!(all_pixels(&open_pack()) == expected);
        assert!(fs::read(&path).unwrap() == whole);
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
    // Image 3, of chunk 1, was never recorded; image 6, of chunk 3, was, but its last page did not reach the disk.
    let records = 48 + u32::from_le_bytes(bytes[20..24].try_into().unwrap()) as usize;
    bytes[records + 3 * 8..records + 4 * 8].fill(0);
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
fn an_edited_image_makes_another_pack_and_another_label_or_place_does_not() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let build = || Pack::open_or_build(&open(dir.path()).unwrap(), Split::Train, 12, cache.path()).unwrap();
    let before = build();
    let dataset = open(dir.path()).unwrap();
    let image = dataset.image_path(&dataset.samples(Split::Train)[0]);
    save(gradient(12, 12), &image, ImageFormat::Png);
    let after = build();
    let (before, after) = (all_pixels(&before), all_pixels(&after));
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1..], after[1..]);
    // The same length, written at another time.
    let file = fs::File::options().append(true).open(&image).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    build();
    assert_eq!(files(cache.path(), "pack").len(), 3);
    edit(&dir.path().join("train.txt"), "beach/00000001.jpg 0", "beach/00000001.jpg 5");
    let relabelled = build();
    assert_eq!(relabelled.label(0), Some(5));
    let moved = dir.path().join("moved");
    fs::create_dir(&moved).unwrap();
    for name in ["images", "train.txt", "val.txt", "categories.txt"] {
        fs::rename(dir.path().join(name), moved.join(name)).unwrap();
    }
    let elsewhere = Pack::open_or_build(&open(&moved).unwrap(), Split::Train, 12, cache.path()).unwrap();
    assert_eq!(elsewhere.fingerprint(), relabelled.fingerprint());
    assert_eq!(files(cache.path(), "pack").len(), 3);
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

/// What reading every image of `pack` fails with.
fn first_failure(pack: &Pack) -> String {
    let failed = (0..pack.len()).find_map(|index| pack.pixels(index, &mut Vec::new()).err());
    let error = failed.expect("an image that is not what was packed");
    assert_eq!(error.exit_code(), 4, "{error}");
    error.to_string()
}

#[test]
fn a_pack_that_changes_in_use_is_named_and_made_again() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let dataset = open(dir.path()).unwrap();
    let open_pack = || Pack::open_or_build(&dataset, Split::Val, 16, cache.path()).unwrap();
    let expected = all_pixels(&open_pack());
    let path = files(cache.path(), "pack").pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let image_at = |image: usize| (whole.len() - (20 - image) * 16 * 16 * 3) as u64;
    let turn_a_bit = |file: &File| file.write_all_at(&[expected[7][5] ^ 4], image_at(7) + 5).unwrap();
    let cut = |file: &File| file.set_len(image_at(9) + 1).unwrap();
    let empty = |file: &File| file.set_len(0).unwrap();
    for (change, what) in [
        (&turn_a_bit as &dyn Fn(&File), "has other bytes in image 7 than were packed"),
        (&cut, "was cut short and ends before image 9"),
        (&empty, "was cut short and ends before image 0"),
    ] {
        let pack = open_pack();
        change(&File::options().write(true).open(&path).unwrap());
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_mentions(&first_failure(&pack), &[name, what, "it is removed now"]);
        assert!(!path.exists());
        assert!(all_pixels(&open_pack()) == expected);
    }
    // Another file of the name, made by another process meanwhile, is not the one that changed.
    let pack = open_pack();
    fs::rename(&path, cache.path().join("changed")).unwrap();
    fs::write(&path, &whole).unwrap();
    cut(&File::options().write(true).open(cache.path().join("changed")).unwrap());
    first_failure(&pack);
    assert!(fs::read(&path).unwrap() == whole);
}

#[test]
fn a_pack_that_is_removed_in_use_serves_on() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    let pack = Pack::open_or_build(&open(dir.path()).unwrap(), Split::Val, 16, cache.path()).unwrap();
    let expected = all_pixels(&pack);
    fs::remove_file(files(cache.path(), "pack").pop().unwrap()).unwrap();
    assert_eq!(all_pixels(&pack), expected);
}

#[test]
fn a_size_that_no_image_has_is_refused() {
    let (dir, cache) = (small_miniplaces(), TempDir::new().unwrap());
    for size in [0, 70_000] {
        let error =
            Pack::open_or_build(&open(dir.path()).unwrap(), Split::Val, size, cache.path()).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
}
