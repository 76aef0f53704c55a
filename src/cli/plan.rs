//! `residuum plan`: layers, cost and memory of a training run, without touching a device.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::flags::{SettingArgs, parse_bytes, parse_images};
use super::output;
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::fuse::Fusion;
use crate::graph::{Graph, Node, Phase, Role};
use crate::plan::Program;
use crate::report::{Align, Table};
use crate::show::{show_bytes, show_count};
use crate::step::{PixelSource, StepConfig, Traffic, evaluation_graph, program};
use crate::train::capacity::{LargestBatch, largest_batch, pixel_source, pixels_line, room_with_data};
use crate::train::config::TrainConfig;
use crate::train::source::Extent;

/// Show layers, cost and memory of a training run before any device is touched
#[derive(Debug, Args)]
#[command(mut_arg("clip_grad", |flag| flag.num_args(0..=1).default_missing_value(ANY_NORM)))]
pub(super) struct PlanArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// Plan for a data set that is not here, with TRAIN and VAL images of --categories [default: 100] without objects
    #[arg(long, value_name = "TRAIN,VAL", value_parser = parse_images, help_heading = "Data")]
    images: Option<(usize, usize)>,
    /// Plan one of N ranks that train together
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    ranks: usize,
    /// Also say what machines with so many of these ranks each send each other
    #[arg(long, value_name = "N", requires = "ranks")]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    ranks_per_node: Option<usize>,
    /// Memory that is free on the device: decides whether it holds the data set, and the largest batch that fits is printed
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<usize>,
    /// Also print every step with its place in the arena
    #[arg(long)]
    steps: bool,
}

/// What `--clip-grad` alone means to a plan: the norm decides no bytes.
const ANY_NORM: &str = "1";
/// Categories of a data set that is not here: those of MiniPlaces.
const CATEGORIES: usize = 100;

impl PlanArgs {
    pub(super) fn run(self) -> Result<()> {
        // Has the defaults of a data set, and no folder.
        let elsewhere = self.images.map(|_| PathBuf::new());
        let mut config = self.settings.read(elsewhere)?;
        config.validate()?;
        config.split_over(self.ranks)?;
        let ranks_per_node = self.ranks_per_node.unwrap_or(self.ranks);
        if !self.ranks.is_multiple_of(ranks_per_node) {
            return Err(Error::Usage(format!(
                "--ranks {} --ranks-per-node {ranks_per_node}: machines have as many ranks each; give a divisor of {}",
                self.ranks, self.ranks
            )));
        }
        let extent = self.extent(&config)?;
        let device = config.device.kind()?;
        let precision = config.decide_precision(device);
        let mut step = config.of_rank(config.step_config(extent.facts, device)?, self.ranks);
        step.ranks_per_node = ranks_per_node;
        step.pixels = pixel_source(&step, &extent, device, self.memory)?;
        let planned = program(&step, device)?;
        let layers = evaluation_graph(&StepConfig { fuse: Fusion::NONE, ..step.clone() }, "")?;
        output::print(layer_table(&layers))?;
        say!("");
        output::print(memory_table(&planned))?;
        let cost = planned.plans[0].cost();
        say!(
            "\na training step of {} images: {:.2} GFLOP, {} moved at least",
            step.batch_size,
            cost.flops as f64 / 1e9,
            show_bytes(cost.bytes as usize)
        );
        if let Some(traffic) = Traffic::of(&planned, &step) {
            let rounds = step.grad_accum_steps;
            let (of_rank, of_node) = (traffic.bytes_of(rounds), traffic.node_bytes_of(rounds));
            say!("{}", config.update_line(self.ranks));
            say!("for an update each sends {} to the others, and receives as much", show_bytes(of_rank));
            if ranks_per_node < self.ranks {
                let nodes = self.ranks / ranks_per_node;
                say!("each of {nodes} machines sends {} to the other ones", show_bytes(of_node));
            }
        }
        for line in precision.into_iter().chain(pixels_line(&step, &extent)) {
            say!("{line}");
        }
        if self.steps {
            say!("");
            output::print(&planned.plans[0])?;
        }
        self.memory.map_or(Ok(()), |memory| print_largest_batch(&step, &extent, memory, device))
    }

    fn extent(&self, config: &TrainConfig) -> Result<Extent> {
        if let Some((train, val)) = self.images {
            return Ok(Extent { train, val, facts: config.categories.unwrap_or(CATEGORIES).into() });
        }
        Extent::of(config).map_err(|error| match error {
            Error::Setting { name, value, message } if config.data_dir.is_none() => {
                let message = format!("{message}, or plan for another data set with --images or --data-dir");
                Error::Setting { name, value, message }
            }
            other => other,
        })
    }
}

/// One row a layer of the forward pass.
fn layer_table(graph: &Graph) -> Table {
    let mut table = Table::new([
        ("layer", Align::Left),
        ("operation", Align::Left),
        ("output", Align::Right),
        ("parameters", Align::Right),
        ("MFLOP", Align::Right),
        ("bytes", Align::Right),
    ]);
    let (mut parameters, mut flops, mut bytes) = (0, 0, 0);
    for node in graph.nodes().iter().filter(|node| node.phase == Phase::Forward) {
        let count = parameters_of(graph, node);
        let types =
            |ids: &[crate::graph::ValueId]| ids.iter().map(|&id| graph.value(id).ty).collect::<Vec<_>>();
        let cost = node.op.cost(&types(&node.inputs), &types(&node.outputs));
        parameters += count;
        flops += cost.flops;
        bytes += cost.bytes;
        table.row([
            node.name.clone(),
            node.op.name().to_string(),
            graph.shape(node.outputs[0]).to_string(),
            if count > 0 { show_count(count) } else { String::new() },
            format!("{:.1}", cost.flops as f64 / 1e6),
            show_bytes(cost.bytes as usize),
        ]);
    }
    table.row([
        "total".to_string(),
        String::new(),
        String::new(),
        show_count(parameters),
        format!("{:.1}", flops as f64 / 1e6),
        show_bytes(bytes as usize),
    ]);
    table
}

fn parameters_of(graph: &Graph, node: &Node) -> usize {
    let learned = node.inputs.iter().map(|&id| graph.value(id)).filter(|value| value.role == Role::Parameter);
    learned.map(|value| value.ty.shape.num_elems()).sum()
}

/// What the arena holds, to the byte.
fn memory_table(program: &Program) -> Table {
    let mut table = Table::new([("memory", Align::Left), ("bytes", Align::Right), ("", Align::Right)]);
    let mut row = |what: &str, bytes: usize| table.row([what, &show_count(bytes), &show_bytes(bytes)]);
    let parameters = program.persistent_bytes_where(|v| v.role == Role::Parameter);
    let optimiser = program.persistent_bytes_where(|v| v.role == Role::Optimiser);
    let state = program.persistent_bytes_where(|v| matches!(v.role, Role::State | Role::Average));
    let sums = program.persistent_bytes_where(|v| v.role == Role::Accumulated);
    let exchanged = program.persistent_bytes_where(|v| v.role == Role::Exchanged);
    row("parameters", parameters);
    row("running statistics and averages", state);
    row("optimiser state", optimiser);
    let data = program.persistent_bytes_where(|v| v.role == Role::Data);
    let of_some = [
        ("sums of gradients", sums),
        ("exchanges with other ranks", exchanged),
        ("pixels of the data set", data),
    ];
    of_some.into_iter().filter(|(_, bytes)| *bytes > 0).for_each(|(what, bytes)| row(what, bytes));
    let all = parameters + state + optimiser + sums + exchanged + data;
    row("alignment", program.persistent_bytes - all);
    let fullest = program.plans.iter().map(|plan| &plan.live).max_by_key(|live| live.arena_bytes);
    if let Some(live) = fullest {
        for &(role, bytes) in &live.by_role {
            row(&format!("{} at the fullest step", role.name()), bytes);
        }
        let alive: usize = live.by_role.iter().map(|(_, bytes)| bytes).sum();
        row("gaps", live.arena_bytes - alive);
    }
    row("peak", program.peak_bytes);
    table
}

fn print_largest_batch(step: &StepConfig, extent: &Extent, memory: usize, device: DeviceKind) -> Result<()> {
    let title = format!("largest batch in {}", show_bytes(memory));
    let mut step = step.clone();
    if step.pixels != PixelSource::Host {
        step.pixels = PixelSource::Resident { train: extent.train, val: extent.val };
        if let LargestBatch::Fits { images, peak_bytes } =
            largest_batch(&step, room_with_data(memory), device)?
        {
            let peak = show_bytes(peak_bytes);
            say!("{title} with the pixels of the data set on the device: {images} images ({peak})");
        }
        step.pixels = PixelSource::Batch;
    }
    match largest_batch(&step, memory, device)? {
        LargestBatch::Fits { images, peak_bytes } => {
            say!("{title}: {images} images ({})", show_bytes(peak_bytes));
            Ok(())
        }
        LargestBatch::TooLarge { images, peak_bytes } => Err(Error::does_not_fit(format!(
            "even a batch of {images} needs {}, more than --memory {}; take a smaller model or --img-size",
            show_bytes(peak_bytes),
            show_bytes(memory)
        ))),
    }
}
