//! Kinds of run, and what one leaves that must be the same however often it was interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use residuum::run::checkpoint::TensorData;
use residuum::run::state::{self, TrainState};

use crate::program::Program;

/// Eight batches an epoch, with a checkpoint after every third update besides those of the epochs.
const RUN: &str = "train --data-dir scenes --img-size 16 --batch-size 5 --lr 0.01 --recovery-interval 3 --log-interval 1 \
                   --seed 5";

/// A kind of run.
pub struct Kind {
    /// What tables call it.
    pub name: &'static str,
    flags: &'static str,
    /// Whether the decoded photos are gone whenever it is to go on.
    pub loses_packs: bool,
}

const fn kind(name: &'static str, flags: &'static str) -> Kind {
    Kind { name, flags, loses_packs: false }
}

/// Every state that training can have, and everything that is kept next to it; those that other tests kill come last.
pub const KINDS: [Kind; 15] = [
    kind("plain", "--model resnet9 --epochs 2"),
    Kind {
        name: "packs removed",
        flags: "--model resnet9 --epochs 2 --augment flip,shift",
        loses_packs: true,
    },
    kind("masks", "--model resnet18 --epochs 2 --objects masks"),
    kind("history kept", "--model resnet9 --epochs 3 --checkpoint-hist 2"),
    kind("patience", "--model resnet9 --epochs 4 --patience 1"),
    kind("frozen", "--model resnet18 --epochs 2 --freeze"),
    kind("averaged weights", "--model resnet9 --epochs 2 --model-ema --model-ema-decay 0.9"),
    kind("mixup, cutmix", "--model resnet9 --epochs 2 --augment modern"),
    kind("accumulation", "--model resnet9 --epochs 4 --grad-accum-steps 3"),
    kind(
        "two groups, AdamW",
        "--model resnet9 --epochs 2 --opt adamw --no-norm-decay --backbone-lr-scale 0.5",
    ),
    kind("stream, clipping", "--model resnet9 --epochs 3 --steps-per-epoch 5 --clip-grad 1"),
    kind("growing images", "--model resnet9 --epochs 3 --grow-from 8 --grow-step 4"),
    kind(
        "weights only",
        "--model resnet9 --epochs 4 --checkpoint-interval 2 --checkpoint-hist 1 --weights-only",
    ),
    kind("operations on bytes", "--model resnet9 --epochs 2 --augment flip,trivial-augment,rand-augment"),
    kind("erase, scale", "--model resnet9 --epochs 2 --augment flip,scale,rotate=20,erase"),
];

impl Kind {
    /// The call that begins such a run.
    pub fn call(&self) -> String {
        format!("{RUN} {}", self.flags)
    }
}

/// What a run left. Nothing in it says when, how fast or on how many threads.
#[derive(PartialEq)]
pub struct Result {
    /// Every file of the checkpoints' folder by name: its bytes, or a state without its times.
    checkpoints: BTreeMap<String, Checkpoint>,
    /// Step, loss and norm of the gradient, by their bits.
    steps: Vec<(u64, u64, Option<u64>)>,
    predictions: Vec<u8>,
    summary: Vec<u8>,
}

#[derive(PartialEq)]
enum Checkpoint {
    Weights(Vec<u8>),
    /// The numbers as text, and the bits of the tensors.
    State(String, Vec<(String, Vec<u8>)>),
}

impl Result {
    /// What the run in `run` left, or why there is none.
    pub fn of(program: &Program, run: &Path) -> std::result::Result<Result, String> {
        let folder = program.path(run);
        let mut checkpoints = BTreeMap::new();
        for entry in fs::read_dir(folder.join("checkpoints")).map_err(|error| error.to_string())? {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = program.checkpoint(run, &name);
            let checkpoint = if name.ends_with(".state.safetensors") {
                let (state, tensors) = state::load(&path).map_err(|error| error.to_string())?;
                let tensors =
                    tensors.into_iter().map(|tensor| (tensor.name, bytes_of(&tensor.data))).collect();
                Checkpoint::State(format!("{:?}", without_times(state)), tensors)
            } else {
                Checkpoint::Weights(program.checkpoint_bytes(run, &name))
            };
            checkpoints.insert(name, checkpoint);
        }
        let steps = program.records(run).steps;
        let steps =
            steps.iter().map(|step| (step.step, step.loss.to_bits(), step.grad_norm.map(f64::to_bits)));
        let read = |name: &str| fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
        Ok(Result {
            checkpoints,
            steps: steps.collect(),
            predictions: read("predictions.jsonl")?,
            summary: read("summary.csv")?,
        })
    }

    /// The first thing in which `other` differs.
    pub fn difference(&self, other: &Result) -> Option<String> {
        let names = |result: &Result| result.checkpoints.keys().cloned().collect::<Vec<String>>();
        if names(self) != names(other) {
            return Some(format!("checkpoints {:?}, not {:?}", names(other), names(self)));
        }
        let differs = |name: &&String| self.checkpoints[*name] != other.checkpoints[*name];
        if let Some(name) = self.checkpoints.keys().find(differs) {
            return Some(format!("{name} differs"));
        }
        let parts = [
            ("the losses differ", self.steps == other.steps),
            ("predictions.jsonl differs", self.predictions == other.predictions),
            ("summary.csv differs", self.summary == other.summary),
        ];
        parts.iter().find(|(_, same)| !same).map(|(what, _)| what.to_string())
    }
}

fn bytes_of(data: &TensorData) -> Vec<u8> {
    match data {
        TensorData::F32(elems) => bytemuck::cast_slice(elems).to_vec(),
        TensorData::I64(elems) => bytemuck::cast_slice(elems).to_vec(),
        TensorData::I32(elems) => bytemuck::cast_slice(elems).to_vec(),
        TensorData::U8(elems) => elems.to_vec(),
    }
}

fn without_times(mut state: TrainState) -> TrainState {
    (state.train_seconds, state.partial.train_seconds, state.partial.data_wait_seconds) = (0.0, 0.0, 0.0);
    for row in &mut state.history {
        (row.train_seconds, row.data_wait_seconds, row.img_s) = (0.0, 0.0, 0.0);
    }
    state
}

/// A run of a kind that nothing interrupted.
pub struct Reference {
    /// What it left.
    pub result: Result,
    /// How long it took.
    pub duration: Duration,
}

impl Reference {
    /// Runs `kind`.
    pub fn of(kind: &Kind) -> Reference {
        let program = Program::with_scenes();
        let start = Instant::now();
        program.succeeds(&kind.call());
        let duration = start.elapsed();
        let result = Result::of(&program, &program.only_run("runs")).unwrap();
        Reference { result, duration }
    }
}

/// The run folder that can be resumed, if a run came so far.
pub fn resumable(program: &Program) -> Option<PathBuf> {
    let runs = fs::read_dir(program.path("runs")).ok()?;
    let run = runs.map(|entry| entry.unwrap().path()).find(|run| run.join("config.toml").exists())?;
    Some(Path::new("runs").join(run.file_name().unwrap()))
}

/// The call that begins a run of `kind`, or that goes on with the one that is there.
pub fn next_call(program: &Program, kind: &Kind) -> String {
    resumable(program).map_or_else(|| kind.call(), |run| format!("train --resume {}", run.display()))
}
