//! What `plan` promises of a device with kernels is what a run on the emulator allocates.

use std::fs;

use residuum::device::{Device, DeviceKind};
use residuum::fuse::Fusion;
use residuum::models::{ObjectsKind, Variant};
use residuum::step::{PixelSource, StepConfig, Training};
use residuum::train::config::{OptimiserKind, TrainConfig};
use residuum::train::precision::PrecisionChoice;
use residuum::train::source::Extent;
use residuum::train::trainer::Trainer;

use crate::plan::number_after;
use crate::program::Program;

/// The peak that `plan` prints for `config`, read from a file, with more `flags`.
fn planned(program: &Program, config: &TrainConfig, flags: &str) -> usize {
    fs::write(program.path("settings.toml"), toml::to_string(config).unwrap()).unwrap();
    number_after(&program.succeeds(&format!("plan --config settings.toml {flags}")), "peak")
}

#[test]
fn a_run_on_kernels_allocates_what_the_plan_says() {
    let program = Program::with_scenes();
    let scenes = TrainConfig {
        img_size: 24,
        batch_size: 4,
        limit_train: Some(300),
        limit_val: Some(200),
        output: program.path("runs"),
        device: "simt".parse().unwrap(),
        precision: PrecisionChoice::F32,
        ..TrainConfig::defaults(None)
    };
    let photos = TrainConfig {
        data_dir: Some(program.path("scenes")),
        cache_dir: Some(program.path("cache")),
        ..scenes.clone()
    };
    let with_objects = |kind| TrainConfig { objects: Some(kind), ..scenes.clone() };
    let everything = TrainConfig {
        opt: OptimiserKind::AdamW,
        augment: "modern".parse().unwrap(),
        clip_grad: Some(0.5),
        grad_accum_steps: 2,
        model_ema_decay: Some(0.99),
        ..scenes.clone()
    };
    for config in [
        scenes.clone(),
        TrainConfig { freeze: true, ..scenes.clone() },
        TrainConfig { backbone_lr_scale: 0.1, ..scenes.clone() },
        TrainConfig {
            precision: PrecisionChoice::Bf16,
            fuse: Fusion::NONE,
            form: Variant::V2,
            ..scenes.clone()
        },
        with_objects(ObjectsKind::Masks),
        with_objects(ObjectsKind::Vector),
        with_objects(ObjectsKind::Codes),
        everything,
        TrainConfig { objects: Some(ObjectsKind::Codes), categories: Some(4), ..photos.clone() },
        photos,
    ] {
        let resident_bytes = Trainer::start(config.clone(), Device::Simt).unwrap().session().arena_bytes();
        assert_eq!(planned(&program, &config, ""), resident_bytes, "{config:?}");
        assert_eq!(planned(&program, &config, "--device cuda"), resident_bytes, "{config:?}");

        let extent = Extent::of(&config).unwrap();
        let step = config.step_config(extent.facts, DeviceKind::Simt).unwrap();
        let streamed = StepConfig { pixels: PixelSource::Batch, ..step };
        let streamed_bytes = Training::new(streamed, Device::Simt).unwrap().session().arena_bytes();
        // As much memory is free as the run with the data set takes, and nothing for the driver.
        let memory = format!("--memory {resident_bytes}");
        assert_eq!(planned(&program, &config, &memory), streamed_bytes, "{config:?}");
        assert!(streamed_bytes < resident_bytes, "{config:?}");
    }
}
