//! `residuum data check`: an audit of a data set as a table or as JSON.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::data::check::{Audit, Effect, check};
use crate::data::pack::{self, PackAudit};
use crate::error::{Error, Result};
use crate::report::{Align, Table};
use crate::show::show_path;

/// Places of a fault that the table names.
const NUM_NAMED: usize = 3;

/// Look through a whole data set for what would stop or spoil training
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Data set
    #[arg(long, alias = "data-path", value_name = "DIR")]
    data_dir: PathBuf,
    /// Decode the photos again and hold their packs in the cache to them: an edit that keeps length and time of a file is
    /// not seen otherwise
    #[arg(long)]
    pack: bool,
    /// Where decoded photos are kept [default: RESIDUUM_CACHE, or residuum in the user's cache folder]
    #[arg(long, value_name = "DIR", requires = "pack")]
    cache_dir: Option<PathBuf>,
    /// Print everything that was found as JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<()> {
        let audit = check(&self.data_dir)?;
        let packs = match self.pack {
            true => {
                let cache = self.cache_dir.map_or_else(pack::default_cache_dir, Ok)?;
                Some(pack::audit_packs(&self.data_dir, &cache)?)
            }
            false => None,
        };
        if self.json {
            say!("{:#}", to_json(&audit, packs.as_deref()));
        } else {
            print(&audit)?;
            packs.as_deref().map_or(Ok(()), print_packs)?;
        }
        match audit.num_stopping() {
            0 => packs.unwrap_or_default().iter().try_for_each(expect_current),
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

fn print_packs(packs: &[PackAudit]) -> Result<()> {
    for pack in packs {
        let found = match (pack.is_sound, pack.changed.len()) {
            (false, _) => "the file is damaged".into(),
            (true, 0) => "as packed".into(),
            (true, count) => format!("{count} changed since"),
        };
        say!("{} {} photos at {} pixels: {found}", pack.num_images, pack.split.name(), pack.image_size);
    }
    if packs.is_empty() {
        say!("no pack of these photos in the cache");
    }
    Ok(())
}

/// Fails on a pack that training would not see the photos of the data set in.
fn expect_current(pack: &PackAudit) -> Result<()> {
    let remedy = "remove this pack, and the next start makes it again";
    match &pack.changed[..] {
        _ if !pack.is_sound => Err(Error::data(&pack.path, format!("is damaged; {remedy}"))),
        [] => Ok(()),
        changed => {
            let (count, names) = (changed.len(), changed.iter().take(NUM_NAMED).map(|path| show_path(path)));
            let names = names.collect::<Vec<_>>().join(", ");
            let more = if count > NUM_NAMED { ", ..." } else { "" };
            let what =
                format!("{count} of {} photos are not as they were packed: {names}{more}", pack.num_images);
            Err(Error::data(&pack.path, format!("{what}; {remedy}")))
        }
    }
}

fn to_json(audit: &Audit, packs: Option<&[PackAudit]>) -> Value {
    let packs = packs.map(|packs| {
        let pack = |pack: &PackAudit| {
            json!({
                "path": pack.path.to_string_lossy(),
                "split": pack.split.name(),
                "image_size": pack.image_size,
                "images": pack.num_images,
                "sound": pack.is_sound,
                "changed": pack.changed.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
            })
        };
        packs.iter().map(pack).collect::<Vec<Value>>()
    });
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
        "packs": packs,
    })
}
