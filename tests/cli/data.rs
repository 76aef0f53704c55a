//! Looking at data sets: the picture of one photo, and the audit of a whole tree.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use image::{RgbImage, open};
use residuum::data::scenes;
use serde_json::Value;

use crate::program::{Program, failed, texts};

/// The place of the photo in a picture: its corner, and how many pixels it takes.
const PHOTO: (u32, u32, u32) = (12, 40, 768);

const INSPECT: &str = "data inspect --data-dir scenes --output o.png --image";

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no `{from}`", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Pixels of the picture that are not those of the zoomed photo, as (x, y) in the photo's pixels.
fn drawn_over(picture: &RgbImage, photo: &RgbImage) -> Vec<(u32, u32)> {
    let (left, top, side) = PHOTO;
    let zoom = side / photo.width();
    let places = (0..side).flat_map(|y| (0..side).map(move |x| (x, y)));
    places
        .filter(|&(x, y)| picture.get_pixel(left + x, top + y) != photo.get_pixel(x / zoom, y / zoom))
        .map(|(x, y)| (x / zoom, y / zoom))
        .collect()
}

#[test]
fn a_photo_is_drawn_with_its_outlines() {
    let program = Program::with_scenes();
    write(
        &program.path("scenes/objects/train/c/castle/00000001.xml"),
        "<filename>a</filename><folder>b</folder><class>2</class><objects><class>21</class><polygon>\
         <pt><x>9</x><y>17</y></pt><pt><x>25</x><y>17</y></pt><pt><x>25</x><y>29</y></pt><pt><x>9</x><y>29</y></pt>\
         </polygon></objects>",
    );
    let said = program.succeeds(&format!("{INSPECT} train/c/castle/00000001.jpg"));
    assert!(said.contains("train/c/castle/00000001.jpg: 1 object: 1 tower"), "{said}");
    let picture = open(program.path("o.png")).unwrap().into_rgb8();
    let photo = open(program.path("scenes/images/train/c/castle/00000001.jpg")).unwrap().into_rgb8();
    let drawn = drawn_over(&picture, &photo);
    // 1-based pixels: the outline runs from the centre of column 8 to that of column 24.
    let extent = |along: fn(&(u32, u32)) -> u32| {
        (drawn.iter().map(along).min().unwrap(), drawn.iter().map(along).max().unwrap())
    };
    assert_eq!((extent(|p| p.0), extent(|p| p.1)), ((8, 24), (16, 28)));
}

#[test]
fn a_photo_without_annotation_is_drawn_and_said_to_have_none() {
    let program = Program::with_scenes();
    fs::remove_file(program.path("scenes/objects/val/00000007.xml")).unwrap();
    // Where nothing is annotated, names of objects are not needed.
    fs::remove_file(program.path("scenes/object_categories.txt")).unwrap();
    let said = program.succeeds(&format!("{INSPECT} val/00000007.jpg"));
    assert!(said.contains("val/00000007.jpg: no annotation of objects"), "{said}");
    let picture = open(program.path("o.png")).unwrap().into_rgb8();
    let photo = open(program.path("scenes/images/val/00000007.jpg")).unwrap().into_rgb8();
    assert_eq!(drawn_over(&picture, &photo), []);
}

#[test]
fn an_unknown_photo_is_an_error_with_the_nearest_one() {
    let program = Program::with_scenes();
    program.fails(
        &format!("{INSPECT} images/train/c/castle/00000002.jpg"),
        4,
        &["images/train/c/castle/00000002.jpg", "did you mean train/c/castle/00000002.jpg?"],
    );
    fs::remove_file(program.path("scenes/images/val/00000003.jpg")).unwrap();
    program.fails(&format!("{INSPECT} val/00000003.jpg"), 4, &["in the lists", "missing"]);
    edit(&program.path("scenes/objects/val/00000004.xml"), "<x>", "<x>a");
    program.fails(&format!("{INSPECT} val/00000004.jpg"), 4, &["val/00000004.xml", "line 8", "<x>"]);
    assert!(!program.path("o.png").exists());
}

#[test]
fn a_sound_data_set_passes_the_audit() {
    let program = Program::with_scenes();
    program.write_classes(&["bath", "garden", "kitchen"]);
    let said = program.succeeds("data check --data-dir scenes");
    for part in ["miniplaces data set", "categories: 10", "32 x 32 pixels", "100.0 %", "nothing is wrong"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    // Every class has the same plain images: worth a word, no reason to stop.
    let said = program.succeeds("data check --data-dir classes");
    for part in ["folder per class data set", "categories: 3", "0.0 %", "8  groups of files", "training runs"]
    {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

/// Faults of every kind in the scenes of `program`, and how often the audit is to count each.
fn spoil(program: &Program) -> [(&'static str, u64); 13] {
    let scenes = program.path("scenes");
    let (images, objects) = (scenes.join("images"), scenes.join("objects"));
    fs::remove_file(images.join("train/b/bridge/00000001.jpg")).unwrap();
    write(&images.join("train/b/bridge/00000002.jpg"), "no image");
    let whole = fs::read(images.join("val/00000004.jpg")).unwrap();
    fs::write(images.join("val/00000004.jpg"), &whole[..whole.len() / 2]).unwrap();
    write(&images.join("test/00000001.jpg"), "no image");
    fs::copy(images.join("val/00000001.jpg"), images.join("val/extra.jpg")).unwrap();
    RgbImage::new(40, 32).save(images.join("train/d/desert/00000001.jpg")).unwrap();
    edit(
        &scenes.join("train.txt"),
        "train/b/beach/00000002.jpg 0\n",
        "train/b/beach/00000001.jpg 0\nno label\n",
    );
    edit(&scenes.join("val.txt"), "val/00000010.jpg 9\n", "val/00000010.jpg 10\n");
    write(&objects.join("val/00000006.xml"), "<filename>");
    edit(&objects.join("val/00000005.xml"), "<class>19</class>", "<class>24</class>");
    fs::copy(objects.join("val/00000001.xml"), objects.join("val/00000999.xml")).unwrap();
    write(
        &objects.join("val/00000008.xml"),
        "<filename>a</filename><folder>b</folder><class>7</class><objects><class>1</class><polygon>\
         <pt><x>9</x><y>17</y></pt><pt><x>25</x><y>17</y></pt></polygon></objects>",
    );
    [
        ("list", 2),
        ("empty_split", 0),
        ("missing_image", 1),
        ("unreadable_image", 2),
        ("annotation", 1),
        ("object_class", 1),
        ("unreadable_test_image", 1),
        ("listed_twice", 1),
        ("same_content", 1),
        ("other_size", 1),
        // The copy, and the two that lists name no more.
        ("not_listed", 3),
        // The copy, and those of the two.
        ("annotation_of_nothing", 3),
        ("degenerate_polygon", 1),
    ]
}

#[test]
fn the_audit_finds_faults_of_every_kind_and_goes_on() {
    let program = Program::with_scenes();
    let expected = spoil(&program);
    let args = "data check --data-dir scenes --json";
    let output = program.command(args).output().unwrap();
    failed(&output, args, 4, &["scenes: 7 faults stop training"]);
    let audit: Value = serde_json::from_str(&texts(&output).0).unwrap();
    for (fault, count) in expected {
        let entries: Vec<&Value> =
            audit["faults"].as_array().unwrap().iter().filter(|entry| entry["fault"] == fault).collect();
        let counted =
            entries.iter().map(|entry| entry["places"].as_array().unwrap().len() as u64).sum::<u64>();
        assert_eq!(counted, count, "{fault}: {entries:?}");
    }
    assert_eq!(audit["splits"]["train"], serde_json::json!({"listed": 40, "usable": 38, "annotated": 40}));
    assert_eq!(audit["image_size"], serde_json::json!([32, 32]));
    let table = program.command("data check --data-dir scenes").output().unwrap();
    let (said, _) = texts(&table);
    for part in [
        "train.txt: line 12: expected `path label`, got `no label`",
        "val.txt: line 10: label 10 is out of range",
        "images/val/00000004.jpg: the JPEG ends early",
        "objects/val/00000005.xml: line 5: object class 24 is out of range",
        "val/00000001.jpg = val/extra.jpg",
        "train/d/desert/00000001.jpg (40 x 32)",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[test]
fn the_audit_of_a_broken_tree_of_classes_goes_on_too() {
    let program = Program::new();
    program.write_classes(&["bath", "garden"]);
    fs::remove_dir_all(program.path("classes/train/garden")).unwrap();
    fs::create_dir(program.path("classes/train/empty")).unwrap();
    let args = "data check --data-dir classes";
    let output = program.command(args).output().unwrap();
    failed(&output, args, 4, &["2 faults stop training"]);
    let (said, _) = texts(&output);
    for part in ["train/empty: the class folder has no", "val/garden: train/ has no class of this name"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    program.fails("data check --data-dir nowhere", 4, &["nowhere: no such folder"]);
}

#[test]
fn lists_without_images_are_a_split_without_images() {
    let program = Program::with_scenes();
    write(&program.path("scenes/val.txt"), "");
    fs::remove_file(program.path("scenes/categories.txt")).unwrap();
    let args = "data check --data-dir scenes";
    let output = program.command(args).output().unwrap();
    failed(&output, args, 4, &["2 faults stop training"]);
    let (said, _) = texts(&output);
    for part in ["categories: unknown", "categories.txt: no such file", "splits without images", "val"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[test]
fn an_edit_that_keeps_length_and_time_is_noticed_on_request() {
    let program = Program::with_scenes();
    let check = "data check --data-dir scenes --pack";
    let said = program.succeeds(check);
    assert!(said.contains("no pack of these photos in the cache"), "{said}");
    program.succeeds("data pack --data-dir scenes --img-size 16");
    program.succeeds("train --data-dir scenes --img-size 32 --limit-train 20 --batch-size 8 --max-steps 1");
    let said = program.succeeds(check);
    for part in [
        "40 train photos at 16 pixels: as packed",
        "20 train photos at 32 pixels: as packed",
        "20 val photos at 16 pixels: as packed",
        "20 val photos at 32 pixels: as packed",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    // The quantisers of a JPEG follow its first segment.
    let photo = program.path("scenes/images/val/00000003.jpg");
    let (mut bytes, time) = (fs::read(&photo).unwrap(), fs::metadata(&photo).unwrap().modified().unwrap());
    let table = bytes.windows(2).position(|pair| pair == [0xFF, 0xDB]).unwrap() + 5;
    bytes[table..table + 20].iter_mut().for_each(|quantiser| *quantiser = 250);
    fs::write(&photo, bytes).unwrap();
    fs::File::options().append(true).open(&photo).unwrap().set_modified(time).unwrap();
    let output = program.command(check).output().unwrap();
    failed(
        &output,
        check,
        4,
        &["1 of 20 photos are not as they were packed: val/00000003.jpg", "remove this pack"],
    );
    assert!(texts(&output).0.contains("20 val photos at 16 pixels: 1 changed since"));
    let output = program.command(&format!("{check} --json")).output().unwrap();
    let audit: Value = serde_json::from_str(&texts(&output).0).unwrap();
    let changed: Vec<&Value> =
        audit["packs"].as_array().unwrap().iter().map(|pack| &pack["changed"]).collect();
    assert_eq!(changed.iter().filter(|names| ***names == serde_json::json!(["val/00000003.jpg"])).count(), 2);
    assert_eq!(changed.len(), 4);
}

#[test]
fn packs_that_nobody_needs_are_shown_and_removed() {
    let program = Program::with_scenes();
    assert!(program.succeeds("data clean").contains("no decoded photos"));
    scenes::write_miniplaces(&program.path("gone"), 20, 10, 16, 3).unwrap();
    program.succeeds("data pack --data-dir gone --img-size 16");
    fs::remove_dir_all(program.path("gone")).unwrap();
    program.succeeds("data pack --data-dir scenes --img-size 16");
    edit(&program.path("scenes/val.txt"), "val/00000010.jpg 9\n", "");
    program.succeeds("data pack --data-dir scenes --img-size 16");
    // A build that was interrupted, of a data set that is there, and files of another version.
    program.succeeds("data pack --data-dir scenes --img-size 24");
    let cache = program.path("cache");
    let find = |beginning: &str| {
        let names = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        let mut found =
            names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(beginning));
        found.next().unwrap()
    };
    let begun = find("train-24");
    fs::rename(&begun, begun.with_extension("partial")).unwrap();
    fs::write(cache.join("train-16-0123.pack"), "RSDMPACK of yesterday").unwrap();
    fs::write(cache.join("notes.txt"), "not a pack").unwrap();

    let said = program.succeeds("data clean");
    for (count, part) in [
        (2, "no: its data set cannot be opened"),
        (1, "no: its photos or lists have changed"),
        (1, "no: damaged, or made by another version"),
        (4, "  yes "),
        (8, "  today "),
        (1, "4 of 8 are not needed"),
    ] {
        assert_eq!(said.matches(part).count(), count, "`{part}` in:\n{said}");
    }
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 10, "nothing is removed unasked");
    assert!(program.succeeds("data clean --remove").contains("4 of 8 removed"));
    assert!(program.succeeds("data clean").contains("all of them are needed"));
    assert!(begun.with_extension("partial").exists() && cache.join("notes.txt").exists());

    let old = find("val-24");
    let year_ago = SystemTime::now() - Duration::from_secs(365 * 86_400);
    fs::File::options().append(true).open(&old).unwrap().set_modified(year_ago).unwrap();
    assert!(program.succeeds("data clean").contains("365 days ago"));
    assert!(program.succeeds("data clean --unused-days 300 --remove").contains("1 of 4 removed"));
    assert!(!old.exists());
}
