//! An audit of a whole data set: everything that would stop training, and much of what would spoil it.
//!
//! Training stops at the first fault; this goes on and collects them all, so it reads lists and folders more leniently
//! than [`open`](super::open) does, though by the same rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::annotations::read_class_names;
use super::dataset::one_category;
use super::files::{self, FieldHash};
use super::folder::Folders;
use super::objects::Annotation;
use super::open::{absolute, is_class_tree, is_miniplaces, not_a_data_set};
use super::{Sample, Split, decode, folder, miniplaces};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::show::show_path;

/// Something wrong with a data set. Those that stop training come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A list that is missing, or a line of one that cannot be used; a class folder without images or of no known class.
    List,
    /// No image to train on, or none to measure the error on.
    EmptySplit,
    /// A listed image whose file is not there.
    MissingImage,
    /// A listed image that cannot be decoded.
    UnreadableImage,
    /// An annotation file that is not well-formed, or object classes without a list of their names.
    Annotation,
    /// An object whose class is out of range.
    ObjectClass,
    /// An image of the test split that cannot be decoded.
    UnreadableTestImage,
    /// An image that the lists name more than once.
    ListedTwice,
    /// Files with the same bytes.
    SameContent,
    /// An image of another size than most.
    OtherSize,
    /// An image file that no list names.
    NotListed,
    /// A file among the images that is none by its name, or no file.
    LeftOut,
    /// An annotation of no listed image.
    AnnotationOfNothing,
    /// A polygon of fewer than three points, which encloses nothing.
    DegeneratePolygon,
}

/// What a fault does to a training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Training does not start.
    StopsTraining,
    /// Training with `--objects` does not start.
    StopsObjects,
    /// Training runs, though what was found may spoil it.
    TrainingRuns,
}

impl Fault {
    /// What is counted, in the plural.
    pub fn title(self) -> &'static str {
        match self {
            Fault::List => "faults of lists and folders",
            Fault::EmptySplit => "splits without images",
            Fault::MissingImage => "listed images that are missing",
            Fault::UnreadableImage => "listed images that cannot be decoded",
            Fault::Annotation => "annotations that cannot be read",
            Fault::ObjectClass => "object classes out of range",
            Fault::UnreadableTestImage => "test images that cannot be decoded",
            Fault::ListedTwice => "images listed more than once",
            Fault::SameContent => "groups of files with the same content",
            Fault::OtherSize => "images of another size than most",
            Fault::NotListed => "images in no list",
            Fault::LeftOut => "files left out, no images that are read",
            Fault::AnnotationOfNothing => "annotations of no listed image",
            Fault::DegeneratePolygon => "polygons of one or two points",
        }
    }

    /// A name for programs.
    pub fn key(self) -> &'static str {
        match self {
            Fault::List => "list",
            Fault::EmptySplit => "empty_split",
            Fault::MissingImage => "missing_image",
            Fault::UnreadableImage => "unreadable_image",
            Fault::Annotation => "annotation",
            Fault::ObjectClass => "object_class",
            Fault::UnreadableTestImage => "unreadable_test_image",
            Fault::ListedTwice => "listed_twice",
            Fault::SameContent => "same_content",
            Fault::OtherSize => "other_size",
            Fault::NotListed => "not_listed",
            Fault::LeftOut => "left_out",
            Fault::AnnotationOfNothing => "annotation_of_nothing",
            Fault::DegeneratePolygon => "degenerate_polygon",
        }
    }

    /// What it does to a training run.
    pub fn effect(self) -> Effect {
        match self {
            Fault::List | Fault::EmptySplit | Fault::MissingImage | Fault::UnreadableImage => {
                Effect::StopsTraining
            }
            Fault::Annotation | Fault::ObjectClass => Effect::StopsObjects,
            _ => Effect::TrainingRuns,
        }
    }
}

/// How many images one split has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitCount {
    /// Split that the numbers are about.
    pub split: Split,
    /// Images that the lists name, or that lie in the folders where those decide.
    pub listed: usize,
    /// Listed images that can be decoded.
    pub usable: usize,
    /// Listed images that have an annotation file.
    pub annotated: usize,
}

/// What an audit found.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Name of the on-disk format.
    pub format: &'static str,
    /// What else there is to know, as [`super::Dataset::remarks`] says it.
    pub remarks: Vec<String>,
    /// How many categories there are; `None` if their list cannot be used.
    pub num_categories: Option<usize>,
    /// Width and height that most images have; `None` if none can be decoded.
    pub image_size: Option<(u32, u32)>,
    /// Training, validation and test images.
    pub splits: [SplitCount; 3],
    /// Where each kind of fault was found, in the order of lists and names.
    pub faults: BTreeMap<Fault, Vec<String>>,
}

impl Audit {
    /// The number of faults that stop a training run, with `--objects` or without.
    pub fn num_stopping(&self) -> usize {
        let stopping = self.faults.iter().filter(|(fault, _)| fault.effect() != Effect::TrainingRuns);
        stopping.map(|(_, places)| places.len()).sum()
    }
}

/// Audits the data set at `root`, every image and annotation of it. Progress goes to stderr.
///
/// # Errors
/// [`Error::Data`] if `root` is not a folder, or holds neither a MiniPlaces data set nor a folder per class.
pub fn check(root: &Path) -> Result<Audit> {
    let root = &absolute(root)?;
    let mut auditor =
        Auditor { root, faults: BTreeMap::new(), listed: Vec::new(), dirs: Vec::new(), remarks: Vec::new() };
    let (format, image_dir, num_categories) = if is_miniplaces(root) {
        let image_dir = root.join("images");
        ("miniplaces", image_dir.clone(), auditor.read_miniplaces(&image_dir))
    } else if is_class_tree(root) {
        ("folder per class", root.clone(), auditor.read_folders())
    } else {
        return Err(not_a_data_set(root));
    };
    auditor.find_listed_twice();
    let (usable, image_size) = auditor.check_images(&image_dir);
    let annotated = auditor.check_annotations();
    let splits = [Split::Train, Split::Val, Split::Test].map(|split| {
        let of_split =
            || auditor.listed.iter().filter(|(of, _)| *of == split).map(|(_, sample)| &sample.path);
        let count = |set: &BTreeSet<PathBuf>| of_split().filter(|path| set.contains(*path)).count();
        SplitCount { split, listed: of_split().count(), usable: count(&usable), annotated: count(&annotated) }
    });
    for count in splits {
        if count.split != Split::Test && count.usable == 0 {
            auditor.fault(Fault::EmptySplit, count.split.name());
        }
    }
    let Auditor { faults, mut remarks, .. } = auditor;
    remarks.extend(num_categories.and_then(one_category));
    Ok(Audit { format, remarks, num_categories, image_size, splits, faults })
}

/// What is known of a data set while it is audited.
struct Auditor<'a> {
    root: &'a Path,
    faults: BTreeMap<Fault, Vec<String>>,
    listed: Vec<(Split, Sample)>,
    /// The folders that images lie in.
    dirs: Vec<PathBuf>,
    remarks: Vec<String>,
}

/// What one image file is.
struct ImageFacts {
    size: (u32, u32),
    /// Length and hash of the file.
    content: (usize, u64),
}

impl Auditor<'_> {
    fn fault(&mut self, fault: Fault, place: impl Into<String>) {
        self.faults.entry(fault).or_default().push(place.into());
    }

    /// What `error` says, its path shown from the root.
    fn explain(&self, error: &Error) -> String {
        match error {
            Error::Data { path, message } => format!("{}: {message}", self.relative(path)),
            other => other.to_string(),
        }
    }

    fn relative(&self, path: &Path) -> String {
        show_path(path.strip_prefix(self.root).unwrap_or(path))
    }

    /// The value of `result`, or nothing and a fault.
    fn take<T>(&mut self, fault: Fault, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.fault(fault, self.explain(&error))).ok()
    }

    /// Reads the lists of a MiniPlaces folder and returns the number of categories.
    fn read_miniplaces(&mut self, image_dir: &Path) -> Option<usize> {
        let categories = miniplaces::read_categories(&self.root.join("categories.txt"));
        let num_categories = self.take(Fault::List, categories).map(|names| names.len());
        for split in [Split::Train, Split::Val] {
            let path = self.root.join(split.name()).with_extension("txt");
            for (line, pair) in self.take(Fault::List, miniplaces::read_lines(&path)).unwrap_or_default() {
                let sample = pair.and_then(|(name, label)| {
                    miniplaces::sample(&name, label, num_categories.unwrap_or(usize::MAX))
                });
                match sample {
                    Ok(sample) => self.listed.push((split, sample)),
                    Err(message) => {
                        self.fault(Fault::List, format!("{}: line {line}: {message}", self.relative(&path)));
                    }
                }
            }
        }
        let test = self.take(Fault::List, miniplaces::read_test_samples(image_dir)).unwrap_or_default().0;
        self.listed.extend(test.into_iter().map(|sample| (Split::Test, sample)));
        let dirs = [Split::Train, Split::Val, Split::Test].map(|split| image_dir.join(split.name()));
        self.dirs.extend(dirs.into_iter().filter(|dir| dir.is_dir()));
        num_categories
    }

    /// Reads the class folders of a tree and returns the number of categories.
    fn read_folders(&mut self) -> Option<usize> {
        let root = self.root;
        let train = root.join(Split::Train.name());
        let classes = self.take(Fault::List, folder::class_folders(&train))?;
        let mut dirs = vec![(Split::Train, train)];
        if let Some(folders) = self.take(Fault::List, Folders::find(root)) {
            dirs.push((Split::Val, folders.val));
            self.remarks.extend(folders.remarks);
            if let Some(dir) = folders.test {
                let found = self.take(Fault::List, files::images_below(&dir)).unwrap_or_default();
                let samples = found.wanted.iter().map(|path| folder::sample(root, path, None));
                self.listed.extend(samples.map(|sample| (Split::Test, sample)));
                self.dirs.push(dir);
            }
        }
        let mut samples: [Vec<Sample>; 3] = Default::default();
        for (split, dir) in &dirs {
            for class in self.take(Fault::List, folder::class_folders(dir)).unwrap_or_default() {
                let read = folder::read_class(root, &dir.join(class), &classes);
                samples[*split as usize].extend(self.take(Fault::List, read).unwrap_or_default().0);
            }
        }
        self.remarks.extend(folder::in_subfolders(&samples, 3));
        for (split, samples) in [Split::Train, Split::Val].into_iter().zip(samples) {
            self.listed.extend(samples.into_iter().map(|sample| (split, sample)));
        }
        self.dirs.extend(dirs.into_iter().map(|(_, dir)| dir));
        Some(classes.len())
    }

    fn find_listed_twice(&mut self) {
        let mut first: HashMap<PathBuf, (Split, Option<u32>)> = HashMap::new();
        let mut again = Vec::new();
        for (split, Sample { path, label }) in &self.listed {
            match first.get(path) {
                None => {
                    first.insert(path.clone(), (*split, *label));
                }
                Some((_, other)) if other != label => {
                    again.push(format!("{} with two labels", show_path(path)))
                }
                Some((other, _)) if other != split => again.push(format!("{} in two lists", show_path(path))),
                Some(_) => again.push(show_path(path)),
            }
        }
        again.into_iter().for_each(|place| self.fault(Fault::ListedTwice, place));
    }

    /// Decodes every listed image and every other one on disk; returns those that can be, and the size of most.
    fn check_images(&mut self, image_dir: &Path) -> (BTreeSet<PathBuf>, Option<(u32, u32)>) {
        let listed: BTreeMap<PathBuf, Split> =
            self.listed.iter().map(|(split, sample)| (sample.path.clone(), *split)).collect();
        let mut on_disk = BTreeSet::new();
        for dir in std::mem::take(&mut self.dirs) {
            // A folder that cannot be read is told of where the lists are read.
            let found = files::images_below(&dir).unwrap_or_default();
            let below = |path: &PathBuf| path.strip_prefix(image_dir).map_or(path.clone(), PathBuf::from);
            on_disk.extend(found.wanted.iter().map(below));
            found.others.iter().for_each(|path| self.fault(Fault::LeftOut, show_path(&below(path))));
        }
        let paths: BTreeSet<&PathBuf> = listed.keys().chain(&on_disk).collect();
        let paths: Vec<&PathBuf> = paths.into_iter().collect();
        let progress = Progress::start("checking images", paths.len());
        let facts: Vec<Result<ImageFacts>> = paths
            .par_iter()
            .map(|path| {
                let facts = ImageFacts::of(&image_dir.join(path));
                progress.add(1);
                facts
            })
            .collect();
        drop(progress);
        let mut usable = BTreeMap::new();
        for (path, facts) in paths.into_iter().zip(facts) {
            let name = show_path(path);
            let split = listed.get(path);
            if split.is_none() {
                self.fault(Fault::NotListed, name.clone());
            }
            match (facts, split) {
                (Ok(facts), _) => {
                    usable.insert(path.clone(), facts);
                }
                (Err(_), None) => {}
                (Err(_), Some(_)) if !image_dir.join(path).exists() => {
                    self.fault(Fault::MissingImage, name);
                }
                (Err(error), Some(split)) => {
                    let fault = match split {
                        Split::Test => Fault::UnreadableTestImage,
                        _ => Fault::UnreadableImage,
                    };
                    self.fault(fault, self.explain(&error));
                }
            }
        }
        self.find_same_content(&usable);
        let size = self.find_other_sizes(&usable);
        (usable.into_keys().filter(|path| listed.contains_key(path)).collect(), size)
    }

    fn find_same_content(&mut self, images: &BTreeMap<PathBuf, ImageFacts>) {
        let mut groups: HashMap<(usize, u64), Vec<&PathBuf>> = HashMap::new();
        for (path, facts) in images {
            groups.entry(facts.content).or_default().push(path);
        }
        let same = groups.into_values().filter(|paths| paths.len() > 1);
        let names =
            |paths: Vec<&PathBuf>| paths.iter().map(|path| show_path(path)).collect::<Vec<_>>().join(" = ");
        let mut places: Vec<String> = same.map(names).collect();
        places.sort_unstable();
        places.into_iter().for_each(|place| self.fault(Fault::SameContent, place));
    }

    /// Returns the size that most images have.
    fn find_other_sizes(&mut self, images: &BTreeMap<PathBuf, ImageFacts>) -> Option<(u32, u32)> {
        let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        for facts in images.values() {
            *counts.entry(facts.size).or_default() += 1;
        }
        let (&most, _) = counts.iter().max_by_key(|(_, count)| **count)?;
        for (path, ImageFacts { size, .. }) in images.iter().filter(|(_, facts)| facts.size != most) {
            self.fault(Fault::OtherSize, format!("{} ({} x {})", show_path(path), size.0, size.1));
        }
        Some(most)
    }

    /// Reads every annotation; returns the images that have one.
    fn check_annotations(&mut self) -> BTreeSet<PathBuf> {
        let dir = self.root.join("objects");
        let is_xml = |path: &Path| path.extension().is_some_and(|extension| extension == "xml");
        let found = match dir.is_dir() {
            true => self.take(Fault::Annotation, files::found_below(&dir, usize::MAX, is_xml)),
            false => None,
        };
        let found = found.unwrap_or_default().wanted.into_iter();
        let files: Vec<PathBuf> =
            found.map(|path| path.strip_prefix(&dir).map_or(path.clone(), PathBuf::from)).collect();
        let num_classes = match files.is_empty() {
            true => None,
            false => self.take(Fault::Annotation, read_class_names(self.root)).map(|names| names.len()),
        };
        let annotations: Vec<Result<Annotation>> =
            files.par_iter().map(|file| Annotation::read(&dir.join(file))).collect();
        for (file, annotation) in files.iter().zip(annotations) {
            let Some(annotation) = self.take(Fault::Annotation, annotation) else { continue };
            let name = show_path(&Path::new("objects").join(file));
            for fault in annotation.classes_out_of_range(num_classes.unwrap_or(usize::MAX)) {
                self.fault(Fault::ObjectClass, format!("{name}: {fault}"));
            }
            for object in annotation.objects.iter().filter(|object| object.polygon.len() < 3) {
                self.fault(Fault::DegeneratePolygon, format!("{name}: line {}", object.line));
            }
        }
        let files: BTreeSet<PathBuf> = files.into_iter().collect();
        let annotated = |path: &&PathBuf| files.contains(&path.with_extension("xml"));
        let images: BTreeSet<PathBuf> =
            self.listed.iter().map(|(_, sample)| &sample.path).filter(annotated).cloned().collect();
        let of_images: BTreeSet<PathBuf> = images.iter().map(|path| path.with_extension("xml")).collect();
        for file in files.difference(&of_images) {
            self.fault(Fault::AnnotationOfNothing, show_path(&Path::new("objects").join(file)));
        }
        images
    }
}

impl ImageFacts {
    fn of(path: &Path) -> Result<ImageFacts> {
        let (bytes, image) = decode::read_and_decode(path)?;
        let mut hash = FieldHash::default();
        hash.write(&bytes);
        Ok(ImageFacts { size: image.dimensions(), content: (bytes.len(), hash.finish()) })
    }
}
