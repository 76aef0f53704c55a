//! The page of a reproduction: each table and figure of the paper, its numbers next to ours.

use std::fmt;

use super::experiments::EXPERIMENTS;
use super::{Done, Gallery, Options, Part, SHOWN_SEED};
use crate::data::{self, OpenOptions, Split, decode_image};
use crate::error::Result;
use crate::report::{Align, Body, Cell, Chart, Figure, Page, Section, Series, Table, YAxis};
use crate::run::metrics::Epoch;
use crate::show::{show_count, show_rate, show_seconds};
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
/// What stands where there is no number.
const NONE: &str = "\u{2013}";

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
        subtitle: format!("{} of {} runs done", done.len(), super::wanted_runs(options).len()),
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
    if options.num_seeds > 1 {
        paragraphs.push(format!(
            "Each experiment is run with {} seeds. Where several are done, a number is their mean with the standard \
             deviation from run to run, and a curve is their mean over the range from the lowest to the highest.",
            options.num_seeds
        ));
    }
    if options.quick {
        paragraphs.push(
            "These runs are scaled down to seconds: 10 categories, 160 training images, 15 updates, and 32 or 56 \
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

/// `63.70 / 33.10`
fn errors((top1, top5): Errors) -> String {
    format!("{top1:.2} / {top5:.2}")
}

/// Mean and, of two numbers or more, sample standard deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    mean: f64,
    deviation: Option<f64>,
}

impl Spread {
    fn of(numbers: &[f64]) -> Spread {
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        Spread { mean, deviation: (numbers.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
    }
}

/// `63.70`, or `63.70 ± 0.21` of several runs.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.mean)?;
        self.deviation.map_or(Ok(()), |deviation| write!(f, " \u{b1} {deviation:.2}"))
    }
}

/// The runs there are.
struct Results<'a>(&'a [Done]);

impl Results<'_> {
    /// The runs of an experiment, one for each seed.
    fn all(&self, key: &str) -> Vec<&Done> {
        self.0.iter().filter(|done| done.experiment.key == key).collect()
    }

    /// The run of an experiment with the first seed.
    fn find(&self, key: &str) -> Option<&Done> {
        self.0.iter().find(|done| done.experiment.key == key)
    }

    /// Best top-1 error of each run of an experiment, and the top-5 error of the same epoch.
    fn best_errors(&self, key: &str) -> Option<[Spread; 2]> {
        let epochs: Vec<&Epoch> = self.all(key).into_iter().filter_map(best).collect();
        let of = |y: fn(&Epoch) -> f64| Spread::of(&epochs.iter().map(|epoch| y(epoch)).collect::<Vec<_>>());
        (!epochs.is_empty()).then(|| [of(|epoch| epoch.eval_err1), of(|epoch| epoch.eval_err5)])
    }

    /// Best errors of an experiment, leading to the report of its first run.
    fn errors(&self, key: &str) -> Cell {
        self.linked(key, |_| self.best_errors(key).map(|[top1, top5]| format!("{top1} / {top5}")))
    }

    /// Ours less the paper's, in percentage points.
    fn difference(&self, key: &str, paper: Option<Errors>) -> Cell {
        let both = self.best_errors(key).zip(paper);
        both.map_or(NONE.to_string(), |([top1, top5], paper)| {
            format!("{:+.2} / {:+.2}", top1.mean - paper.0, top5.mean - paper.1)
        })
        .into()
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
            ("Difference", Align::Right),
            ("Updates", Align::Right),
            ("Images/s", Align::Right),
        ]);
        for (key, seconds) in TABLE_1 {
            let of_epochs = |show: fn(&Done, &Epoch) -> String| {
                self.linked(key, |done| done.records.epochs.last().map(|epoch| show(done, epoch)))
            };
            let times: Vec<f64> = self.all(key).into_iter().filter_map(mean_epoch_seconds).collect();
            let ours = (!times.is_empty()).then(|| Spread::of(&times).mean);
            table.row([
                title_of(key).into(),
                format!("{seconds:.0} s").into(),
                self.linked(key, |_| ours.map(show_seconds)),
                ours.map_or(NONE.into(), |ours| format!("{:+.0} %", 100.0 * (ours / seconds - 1.0))).into(),
                of_epochs(|done, _| {
                    done.config.steps_per_epoch.map_or(String::new(), |steps| show_count(steps as usize))
                }),
                of_epochs(|_, epoch| show_rate(epoch.img_s)),
            ]);
        }
        table
    }

    fn table_2(&self) -> Table {
        let mut table = Table::new([
            ("Network", Align::Left),
            ("Paper, top-1 / top-5", Align::Right),
            ("Ours, top-1 / top-5", Align::Right),
            ("Difference", Align::Right),
        ]);
        for (key, paper) in TABLE_2 {
            let difference = self.difference(key, Some(paper));
            table.row([title_of(key).into(), errors(paper).into(), self.errors(key), difference]);
        }
        table
    }

    fn table_3(&self, options: &Options) -> Table {
        let mut table = Table::new([
            ("Network", Align::Left),
            ("Paper, top-1 / top-5", Align::Right),
            ("Ours, top-1 / top-5", Align::Right),
            ("Difference", Align::Right),
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
            let difference = self.difference(key, paper);
            let paper = paper.map_or(NONE.into(), errors);
            table.row([title_of(key).into(), paper.into(), self.errors(key), difference, remark.into()]);
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
        let runs = self.all("baseline");
        if runs.is_empty() {
            return Section::new(title, Body::Text(vec![NOT_RUN.into()]));
        }
        let series = [
            curve("training, top-1", &runs, |epoch| epoch.train_err1),
            curve("validation, top-1", &runs, |epoch| epoch.eval_err1),
        ];
        let about = "the paper: training towards 0, validation about 75 %";
        Section::new(title, Body::Charts(vec![chart(about, series.into())]))
    }

    fn section_5(&self) -> Table {
        let mut table = Table::new([
            ("Network", Align::Left),
            ("Paper", Align::Left),
            ("Ours, top-1 / top-5", Align::Right),
            ("Difference", Align::Right),
            ("Parameters", Align::Right),
        ]);
        for key in SECTION_5 {
            let printed = TABLE_2.iter().find(|(printed, _)| *printed == key).map(|(_, paper)| *paper);
            let paper = match (printed, key) {
                (Some(paper), _) => errors(paper),
                (None, "masks") => "a negligible difference".into(),
                (None, _) => "proposed, not tried".into(),
            };
            let difference = self.difference(key, printed);
            let parameters = self
                .linked(key, |done| done.records.runs.last().map(|run| show_count(run.parameters as usize)));
            table.row([title_of(key).into(), paper.into(), self.errors(key), difference, parameters]);
        }
        table
    }

    fn section_5_curves(&self) -> Section {
        let of = |key: &&str| curve(key, &self.all(key), |epoch| epoch.eval_err1);
        let series = SECTION_5.iter().map(of).filter(|series| !series.points.is_empty()).collect();
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

/// The mean of `runs` by epoch, and the range from run to run where there are several.
fn curve(label: &str, runs: &[&Done], y: fn(&Epoch) -> f64) -> Series {
    let num_epochs = runs.iter().map(|done| done.records.epochs.len()).max().unwrap_or(0);
    let mut series = Series { label: label.into(), ..Series::default() };
    for index in 0..num_epochs {
        let values: Vec<f64> = runs.iter().filter_map(|done| done.records.epochs.get(index)).map(y).collect();
        let x = (index + 1) as f64;
        series.points.push((x, Spread::of(&values).mean));
        if runs.len() > 1 {
            let bound = |fold: fn(f64, f64) -> f64, from| values.iter().copied().fold(from, fold);
            series.band.push((x, bound(f64::min, f64::INFINITY), bound(f64::max, f64::NEG_INFINITY)));
        }
    }
    series
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::metrics::Records;
    use crate::run::run_dir::{Env, RunDir};
    use crate::train::config::TrainConfig;

    fn done(folder: &std::path::Path, key: &str, seed: u64, errors: &[f64]) -> Done {
        let epoch = |(epoch, &error): (u64, &f64)| Epoch {
            epoch,
            step: 15 * (epoch + 1),
            samples: 100,
            lr: 0.1,
            train_loss: 1.0,
            train_err1: error,
            eval_n: 20,
            eval_loss: 2.0,
            eval_err1: error,
            eval_err5: error / 2.0,
            train_seconds: 150.0,
            data_wait_seconds: 1.0,
            img_s: 4.0,
        };
        Done {
            experiment: EXPERIMENTS.iter().find(|experiment| experiment.key == key).unwrap(),
            dir: RunDir::create(folder, key).unwrap(),
            config: TrainConfig { seed, ..TrainConfig::defaults(None) },
            records: Records { epochs: (0..).zip(errors).map(epoch).collect(), ..Records::default() },
            env: Env::of_this_process("cpu"),
        }
    }

    #[test]
    fn numbers_stand_next_to_the_papers_with_their_difference_and_spread() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [
            done(folder.path(), "resnet18", 0, &[70.0, 64.0]),
            done(folder.path(), "resnet18", 1, &[62.0, 66.0]),
            done(folder.path(), "resnet34", 0, &[60.42]),
        ];
        let results = Results(&runs);
        let text = results.table_2().to_string();
        // 64 and 62: their mean is 63, their standard deviation the root of 2.
        for part in
            ["63.00 ± 1.41 / 31.50 ± 0.71", "-0.68 / -1.60", "60.42 / 30.21", "-3.00 / -2.13", NOT_RUN, NONE]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(results.table_1().to_string().contains("-50 %"), "{}", results.table_1());
        let curve = curve("c", &results.all("resnet18"), |epoch| epoch.eval_err1);
        assert_eq!(curve.points, [(1.0, 66.0), (2.0, 65.0)]);
        assert_eq!(curve.band, [(1.0, 62.0, 70.0), (2.0, 64.0, 66.0)]);
        assert_eq!(super::curve("c", &results.all("resnet34"), |epoch| epoch.eval_err1).band, []);
    }
}
