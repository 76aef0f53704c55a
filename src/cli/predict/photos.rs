//! Photos named by their categories: as text, JSON or CSV, and drawn.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::{MAX_DRAWN, PICTURE_SIZE, PredictArgs};
use crate::cli::flags::write_file;
use crate::cli::output::{self, Csv};
use crate::data::{Crop, decode_crops, decode_image, photos_below};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::grad_cam::Explainer;
use crate::infer::model_file::ModelFile;
use crate::infer::predictor::{BATCH_SIZE, Photo, Predictor, Prepare};
use crate::progress::Progress;
use crate::report::{EVIDENCE, PhotoTile, heat_map, sheet};
use crate::show::{show_path, tell};
use crate::step::scores;

/// Photos decoded before the model is asked about them.
const PART: usize = 4 * BATCH_SIZE;

/// Names of categories that a message offers.
const NUM_OFFERED: usize = 5;

/// A photo and its most probable categories, label and probability.
type Named = (PathBuf, Vec<(usize, f32)>);

/// How answers are printed.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Text,
    Json,
    Csv,
}

/// The photos that were named, those of folders by their names.
fn photos(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut photos = Vec::new();
    for path in named {
        if !path.is_dir() {
            photos.push(path.clone());
            continue;
        }
        let (found, remark) = photos_below(path)?;
        if let Some(remark) = remark {
            tell(format_args!("{}: {remark}", show_path(path)));
        }
        photos.extend(found);
    }
    match photos.first() {
        Some(_) => Ok(photos),
        None => Err(Error::data(&named[0], "the folder has no photos")),
    }
}

/// Answers for every photo that can be read.
pub(super) fn predict(args: &PredictArgs, file: &ModelFile, device: Device) -> Result<()> {
    let categories = file.shown_categories();
    let explained = args.category.as_deref().map(|name| category_called(&categories, name)).transpose()?;
    let crops = args.views.crops(file.card.img_size)?;
    let mut photos: VecDeque<PathBuf> = photos(&args.photos)?.into();
    let num_photos = photos.len();
    let mut predictor = Predictor::new(file, &crops, args.views.views(), num_photos, device)?;
    let mut printer = Printer::new(args.form(), &categories)?;
    let (mut drawn, mut failures): (Vec<Named>, Vec<Error>) = Default::default();
    let progress = Progress::start("predicting", num_photos);
    while !photos.is_empty() {
        let part: Vec<PathBuf> = photos.drain(..PART.min(photos.len())).collect();
        let decoded: Vec<Result<Photo>> = part.par_iter().map(|photo| decode_crops(photo, &crops)).collect();
        let readable: Vec<Photo> = decoded.iter().filter_map(|photo| photo.as_ref().ok()).cloned().collect();
        let mut rows = predictor.scores(&readable)?.into_iter();
        for (photo, decoded) in part.into_iter().zip(decoded) {
            match decoded {
                Ok(_) => {
                    let row = rows.next().expect("a row for each photo");
                    let top = scores::top(&row, args.top);
                    printer.answer(&photo, &top)?;
                    if drawn.len() < MAX_DRAWN {
                        drawn.push((photo, top));
                    }
                }
                Err(error) => {
                    printer.failure(&photo, &error)?;
                    failures.push(error);
                }
            }
            progress.add(1);
        }
    }
    drop(progress);
    printer.end()?;
    draw(args, (file, &categories), &drawn, (explained, device))?;
    if num_photos - failures.len() > drawn.len() && (args.output.is_some() || args.explain.is_some()) {
        tell(format_args!("a picture has room for {MAX_DRAWN} photos: the first ones are drawn"));
    }
    failed(failures, num_photos)
}

/// What a command comes to of which these photos could not be read.
fn failed(mut failures: Vec<Error>, num_photos: usize) -> Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        count => {
            failures.iter().for_each(tell);
            Err(Error::Unreadable { count, of: num_photos })
        }
    }
}

/// Prints answers as they come.
struct Printer<'a> {
    form: Form,
    categories: &'a [&'a str],
    num_printed: usize,
}

impl Printer<'_> {
    fn new<'a>(form: Form, categories: &'a [&'a str]) -> Result<Printer<'a>> {
        match form {
            Form::Text => {}
            Form::Json => output::print("[")?,
            Form::Csv => {
                output::print(Csv::new(["image", "rank", "label", "category", "probability"]).into_text())?;
            }
        }
        Ok(Printer { form, categories, num_printed: 0 })
    }

    fn answer(&mut self, photo: &Path, top: &[(usize, f32)]) -> Result<()> {
        match self.form {
            Form::Text => {
                say!("{}", show_path(photo));
                for &(label, share) in top {
                    say!("  {:5.1} %  {}", 100.0 * share, self.categories[label]);
                }
                Ok(())
            }
            Form::Json => {
                let answer = |&(label, probability): &(usize, f32)| json!({"label": label, "category": self.categories[label], "probability": probability});
                let predictions: Vec<Value> = top.iter().map(answer).collect();
                self.element(json!({"image": photo.to_string_lossy(), "predictions": predictions}))
            }
            Form::Csv => {
                let mut csv = Csv::empty();
                for (rank, &(label, probability)) in (1..).zip(top) {
                    let name = self.categories[label].to_string();
                    let numbers: [String; 2] = [rank, label].map(|number: usize| number.to_string());
                    let [rank, label] = numbers;
                    let image = photo.to_string_lossy().into_owned();
                    csv.row([image, rank, label, name, probability.to_string()]);
                }
                output::print(csv.into_text())
            }
        }
    }

    fn failure(&mut self, photo: &Path, error: &Error) -> Result<()> {
        match self.form {
            Form::Json => self.element(json!({"image": photo.to_string_lossy(), "error": error.to_string()})),
            // It is told on stderr.
            Form::Text | Form::Csv => Ok(()),
        }
    }

    /// The next element of the array, on a line of its own.
    fn element(&mut self, element: Value) -> Result<()> {
        let before = if self.num_printed == 0 { "\n" } else { ",\n" };
        self.num_printed += 1;
        output::print(format_args!("{before}{element}"))
    }

    fn end(self) -> Result<()> {
        match self.form {
            Form::Json => output::print("\n]\n"),
            Form::Text | Form::Csv => Ok(()),
        }
    }
}

/// Draws the pictures that were asked for, where photos could be read.
fn draw(
    args: &PredictArgs,
    (file, categories): (&ModelFile, &[&str]),
    photos: &[Named],
    (explained, device): (Option<usize>, Device),
) -> Result<()> {
    let Some(_) = photos.first() else { return Ok(()) };
    // What is said of pictures must not stand in what another program reads.
    let said = |what: String| match args.form() {
        Form::Text => output::print(format_args!("{what}\n")),
        Form::Json | Form::Csv => {
            tell(what);
            Ok(())
        }
    };
    if let Some(output) = &args.output {
        let tile = |(photo, top): &Named| {
            let bars = top.iter().map(|&(label, share)| (categories[label].to_string(), share)).collect();
            let pictures = vec![decode_image(photo, PICTURE_SIZE)?];
            Ok(PhotoTile { pictures, title: show_path(photo), bars, ..PhotoTile::default() })
        };
        let tiles: Vec<PhotoTile> = photos.iter().map(tile).collect::<Result<_>>()?;
        write_file(output, &sheet(&tiles, PICTURE_SIZE).to_png())?;
        said(format!("picture: {}", output.display()))?;
    }
    if let Some(output) = &args.explain {
        let mut explainer = Explainer::new(file, device)?;
        let progress = Progress::start("explaining", photos.len());
        let (prepare, crop) = (Prepare::new(file), args.views.crop(file.card.img_size)?);
        let shown = Crop { size: PICTURE_SIZE, resize: PICTURE_SIZE * crop.resize / crop.size };
        let tile = |(photo, _): &Named| {
            let [image, pixels] = decode_crops(photo, &[crop, shown])?.try_into().expect("two crops");
            let explanation = explainer.explain(&prepare.to_image(&image), explained)?;
            let heat = heat_map(&pixels, PICTURE_SIZE, &explanation.heat(), explanation.extents[1]);
            progress.add(1);
            let (name, share) = (categories[explanation.category], 100.0 * explanation.probability);
            Ok(PhotoTile {
                pictures: vec![pixels, heat],
                title: format!("{name} {share:.1} %"),
                note: show_path(photo),
                scale: Some(EVIDENCE),
                bars: vec![],
            })
        };
        let tiles: Vec<PhotoTile> = photos.iter().map(tile).collect::<Result<_>>()?;
        write_file(output, &sheet(&tiles, PICTURE_SIZE).to_png())?;
        said(format!("where it was seen: {}", output.display()))?;
    }
    Ok(())
}

/// The label of the category called `name`.
fn category_called(categories: &[&str], name: &str) -> Result<usize> {
    categories.iter().position(|category| *category == name).ok_or_else(|| {
        let near: Vec<&str> =
            categories.iter().copied().filter(|known| known.contains(name)).take(NUM_OFFERED).collect();
        let hint = if near.is_empty() { &categories[..categories.len().min(NUM_OFFERED)] } else { &near };
        let count = categories.len();
        Error::Usage(format!(
            "--category `{name}` is none of the {count} categories of the model; take one as {}",
            hint.join(", ")
        ))
    })
}
