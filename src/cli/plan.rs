//! `residuum plan`: layers, cost and memory of a training run, without touching a device.

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::flags::parse_bytes;
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Phase, Role};
use crate::models::{self, ObjectsKind};
use crate::plan::Program;
use crate::report::{Align, Table};
use crate::show::{show_bytes, show_count};
use crate::step::{StepConfig, evaluation_graph, program};
use crate::train::capacity::{LargestBatch, largest_batch};
use crate::train::config::TrainConfig;

/// Show layers, cost and memory of a training run before any device is touched
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Network
    #[arg(long, value_name = "NAME", default_value = "resnet18", value_parser = PossibleValuesParser::new(models::names()))]
    model: String,
    /// Form of the blocks
    #[arg(long, value_name = "FORM", default_value = "v1.5", value_parser = ["v1", "v1.5", "v2"])]
    form: String,
    /// Height and width of the images in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 128)]
    img_size: usize,
    /// Images of a batch
    #[arg(short, long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Categories
    #[arg(long, value_name = "N", default_value_t = 100)]
    categories: usize,
    /// Take in where 175 classes of objects are
    #[arg(long, value_name = "WAY", default_value = "none", value_parser = ["none", "masks", "vector", "codes"])]
    objects: String,
    /// Update rule
    #[arg(long, value_name = "NAME", default_value = "sgd", value_parser = ["sgd", "adam", "adamw"])]
    opt: String,
    /// Batches per update
    #[arg(long, value_name = "N", default_value_t = 1)]
    grad_accum_steps: usize,
    /// Plan for clipping by the norm of all gradients
    #[arg(long)]
    clip_grad: bool,
    /// Plan for averaged weights
    #[arg(long)]
    model_ema: bool,
    /// Memory there is; prints the largest batch that fits
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<usize>,
    /// Kind of device to plan for: cpu, cuda or simt; none has to be there
    #[arg(long, value_name = "KIND", default_value = "cpu", value_parser = ["cpu", "cuda", "simt"])]
    device: String,
    /// Type of activations
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "bf16"])]
    precision: String,
    /// Run the textbook graph instead of fused operations
    #[arg(long)]
    no_fuse: bool,
    /// Also print every step with its place in the arena
    #[arg(long)]
    steps: bool,
}

impl PlanArgs {
    pub(super) fn run(self) -> Result<()> {
        let config = TrainConfig {
            model: self.model.clone(),
            form: self.form.parse()?,
            img_size: self.img_size,
            objects: ObjectsKind::NAMES
                .contains(&&*self.objects)
                .then(|| self.objects.parse())
                .transpose()?,
            batch_size: self.batch_size,
            opt: self.opt.parse()?,
            grad_accum_steps: self.grad_accum_steps,
            // The values themselves decide no bytes.
            clip_grad: self.clip_grad.then_some(1.0),
            model_ema_decay: self.model_ema.then_some(0.5),
            precision: self.precision.parse()?,
            fuse: !self.no_fuse,
            ..TrainConfig::defaults(None)
        };
        let step = config.step_config(self.categories)?;
        let device = match self.device.as_str() {
            "cuda" => DeviceKind::Cuda,
            "simt" => DeviceKind::Simt,
            _ => DeviceKind::Cpu,
        };
        let planned = program(&step, device)?;
        let layers = evaluation_graph(&StepConfig { fuse: false, ..step.clone() }, "")?;
        print!("{}", layer_table(&layers));
        println!();
        print!("{}", memory_table(&planned));
        let cost = planned.plans[0].cost();
        println!(
            "\na training step of {} images: {:.2} GFLOP, {} moved at least",
            self.batch_size,
            cost.flops as f64 / 1e9,
            show_bytes(cost.bytes as usize)
        );
        if self.steps {
            print!("\n{}", planned.plans[0]);
        }
        match self.memory {
            Some(memory) => print_largest_batch(&step, memory, device),
            None => Ok(()),
        }
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
    let state =
        program.persistent_bytes_where(|v| matches!(v.role, Role::State | Role::Average | Role::Accumulated));
    row("parameters", parameters);
    row("running statistics and averages", state);
    row("optimiser state", optimiser);
    row("alignment", program.persistent_bytes - parameters - state - optimiser);
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

fn print_largest_batch(step: &StepConfig, memory: usize, device: DeviceKind) -> Result<()> {
    match largest_batch(step, memory, device)? {
        LargestBatch::Fits { images, peak_bytes } => {
            println!("largest batch in {}: {images} images ({})", show_bytes(memory), show_bytes(peak_bytes));
            Ok(())
        }
        LargestBatch::TooLarge { images, peak_bytes } => Err(Error::does_not_fit(format!(
            "even a batch of {images} needs {}, more than --memory {}; take a smaller model or --img-size",
            show_bytes(peak_bytes),
            show_bytes(memory)
        ))),
    }
}
