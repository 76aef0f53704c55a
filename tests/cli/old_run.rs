//! A run folder that an earlier version made (commit 8527b54, `train --freeze --img-size 16 --batch-size 8 --limit-train 32
//! --limit-val 16 --categories 4 --epochs 4 --log-interval 1 --seed 7`, killed in its second epoch) resumes as that version
//! resumed it.
//!
//! Frozen layers hold their initial values, which are a function of the seed; the fixture has the others, and the checksum
//! of all.

use std::fs;
use std::path::Path;

use residuum::device::{Device, DeviceKind};
use residuum::run::checkpoint::{self, NamedTensor};
use residuum::run::state::TrainState;
use residuum::step::Training;
use residuum::train::config::TrainConfig;

use crate::program::{Program, texts};

/// Of all tensors, as the earlier version wrote it.
const CHECKSUM: u64 = 1_325_528_720;

fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/run_8527b54")
}

/// Writes the state of the run to `path`: the initial values, and the fixture's tensors in their places.
fn write_state(path: &Path) {
    let config: TrainConfig =
        toml::from_str(&fs::read_to_string(fixture().join("config.toml")).unwrap()).unwrap();
    let training = Training::new(config.step_config(4, DeviceKind::Cpu).unwrap(), Device::Cpu).unwrap();
    let trained = checkpoint::read(&fixture().join("last_layer.safetensors")).unwrap();
    let tensors: Vec<NamedTensor<'_>> = training
        .state()
        .unwrap()
        .into_iter()
        .map(|tensor| match trained.get(&tensor.name) {
            Some(trained) => trained.clone(),
            None => tensor,
        })
        .collect();
    let state = fs::read_to_string(fixture().join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    checkpoint::write_atomic(path, &tensors, &state["content"]).unwrap();
    let bytes = fs::read(path).unwrap();
    let header = String::from_utf8_lossy(&bytes[8..16 * 1024]);
    assert!(header.contains(&CHECKSUM.to_string()), "initial values or their order differ");
}

#[test]
fn a_run_of_an_earlier_version_resumes() {
    let program = Program::new();
    let run = program.path("run");
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    for name in ["config.toml", "metrics.jsonl"] {
        fs::copy(fixture().join(name), run.join(name)).unwrap();
    }
    write_state(&run.join("checkpoints/last.state.safetensors"));
    let unchecked = "the checkpoint is of an earlier version: that settings and images are still those";
    for says_so in [true, false] {
        let output = program.command("train --resume run").output().unwrap();
        let said = texts(&output).1;
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains(unchecked), says_so, "{said}");
    }

    let expected = fs::read_to_string(fixture().join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let records = program.records(Path::new("run"));
    assert_eq!(records.steps.len(), 16);
    for step in &records.steps {
        let loss = expected["losses"][step.step.to_string()].as_f64().unwrap();
        // Processors whose vectors are narrower add in another order.
        let error = (step.loss - loss).abs();
        assert!(error <= 1e-5 * loss, "step {}: loss {}, earlier {loss}", step.step, step.loss);
    }
    for (epoch, loss) in records.epochs.iter().zip(expected["validation_losses"].as_array().unwrap()) {
        let error = (epoch.eval_loss - loss.as_f64().unwrap()).abs();
        assert!(error <= 1e-5, "epoch {}: validation loss {}, earlier {loss}", epoch.epoch, epoch.eval_loss);
    }
    let state = checkpoint::read(&run.join("checkpoints/last.state.safetensors")).unwrap();
    let state: TrainState = serde_json::from_value(state.metadata).unwrap();
    assert_eq!((state.step, state.history.len()), (16, 4));
}
