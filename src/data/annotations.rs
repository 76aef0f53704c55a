//! The object annotations of a split, in the order and at the size of its [`Pack`].
//!
//! Everything lies in three flat lists, so that a batch is filled by copying and without allocating. An image without an
//! annotation file has no objects, as one whose file names none.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::decode::{self, Fit};
use super::files::FieldHash;
use super::objects::Annotation;
use super::scenes::{self, SceneOptions};
use super::{Crop, Dataset, Pack, Split, miniplaces};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Polygons of every image of a split, and the classes they belong to.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotations {
    class_names: Vec<String>,
    points: Vec<[f32; 2]>,
    objects: Vec<StoredObject>,
    images: Vec<StoredImage>,
}

/// An object and its place among the points.
#[derive(Debug, Clone, Copy, PartialEq)]
struct StoredObject {
    class: u32,
    first_point: u32,
    num_points: u32,
}

/// The objects of an image, and whether anybody annotated it.
#[derive(Debug, Clone, PartialEq)]
struct StoredImage {
    objects: Range<usize>,
    is_annotated: bool,
}

/// An object as a reader of the annotations sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outline<'a> {
    /// Index into [`Annotations::class_names`].
    pub class: u32,
    /// Corners (x, y) in pixels of the pack's images, counted from the centre of the first; the last joins the first.
    pub points: &'a [[f32; 2]],
}

/// Rows that hold the annotations of any batch: what operands of `rasterise` are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Rows of `points`.
    pub points: usize,
    /// Rows of `objects`.
    pub objects: usize,
}

/// What an image's annotation holds before it is stored.
type Polygons = Vec<(u32, Vec<[f32; 2]>)>;

/// What [`Annotations::store`] refuses.
const TOO_MANY_POINTS: &str = "the polygons have more than 2^31 points";

impl Annotations {
    /// Reads, in parallel, the annotation file of each image of `pack`, which was made of a split of `dataset`.
    ///
    /// # Errors
    /// [`Error::Data`] if the data set has no object_categories.txt, or naming file and line of an annotation that cannot
    /// be used, the first in the order of the pack.
    pub fn read(dataset: &Dataset, pack: &Pack) -> Result<Annotations> {
        let images: Vec<&Path> = (0..pack.len()).map(|index| Path::new(pack.name(index))).collect();
        Annotations::of_images(dataset, &images, pack.crop())
    }

    /// The annotations of all images that the list of `split` names, for their pixels at this size.
    ///
    /// # Errors
    /// As [`Annotations::read`].
    pub fn of_split(dataset: &Dataset, split: Split, image_size: usize) -> Result<Annotations> {
        let images: Vec<&Path> = dataset.samples(split).iter().map(|sample| &*sample.path).collect();
        Annotations::of_images(dataset, &images, Crop::whole(image_size))
    }

    fn of_images(dataset: &Dataset, images: &[&Path], crop: Crop) -> Result<Annotations> {
        let class_names = read_class_names(dataset.root())?;
        let reader = Reader { dataset, num_classes: class_names.len(), crop };
        let progress = Progress::start("reading annotations", images.len());
        let read = |image: &&Path| {
            progress.add(1);
            reader.read(image)
        };
        let images: Vec<Result<Option<Polygons>>> = images.par_iter().map(read).collect();
        let num_faults = images.iter().filter(|image| image.is_err()).count();
        let images: Vec<Option<Polygons>> =
            images.into_iter().collect::<Result<_>>().map_err(|error| with_remedy(error, num_faults))?;
        Annotations::store(class_names, images)
            .ok_or_else(|| Error::data(dataset.root().join("objects"), TOO_MANY_POINTS))
    }

    /// The annotation of one image of `dataset`, by its path below the image folder, for its pixels at this size.
    ///
    /// # Errors
    /// As [`Annotations::read`]; an image without an annotation needs no object_categories.txt.
    pub fn of_image(dataset: &Dataset, image: &Path, image_size: usize) -> Result<Annotations> {
        let path = miniplaces::annotation_path(dataset.root(), image);
        let (class_names, polygons) = if path.exists() {
            let class_names = read_class_names(dataset.root())?;
            let reader = Reader { dataset, num_classes: class_names.len(), crop: Crop::whole(image_size) };
            (class_names, reader.read(image)?)
        } else {
            (Vec::new(), None)
        };
        Annotations::store(class_names, vec![polygons]).ok_or_else(|| Error::data(path, TOO_MANY_POINTS))
    }

    /// The annotations of the generated scenes that [`Pack::from_scenes`] draws for the same options.
    pub fn from_scenes(options: &SceneOptions) -> Annotations {
        let size = options.image_size as f32;
        let draw = |index| {
            let place = |(x, y): (f32, f32)| [x * size - 0.5, y * size - 0.5];
            let objects = options.scene(index).objects.into_iter();
            Some(objects.map(|o| (o.class, o.polygon.into_iter().map(place).collect())).collect())
        };
        let images = (0..options.num_images).into_par_iter().map(draw).collect();
        let class_names = scenes::OBJECT_CATEGORIES.iter().map(|&name| name.into()).collect();
        Annotations::store(class_names, images)
            .expect("scenes are pixels in memory, each many times its points")
    }

    /// Puts everything into flat lists; `None` if there are more points than kernels count.
    fn store(class_names: Vec<String>, images: Vec<Option<Polygons>>) -> Option<Annotations> {
        let mut stored =
            Annotations { class_names, points: Vec::new(), objects: Vec::new(), images: Vec::new() };
        for image in images {
            let first = stored.objects.len();
            let is_annotated = image.is_some();
            for (class, polygon) in image.into_iter().flatten() {
                let (first_point, num_points) = (stored.points.len() as u32, polygon.len() as u32);
                stored.points.extend(polygon);
                stored.objects.push(StoredObject { class, first_point, num_points });
            }
            i32::try_from(stored.points.len()).ok()?;
            stored.images.push(StoredImage { objects: first..stored.objects.len(), is_annotated });
        }
        Some(stored)
    }

    /// A hash of all classes, objects and corners.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = FieldHash::default();
        self.class_names.iter().for_each(|name| hash.write(name.as_bytes()));
        for image in &self.images {
            hash.write(&[u8::from(image.is_annotated)]);
            for object in &self.objects[image.objects.clone()] {
                hash.write(&object.class.to_le_bytes());
                hash.write(&object.num_points.to_le_bytes());
            }
        }
        hash.write(bytemuck::cast_slice(&self.points));
        hash.finish()
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Names of the object classes; a class is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// K, the number of object classes.
    pub fn num_classes(&self) -> usize {
        self.class_names.len()
    }

    /// Images that somebody annotated, with however many objects.
    pub fn num_annotated(&self) -> usize {
        self.images.iter().filter(|image| image.is_annotated).count()
    }

    /// The share of images that somebody annotated, 0 to 1.
    pub fn share(&self) -> f64 {
        self.num_annotated() as f64 / self.len().max(1) as f64
    }

    /// The objects of image `index`, in the order of its file.
    ///
    /// # Panics
    /// If `index` is not below [`Annotations::len`].
    pub fn outlines(&self, index: usize) -> impl ExactSizeIterator<Item = Outline<'_>> {
        self.objects[self.images[index].objects.clone()]
            .iter()
            .map(|object| Outline { class: object.class, points: self.points_of(object) })
    }

    /// Whether somebody annotated image `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Annotations::len`].
    pub fn is_annotated(&self, index: usize) -> bool {
        self.images[index].is_annotated
    }

    /// Room for the annotations of any `batch_size` images, one of them drawn any number of times included: that many
    /// times the largest annotation, and at least one row.
    pub fn capacity(&self, batch_size: usize) -> Capacity {
        let objects_of = |image: &StoredImage| &self.objects[image.objects.clone()];
        let points_of =
            |image| objects_of(image).iter().map(|object| object.num_points as usize).sum::<usize>();
        let points = self.images.iter().map(points_of).max().unwrap_or(0);
        let objects = self.images.iter().map(|image| image.objects.len()).max().unwrap_or(0);
        Capacity { points: (points * batch_size).max(1), objects: (objects * batch_size).max(1) }
    }

    /// Writes the annotations of a batch that shows these images, image `indices[n]` as sample n, as the operands `points`
    /// and `objects` of [`Rasterise`](crate::ops::Rasterise). What is left of the buffers becomes 0 and -1.
    ///
    /// # Panics
    /// If an index is not below [`Annotations::len`], or a buffer is shorter than [`Annotations::capacity`] says.
    pub fn fill(&self, indices: &[u32], points: &mut [[f32; 2]], objects: &mut [[i32; 4]]) {
        let (mut num_points, mut num_objects) = (0, 0);
        for (sample, &index) in indices.iter().enumerate() {
            for object in &self.objects[self.images[index as usize].objects.clone()] {
                let polygon = self.points_of(object);
                points[num_points..][..polygon.len()].copy_from_slice(polygon);
                objects[num_objects] =
                    [sample as i32, object.class as i32, num_points as i32, polygon.len() as i32];
                num_points += polygon.len();
                num_objects += 1;
            }
        }
        points[num_points..].fill([0.0; 2]);
        objects[num_objects..].fill([-1; 4]);
    }

    /// Writes the presence vector of image `index`: 1 for each class that has an object there, 0 elsewhere.
    ///
    /// # Panics
    /// If `index` is not below [`Annotations::len`], or `bits` are not one for each class.
    pub fn presence(&self, index: usize, bits: &mut [f32]) {
        assert_eq!(bits.len(), self.num_classes(), "one bit for each class");
        bits.fill(0.0);
        self.outlines(index).for_each(|outline| bits[outline.class as usize] = 1.0);
    }

    fn points_of(&self, object: &StoredObject) -> &[[f32; 2]] {
        &self.points[object.first_point as usize..][..object.num_points as usize]
    }
}

/// Reads annotation files for images of one crop.
struct Reader<'a> {
    dataset: &'a Dataset,
    num_classes: usize,
    crop: Crop,
}

impl Reader<'_> {
    /// The objects of `image`, a path below the image folder; `None` where it has no annotation file.
    fn read(&self, image: &Path) -> Result<Option<Polygons>> {
        let path = miniplaces::annotation_path(self.dataset.root(), image);
        let annotation = match Annotation::read(&path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if let Some(fault) = annotation.classes_out_of_range(self.num_classes).next() {
            return Err(Error::data(&path, fault));
        }
        let original = decode::dimensions(&self.dataset.image_dir.join(image))?;
        let fit = Fit::new(original, self.crop);
        // From 1-based pixels.
        let place = |(x, y): (f32, f32)| fit.place(x - 1.0, y - 1.0);
        let objects = annotation.objects.into_iter();
        Ok(Some(objects.map(|o| (o.class, o.polygon.into_iter().map(place).collect())).collect()))
    }
}

/// The names of the object classes of the data set at `root`.
pub(super) fn read_class_names(root: &Path) -> Result<Vec<String>> {
    let path = root.join(miniplaces::OBJECT_CATEGORIES_FILE);
    if !path.exists() {
        let message = "no such file; object annotations are objects/{train,val}/...xml next to a list of `name index` lines";
        return Err(Error::data(path, message));
    }
    miniplaces::read_categories(&path)
}

/// The error about one annotation file, with a hint where there are more.
fn with_remedy(error: Error, num_faults: usize) -> Error {
    match error {
        Error::Data { path, message } => {
            let count = match num_faults {
                1 => "correct or remove the file".to_string(),
                _ => format!("{num_faults} annotations cannot be used"),
            };
            Error::data(path, format!("{message}; {count}, `residuum data check` lists what is wrong"))
        }
        other => other,
    }
}

/// The objects of both splits.
#[derive(Debug, Clone)]
pub struct SplitAnnotations {
    /// Objects in the training images.
    pub train: Arc<Annotations>,
    /// Objects in the validation images.
    pub val: Arc<Annotations>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;

    fn square(x: f32, size: f32) -> Vec<[f32; 2]> {
        vec![[x, 0.0], [x + size, 0.0], [x + size, size], [x, size]]
    }

    fn stored(images: Vec<Option<Polygons>>) -> Annotations {
        Annotations::store(vec!["car".into(), "tree".into(), "wall".into()], images).unwrap()
    }

    #[test]
    fn a_batch_is_filled_with_the_objects_of_its_samples() {
        let line = vec![[5.0, 5.0], [6.0, 7.0]];
        let annotations = stored(vec![
            Some(vec![(2, square(0.0, 1.0)), (0, line.clone())]),
            None,
            Some(vec![(1, square(3.0, 2.0))]),
            Some(vec![]),
        ]);
        assert_eq!(annotations.capacity(3), Capacity { points: 18, objects: 6 });
        let (mut points, mut objects) = ([[9.0; 2]; 18], [[9; 4]; 6]);
        annotations.fill(&[2, 1, 0], &mut points, &mut objects);
        assert_eq!(objects[..3], [[0, 1, 0, 4], [2, 2, 4, 4], [2, 0, 8, 2]]);
        assert_eq!(objects[3..], [[-1; 4]; 3]);
        assert_eq!(points[..10], [square(3.0, 2.0), square(0.0, 1.0), line].concat());
        assert_eq!(points[10..], [[0.0; 2]; 8]);
        // The largest annotation in every place.
        annotations.fill(&[0, 0, 0], &mut points, &mut objects);
        assert_eq!(objects[5], [2, 0, 16, 2]);
    }

    #[test]
    fn presence_is_one_bit_a_class() {
        let annotations = stored(vec![Some(vec![(2, square(0.0, 1.0)), (0, square(0.0, 1.0))]), None]);
        let mut bits = [9.0; 3];
        annotations.presence(0, &mut bits);
        assert_eq!(bits, [1.0, 0.0, 1.0]);
        annotations.presence(1, &mut bits);
        assert_eq!(bits, [0.0; 3]);
        assert_eq!((annotations.num_annotated(), annotations.share()), (1, 0.5));
    }

    #[test]
    fn a_split_without_objects_still_has_buffers() {
        let annotations = stored(vec![None, None]);
        assert_eq!(annotations.capacity(5), Capacity { points: 1, objects: 1 });
        let (mut points, mut objects) = ([[9.0; 2]], [[9; 4]]);
        annotations.fill(&[0, 1], &mut points, &mut objects);
        assert_eq!((points, objects), ([[0.0; 2]], [[-1; 4]]));
    }

    #[test]
    fn scenes_bring_their_polygons() {
        let options =
            SceneOptions { split: Split::Train, num_images: 6, num_categories: 4, image_size: 20, seed: 3 };
        let annotations = Annotations::from_scenes(&options);
        assert_eq!((annotations.len(), annotations.num_annotated(), annotations.num_classes()), (6, 6, 24));
        // The sky fills the image, edge to edge.
        let sky = annotations.outlines(5).next().unwrap();
        assert_eq!(annotations.class_names()[sky.class as usize], "sky");
        assert_eq!(sky.points, [[-0.5, -0.5], [19.5, -0.5], [19.5, 19.5], [-0.5, 19.5]]);
        assert_eq!(annotations.outlines(5).len(), options.scene(5).objects.len());
    }
}
