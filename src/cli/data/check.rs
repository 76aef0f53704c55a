//! `residuum data check`: an audit of a data set as a table or as JSON.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::data::check::{Audit, Effect, check};
use crate::error::{Error, Result};
use crate::report::{Align, Table};

/// Places of a fault that the table names.
const NUM_NAMED: usize = 3;

/// Look through a whole data set for what would stop or spoil training
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Data set
    #[arg(long, alias = "data-path", value_name = "DIR")]
    data_dir: PathBuf,
    /// Print everything that was found as JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<()> {
        let audit = check(&self.data_dir)?;
        if self.json {
            say!("{:#}", to_json(&audit));
        } else {
            print(&audit)?;
        }
        match audit.num_stopping() {
            0 => Ok(()),
            1 => Err(Error::data(&self.data_dir, "1 fault stops training")),
            count => Err(Error::data(&self.data_dir, format!("{count} faults stop training"))),
        }
    }
}

fn print(audit: &Audit) -> Result<()> {
    let categories = audit.num_categories.map_or("unknown".into(), |count| count.to_string());
    let size = audit.image_size.map_or("none usable".into(), |(w, h)| format!("most of {w} x {h} pixels"));
    say!("{} data set; categories: {categories}; images: {size}", audit.format);
    for remark in &audit.remarks {
        say!("{remark}");
    }
    say!("");
    let mut splits = Table::new([
        ("split", Align::Left),
        ("listed", Align::Right),
        ("usable", Align::Right),
        ("annotated", Align::Right),
        ("share", Align::Right),
    ]);
    for count in audit.splits {
        let share = 100.0 * count.annotated as f64 / count.listed.max(1) as f64;
        let numbers = [count.listed, count.usable, count.annotated].map(|number| number.to_string());
        let cells = [count.split.name().to_string()].into_iter().chain(numbers);
        splits.row(cells.chain([format!("{share:.1} %")]));
    }
    say!("{splits}");
    if audit.faults.is_empty() {
        say!("nothing is wrong");
        return Ok(());
    }
    let mut faults = Table::new([
        ("count", Align::Right),
        ("found", Align::Left),
        ("effect", Align::Left),
        ("first of them", Align::Left),
    ]);
    for (fault, places) in &audit.faults {
        let effect = match fault.effect() {
            Effect::StopsTraining => "stops training",
            Effect::StopsObjects => "stops --objects",
            Effect::TrainingRuns => "training runs",
        };
        for (index, place) in places.iter().take(NUM_NAMED).enumerate() {
            match index {
                0 => faults.row([&places.len().to_string(), fault.title(), effect, place]),
                _ => faults.row(["", "", "", place]),
            }
        }
    }
    say!("{faults}");
    Ok(())
}

fn to_json(audit: &Audit) -> Value {
    let splits: serde_json::Map<String, Value> = audit
        .splits
        .iter()
        .map(|count| {
            let numbers =
                json!({"listed": count.listed, "usable": count.usable, "annotated": count.annotated});
            (count.split.name().to_string(), numbers)
        })
        .collect();
    let faults: Vec<Value> = audit
        .faults
        .iter()
        .map(|(fault, places)| {
            let effect = match fault.effect() {
                Effect::StopsTraining => "stops_training",
                Effect::StopsObjects => "stops_objects",
                Effect::TrainingRuns => "training_runs",
            };
            json!({"fault": fault.key(), "effect": effect, "count": places.len(), "places": places})
        })
        .collect();
    json!({
        "format": audit.format,
        "remarks": audit.remarks,
        "categories": audit.num_categories,
        "image_size": audit.image_size.map(|(width, height)| [width, height]),
        "splits": splits,
        "faults": faults,
    })
}
