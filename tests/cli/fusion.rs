//! Rewrites of the graph that a command leaves out.

use std::fs;

use residuum::fuse::Rewrite;
use serde_json::Value;

use crate::plan::number_after;
use crate::program::{PHOTO, Program, SMALL_RUN};

#[test]
fn a_run_goes_on_without_the_rewrites_that_it_was_begun_without() {
    let program = Program::with_scenes();
    let run = program.trains("--no-fuse dgrad-add,conv-bn --max-steps 2");
    let config = program.path(&run).join("config.toml");
    let recorded = |without: &str| {
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(&format!("\nfuse = {without}\n")), "{text}");
    };
    let all_but = |left_out: &[Rewrite]| {
        let names = Rewrite::ALL.into_iter().filter(|rewrite| !left_out.contains(rewrite)).map(Rewrite::name);
        format!("{:?}", names.collect::<Vec<_>>())
    };
    let left = &all_but(&[Rewrite::DgradAdd, Rewrite::ConvBn]);
    recorded(left);
    let resume = format!("train --resume {}", run.display());
    program.succeeds(&format!("{resume} --max-steps 3"));
    recorded(left);
    let change = format!("{resume} --max-steps 4 --no-fuse dgrad-add");
    program.fails(&change, 1, &["`fuse` is bn-add-relu,conv-bn,", "and was bn-add-relu,dgrad-sums,"]);
    program.succeeds(&format!("{change} --allow-changed"));
    recorded(&all_but(&[Rewrite::DgradAdd]));
}

#[test]
fn a_plan_without_rewrites_takes_more_memory_and_steps() {
    let program = Program::new();
    let plan = "plan --model resnet18 --img-size 32 --categories 10 --steps";
    let of = |flags: &str| {
        let said = program.succeeds(&format!("{plan} {flags}"));
        (number_after(&said, "peak"), said.lines().count())
    };
    let (fused, textbook) = (of(""), of("--no-fuse=all"));
    assert!(textbook.0 > fused.0 && textbook.1 > fused.1, "{fused:?} and {textbook:?}");
    assert_eq!(of("--no-fuse"), textbook, "without a name, all are left out");
    let some = of("--no-fuse bn-add-relu,dgrad-add");
    assert!(some.1 > fused.1 && some.1 < textbook.1, "{fused:?}, {some:?} and {textbook:?}");
}

#[test]
fn a_trained_model_says_the_same_without_rewrites() {
    let program = Program::with_scenes();
    let run = program.trains("");
    let says = |command: &str, flags: &str| -> Value {
        serde_json::from_str(&program.succeeds(&format!("{command} --json {flags}"))).unwrap()
    };
    let eval = format!("eval --run {}", run.display());
    let predict = format!("predict --run {} {PHOTO}", run.display());
    let (fused, answer) = (says(&eval, ""), says(&predict, ""));
    for left_out in ["conv-bn", "bn-add-relu", "conv-bn,bn-add-relu", "all"] {
        let flags = format!("--no-fuse {left_out}");
        let textbook = says(&eval, &flags);
        for number in ["top1_error", "top5_error", "loss"] {
            let [got, expected] = [&textbook, &fused].map(|said| said[number].as_f64().unwrap());
            assert!((got - expected).abs() <= 1e-5 * expected, "{left_out}: {number} {got} for {expected}");
        }
        let categories = |said: &Value| {
            let answers = said[0]["predictions"].as_array().unwrap();
            answers.iter().map(|answer| answer["category"].as_str().unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(categories(&says(&predict, &flags)), categories(&answer), "{left_out}");
    }
    let picture = |name: &str, flags: &str| {
        program.succeeds(&format!("{predict} --explain {name} {flags}"));
        image::open(program.path(name)).unwrap().to_rgb8()
    };
    let (fused, textbook) = (picture("fused.png", ""), picture("textbook.png", "--no-fuse all"));
    let apart = fused.iter().zip(textbook.iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(fused.dimensions() == textbook.dimensions() && apart <= Some(1), "{apart:?}");
}

#[test]
fn a_profile_shows_what_a_rewrite_merges() {
    let operations = |flags: &str| {
        let call =
            format!("profile --model resnet18 --img-size 32 --batch-size 2 --device cpu --json {flags}");
        let profile: Value = serde_json::from_str(&Program::new().succeeds(&call)).unwrap();
        profile.to_string().matches("\"add_fwd\"").count()
    };
    assert_eq!(operations(""), 0);
    assert!(operations("--no-fuse dgrad-add") > 0);
}

#[test]
fn an_unknown_rewrite_is_refused_with_all_names_and_the_nearest() {
    let program = Program::with_scenes();
    let names = format!("take {} or all", Rewrite::NAMES.join(", "));
    let parts = ["--no-fuse", "`dgrad-sum` is unknown", &names];
    for command in [SMALL_RUN, "plan", "profile", "eval --run a", &format!("predict --run a {PHOTO}")] {
        program.fails(&format!("{command} --no-fuse conv-bn,dgrad-sum"), 2, &parts);
        program.fails(&format!("{command} --no-fuse conv-bm"), 2, &["did you mean `conv-bn`?"]);
    }
    fs::write(program.path("recipe.toml"), "fuse = [\"conv-bn\", \"dgrad-ad\"]").unwrap();
    program.fails("plan --config recipe.toml", 2, &["line 1", "`fuse`", "did you mean `dgrad-add`?"]);
    assert!(!program.path("runs").exists());
}

#[test]
fn help_says_what_each_rewrite_does() {
    for command in ["train", "plan", "profile", "eval", "predict"] {
        let help = Program::new().succeeds(&format!("{command} --help"));
        for rewrite in Rewrite::ALL {
            let row = |line: &str| {
                line.trim_start().strip_prefix(rewrite.name()).map(str::trim) == Some(rewrite.does())
            };
            assert!(help.lines().any(row), "{command} has no line of {rewrite}:\n{help}");
        }
    }
}
