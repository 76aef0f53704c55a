//! What a run goes on from, and what it refuses to go on from: its state, its settings, its images.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use residuum::run::checkpoint;
use residuum::run::state::{self, TrainState};

use crate::program::{Program, SMALL_RUN, signal, texts};

const STATE: &str = "last.state.safetensors";

fn resume(run: &Path) -> String {
    format!("train --resume {}", run.display())
}

/// Rewrites the numbers of the state of `run`.
fn edit_state(program: &Program, run: &Path, edit: impl FnOnce(&mut TrainState)) {
    let path = program.checkpoint(run, STATE);
    let (mut state, tensors) = state::load(&path).unwrap();
    edit(&mut state);
    state::save(&path, &state, &tensors).unwrap();
}

#[test]
fn a_state_beyond_the_end_of_its_run_is_an_error() {
    let program = Program::with_scenes();
    let run = program.trains("");
    let config = program.path(&run).join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("epochs = 2", "epochs = 1")).unwrap();
    let before = program.checkpoint_bytes(&run, "last.safetensors");
    program.fails(
        &resume(&run),
        1,
        &[STATE, "has 10 updates done and the run ends after 5", "raise --epochs"],
    );
    assert!(program.checkpoint_bytes(&run, "last.safetensors") == before);
}

#[test]
fn numbers_that_contradict_each_other_are_an_error() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 7 --recovery-interval 7 --grad-accum-steps 1");
    let config = program.path(&run).join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("max_steps = 7", "max_steps = 9")).unwrap();
    let whole = program.checkpoint_bytes(&run, STATE);
    type Edit = fn(&mut TrainState);
    let cases: [(Edit, &str); 6] = [
        (|state| state.batch_in_epoch += 1, "1 batches into an epoch that began at step 7"),
        (|state| state.step = 0, "step 0 is 0 batches into an epoch"),
        (|state| state.samples += 1, "57 images, 0 of them"),
        (|state| state.epoch = 0, "epoch 0 after 2 evaluated ones"),
        (|state| state.model = "resnet34".into(), "is of resnet34 and the settings ask for resnet18"),
        (|state| state.seed = 3, "is of seed 3 and the settings ask for 0"),
    ];
    for (edit, what) in cases {
        fs::write(program.checkpoint(&run, STATE), &whole).unwrap();
        edit_state(&program, &run, edit);
        program.fails(&resume(&run), 1, &[STATE, what]);
    }
    fs::write(program.checkpoint(&run, STATE), &whole).unwrap();
    program.succeeds(&resume(&run));
}

#[test]
fn a_number_of_a_state_that_changed_by_itself_is_found() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 1");
    let path = program.checkpoint(&run, STATE);
    let mut bytes = fs::read(&path).unwrap();
    let field = br#"\"samples\":8"#;
    let position = bytes.windows(field.len()).position(|part| part == field).unwrap();
    bytes[position + field.len() - 1] ^= 1;
    fs::write(&path, bytes).unwrap();
    program.fails(&resume(&run), 1, &[STATE, "does not match its checksum", "restore the file"]);
}

#[test]
fn a_run_whose_state_is_gone_is_refused_and_nothing_is_overwritten() {
    let program = Program::with_scenes();
    let run = program.trains("--log-interval 1");
    fs::remove_file(program.checkpoint(&run, STATE)).unwrap();
    let files =
        ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "summary.csv", "metrics.jsonl"];
    let read = || files.map(|name| fs::read(program.path(&run).join(name)).unwrap());
    let before = read();
    let parts = [STATE, "is missing", "2 epochs behind it", "restore the file from a copy", "--config"];
    program.fails(&resume(&run), 1, &parts);
    assert!(read() == before);

    // In the first epoch there are steps alone.
    let metrics = String::from_utf8(before[3].clone()).unwrap();
    let head: Vec<&str> = metrics.lines().take(3).collect();
    fs::write(program.path(&run).join("metrics.jsonl"), head.join("\n") + "\n").unwrap();
    program.fails(&resume(&run), 1, &[STATE, "is missing", "2 logged steps behind it"]);
}

#[test]
fn a_run_that_was_killed_before_its_first_state_begins_again() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 1");
    let folder = program.path(&run);
    fs::remove_dir_all(folder.join("checkpoints")).unwrap();
    fs::create_dir(folder.join("checkpoints")).unwrap();
    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    fs::write(folder.join("metrics.jsonl"), metrics.lines().next().unwrap().to_string() + "\n").unwrap();
    program.succeeds(&resume(&run));
    assert!(program.checkpoint(&run, STATE).exists());
}

#[test]
fn a_page_that_cannot_be_written_is_an_event() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 6");
    let folder = program.path(&run);
    let config = fs::read_to_string(folder.join("config.toml")).unwrap();
    fs::write(folder.join("config.toml"), config.replace("max_steps = 6", "max_steps = 10")).unwrap();
    fs::remove_file(folder.join("summary.csv")).unwrap();
    fs::create_dir(folder.join("summary.csv")).unwrap();
    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    fs::write(folder.join("metrics.jsonl"), format!("{metrics}\0\n")).unwrap();
    program.succeeds(&resume(&run));

    let state = checkpoint::read(&program.checkpoint(&run, STATE)).unwrap();
    assert_eq!(state.metadata["step"], 10);
    let log = fs::read_to_string(folder.join("log.txt")).unwrap();
    for part in ["a page of the run is left out: ", "metrics.jsonl: line ", "cannot write", "summary.csv"] {
        assert!(log.contains(part), "no `{part}`:\n{log}");
    }
    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains(r#""event":"page left out""#));

    // Where the fault is gone, the pages are made.
    fs::write(folder.join("metrics.jsonl"), metrics.replace("\0\n", "")).unwrap();
    fs::remove_dir(folder.join("summary.csv")).unwrap();
    program.succeeds(&resume(&run));
    assert_eq!(fs::read_to_string(folder.join("summary.csv")).unwrap().lines().count(), 4);
    assert!(fs::read_to_string(folder.join("report.html")).unwrap().contains("finished"));
}

/// A run of two steps of four on the data set `classes`, with `a` and `b`.
fn half_of_a_run_on_classes() -> (Program, std::path::PathBuf) {
    let program = Program::new();
    program.write_classes(&["a", "b"]);
    program.succeeds("train --data-dir classes --img-size 16 --batch-size 8 --epochs 2 --max-steps 2");
    let run = program.only_run("runs");
    (program, run)
}

#[test]
fn a_run_does_not_go_on_when_labels_have_come_to_mean_something_else() {
    let (program, run) = half_of_a_run_on_classes();
    for split in ["train", "val"] {
        let folder = program.path("classes").join(split);
        fs::rename(folder.join("a"), folder.join("zz")).unwrap();
    }
    let goes_on = format!("{} --max-steps 4", resume(&run));
    let before = ["config.toml", "metrics.jsonl", "checkpoints/last.state.safetensors"]
        .map(|name| (name, fs::read(program.path(&run).join(name)).unwrap()));
    program.fails(&goes_on, 1, &[STATE, "label 0 is `b` and was `a`", "--allow-changed"]);
    for (name, bytes) in before {
        assert!(fs::read(program.path(&run).join(name)).unwrap() == bytes, "{name} has changed");
    }

    let output = program.command(&format!("{goes_on} --allow-changed")).output().unwrap();
    let said = "goes on as another (--allow-changed): label 0 is `b` and was `a`";
    assert!(texts(&output).1.contains(said), "{}", texts(&output).1);
    for name in ["log.txt", "metrics.jsonl", "report.html"] {
        assert!(fs::read_to_string(program.path(&run).join(name)).unwrap().contains(said), "{name}");
    }
    // From then on it is the run's own.
    program.succeeds(&resume(&run));
}

#[test]
fn a_run_does_not_go_on_with_other_images() {
    for (split, what) in [("train", "training images have other"), ("val", "validation images have other")] {
        let (program, run) = half_of_a_run_on_classes();
        let goes_on = format!("{} --max-steps 4", resume(&run));
        let folder = program.path("classes").join(split);
        let (image, copy) = (folder.join("a/0.png"), fs::read(folder.join("a/0.png")).unwrap());
        fs::copy(folder.join("a/3.png"), &image).unwrap();
        program.fails(&goes_on, 1, &[STATE, what, "--allow-changed"]);
        fs::remove_file(&image).unwrap();
        program.fails(&goes_on, 1, &[STATE, what, "--allow-changed"]);
        // The same image is the same at whatever time it was written.
        fs::write(&image, copy).unwrap();
        program.succeeds(&goes_on);
    }
}

#[test]
fn a_run_does_not_go_on_with_other_settings() {
    let program = Program::with_scenes();
    let run = program.trains("--max-steps 6");
    let config = program.path(&run).join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let cases = [
        ("seed = 0", "seed = 1", "`seed` is 1 and was 0"),
        ("lr = 0.01", "lr = 0.02", "`lr` is 0.02 and was 0.01"),
        ("grad_accum_steps = 1", "grad_accum_steps = 2", "`grad_accum_steps` is 2 and was 1"),
        ("mean = [0.485,", "mean = [0.5,", "`mean` is 0.5,0.456,0.406 and was 0.485,0.456,0.406"),
        ("nesterov = true", "nesterov = false", "`nesterov` is false and was true"),
        ("model = ", "limit_train = 16\nmodel = ", "`limit_train` is 16 and was none"),
    ];
    for (was, is, what) in cases {
        assert!(text.contains(was), "{was}");
        fs::write(&config, text.replace(was, is)).unwrap();
        program.fails(&resume(&run), 1, &[STATE, what, "--allow-changed"]);
    }
    fs::write(&config, &text).unwrap();
    program.fails(&format!("{} --lr 0.02", resume(&run)), 1, &["`lr` is 0.02 and was 0.01"]);
    program.succeeds(&format!("{} --lr 0.02 --max-steps 8 --allow-changed", resume(&run)));
    let changed = fs::read_to_string(&config).unwrap();
    assert_eq!(changed, text.replace("lr = 0.01", "lr = 0.02").replace("max_steps = 6", "max_steps = 8"));

    let kept = || {
        ["config.toml", "env.json", "metrics.jsonl"]
            .map(|file| fs::read(program.path(run.join(file))).unwrap())
    };
    let before = kept();
    let call = format!("{} --lr 0.03 --allow-changed", resume(&run));
    program.fails(&call, 2, &["complete after update 8", "`lr` stays 0.02", "--epochs"]);
    assert!(kept() == before, "what is refused leaves the folder as it is");
}

#[test]
fn what_users_change_is_given_as_flags_shown_and_recorded() {
    let program = Program::with_scenes();
    program.succeeds(&SMALL_RUN.replace("--epochs 2", "--epochs 1 --log-interval 1"));
    let run = program.only_run("runs");
    fs::rename(program.path("scenes"), program.path("moved")).unwrap();
    let call = format!("{} --epochs 2 --data-dir moved --workers 2 --device cpu", resume(&run));
    let output = program.command(&call).output().unwrap();
    let said = texts(&output).1;
    assert!(output.status.success(), "{said}");
    for part in
        ["goes on with changes: ", "`epochs` is 2 and was 1", "`workers` is 2 and was 1", "moved and was /"]
    {
        assert!(said.contains(part), "no `{part}`:\n{said}");
    }
    let events = program.records(&run).events;
    assert!(
        events.iter().any(|event| event.event == "changed" && said.contains(&event.message)),
        "{events:?}"
    );
    let config = fs::read_to_string(program.path(&run).join("config.toml")).unwrap();
    assert!(
        config.contains("epochs = 2") && config.contains("moved\"") && config.contains("workers = 2"),
        "{config}"
    );
    let records = program.records(&run);
    assert_eq!(
        records.steps.iter().map(|step| step.step).collect::<Vec<u64>>(),
        (1..=10).collect::<Vec<u64>>()
    );
    // Nothing is left to say or to do.
    let output = program.command(&resume(&run)).output().unwrap();
    assert!(output.status.success() && !texts(&output).1.contains("changes"), "{}", texts(&output).1);
}

#[test]
fn the_same_command_begins_an_experiment_and_goes_on_with_it() {
    let program = Program::with_scenes();
    let call =
        "train --data-dir scenes --img-size 32 --batch-size 8 --lr 0.01 --experiment night --auto-resume";
    program.succeeds(&format!("{call} --epochs 1"));
    let run = program.only_run("runs");
    // One of another name is not taken for it.
    program.succeeds(&format!("{call} --epochs 1").replace("night --auto-resume", "night-2b"));
    program.succeeds(&format!("{call} --epochs 2"));
    assert_eq!(program.records(&run).epochs.len(), 2);
    assert_eq!(fs::read_dir(program.path("runs")).unwrap().count(), 2);
    program.fails(&format!("{call} --epochs 2 --weight-decay 0.1"), 1, &[STATE, "`weight_decay` is 0.1"]);
    program.fails("train --auto-resume", 2, &["--experiment <NAME>"]);
}

#[test]
fn a_run_goes_on_with_batches_of_another_size() {
    let program = Program::with_scenes();
    let call = SMALL_RUN.replace("--epochs 2", "--epochs 6 --log-interval 1");
    let mut child = program.command(&call).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let run = program.wait_for_steps(&mut child, 7);
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let (state, _) = state::load(&program.checkpoint(&run, STATE)).unwrap();
    let output = program.command(&format!("{} --batch-size 4", resume(&run))).output().unwrap();
    let said = texts(&output).1;
    assert!(output.status.success(), "{said}");
    // 40 images are five batches of eight and ten of four.
    let this_epoch = state.step + 10 - 2 * state.batch_in_epoch;
    let end_of = |epoch: u64| match epoch.checked_sub(state.epoch) {
        None => (5 * (epoch + 1), 40 * (epoch + 1)),
        Some(later) => (this_epoch + 10 * later, 40 * (epoch + 1)),
    };
    let total = format!("an epoch has 10 updates and the run ends after {}", end_of(5).0);
    for part in ["`batch_size` is 4 and was 8", &total] {
        assert!(said.contains(part), "no `{part}`:\n{said}");
    }
    let records = program.records(&run);
    let ends: Vec<(u64, u64)> = records.epochs.iter().map(|epoch| (epoch.step, epoch.samples)).collect();
    assert_eq!(ends, (0..6).map(end_of).collect::<Vec<(u64, u64)>>());
    // It is the run's own from then on.
    let output = program.command(&resume(&run)).output().unwrap();
    assert!(output.status.success() && !texts(&output).1.contains("changes"), "{}", texts(&output).1);
}

#[test]
fn a_run_goes_on_with_other_batches_to_an_update_where_that_is_asked_for() {
    let program = Program::with_scenes();
    let once = SMALL_RUN.replace("--epochs 2", "--epochs 1");
    program.succeeds(&format!("{once} --grad-accum-steps 2"));
    let run = program.only_run("runs");
    let call = format!("{} --epochs 2 --grad-accum-steps 1", resume(&run));
    program.fails(&call, 1, &["`grad_accum_steps` is 1 and was 2", "--allow-changed"]);
    program.succeeds(&format!("{call} --allow-changed"));
    let ends: Vec<u64> = program.records(&run).epochs.iter().map(|epoch| epoch.step).collect();
    assert_eq!(ends[..2], [2, 7], "two updates of two batches, then five of one");
}
