//! Made-up profiles, and what they sum to.

mod compare;
mod read;
mod shown;

use super::*;

fn gpu() -> Gpu {
    Gpu {
        name: "h100".into(),
        arch: "sm_90a".into(),
        num_sms: 132,
        clock_ghz: 1.65,
        tensor_flops_per_clock: 2_560.0,
        group_flops_per_clock: 4_096.0,
        issue_per_clock: 4.0,
        shared_bytes_per_clock: 128.0,
        l2_gb_per_s: 6_270.0,
        dram_gb_per_s: 2_950.0,
        l2_mib: 50.0,
        latency_clocks: 800.0,
        launch_gap_us: 2.3,
        registers_per_sm: 65_536,
        threads_per_sm: 2_048,
        blocks_per_sm: 32,
        shared_kib_per_sm: 228,
        l1_kib_per_sm: 256,
    }
}

/// A launch of `kernel` that does `gflop` and moves `mb` through the unit that bounds it.
fn launch(node: &str, operation: &str, kernel: &str, bound: Unit, gflop: f64, mb: f64) -> Launch {
    let bytes = (1e6 * mb) as u64;
    let phase =
        match (operation, node.ends_with("wgrad") || node.ends_with("dgrad") || node.ends_with(".bwd")) {
            ("sgd_update", _) => "update",
            (_, true) => "backward",
            _ => "forward",
        };
    let is_conv = operation.starts_with("conv2d");
    let mut unit_seconds = UnitSeconds {
        tensor: 1e9 * gflop / 5.6e14,
        shared: 0.4e-6,
        issue: 1.1e-6,
        l2: mb * 2.0 / 6.27e6,
        dram: mb / 2.95e6,
        latency: 1.5e-6,
    };
    let slowest = unit_seconds.all().iter().fold(0.0, |most: f64, (_, seconds)| most.max(*seconds)) * 1.05;
    match bound {
        Unit::Tensor => unit_seconds.tensor = slowest,
        Unit::Shared => unit_seconds.shared = slowest,
        Unit::Issue => unit_seconds.issue = slowest,
        Unit::L2 => unit_seconds.l2 = slowest,
        Unit::Dram => unit_seconds.dram = slowest,
        Unit::Latency => unit_seconds.latency = slowest,
    }
    let predicted = slowest + 2.3e-6;
    let counts = Counts {
        sampled_blocks: 4,
        tensor_instructions: (1e9 * gflop / 4096.0) as u64,
        global_requests: bytes / 512,
        global_sectors: bytes / 32 + bytes / 320,
        ideal_sectors: bytes / 32,
        l2_bytes: 2 * bytes,
        written_bytes: bytes / 2,
        shared_phases: 1_100,
        ideal_phases: 1_000,
        l1_phases: 0,
        loads_past_l1: 24,
        copy_waits: 3,
        barriers: 12,
    };
    let gpu = GpuLaunch {
        kernel: kernel.into(),
        grid: [(bytes / 65_536).max(1) as u32, 1, 1],
        block_threads: if is_conv { 128 } else { 256 },
        registers: Some(if is_conv { 168 } else { 40 }),
        shared_bytes: if is_conv { 73_728 } else { 1_024 },
        blocks_per_sm: if is_conv { 2 } else { 8 },
        waves: mb / 17.3,
        loop_instructions: is_conv.then_some(379),
        loop_tensor_instructions: is_conv.then_some(128),
        counts,
        round_trips: counts.round_trips(4),
        dram_bytes: bytes,
        unit_seconds,
        bound,
        predicted_seconds: predicted,
    };
    Launch {
        layer: node.into(),
        operation: operation.into(),
        phase: phase.into(),
        flops: (1e9 * gflop) as u64,
        compulsory_bytes: bytes,
        gpu: Some(gpu),
        measured_seconds: None,
        ceiling_seconds: None,
    }
}

/// A later launch of a node, which its flops and bytes were counted at the first launch of.
fn again(launch: Launch) -> Launch {
    Launch { flops: 0, compulsory_bytes: 0, ..launch }
}

fn profile_of(launches: Vec<Launch>, gpu: Option<Gpu>, device: &str) -> Profile {
    let setting = Setting {
        model: "resnet18".into(),
        img_size: 128,
        batch_size: 256,
        precision: "bf16".into(),
        device: device.into(),
    };
    let totals = Totals::of(&launches, setting.batch_size);
    Profile {
        format: FORMAT,
        version: "0.1.0 (abc1234)".into(),
        setting,
        gpu,
        totals,
        exchange: None,
        ceilings: None,
        launches,
    }
}

/// A step with `blocks` residual blocks between its stem and its head, predicted and not measured.
fn predicted(blocks: usize) -> Profile {
    let conv = |node: &str, pass: &str, bound, mb| {
        let (operation, node) = (format!("conv2d_{pass}"), node.to_string());
        let node = if pass == "fprop" { node } else { format!("{node}.{pass}") };
        let tile = if mb > 60.0 { "tile128x64" } else { "tile64x64" };
        launch(&node, &operation, &format!("{operation}_{tile}_bf16"), bound, 9.7, mb)
    };
    let mut launches = vec![
        launch("images", "augment", "augment_bf16", Unit::Dram, 0.1, 38.0),
        launch("conv1.weight.blocks", "stem_filter_fwd", "stem_filter_fwd_bf16", Unit::Latency, 0.0, 0.02),
        launch("conv1.blocks", "space_to_depth", "space_to_depth_bf16", Unit::Issue, 0.0, 52.0),
        conv("conv1", "fprop", Unit::Shared, 160.0),
    ];
    let blocks =
        (0..blocks).map(|block| (format!("layer{}.{}", 1 + block / 2, block % 2), 67.0 / (1 + block) as f64));
    let blocks: Vec<(String, f64)> = blocks.collect();
    for (block, mb) in &blocks {
        launches.push(conv(&format!("{block}.conv1"), "fprop", Unit::L2, *mb));
        let norm =
            |kernel, bound, mb| launch(&format!("{block}.bn1"), "batch_norm_fwd", kernel, bound, 0.05, mb);
        launches.push(norm("batch_norm_partials_bf16", Unit::Dram, mb / 2.0));
        launches.push(again(norm("batch_norm_finalize", Unit::Latency, 0.01)));
        launches.push(again(norm("batch_norm_fwd_bf16", Unit::Dram, *mb)));
    }
    launches.push(launch("maxpool", "max_pool_fwd", "max_pool_fwd_3x3_bf16", Unit::Issue, 0.1, 80.0));
    for (block, mb) in blocks.iter().rev() {
        launches.push(conv(&format!("{block}.conv1"), "wgrad", Unit::Tensor, *mb));
        launches.push(conv(&format!("{block}.conv1"), "dgrad", Unit::L2, *mb));
    }
    launches.push(conv("conv1", "wgrad", Unit::L2, 160.0));
    launches.push(launch("sgd", "sgd_update", "sgd_update", Unit::Dram, 0.02, 134.0));
    profile_of(launches, Some(gpu()), "none")
}

/// [`predicted`], with times measured on a GPU.
fn measured(blocks: usize) -> Profile {
    let mut launches = predicted(blocks).launches;
    for (index, launch) in launches.iter_mut().enumerate() {
        let predicted = launch.gpu.as_ref().unwrap().predicted_seconds;
        launch.measured_seconds = Some(predicted * (0.9 + 0.05 * (index % 8) as f64));
    }
    let ceilings = Ceilings { flops_per_second: 7e14, bytes_per_second: 3e12 };
    ceilings.hold(&mut launches);
    Profile { ceilings: Some(ceilings), ..profile_of(launches, Some(gpu()), "cuda:0 (NVIDIA H200)") }
}

/// A step on a CPU, where a node is one operation and nothing is counted.
fn on_cpu() -> Profile {
    let node = |node: &str, operation: &str, ms: f64, gflop: f64| Launch {
        gpu: None,
        measured_seconds: Some(1e-3 * ms),
        ..launch(node, operation, "", Unit::Dram, gflop, 2.0)
    };
    let mut launches = vec![
        node("conv1", "conv2d_fprop", 30.0, 3.0),
        node("bn1", "batch_norm_fwd", 5.0, 0.01),
        node("conv1.wgrad", "conv2d_wgrad", 60.0, 3.0),
        node("sgd", "sgd_update", 5.0, 0.0),
    ];
    let ceilings = Ceilings { flops_per_second: 2e11, bytes_per_second: 2e10 };
    ceilings.hold(&mut launches);
    Profile { ceilings: Some(ceilings), ..profile_of(launches, None, "cpu (2 threads)") }
}

fn gpu_of(launch: &mut Launch) -> &mut GpuLaunch {
    launch.gpu.as_mut().unwrap()
}

/// `profile` after `change`, with the totals of its launches.
fn changed(profile: &Profile, change: impl FnOnce(&mut Vec<Launch>)) -> Profile {
    let mut launches = profile.launches.clone();
    change(&mut launches);
    let totals = Totals::of(&launches, profile.setting.batch_size);
    Profile { launches, totals, ..profile.clone() }
}

#[test]
fn sums_by_operation_come_slowest_first_and_add_up_to_the_step() {
    for profile in [predicted(3), measured(3), on_cpu()] {
        for sums in [profile.by_operation(), profile.by_kernel(), profile.by_layer(), profile.by_node()] {
            let of = |count: fn(&Sum) -> u64| sums.iter().map(count).sum::<u64>();
            assert_eq!(of(|sum| sum.launches as u64), profile.totals.launches as u64);
            assert_eq!(of(|sum| sum.flops), profile.totals.flops);
            assert_eq!(of(|sum| sum.l2_bytes), profile.totals.l2_bytes);
            assert_eq!(of(|sum| sum.dram_bytes), profile.totals.dram_bytes);
            assert_eq!(of(|sum| sum.bank_conflicts), profile.totals.bank_conflicts);
            let share: f64 = sums.iter().map(|sum| sum.share).sum();
            assert!((share - 1.0).abs() < 1e-9, "{share}");
        }
        assert!(profile.by_operation().is_sorted_by(|a, b| a.share >= b.share));
    }
    let norm = predicted(3).by_operation().into_iter().find(|sum| sum.name == "batch_norm_fwd").unwrap();
    assert_eq!((norm.launches, norm.bound(), norm.measured_seconds), (9, Unit::Dram, None));
    let bound: f64 = norm.bound_seconds.iter().map(|(_, seconds)| seconds).sum();
    assert!((bound - norm.predicted_seconds).abs() < 1e-12);
}

#[test]
fn a_layer_is_a_node_with_its_gradients_and_what_prepares_its_operands() {
    let names: Vec<String> = predicted(1).by_layer().into_iter().map(|sum| sum.name).collect();
    assert_eq!(names, ["images", "conv1", "layer1.0.conv1", "layer1.0.bn1", "maxpool", "sgd"]);
    let profile = predicted(1);
    let stem = &profile.by_layer()[1];
    assert_eq!(stem.launches, 4, "filter, blocks, fprop and wgrad");
    assert_eq!(profile.layers().of("layer1.0.conv1.wgrad"), "layer1.0.conv1");
    assert_eq!(profile.layers().of("conv10.wgrad"), "conv10.wgrad");
}

#[test]
fn a_kernel_family_is_the_symbol_without_its_variant() {
    for (kernel, family) in [
        ("conv2d_fprop_tile64x64_bf16", "conv2d_fprop"),
        ("conv2d_wgrad_split_sum", "conv2d_wgrad_split_sum"),
        ("batch_norm_partials_f32", "batch_norm_partials"),
        ("max_pool_bwd_3x3_bf16", "max_pool_bwd"),
        ("cast_f32_to_bf16", "cast"),
        ("sgd_update", "sgd_update"),
        ("", ""),
    ] {
        let launch = launch("a", "b", kernel, Unit::Dram, 0.0, 1.0);
        assert_eq!(launch.kernel_family(), family);
    }
    assert_eq!(on_cpu().launches[0].kernel_family(), "conv2d_fprop");
}

#[test]
fn numbers_have_as_many_digits_as_say_something() {
    let shown = [0, 33_554_432, 320_000_000, 999_960_000, 38_251_450_000].map(words::mb);
    assert_eq!(shown, ["0.00", "33.55", "320.0", "1,000", "38,251"]);
    assert_eq!([0, 999_999, 296_298_672].map(words::count), ["0", "999,999", "296.3 M"]);
    assert_eq!([[1, 1, 1], [64, 36, 1], [4, 1, 2]].map(words::grid), ["1", "64x36", "4x1x2"]);
    assert_eq!([words::ratio(1.0, 4.0), words::ratio(1.0, 0.0)], ["0.25", "–"]);
    assert_eq!(words::list(&["a", "b", "c"], 2), "a, b and 1 more");
    assert_eq!(words::list(&["a", "b"], 2), "a, b");
}

#[test]
fn a_step_is_measured_if_every_launch_is() {
    assert_eq!(predicted(1).totals.measured_seconds, None);
    let whole = measured(1);
    let sum: f64 = whole.launches.iter().map(|launch| launch.measured_seconds.unwrap()).sum();
    assert_eq!(whole.totals.measured_seconds, Some(sum));
    let part = changed(&whole, |launches| launches[2].measured_seconds = None);
    assert_eq!(part.totals.measured_seconds, None);
    assert_eq!(part.seconds(), part.totals.predicted_seconds);
    assert_eq!(Totals::of(&[], 1), Totals::default());
}
