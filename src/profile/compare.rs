//! Two profiles of one setting: what got worse and what got better.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::words::{grow, list, us};
use super::{GpuLaunch, Launch, Profile};
use crate::error::{Error, Result};
use crate::named::named;
use crate::report::{Align, Table};
use crate::show::{show_count, show_text};

/// Rows of a table for one measure; others are counted.
const MAX_ROWS: usize = 10;
/// Names in a row of a table, and in a line of a list; others are counted.
const MAX_NAMES_OF_ROW: usize = 1;
const MAX_NAMES: usize = 3;
/// A predicted time is the same up to this part of it: constants are no better.
const PREDICTED_TOLERANCE: f64 = 0.005;
/// Two runs differ by more than rounding.
const MEASURED_TOLERANCE: f64 = 0.05;

named! {
    /// What two profiles are compared by; less is better.
    pub enum Measure {
        /// Launches of a step; operations on a CPU.
        Launches = "launches",
        /// Bytes from and to DRAM.
        DramBytes = "DRAM bytes",
        /// Bytes from L2 to the multiprocessors.
        L2Bytes = "L2 bytes",
        /// Phases of shared memory beyond those needed.
        BankConflicts = "bank conflicts",
        /// Sectors that requests to global memory touch beyond the fewest that hold their bytes.
        Sectors = "excess sectors",
        /// Registers of a thread.
        Registers = "registers",
        /// Instructions of the innermost loop.
        LoopInstructions = "loop instructions",
        /// Seconds, predicted.
        PredictedSeconds = "predicted us",
        /// Seconds of the step, measured on one device.
        MeasuredSeconds = "measured us",
    }
}

impl Measure {
    /// Whether more of it fails a gate: times are a model, or differ from run to run.
    pub fn is_guarded(self) -> bool {
        !matches!(self, Measure::PredictedSeconds | Measure::MeasuredSeconds)
    }

    fn tolerance(self) -> f64 {
        match self {
            Measure::PredictedSeconds => PREDICTED_TOLERANCE,
            Measure::MeasuredSeconds => MEASURED_TOLERANCE,
            _ => 0.0,
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Measure::PredictedSeconds | Measure::MeasuredSeconds => us(value),
            _ => show_count(value as usize),
        }
    }
}

/// A measure, then and now.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The node and kernel of the launch; none for the whole step.
    pub launch: Option<Which>,
    /// What was compared.
    pub measure: Measure,
    /// The value of the old profile.
    pub old: f64,
    /// The value of the new one.
    pub new: f64,
}

/// Which launch of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Which {
    /// Name of its node.
    pub node: String,
    /// Symbol of its kernel in the new profile; in the old one where it is gone.
    pub kernel: String,
}

impl Change {
    /// Whether there is more of the measure now, by more than rounding.
    pub fn is_worse(&self) -> bool {
        self.new > self.old * (1.0 + self.measure.tolerance())
    }

    /// Whether there is less of the measure now, by more than rounding.
    pub fn is_better(&self) -> bool {
        self.new < self.old * (1.0 - self.measure.tolerance())
    }
}

/// What changed between two profiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What both profiled.
    pub subject: String,
    /// The versions of the program that wrote the old and the new profile.
    pub versions: [String; 2],
    /// The measures of the whole step, whether they changed or not.
    pub totals: Vec<Change>,
    /// The measures of launches that changed.
    pub launches: Vec<Change>,
    /// Launches that the old profile has not.
    pub added: Vec<Which>,
    /// Launches that the new profile has not.
    pub gone: Vec<Which>,
    /// Launches that another variant of their kernel computes now, with that of the old profile.
    pub replaced: Vec<(Which, String)>,
    /// Sentences about what could not be compared.
    pub untold: Vec<String>,
}

/// The measures of launches that may be unknown, with where they are known from.
type Known = (Measure, fn(&GpuLaunch) -> Option<u32>, &'static str);
const KNOWN: [Known; 2] = [
    (Measure::Registers, |gpu| gpu.registers, "no assembler was there when its program was built"),
    (
        Measure::LoopInstructions,
        |gpu| gpu.loop_instructions,
        "no disassembler was there when its program was built",
    ),
];

impl Comparison {
    /// Compares the profile `new` with `old`. Launches are the same if node, operation and kernel are, up to the kernel's
    /// variant, and if they come at the same place among those.
    ///
    /// # Errors
    /// [`Error::Usage`] if the profiles are of different settings or GPUs; the device of measurements may be another.
    pub fn of(old: &Profile, new: &Profile) -> Result<Comparison> {
        refuse_different(old, new)?;
        let mut old_launches: BTreeMap<[&str; 3], VecDeque<&Launch>> = BTreeMap::new();
        for launch in &old.launches {
            old_launches.entry(key(launch)).or_default().push_back(launch);
        }
        let mut comparison = Comparison {
            subject: subject(new),
            versions: [old, new].map(|profile| show_text(&profile.version)),
            totals: totals(old, new),
            launches: Vec::new(),
            added: Vec::new(),
            gone: Vec::new(),
            replaced: Vec::new(),
            untold: Vec::new(),
        };
        let mut pairs = Vec::new();
        for launch in &new.launches {
            match old_launches.get_mut(&key(launch)).and_then(VecDeque::pop_front) {
                Some(old) => pairs.push((old, launch)),
                None => comparison.added.push(Which::of(launch)),
            }
        }
        let pairs = pairs.iter().filter_map(|(old, new)| Some((*new, old.gpu.as_ref()?, new.gpu.as_ref()?)));
        pairs.clone().for_each(|(launch, old, new)| comparison.add(Which::of(launch), old, new));
        comparison.untold = untold(old, new, pairs.map(|(_, old, new)| (old, new)));
        let mut left = old_launches;
        for launch in old.launches.iter().rev() {
            // Of launches with one key, the last ones are left.
            if left.get_mut(&key(launch)).is_some_and(|launches| launches.pop_back().is_some()) {
                comparison.gone.push(Which::of(launch));
            }
        }
        comparison.gone.reverse();
        Ok(comparison)
    }

    /// Whether anything that a gate guards got worse, in the whole step or in a launch.
    pub fn worse(&self) -> bool {
        self.totals
            .iter()
            .chain(&self.launches)
            .any(|change| change.measure.is_guarded() && change.is_worse())
    }

    fn add(&mut self, which: Which, old: &GpuLaunch, gpu: &GpuLaunch) {
        if old.kernel != gpu.kernel {
            self.replaced.push((which.clone(), show_text(&old.kernel)));
        }
        let known = KNOWN.iter().filter_map(|&(measure, value, _)| {
            Some((measure, f64::from(value(old)?), f64::from(value(gpu)?)))
        });
        let counted = [
            (Measure::DramBytes, old.dram_bytes as f64, gpu.dram_bytes as f64),
            (Measure::L2Bytes, old.counts.l2_bytes as f64, gpu.counts.l2_bytes as f64),
            (Measure::BankConflicts, old.counts.bank_conflicts() as f64, gpu.counts.bank_conflicts() as f64),
            (Measure::Sectors, excess_sectors([old]), excess_sectors([gpu])),
            (Measure::PredictedSeconds, old.predicted_seconds, gpu.predicted_seconds),
        ];
        let changes = counted.into_iter().chain(known).map(|(measure, old, new)| Change {
            launch: Some(which.clone()),
            measure,
            old,
            new,
        });
        self.launches.extend(changes.filter(|change| change.is_worse() || change.is_better()));
    }
}

impl Which {
    pub(super) fn of(launch: &Launch) -> Which {
        let kernel = launch.gpu.as_ref().map_or(&launch.operation, |gpu| &gpu.kernel);
        Which { node: show_text(&launch.layer), kernel: show_text(kernel) }
    }
}

fn key(launch: &Launch) -> [&str; 3] {
    [&launch.layer, &launch.operation, launch.kernel_family()]
}

/// Sectors beyond the fewest that hold the bytes: unlike those of a request, they are no more where fewer, wider requests
/// ask for the same.
fn excess_sectors<'a>(launches: impl IntoIterator<Item = &'a GpuLaunch>) -> f64 {
    let counts = launches.into_iter().map(|gpu| gpu.counts);
    counts.map(|counts| counts.global_sectors.saturating_sub(counts.ideal_sectors) as f64).sum()
}

fn subject(profile: &Profile) -> String {
    let gpu = profile.gpu.as_ref().map(|gpu| format!(" for {}", show_text(&gpu.name)));
    format!("{}{}", profile.subject(), gpu.unwrap_or_default())
}

fn refuse_different(old: &Profile, new: &Profile) -> Result<()> {
    let [before, now] = [subject(old), subject(new)];
    if before != now {
        return Err(Error::Usage(format!(
            "the profiles are of different settings: {before}, and now {now}; profile one setting to compare"
        )));
    }
    let Some((before, now)) = old.gpu.as_ref().zip(new.gpu.as_ref()).filter(|(old, new)| old != new) else {
        return Ok(());
    };
    let facts = before.facts().into_iter().zip(now.facts()).find(|(old, new)| old != new);
    let what = facts.map_or("of another name".to_string(), |((name, old), (_, new))| {
        format!("{name} {old}, and now {new}")
    });
    Err(Error::Usage(format!(
        "the profiles are for {} with different constants: {what}; profile the old program again with these constants",
        show_text(&now.name)
    )))
}

/// The measures of the whole step.
fn totals(old: &Profile, new: &Profile) -> Vec<Change> {
    let of = |measure, old, new| Change { launch: None, measure, old, new };
    let (before, now) = (&old.totals, &new.totals);
    let mut totals = vec![of(Measure::Launches, before.launches as f64, now.launches as f64)];
    if new.gpu.is_some() {
        let sectors = |profile: &Profile| {
            excess_sectors(profile.launches.iter().filter_map(|launch| launch.gpu.as_ref()))
        };
        totals.extend([
            of(Measure::DramBytes, before.dram_bytes as f64, now.dram_bytes as f64),
            of(Measure::L2Bytes, before.l2_bytes as f64, now.l2_bytes as f64),
            of(Measure::BankConflicts, before.bank_conflicts as f64, now.bank_conflicts as f64),
            of(Measure::Sectors, sectors(old), sectors(new)),
            of(Measure::PredictedSeconds, before.predicted_seconds, now.predicted_seconds),
        ]);
    }
    if old.setting.device == new.setting.device {
        let measured = before.measured_seconds.zip(now.measured_seconds);
        totals.extend(measured.map(|(old, new)| of(Measure::MeasuredSeconds, old, new)));
    }
    totals
}

/// What cannot be compared, and why; `pairs` are the launches that both profiles have.
fn untold<'a>(
    old: &Profile,
    new: &Profile,
    pairs: impl Iterator<Item = (&'a GpuLaunch, &'a GpuLaunch)> + Clone,
) -> Vec<String> {
    let mut untold = Vec::new();
    let sides = [("old", old), ("new", new)];
    for (measure, value, why) in KNOWN {
        let is_unknown = |profile: &Profile| {
            let mut launches = profile.launches.iter().filter_map(|launch| launch.gpu.as_ref()).peekable();
            launches.peek().is_some() && launches.all(|gpu| value(gpu).is_none())
        };
        let unknown: Vec<&str> =
            sides.iter().filter(|(_, profile)| is_unknown(profile)).map(|(side, _)| *side).collect();
        untold.extend(unknown.iter().map(|side| format!("{measure}: the {side} profile has none, as {why}")));
        let of_one = pairs.clone().filter(|(old, new)| value(old).is_some() != value(new).is_some()).count();
        if unknown.is_empty() && of_one > 0 {
            let launches = if of_one == 1 { "launch" } else { "launches" };
            untold.push(format!("{measure}: one profile alone has them of {of_one} {launches}"));
        }
    }
    let [before, now] = sides.map(|(_, profile)| profile.totals.measured_seconds.is_some());
    if before && now && old.setting.device != new.setting.device {
        let [old, new] = [&old.setting.device, &new.setting.device].map(|device| show_text(device));
        untold.push(format!("measured times: they are of {old}, and now of {new}"));
    } else if before != now {
        let side = if before { "new" } else { "old" };
        untold.push(format!("measured times: the {side} profile has none of the whole step"));
    }
    untold
}

/// What changed, in tables.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nbefore: {}; now: {}\n", self.subject, self.versions[0], self.versions[1])?;
        let mut totals = Table::new([
            ("whole step", Align::Left),
            ("before", Align::Right),
            ("now", Align::Right),
            ("change", Align::Right),
            ("", Align::Left),
        ]);
        for change in &self.totals {
            let [old, new] = [change.old, change.new].map(|value| change.measure.show(value));
            let verdict = match (change.is_worse(), change.is_better()) {
                (true, _) => "worse",
                (_, true) => "better",
                _ => "",
            };
            totals.row([
                change.measure.to_string(),
                old,
                new,
                grow(change.old, change.new),
                verdict.to_string(),
            ]);
        }
        write!(f, "{totals}")?;
        self.show_launches(f, "worse", Change::is_worse)?;
        self.show_launches(f, "better", Change::is_better)?;
        for (title, launches) in [("new launches", &self.added), ("launches gone", &self.gone)] {
            let of_kernel = grouped(launches, |which| which.kernel.clone());
            for (index, (kernel, launches)) in of_kernel.iter().enumerate() {
                let title = if index == 0 { format!("\n{title}\n") } else { String::new() };
                writeln!(f, "{title}  {kernel}: {}", nodes(launches.iter().copied(), MAX_NAMES))?;
            }
        }
        let variants = grouped(&self.replaced, |(which, old)| format!("{old} -> {}", which.kernel));
        for (index, (kernels, launches)) in variants.iter().enumerate() {
            let title = if index == 0 { "\nother variants of kernels\n" } else { "" };
            writeln!(f, "{title}  {kernels}: {}", nodes(launches.iter().map(|(which, _)| which), MAX_NAMES))?;
        }
        for (index, sentence) in self.untold.iter().enumerate() {
            let title = if index == 0 { "\nnot compared\n" } else { "" };
            writeln!(f, "{title}  {sentence}")?;
        }
        Ok(())
    }
}

impl Comparison {
    /// The launches that `is_meant` is true of: those that changed alike in one row, the largest changes of each measure first.
    fn show_launches(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        is_meant: fn(&Change) -> bool,
    ) -> fmt::Result {
        let meant: Vec<(&Which, &Change)> = self
            .launches
            .iter()
            .filter(|change| is_meant(change))
            .filter_map(|change| Some((change.launch.as_ref()?, change)))
            .collect();
        let mut table = Table::new([
            ("measure", Align::Left),
            ("kernel", Align::Left),
            ("before", Align::Right),
            ("now", Align::Right),
            ("change", Align::Right),
            ("at", Align::Left),
        ]);
        let mut others = Vec::new();
        for &name in Measure::NAMES {
            let of_measure = meant.iter().filter(|(_, change)| change.measure.name() == name);
            let rows = grouped(of_measure, |(which, change)| {
                let [old, new] = [change.old, change.new].map(|value| change.measure.show(value));
                [which.kernel.clone(), old, new, grow(change.old, change.new)]
            });
            let mut rows: Vec<_> = rows.into_iter().collect();
            let size = |change: &Change| (change.new - change.old).abs();
            rows.sort_by(|(_, a), (_, b)| size(b[0].1).total_cmp(&size(a[0].1)));
            if rows.len() > MAX_ROWS {
                others.push(format!("{} more of {name}", show_count(rows.len() - MAX_ROWS)));
            }
            for ([kernel, old, new, growth], launches) in rows.into_iter().take(MAX_ROWS) {
                let at = nodes(launches.iter().map(|(which, _)| *which), MAX_NAMES_OF_ROW);
                table.row([name.to_string(), kernel, old, new, growth, at]);
            }
        }
        if table.is_empty() {
            return Ok(());
        }
        write!(f, "\nlaunches that got {title}\n{table}")?;
        if others.is_empty() { Ok(()) } else { writeln!(f, "and {}", others.join(", ")) }
    }
}

/// `items` by `key`, in their order.
fn grouped<T, K: Ord>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> K) -> BTreeMap<K, Vec<T>> {
    let mut groups: BTreeMap<K, Vec<T>> = BTreeMap::new();
    items.into_iter().for_each(|item| groups.entry(key(&item)).or_default().push(item));
    groups
}

/// The names of the nodes of `launches`, at most `most` of them.
fn nodes<'a>(launches: impl IntoIterator<Item = &'a Which>, most: usize) -> String {
    let names: Vec<&str> = launches.into_iter().map(|which| which.node.as_str()).collect();
    list(&names, most)
}
