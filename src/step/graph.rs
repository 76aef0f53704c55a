//! The graphs of a run: one training step, and the forward pass of evaluation.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::exchange::{self, AllReduce, SumOrder, check_sum_order};
use super::overlap::overlap;
use super::sync::synchronise;
use super::update::{accumulate, average, update};
use crate::autodiff::differentiate;
use crate::batch::BatchContents;
use crate::data::annotations::Capacity;
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::fuse::{Fusion, fuse};
use crate::graph::{Graph, Phase, Role, ValueId};
use crate::models::{Inputs, Network, Objects, is_of_layer};
use crate::ops::{
    AdamConfig, AugmentFwd, Clear, ClipNorm, Mix, Mode, Rasterise, SgdConfig, Targets, augment, auto_augment,
    cast, fill, rasterise, softmax_xent,
};
use crate::plan::{Program, plan};
use crate::tensor::{DType, Shape};
use crate::transform::{AutoSteps, Normalization, SampleParams};

/// Names of the values that the host writes and reads.
pub mod values {
    /// Normalised pixels, NHWC.
    pub const IMAGES: &str = "images";
    /// Pixels as they are, u8 NHWC, where the device prepares the images: those of a batch.
    pub const PIXELS: &str = "pixels";
    /// Those of all training images, on a device that holds them.
    pub const TRAIN_PIXELS: &str = "pixels.train";
    /// Those of all validation images.
    pub const VAL_PIXELS: &str = "pixels.val";
    /// Which of the pixels each sample shows, i32, -1 for padding.
    pub const ROWS: &str = "rows";
    /// What happens to each sample: [`crate::transform::SampleParams`].
    pub const PARAMS: &str = "params";
    /// Operations on each sample's bytes: [`crate::transform::AutoSteps`].
    pub const STEPS: &str = "steps";
    /// Corners of the polygons of a batch.
    pub const POINTS: &str = "points";
    /// Their objects: sample, class, first point, number of points.
    pub const OBJECTS: &str = "objects";
    /// Which classes of objects each image has.
    pub const PRESENCE: &str = "presence";
    /// Category of each image, -1 for padding.
    pub const LABELS: &str = "labels";
    /// Category of the image that each image is mixed with.
    pub const PARTNERS: &str = "partners";
    /// Share of each image in its mixture.
    pub const WEIGHTS: &str = "weights";
    /// See [`super::hyper_parameters`].
    pub const HYPER: &str = "hyper";
    /// The same for the layers before the last, where they have a rate of their own.
    pub const HYPER_BACKBONE: &str = "hyper.backbone";
    /// Which batch of an update this is, from 0, where they are added in the order of a tree.
    pub const ROUND: &str = "round";
    /// Mean loss of the batch.
    pub const LOSS: &str = "loss";
    /// Top-1 hits, top-5 hits and images counted.
    pub const HITS: &str = "loss.hits";
    /// Scores of the categories, in an evaluation graph.
    pub const LOGITS: &str = "logits";
    /// Probabilities.
    pub const PROBS: &str = "loss.probs";
    /// Norm of all gradients, where they are clipped.
    pub const GRAD_NORM: &str = "clip.norm";
}

/// Prefix of the averaged weights' names.
pub const EMA_PREFIX: &str = "ema.";
/// Prefix of the names of what an optimiser keeps.
pub(super) const OPTIMISER_PREFIX: &str = "optimiser.";
/// Prefix of the names of gradients that are summed over the micro-batches of an update.
pub(super) const ACCUMULATED_PREFIX: &str = "accumulated.";

/// Plans of a training program: the step, the forward pass of evaluation, and from [`SMALLER`] on the step at each of the
/// [`StepConfig::smaller_sizes`].
pub const TRAIN: usize = 0;
/// See [`TRAIN`].
pub const EVAL: usize = 1;
/// See [`TRAIN`].
pub const SMALLER: usize = 2;

/// The update rule with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimiser {
    /// Stochastic gradient descent.
    Sgd(SgdConfig),
    /// Adam or AdamW.
    Adam(AdamConfig),
}

impl Optimiser {
    /// The same rule without weight decay.
    pub(super) fn without_decay(self) -> Optimiser {
        match self {
            Optimiser::Sgd(sgd) => Optimiser::Sgd(SgdConfig { weight_decay: 0.0, ..sgd }),
            Optimiser::Adam(adam) => Optimiser::Adam(AdamConfig { weight_decay: 0.0, ..adam }),
        }
    }
}

/// Everything that decides the graph of a step.
#[derive(Debug, Clone)]
pub struct StepConfig {
    /// What is trained.
    pub network: Arc<dyn Network>,
    /// Images of one micro-batch.
    pub batch_size: usize,
    /// Height and width of the images.
    pub image_size: usize,
    /// Further sizes that training images may have ([`super::Training::set_image_size`]). They take no data that the device
    /// holds: where it has some, batches of these sizes carry their pixels.
    pub smaller_sizes: Vec<usize>,
    /// Type of activations and weights.
    pub float: DType,
    /// Whether convolutions of f32 may multiply in TF32 ([`Window::allow_tf32`](crate::ops::Window::allow_tf32)).
    pub allow_tf32: bool,
    /// The update rule.
    pub optimiser: Optimiser,
    /// Whether its weight decay is on biases and batch norms, too; else it is on filters and matrices alone.
    pub norm_decay: bool,
    /// Label smoothing.
    pub smoothing: f32,
    /// Largest norm of all gradients together.
    pub clip_grad: Option<f32>,
    /// Micro-batches per update, of each rank.
    pub grad_accum_steps: usize,
    /// Processes that train together, each on micro-batches of its own ([`super::Training::join`]).
    pub num_ranks: usize,
    /// How many of them share a machine: those with numbers in a row.
    pub ranks_per_node: usize,
    /// Who adds up the gradients of ranks.
    pub all_reduce: AllReduce,
    /// In which order the gradients of the batches of an update are added, on one rank, too; NCCL has its own.
    pub sum_order: SumOrder,
    /// Ranks send each other gradients in buckets of at least so many bytes, those of the last layers first, each once the backward
    /// pass has made the last of it.
    pub bucket_bytes: usize,
    /// Type in which ranks send each other gradients: f32, or bf16, for half the bytes. Then the gradient of a micro-batch is
    /// rounded, summed in f32 with the others, and the sum rounded; one rank rounds alike, for the same bits.
    pub grad_wire: DType,
    /// Whether batch norms take statistics of the batches of all ranks together, as one rank would of a batch of all their images;
    /// else each rank takes those of its own batch.
    pub sync_bn: bool,
    /// Decay of the averaged weights.
    pub ema_decay: Option<f32>,
    /// Which layers learn, and how fast.
    pub trained: Trained,
    /// Where the images come from.
    pub pixels: PixelSource,
    /// What pixel values become, where the device prepares the images.
    pub normalization: Normalization,
    /// Rows for the largest annotation of an image, where the model takes objects in.
    pub largest_annotation: Capacity,
    /// Training images are mixed in pairs.
    pub mixes: bool,
    /// Training images get operations on their bytes, where the device prepares them.
    pub has_steps: bool,
    /// The rewrites of its graphs that run.
    pub fuse: Fusion,
    /// Seed of the initial values and of random numbers within a step.
    pub seed: u64,
    /// Batches keep their memory through a step, so that [`super::Training::repeat`] runs the last one again without a copy;
    /// for benchmarks.
    pub keep_inputs: bool,
    /// Every value that a node makes can be read after a step ([`super::statistics::of_results`]), for the memory of all.
    pub keep_results: bool,
}

/// Heights and widths of images that networks are meant for.
pub const IMAGE_SIZES: RangeInclusive<u32> = 8..=1024;

/// Fails on a height and width of images, given as `setting`, that is not in [`IMAGE_SIZES`].
///
/// # Errors
/// [`Error::Setting`] with the range.
pub fn check_image_size(setting: &'static str, size: usize) -> Result<()> {
    let (least, most) = (*IMAGE_SIZES.start() as usize, *IMAGE_SIZES.end() as usize);
    if (least..=most).contains(&size) {
        return Ok(());
    }
    Err(Error::setting(setting, size, format!("must be from {least} to {most}")))
}

impl StepConfig {
    /// Few enough for most of a network's gradients to be on their way before the backward pass ends, enough for links to be busy: the
    /// size that PyTorch takes by default.
    pub const BUCKET_BYTES: usize = 25 << 20;

    /// Plain training of `network` in f32: SGD with momentum 0.9 and weight decay 1e-4, fused, and nothing more.
    pub fn new(network: impl Network + 'static, batch_size: usize, image_size: usize) -> StepConfig {
        StepConfig {
            network: Arc::new(network),
            batch_size,
            image_size,
            smaller_sizes: Vec::new(),
            float: DType::F32,
            allow_tf32: false,
            optimiser: Optimiser::Sgd(SgdConfig { momentum: 0.9, nesterov: false, weight_decay: 1e-4 }),
            norm_decay: true,
            smoothing: 0.0,
            clip_grad: None,
            grad_accum_steps: 1,
            num_ranks: 1,
            ranks_per_node: 1,
            all_reduce: AllReduce::Ordered,
            sum_order: SumOrder::Chain,
            bucket_bytes: StepConfig::BUCKET_BYTES,
            grad_wire: DType::F32,
            sync_bn: false,
            ema_decay: None,
            trained: Trained::All,
            pixels: PixelSource::Host,
            normalization: Normalization::default(),
            largest_annotation: Capacity { points: 1, objects: 1 },
            mixes: false,
            has_steps: false,
            fuse: Fusion::ALL,
            seed: 0,
            keep_inputs: false,
            keep_results: false,
        }
    }

    /// A graph of this precision, in which nothing is recorded.
    fn empty_graph(&self) -> Graph {
        let mut graph = Graph::new(self.float);
        graph.allow_tf32(self.allow_tf32);
        graph
    }

    /// The same step on training images of one of the [`StepConfig::smaller_sizes`].
    fn at_size(&self, image_size: usize) -> StepConfig {
        let pixels = match self.pixels {
            PixelSource::Resident { .. } => PixelSource::Batch,
            other => other,
        };
        StepConfig { image_size, pixels, smaller_sizes: Vec::new(), ..self.clone() }
    }

    /// Micro-batches per update, of all ranks.
    pub fn batches_per_update(&self) -> usize {
        self.grad_accum_steps * self.num_ranks
    }

    /// Whether gradients are rounded as ranks send them.
    pub(super) fn rounds_gradients(&self) -> bool {
        self.grad_wire == DType::Bf16
    }

    /// Whether batch norms ask other ranks.
    pub(super) fn synchronises(&self) -> bool {
        self.sync_bn && self.num_ranks > 1
    }

    /// Whether the value called `name` is of the last layer.
    pub(super) fn is_of_last_layer(&self, name: &str) -> bool {
        is_of_layer(name, self.network.last_layer())
    }

    /// Prefix of the weights that are evaluated and exported: the averaged ones where there are some.
    pub fn evaluated_prefix(&self) -> &'static str {
        if self.ema_decay.is_some() { EMA_PREFIX } else { "" }
    }
}

/// Who makes the network's input, and where the pixels lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PixelSource {
    /// The host makes it and writes [`values::IMAGES`].
    #[default]
    Host,
    /// The device makes it from the pixels of the batch, which the host writes to [`values::PIXELS`].
    Batch,
    /// The device makes it from the data set, which it holds.
    Resident {
        /// Number of training images.
        train: usize,
        /// Number of validation images.
        val: usize,
    },
}

impl PixelSource {
    /// What batches have to carry.
    pub fn contents(self) -> BatchContents {
        match self {
            PixelSource::Host => BatchContents::Images,
            PixelSource::Batch => BatchContents::Pixels,
            PixelSource::Resident { .. } => BatchContents::Indices,
        }
    }
}

/// Which layers learn, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Trained {
    /// All at one rate.
    #[default]
    All,
    /// The last layer at the step's rate, those before it at that rate times this factor.
    TwoRates {
        /// Factor of the learning rate before the last layer.
        backbone_lr_scale: f64,
    },
    /// The last alone; the batch norms before it keep their statistics.
    LastLayer,
}

/// The block of numbers that change from step to step: `[lr, 1-beta1^t, 1-beta2^t, 0]`, t counting updates from 1.
pub fn hyper_parameters(optimiser: &Optimiser, lr: f64, update: u64) -> [f32; 4] {
    let correction = |beta: f64| (1.0 - beta.powf(update as f64)) as f32;
    match optimiser {
        Optimiser::Sgd(_) => [lr as f32, 0.0, 0.0, 0.0],
        Optimiser::Adam(adam) => [lr as f32, correction(adam.beta1), correction(adam.beta2), 0.0],
    }
}

/// Plans the training graphs and the evaluation graph of `config` into one arena on a kind of device.
///
/// # Errors
/// [`crate::Error::Graph`] if the images do not fit the network.
pub fn program(config: &StepConfig, device: DeviceKind) -> Result<Program> {
    let train = training_graph(config)?;
    let eval = evaluation_graph(config, config.evaluated_prefix())?;
    let at_smaller = |&size: &usize| training_graph(&config.at_size(size));
    let smaller: Vec<Graph> = config.smaller_sizes.iter().map(at_smaller).collect::<Result<_>>()?;
    let graphs: Vec<&Graph> = [&train, &eval].into_iter().chain(&smaller).collect();
    plan(&graphs, device)
}

/// Forward, loss, backward and update of one batch.
///
/// # Errors
/// [`crate::Error::Graph`] if the images do not fit the model.
pub fn training_graph(config: &StepConfig) -> Result<Graph> {
    check_sum_order(config.sum_order, config.all_reduce, config.batches_per_update())?;
    let mut graph = config.empty_graph();
    let (loss, _) = loss_graph(&mut graph, config, Mode::Train)?;
    let has_ranks = config.num_ranks > 1;
    let statistics = has_ranks.then(|| exchange::keep_statistics(&mut graph, config));
    let learns = |id: &ValueId| {
        config.trained != Trained::LastLayer || config.is_of_last_layer(&graph.value(*id).name)
    };
    let parameters: Vec<ValueId> = graph.parameters().filter(learns).collect();
    graph.set_phase(Phase::Backward);
    let share = 1.0 / config.batches_per_update() as f32;
    let seed = fill(&mut graph, "loss.seed", [], share)?;
    let mut gradients = differentiate(&mut graph, loss, seed, &parameters)?;
    // Sums over the batches of an update.
    let sums;
    (gradients, sums) = match &statistics {
        Some(statistics) => exchange::exchange(&mut graph, config, &parameters, &gradients, statistics)?,
        None if config.grad_accum_steps > 1 => {
            if config.rounds_gradients() {
                gradients = exchange::round(&mut graph, "wire", &gradients)?;
            }
            let sums = accumulate(&mut graph, config, &parameters, &gradients)?;
            (sums.clone(), sums)
        }
        None => (gradients, Vec::new()),
    };
    graph.set_phase(Phase::Update);
    if config.rounds_gradients() {
        let take = if has_ranks { exchange::widen } else { exchange::round };
        gradients = take(&mut graph, "wire.update", &gradients)?;
    }
    let scale = match config.clip_grad {
        Some(max_norm) => {
            let results = graph.apply("clip", ClipNorm::new(max_norm, gradients.len()), &gradients)?;
            graph.keep(results[1]);
            results[0]
        }
        None => fill(&mut graph, "clip", [], 1.0)?,
    };
    update(&mut graph, config, &parameters, &gradients, scale)?;
    // A tree's first terms replace what is there.
    if !sums.is_empty() && config.sum_order == SumOrder::Chain {
        graph.apply("clear", Clear::new(sums.len()), &sums)?;
    }
    if let Some(decay) = config.ema_decay {
        average(&mut graph, decay)?;
    }
    finish(graph, config, |graph| {
        if let Some(statistics) = statistics.filter(|_| config.synchronises()) {
            synchronise(graph, config.num_ranks, &statistics)?;
        }
        if has_ranks {
            overlap(graph);
        }
        Ok(())
    })
}

/// Forward pass and loss with frozen statistics; `prefix` selects the weights (see [`EMA_PREFIX`]).
///
/// # Errors
/// As [`training_graph`].
pub fn evaluation_graph(config: &StepConfig, prefix: &str) -> Result<Graph> {
    let mut graph = config.empty_graph();
    graph.set_persistent_prefix(prefix);
    let (_, logits) = loss_graph(&mut graph, config, Mode::Eval)?;
    graph.keep_as(values::LOGITS, logits);
    graph.keep(graph.find(values::PROBS).expect("the loss makes probabilities"));
    finish(graph, config, |_| Ok(()))
}

/// Records the loss and the scores that it is taken of.
fn loss_graph(graph: &mut Graph, config: &StepConfig, mode: Mode) -> Result<(ValueId, ValueId)> {
    let inputs = inputs(graph, config, mode)?;
    let batch = [config.batch_size];
    let labels = graph.input(values::LABELS, batch, DType::I32);
    let mix = (mode == Mode::Train && config.mixes).then(|| Mix {
        partners: graph.input(values::PARTNERS, batch, DType::I32),
        weights: graph.input(values::WEIGHTS, batch, DType::F32),
    });
    let frozen = config.trained == Trained::LastLayer;
    let logits = config.network.forward(graph, inputs, if frozen { Mode::Eval } else { mode })?;
    let smoothing = if mode == Mode::Train { config.smoothing } else { 0.0 };
    let loss = softmax_xent(graph, values::LOSS, logits, Targets { labels, mix }, smoothing)?;
    graph.keep(loss.loss);
    graph.keep(loss.hits);
    Ok((loss.loss, logits))
}

/// What the network is applied to: images, and objects where it takes them in.
pub(crate) fn inputs(graph: &mut Graph, config: &StepConfig, mode: Mode) -> Result<Inputs> {
    let StepConfig { batch_size, image_size, float: dtype, .. } = *config;
    let image = [image_size, image_size, 3];
    let images_of = |count: usize| [&[count][..], &image].concat();
    let paint = config.network.objects().and_then(Objects::paint);
    let params = (config.pixels != PixelSource::Host || paint.is_some())
        .then(|| graph.input(values::PARAMS, [batch_size, SampleParams::NUM_ELEMS], DType::F32));
    let pixels = match config.pixels {
        PixelSource::Host => None,
        PixelSource::Batch => {
            Some(graph.input(values::PIXELS, Shape::new(&images_of(batch_size)), DType::U8))
        }
        PixelSource::Resident { train, val } => {
            let (name, count) =
                if mode == Mode::Train { (values::TRAIN_PIXELS, train) } else { (values::VAL_PIXELS, val) };
            Some(graph.data(name, Shape::new(&images_of(count)), DType::U8))
        }
    };
    let images = match (pixels, params) {
        (Some(pixels), Some(params)) => {
            let mut operands = [pixels, graph.input(values::ROWS, [batch_size], DType::I32), params];
            if mode == Mode::Train && config.has_steps {
                let steps = graph.input(values::STEPS, [batch_size, AutoSteps::NUM_ELEMS], DType::F32);
                operands = auto_augment(graph, "photos", operands, steps)?;
            }
            let op = AugmentFwd { normalization: config.normalization, dtype };
            augment(graph, values::IMAGES, operands, op)?
        }
        _ => {
            let images = graph.input(values::IMAGES, Shape::new(&images_of(batch_size)), DType::F32);
            if dtype == DType::Bf16 { cast(graph, "images.bf16", images, dtype)? } else { images }
        }
    };
    let objects = match (config.network.objects(), paint, params) {
        (None, ..) => None,
        (Some(_), Some(paint), Some(params)) => {
            let Capacity { points, objects } = config.largest_annotation;
            let points = graph.input(values::POINTS, [batch_size * points, 2], DType::F32);
            let objects = graph.input(values::OBJECTS, [batch_size * objects, 4], DType::I32);
            let op = Rasterise { paint, height: image_size, width: image_size, dtype };
            Some(rasterise(graph, "objects.image", op, [params, points, objects])?)
        }
        (Some(objects), ..) => {
            Some(graph.input(values::PRESENCE, [batch_size, objects.num_classes], DType::F32))
        }
    };
    Ok(Inputs { images, objects })
}

/// Fuses `graph` and has `rest` change it after that.
fn finish(
    mut graph: Graph,
    config: &StepConfig,
    rest: impl FnOnce(&mut Graph) -> Result<()>,
) -> Result<Graph> {
    if config.keep_inputs {
        let inputs: Vec<ValueId> =
            graph.value_ids().filter(|&id| graph.value(id).role == Role::Input).collect();
        inputs.into_iter().for_each(|id| graph.keep(id));
    }
    graph = fuse(&graph, &config.fuse.rewrites())?;
    rest(&mut graph)?;
    if config.keep_results {
        // Values that fusion removed are no results any more, and a value that is kept would not be removed.
        let results: Vec<ValueId> = graph.nodes().iter().flat_map(|node| node.outputs.clone()).collect();
        results.into_iter().for_each(|id| graph.keep(id));
    }
    graph.verify()?;
    Ok(graph)
}
