//! What `plan` promises is what a run takes.

use residuum::device::{Device, DeviceKind};
use residuum::fuse::Fusion;
use residuum::models::Variant;
use residuum::step::{StepConfig, program};
use residuum::train::config::{OptimiserKind, TrainConfig};
use residuum::train::trainer::Trainer;
use tempfile::TempDir;

use crate::precision::on_this_cpu;
use crate::program::Program;

/// The number in the line of `text` that starts with `label`, without the commas between its digits.
#[track_caller]
pub fn number_after(text: &str, label: &str) -> usize {
    let line =
        text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("no {label}:\n{text}"));
    let digits = line[label.len()..].trim_start().split("  ").next().unwrap();
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("{line}"))
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_had_enough_is_no_bug() {
    // More than a pipe holds.
    let line = "\"$0\" plan --model resnet152 --steps; echo \"ended with $?\" >&2";
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("{{ {line}; }} | head -n 1"), env!("CARGO_BIN_EXE_residuum")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "ended with 141\n");
    assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'\n').count(), 1);
}

#[test]
fn a_run_allocates_what_the_plan_says() {
    let output = TempDir::new().unwrap();
    let base = TrainConfig {
        img_size: 24,
        batch_size: 6,
        limit_train: Some(20),
        output: output.path().to_path_buf(),
        ..TrainConfig::defaults(None)
    };
    let averaged = TrainConfig {
        opt: OptimiserKind::AdamW,
        clip_grad: Some(0.5),
        grad_accum_steps: 2,
        model_ema_decay: Some(0.99),
        ..base.clone()
    };
    let textbook = TrainConfig { fuse: Fusion::NONE, form: Variant::V2, ..base.clone() };
    let cases = [
        (base, ""),
        (averaged, "--opt adamw --clip-grad --grad-accum-steps 2 --model-ema"),
        (textbook, "--no-fuse --form v2"),
    ];
    for (config, flags) in cases {
        let session_bytes = Trainer::start(config.clone(), Device::Cpu).unwrap().session().arena_bytes();
        assert_eq!(
            session_bytes,
            program(&config.step_config(10, DeviceKind::Cpu).unwrap(), DeviceKind::Cpu).unwrap().peak_bytes,
            "{flags}"
        );
        let call = format!("plan --img-size 24 --batch-size 6 --categories 10 {flags}");
        let said = Program::new().succeeds(&call);
        assert_eq!(number_after(&said, "peak"), session_bytes, "{call}");
    }
}

#[test]
fn a_data_set_that_is_not_here_is_planned_by_its_numbers() {
    let program = Program::new();
    let said = program.succeeds("plan --images 5000,1000 --device cuda --batch-size 8");
    assert_eq!(number_after(&said, "pixels of the data set"), 6000 * 128 * 128 * 3);
    assert!(said.contains("pixels: 281.25 MiB in the device's memory"), "{said}");
    let said = program.succeeds("plan --images 5000,1000 --device cuda --batch-size 8 --memory 400MiB");
    assert!(!said.contains("pixels of the data set") && said.contains("batch by batch"), "{said}");
    assert!(said.lines().last().unwrap().starts_with("largest batch in 400.00 MiB: "), "{said}");
    program.fails("plan --categories 100", 2, &["--categories 100", "at most 10", "--images"]);
    program.fails("plan --images 7", 2, &["--images", "100000,10000"]);
    program.fails("plan --data-dir nowhere", 4, &["nowhere"]);
}

#[test]
fn a_plan_is_for_the_type_that_the_device_trains_in_and_says_so() {
    let program = Program::new();
    for (device, precision) in [("cuda", "bf16"), ("cpu", on_this_cpu().0), ("simt", "f32")] {
        let call = format!("plan --img-size 32 --categories 10 --device {device}");
        let [left_open, named] =
            ["auto", precision].map(|which| program.succeeds(&format!("{call} --precision {which}")));
        let without_remark: Vec<_> = left_open
            .lines()
            .filter(|line| !line.starts_with(&format!("precision: {precision} (")))
            .collect();
        assert_eq!(without_remark, named.lines().collect::<Vec<_>>(), "{device}");
        assert_eq!(left_open.lines().count(), named.lines().count() + 1, "{device}");
        assert_eq!(program.succeeds(&call), left_open, "{device}");
    }
}

#[test]
fn a_rank_is_planned_with_what_it_exchanges() {
    let program = Program::new();
    let call = "plan --img-size 24 --batch-size 6 --categories 10 --model resnet9";
    let alone = program.succeeds(call);
    assert!(!alone.contains("rank"), "{alone}");
    let said = program.succeeds(&format!("{call} --ranks 4 --micro-batches 8"));
    let config =
        TrainConfig { model: "resnet9".into(), img_size: 24, batch_size: 6, ..TrainConfig::defaults(None) };
    let step =
        StepConfig { num_ranks: 4, grad_accum_steps: 2, ..config.step_config(10, DeviceKind::Cpu).unwrap() };
    assert_eq!(
        number_after(&said, "peak"),
        residuum::step::program(&step, DeviceKind::Cpu).unwrap().peak_bytes
    );
    assert!(said.contains("4 ranks: an update takes 2 x 6 images on each, 48 in all\n"), "{said}");
    // Three quarters of the gradient twice, and of the sum once, besides statistics.
    let sent = said.lines().find_map(|line| line.strip_prefix("for an update each sends ")).unwrap();
    let gradient = number_after(&said, "parameters") as f64 / f64::from(1 << 20);
    let sent: f64 = sent.split(' ').next().unwrap().parse().unwrap();
    assert!((2.25 * gradient..2.3 * gradient).contains(&sent), "{sent} MiB of {gradient}");
    assert!(number_after(&said, "exchanges with other ranks") > 2 * number_after(&said, "parameters"));
    assert!(!said.contains("machines"), "{said}");
    // Each machine of two: of their gradients twice a half to two others, and of the sum, or of what they add up before.
    let to_nodes = |order: &str| -> f64 {
        let flags = format!("--ranks 4 --micro-batches 8 --ranks-per-node 2 --sum-order {order}");
        let said = program.succeeds(&format!("{call} {flags}"));
        let sent = said.lines().find_map(|line| line.strip_prefix("each of 2 machines sends ")).unwrap();
        sent.split(' ').next().unwrap().parse().unwrap()
    };
    for (order, gradients) in [("chain", 3.0), ("tree", 1.5)] {
        let sent = to_nodes(order) / gradient;
        assert!((gradients..1.02 * gradients).contains(&sent), "{order}: {sent} gradients");
    }
    program.fails(&format!("{call} --ranks 4 --ranks-per-node 3"), 2, &["a divisor of 4"]);
    program.fails(&format!("{call} --ranks 3 --sum-order tree"), 2, &["take 2 or 4"]);
    program.fails(&format!("{call} --ranks 3 --micro-batches 8"), 2, &["8 batches", "1, 2, 4, 8"]);
    program.fails(&format!("{call} --ranks 0"), 2, &["--ranks"]);
}

#[test]
fn the_largest_batch_fits_and_one_more_does_not() {
    let said = Program::new().succeeds("plan --img-size 32 --categories 10 --memory 400MiB");
    let last = said.lines().last().unwrap();
    let batch_size = last.strip_prefix("largest batch in 400.00 MiB: ").unwrap().split(' ').next().unwrap();
    let batch_size: usize = batch_size.parse().unwrap();
    let peak = |batch_size| {
        let config = TrainConfig { batch_size, img_size: 32, ..TrainConfig::defaults(None) };
        program(&config.step_config(10, DeviceKind::Cpu).unwrap(), DeviceKind::Cpu).unwrap().peak_bytes
    };
    assert!(peak(batch_size) <= 400 << 20, "{batch_size} images take {}", peak(batch_size));
    assert!(peak(batch_size + 1) > 400 << 20, "{batch_size} images are too few");
}

#[test]
fn memory_for_not_one_image_is_refused() {
    let parts = ["even a batch of 2 needs", "--memory 1.00 MiB", "--img-size"];
    Program::new().fails("plan --img-size 32 --memory 1MiB", 6, &parts);
}
