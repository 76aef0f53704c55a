//! What the page of a run says, from records of one.

use super::*;
use crate::run::metrics::Event;

fn epoch(epoch: u64, eval_err1: f64) -> Epoch {
    Epoch {
        epoch,
        step: (epoch + 1) * 100,
        samples: (epoch + 1) * 6_400,
        lr: 0.05,
        train_loss: 1.25,
        train_err1: 30.0,
        eval_n: 10_000,
        eval_loss: 1.5,
        eval_err1,
        eval_err5: 5.5,
        train_seconds: 80.0,
        data_wait_seconds: 2.0,
        img_s: 80.0,
    }
}

fn env() -> Env {
    Env {
        version: "0.1.0".into(),
        commit: Some("abc1234".into()),
        command: vec!["residuum".into(), "train".into()],
        started: "2026-01-31T18:00:05Z".into(),
        device: "cpu (2 threads)".into(),
        cpu: None,
        threads: 2,
        os: "linux x86_64".into(),
    }
}

fn step(step: u64) -> Step {
    Step {
        epoch: 0,
        step,
        samples: 0,
        loss: (step % 2) as f64,
        lr: 0.1,
        grad_norm: None,
        img_s: 80.0,
        step_ms: 100.0,
        data_wait_ms: 1.0,
        h2d_ms: None,
        gpu_ms: None,
        exchange_ms: None,
        mem_mib: 1.0,
    }
}

fn category_row(name: &str, error: f64) -> CategoryRow {
    CategoryRow { name: name.into(), images: 6, error: Some(error), mistaken_for: Some(("canyon".into(), 1)) }
}

/// The page of a run that is not evaluated.
fn run_page<'a>(records: &'a Records, env: &'a Env) -> RunPage<'a> {
    RunPage {
        name: "20260131-180005-resnet18",
        status: "finished",
        is_running: false,
        records,
        env,
        settings: &[],
        categories: &[],
        confusion: None,
        category_errors: &[],
        mistakes: &[],
        hits: &[],
        heats: None,
    }
}

fn run(step: u64, command: &[&str]) -> Run {
    Run {
        step,
        model: "resnet18".into(),
        data: "miniplaces".into(),
        device: "cpu".into(),
        parameters: 1_000,
        train_images: 40,
        val_images: 20,
        img_size: 32,
        batch_size: 8,
        epochs: 2,
        seed: 0,
        data_dir: Some("/photos & more".into()),
        command: command.iter().map(|&word| word.into()).collect(),
    }
}

fn html(records: &Records) -> String {
    let env = env();
    let mistake = JudgedPhoto {
        name: "val/0007.jpg".into(),
        image: b"\x89PNG".to_vec(),
        truth: "abbey".into(),
        guess: "canyon".into(),
        probability: 0.987,
        heat: None,
    };
    let heat = Some(b"heat".to_vec());
    let hit = JudgedPhoto { guess: "abbey".into(), probability: 0.875, heat, ..mistake.clone() };
    let confusion = Confusion::new(vec!["abbey".into(), "canyon".into()], &[5, 1, 0, 6]);
    let page = run_page(records, &env);
    let category_errors = [category_row("abbey", 16.7), category_row("canyon", 0.0)];
    RunPage {
        confusion: Some(&confusion),
        category_errors: &category_errors,
        mistakes: &[mistake],
        hits: &[hit],
        heats: Some(&Heats { layer: "layer3.1".into(), extents: [4, 5] }),
        ..page
    }
    .page()
    .to_html()
}

#[test]
fn the_page_states_best_and_final_numbers() {
    let records = Records {
        epochs: vec![epoch(0, 50.0), epoch(1, 12.5), epoch(2, 14.25), epoch(3, f64::NAN), epoch(4, 13.0)],
        events: vec![Event { step: 1_234, event: "resume".into(), message: "from step 1,200".into() }],
        ..Records::default()
    };
    let html = html(&records);
    for part in [
        "<dt>Best top-1 error</dt><dd>12.5 %</dd><dd class=\"note\">after epoch 2</dd>",
        "<dt>Final top-1 error</dt><dd>13.0 %</dd><dd class=\"note\">10,000 images</dd>",
        "<dt>Training speed</dt><dd>80.0 img/s</dd><dd class=\"note\">6 min 40 s</dd>",
        "<dt>Waiting for data</dt><dd>2.5 %</dd>",
        "<tr class=\"marked\"><td class=\"num\" data-label=\"Epoch\">2</td>",
        "<td class=\"num\">1,234</td><td>resume</td><td>from step 1,200</td>",
        "<b>abbey</b><span>taken for canyon</span><span>98.7 %</span>",
        "<b>abbey</b><span>right</span><span>87.5 %</span>",
        "base64,aGVhdA==",
        "<dt>Processor</dt><dd>unknown, 2 threads</dd>",
        "abbey, taken for canyon: 1 of 6",
        "<td>abbey</td><td class=\"num\">6</td><td class=\"num\">16.7 %</td><td>canyon (1)</td>",
        "one of the 4 x 5 places of the map layer3.1 adds",
    ] {
        assert!(html.contains(part), "{part} is not in {html}");
    }
    assert!(!html.contains("NaN"), "{html}");
}

#[test]
fn a_run_that_logged_nothing_has_a_page() {
    let html = html(&Records::default());
    assert!(html.contains("<h1>20260131-180005-resnet18</h1>"), "{html}");
    assert!(!html.contains("<dl class=\"tiles\">") && !html.contains("class=\"chart\""), "{html}");
}

fn budget_of(device: &str, steps: Vec<Step>) -> Budget {
    let env = Env { device: device.into(), ..env() };
    let records = Records { steps, ..Records::default() };
    run_page(&records, &env).budget()
}

#[test]
fn a_step_is_divided_into_what_was_measured() {
    let slow = Step { data_wait_ms: 90.0, ..step(1) };
    let budget = budget_of("cpu (2 threads)", vec![slow.clone(), step(2), step(3)]);
    let parts =
        |budget: &Budget| budget.parts.iter().map(|(name, ms)| (name.clone(), *ms)).collect::<Vec<_>>();
    assert_eq!(parts(&budget), [("waiting for data".into(), 1.0), ("computing".into(), 99.0)]);
    assert_eq!(parts(&budget_of("cpu", vec![slow]))[0].1, 90.0, "a single line is all there is");
    let of_rank = Step { exchange_ms: Some(9.0), ..step(2) };
    assert_eq!(
        parts(&budget_of("cpu", vec![of_rank.clone(), of_rank])),
        [
            ("waiting for data".into(), 1.0),
            ("exchanging with other ranks".into(), 9.0),
            ("computing".into(), 90.0)
        ]
    );

    let timed = Step { h2d_ms: Some(4.0), gpu_ms: Some(75.0), ..step(2) };
    let budget = budget_of("cuda:0", vec![timed.clone(), timed.clone()]);
    let parts = parts(&budget);
    assert_eq!(parts.iter().map(|(_, ms)| *ms).collect::<Vec<_>>(), [1.0, 4.0, 75.0, 20.0]);
    assert_eq!((parts[3].0.as_str(), budget.note.as_str()), ("gaps between kernels", ""));
    let budget = budget_of("cuda:0", vec![timed, step(3), step(4)]);
    assert_eq!(budget.parts.len(), 2);
    assert!(budget.note.contains("not timed apart"), "{}", budget.note);
    assert_eq!(budget_of("cuda:0", vec![]), Budget::default());
}

#[test]
fn long_lines_are_thinned_to_means_and_spread() {
    let steps: Vec<Step> = (1..=1_001).map(step).collect();
    let series = by_step("loss", &steps, |step| step.loss);
    assert_eq!(series.points.len(), 201);
    assert_eq!(series.points[0], (3.0, 3.0 / 5.0));
    assert_eq!(series.band[1], (8.0, 0.0, 1.0));
    assert_eq!(series.points[200], (1_001.0, 1.0));
    assert_eq!(by_step("loss", &steps[..MAX_POINTS], |step| step.loss).band, []);
}

#[test]
fn the_first_command_the_data_and_the_settings_outlive_a_resume() {
    let records = Records {
        runs: vec![
            run(0, &["residuum", "train", "--lr", "0.5"]),
            run(1_200, &["residuum", "train", "--resume", "x"]),
        ],
        ..Records::default()
    };
    let setting =
        |name: &str, value: &str| Setting { name: name.into(), value: value.into(), default: "0.1".into() };
    let names: Vec<String> = (0..13).map(|number| format!("class{number}")).collect();
    let env = env();
    let settings = [setting("lr", "0.5"), setting("momentum", "0.1")];
    let html =
        RunPage { settings: &settings, categories: &names, ..run_page(&records, &env) }.page().to_html();
    for part in [
        "<dt>Command</dt><dd>residuum train --lr 0.5</dd>",
        "<dt>Resumed at step 1,200</dt><dd>residuum train --resume x</dd>",
        "miniplaces in /photos &amp; more: 40 training and 20 validation images",
        "<dt>Categories</dt><dd>13: class0, ",
        "class11, ...</dd>",
        "<dt>Settings other than the defaults</dt><dd>lr = 0.5</dd>",
        "<tr class=\"marked\"><td>lr</td><td>0.5</td><td>0.1</td></tr>",
        "<td>momentum</td><td>0.1</td><td>0.1</td>",
    ] {
        assert!(html.contains(part), "{part} is not in {html}");
    }
    let earlier = Records { runs: vec![run(0, &[]), run(7, &[])], ..Records::default() };
    let html = run_page(&earlier, &env).page().to_html();
    assert!(html.contains("<dt>Newest command</dt><dd>residuum train</dd>"), "{html}");
}

#[test]
fn the_page_of_a_run_in_progress_is_read_again() {
    let (records, env) = (Records::default(), env());
    let refresh = "<meta http-equiv=\"refresh\" content=\"15\">";
    let page = run_page(&records, &env);
    assert!(!page.page().to_html().contains("http-equiv"));
    assert!(RunPage { is_running: true, ..page }.page().to_html().contains(refresh));
}

#[test]
fn the_worst_categories_come_first_and_many_are_folded() {
    let (records, env) = (Records::default(), env());
    let rows: Vec<CategoryRow> =
        (0..20).map(|n| category_row(&format!("class{n:02}"), f64::from(n))).collect();
    let html = |rows| RunPage { category_errors: rows, ..run_page(&records, &env) }.page().to_html();
    let many = html(&rows);
    let at = |text: &str| many.find(text).unwrap_or_else(|| panic!("{text} is not in {many}"));
    assert!(at("class19") < at("class08") && at("class08") < at("the other 8 categories"));
    assert!(at("the other 8 categories") < at("class07") && at("class07") < at("class00"));
    assert!(!html(&rows[..12]).contains("the other"));
}
