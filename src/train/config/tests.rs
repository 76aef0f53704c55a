//! What the table makes of a setting: defaults, flags, help, ranges.

use std::path::Path;

use clap::{Args, Command, FromArgMatches};

use super::*;

fn command() -> Command {
    SettingFlags::<super::super::setting::All>::augment_args(Command::new("train")).term_width(0)
}

fn given(recipe: &str, flags: &str) -> Result<TrainConfig> {
    let words = std::iter::once("train").chain(flags.split_whitespace());
    let matches = command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{error}"));
    let flags: SettingFlags = SettingFlags::from_arg_matches(&matches).unwrap();
    TrainConfig::layered(None, Some(&Recipe::parse(Path::new("recipe.toml"), recipe).unwrap()), &flags)
}

#[test]
fn names_are_those_of_the_file_and_every_setting_has_a_flag() {
    let config = toml::Table::try_from(TrainConfig::defaults(None)).unwrap();
    assert!(config.keys().all(|key| TrainConfig::NAMES.contains(&key.as_str())), "{config:?}");
    let command = command();
    let flags: Vec<&str> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
    assert!(TrainConfig::NAMES.iter().all(|name| flags.contains(name)), "{flags:?}");
}

#[test]
fn defaults_depend_on_data_and_update_rule_and_help_says_so() {
    let scenes = TrainConfig::defaults(None);
    let photos = TrainConfig::defaults(Some("photos".into()));
    assert_eq!((scenes.lr_for(7000), scenes.img_size, scenes.epochs), (0.03, 32, 8));
    assert_eq!((photos.lr_for(1600), photos.img_size, photos.epochs), (0.05, 128, 90));
    assert_eq!(given("", "").unwrap(), scenes);
    assert_eq!(given("", "--opt adam").unwrap().lr_for(400), 0.001);
    assert_eq!(given("opt = \"adamw\"", "--lr 1").unwrap().lr_for(400), 1.0);
    assert_eq!(given("opt = \"adamw\"", "--opt sgd").unwrap().lr_for(400), 0.03);
    let help = command().render_help().to_string();
    for line in [
        "warm-up [default: 0.05, on fewer than 1600 photos in proportion; scenes: 0.03; adam and adamw: 0.001]",
        "pixels [default: 128; scenes: 32]",
        "[default: 0.0001]",
        "pre-activation [default: v1.5] [possible values: v1, v1.5, v2]",
        "image [default: none] [possible values: none, masks, vector, codes]",
        "[default: ImageNet's]",
        "elsewhere [default: auto] [possible values: auto, f32, tf32, bf16]",
        "--no-fuse ",
        "Train the last layer alone\n",
        "Decay of the moving average of the weights, which is then what is evaluated and exported [default: 0.9998]",
    ] {
        assert!(help.contains(line), "no `{line}`:\n{help}");
    }
}

#[test]
fn few_photos_lower_the_learning_rate_unless_one_is_given() {
    let photos = TrainConfig::defaults(Some("photos".into()));
    assert_eq!([400, 1600, 90_000].map(|images| photos.lr_for(images)), [0.0125, 0.05, 0.05]);
    let remark = photos.lr_remark(400).unwrap();
    assert!(
        remark.starts_with("learning rate 0.01250 instead of 0.05") && remark.contains("--lr"),
        "{remark}"
    );
    let explicit = TrainConfig { lr: Some(0.05), ..photos.clone() };
    assert_eq!((explicit.lr_for(400), explicit.lr_remark(400), photos.lr_remark(1600)), (0.05, None, None));
    assert_eq!(TrainConfig::defaults(None).lr_remark(400), None);
}

#[test]
fn flags_override_recipes_in_both_directions() {
    let recipe =
        "freeze = true\nobjects = \"codes\"\nclip_grad = 3\nnesterov = false\ndata_dir = \"photos\"\n";
    let config = given(recipe, "").unwrap();
    assert!(config.freeze && !config.nesterov && config.fuse == Fusion::ALL);
    assert_eq!(
        (config.objects, config.clip_grad, config.img_size),
        (Some(ObjectsKind::Codes), Some(3.0), 128)
    );
    assert!(config.data_dir.unwrap().is_absolute(), "a run is resumed from any folder");
    let flags =
        "--objects none --clip-grad 2 --no-fuse --mean 0.5,0.25,1 --decay-milestones 1,2.5 --model-ema";
    let config = given(recipe, flags).unwrap();
    assert_eq!((config.objects, config.clip_grad, config.fuse), (None, Some(2.0), Fusion::NONE));
    assert_eq!((config.mean, config.decay_milestones), ([0.5, 0.25, 1.0], vec![1.0, 2.5]));
    assert_eq!(config.model_ema_decay, Some(0.9998));
    assert_eq!(given("", "--model-ema --model-ema-decay 0.5").unwrap().model_ema_decay, Some(0.5));
}

#[test]
fn the_type_of_activations_is_read_from_flags_and_recipes_and_written_once_it_is_decided() {
    for (recipe, flags, choice) in [
        ("", "", PrecisionChoice::Auto),
        ("precision = \"auto\"", "", PrecisionChoice::Auto),
        ("precision = \"bf16\"", "", PrecisionChoice::Bf16),
        ("precision = \"tf32\"", "", PrecisionChoice::Tf32),
        ("precision = \"bf16\"", "--precision auto", PrecisionChoice::Auto),
        ("precision = \"auto\"", "--precision f32", PrecisionChoice::F32),
    ] {
        let config = given(recipe, flags).unwrap();
        assert_eq!(config.precision, choice, "{recipe} {flags}");
        for device in [DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Simt] {
            let mut decided = config.clone();
            assert_eq!(decided.decide_precision(device), choice.remark(device));
            let (text, precision) = (toml::to_string(&decided).unwrap(), choice.on(device));
            assert!(text.contains(&format!("precision = \"{precision}\"\n")), "{device:?}:\n{text}");
            assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), decided);
            let step = |config: &TrainConfig| config.step_config(3, device).unwrap().float;
            assert_eq!([step(&config), step(&decided)], [precision.into(); 2], "{device:?}");
        }
    }
}

#[test]
fn files_keep_what_was_written() {
    let config = given("augment = \" rotate=90, flip\"\ndevice = \"cuda\"", "").unwrap();
    let text = toml::to_string(&config).unwrap();
    for line in
        ["augment = \" rotate=90, flip\"\n", "device = \"cuda\"\n", "objects = \"none\"\n", "opt = \"sgd\"\n"]
    {
        assert!(text.contains(line), "no {line}:\n{text}");
    }
    assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), config);
    let of_an_earlier_version = text.replace("smoothing = 0.0\n", "");
    assert_eq!(toml::from_str::<TrainConfig>(&of_an_earlier_version).unwrap(), config);
}

#[test]
fn values_out_of_range_are_named_with_the_range() {
    let config = TrainConfig::defaults(None);
    for (config, expected) in [
        (TrainConfig { lr: Some(-0.1), ..config.clone() }, "lr -0.1: must be at least 0"),
        (TrainConfig { lr: Some(f64::NAN), ..config.clone() }, "lr NaN: must be at least 0"),
        (TrainConfig { warmup_lr: f64::INFINITY, ..config.clone() }, "warmup_lr inf: must be at least 0"),
        (TrainConfig { warmup_epochs: Some(-1.0), ..config.clone() }, "warmup_epochs -1: must be at least 0"),
        (TrainConfig { momentum: 1.0, ..config.clone() }, "momentum 1: must be at least 0 and below 1"),
        (TrainConfig { img_size: 4, ..config.clone() }, "img_size 4: must be from 8 to 1024"),
        (TrainConfig { clip_grad: Some(0.0), ..config.clone() }, "clip_grad 0: must be above 0"),
        (TrainConfig { mean: [f32::NAN, 0.0, 0.0], ..config.clone() }, "mean NaN,0,0: must be a number"),
        (
            TrainConfig { sched: Decay::Step, ..config.clone() },
            "--decay-milestones []: give epochs in rising order",
        ),
        (
            TrainConfig { sched: Decay::Step, decay_milestones: vec![3.0, 2.0], ..config.clone() },
            "--decay-milestones [3.0, 2.0]: give epochs in rising order",
        ),
        (
            TrainConfig { all_reduce: AllReduce::Nccl, grad_wire: GradWire::Bf16, ..config.clone() },
            "--all-reduce nccl with --grad-wire bf16: NCCL would round",
        ),
    ] {
        let error = config.validate().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error} does not say {expected:?}");
    }
    let warmup = TrainConfig { warmup_steps: Some(20), ..config.clone() };
    assert!(warmup.schedule(0.1, 4, 20).unwrap_err().to_string().contains("the warm-up takes 20 steps"));
    config.validate().unwrap();
}

#[test]
fn channels_are_three_numbers() {
    let message = command().try_get_matches_from(["train", "--std", "0.5,0.5"]).unwrap_err().to_string();
    assert!(message.contains("--std") && message.contains("three numbers"), "{message}");
}

#[test]
fn every_thread_of_the_loader_has_a_batch_to_make() {
    for workers in [1, 4, 5, 64] {
        let config = TrainConfig { workers, ..TrainConfig::defaults(None) };
        assert!(config.loader_options(Augment::NONE).prefetch > workers);
    }
}

#[test]
fn ranks_have_equal_parts_of_an_update_however_many_they_are() {
    let parts = |config: &TrainConfig| (config.grad_accum_steps, config.micro_batches);
    let mut config = given("", "--grad-accum-steps 2").unwrap();
    config.split_over(1).unwrap();
    assert_eq!((parts(&config), config.batches_per_update()), ((2, None), 2));
    // Begun on two ranks, it has twice as many.
    config.split_over(2).unwrap();
    assert_eq!(parts(&config), (2, Some(4)));
    let alone = config.records_on_one_rank();
    for (num_ranks, expected) in [(4, (1, Some(4))), (2, (2, Some(4))), (1, (4, None))] {
        let mut resumed = config.clone().keeping_updates();
        resumed.split_over(num_ranks).unwrap();
        assert_eq!((parts(&resumed), resumed.records_on_one_rank()), (expected, alone.clone()));
        // Unless batch norms take the batches of all ranks together.
        let synced = [&config, &resumed].map(|config| TrainConfig { sync_bn: true, ..config.clone() });
        let [before, now] = synced.map(|config| config.records_on_one_rank());
        assert_eq!((&before["sync_bn"][..], before == now), ("of 2 ranks", num_ranks == 2));
    }
    let message = config.clone().keeping_updates().split_over(3).unwrap_err().to_string();
    assert!(message.contains("4 batches") && message.contains("start 1, 2, 4 of them"), "{message}");
    // On several machines of several ranks another order sends less.
    let remarks = [(4, 2), (4, 4), (4, 1)].map(|(ranks, of_node)| config.order_remark(ranks, of_node));
    assert_eq!(remarks.clone().map(|remark| remark.is_some()), [true, false, false], "{remarks:?}");
    let tree = TrainConfig { sum_order: SumOrder::Tree, ..config.clone() };
    assert_eq!(tree.order_remark(4, 2), None);
    for (config, part) in [
        (TrainConfig { micro_batches: Some(6), ..tree.clone() }, "6 are no power of two: take 4 or 8"),
        (TrainConfig { all_reduce: AllReduce::Nccl, ..tree }, "NCCL adds in an order of its own"),
    ] {
        let message = config.clone().split_over(2).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    // A flag says so anew, of each rank or of all.
    assert_eq!(
        parts(&given("grad_accum_steps = 2\nmicro_batches = 4", "--grad-accum-steps 3").unwrap()),
        (3, None)
    );
    assert_eq!(given("", "--micro-batches 6").unwrap().batches_per_update(), 6);
    let recipe = Recipe::parse(Path::new("recipe.toml"), "grad_accum_steps = 3").unwrap();
    assert_eq!(parts(&recipe.apply(&config.keeping_updates()).unwrap()), (3, None));
}
