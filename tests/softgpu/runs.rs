//! Whole runs of the program on the software GPU.

use std::path::Path;
use std::process::Stdio;

use residuum::run::state;
use serde_json::Value;

use crate::gpu::{Report, SoftGpu, software_gpu};
use crate::program::{Program, failed, signal, texts};

/// A network that the software GPU trains in seconds.
const SMALL: &str = "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 4 --limit-train 16 --limit-val 4 \
                     --lr 0.001 --log-interval 1";

/// Everything a state can hold and a device can be asked for.
const RICH: &str = "--precision bf16 --opt adamw --clip-grad 1 --grad-accum-steps 2 --model-ema --model-ema-decay 0.9 \
                    --augment modern,rand-augment=3x12 --recovery-interval 1";

/// Runs `call` on the software GPU to a successful end at which nothing is objected to; what it printed.
#[track_caller]
fn succeeds(gpu: &SoftGpu, program: &Program, call: &str, variables: &[(&str, &str)]) -> (String, Report) {
    let (output, record) = gpu.output(&mut program.command(call), variables);
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "`{call}` with {variables:?}:\n{stderr}{}", record.log());
    (stdout, record.clean_report())
}

fn weights(program: &Program, output: &str) -> Vec<u8> {
    program.checkpoint_bytes(&program.only_run(output), "last.safetensors")
}

#[test]
fn a_run_that_is_stopped_and_resumed_ends_in_the_same_bits() {
    let Some(gpu) = software_gpu() else { return };
    let call = format!("{SMALL} {RICH} --device cuda --epochs 2");
    let whole = Program::with_scenes();
    succeeds(gpu, &whole, &call, &[]);

    let program = Program::with_scenes();
    let mut command = program.command(&call);
    let record = gpu.attach(&mut command, &[]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let run = program.wait_for_steps(&mut child, 1);
    signal(&child, "INT");
    let resume = format!("train --resume {}", run.display());
    failed(&child.wait_with_output().unwrap(), &call, 130, &["checkpoint written", &resume]);
    record.clean_report();
    let (stopped, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
    succeeds(gpu, &program, &resume, &[]);
    let (done, _) = state::load(&program.checkpoint(&run, "last.state.safetensors")).unwrap();
    assert!(stopped.step < done.step, "it was stopped at step {} of {}", stopped.step, done.step);
    for output in ["last.safetensors", "best.safetensors"] {
        let expected = whole.checkpoint_bytes(&whole.only_run("runs"), output);
        assert!(program.checkpoint_bytes(&run, output) == expected, "{output} differs");
    }
}

/// The order in which blocks and warps run, and whether work waits, is no part of a result.
#[test]
fn no_order_of_blocks_and_no_laziness_changes_a_bit() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    let call = format!("{SMALL} {RICH} --device cuda --max-steps 2");
    let orders: [&[(&str, &str)]; 4] = [
        &[("SOFTGPU_SEED", "1")],
        &[("SOFTGPU_SEED", "2"), ("SOFTGPU_EAGER", "1")],
        &[("SOFTGPU_SEED", "3"), ("SOFTGPU_THREADS", "1")],
        &[("SOFTGPU_SEED", "1"), ("SOFTGPU_EAGER", "1")],
    ];
    let [first, others @ ..] = [0, 1, 2, 3].map(|order| {
        succeeds(gpu, &program, &format!("{call} --output runs{order}"), orders[order]);
        weights(&program, &format!("runs{order}"))
    });
    assert!(others.iter().all(|other| *other == first), "other bits in another order");
}

#[test]
fn a_profile_measures_every_launch() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::new();
    let call = "profile --model resnet9 --img-size 16 --batch-size 4 --precision bf16 --device cuda --blocks 1 --json";
    let (json, _) = succeeds(gpu, &program, call, &[]);
    let profile: Value = serde_json::from_str(&json).unwrap();
    assert!(profile["setting"]["device"].as_str().unwrap().starts_with("cuda:0"), "{}", profile["setting"]);
    let launches = profile["launches"].as_array().unwrap();
    assert!(launches.len() > 50, "{} launches", launches.len());
    for launch in launches {
        assert!(launch["measured_seconds"].is_f64() && launch["ceiling_seconds"].is_f64(), "{launch}");
    }
}

#[test]
fn either_of_two_gpus_gives_the_same_bits_and_a_third_is_an_error() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    let call = format!("{SMALL} --precision bf16 --max-steps 1");
    succeeds(gpu, &program, &format!("{call} --device cuda:0 --output first"), &[]);
    succeeds(gpu, &program, &format!("{call} --device cuda:1 --output second"), &[]);
    succeeds(
        gpu,
        &program,
        &format!("{call} --device cuda --output third"),
        &[("CUDA_VISIBLE_DEVICES", "1")],
    );
    let first = weights(&program, "first");
    assert!(weights(&program, "second") == first && weights(&program, "third") == first);
    let env = std::fs::read_to_string(program.path(program.only_run("second").join("env.json"))).unwrap();
    assert!(env.contains("\"device\": \"cuda:1 ("), "{env}");

    let call = format!("{call} --device cuda:2");
    let (output, _) = gpu.output(&mut program.command(&call), &[]);
    failed(&output, &call, 3, &["cuda:2 is not there", "2 GPUs"]);
    let (output, _) = gpu.output(&mut program.command(&call), &[("CUDA_VISIBLE_DEVICES", "")]);
    failed(&output, &call, 3, &["CUDA_VISIBLE_DEVICES"]);
    let (told, _) = succeeds(gpu, &program, "devices", &[]);
    assert!(told.contains("cuda:1") && told.contains("3.71 GiB free of 4.00 GiB"), "{told}");
}

#[test]
fn a_model_is_trained_in_bf16_evaluated_used_and_explained() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    succeeds(gpu, &program, &format!("{SMALL} --device cuda --max-steps 2"), &[]);
    let run = program.only_run("runs");
    let config = std::fs::read_to_string(program.path(&run).join("config.toml")).unwrap();
    assert!(config.contains("precision = \"bf16\"\n"), "{config}");
    let run = run.display();
    // All but the speed.
    let told = |text: String| {
        text.lines().map(|line| line.split(" (").next().unwrap().to_string()).collect::<Vec<_>>()
    };
    let on_gpu = told(succeeds(gpu, &program, &format!("eval --run {run} --device cuda"), &[]).0);
    assert_eq!(on_gpu, told(program.succeeds(&format!("eval --run {run} --device cpu"))));

    let photo = "scenes/images/val/00000001.jpg";
    let call = format!("predict --run {run} {photo} --explain heat.png");
    let (told, _) = succeeds(gpu, &program, &format!("{call} --device cuda"), &[]);
    let heat = image::open(program.path("heat.png")).unwrap().to_rgb8();
    assert_eq!(told, program.succeeds(&format!("{call} --device cpu")));
    let on_cpu = image::open(program.path("heat.png")).unwrap().to_rgb8();
    let differs = heat.iter().zip(on_cpu.iter()).filter(|(a, b)| a.abs_diff(**b) > 3).count();
    assert!(differs * 100 < heat.len(), "{differs} of {} bytes of the heat map differ", heat.len());
}

#[test]
fn networks_that_take_objects_in_train() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    for way in ["vector", "codes", "masks"] {
        let small = "train --data-dir scenes --img-size 32 --batch-size 4 --limit-train 4 --limit-val 2 --max-steps 1";
        let call =
            format!("{small} --lr 0.001 --model resnet18 --objects {way} --log-interval 1 --precision f32");
        succeeds(gpu, &program, &format!("{call} --device cuda --output {way}"), &[]);
        program.succeeds(&format!("{call} --device cpu --output {way}-cpu"));
        let loss = |output: &str| program.records(&program.only_run(output)).steps[0].loss;
        let (on_gpu, on_cpu) = (loss(way), loss(&format!("{way}-cpu")));
        assert!((on_gpu - on_cpu).abs() <= 1e-5 * on_cpu, "{way}: loss {on_gpu}, the CPU's {on_cpu}");
    }
}

/// Relative errors of the first step's gradients, tensor by tensor, sorted. With momentum the optimiser's state is then the
/// gradient with the weight decay.
fn gradient_errors(got: &Path, expected: &Path) -> Vec<f64> {
    let load = |path: &Path| state::load(path).unwrap().1;
    let (got, expected) = (load(got), load(expected));
    let mut errors: Vec<f64> = expected
        .iter()
        .filter(|tensor| tensor.name.contains("velocity"))
        .map(|expected| {
            let got = got.iter().find(|tensor| tensor.name == expected.name).unwrap();
            let pairs = got.as_f32().unwrap().iter().zip(expected.as_f32().unwrap().iter());
            let (mut difference, mut norm) = (0.0, 0.0);
            for (&got, &expected) in pairs {
                difference += f64::from(got - expected).powi(2);
                norm += f64::from(expected).powi(2);
            }
            (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
        })
        .collect();
    assert!(errors.len() > 10, "{} gradients", errors.len());
    errors.sort_by(f64::total_cmp);
    errors
}

#[test]
fn the_first_loss_and_its_gradients_are_those_of_the_cpu() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    // With this seed no maximum and no ReLU is so near to a tie that rounding decides where a gradient goes.
    let call = "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 16 --limit-val 4 --lr 0.001 --max-steps 1 \
                --log-interval 1 --precision f32 --seed 1";
    succeeds(gpu, &program, &format!("{call} --device cuda --output fused"), &[]);
    let split = [("SOFTGPU_SPLIT_FMA", "1")];
    succeeds(gpu, &program, &format!("{call} --device cuda --output split"), &split);
    program.succeeds(&format!("{call} --device simt --output simt"));
    program.succeeds(&format!("{call} --device cpu --output cpu"));
    let loss = |output: &str| program.records(&program.only_run(output)).steps[0].loss;
    let expected = loss("cpu");
    for output in ["fused", "split", "simt"] {
        let error = (loss(output) - expected).abs() / expected;
        assert!(error <= 1e-5, "{output}: loss {}, the CPU's {expected}", loss(output));
    }
    let state = |output: &str| program.checkpoint(&program.only_run(output), "last.state.safetensors");
    let [split, emulated] = ["split", "simt"].map(|output| gradient_errors(&state(output), &state("cpu")));
    let (median, most) = (split.len() / 2, split.len() - 1);
    println!(
        "errors of gradients: {:.1e} to {:.1e}, emulated {:.1e} to {:.1e}",
        split[median], split[most], emulated[median], emulated[most]
    );
    for at in [median, most] {
        assert!(split[at] <= 1.5 * emulated[at], "{:.1e}, the emulator's {:.1e}", split[at], emulated[at]);
    }
}
