//! `residuum profile`: a training step taken apart, launch by launch.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser};

use super::flags::{SettingArgs, check_output, write_file};
use super::output;
use crate::device::kernels::IMAGES;
use crate::device::{Device, DeviceChoice, DeviceKind};
use crate::error::{Error, Result};
use crate::plan::Program;
use crate::profile::ladder::Ladder;
#[cfg(residuum_simt)]
use crate::profile::ladder::Product;
use crate::profile::{self, Ceilings, Comparison, Disassembler, Exchange, Gpu, Launch, Profile, Setting};
use crate::show::tell;
#[cfg(residuum_simt)]
use crate::step::TRAIN;
use crate::step::{PixelSource, StepConfig, Training, program};
use crate::train::config::TrainConfig;

/// Show what each launch of a training step asks of a GPU, and how long it takes
#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// The GPU that times are predicted for [default: the one that is measured, else h100]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Gpu::NAMES))]
    gpu: Option<String>,
    /// Profile the step of one of N ranks that train together, which is predicted, not measured
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    ranks: usize,
    /// Run N blocks of each launch on the emulator and scale what they do to all
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=65536))]
    blocks: u32,
    /// Show the N launches that take longest
    #[arg(long, value_name = "N", default_value_t = 12)]
    top: usize,
    /// Print the profile as JSON
    #[arg(long, conflicts_with = "top")]
    json: bool,
    /// Also write a page with all launches and a roofline to FILE
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Also write a trace for ui.perfetto.dev or chrome://tracing to FILE
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Also say what is worse and what better than in this profile, written with --json; exit code 1 where a count got worse
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Show a matrix product instead, from a thread an output to the tiles of the tensor-core kernels: what each step of
    /// kernels/ladder.cu changes in the counts
    #[arg(
        long,
        conflicts_with_all = TrainConfig::NAMES,
        conflicts_with_all = ["config", "ranks", "blocks", "top", "html", "trace", "compare"]
    )]
    ladder: bool,
}

/// Categories of the data set, which is not needed: those of MiniPlaces.
const CATEGORIES: usize = 100;

/// What times are predicted for where no GPU is named or measured.
const DEFAULT_GPU: &str = Gpu::NAMES[0];

impl ProfileArgs {
    pub(super) fn run(self) -> Result<()> {
        if self.ladder {
            return self.show_ladder();
        }
        let mut config = self.settings.read(Some(PathBuf::new()))?;
        config.validate()?;
        config.split_over(self.ranks)?;
        for (flag, path) in [("--html", &self.html), ("--trace", &self.trace)] {
            path.as_deref().map_or(Ok(()), |path| check_output(flag, path))?;
        }
        let old =
            self.compare.as_deref().map(|path| Ok::<_, Error>((path, Profile::read(path)?))).transpose()?;
        let profile = self.profile(&config)?;
        if let Some(path) = &self.html {
            write_file(path, profile.html().as_bytes())?;
        }
        if let Some(path) = &self.trace {
            write_file(path, profile.trace().as_bytes())?;
        }
        if self.json {
            say!("{}", serde_json::to_string(&profile).expect("numbers and text"));
        } else {
            output::print(profile.text(self.top))?;
        }
        let Some((path, old)) = old else { return Ok(()) };
        let comparison = Comparison::of(&old, &profile)?;
        // Next to JSON, which programs read.
        if self.json {
            tell(&comparison);
        } else {
            output::print(format_args!("\n{comparison}"))?;
        }
        if comparison.worse() { Err(Error::Worse { path: path.to_path_buf() }) } else { Ok(()) }
    }

    fn show_ladder(&self) -> Result<()> {
        let gpu = Gpu::named(self.gpu.as_deref().unwrap_or(DEFAULT_GPU))?;
        let ladder = ladder(&gpu)?;
        if self.json {
            say!("{}", serde_json::to_string(&ladder).expect("numbers and text"));
            Ok(())
        } else {
            output::print(ladder.text())
        }
    }

    fn profile(&self, config: &TrainConfig) -> Result<Profile> {
        let num_classes = config.categories.unwrap_or(CATEGORIES);
        let device = if self.ranks == 1 { measured(*config.device)? } else { predicted(*config.device)? };
        let kind = device.map_or(DeviceKind::Cuda, Device::kind);
        let step = config.of_rank(config.step_config(num_classes, kind)?, self.ranks);
        let mut step = StepConfig { keep_inputs: true, ..step };
        let setting = Setting {
            model: config.model.clone(),
            img_size: config.img_size,
            batch_size: config.batch_size,
            precision: config.precision.on(kind).to_string(),
            device: device.map_or_else(|| "none".into(), Device::describe),
        };
        if kind == DeviceKind::Cpu {
            let mut training = Training::new(step.clone(), Device::Cpu)?;
            let mut operations = profile::operations(&training);
            let batch = profile::batch_without_pixels(&step, num_classes);
            profile::measure(&mut training, batch, &mut operations)?;
            drop(training);
            let ceilings = Some(measure_ceilings(&step, Device::Cpu, &mut operations)?);
            return Ok(Profile { ceilings, ..Profile::new(super::version(), setting, None, operations) });
        }
        step.pixels = PixelSource::Batch;
        let batch = profile::batch_without_pixels(&step, num_classes);
        let gpu = match &self.gpu {
            Some(name) => Gpu::named(name)?,
            None => Gpu::like(&setting.device).unwrap_or(Gpu::named(DEFAULT_GPU)?),
        };
        let planned = program(&step, DeviceKind::Cuda)?;
        let exchange = Exchange::of(&step, &planned, &gpu);
        let mut launches = counted(&planned, &batch, &gpu, self.blocks)?;
        if let Some(remark) = unknown(&gpu) {
            tell(remark);
        }
        let mut ceilings = None;
        if let Some(device) = device {
            profile::measure(&mut Training::new(step.clone(), device)?, batch, &mut launches)?;
            ceilings = Some(measure_ceilings(&step, device, &mut launches)?);
        }
        Ok(Profile { exchange, ceilings, ..Profile::new(super::version(), setting, Some(gpu), launches) })
    }
}

/// What the device reaches at best, which the launches of the step are held to.
fn measure_ceilings(step: &StepConfig, device: Device, launches: &mut [Launch]) -> Result<Ceilings> {
    let ceilings = Ceilings::measure(step, device, launches)?;
    ceilings.hold(launches);
    Ok(ceilings)
}

/// The device to measure the step of one of several ranks on: none, because such a step waits for the others.
fn predicted(choice: DeviceChoice) -> Result<Option<Device>> {
    match choice {
        DeviceChoice::Auto | DeviceChoice::Simt => Ok(None),
        _ => Err(Error::Usage(
            "--ranks with --device: a step of several ranks is predicted, not measured; leave one out".into(),
        )),
    }
}

/// The device to measure on; none for the emulator, whose times say nothing, and where `auto` finds no GPU.
fn measured(choice: DeviceChoice) -> Result<Option<Device>> {
    if choice == DeviceChoice::Auto {
        let gpu = Device::Cuda(0);
        return Ok(match gpu.check() {
            Ok(()) => Some(gpu),
            Err(reason) => {
                tell(format_args!("times are predicted, not measured: {reason}"));
                None
            }
        });
    }
    let (device, _) = choice.open()?;
    Ok((device != Device::Simt).then_some(device))
}

/// What this build or this machine does not tell of the kernels for `gpu`, and how to get it.
fn unknown(gpu: &Gpu) -> Option<String> {
    let arch = &gpu.arch;
    if !IMAGES.iter().any(|image| image.arch == *arch) {
        return Some(format!(
            "registers and instructions are not known, because this build has no machine code for {arch}: build with nvcc \
             (scripts/install-nvcc.sh) and RESIDUUM_CUDA_ARCH={arch}, or all"
        ));
    }
    let remark = || format!("instructions of loops are not counted: {}", Disassembler::REMEDY);
    Disassembler::find().is_none().then(remark)
}

#[cfg(residuum_simt)]
fn counted(
    program: &Program,
    batch: &crate::batch::Batch,
    gpu: &Gpu,
    sampled_blocks: u32,
) -> Result<Vec<profile::Launch>> {
    profile::count(program, TRAIN, batch, gpu, sampled_blocks)
}

#[cfg(not(residuum_simt))]
fn counted(_: &Program, _: &crate::batch::Batch, _: &Gpu, _: u32) -> Result<Vec<profile::Launch>> {
    Err(Error::Device(crate::device::NO_EMULATOR.into()))
}

#[cfg(residuum_simt)]
fn ladder(gpu: &Gpu) -> Result<Ladder> {
    Ladder::count(Product::COUNTED, gpu, super::version())
}

#[cfg(not(residuum_simt))]
fn ladder(_: &Gpu) -> Result<Ladder> {
    Err(Error::Device(crate::device::NO_EMULATOR.into()))
}
