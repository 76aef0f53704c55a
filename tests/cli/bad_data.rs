//! Data sets that cannot be used, and images that can although they are unusual. Exit code 4.

use std::fs;
use std::path::Path;

use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage};

use crate::program::{Program, SMALL_RUN, failed, texts};

const FIRST_IMAGE: &str = "scenes/images/train/b/beach/00000001.jpg";
const SECOND_IMAGE: &str = "scenes/images/train/b/beach/00000002.jpg";

#[track_caller]
fn training_fails(program: &Program, parts: &[&str]) {
    program.fails(SMALL_RUN, 4, parts);
    assert!(!program.path("runs").exists(), "a run folder was left");
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text);
    fs::write(path, changed).unwrap();
}

#[test]
fn missing_lists() {
    for list in ["train.txt", "val.txt", "categories.txt"] {
        let program = Program::with_scenes();
        fs::remove_file(program.path("scenes").join(list)).unwrap();
        training_fails(&program, &[list, "no such file", "next to images/"]);
    }
}

#[test]
fn a_list_naming_missing_files() {
    let program = Program::with_scenes();
    fs::remove_file(program.path(FIRST_IMAGE)).unwrap();
    training_fails(&program, &["1 of the listed images", "train/b/beach/00000001.jpg", "--allow-missing"]);
    let said = program.succeeds(&format!("{SMALL_RUN} --allow-missing --max-steps 1"));
    assert!(said.contains("on 20 images"), "{said}");
}

#[test]
fn a_label_out_of_range() {
    let program = Program::with_scenes();
    edit(&program.path("scenes/val.txt"), |text| text.replacen(".jpg 3\n", ".jpg 10\n", 1));
    training_fails(&program, &["val.txt", "line 4", "label 10", "out of range"]);
}

#[test]
fn a_line_that_is_none() {
    let program = Program::with_scenes();
    edit(&program.path("scenes/train.txt"), |text| text.replacen(".jpg 1\n", ".jpg\n", 1));
    training_fails(&program, &["train.txt", "line 2"]);
}

#[test]
fn files_that_are_no_whole_image() {
    let program = Program::with_scenes();
    let whole = fs::read(program.path(FIRST_IMAGE)).unwrap();
    let cases: [(&[u8], &str); 4] = [
        (&whole[..whole.len() / 2], "the JPEG ends early"),
        (b"", "the file is empty"),
        (b"no image at all", "is no JPEG, PNG"),
        (&whole[..30], "ends early"),
    ];
    for (bytes, reason) in cases {
        fs::write(program.path(FIRST_IMAGE), bytes).unwrap();
        training_fails(
            &program,
            &["1 of the 40 train images", "beach/00000001.jpg", reason, "--allow-missing"],
        );
    }
    program.succeeds(&format!("{SMALL_RUN} --allow-missing --max-steps 1"));
}

#[test]
fn png_grey_cmyk_and_oblong_images_are_trained_on() {
    let program = Program::with_scenes();
    let save =
        |image: DynamicImage, path: &str, format| image.save_with_format(program.path(path), format).unwrap();
    save(GrayImage::new(32, 32).into(), FIRST_IMAGE, ImageFormat::Jpeg);
    save(RgbImage::new(57, 33).into(), SECOND_IMAGE, ImageFormat::Png);
    let cmyk = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cmyk.jpg");
    fs::copy(cmyk, program.path("scenes/images/train/b/bridge/00000001.jpg")).unwrap();
    let said = program.succeeds(&format!("{SMALL_RUN} --max-steps 1"));
    assert!(said.contains("top-1 error"), "{said}");
}

/// Scaled by its shorter side, the longest of these would take 86 GB.
#[test]
fn photos_a_pixel_thin_take_little_memory() {
    let program = Program::with_scenes();
    for (width, height) in [(65_535, 1), (1, 60_000), (500_000, 1)] {
        let middle = width.max(height) / 2;
        let thin = RgbImage::from_fn(width, height, |x, y| {
            Rgb(if x.max(y).abs_diff(middle) < 20 { [10, 200, 90] } else { [255, 0, 0] })
        });
        thin.save(program.path("thin.png")).unwrap();
        fs::copy(program.path("thin.png"), program.path(FIRST_IMAGE)).unwrap();
        let augment = "augment --image thin.png --output o.png --img-size 224";
        for args in ["data pack --data-dir scenes --img-size 224", augment] {
            let output = program.command_after("ulimit -v 1500000", args).output().unwrap();
            assert!(output.status.success(), "{width} x {height}: {}", texts(&output).1);
        }
        let pixels = residuum::data::decode_image(&program.path("thin.png"), 224).unwrap();
        assert!(pixels.chunks(3).all(|pixel| pixel == [10, 200, 90]), "{width} x {height}");
    }
}

#[test]
fn what_a_run_leaves_out_is_said_at_once_and_in_its_report() {
    let program = Program::new();
    program.write_classes(&["bath", "garden"]);
    let class = |split: &str| program.path("classes").join(split).join("bath");
    for (name, format) in
        [("a.webp", ImageFormat::WebP), ("b.BMP", ImageFormat::Bmp), ("c.tif", ImageFormat::Tiff)]
    {
        let image = RgbImage::from_pixel(16, 16, Rgb([9, 8, 7]));
        image.save_with_format(class("train").join(name), format).unwrap();
    }
    fs::write(class("train").join("d.heic"), "x").unwrap();
    fs::rename(program.path("classes/val"), program.path("classes/valid")).unwrap();
    let args = "train --data-dir classes --img-size 16 --batch-size 4 --max-steps 1";
    let output = program.command(args).output().unwrap();
    let (stdout, said) = texts(&output);
    assert!(output.status.success() && stdout.contains("on 8 images"), "{stdout}{said}");
    let run = program.only_run("runs");
    let report = fs::read_to_string(program.path(&run).join("report.html")).unwrap();
    let packed = program.succeeds("data pack --data-dir classes --img-size 16");
    assert!(packed.contains("train: 19 images"), "{packed}");
    for text in [said, report, packed] {
        for part in ["validation images: those in valid/", "1 .heic (train/bath/d.heic)"] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
    }
}

#[test]
fn names_of_photos_do_not_control_the_terminal() {
    let program = Program::with_scenes();
    let (sound, broken) = ("good\x1b[31m\n.jpg", "bad\x1b]0;title\x07.jpg");
    fs::copy(program.path(FIRST_IMAGE), program.path(sound)).unwrap();
    fs::write(program.path(broken), "no image").unwrap();
    let output = program.command("augment --output o.png --image").arg(broken).output().unwrap();
    failed(&output, "augment", 4, &["bad\\u{1b}]0;title\\u{7}.jpg: is no JPEG"]);
    let run = program.trains("--max-steps 1");
    let output = program.command(&format!("predict --run {}", run.display())).arg(sound).output().unwrap();
    let (stdout, _) = texts(&output);
    assert!(stdout.starts_with("good\\u{1b}[31m\\n.jpg\n"), "{stdout}");
}

#[test]
fn folders_that_are_no_data_set() {
    let program = Program::with_scenes();
    fs::create_dir(program.path("empty")).unwrap();
    fs::create_dir_all(program.path("folders/train")).unwrap();
    let cases: [(&str, &[&str]); 4] = [
        ("nowhere", &["nowhere", "no such folder", "--data-dir"]),
        ("scenes/train.txt", &["scenes/train.txt", "is a file", "--data-dir"]),
        ("empty", &["empty", "not a data set", "categories.txt", "train/<class>"]),
        ("folders", &["folders/train", "no class folders"]),
    ];
    for (folder, parts) in cases {
        program.fails(&format!("train --data-dir {folder}"), 4, parts);
        program.fails(&format!("data pack --data-dir {folder}"), 4, parts);
    }
    assert!(!program.path("runs").exists());
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_read() {
    use std::os::unix::fs::PermissionsExt;

    let program = Program::new();
    program.write_classes(&["a", "b"]);
    let closed = program.path("classes/train/b");
    let allow = |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
    allow(0);
    if fs::read_dir(&closed).is_ok() {
        eprintln!("skipped: this user may read every folder");
    } else {
        program.fails("train --data-dir classes", 4, &["classes/train/b", "cannot read the folder"]);
    }
    allow(0o755);
}

#[test]
fn a_data_set_with_one_category_trains() {
    let program = Program::new();
    program.write_classes(&["only"]);
    let said = program.succeeds("train --data-dir classes --img-size 16 --batch-size 4 --epochs 1");
    assert!(said.contains("top-1 error 0.00 %, top-5 error 0.00 % on 4 images"), "{said}");
}

#[test]
fn a_validation_class_that_training_does_not_know() {
    let program = Program::new();
    program.write_classes(&["a", "b"]);
    fs::rename(program.path("classes/val/b"), program.path("classes/val/c")).unwrap();
    program.fails("train --data-dir classes", 4, &["classes/val/c", "no class of this name"]);
}
