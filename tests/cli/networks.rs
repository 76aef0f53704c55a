//! Networks of other kinds do what the residual ones do: plan, train, resume, explain, export, start another run.

use std::fs;

use residuum::run::checkpoint;

use crate::program::{PHOTO, Program};
use crate::resume::kill_and_compare;

/// Plans, trains, evaluates, explains, exports, and starts another run from the weights, at `flags`.
fn use_in_every_way(flags: &str, last_layer: &str) {
    let program = Program::with_scenes();
    let train =
        format!("train --data-dir scenes --batch-size 4 --limit-val 8 --lr 0.001 --max-steps 2 {flags}");
    assert!(program.succeeds(&train.replacen("train", "plan", 1)).contains("peak"), "{flags}");
    program.succeeds(&train);
    let run = program.only_run("runs");
    let loss = program.records(&run).epochs[0].eval_loss;
    assert!(loss.is_finite(), "{flags}: loss {loss}");
    let told = program.succeeds(&format!("predict --run {} {PHOTO} --explain heat.png", run.display()));
    assert!(told.contains("where it was seen: heat.png"), "{told}");
    program.succeeds(&format!("export --run {} --output model.onnx", run.display()));
    program.succeeds(&format!("export --run {} --output w.safetensors", run.display()));
    fs::remove_dir_all(program.path(&run)).unwrap();

    // The weights alone are as good as the run, and are what frozen layers keep.
    let told = told.lines().skip(1).filter(|line| line.contains('%')).collect::<Vec<_>>().join("\n");
    let by_weights = program.succeeds(&format!("predict --weights w.safetensors {PHOTO}"));
    assert!(by_weights.contains(&told), "{by_weights} for {told}");
    program.succeeds(&format!("{train} --pretrained w.safetensors --freeze"));
    let before = checkpoint::read(&program.path("w.safetensors")).unwrap();
    let after = program.checkpoint(&program.only_run("runs"), "last.safetensors");
    let after = checkpoint::read(&after).unwrap();
    for tensor in before.tensors.iter().filter(|tensor| tensor.as_f32().is_some()) {
        let same = after.get(&tensor.name).unwrap().as_f32() == tensor.as_f32();
        assert_eq!(same, !tensor.name.starts_with(last_layer), "{}", tensor.name);
    }
}

#[test]
fn resnet9_is_used_in_every_way() {
    use_in_every_way("--model resnet9 --img-size 16", "fc.");
}

#[test]
fn vgg_is_used_in_every_way() {
    use_in_every_way("--model vgg11_bn --img-size 32", "classifier.6.");
}

#[test]
fn kills_change_no_bit_of_resnet9() {
    kill_and_compare(
        "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 5 --limit-train 40 --epochs 3 --lr 0.001 \
         --augment flip,shift --recovery-interval 3 --log-interval 1 --seed 5",
        2,
    );
}

#[cfg(residuum_simt)]
#[test]
fn the_emulator_trains_resnet9() {
    let program = Program::with_scenes();
    let small =
        "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 4 --limit-val 8 --lr 0.001";
    program.succeeds(&format!("{small} --max-steps 2 --device simt"));
    program.succeeds(&format!("{small} --max-steps 2 --output on_cpu"));
    let loss = |output: &str| program.records(&program.only_run(output)).epochs[0].eval_loss;
    let (emulated, cpu) = (loss("runs"), loss("on_cpu"));
    assert!((emulated - cpu).abs() <= 1e-3 * cpu, "loss {emulated} on the emulator, {cpu} on the CPU");
}
