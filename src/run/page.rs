//! What the page of a run says: `report.html`, made from the records of the run and nothing else, so that it
//! can be made again at any time.

use crate::report::{Align, Body, Budget, Chart, Confusion, Figure, Page, Section, Series, Table, Tile};
use crate::run::metrics::{Epoch, Records, Run, Step};
use crate::run::run_dir::Env;
use crate::show::{show_bytes, show_count, show_seconds};

/// Lines over steps have at most this number of points; each then stands for several steps, with their spread drawn behind
/// it.
const MAX_POINTS: usize = 240;
/// The newest events shown.
const MAX_EVENTS: usize = 20;

/// What the page is made from.
#[derive(Debug, Clone, Copy)]
pub struct RunPage<'a> {
    /// The name of the run folder.
    pub name: &'a str,
    /// How the run ended, such as `finished` or `stopped by Ctrl-C`.
    pub status: &'a str,
    /// Lines that the run has logged.
    pub records: &'a Records,
    /// What it ran on.
    pub env: &'a Env,
    /// Truth against guess on the validation images, where they were evaluated with it.
    pub confusion: Option<&'a Confusion>,
    /// Mistakes, the surest first; may be empty.
    pub mistakes: &'a [JudgedPhoto],
    /// Right guesses, the surest first; may be empty.
    pub hits: &'a [JudgedPhoto],
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
        let judged = self.mistakes.iter().chain(self.hits);
        let heats = Body::Figures(judged.filter_map(JudgedPhoto::photo_and_heat).collect());
        let confusion = self.confusion.map(|confusion| {
            let body = Body::Confusion(confusion.clone());
            Section::new("Confusion matrix of the validation images", body)
        });
        let mut sections = Vec::from_iter(confusion);
        sections.extend([
            Section::new("Surest mistakes", photos(self.mistakes)),
            Section::new("Surest hits", photos(self.hits)),
            Section::new("Where the guess was seen (Grad-CAM)", heats),
            Section::new("Time of a training step", Body::Budget(self.budget())),
            Section::new("Epochs", Body::Table(self.epoch_table())),
            Section::new("Events", Body::Table(self.event_table())),
            Section::new("Setting and environment", Body::Facts(self.facts())),
        ]);
        Page {
            title: run.map_or(self.name.to_string(), |run| format!("{} on {}", run.model, run.data)),
            subtitle: format!("{} · {} · {}", self.name, self.env.device, self.status),
            tiles: self.tiles(),
            charts: self.charts(),
            sections,
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
            tile("Training speed", format!("{:.1} img/s", images / seconds), show_seconds(seconds));
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
        let chart = |title: &str, x_label: &str, from_zero: bool, series: Vec<Series>| Chart {
            title: title.into(),
            x_label: x_label.into(),
            unit: String::new(),
            from_zero,
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
            Chart { unit: " %".into(), ..chart("Error in percent", "epoch", true, error) },
            chart("Loss", "epoch", false, loss),
            chart(
                "Training loss by step",
                "step",
                false,
                vec![by_step("mean and spread", steps, |step| step.loss)],
            ),
            chart("Learning rate", "step", true, vec![by_step("learning rate", steps, |step| step.lr)]),
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
                format!("{:.1}", epoch.img_s),
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
        let rest = (step_ms - wait - copy.unwrap_or_default() - kernels.unwrap_or_default()).max(0.0);
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

    fn facts(&self) -> Vec<(String, String)> {
        let env = self.env;
        let mut facts: Vec<(&str, String)> = self.records.runs.last().map(run_facts).unwrap_or_default();
        facts.extend([
            ("Command", env.command.join(" ")),
            ("Started", env.started.clone()),
            ("Program", format!("residuum {}", env.version)),
        ]);
        facts.extend(env.commit.clone().map(|commit| ("Commit", commit)));
        facts.push(("Device", env.device.clone()));
        facts.push((
            "Processor",
            format!("{}, {} threads", env.cpu.as_deref().unwrap_or("unknown"), env.threads),
        ));
        facts.push(("System", env.os.clone()));
        facts.extend(
            self.records
                .steps
                .last()
                .map(|step| ("Memory", show_bytes((step.mem_mib * 1024.0 * 1024.0) as usize))),
        );
        facts.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }
}

fn run_facts(run: &Run) -> Vec<(&'static str, String)> {
    vec![
        ("Model", format!("{}, {} parameters", run.model, show_count(run.parameters as usize))),
        (
            "Data",
            format!(
                "{}: {} training and {} validation images",
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
fn best_epoch(epochs: &[Epoch]) -> Option<usize> {
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

fn percent(value: f64) -> String {
    if value.is_finite() { format!("{value:.1} %") } else { "–".to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::metrics::Event;

    fn epoch(epoch: u64, eval_err1: f64) -> Epoch {
        Epoch {
            epoch,
            step: (epoch + 1) * 100,
            samples: (epoch + 1) * 6_400,
            lr: 0.05,
            train_loss: 1.25,
            train_err1: 30.0,
            eval_n: 10_000,
            eval_loss: 1.5,
            eval_err1,
            eval_err5: 5.5,
            train_seconds: 80.0,
            data_wait_seconds: 2.0,
            img_s: 80.0,
        }
    }

    fn env() -> Env {
        Env {
            version: "0.1.0".into(),
            commit: Some("abc1234".into()),
            command: vec!["residuum".into(), "train".into()],
            started: "2026-01-31T18:00:05Z".into(),
            device: "cpu (2 threads)".into(),
            cpu: None,
            threads: 2,
            os: "linux x86_64".into(),
        }
    }

    fn step(step: u64) -> Step {
        Step {
            epoch: 0,
            step,
            samples: 0,
            loss: (step % 2) as f64,
            lr: 0.1,
            grad_norm: None,
            img_s: 80.0,
            step_ms: 100.0,
            data_wait_ms: 1.0,
            h2d_ms: None,
            gpu_ms: None,
            mem_mib: 1.0,
        }
    }

    fn html(records: &Records) -> String {
        let env = env();
        let mistake = JudgedPhoto {
            name: "val/0007.jpg".into(),
            image: b"\x89PNG".to_vec(),
            truth: "abbey".into(),
            guess: "canyon".into(),
            probability: 0.987,
            heat: None,
        };
        let heat = Some(b"heat".to_vec());
        let hit = JudgedPhoto { guess: "abbey".into(), probability: 0.875, heat, ..mistake.clone() };
        let confusion = Confusion::new(vec!["abbey".into(), "canyon".into()], &[5, 1, 0, 6]);
        RunPage {
            name: "20260131-180005-resnet18",
            status: "finished",
            records,
            env: &env,
            confusion: Some(&confusion),
            mistakes: &[mistake],
            hits: &[hit],
        }
        .page()
        .to_html()
    }

    #[test]
    fn the_page_states_best_and_final_numbers() {
        let records = Records {
            epochs: vec![epoch(0, 50.0), epoch(1, 12.5), epoch(2, 14.25), epoch(3, f64::NAN), epoch(4, 13.0)],
            events: vec![Event { step: 1_234, event: "resume".into(), message: "from step 1,200".into() }],
            ..Records::default()
        };
        let html = html(&records);
        for part in [
            "<dt>Best top-1 error</dt><dd>12.5 %</dd><dd class=\"note\">after epoch 2</dd>",
            "<dt>Final top-1 error</dt><dd>13.0 %</dd><dd class=\"note\">10,000 images</dd>",
            "<dt>Training speed</dt><dd>80.0 img/s</dd><dd class=\"note\">6 min 40 s</dd>",
            "<dt>Waiting for data</dt><dd>2.5 %</dd>",
            "<tr class=\"marked\"><td class=\"num\">2</td>",
            "<td class=\"num\">1,234</td><td>resume</td><td>from step 1,200</td>",
            "<b>abbey</b><span>taken for canyon</span><span>98.7 %</span>",
            "<b>abbey</b><span>right</span><span>87.5 %</span>",
            "base64,aGVhdA==",
            "<dt>Processor</dt><dd>unknown, 2 threads</dd>",
            "abbey, taken for canyon: 1 of 6",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("NaN"), "{html}");
    }

    #[test]
    fn a_run_that_logged_nothing_has_a_page() {
        let html = html(&Records::default());
        assert!(html.contains("<h1>20260131-180005-resnet18</h1>"), "{html}");
        assert!(!html.contains("<dl class=\"tiles\">") && !html.contains("class=\"chart\""), "{html}");
    }

    fn budget_of(device: &str, steps: Vec<Step>) -> Budget {
        let env = Env { device: device.into(), ..env() };
        let records = Records { steps, ..Records::default() };
        let (name, status, confusion) = ("", "", None);
        RunPage { name, status, records: &records, env: &env, confusion, mistakes: &[], hits: &[] }.budget()
    }

    #[test]
    fn a_step_is_divided_into_what_was_measured() {
        let slow = Step { data_wait_ms: 90.0, ..step(1) };
        let budget = budget_of("cpu (2 threads)", vec![slow.clone(), step(2), step(3)]);
        let parts =
            |budget: &Budget| budget.parts.iter().map(|(name, ms)| (name.clone(), *ms)).collect::<Vec<_>>();
        assert_eq!(parts(&budget), [("waiting for data".into(), 1.0), ("computing".into(), 99.0)]);
        assert_eq!(parts(&budget_of("cpu", vec![slow]))[0].1, 90.0, "a single line is all there is");

        let timed = Step { h2d_ms: Some(4.0), gpu_ms: Some(75.0), ..step(2) };
        let budget = budget_of("cuda:0", vec![timed.clone(), timed.clone()]);
        let parts = parts(&budget);
        assert_eq!(parts.iter().map(|(_, ms)| *ms).collect::<Vec<_>>(), [1.0, 4.0, 75.0, 20.0]);
        assert_eq!((parts[3].0.as_str(), budget.note.as_str()), ("gaps between kernels", ""));
        let budget = budget_of("cuda:0", vec![timed, step(3), step(4)]);
        assert_eq!(budget.parts.len(), 2);
        assert!(budget.note.contains("not timed apart"), "{}", budget.note);
        assert_eq!(budget_of("cuda:0", vec![]), Budget::default());
    }

    #[test]
    fn long_lines_are_thinned_to_means_and_spread() {
        let steps: Vec<Step> = (1..=1_001).map(step).collect();
        let series = by_step("loss", &steps, |step| step.loss);
        assert_eq!(series.points.len(), 201);
        assert_eq!(series.points[0], (3.0, 3.0 / 5.0));
        assert_eq!(series.band[1], (8.0, 0.0, 1.0));
        assert_eq!(series.points[200], (1_001.0, 1.0));
        assert_eq!(by_step("loss", &steps[..MAX_POINTS], |step| step.loss).band, []);
    }
}
