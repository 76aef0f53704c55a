//! What a run leaves in its folder, without times: what it was that computed it is not to be seen in it.

use std::fs;
use std::path::Path;

use residuum::run::checkpoint::NamedTensor;
use residuum::run::metrics::{self, Epoch};
use residuum::run::state::{self, TrainState};

#[derive(PartialEq)]
pub struct LeftByRun {
    pub state: TrainState,
    tensors: Vec<NamedTensor<'static>>,
    /// Last and best weights.
    weights: [Vec<u8>; 2],
    predictions: String,
    /// Step, samples, loss, learning rate and norm of the gradient of each line.
    pub steps: Vec<(u64, u64, [u64; 2], Option<u64>)>,
    epochs: Vec<Epoch>,
}

fn without_times(epoch: &Epoch) -> Epoch {
    Epoch { train_seconds: 0.0, data_wait_seconds: 0.0, img_s: 0.0, ..epoch.clone() }
}

impl LeftByRun {
    /// What is in the folder `run`.
    pub fn of(run: &Path) -> LeftByRun {
        let checkpoint = |name: &str| run.join("checkpoints").join(name);
        let (mut state, tensors) = state::load(&checkpoint("last.state.safetensors")).unwrap();
        (state.train_seconds, state.partial.train_seconds, state.partial.data_wait_seconds) = (0.0, 0.0, 0.0);
        state.history = state.history.iter().map(without_times).collect();
        let records = metrics::read(&run.join("metrics.jsonl")).unwrap();
        let steps = records.steps.iter().map(|line| {
            let numbers = [line.loss, line.lr].map(f64::to_bits);
            (line.step, line.samples, numbers, line.grad_norm.map(f64::to_bits))
        });
        LeftByRun {
            state,
            tensors,
            weights: ["last", "best"]
                .map(|name| fs::read(checkpoint(&format!("{name}.safetensors"))).unwrap()),
            predictions: fs::read_to_string(run.join("predictions.jsonl")).unwrap(),
            steps: steps.collect(),
            epochs: records.epochs.iter().map(without_times).collect(),
        }
    }

    /// Fails, naming what differs, unless `other` left the same.
    #[track_caller]
    pub fn assert_same(&self, other: &LeftByRun, what: &str) {
        assert_eq!(self.steps, other.steps, "lines of {what}");
        assert_eq!(self.epochs, other.epochs, "epochs of {what}");
        assert_eq!(self.state, other.state, "the state of {what}");
        for (tensor, expected) in other.tensors.iter().zip(&self.tensors) {
            assert!(tensor == expected, "`{}` of {what}", tensor.name);
        }
        assert!(self == other, "weights or predictions of {what}");
    }
}
