//! `residuum data inspect`: one photo with the outlines and names of its objects.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::flags::{check_picture, write_file};
use crate::data::{self, Annotations, Dataset, OpenOptions, Sample, Split, decode};
use crate::error::{Error, Result};
use crate::report::canvas::{Canvas, Color, TextSize};
use crate::show::show_path;

/// The longer a side of the photo is drawn, in pixels, the smaller its own pixels are zoomed.
const PHOTO_PIXELS: usize = 768;
/// Between the parts of the picture, in pixels.
const MARGIN: i32 = 12;
/// From one line of text to the next, in pixels.
const LINE_PIXELS: i32 = 16;
const LEGEND_PIXELS: u32 = 230;
const PAPER: Color = [250; 3];
const INK: Color = [20; 3];

/// Draw a photo with the outlines and names of its annotated objects
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Data set
    #[arg(long, alias = "data-path", value_name = "DIR")]
    data_dir: PathBuf,
    /// Photo, as the lists write it: train/a/abbey/00000001.jpg
    #[arg(long, value_name = "PATH")]
    image: PathBuf,
    /// PNG file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

impl InspectArgs {
    pub(super) fn run(self) -> Result<()> {
        check_picture("--output", &self.output)?;
        let options = OpenOptions { allow_missing: true, ..OpenOptions::default() };
        let dataset = data::open(&self.data_dir, &options)?;
        let sample = find(&dataset, &self.image)?;
        let path = dataset.image_path(sample);
        let (width, height) = decode::dimensions(&path)?;
        let size = (width.min(height) as usize).min(PHOTO_PIXELS);
        let pixels = decode::decode_image(&path, size)?;
        let annotations = Annotations::of_image(&dataset, &sample.path, size)?;
        let category = sample.label.map_or("", |label| &dataset.categories()[label as usize]);
        let title = format!("{}   {category}", show_path(&sample.path));
        let picture = draw(&title, &pixels, size, &annotations);
        write_file(&self.output, &picture.to_png())?;
        say!("{}: {}", show_path(&sample.path), summary(&annotations));
        say!("drawn in {}", self.output.display());
        Ok(())
    }
}

/// The sample of any split whose path is `image`.
fn find<'a>(dataset: &'a Dataset, image: &Path) -> Result<&'a Sample> {
    let samples =
        || [Split::Train, Split::Val, Split::Test].into_iter().flat_map(|split| dataset.samples(split));
    if let Some(sample) = samples().find(|sample| sample.path == image) {
        return Ok(sample);
    }
    let missing = dataset.missing().iter().any(|path| path == image);
    let wanted = show_path(image);
    let likeness = |sample: &&Sample| common_ends(&sample.path.to_string_lossy(), &image.to_string_lossy());
    let message = match samples().max_by_key(likeness) {
        _ if missing => format!("--image {wanted} is in the lists, but its file is missing"),
        Some(nearest) => {
            format!(
                "--image {wanted}: the lists name no such image; did you mean {}?",
                show_path(&nearest.path)
            )
        }
        None => format!("--image {wanted}: the data set has no images"),
    };
    Err(Error::data(dataset.root(), message))
}

/// How many bytes at the start and at the end two paths share.
fn common_ends(a: &str, b: &str) -> usize {
    let common = |pairs: &mut dyn Iterator<Item = (u8, u8)>| pairs.take_while(|(a, b)| a == b).count();
    common(&mut a.bytes().zip(b.bytes())) + common(&mut a.bytes().rev().zip(b.bytes().rev()))
}

/// The classes of the image's objects with their number, by falling number and then by name.
fn counts(annotations: &Annotations) -> Vec<(u32, usize)> {
    let mut counts: Vec<(u32, usize)> = Vec::new();
    for outline in annotations.outlines(0) {
        match counts.iter_mut().find(|(class, _)| *class == outline.class) {
            Some((_, count)) => *count += 1,
            None => counts.push((outline.class, 1)),
        }
    }
    counts.sort_by_key(|&(class, count)| (std::cmp::Reverse(count), class));
    counts
}

/// What the annotation says, in words.
fn heading(annotations: &Annotations) -> String {
    match (annotations.is_annotated(0), annotations.outlines(0).len()) {
        (false, _) => "no annotation of objects".into(),
        (true, 0) => "annotated, without objects".into(),
        (true, 1) => "1 object".into(),
        (true, count) => format!("{count} objects"),
    }
}

/// [`heading`] and the number of objects of each class.
fn summary(annotations: &Annotations) -> String {
    let name =
        |(class, count): (u32, usize)| format!("{count} {}", annotations.class_names()[class as usize]);
    let names: Vec<String> = counts(annotations).into_iter().map(name).collect();
    let separator = if names.is_empty() { "" } else { ": " };
    format!("{}{separator}{}", heading(annotations), names.join(", "))
}

/// The photo, its outlines and names over it, and next to it what each colour is.
fn draw(title: &str, pixels: &[u8], size: usize, annotations: &Annotations) -> Canvas {
    let counts = counts(annotations);
    let zoom = (PHOTO_PIXELS / size).max(1);
    let side = (size * zoom) as i32;
    let (left, top) = (MARGIN, 2 * MARGIN + LINE_PIXELS);
    let legend_lines = counts.len().max(1) as i32 + 1;
    let height = top + side.max(legend_lines * LINE_PIXELS) + MARGIN;
    let width = left + side + MARGIN + LEGEND_PIXELS as i32;
    let mut canvas = Canvas::new(width as u32, height as u32, PAPER);
    canvas.image((left, top), pixels, size, zoom as u32);
    let frame = Frame { left, top, side, zoom: zoom as f32 };
    let colors = colors(counts.len());
    let color_of =
        |class| counts.iter().zip(&colors).find(|((of, _), _)| *of == class).map_or(INK, |(_, color)| *color);
    for outline in annotations.outlines(0) {
        frame.outline(&mut canvas, outline.points, color_of(outline.class));
    }
    frame.names(&mut canvas, annotations, color_of);
    frame.clear_around(&mut canvas);
    canvas.text((left, MARGIN), title, TextSize::Large, INK);
    legend(&mut canvas, (left + side + MARGIN, top), &counts, &colors, annotations);
    canvas
}

/// The list of classes with their colours and numbers of objects.
fn legend(
    canvas: &mut Canvas,
    (x, mut y): (i32, i32),
    counts: &[(u32, usize)],
    colors: &[Color],
    annotations: &Annotations,
) {
    canvas.text((x, y), &heading(annotations), TextSize::Large, INK);
    y += LINE_PIXELS + MARGIN / 2;
    for ((class, count), color) in counts.iter().zip(colors) {
        canvas.rectangle((x, y), (12, 12), *color);
        let name = format!("{count:>3} {}", annotations.class_names()[*class as usize]);
        canvas.text((x + 16, y + 1), &name, TextSize::Small, INK);
        y += LINE_PIXELS;
    }
}

/// Where the photo lies on the canvas.
struct Frame {
    left: i32,
    top: i32,
    side: i32,
    zoom: f32,
}

impl Frame {
    /// The place on the canvas of a place in the photo.
    fn place(&self, [x, y]: [f32; 2]) -> (i32, i32) {
        let along = |start: i32, v: f32| start + ((v + 0.5) * self.zoom).round() as i32;
        (along(self.left, x), along(self.top, y))
    }

    /// The outline of a polygon, three pixels wide between dark edges.
    fn outline(&self, canvas: &mut Canvas, polygon: &[[f32; 2]], color: Color) {
        const EDGE: [(i32, i32); 4] = [(-2, 0), (2, 0), (0, -2), (0, 2)];
        const CORE: [(i32, i32); 5] = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)];
        for (offsets, color) in [(&EDGE[..], [0; 3]), (&CORE[..], color)] {
            let next = polygon.iter().cycle().skip(1);
            for (&from, &to) in polygon.iter().zip(next) {
                let (from, to) = (self.place(from), self.place(to));
                for (dx, dy) in offsets {
                    canvas.line((from.0 + dx, from.1 + dy), (to.0 + dx, to.1 + dy), color);
                }
            }
        }
    }

    /// A name on each object that has room for it, large objects first.
    fn names(&self, canvas: &mut Canvas, annotations: &Annotations, color_of: impl Fn(u32) -> Color) {
        let mut outlines: Vec<_> = annotations.outlines(0).collect();
        outlines.sort_by(|a, b| area(b.points).total_cmp(&area(a.points)));
        let mut taken: Vec<Label> = Vec::new();
        for outline in outlines {
            let name = &annotations.class_names()[outline.class as usize];
            let Some(label) =
                self.candidates(name, outline.points).find(|label| !taken.iter().any(|t| t.overlaps(label)))
            else {
                continue;
            };
            label.draw(canvas, name, color_of(outline.class));
            taken.push(label);
        }
    }

    /// Places for the name of an object: its middle, then its corners.
    fn candidates<'a>(&'a self, name: &str, polygon: &'a [[f32; 2]]) -> impl Iterator<Item = Label> + 'a {
        let size = (TextSize::Small.width(name) as i32 + 4, TextSize::Small.height() as i32 + 2);
        let count = polygon.len().max(1) as f32;
        let mean = |axis: usize| polygon.iter().map(|point| point[axis]).sum::<f32>() / count;
        [[mean(0), mean(1)]].into_iter().chain(polygon.iter().copied()).map(move |point| {
            let (x, y) = self.place(point);
            let within =
                |v: i32, start: i32, extent: i32| (v - extent / 2).clamp(start, start + self.side - extent);
            Label { at: (within(x, self.left, size.0), within(y, self.top, size.1)), size }
        })
    }

    /// Clears what outlines have drawn next to the photo.
    fn clear_around(&self, canvas: &mut Canvas) {
        let (width, height) = canvas.size();
        let (right, bottom) = (self.left + self.side, self.top + self.side);
        canvas.rectangle((0, 0), (width, self.top as u32), PAPER);
        canvas.rectangle((0, bottom), (width, height - bottom as u32), PAPER);
        canvas.rectangle((0, 0), (self.left as u32, height), PAPER);
        canvas.rectangle((right, 0), (width - right as u32, height), PAPER);
    }
}

/// A box with a name in it.
#[derive(Debug, Clone, Copy)]
struct Label {
    at: (i32, i32),
    size: (i32, i32),
}

impl Label {
    fn overlaps(&self, other: &Label) -> bool {
        let apart = |a: i32, a_extent: i32, b: i32, b_extent: i32| a + a_extent <= b || b + b_extent <= a;
        !(apart(self.at.0, self.size.0, other.at.0, other.size.0)
            || apart(self.at.1, self.size.1, other.at.1, other.size.1))
    }

    fn draw(&self, canvas: &mut Canvas, name: &str, color: Color) {
        let ((x, y), (width, height)) = (self.at, self.size);
        canvas.rectangle((x - 1, y - 1), (width as u32 + 2, height as u32 + 2), [0; 3]);
        canvas.rectangle((x, y), (width as u32, height as u32), color);
        let ink = if luminance(color) > 120.0 { [0; 3] } else { [255; 3] };
        canvas.text((x + 2, y + 1), name, TextSize::Small, ink);
    }
}

/// Brightness as the eye sees it, 0 to 255 (ITU-R BT.601).
fn luminance([red, green, blue]: Color) -> f32 {
    0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)
}

/// The area of a polygon's bounding box.
fn area(polygon: &[[f32; 2]]) -> f32 {
    let extent = |axis: usize| {
        let along = polygon.iter().map(|point| point[axis]);
        along.clone().fold(f32::MIN, f32::max) - along.fold(f32::MAX, f32::min)
    };
    extent(0) * extent(1)
}

/// So many colours, neighbours as different as can be: hues by the golden ratio, in turn bright, light and dark.
fn colors(count: usize) -> Vec<Color> {
    const GOLDEN_RATIO: f32 = 0.618_034;
    const SHADES: [(f32, f32); 3] = [(1.0, 0.55), (0.75, 0.8), (0.9, 0.33)];
    (0..count)
        .map(|i| {
            let (saturation, lightness) = SHADES[i / 3 % 3];
            hsl((i as f32 * GOLDEN_RATIO).fract(), saturation, lightness)
        })
        .collect()
}

/// The colour of this hue (0 to 1, from red over green and blue), saturation and lightness.
fn hsl(hue: f32, saturation: f32, lightness: f32) -> Color {
    let amplitude = saturation * lightness.min(1.0 - lightness);
    [0.0, 8.0, 4.0].map(|offset| {
        let k = (offset + hue * 12.0) % 12.0;
        let value = lightness - amplitude * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (value * 255.0).round() as u8
    })
}
