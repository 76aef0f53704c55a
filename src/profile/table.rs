//! A profile on a terminal.

use super::sums::Sum;
use super::words::{NONE, SOURCES, count, grid, mb, ms, or_none, percent, ratio, us};
use super::{Gpu, GpuLaunch, Launch, Profile};
use crate::report::{Align, Table};
use crate::show::{show_count, show_rate, show_text};

/// No line is longer, but for names that are.
const MAX_COLUMNS: usize = 120;

/// A column: its heading, and what stands in it.
pub(super) type Column<T> = (&'static str, Align, fn(&T) -> String);

impl Profile {
    /// What was profiled and how, sums by operation, the slowest `num_launches` launches, and what a step comes to.
    pub fn text(&self, num_launches: usize) -> String {
        let mut text = format!("{}; {}\n", self.subject(), self.times());
        match &self.gpu {
            Some(gpu) => self.gpu_text(gpu, num_launches, &mut text),
            None => self.cpu_text(num_launches, &mut text),
        }
        text += &format!("\na step: {}\n", self.step());
        text
    }

    fn gpu_text(&self, gpu: &Gpu, num_launches: usize, text: &mut String) {
        *text += &wrapped(&gpu.sentence());
        SOURCES.iter().for_each(|source| *text += &wrapped(source));
        self.exchange.iter().for_each(|exchange| *text += &wrapped(&exchange.sentence()));
        self.ceilings.iter().for_each(|ceilings| *text += &wrapped(&ceilings.sentence()));
        *text += &format!("\n{}", self.operations());
        let launches: Vec<(usize, &Launch, &GpuLaunch)> = self
            .by_time()
            .into_iter()
            .take(num_launches)
            .enumerate()
            .filter_map(|(index, launch)| Some((index + 1, launch, launch.gpu.as_ref()?)))
            .collect();
        if !launches.is_empty() {
            *text += &format!("\n{}\n", self.which(launches.len()));
            *text += &format!("{}\n{}", self.times_of(&launches), demands_of(&launches));
        }
    }

    fn cpu_text(&self, num_launches: usize, text: &mut String) {
        *text += &wrapped("GB/s are of the bytes of operands and results, each once.");
        self.ceilings.iter().for_each(|ceilings| *text += &wrapped(&ceilings.sentence()));
        *text += &format!("\n{}", cpu_table(["operation", "times", "share"], &self.by_operation()));
        let mut nodes = self.by_node();
        nodes.sort_by(|a, b| b.share.total_cmp(&a.share));
        nodes.truncate(num_launches);
        if !nodes.is_empty() {
            *text +=
                &format!("\n{}\n{}", self.which(nodes.len()), cpu_table(["node", "times", "share"], &nodes));
        }
    }

    /// Which launches are shown.
    fn which(&self, shown: usize) -> String {
        let what = if self.gpu.is_some() { "launches" } else { "nodes" };
        match self.launches.len() {
            all if all == shown => format!("all {} {what}", show_count(all)),
            all => format!("the slowest {} of {} {what}", show_count(shown), show_count(all)),
        }
    }

    fn operations(&self) -> Table {
        let mut columns: Vec<Column<Sum>> = vec![
            ("operation", Align::Left, |sum| show_text(&sum.name)),
            ("launches", Align::Right, |sum| show_count(sum.launches)),
            ("GFLOP", Align::Right, |sum| format!("{:.1}", sum.flops as f64 / 1e9)),
            ("MB\nfrom L2", Align::Right, |sum| mb(sum.l2_bytes)),
            ("MB\nDRAM", Align::Right, |sum| mb(sum.dram_bytes)),
            ("bank\nconflicts", Align::Right, |sum| count(sum.bank_conflicts)),
            ("share", Align::Right, |sum| percent(sum.share)),
            ("TFLOP/s", Align::Right, |sum| per_second(sum.flops, sum.seconds(), 1e12)),
            ("predicted\nms", Align::Right, |sum| ms(sum.predicted_seconds)),
        ];
        if self.totals.measured_seconds.is_some() {
            columns.push(("measured\nms", Align::Right, |sum| or_none(sum.measured_seconds, ms)));
            columns.push(("over\npredicted", Align::Right, |sum| {
                or_none(sum.measured_seconds, |measured| ratio(measured, sum.predicted_seconds))
            }));
            columns.push(("of\nceiling", Align::Right, |sum| or_none(sum.of_ceiling(), percent)));
        }
        table(&columns, &self.by_operation())
    }

    /// Where the time of `launches` goes; each has a number.
    fn times_of(&self, launches: &[(usize, &Launch, &GpuLaunch)]) -> Table {
        let layers = self.layers();
        let is_measured = launches.iter().any(|(_, launch, _)| launch.measured_seconds.is_some());
        let columns = [
            ("#", Align::Right),
            ("layer", Align::Left),
            ("kernel", Align::Left),
            ("share", Align::Right),
            ("bound by", Align::Left),
            ("predicted\nus", Align::Right),
            ("measured\nus", Align::Right),
            ("over\npredicted", Align::Right),
            ("of\nceiling", Align::Right),
        ];
        let shown = if is_measured { columns.len() } else { columns.len() - 3 };
        let names = columns.iter().map(|&(name, align)| (name.to_string(), align));
        let mut table = Table::with_columns(names.take(shown));
        for (number, launch, gpu) in launches {
            let measured = launch.measured_seconds;
            let cells = [
                number.to_string(),
                show_text(layers.of(&launch.layer)),
                show_text(&gpu.kernel),
                percent(self.seconds_of(launch) / self.seconds()),
                gpu.bound.to_string(),
                us(gpu.predicted_seconds),
                or_none(measured, us),
                or_none(measured, |measured| ratio(measured, gpu.predicted_seconds)),
                or_none(launch.of_ceiling(), percent),
            ];
            table.row(cells.into_iter().take(shown));
        }
        table
    }

    /// What a step comes to.
    fn step(&self) -> String {
        let totals = &self.totals;
        let what = if self.gpu.is_some() { "launches" } else { "operations" };
        let mut parts = vec![
            format!("{} {what}", show_count(totals.launches)),
            format!("{:.1} GFLOP", totals.flops as f64 / 1e9),
        ];
        if self.gpu.is_some() {
            let an_image = |bytes: u64| ratio(bytes as f64 / 1e6, self.setting.batch_size as f64);
            parts.extend([
                format!(
                    "{} MB from L2 and {} MB DRAM an image",
                    an_image(totals.l2_bytes),
                    an_image(totals.dram_bytes)
                ),
                format!("{} bank conflicts", count(totals.bank_conflicts)),
                format!(
                    "predicted {} ms ({} images/s)",
                    ms(totals.predicted_seconds),
                    show_rate(totals.predicted_images_per_second)
                ),
            ]);
        }
        if let Some((seconds, rate)) = totals.measured_seconds.zip(self.measured_images_per_second()) {
            parts.push(format!("measured {} ms ({} images/s)", ms(seconds), show_rate(rate)));
        }
        wrapped_after("a step: ", &parts.join(", "))
    }
}

/// What launches ask of the GPU, by the numbers that [`Profile::times_of`] gives them.
fn demands_of(launches: &[(usize, &Launch, &GpuLaunch)]) -> Table {
    let columns: [Column<(usize, &Launch, &GpuLaunch)>; 14] = [
        ("#", Align::Right, |(number, ..)| number.to_string()),
        ("grid", Align::Right, |(.., gpu)| grid(gpu.grid)),
        ("regis-\nters", Align::Right, |(.., gpu)| or_none(gpu.registers, |count| count.to_string())),
        ("shared\nKiB", Align::Right, |(.., gpu)| format!("{:.1}", f64::from(gpu.shared_bytes) / 1024.0)),
        ("blocks\nan SM", Align::Right, |(.., gpu)| gpu.blocks_per_sm.to_string()),
        ("waves", Align::Right, |(.., gpu)| format!("{:.2}", gpu.waves)),
        ("loop\ninstr.", Align::Right, |(.., gpu)| or_none(gpu.loop_instructions, |count| count.to_string())),
        ("tensor\nshare", Align::Right, |(.., gpu)| or_none(gpu.tensor_share(), percent)),
        ("MB\nfrom L2", Align::Right, |(.., gpu)| mb(gpu.counts.l2_bytes)),
        ("MB\nDRAM", Align::Right, |(.., gpu)| mb(gpu.dram_bytes)),
        ("MB\nneeded", Align::Right, |(_, launch, _)| needed(launch)),
        ("sectors/\nrequest", Align::Right, |(.., gpu)| a_request(gpu, gpu.counts.global_sectors)),
        ("ideal", Align::Right, |(.., gpu)| a_request(gpu, gpu.counts.ideal_sectors)),
        ("conflicts", Align::Right, |(.., gpu)| count(gpu.counts.bank_conflicts())),
    ];
    table(&columns, launches)
}

/// Compulsory bytes, which the first launch of a node stands for.
pub(super) fn needed(launch: &Launch) -> String {
    if launch.compulsory_bytes > 0 { mb(launch.compulsory_bytes) } else { NONE.to_string() }
}

/// How many of `sectors` there are to a request.
pub(super) fn a_request(gpu: &GpuLaunch, sectors: u64) -> String {
    ratio(sectors as f64, gpu.counts.global_requests as f64)
}

/// Sums on a CPU, below these headings of what they are of, of their number and of their share.
pub(super) fn cpu_table([what, times, share]: [&'static str; 3], sums: &[Sum]) -> Table {
    let columns: [Column<Sum>; 7] = [
        (what, Align::Left, |sum| show_text(&sum.name)),
        (times, Align::Right, |sum| show_count(sum.launches)),
        ("ms", Align::Right, |sum| or_none(sum.measured_seconds, ms)),
        ("GFLOP/s", Align::Right, |sum| per_second(sum.flops, sum.seconds(), 1e9)),
        ("GB/s", Align::Right, |sum| per_second(sum.compulsory_bytes, sum.seconds(), 1e9)),
        ("of ceiling", Align::Right, |sum| or_none(sum.of_ceiling(), percent)),
        (share, Align::Right, |sum| percent(sum.share)),
    ];
    table(&columns, sums)
}

/// How many times `unit` of `count` there are in a second.
pub(super) fn per_second(count: u64, seconds: f64, unit: f64) -> String {
    if count > 0 && seconds > 0.0 {
        format!("{:.1}", count as f64 / seconds / unit)
    } else {
        NONE.to_string()
    }
}

pub(super) fn table<T>(columns: &[Column<T>], rows: &[T]) -> Table {
    let mut table = Table::with_columns(columns.iter().map(|(name, align, _)| (name.to_string(), *align)));
    rows.iter().for_each(|row| table.row(columns.iter().map(|(.., show)| show(row))));
    table
}

/// `text` as lines.
pub(super) fn wrapped(text: &str) -> String {
    wrapped_after("", text) + "\n"
}

/// `text` in lines, the first of which stands behind `before`.
fn wrapped_after(before: &str, text: &str) -> String {
    let mut lines = String::new();
    let mut column = before.chars().count();
    for word in text.split(' ') {
        let length = word.chars().count();
        let is_first = lines.is_empty();
        if !is_first && column + 1 + length > MAX_COLUMNS {
            lines += "\n  ";
            column = 2;
        } else if !is_first {
            lines.push(' ');
            column += 1;
        }
        lines += word;
        column += length;
    }
    lines
}
