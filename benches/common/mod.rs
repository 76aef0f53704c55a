//! What the benchmarks of whole networks share: their rows, their flags, their statistics.

use residuum::device::{Device, DeviceChoice};
use residuum::models::{Model, Options};
use residuum::step::StepConfig;
use residuum::tensor::DType;

pub const CLASSES: usize = 100;
/// Why a step of a graph that was planned for the device cannot fail.
pub const RUNS: &str = "the device runs every operation";

/// A network at an image and batch size, training or not.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub model: &'static str,
    pub size: usize,
    pub batch: usize,
    pub train: bool,
}

impl Row {
    pub const fn new(model: &'static str, size: usize, batch: usize, train: bool) -> Row {
        Row { model, size, batch, train }
    }

    pub fn mode(&self) -> &'static str {
        if self.train { "train" } else { "infer" }
    }

    /// What `--rows` is looked for in.
    pub fn title(&self) -> String {
        format!("{} {} {}", self.model, self.size, self.mode())
    }

    pub fn config(&self, float: DType) -> StepConfig {
        let model = Model::new(self.model, Options::new(CLASSES)).expect("the rows name known models");
        StepConfig { float, seed: 1, ..StepConfig::new(model, self.batch, self.size) }
    }
}

/// The device that `--device` names, or an end with exit code 3.
pub fn open_device(name: &str) -> Device {
    let opened = name.parse().and_then(DeviceChoice::open);
    opened.map(|(device, _)| device).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(3)
    })
}

/// The type that `--precision` names.
pub fn parse_precision(name: &str) -> Option<DType> {
    [DType::F32, DType::Bf16].into_iter().find(|dtype| dtype.to_string() == name)
}

/// The middle of sorted values, and the distance of their quartiles over it.
pub fn median_and_spread(sorted: &[f64]) -> (f64, f64) {
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    (at(0.5), (at(0.75) - at(0.25)) / at(0.5))
}
