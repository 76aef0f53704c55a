//! `residuum replay`: one update of a run once more, to find where its numbers go wrong.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::flags::open_device;
use super::output;
use crate::device::DeviceChoice;
use crate::error::Result;
use crate::report::{Align, Table};
use crate::run::run_dir::RunDir;
use crate::show::{show_path, tell};
use crate::step::statistics::ResultStatistics;
use crate::train::config::TrainConfig;
use crate::train::replay::Replay;

/// Values before and after a finding that the table shows.
const NUM_AROUND: usize = 4;

/// Run one update of a run once more and name the first layer whose numbers overflow, or differ from the CPU's
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Run folder; nothing in it is changed
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Updates before the one to look at, as the message of a run that diverged names them
    #[arg(long, value_name = "N")]
    step: u64,
    /// auto, cpu, cuda, cuda:N or simt [default: the run's]
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Print what was found of every value as JSON
    #[arg(long)]
    json: bool,
}

impl ReplayArgs {
    pub(super) fn run(self) -> Result<()> {
        let dir = RunDir::open(&self.run)?;
        let config: TrainConfig = dir.read_config()?;
        let device = open_device(self.device.unwrap_or(*config.device))?;
        let replay = Replay::of(&dir, self.step, device)?;
        replay.remarks.iter().for_each(tell);
        if self.json {
            say!("{:#}", to_json(&replay));
            return Ok(());
        }
        self.print(&replay)
    }

    fn print(&self, replay: &Replay) -> Result<()> {
        let Replay { step, from_step, epoch, batch_in_epoch, learning_rate, loss, .. } = replay;
        say!(
            "{} after {step} updates, from its state after {from_step}: epoch {}, batch {batch_in_epoch}, learning rate \
             {learning_rate:.6}, loss {loss}",
            show_path(&self.run),
            epoch + 1
        );
        let count = replay.results.len();
        match replay.first_not_finite().map(|place| &replay.results[place]) {
            Some(ResultStatistics { op, elements, .. }) => say!(
                "first value that is not finite: `{}` of {op}, {} of {} elements",
                elements.name,
                elements.not_finite,
                elements.elements
            ),
            None => say!("all {count} values of the forward and the backward pass are finite"),
        }
        match (replay.first_different().map(|place| &replay.results[place]), replay.tolerance) {
            (Some(ResultStatistics { op, elements, difference }), Some(tolerance)) => say!(
                "first value that differs from the CPU's by more than {tolerance}: `{}` of {op}, by {:.3}",
                elements.name,
                difference.unwrap_or(f64::NAN)
            ),
            (None, Some(tolerance)) => say!("no value differs from the CPU's by more than {tolerance}"),
            (_, None) => {}
        }
        if let Some(value) = replay.first_bad_update() {
            let count = value.not_finite;
            say!(
                "after the update `{}` is no longer finite: {count} of {} elements",
                value.name,
                value.elements
            );
        }
        let finding = replay.first_not_finite().into_iter().chain(replay.first_different()).min();
        match finding {
            Some(place) => output::print(around(&replay.results, place)),
            None => Ok(()),
        }
    }
}

/// The values around the one at `place`.
fn around(results: &[ResultStatistics], place: usize) -> Table {
    let mut table = Table::new([
        ("value", Align::Left),
        ("operation", Align::Left),
        ("not finite", Align::Right),
        ("largest", Align::Right),
        ("rms", Align::Right),
        ("difference", Align::Right),
    ]);
    for result in &results[place.saturating_sub(NUM_AROUND)..results.len().min(place + NUM_AROUND + 1)] {
        let ResultStatistics { op, elements, difference } = result;
        table.row([
            elements.name.clone(),
            op.to_string(),
            elements.not_finite.to_string(),
            format!("{:.3e}", elements.largest),
            format!("{:.3e}", elements.rms),
            difference.map_or_else(String::new, |share| format!("{share:.1e}")),
        ]);
    }
    table
}

fn to_json(replay: &Replay) -> Value {
    let mut value = serde_json::to_value(replay).expect("numbers and names are JSON");
    let name = |place: Option<usize>| place.map(|place| replay.results[place].elements.name.clone());
    value["first_not_finite"] = json!(name(replay.first_not_finite()));
    value["first_different"] = json!(name(replay.first_different()));
    value
}
