//! Weight files, checkpoints and run folders that cannot be used, and a disk that is full.

use std::fs;

use residuum::run::checkpoint::{self, NamedTensor};
use residuum::run::state;
use serde_json::Value;

use crate::program::{Program, failed};

#[test]
fn weights_of_another_model_or_data_set() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 1");
    let weights = run.join("checkpoints/last.safetensors");
    let eval = format!("eval --weights {} --data-dir scenes", weights.display());
    program.fails(
        &format!("{eval} --model resnet34"),
        1,
        &["last.safetensors", "`layer1.2.conv1.weight`", "is missing", "the first of", "--model"],
    );
    program.fails(&format!("{eval} --model resnet50"), 1, &["`layer1.0.conv1.weight`", "[64, 64, 1, 1]"]);
    program.fails(&format!("eval --run {} --img-size 4", run.display()), 2, &["--img-size 4"]);

    let eval = format!("eval --weights {} --data-dir classes", weights.display());
    program.write_classes(&["a", "b"]);
    let parts =
        ["last.safetensors", "not know the category `a`", "it knows 10, `beach`", "--data-dir", "--run"];
    program.fails(&eval, 1, &parts);
}

#[test]
fn weights_that_are_a_pipe_or_a_folder() {
    let program = Program::with_scenes();
    fs::create_dir(program.path("folder.safetensors")).unwrap();
    let pipe = program.path("pipe.safetensors");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (file, what) in [("pipe.safetensors", "a named pipe"), ("folder.safetensors", "a folder")] {
        let eval = format!("eval --weights {file} --model resnet18 --data-dir scenes");
        program.fails(&eval, 1, &[file, what, "not a file"]);
    }
}

#[test]
fn a_resumed_state_of_another_model() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 1");
    let config = program.path(&run).join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("resnet18", "resnet34")).unwrap();
    let resume = format!("train --resume {}", run.display());
    let parts = ["last.state.safetensors", "`model` is resnet34 and was resnet18", "put that back"];
    program.fails(&resume, 1, &parts);
    fs::write(&config, text.replace("lr = 0.01", "lr = \"fast\"")).unwrap();
    program.fails(&resume, 2, &["config.toml", "lr = \"fast\""]);
    fs::write(&config, text + "speed = 3\n").unwrap();
    program.fails(&resume, 2, &["config.toml", "unknown field `speed`"]);
}

#[test]
fn damaged_files() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 1");
    let state = program.checkpoint(&run, "last.state.safetensors");
    let whole = fs::read(&state).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let cases: [(&[u8], &str, &str); 4] = [
        (&whole[..whole.len() / 2], "restore the file", "restore the file"),
        (&[0xff; 999], "not a safetensors file", "neither a safetensors file"),
        (b"", "is 0 bytes long", "is empty"),
        (&flipped, "restore the file", "is the state of a run, for train --resume"),
    ];
    for (bytes, of_a_state, of_weights) in cases {
        fs::write(&state, bytes).unwrap();
        let resume = format!("train --resume {}", run.display());
        program.fails(&resume, 1, &["last.state.safetensors", of_a_state]);
        fs::write(program.path("w.safetensors"), bytes).unwrap();
        program.fails("predict --weights w.safetensors a.jpg", 1, &["w.safetensors", of_weights]);
    }
    let mut weights = fs::read(program.checkpoint(&run, "last.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    fs::write(program.path("w.safetensors"), weights).unwrap();
    program.fails(
        "predict --weights w.safetensors a.jpg",
        1,
        &["w.safetensors", "do not match their checksum"],
    );
    // Weights hold no training state.
    fs::copy(program.checkpoint(&run, "last.safetensors"), &state).unwrap();
    program.fails(&format!("train --resume {}", run.display()), 1, &["holds weights but no training state"]);
}

#[test]
fn folders_that_are_no_run() {
    let program = Program::with_scenes();
    for call in ["train --resume", "eval --run", "predict a.jpg --run"] {
        program.fails(&format!("{call} nowhere"), 2, &["nowhere does not exist", "runs/20260131-180000"]);
        program.fails(&format!("{call} scenes"), 2, &["scenes is not a run folder", "config.toml"]);
        program.fails(&format!("{call} scenes/val.txt"), 2, &["scenes/val.txt is a file"]);
    }
    program.fails("eval --weights none.safetensors", 1, &["cannot open none.safetensors"]);
}

#[test]
fn files_of_other_programs_that_say_too_little() {
    let program = Program::new();
    let write = |name: &str| {
        let tensor = NamedTensor::f32(name, &[2], vec![1.0, 2.0]);
        checkpoint::write_atomic(&program.path("w.safetensors"), &[tensor], &Value::Null).unwrap();
    };
    write("fc.bias");
    program.fails("eval --weights w.safetensors", 1, &["does not say which model", "--model resnet50"]);
    program.fails("eval --weights w.safetensors --model resnet18", 1, &["`conv1.weight`", "is missing"]);
    program.fails(
        "predict --weights w.safetensors --model resnet18 a.jpg",
        1,
        &["`conv1.weight`", "missing"],
    );
    write("bn1.bias");
    program.fails("eval --weights w.safetensors --model resnet18", 1, &["no tensor `fc.bias`"]);
    write("head.bias");
    let parts = ["no tensor of this network, but `head.bias`", "--model"];
    program.fails("eval --weights w.safetensors --model resnet18", 1, &parts);
}

/// The operating system refuses files beyond a size.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_earlier_checkpoint_intact() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 2");
    let names = ["last.state.safetensors", "last.safetensors", "best.safetensors"];
    let before = names.map(|name| program.checkpoint_bytes(&run, name));

    // Two more steps to go, and no room for their checkpoint.
    let config = program.path(&run).join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("max_steps = 2", "max_steps = 4")).unwrap();
    let resume = format!("train --resume {}", run.display());
    let output = program.command_after("ulimit -f 20000", &resume).output().unwrap();
    failed(&output, &resume, 1, &["safetensors: cannot be written", "is intact", "Make room for 42."]);
    assert_eq!(names.map(|name| program.checkpoint_bytes(&run, name)), before);
    let files = fs::read_dir(program.path(&run).join("checkpoints")).unwrap().count();
    assert_eq!(files, names.len(), "a temporary file is left");

    program.succeeds(&resume);
    let (state, _) = state::load(&program.checkpoint(&run, names[0])).unwrap();
    assert_eq!(state.step, 4);
}
