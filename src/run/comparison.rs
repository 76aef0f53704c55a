//! Several runs on one page, made from their folders: what they came to, their curves, and the settings in which they differ.

use crate::report::{Align, Body, Cell, Chart, MAX_LINES, Page, Section, Series, Table, YAxis};
use crate::run::metrics::{Epoch, Records};
use crate::run::page::{Setting, best_epoch, percent};
use crate::run::run_dir::Env;
use crate::show::{show_count, show_rate, show_seconds};

/// Settings that say where a run lies, which differ in every run and decide nothing.
const OF_PLACE: [&str; 2] = ["output", "experiment"];

/// A run to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparedRun {
    /// What it is called on the page.
    pub name: String,
    /// Address of its own page, relative to this one.
    pub link: String,
    /// Lines that it has logged.
    pub records: Records,
    /// What it ran on.
    pub env: Env,
    /// Every setting.
    pub settings: Vec<Setting>,
}

/// The page that compares `runs`, in this order.
pub fn page(runs: &[ComparedRun]) -> Page {
    let data: Vec<String> = runs.iter().map(evaluated_on).collect();
    let is_same_data = data.windows(2).all(|pair| pair[0] == pair[1]);
    let mut table = results(runs);
    // Of errors on other images, none is the least.
    if let Some(index) = best(runs).filter(|_| is_same_data) {
        table.mark(index);
    }
    let mut sections = vec![Section::new("Results", Body::Table(table))];
    if !is_same_data {
        let said = runs.iter().zip(&data).map(|(run, data)| format!("{}: {data}", run.name));
        let text = format!("The errors are not of the same images. {}.", said.collect::<Vec<_>>().join("; "));
        sections.push(Section::new("Not the same data", Body::Text(vec![text])));
    }
    sections.push(Section::new("Curves", Body::Charts(charts(&runs[..runs.len().min(MAX_LINES)]))));
    if runs.len() > MAX_LINES {
        let text = format!("The curves are those of the first {MAX_LINES} runs.");
        sections.push(Section::new("Other runs", Body::Text(vec![text])));
    }
    sections.push(Section::new("Settings that differ", Body::Table(differences(runs))));
    let commands = runs.iter().map(|run| (run.name.clone(), command(run).join(" ")));
    sections.push(Section::new("Commands", Body::Facts(commands.collect())));
    Page {
        title: format!("{} runs", runs.len()),
        subtitle: "side by side, from what their folders keep".into(),
        sections,
        ..Page::default()
    }
}

/// Which images a run is evaluated on, in words.
fn evaluated_on(run: &ComparedRun) -> String {
    run.records.runs.last().map_or("nothing yet".to_string(), |line| {
        format!("{} validation images of {}", show_count(line.val_images as usize), line.data)
    })
}

/// The command that began a run.
fn command(run: &ComparedRun) -> &[String] {
    let first = run.records.runs.first().map(|line| &*line.command).filter(|command| !command.is_empty());
    first.unwrap_or(&run.env.command)
}

/// The epoch of a run's least error.
fn best_of(run: &ComparedRun) -> Option<&Epoch> {
    best_epoch(&run.records.epochs).map(|index| &run.records.epochs[index])
}

/// The run of the least error, of several.
fn best(runs: &[ComparedRun]) -> Option<usize> {
    let errors = runs.iter().enumerate().filter_map(|(index, run)| Some((index, best_of(run)?.eval_err1)));
    errors.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index).filter(|_| runs.len() > 1)
}

/// A row for each run.
fn results(runs: &[ComparedRun]) -> Table {
    let mut table = Table::new([
        ("Run", Align::Left),
        ("Model", Align::Left),
        ("Parameters", Align::Right),
        ("Epochs", Align::Right),
        ("Best top-1 error", Align::Right),
        ("Its top-5 error", Align::Right),
        ("Final top-1 error", Align::Right),
        ("Final loss", Align::Right),
        ("Training time", Align::Right),
        ("img/s", Align::Right),
        ("Device", Align::Left),
    ]);
    for run in runs {
        let (epochs, line) = (&run.records.epochs, run.records.runs.last());
        let (best, last) = (best_of(run), epochs.last());
        let seconds: f64 = epochs.iter().map(|epoch| epoch.train_seconds).sum();
        let images: f64 = epochs.iter().map(|epoch| epoch.img_s * epoch.train_seconds).sum();
        let of =
            |epoch: Option<&Epoch>, show: fn(&Epoch) -> String| epoch.map_or("\u{2013}".to_string(), show);
        table.row([
            Cell::link(run.name.clone(), run.link.clone()),
            line.map_or(String::new(), |line| line.model.clone()).into(),
            line.map_or(String::new(), |line| show_count(line.parameters as usize)).into(),
            epochs.len().to_string().into(),
            of(best, |epoch| percent(epoch.eval_err1)).into(),
            of(best, |epoch| percent(epoch.eval_err5)).into(),
            of(last, |epoch| percent(epoch.eval_err1)).into(),
            of(last, |epoch| format!("{:.3}", epoch.eval_loss)).into(),
            show_seconds(seconds).into(),
            last.map_or(String::new(), |_| show_rate(images / seconds)).into(),
            run.env.device.clone().into(),
        ]);
    }
    table
}

fn charts(runs: &[ComparedRun]) -> Vec<Chart> {
    let chart = |title: &str, unit: &str, y_axis: YAxis, y: fn(&Epoch) -> f64| Chart {
        title: title.into(),
        x_label: "epoch".into(),
        unit: unit.into(),
        y_axis,
        series: runs
            .iter()
            .map(|run| Series {
                label: run.name.clone(),
                points: run.records.epochs.iter().map(|epoch| ((epoch.epoch + 1) as f64, y(epoch))).collect(),
                band: Vec::new(),
            })
            .collect(),
    };
    vec![
        chart("Top-1 error on the validation images", " %", YAxis::FromZero, |epoch| epoch.eval_err1),
        chart("Top-1 error on the training images", " %", YAxis::FromZero, |epoch| epoch.train_err1),
        chart("Loss on the validation images", "", YAxis::LogarithmicIfWide, |epoch| epoch.eval_loss),
        chart("Loss on the training images", "", YAxis::LogarithmicIfWide, |epoch| epoch.train_loss),
    ]
}

/// A row for each run with the settings in which not all agree; empty if all do.
fn differences(runs: &[ComparedRun]) -> Table {
    let names =
        runs.first().map_or(Vec::new(), |run| run.settings.iter().map(|setting| &setting.name).collect());
    let value = |run: &ComparedRun, name: &str| {
        run.settings.iter().find(|setting| setting.name == name).map(|setting| setting.value.clone())
    };
    let differ = |name: &&String| runs.iter().any(|run| value(run, name) != value(&runs[0], name));
    let differing: Vec<&String> =
        names.into_iter().filter(|name| !OF_PLACE.contains(&name.as_str())).filter(differ).collect();
    let heading = ["Run".to_string()].into_iter().chain(differing.iter().map(|name| name.to_string()));
    let mut table = Table::with_columns(heading.map(|name| (name, Align::Left)));
    if !differing.is_empty() {
        for run in runs {
            let values = differing.iter().map(|name| value(run, name).unwrap_or_default());
            table.row([run.name.clone()].into_iter().chain(values));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::metrics::Run;

    fn run(name: &str, errors: &[f64], lr: &str, val_images: u64) -> ComparedRun {
        let setting = |name: &str, value: &str| Setting {
            name: name.into(),
            value: value.into(),
            default: String::new(),
        };
        let line = Run {
            step: 0,
            model: "resnet18".into(),
            data: "miniplaces".into(),
            device: "cpu".into(),
            parameters: 1_000,
            train_images: 40,
            val_images,
            img_size: 32,
            batch_size: 8,
            epochs: 2,
            seed: 0,
            data_dir: None,
            command: vec!["residuum".into(), name.into()],
        };
        let epoch = |(epoch, &error): (u64, &f64)| Epoch {
            epoch,
            step: 5 * (epoch + 1),
            samples: 40 * (epoch + 1),
            lr: 0.1,
            train_loss: 1.0,
            train_err1: error,
            eval_n: val_images,
            eval_loss: 2.0,
            eval_err1: error,
            eval_err5: error / 2.0,
            train_seconds: 10.0,
            data_wait_seconds: 1.0,
            img_s: 4.0,
        };
        ComparedRun {
            name: name.into(),
            link: format!("{name}/report.html"),
            records: Records {
                runs: vec![line],
                epochs: (0..).zip(errors).map(epoch).collect(),
                ..Records::default()
            },
            env: Env::of_this_process("cpu (2 threads)"),
            settings: vec![setting("lr", lr), setting("momentum", "0.9"), setting("output", name)],
        }
    }

    #[test]
    fn runs_stand_side_by_side_and_the_best_is_set_off() {
        let html =
            page(&[run("a", &[50.0, 40.0, 45.0], "0.1", 20), run("b", &[60.0, 30.5], "0.2", 20)]).to_html();
        for part in [
            "<a href=\"a/report.html\">a</a>",
            "<tr class=\"marked\"><td data-label=\"Run\"><a href=\"b/report.html\">b</a>",
            "data-label=\"Best top-1 error\">40.0 %</td><td class=\"num\" data-label=\"Its top-5 error\">20.0 %</td>",
            "data-label=\"Final top-1 error\">45.0 %",
            "data-label=\"img/s\">4.0<",
            "<th scope=\"col\">Run</th><th scope=\"col\">lr</th></tr>",
            "<td>b</td><td>0.2</td>",
            "<dt>a</dt><dd>residuum a</dd>",
            "<title>b, epoch 2: 30.50 %</title>",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("Not the same data") && !html.contains("<td>momentum"), "{html}");
    }

    #[test]
    fn errors_on_other_images_are_told_apart() {
        let html = page(&[run("a", &[50.0], "0.1", 20), run("b", &[60.0], "0.1", 21)]).to_html();
        assert!(html.contains("b: 21 validation images of miniplaces"), "{html}");
        assert!(!html.contains("Settings that differ") && !html.contains("class=\"marked\""), "{html}");
    }

    #[test]
    fn runs_without_an_epoch_and_many_runs_have_a_page() {
        let many: Vec<ComparedRun> =
            (0..9).map(|index| run(&format!("run{index}"), &[], "0.1", 20)).collect();
        let html = page(&many).to_html();
        assert!(html.contains("run8") && !html.contains("class=\"chart\""), "{html}");
        let many: Vec<ComparedRun> =
            (0..9).map(|index| run(&format!("run{index}"), &[5.0], "0.1", 20)).collect();
        let html = page(&many).to_html();
        assert!(
            html.contains("line s7") && !html.contains("line s8") && html.contains("first 8 runs"),
            "{html}"
        );
    }
}
