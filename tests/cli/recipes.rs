//! Recipes, pretrained weights and the paper's experiments from outside.

use std::fs;

use residuum::run::run_dir::RunDir;
use residuum::train::config::TrainConfig;

use super::program::{Program, texts};

#[test]
fn flags_override_a_recipe_and_a_recipe_the_defaults() {
    let program = Program::with_scenes();
    let recipe =
        "# small\nepochs = 1\nimg_size = 32\nbatch_size = 8\nopt = \"adam\"\nseed = 3\nsteps_per_epoch = 2\n";
    fs::write(program.path("small.toml"), recipe).unwrap();
    program.succeeds("train --config small.toml --data-dir scenes --seed 4");
    let run = program.only_run("runs");
    let dir = RunDir::open(&program.path(&run)).unwrap();
    let config: TrainConfig = dir.read_config().unwrap();
    assert_eq!((config.epochs, config.batch_size, config.seed), (1, 8, 4));
    assert_eq!(config.lr, Some(0.001), "the rate of an update rule that the recipe names");
    assert_eq!(program.records(&run).epochs.last().unwrap().step, 2);
    // The run's own configuration runs it again, to the same numbers.
    program.succeeds(&format!("train --config {}/config.toml --output again", run.display()));
    let again = program.records(&program.only_run("again"));
    assert_eq!(again.epochs[0].eval_loss, program.records(&run).epochs[0].eval_loss);
}

#[test]
fn a_recipe_with_an_unknown_key_names_it_and_the_nearest() {
    let program = Program::new();
    fs::write(program.path("bad.toml"), "epochs = 1\nsmothing = 0.1\n").unwrap();
    program.fails(
        "train --config bad.toml",
        2,
        &["bad.toml", "line 2", "`smothing`", "did you mean `smoothing`?"],
    );
    fs::write(program.path("bad.toml"), "epochs = \"many\"\n").unwrap();
    program.fails("train --config bad.toml", 2, &["bad.toml", "line 1", "`epochs`"]);
    program.fails("train --config none.toml", 1, &["none.toml"]);
}

#[test]
fn a_run_starts_from_the_weights_of_another() {
    let program = Program::with_scenes();
    let first = program.trains("");
    let weights = format!("{}/checkpoints/best.safetensors", first.display());
    let start = "train --data-dir scenes --img-size 32 --batch-size 8 --epochs 1 --output tuned";
    program.succeeds(&format!("{start} --pretrained {weights} --freeze"));
    program.fails(
        &format!("{start} --pretrained {weights} --model resnet34"),
        1,
        &["layer1.2.conv1.weight", "missing"],
    );
    program.fails(&format!("{start} --pretrained {weights} --form v1"), 1, &["v1.5", "--form"]);
    program.fails(
        &format!("{start} --freeze --backbone-lr-scale 0.1"),
        2,
        &["--freeze", "--backbone-lr-scale"],
    );
    program.fails(&format!("{start} --objects masks --augment modern"), 2, &["--objects masks", "mixup"]);
    program.fails(&format!("{start} --objects boxes"), 2, &["boxes", "masks", "codes"]);
}

#[test]
fn objects_are_taken_in_from_training_to_prediction() {
    let program = Program::with_scenes();
    let run = program.trains("--objects vector");
    let run = run.display();
    assert!(program.succeeds(&format!("eval --run {run}")).contains("20 val images"));
    let photo = "scenes/images/val/00000001.jpg";
    assert!(program.succeeds(&format!("predict --run {run} {photo}")).contains('%'));
    program.succeeds(&format!("export --run {run} --output w.safetensors"));
    program.fails(&format!("export --run {run} --output w.onnx"), 2, &["vector", "--format safetensors"]);
}

#[test]
fn a_part_of_the_paper_is_reproduced_once_and_found_again() {
    let program = Program::with_scenes();
    let command = "reproduce fig4 table1 --quick --data-dir scenes --output paper";
    let said = texts(&program.command(command).output().unwrap()).1;
    assert_eq!(said.matches("precision: ").count(), 1, "it is decided for all runs:\n{said}");
    let page = fs::read_to_string(program.path("paper/reproduction.html")).unwrap();
    for part in ["in miniature", "Table 1", "Figure 4", "300 s", "runs/", "resnet34"] {
        assert!(page.contains(part), "no {part}");
    }
    assert!(!page.contains("Table 2"), "only what was asked for");
    let runs = |program: &Program| fs::read_dir(program.path("paper/runs")).unwrap().count();
    assert_eq!(runs(&program), 3);
    program.succeeds(command);
    assert_eq!(runs(&program), 3, "what is done is not done again");
    program.fails("reproduce tabel1 --data-dir scenes", 2, &["tabel1", "did you mean `table1`?"]);
    program.fails("reproduce table1 --data-dir nowhere", 4, &["nowhere"]);
    program.fails("reproduce all --data-dir scenes --pretrained none", 2, &["--pretrained none"]);
}

#[test]
#[cfg(residuum_simt)]
fn the_emulator_trains_goes_on_evaluates_and_predicts() {
    let program = Program::with_scenes();
    let small = "train --data-dir scenes --img-size 16 -b 4 --limit-train 4 --limit-val 4 --device simt --augment compose";
    program.succeeds(&format!("{small} --epochs 2 --categories 4"));
    let run = program.only_run("runs");
    let losses: Vec<f64> = program.records(&run).epochs.iter().map(|epoch| epoch.eval_loss).collect();
    assert_eq!(losses.len(), 2);
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    let run = run.display();
    let on = |device: &str| program.succeeds(&format!("eval --run {run} --batch-size 4 --device {device}"));
    let error =
        |text: &str| text.split("loss ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    let (emulated, cpu) = (error(&on("simt")).unwrap(), error(&on("cpu")).unwrap());
    assert!((emulated - cpu).abs() <= 1e-3 * cpu, "loss {emulated} on the emulator, {cpu} on the CPU");
    let photo = "scenes/images/val/00000001.jpg";
    assert!(program.succeeds(&format!("predict --run {run} --device simt {photo}")).contains('%'));
}
