//! What the benchmarks of whole networks share: their rows, their flags, their statistics.

mod outcome;

use clap::Args;
use residuum::device::{Device, DeviceChoice, DeviceKind};
use residuum::models::{Model, Options};
use residuum::step::StepConfig;
use residuum::train::precision::Precision;

pub use self::outcome::{end, median_and_spread};

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

    pub fn config(&self, precision: Precision, device: DeviceKind) -> StepConfig {
        let model = Model::new(self.model, Options::new(CLASSES)).expect("the rows name known models");
        let (float, allow_tf32) = (precision.into(), precision.allows_tf32(device));
        StepConfig { float, allow_tf32, seed: 1, ..StepConfig::new(model, self.batch, self.size) }
    }
}

/// The flags of the benchmarks of whole networks.
#[derive(Debug, Args)]
pub struct Flags {
    /// Where to run: cpu, cuda[:N] or simt
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Type of activations: f32, tf32 for f32 with convolutions on tensor cores, or bf16, the default on a GPU
    #[arg(long, value_name = "TYPE")]
    precision: Option<Precision>,
    /// Print rows of JSON
    #[arg(long)]
    pub json: bool,
    /// Only the rows whose title contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    rows: String,
    /// Small rows, once: shows that the benchmark works, where times say nothing
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Rows for devices that are interpreted.
const QUICK_ROWS: &[Row] = &[Row::new("resnet18", 16, 2, true), Row::new("resnet18", 16, 2, false)];

impl Flags {
    /// Whether times say nothing: asked for, or on the emulator.
    pub fn is_quick(&self, device: Device) -> bool {
        self.quick || device == Device::Simt
    }

    /// The rows asked for, of those for the CPU and for a GPU.
    pub fn rows(
        &self,
        device: Device,
        cpu: &'static [Row],
        gpu: &'static [Row],
    ) -> impl Iterator<Item = &'static Row> {
        let rows = match device {
            _ if self.is_quick(device) => QUICK_ROWS,
            Device::Cpu => cpu,
            Device::Cuda(_) | Device::Simt => gpu,
        };
        rows.iter().filter(|row| row.title().contains(&self.rows))
    }

    /// The device and the precision, or an end with the exit code of the program.
    pub fn open(&self) -> (Device, Precision) {
        let (device, _) = self.device.open().unwrap_or_else(|error| end(&error));
        let default = if device == Device::Cpu { Precision::F32 } else { Precision::Bf16 };
        let precision = self.precision.unwrap_or(default);
        (device, precision)
    }
}
