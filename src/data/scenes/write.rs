//! Writes generated scenes to disk in the layout of MiniPlaces: JPEG files, lists and annotations.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;

use super::{CATEGORIES, OBJECT_CATEGORIES, Scene, SceneObject};
use crate::data::{Split, miniplaces};
use crate::error::{Error, Result};
use crate::progress::Progress;

const JPEG_QUALITY: u8 = 90;

/// Writes `num_train` training and `num_val` held-out scenes of `image_size` pixels to `dir`, which is created.
///
/// Files of the same names are overwritten. Polygons are written as 1-based pixels. Progress goes to stderr.
///
/// # Errors
/// [`Error::Io`] if a file or folder cannot be written; [`Error::Usage`] if the size is 0 or more than a JPEG can have.
pub fn write_miniplaces(
    dir: &Path,
    num_train: usize,
    num_val: usize,
    image_size: usize,
    seed: u64,
) -> Result<()> {
    if !(1..=usize::from(u16::MAX)).contains(&image_size) {
        return Err(Error::Usage(format!(
            "--img-size {image_size}: a JPEG has 1 to {} pixels a side",
            u16::MAX
        )));
    }
    for (split, count) in [(Split::Train, num_train), (Split::Val, num_val)] {
        let progress = Progress::start(format!("drawing {} scenes", split.name()), count);
        let lines = (0..count as u32).into_par_iter().map(|index| {
            let line = write_scene(dir, split, index, image_size, seed)?;
            progress.add(1);
            Ok(line)
        });
        let list: Vec<String> = lines.collect::<Result<_>>()?;
        write(&dir.join(split.name()).with_extension("txt"), list.concat().as_bytes())?;
    }
    let categories =
        CATEGORIES.iter().enumerate().map(|(index, name)| format!("{} {index}\n", folder_of(name)));
    write(&dir.join("categories.txt"), categories.collect::<String>().as_bytes())?;
    let objects = OBJECT_CATEGORIES.iter().enumerate().map(|(index, name)| format!("{name} {index}\n"));
    write(&dir.join("object_categories.txt"), objects.collect::<String>().as_bytes())
}

/// The category folder as MiniPlaces nests it: `/b/beach`.
fn folder_of(category: &str) -> String {
    format!("/{}/{category}", &category[..1])
}

/// Writes image and annotation of one scene and returns its line in the list.
fn write_scene(dir: &Path, split: Split, index: u32, image_size: usize, seed: u64) -> Result<String> {
    let scene = Scene::draw(seed, split, index);
    let name = match split {
        Split::Train => {
            let number = index / CATEGORIES.len() as u32 + 1;
            format!("train{}/{number:08}.jpg", folder_of(scene.category_name()))
        }
        Split::Val | Split::Test => format!("{}/{:08}.jpg", split.name(), index + 1),
    };
    let mut pixels = vec![0; image_size * image_size * 3];
    scene.render(image_size, &mut pixels);
    let image =
        RgbImage::from_raw(image_size as u32, image_size as u32, pixels).expect("one triple per pixel");
    let path = dir.join("images").join(&name);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY)
        .encode_image(&image)
        .map_err(|error| Error::data(&path, format!("cannot encode: {error}")))?;
    write(&path, &jpeg)?;
    let annotation = miniplaces::annotation_path(dir, Path::new(&name));
    write(&annotation, to_xml(&scene, &path, image_size).as_bytes())?;
    Ok(format!("{name} {}\n", scene.category))
}

/// The annotation of `scene` in the form [`objects`](crate::data::objects) reads.
fn to_xml(scene: &Scene, image: &Path, image_size: usize) -> String {
    let file_name = image.file_name().unwrap_or_default().to_string_lossy();
    let mut xml = format!(
        "<filename>{file_name}</filename>\n<folder>{}</folder>\n<class>{}</class>\n",
        folder_of(scene.category_name()),
        scene.category
    );
    for object in &scene.objects {
        push_object(&mut xml, object, image_size).expect("a String takes any text");
    }
    xml
}

fn push_object(xml: &mut String, object: &SceneObject, image_size: usize) -> fmt::Result {
    let (mut low, mut high) = ((image_size, image_size), (1, 1));
    writeln!(xml, "<objects>\n\t<class>{}</class>\n\t<polygon>", object.class)?;
    for &(x, y) in &object.polygon {
        let (x, y) = (to_pixel(x, image_size), to_pixel(y, image_size));
        (low, high) = ((low.0.min(x), low.1.min(y)), (high.0.max(x), high.1.max(y)));
        writeln!(xml, "\t\t<pt>\n\t\t\t<x>{x}</x>\n\t\t\t<y>{y}</y>\n\t\t</pt>")?;
    }
    writeln!(xml, "\t</polygon>\n\t<bndbox>")?;
    for (element, bound) in [("xmin", low.0), ("xmax", high.0), ("ymin", low.1), ("ymax", high.1)] {
        writeln!(xml, "\t\t<{element}>{bound}</{element}>")?;
    }
    writeln!(xml, "\t</bndbox>\n</objects>")
}

/// The 1-based pixel of a coordinate in 0..1.
fn to_pixel(coordinate: f32, image_size: usize) -> usize {
    (coordinate * image_size as f32 + 0.5).round().clamp(1.0, image_size as f32) as usize
}

/// Writes `bytes` to `path`, creating the folders above it.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    fs::write(path, bytes).map_err(Error::io("write", path))
}
