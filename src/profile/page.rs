//! A profile as one offline HTML page.

use super::sums::Sum;
use super::table::{Column, a_request, cpu_table, needed, per_second, table};
use super::words::{SOURCES, capitalised, count, grid, mb, ms, or_none, percent, ratio, us};
use super::{Ceilings, Gpu, GpuLaunch, Launch, Profile, Unit};
use crate::report::{Align, Bar, Bars, Body, Guide, Look, Mark, Marks, Page, Scatter, Section, Table, Tile};
use crate::show::{show_count, show_rate, show_text};

/// The roofs end so many times to the left and to the right of their corner.
const FAR: f64 = 1e9;

impl Profile {
    /// The page as one HTML file that needs no other.
    pub fn html(&self) -> String {
        self.page().to_html()
    }

    fn page(&self) -> Page {
        let mut sections = vec![Section::new("Time by operation", Body::Bars(self.bars()))];
        match &self.gpu {
            Some(gpu) => sections.extend(self.gpu_sections(gpu)),
            None => sections.extend(self.cpu_sections()),
        }
        if let Some(exchange) = &self.exchange {
            sections.insert(1, Section::new("Exchanges", Body::Text(vec![exchange.sentence()])));
        }
        Page {
            title: format!("A training step of {}", show_text(&self.setting.model)),
            subtitle: format!(
                "{} · {} · residuum {}",
                self.subject(),
                self.times(),
                show_text(&self.version)
            ),
            tiles: self.tiles(),
            sections,
            ..Page::default()
        }
    }

    fn gpu_sections(&self, gpu: &Gpu) -> Vec<Section> {
        let layers = self.by_layer();
        let all_layers = format!("all {} layers", show_count(layers.len()));
        let launches: Vec<Numbered> = (1..)
            .zip(&self.launches)
            .filter_map(|(number, launch)| Some((number, launch, launch.gpu.as_ref()?)))
            .collect();
        let number = show_count(launches.len());
        let folded = |summary: String, table: Table| Body::Folded(summary, Box::new(Body::Table(table)));
        let facts = [("GPU", show_text(&gpu.name))].into_iter().chain(gpu.facts());
        vec![
            Section::new("Rooflines", self.rooflines(gpu)),
            Section::new("By operation", Body::Table(self.sums_table("Operation", &self.by_operation()))),
            Section::new("By kernel", Body::Table(self.sums_table("Kernel", &self.by_kernel()))),
            Section::new("By layer", folded(all_layers, self.sums_table("Layer", &layers))),
            Section::new(
                "Launches",
                Body::Several(vec![
                    folded(format!("time of all {number} launches"), self.times_table(&launches)),
                    folded(
                        format!("time that each unit takes alone in all {number} launches"),
                        units_table(&launches),
                    ),
                    folded(format!("what all {number} launches ask for"), demands_table(&launches)),
                ]),
            ),
            Section::new(
                "Where the numbers come from",
                Body::Text(SOURCES.map(String::from).into_iter().chain(self.ceilings_sentence()).collect()),
            ),
            Section::new(
                "Constants of the GPU",
                Body::Facts(facts.map(|(name, value)| (capitalised(name), value)).collect()),
            ),
        ]
    }

    fn cpu_sections(&self) -> Vec<Section> {
        let table = |what, sums: &[Sum]| Body::Table(cpu_table([what, "Times", "Share"], sums));
        let folded = |what, plural: &str, sums: &[Sum]| {
            Body::Folded(format!("all {} {plural}", show_count(sums.len())), Box::new(table(what, sums)))
        };
        let text = "Times are measured. GB/s are of the bytes of operands and results, each once.";
        vec![
            Section::new("By operation", table("Operation", &self.by_operation())),
            Section::new("By layer", folded("Layer", "layers", &self.by_layer())),
            Section::new("By node", folded("Node", "nodes", &self.by_node())),
            Section::new(
                "Where the numbers come from",
                Body::Text([text.to_string()].into_iter().chain(self.ceilings_sentence()).collect()),
            ),
        ]
    }

    fn ceilings_sentence(&self) -> Option<String> {
        self.ceilings.as_ref().map(Ceilings::sentence)
    }

    fn tiles(&self) -> Vec<Tile> {
        let totals = &self.totals;
        let tile = |label: &str, value: String, note: String| Tile { label: label.into(), value, note };
        let mut tiles = Vec::new();
        if let Some(gpu) = &self.gpu {
            let rate = show_rate(totals.predicted_images_per_second);
            let note = format!("{} ms a step on {}", ms(totals.predicted_seconds), show_text(&gpu.name));
            tiles.push(tile("Images/s, predicted", rate, note));
        }
        if let Some((seconds, rate)) = totals.measured_seconds.zip(self.measured_images_per_second()) {
            let note = match totals.predicted_seconds {
                predicted if predicted > 0.0 => {
                    format!("{} ms a step, {} of the prediction", ms(seconds), ratio(seconds, predicted))
                }
                _ => format!("{} ms a step", ms(seconds)),
            };
            tiles.push(tile("Images/s, measured", show_rate(rate), note));
        }
        let gflop = |flops: f64| format!("{:.1} GFLOP", flops / 1e9);
        let flops = totals.flops as f64;
        if self.gpu.is_none() {
            tiles.push(tile("Operations a step", show_count(totals.launches), gflop(flops)));
            return tiles;
        }
        let images = self.setting.batch_size as f64;
        let an_image = |bytes: u64| format!("{} MB", ratio(bytes as f64 / 1e6, images));
        let of_step = |bytes: u64| format!("{:.2} GB a step", bytes as f64 / 1e9);
        tiles.extend([
            tile("Launches a step", show_count(totals.launches), gflop(flops)),
            tile("DRAM, an image", an_image(totals.dram_bytes), of_step(totals.dram_bytes)),
            tile("From L2, an image", an_image(totals.l2_bytes), of_step(totals.l2_bytes)),
            tile("Bank conflicts", count(totals.bank_conflicts), "phases a step".into()),
        ]);
        tiles
    }

    /// Time by operation: predicted and by the units that bound it, on a CPU as measured.
    fn bars(&self) -> Bars {
        let mut sums = self.by_operation();
        let is_predicted = self.gpu.is_some();
        if is_predicted {
            sums.sort_by(|a, b| b.predicted_seconds.total_cmp(&a.predicted_seconds));
        }
        let all: f64 = if is_predicted { self.totals.predicted_seconds } else { self.seconds() };
        let bars = sums.iter().map(|sum| {
            let lengths: Vec<f64> = match is_predicted {
                true => sum.bound_seconds.iter().map(|(_, seconds)| *seconds).collect(),
                false => vec![sum.seconds()],
            };
            let seconds: f64 = lengths.iter().sum();
            let value =
                format!("{} ms, {}", ms(seconds), percent(if all > 0.0 { seconds / all } else { 0.0 }));
            Bar { label: show_text(&sum.name), value, lengths }
        });
        let parts = match is_predicted {
            true => Unit::NAMES.iter().map(|unit| format!("bound by {unit}")).collect(),
            false => vec!["measured".to_string()],
        };
        Bars { parts, bars: bars.collect() }
    }

    /// The speed of every node over its flops a byte, of DRAM and from L2, below the roofs of the GPU.
    fn rooflines(&self, gpu: &Gpu) -> Body {
        let nodes = self.by_node();
        let peak = gpu.peak_flops(&self.setting.precision) / 1e12;
        let charts = [
            ("DRAM", gpu.dram_gb_per_s, (|sum| sum.dram_bytes) as fn(&Sum) -> u64),
            ("L2", gpu.l2_gb_per_s, |sum| sum.l2_bytes),
        ];
        let charts = charts.map(|(memory, gb_per_s, bytes)| roofline(&nodes, peak, memory, gb_per_s, bytes));
        let without = nodes.iter().filter(|node| node.flops == 0).count();
        let text = format!(
            "A dot is a node of the graph with all its launches, predicted; a ring is the same node measured. The roof is what \
             the tensor cores and the memory allow together. {} of {} nodes compute nothing and have no place here.",
            show_count(without),
            show_count(nodes.len())
        );
        Body::Several(vec![Body::Scatters(charts.to_vec()), Body::Text(vec![text])])
    }

    fn sums_table(&self, what: &str, sums: &[Sum]) -> Table {
        let is_measured = self.totals.measured_seconds.is_some();
        let mut names = vec![
            (what, Align::Left),
            ("Launches", Align::Right),
            ("GFLOP", Align::Right),
            ("MB from L2", Align::Right),
            ("MB DRAM", Align::Right),
            ("Bank conflicts", Align::Right),
            ("Predicted ms", Align::Right),
            ("Bound by", Align::Left),
            ("TFLOP/s", Align::Right),
            ("Share", Align::Right),
        ];
        if is_measured {
            let measured = ["Measured ms", "Over predicted", "Of ceiling"];
            names.extend(measured.map(|name| (name, Align::Right)));
        }
        let mut table = Table::with_columns(names.into_iter().map(|(name, align)| (name.to_string(), align)));
        for sum in sums {
            let mut cells = vec![
                show_text(&sum.name),
                show_count(sum.launches),
                format!("{:.2}", sum.flops as f64 / 1e9),
                mb(sum.l2_bytes),
                mb(sum.dram_bytes),
                count(sum.bank_conflicts),
                ms(sum.predicted_seconds),
                sum.bound().to_string(),
                per_second(sum.flops, sum.seconds(), 1e12),
                percent(sum.share),
            ];
            if is_measured {
                let predicted = sum.predicted_seconds;
                cells.push(or_none(sum.measured_seconds, ms));
                cells.push(or_none(sum.measured_seconds, |measured| ratio(measured, predicted)));
                cells.push(or_none(sum.of_ceiling(), percent));
            }
            table.row(cells);
        }
        table
    }

    fn times_table(&self, launches: &[Numbered]) -> Table {
        let mut columns: Vec<Column<Numbered>> = vec![
            ("#", Align::Right, |(number, ..)| number.to_string()),
            ("Node", Align::Left, |(_, launch, _)| show_text(&launch.layer)),
            ("Kernel", Align::Left, |(.., gpu)| show_text(&gpu.kernel)),
            ("Grid", Align::Right, |(.., gpu)| grid(gpu.grid)),
            ("Waves", Align::Right, |(.., gpu)| format!("{:.2}", gpu.waves)),
            ("Bound by", Align::Left, |(.., gpu)| gpu.bound.to_string()),
            ("Predicted us", Align::Right, |(.., gpu)| us(gpu.predicted_seconds)),
        ];
        if self.launches.iter().any(|launch| launch.measured_seconds.is_some()) {
            columns
                .push(("Measured us", Align::Right, |(_, launch, _)| or_none(launch.measured_seconds, us)));
            columns.push(("Over predicted", Align::Right, |(_, launch, gpu)| {
                or_none(launch.measured_seconds, |measured| ratio(measured, gpu.predicted_seconds))
            }));
            columns
                .push(("Of ceiling", Align::Right, |(_, launch, _)| or_none(launch.of_ceiling(), percent)));
        }
        table(&columns, launches)
    }
}

/// A launch with its place in the step, from 1.
type Numbered<'a> = (usize, &'a Launch, &'a GpuLaunch);

/// The time that each unit would take alone.
fn units_table(launches: &[Numbered]) -> Table {
    let units = Unit::NAMES.iter().map(|unit| (format!("{unit} us"), Align::Right));
    let names = [("#".to_string(), Align::Right), ("Node".to_string(), Align::Left)];
    let mut table = Table::with_columns(names.into_iter().chain(units));
    for (number, launch, gpu) in launches {
        let seconds = gpu.unit_seconds.all().map(|(_, seconds)| us(seconds));
        table.row([number.to_string(), show_text(&launch.layer)].into_iter().chain(seconds));
    }
    table
}

/// What launches ask of the GPU.
fn demands_table(launches: &[Numbered]) -> Table {
    let columns: [Column<Numbered>; 12] = [
        ("#", Align::Right, |(number, ..)| number.to_string()),
        ("Node", Align::Left, |(_, launch, _)| show_text(&launch.layer)),
        ("Registers", Align::Right, |(.., gpu)| or_none(gpu.registers, |count| count.to_string())),
        ("Shared KiB", Align::Right, |(.., gpu)| format!("{:.1}", f64::from(gpu.shared_bytes) / 1024.0)),
        ("Blocks an SM", Align::Right, |(.., gpu)| gpu.blocks_per_sm.to_string()),
        ("Loop instr.", Align::Right, |(.., gpu)| or_none(gpu.loop_instructions, |count| count.to_string())),
        ("Tensor share", Align::Right, |(.., gpu)| or_none(gpu.tensor_share(), percent)),
        ("MB needed", Align::Right, |(_, launch, _)| needed(launch)),
        ("MB from L2", Align::Right, |(.., gpu)| mb(gpu.counts.l2_bytes)),
        ("MB DRAM", Align::Right, |(.., gpu)| mb(gpu.dram_bytes)),
        ("Sectors a request, ideal", Align::Right, |(.., gpu)| {
            let [found, ideal] =
                [gpu.counts.global_sectors, gpu.counts.ideal_sectors].map(|sectors| a_request(gpu, sectors));
            format!("{found}, {ideal}")
        }),
        ("Conflicts", Align::Right, |(.., gpu)| count(gpu.counts.bank_conflicts())),
    ];
    table(&columns, launches)
}

fn roofline(nodes: &[Sum], peak: f64, memory: &str, gb_per_s: f64, bytes: fn(&Sum) -> u64) -> Scatter {
    let mark = |node: &Sum, seconds: f64, how: &str| {
        let (x, y) = (node.flops as f64 / bytes(node) as f64, node.flops as f64 / seconds / 1e12);
        let name = show_text(&node.name);
        let title = format!("{name}: {y:.2} TFLOP/s {how} at {x:.1} flops a byte, {} us", us(seconds));
        Mark { x, y, title }
    };
    let of_unit = Unit::NAMES.iter().enumerate().map(|(color, unit)| Marks {
        label: format!("bound by {unit}"),
        look: Look::Disc(color),
        points: nodes
            .iter()
            .filter(|node| node.bound().name() == *unit)
            .map(|node| mark(node, node.predicted_seconds, "predicted"))
            .collect(),
    });
    let measured = nodes.iter().filter_map(|node| Some(mark(node, node.measured_seconds?, "measured")));
    let measured = Marks { label: "measured".into(), look: Look::Ring, points: measured.collect() };
    let ridge = peak / gb_per_s * 1e3;
    let roof = Guide {
        label: format!("{peak:.0} TFLOP/s, {gb_per_s:.0} GB/s"),
        corners: vec![(ridge / FAR, peak / FAR), (ridge, peak), (ridge * FAR, peak)],
    };
    Scatter {
        title: format!("TFLOP/s over flops a byte, {memory}"),
        x_label: format!("flops a byte, {memory}"),
        marks: of_unit.chain([measured]).collect(),
        guides: vec![roof],
    }
}
