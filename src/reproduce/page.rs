//! The page of a reproduction: each table and figure of the paper, its numbers next to ours.

use super::experiments::EXPERIMENTS;
use super::{Done, Gallery, Options, Part, SHOWN_SEED};
use crate::data::{self, OpenOptions, Split, decode_image};
use crate::error::Result;
use crate::report::{Align, Body, Cell, Chart, Figure, Page, Section, Series, Table, YAxis};
use crate::run::metrics::Epoch;
use crate::show::{show_count, show_seconds};
use crate::transform::Image;

/// Height and width of the photo of figure 4.
const FIGURE_4_SIZE: usize = 128;

/// Top-1 and top-5 error in percent, as the paper prints them.
type Errors = (f64, f64);

/// Seconds of an epoch of 2000 iterations: table 1.
const TABLE_1: [(&str, f64); 3] = [("resnet18", 300.0), ("resnet34", 500.0), ("resnet50", 1000.0)];
/// Table 2.
const TABLE_2: [(&str, Errors); 3] =
    [("resnet18", (63.68, 33.1)), ("resnet34", (63.42, 32.34)), ("resnet50", (65.42, 33.54))];
/// Table 3. Its first row repeats ResNet-18's numbers of table 2 where its text says ResNet-50.
const TABLE_3: [(&str, Option<Errors>); 4] = [
    ("resnet50", Some((63.68, 33.1))),
    ("keras-224", Some((55.04, 25.16))),
    ("pretrained", Some((43.23, 15.53))),
    ("modern", None),
];
/// The runs that separate size from form: a row for each form, 128 and 224 pixels.
const GAP: [(&str, [&str; 2]); 3] = [
    ("v1, as Keras", ["v1-128", "keras-224"]),
    ("v1.5", ["v1.5-128", "v1.5-224"]),
    ("v2", ["resnet50", "v2-224"]),
];
/// Section 5 says that masks made no difference, and measured nothing else.
const SECTION_5: [&str; 4] = ["resnet50", "masks", "vector", "codes"];

/// What stands where a run is missing.
const NOT_RUN: &str = "not run";

/// The page of what is done so far.
pub(super) fn page(options: &Options, done: &[Done]) -> Result<Page> {
    let results = Results(done);
    let mut sections = vec![Section::new("What this is", Body::Text(introduction(options)))];
    for (_, part) in Part::ALL.iter().filter(|(_, part)| options.parts.contains(part)) {
        match part {
            Part::Table1 => sections.push(table("Table 1: time of an epoch", results.table_1())),
            Part::Table2 => sections.push(table("Table 2: depth", results.table_2())),
            Part::Table3 => {
                sections.push(table("Table 3: size, and the pretrained bound", results.table_3(options)));
                sections.push(table("What table 3 could not explain: size or form?", results.gap()));
            }
            Part::Fig3 => sections.push(results.figure_3()),
            Part::Fig4 => sections.push(figure_4(options)?),
            Part::Section5 => {
                sections.push(table("Section 5: objects", results.section_5()));
                sections.push(results.section_5_curves());
            }
        }
    }
    sections.push(table("The runs behind the numbers", results.runs()));
    let scale = if options.quick { " in miniature: quick runs, not comparable with the paper" } else { "" };
    Ok(Page {
        title: format!("\u{201c}ResNet on MiniPlaces\u{201d} reproduced{scale}"),
        subtitle: format!("{} of {} runs done", done.len(), super::experiments::needed(options).len()),
        sections,
        ..Page::default()
    })
}

fn introduction(options: &Options) -> Vec<String> {
    let mut paragraphs = vec![
        "Each number of the paper (J. Hu, \u{201c}ResNet on Miniplaces Dataset\u{201d}) next to ours, which leads to the \
         report of its run. Errors are in percent on the validation images, after the epoch with the lowest top-1 error."
            .to_string(),
    ];
    if options.quick {
        paragraphs.push(
            "These runs are scaled down to seconds: 10 categories, 480 training images, 45 updates, and 32 or 56 \
             pixels where a title says 128 or 224. They \
             show that every experiment runs from end to end, and say nothing about the paper's results."
                .into(),
        );
    }
    paragraphs
}

fn table(title: &str, table: Table) -> Section {
    Section::new(title, Body::Table(table))
}

/// `63.7 / 33.1`
fn errors((top1, top5): Errors) -> String {
    format!("{top1:.2} / {top5:.2}")
}

/// The runs there are.
struct Results<'a>(&'a [Done]);

impl Results<'_> {
    fn find(&self, key: &str) -> Option<&Done> {
        self.0.iter().find(|done| done.experiment.key == key)
    }

    /// Best errors of a run, leading to its report.
    fn errors(&self, key: &str) -> Cell {
        let best = |done: &Done| best(done).map(|epoch| errors((epoch.eval_err1, epoch.eval_err5)));
        self.linked(key, best)
    }

    fn linked(&self, key: &str, show: impl Fn(&Done) -> Option<String>) -> Cell {
        self.find(key)
            .and_then(|done| Some(Cell::link(show(done)?, report_of(done))))
            .unwrap_or_else(|| NOT_RUN.into())
    }

    fn table_1(&self) -> Table {
        let mut table = Table::new([
            ("Network", Align::Left),
            ("Paper", Align::Right),
            ("Ours", Align::Right),
            ("Updates", Align::Right),
            ("Images/s", Align::Right),
        ]);
        for (key, seconds) in TABLE_1 {
            let of_epochs = |show: fn(&Done, &Epoch) -> String| {
                self.linked(key, |done| done.records.epochs.last().map(|epoch| show(done, epoch)))
            };
            table.row([
                title_of(key).into(),
                format!("{seconds:.0} s").into(),
                self.linked(key, |done| mean_epoch_seconds(done).map(show_seconds)),
                of_epochs(|done, _| {
                    done.config.steps_per_epoch.map_or(String::new(), |steps| show_count(steps as usize))
                }),
                of_epochs(|_, epoch| format!("{:.1}", epoch.img_s)),
            ]);
        }
        table
    }

    fn table_2(&self) -> Table {
        let mut table = Table::new([
            ("Network", Align::Left),
            ("Paper, top-1 / top-5", Align::Right),
            ("Ours, top-1 / top-5", Align::Right),
        ]);
        for (key, paper) in TABLE_2 {
            table.row([title_of(key).into(), errors(paper).into(), self.errors(key)]);
        }
        table
    }

    fn table_3(&self, options: &Options) -> Table {
        let mut table = Table::new([
            ("Network", Align::Left),
            ("Paper, top-1 / top-5", Align::Right),
            ("Ours, top-1 / top-5", Align::Right),
            ("Remark", Align::Left),
        ]);
        for (key, paper) in TABLE_3 {
            let remark = match key {
                "resnet50" => "the paper repeats ResNet-18's numbers here",
                "pretrained" if self.find("pretraining").is_some() => {
                    "starts from a stand-in for ImageNet's weights"
                }
                "pretrained" if options.pretrained.is_none() => "needs --pretrained FILE",
                "modern" => "from scratch; meant to beat the bound",
                _ => "",
            };
            let paper = paper.map_or("\u{2013}".into(), errors);
            table.row([title_of(key).into(), paper.into(), self.errors(key), remark.into()]);
        }
        table
    }

    fn gap(&self) -> Table {
        let mut table = Table::new([
            ("Variant of the blocks", Align::Left),
            ("128 pixels", Align::Right),
            ("224 pixels", Align::Right),
        ]);
        for (form, [small, large]) in GAP {
            table.row([form.into(), self.errors(small), self.errors(large)]);
        }
        table
    }

    fn figure_3(&self) -> Section {
        let title = "Figure 3: the baseline overfits";
        let Some(done) = self.find("baseline") else {
            return Section::new(title, Body::Text(vec![NOT_RUN.into()]));
        };
        let series = [
            curve("training, top-1", done, |epoch| epoch.train_err1),
            curve("validation, top-1", done, |epoch| epoch.eval_err1),
        ];
        let about = "the paper: training towards 0, validation about 75 %";
        Section::new(title, Body::Charts(vec![chart(about, series.into())]))
    }

    fn section_5(&self) -> Table {
        let mut table = Table::new([
            ("Network", Align::Left),
            ("Paper", Align::Left),
            ("Ours, top-1 / top-5", Align::Right),
            ("Parameters", Align::Right),
        ]);
        for key in SECTION_5 {
            let paper = match key {
                "resnet50" => "65.42 / 33.54",
                "masks" => "a negligible difference",
                _ => "proposed, not tried",
            };
            let parameters = self
                .linked(key, |done| done.records.runs.last().map(|run| show_count(run.parameters as usize)));
            table.row([title_of(key).into(), paper.into(), self.errors(key), parameters]);
        }
        table
    }

    fn section_5_curves(&self) -> Section {
        let of = |key: &&str| self.find(key).map(|done| curve(key, done, |epoch| epoch.eval_err1));
        let series = SECTION_5.iter().filter_map(of).collect();
        Section::new("Section 5: validation error by epoch", Body::Charts(vec![chart("top-1", series)]))
    }

    fn runs(&self) -> Table {
        let mut table = Table::new([
            ("Run", Align::Left),
            ("Model", Align::Left),
            ("Pixels", Align::Right),
            ("Updates", Align::Right),
            ("Training time", Align::Right),
            ("Seed", Align::Right),
            ("Device", Align::Left),
            ("Commit", Align::Left),
        ]);
        for done in self.0 {
            let seconds: f64 = done.records.epochs.iter().map(|epoch| epoch.train_seconds).sum();
            let updates = done.records.epochs.last().map_or(0, |epoch| epoch.step);
            let model = done.records.runs.last().map(|run| run.model.clone()).unwrap_or_default();
            table.row([
                Cell::link(folder_of(done), report_of(done)),
                model.into(),
                done.config.img_size.to_string().into(),
                show_count(updates as usize).into(),
                show_seconds(seconds).into(),
                done.config.seed.to_string().into(),
                done.env.device.clone().into(),
                done.env.commit.clone().unwrap_or_else(|| "unknown".into()).into(),
            ]);
        }
        table
    }
}

fn title_of(key: &str) -> &'static str {
    let experiment = EXPERIMENTS.iter().find(|experiment| experiment.key == key);
    experiment.map(|experiment| experiment.title).expect("tables are made of experiments")
}

/// The epoch with the lowest top-1 error.
fn best(done: &Done) -> Option<&Epoch> {
    done.records.epochs.iter().min_by(|a, b| a.eval_err1.total_cmp(&b.eval_err1))
}

fn mean_epoch_seconds(done: &Done) -> Option<f64> {
    let epochs = &done.records.epochs;
    let seconds: f64 = epochs.iter().map(|epoch| epoch.train_seconds).sum();
    (!epochs.is_empty()).then(|| seconds / epochs.len() as f64)
}

fn folder_of(done: &Done) -> String {
    let name = done.dir.path().file_name();
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn report_of(done: &Done) -> String {
    format!("runs/{}/report.html", folder_of(done))
}

fn curve(label: &str, done: &Done, y: fn(&Epoch) -> f64) -> Series {
    let points = done.records.epochs.iter().map(|epoch| ((epoch.epoch + 1) as f64, y(epoch))).collect();
    Series { label: label.into(), points, band: vec![] }
}

fn chart(title: &str, series: Vec<Series>) -> Chart {
    Chart { title: title.into(), x_label: "epoch".into(), unit: " %".into(), y_axis: YAxis::FromZero, series }
}

fn figure_4(options: &Options) -> Result<Section> {
    let dataset =
        data::open(&options.data_dir, &OpenOptions { allow_missing: true, ..OpenOptions::default() })?;
    let sample = &dataset.samples(Split::Train)[0];
    let pixels = decode_image(&dataset.image_path(sample), FIGURE_4_SIZE)?;
    let gallery = Gallery::figure_4(Image::new(&pixels, FIGURE_4_SIZE, FIGURE_4_SIZE), SHOWN_SEED);
    let name = sample.path.display().to_string();
    let figure = Figure {
        images: vec![gallery.draw().to_png()],
        alt: format!("{name} and eight augmentations of it"),
        caption: vec!["The original and the paper's eight augmentations".into(), name],
    };
    Ok(Section::new("Figure 4: the augmentations", Body::Figures(vec![figure])))
}
