//! What the page of a run says: `report.html`, made from the records of the run and nothing else, so that it
//! can be made again at any time.

use crate::report::{
    Align, Body, Budget, Chart, Confusion, EVIDENCE, Figure, Page, Section, Series, Table, Tile, YAxis,
};
use crate::run::metrics::{Epoch, Records, Run, Step};
use crate::run::run_dir::Env;
use crate::show::{show_bytes, show_count, show_rate, show_seconds};

/// Lines over steps have at most this number of points; each then stands for several steps, with their spread drawn behind
/// it.
const MAX_POINTS: usize = 240;
/// The newest events shown.
const MAX_EVENTS: usize = 20;
/// Categories whose errors are shown at once; where there are more, the others are folded away.
const MAX_CATEGORIES: usize = 12;
/// Names of categories that stand in a list of facts.
const MAX_NAMES: usize = 12;
/// After how many seconds a browser reads the page of a run in progress again.
const REFRESH_SECONDS: u32 = 15;

/// What the page is made from.
#[derive(Debug, Clone, Copy)]
pub struct RunPage<'a> {
    /// The name of the run folder.
    pub name: &'a str,
    /// Where the run stands, such as `finished` or `stopped by a signal`.
    pub status: &'a str,
    /// Whether the run is in progress, so that the page will be written again.
    pub is_running: bool,
    /// Lines that the run has logged.
    pub records: &'a Records,
    /// What it ran on.
    pub env: &'a Env,
    /// Every setting of the run.
    pub settings: &'a [Setting],
    /// Names of the categories, by label.
    pub categories: &'a [String],
    /// Truth against guess on the validation images, where they were evaluated with it.
    pub confusion: Option<&'a Confusion>,
    /// Errors on the images of each category, where they were evaluated with it.
    pub category_errors: &'a [CategoryRow],
    /// Mistakes, the surest first; may be empty.
    pub mistakes: &'a [JudgedPhoto],
    /// Right guesses, the surest first; may be empty.
    pub hits: &'a [JudgedPhoto],
    /// What the heat maps of the photos show, where they have any.
    pub heats: Option<&'a Heats>,
}

/// A setting of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Key in `config.toml`.
    pub name: String,
    /// Value, as text.
    pub value: String,
    /// The value of a run that does not say otherwise.
    pub default: String,
}

/// Errors on the validation images of a category.
#[derive(Debug, Clone, PartialEq)]
pub struct CategoryRow {
    /// Name of the category.
    pub name: String,
    /// Images of the category.
    pub images: u32,
    /// Share of them that were taken for another, in percent; `None` if there are no images.
    pub error: Option<f64>,
    /// The category that they were most often taken for, and how often.
    pub mistaken_for: Option<(String, u32)>,
}

/// What the heat maps of photos show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heats {
    /// Name of the layer whose map is shown.
    pub layer: String,
    /// Rows and columns of the map.
    pub extents: [usize; 2],
}

/// An image and what the network took it for.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedPhoto {
    /// Name of the photo in the data set.
    pub name: String,
    /// The bytes of a PNG or JPEG file of it.
    pub image: Vec<u8>,
    /// Category of the photo.
    pub truth: String,
    /// Category that the model guessed.
    pub guess: String,
    /// The probability given to the guess, in 0..=1.
    pub probability: f64,
    /// The bytes of a picture of where the guess was seen, for some.
    pub heat: Option<Vec<u8>>,
}

impl JudgedPhoto {
    fn figure(&self, images: Vec<Vec<u8>>) -> Figure {
        let judgement =
            if self.guess == self.truth { "right".to_string() } else { format!("taken for {}", self.guess) };
        let caption = vec![self.truth.clone(), judgement, percent(100.0 * self.probability)];
        Figure { images, alt: self.name.clone(), caption }
    }

    fn photo(&self) -> Figure {
        self.figure(vec![self.image.clone()])
    }

    fn photo_and_heat(&self) -> Option<Figure> {
        let heat = self.heat.clone()?;
        Some(self.figure(vec![self.image.clone(), heat]))
    }
}

impl RunPage<'_> {
    /// Makes the page.
    pub fn page(&self) -> Page {
        let run = self.records.runs.last();
        let photos = |judged: &[JudgedPhoto]| Body::Figures(judged.iter().map(JudgedPhoto::photo).collect());
        let confusion = self.confusion.map(|confusion| {
            let body = Body::Confusion(confusion.clone());
            Section::new("Confusion matrix of the validation images", body)
        });
        let mut sections = Vec::from_iter(confusion);
        sections.extend([
            Section::new("Error by category", self.category_errors()),
            Section::new("Surest mistakes", photos(self.mistakes)),
            Section::new("Surest hits", photos(self.hits)),
            Section::new("Where the guess was seen (Grad-CAM)", self.heat_maps()),
            Section::new("Time of a training step", Body::Budget(self.budget())),
            Section::new("Epochs", Body::Table(self.epoch_table())),
            Section::new("Events", Body::Table(self.event_table())),
            Section::new("Data and settings", self.settings()),
            Section::new("Commands and environment", Body::Facts(self.environment())),
        ]);
        Page {
            title: run.map_or(self.name.to_string(), |run| format!("{} on {}", run.model, run.data)),
            subtitle: format!("{} · {} · {}", self.name, self.env.device, self.status),
            refresh_seconds: self.is_running.then_some(REFRESH_SECONDS),
            tiles: self.tiles(),
            charts: self.charts(),
            sections,
        }
    }

    fn heat_maps(&self) -> Body {
        let judged = self.mistakes.iter().chain(self.hits);
        let note = self.heats.map_or(String::new(), |Heats { layer, extents: [rows, columns] }| {
            format!("Each colour is what one of the {rows} x {columns} places of the map {layer} adds to the score of the guess.")
        });
        Body::Heats {
            figures: judged.filter_map(JudgedPhoto::photo_and_heat).collect(),
            note,
            ends: EVIDENCE.map(String::from),
        }
    }

    /// The worst categories, and where there are many, all of them under a heading to click.
    fn category_errors(&self) -> Body {
        let mut rows: Vec<&CategoryRow> = self.category_errors.iter().collect();
        rows.sort_by(|a, b| b.error.unwrap_or(-1.0).total_cmp(&a.error.unwrap_or(-1.0)));
        let table = |rows: &[&CategoryRow]| {
            let mut table = Table::new([
                ("Category", Align::Left),
                ("Images", Align::Right),
                ("Error", Align::Right),
                ("Mostly taken for", Align::Left),
            ]);
            for row in rows {
                let other = row.mistaken_for.as_ref();
                table.row([
                    row.name.clone(),
                    row.images.to_string(),
                    percent(row.error.unwrap_or(f64::NAN)),
                    other.map_or(String::new(), |(name, times)| format!("{name} ({times})")),
                ]);
            }
            Body::Table(table)
        };
        match rows.split_at_checked(MAX_CATEGORIES) {
            Some((worst, rest)) if !rest.is_empty() => {
                let summary = format!("the other {} categories", rest.len());
                Body::Several(vec![table(worst), Body::Folded(summary, Box::new(table(rest)))])
            }
            _ => table(&rows),
        }
    }

    fn tiles(&self) -> Vec<Tile> {
        let epochs = &self.records.epochs;
        let mut tiles = Vec::new();
        let mut tile = |label: &str, value: String, note: String| {
            tiles.push(Tile { label: label.into(), value, note });
        };
        if let (Some(last), Some(best)) = (epochs.last(), best_epoch(epochs).map(|index| &epochs[index])) {
            tile("Best top-1 error", percent(best.eval_err1), format!("after epoch {}", best.epoch + 1));
            tile(
                "Final top-1 error",
                percent(last.eval_err1),
                format!("{} images", show_count(last.eval_n as usize)),
            );
            tile(
                "Final top-5 error",
                percent(last.eval_err5),
                format!("{} images", show_count(last.eval_n as usize)),
            );
            tile(
                "Validation loss",
                format!("{:.3}", last.eval_loss),
                format!("training {:.3}", last.train_loss),
            );
        }
        let seconds: f64 = epochs.iter().map(|epoch| epoch.train_seconds).sum();
        if seconds > 0.0 {
            let images: f64 = epochs.iter().map(|epoch| epoch.img_s * epoch.train_seconds).sum();
            let waiting: f64 = epochs.iter().map(|epoch| epoch.data_wait_seconds).sum();
            tile("Training speed", format!("{} img/s", show_rate(images / seconds)), show_seconds(seconds));
            tile("Waiting for data", percent(100.0 * waiting / seconds), "of the training time".into());
        }
        tiles
    }

    fn charts(&self) -> Vec<Chart> {
        let epochs = &self.records.epochs;
        let by_epoch = |label: &str, y: fn(&Epoch) -> f64| Series {
            label: label.into(),
            points: epochs.iter().map(|epoch| ((epoch.epoch + 1) as f64, y(epoch))).collect(),
            band: Vec::new(),
        };
        let chart = |title: &str, x_label: &str, y_axis: YAxis, series: Vec<Series>| Chart {
            title: title.into(),
            x_label: x_label.into(),
            unit: String::new(),
            y_axis,
            series,
        };
        let error = vec![
            by_epoch("validation, top-1", |epoch| epoch.eval_err1),
            by_epoch("training, top-1", |epoch| epoch.train_err1),
            by_epoch("validation, top-5", |epoch| epoch.eval_err5),
        ];
        let loss = vec![
            by_epoch("validation", |epoch| epoch.eval_loss),
            by_epoch("training", |epoch| epoch.train_loss),
        ];
        let steps = &self.records.steps;
        vec![
            Chart { unit: " %".into(), ..chart("Error in percent", "epoch", YAxis::FromZero, error) },
            chart("Loss", "epoch", YAxis::LogarithmicIfWide, loss),
            chart(
                "Training loss by step",
                "step",
                YAxis::LogarithmicIfWide,
                vec![by_step("mean and spread", steps, |step| step.loss)],
            ),
            chart(
                "Learning rate",
                "step",
                YAxis::FromZero,
                vec![by_step("learning rate", steps, |step| step.lr)],
            ),
        ]
    }

    fn epoch_table(&self) -> Table {
        let mut table = Table::new([
            ("Epoch", Align::Right),
            ("Top-1 error", Align::Right),
            ("Top-5 error", Align::Right),
            ("Validation loss", Align::Right),
            ("Training loss", Align::Right),
            ("Training error", Align::Right),
            ("Learning rate", Align::Right),
            ("Time", Align::Right),
            ("img/s", Align::Right),
            ("Waiting", Align::Right),
        ]);
        let epochs = &self.records.epochs;
        for epoch in epochs {
            table.row([
                (epoch.epoch + 1).to_string(),
                percent(epoch.eval_err1),
                percent(epoch.eval_err5),
                format!("{:.4}", epoch.eval_loss),
                format!("{:.4}", epoch.train_loss),
                percent(epoch.train_err1),
                if epoch.lr == 0.0 { "0".to_string() } else { format!("{:.2e}", epoch.lr) },
                show_seconds(epoch.train_seconds),
                show_rate(epoch.img_s),
                percent(100.0 * epoch.data_wait_seconds / epoch.train_seconds),
            ]);
        }
        if let Some(best) = best_epoch(epochs) {
            table.mark(best);
        }
        table
    }

    /// The mean step of the newest process without its first line, which warms up.
    fn budget(&self) -> Budget {
        let first = self.records.runs.last().map_or(0, |run| run.step);
        let steps: Vec<&Step> = self.records.steps.iter().filter(|step| step.step > first).collect();
        let steps = if steps.len() > 1 { &steps[1..] } else { &steps[..] };
        if steps.is_empty() {
            return Budget::default();
        }
        let mean = |ms: fn(&Step) -> f64| steps.iter().map(|step| ms(step)).sum::<f64>() / steps.len() as f64;
        let (step_ms, wait) = (mean(|step| step.step_ms), mean(|step| step.data_wait_ms));
        let measured = |ms: fn(&Step) -> Option<f64>| steps.iter().all(|step| ms(step).is_some());
        let copy = measured(|step| step.h2d_ms).then(|| mean(|step| step.h2d_ms.unwrap_or_default()));
        let kernels = measured(|step| step.gpu_ms).then(|| mean(|step| step.gpu_ms.unwrap_or_default()));
        let exchange =
            measured(|step| step.exchange_ms).then(|| mean(|step| step.exchange_ms.unwrap_or_default()));
        let parts_ms = [copy, kernels, exchange].into_iter().flatten().sum::<f64>();
        let rest = (step_ms - wait - parts_ms).max(0.0);
        let (rest_label, note) = match (self.env.device.starts_with("cpu"), copy, kernels) {
            (true, ..) => {
                ("computing", "On the CPU nothing is copied to a device; computing is not timed in parts.")
            }
            (_, Some(_), Some(_)) => ("gaps between kernels", ""),
            (_, None, Some(_)) => {
                ("copying and gaps", "Copies to the device are not timed apart from the gaps.")
            }
            (_, Some(_), None) => {
                ("kernels and gaps", "Kernels are not timed apart from the gaps between them.")
            }
            (_, None, None) => (
                "copying, kernels and gaps",
                "Copies, kernels and the gaps between them are not timed apart.",
            ),
        };
        let mut parts = vec![("waiting for data".to_string(), wait)];
        parts.extend(copy.map(|ms| ("copying to the device".to_string(), ms)));
        parts.extend(kernels.map(|ms| ("kernels".to_string(), ms)));
        parts.extend(exchange.map(|ms| ("exchanging with other ranks".to_string(), ms)));
        parts.push((rest_label.to_string(), rest));
        Budget { parts, note: note.to_string() }
    }

    fn event_table(&self) -> Table {
        let mut table = Table::new([("Step", Align::Right), ("Event", Align::Left), ("", Align::Left)]);
        let events = &self.records.events;
        for event in &events[events.len().saturating_sub(MAX_EVENTS)..] {
            table.row([show_count(event.step as usize), event.event.clone(), event.message.clone()]);
        }
        table
    }

    /// What was trained on what, the settings that are not the defaults, and all of them under a heading to click.
    fn settings(&self) -> Body {
        let mut facts: Vec<(&str, String)> = self.records.runs.last().map(run_facts).unwrap_or_default();
        if !self.categories.is_empty() {
            let names: Vec<&str> = self.categories.iter().take(MAX_NAMES).map(String::as_str).collect();
            let more = if self.categories.len() > MAX_NAMES { ", ..." } else { "" };
            facts.push(("Categories", format!("{}: {}{more}", self.categories.len(), names.join(", "))));
        }
        let changed: Vec<String> = self
            .settings
            .iter()
            .filter(|setting| setting.value != setting.default)
            .map(|setting| format!("{} = {}", setting.name, setting.value))
            .collect();
        if !self.settings.is_empty() {
            let text = if changed.is_empty() { "none".to_string() } else { changed.join(", ") };
            facts.push(("Settings other than the defaults", text));
        }
        let mut table =
            Table::new([("Setting", Align::Left), ("Value", Align::Left), ("Default", Align::Left)]);
        for (index, Setting { name, value, default }) in self.settings.iter().enumerate() {
            table.row([name, value, default]);
            if value != default {
                table.mark(index);
            }
        }
        let facts = Body::Facts(facts.into_iter().map(|(name, value)| (name.to_string(), value)).collect());
        let all = format!("all {} settings", self.settings.len());
        Body::Several(vec![facts, Body::Folded(all, Box::new(Body::Table(table)))])
    }

    fn environment(&self) -> Vec<(String, String)> {
        let env = self.env;
        let mut facts = self.commands();
        let mut fact = |name: &str, value: String| facts.push((name.to_string(), value));
        fact("Started", env.started.clone());
        fact("Program", format!("residuum {}", env.version));
        if let Some(commit) = &env.commit {
            fact("Commit", commit.clone());
        }
        fact("Device", env.device.clone());
        fact("Processor", format!("{}, {} threads", env.cpu.as_deref().unwrap_or("unknown"), env.threads));
        fact("System", env.os.clone());
        if let Some(step) = self.records.steps.last() {
            fact("Memory", show_bytes((step.mem_mib * 1024.0 * 1024.0) as usize));
        }
        facts
    }

    /// The command that began the run, and those that resumed it.
    fn commands(&self) -> Vec<(String, String)> {
        let runs = &self.records.runs;
        let begun = runs.iter().filter(|run| !run.command.is_empty());
        let mut commands: Vec<(String, String)> = begun
            .map(|run| {
                let name = match run.step {
                    0 => "Command".to_string(),
                    step => format!("Resumed at step {}", show_count(step as usize)),
                };
                (name, run.command.join(" "))
            })
            .collect();
        if commands.is_empty() {
            // The log is of an earlier version, which kept the newest command alone.
            let name = if runs.len() > 1 { "Newest command" } else { "Command" };
            commands.push((name.to_string(), self.env.command.join(" ")));
        }
        commands
    }
}

fn run_facts(run: &Run) -> Vec<(&'static str, String)> {
    let place = run.data_dir.as_ref().map_or(String::new(), |dir| format!(" in {dir}"));
    vec![
        ("Model", format!("{}, {} parameters", run.model, show_count(run.parameters as usize))),
        (
            "Data",
            format!(
                "{}{place}: {} training and {} validation images",
                run.data,
                show_count(run.train_images as usize),
                show_count(run.val_images as usize)
            ),
        ),
        ("Input", format!("{0} x {0} pixels, batches of {1}", run.img_size, run.batch_size)),
        ("Epochs", run.epochs.to_string()),
        ("Seed", run.seed.to_string()),
    ]
}

/// The index of the epoch with the least top-1 error, the first of equals.
pub(super) fn best_epoch(epochs: &[Epoch]) -> Option<usize> {
    let errors =
        epochs.iter().map(|epoch| epoch.eval_err1).enumerate().filter(|(_, error)| error.is_finite());
    errors.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
}

/// `y` of the logged steps, thinned to [`MAX_POINTS`] means with their spread.
fn by_step(label: &str, steps: &[Step], y: fn(&Step) -> f64) -> Series {
    let bucket = steps.len().div_ceil(MAX_POINTS).max(1);
    let mut series = Series { label: label.into(), ..Series::default() };
    for steps in steps.chunks(bucket) {
        let x = steps.iter().map(|step| step.step as f64).sum::<f64>() / steps.len() as f64;
        let values = steps.iter().map(y);
        let mean = values.clone().sum::<f64>() / steps.len() as f64;
        series.points.push((x, mean));
        if bucket > 1 {
            let low = values.clone().fold(f64::INFINITY, f64::min);
            series.band.push((x, low, values.fold(f64::NEG_INFINITY, f64::max)));
        }
    }
    series
}

/// `12.5 %`, or a dash for what is not a number.
pub(super) fn percent(value: f64) -> String {
    if value.is_finite() { format!("{value:.1} %") } else { "–".to_string() }
}

#[cfg(test)]
mod tests;
