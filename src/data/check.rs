//! An audit of a whole data set: everything that would stop training, and much of what would spoil it.
//!
//! Training stops at the first fault; this goes on and collects them all, so it reads lists and folders more leniently
//! than [`open`](super::open) does, though by the same rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::annotations::read_class_names;
use super::files::{FieldHash, is_image, sorted_entries, sorted_images};
use super::objects::Annotation;
use super::open::{absolute, is_miniplaces, not_a_data_set};
use super::progress::Progress;
use super::{Sample, Split, decode, folder, miniplaces};
use crate::error::{Error, Result};

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
    let mut auditor = Auditor { root, faults: BTreeMap::new(), listed: Vec::new() };
    let (format, image_dir, num_categories) = if is_miniplaces(root) {
        let image_dir = root.join("images");
        ("miniplaces", image_dir.clone(), auditor.read_miniplaces(&image_dir))
    } else if root.join(Split::Train.name()).is_dir() {
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
    Ok(Audit { format, num_categories, image_size, splits, faults: auditor.faults })
}

/// What is known of a data set while it is audited.
struct Auditor<'a> {
    root: &'a Path,
    faults: BTreeMap<Fault, Vec<String>>,
    listed: Vec<(Split, Sample)>,
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
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
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
        self.list_test_images(&image_dir.join(Split::Test.name()), image_dir);
        num_categories
    }

    /// Reads the class folders of a tree and returns the number of categories.
    fn read_folders(&mut self) -> Option<usize> {
        let root = self.root;
        let classes = self.take(Fault::List, folder::class_folders(&root.join(Split::Train.name())))?;
        for split in [Split::Train, Split::Val] {
            let dir = root.join(split.name());
            for class in self.take(Fault::List, folder::class_folders(&dir)).unwrap_or_default() {
                let dir = dir.join(&class);
                let Ok(label) = classes.binary_search(&class) else {
                    let place = self.relative(&dir);
                    self.fault(
                        Fault::List,
                        format!("{place}: train/ has no class of this name to learn it from"),
                    );
                    continue;
                };
                let images = self.take(Fault::List, sorted_images(&dir)).unwrap_or_default();
                if images.is_empty() {
                    let place = self.relative(&dir);
                    self.fault(
                        Fault::List,
                        format!("{place}: the class folder has no .jpg, .jpeg or .png images"),
                    );
                }
                let below_root = |path: PathBuf| path.strip_prefix(root).map_or(path.clone(), PathBuf::from);
                let samples = images
                    .into_iter()
                    .map(|path| Sample { path: below_root(path), label: Some(label as u32) });
                self.listed.extend(samples.map(|sample| (split, sample)));
            }
        }
        self.list_test_images(&root.join(Split::Test.name()), root);
        Some(classes.len())
    }

    /// The images directly in `dir` are those of the test split.
    fn list_test_images(&mut self, dir: &Path, image_dir: &Path) {
        if !dir.is_dir() {
            return;
        }
        for path in self.take(Fault::List, sorted_images(dir)).unwrap_or_default() {
            let path = path.strip_prefix(image_dir).map_or(path.clone(), PathBuf::from);
            self.listed.push((Split::Test, Sample { path, label: None }));
        }
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
                    again.push(format!("{} with two labels", path.display()))
                }
                Some((other, _)) if other != split => again.push(format!("{} in two lists", path.display())),
                Some(_) => again.push(path.display().to_string()),
            }
        }
        again.into_iter().for_each(|place| self.fault(Fault::ListedTwice, place));
    }

    /// Decodes every listed image and every other one on disk; returns those that can be, and the size of most.
    fn check_images(&mut self, image_dir: &Path) -> (BTreeSet<PathBuf>, Option<(u32, u32)>) {
        let listed: BTreeMap<PathBuf, Split> =
            self.listed.iter().map(|(split, sample)| (sample.path.clone(), *split)).collect();
        let dirs = [Split::Train, Split::Val, Split::Test].map(|split| image_dir.join(split.name()));
        let on_disk: BTreeSet<PathBuf> =
            dirs.iter().flat_map(|dir| files_below(dir, image_dir, is_image)).collect();
        let paths: BTreeSet<&PathBuf> = listed.keys().chain(&on_disk).collect();
        let paths: Vec<&PathBuf> = paths.into_iter().collect();
        let progress = Progress::start("checking images".into(), paths.len());
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
            let name = path.display();
            let split = listed.get(path);
            if split.is_none() {
                self.fault(Fault::NotListed, name.to_string());
            }
            match (facts, split) {
                (Ok(facts), _) => {
                    usable.insert(path.clone(), facts);
                }
                (Err(_), None) => {}
                (Err(_), Some(_)) if !image_dir.join(path).is_file() => {
                    self.fault(Fault::MissingImage, name.to_string());
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
        let names = |paths: Vec<&PathBuf>| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" = ")
        };
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
            self.fault(Fault::OtherSize, format!("{} ({} x {})", path.display(), size.0, size.1));
        }
        Some(most)
    }

    /// Reads every annotation; returns the images that have one.
    fn check_annotations(&mut self) -> BTreeSet<PathBuf> {
        let dir = self.root.join("objects");
        let is_xml = |path: &Path| path.extension().is_some_and(|extension| extension == "xml");
        let files = files_below(&dir, &dir, is_xml);
        let num_classes = match files.is_empty() {
            true => None,
            false => self.take(Fault::Annotation, read_class_names(self.root)).map(|names| names.len()),
        };
        let annotations: Vec<Result<Annotation>> =
            files.par_iter().map(|file| Annotation::read(&dir.join(file))).collect();
        for (file, annotation) in files.iter().zip(annotations) {
            let Some(annotation) = self.take(Fault::Annotation, annotation) else { continue };
            let name = Path::new("objects").join(file).display().to_string();
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
            self.fault(Fault::AnnotationOfNothing, Path::new("objects").join(file).display().to_string());
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

/// The files below `dir` that are wanted, as paths below `base`, sorted; none where there is no such folder.
fn files_below(dir: &Path, base: &Path, is_wanted: impl Fn(&Path) -> bool + Copy) -> Vec<PathBuf> {
    let entries = sorted_entries(dir).unwrap_or_default();
    let below = |path: PathBuf| -> Vec<PathBuf> {
        if path.is_dir() {
            files_below(&path, base, is_wanted)
        } else if is_wanted(&path) {
            vec![path.strip_prefix(base).map_or(path.clone(), PathBuf::from)]
        } else {
            Vec::new()
        }
    };
    entries.into_iter().flat_map(below).collect()
}
