//! Two profiles side by side.

use super::*;

/// What is done to a launch.
type Edit = fn(&mut GpuLaunch);

fn compared(old: &Profile, new: &Profile) -> Comparison {
    Comparison::of(old, new).unwrap()
}

/// What changes with a launch of `batch_norm_fwd`, which begins with 40 registers and a loop of 60 instructions.
fn after(change: Edit) -> (Comparison, Vec<Measure>) {
    let old = changed(&predicted(1), |launches| gpu_of(&mut launches[7]).loop_instructions = Some(60));
    let new = changed(&old, |launches| change(gpu_of(&mut launches[7])));
    let comparison = compared(&old, &new);
    for change in &comparison.launches {
        let which = change.launch.as_ref().unwrap();
        assert_eq!((which.node.as_str(), which.kernel.as_str()), ("layer1.0.bn1", "batch_norm_fwd_bf16"));
    }
    let measures = comparison.launches.iter().map(|change| change.measure).collect();
    (comparison, measures)
}

#[test]
fn equal_profiles_differ_in_nothing() {
    for profile in [predicted(3), measured(3), on_cpu()] {
        let comparison = compared(&profile, &profile);
        assert!(!comparison.worse() && comparison.launches.is_empty());
        assert!(comparison.totals.iter().all(|change| !change.is_worse() && !change.is_better()));
        let text = comparison.to_string();
        assert!(!text.contains("worse") && !text.contains("better") && !text.contains("gone"), "{text}");
    }
}

#[test]
fn one_more_of_whatever_a_gate_guards_is_worse_and_one_less_is_better() {
    let cases: [(Measure, Edit, Edit); 6] = [
        (Measure::DramBytes, |gpu| gpu.dram_bytes += 1, |gpu| gpu.dram_bytes -= 1),
        (Measure::L2Bytes, |gpu| gpu.counts.l2_bytes += 1, |gpu| gpu.counts.l2_bytes -= 1),
        (Measure::BankConflicts, |gpu| gpu.counts.shared_phases += 1, |gpu| gpu.counts.shared_phases -= 1),
        (Measure::Sectors, |gpu| gpu.counts.global_sectors += 1, |gpu| gpu.counts.global_sectors -= 1),
        (Measure::Registers, |gpu| gpu.registers = Some(41), |gpu| gpu.registers = Some(39)),
        (
            Measure::LoopInstructions,
            |gpu| gpu.loop_instructions = Some(61),
            |gpu| gpu.loop_instructions = Some(59),
        ),
    ];
    for (measure, more, less) in cases {
        let (worse, measures) = after(more);
        assert_eq!((measures, worse.worse()), (vec![measure], true));
        assert!(worse.to_string().contains("launches that got worse\n"), "{worse}");
        let (better, measures) = after(less);
        assert_eq!((measures, better.worse()), (vec![measure], false));
        assert!(better.to_string().contains("launches that got better\n"), "{better}");
    }
}

#[test]
fn wider_requests_with_as_many_sectors_as_they_need_are_no_worse() {
    let (comparison, measures) = after(|gpu| gpu.counts.global_requests /= 4);
    assert!(measures.is_empty() && !comparison.worse());
}

#[test]
fn predicted_seconds_are_told_beyond_rounding_and_guard_nothing() {
    assert_eq!(after(|gpu| gpu.predicted_seconds *= 1.004).1, []);
    let (slower, measures) = after(|gpu| gpu.predicted_seconds *= 1.5);
    assert_eq!((measures, slower.worse()), (vec![Measure::PredictedSeconds], false));
    assert!(
        slower.totals.iter().any(|change| change.measure == Measure::PredictedSeconds && change.is_worse())
    );
}

#[test]
fn launches_that_are_new_or_gone_are_named() {
    let old = predicted(1);
    let partials = old.launches[5].clone();
    assert_eq!(gpu_of(&mut partials.clone()).kernel, "batch_norm_partials_bf16");
    let fewer = changed(&old, |launches| drop(launches.remove(5)));
    let saved = compared(&old, &fewer);
    assert_eq!((&saved.gone, &saved.added), (&vec![Which::of(&partials)], &vec![]));
    assert!(!saved.worse());
    let line = "\nlaunches gone\n  batch_norm_partials_bf16: layer1.0.bn1\n";
    assert!(saved.to_string().contains(line), "{saved}");
    let lost = compared(&fewer, &old);
    assert_eq!((&lost.gone, &lost.added), (&vec![], &vec![Which::of(&partials)]));
    assert!(lost.worse());
    let line = "\nnew launches\n  batch_norm_partials_bf16: layer1.0.bn1\n";
    assert!(lost.to_string().contains(line), "{lost}");
    // Of three launches alike the last two are gone.
    let thrice = changed(&old, |launches| launches.extend([partials.clone(), partials.clone()]));
    assert_eq!(compared(&thrice, &old).gone, [Which::of(&partials), Which::of(&partials)]);
}

#[test]
fn another_variant_of_a_kernel_is_the_same_launch() {
    let old = predicted(2);
    let new = changed(&old, |launches| {
        let gpu = gpu_of(&mut launches[4]);
        gpu.kernel = "conv2d_fprop_tile256x64_bf16".into();
        gpu.registers = Some(200);
    });
    let comparison = compared(&old, &new);
    let measures: Vec<Measure> = comparison.launches.iter().map(|change| change.measure).collect();
    assert_eq!(measures, [Measure::Registers]);
    assert!(comparison.gone.is_empty() && comparison.added.is_empty());
    let text = comparison.to_string();
    let variants = "  conv2d_fprop_tile128x64_bf16 -> conv2d_fprop_tile256x64_bf16: layer1.0.conv1\n";
    assert!(text.contains(variants), "{text}");
}

#[test]
fn launches_that_changed_alike_share_a_row_and_long_tables_end() {
    let old = predicted(40);
    let more_registers = changed(&old, |launches| {
        for launch in launches.iter_mut().filter(|launch| launch.operation == "batch_norm_fwd") {
            gpu_of(launch).registers = Some(64);
        }
    });
    let text = compared(&old, &more_registers).to_string();
    let row = text.lines().find(|line| line.contains("batch_norm_fwd_bf16")).expect(&text);
    assert!(row.contains("layer1.0.bn1 and 39 more"), "{row}");
    let all_different = changed(&old, |launches| {
        launches
            .iter_mut()
            .map(gpu_of)
            .enumerate()
            .for_each(|(index, gpu)| gpu.dram_bytes += 1 + index as u64);
    });
    let text = compared(&old, &all_different).to_string();
    assert!(text.lines().count() < 40 && text.contains(" more of DRAM bytes\n"), "{text}");
}

#[test]
fn what_one_side_does_not_know_is_told_and_not_compared() {
    let old = changed(&predicted(1), |launches| {
        launches.iter_mut().for_each(|launch| gpu_of(launch).registers = None);
    });
    for (old, new, side) in [(&old, &predicted(1), "old"), (&predicted(1), &old, "new")] {
        let comparison = compared(old, new);
        assert!(!comparison.worse() && comparison.launches.is_empty());
        let sentence = format!("registers: the {side} profile has none, as no assembler was there");
        assert!(comparison.to_string().contains(&sentence), "{comparison}");
    }
    let in_part = changed(&predicted(1), |launches| gpu_of(&mut launches[0]).registers = None);
    let comparison = compared(&predicted(1), &in_part);
    assert!(!comparison.worse() && comparison.launches.is_empty());
    let sentence = "registers: one profile alone has them of 1 launch";
    assert!(comparison.to_string().contains(sentence), "{comparison}");
    let comparison = compared(&measured(1), &predicted(1));
    assert!(comparison.to_string().contains("measured times: the new profile has none"), "{comparison}");
    let mut elsewhere = measured(1);
    elsewhere.setting.device = "cuda:0 (NVIDIA A100)".into();
    let comparison = compared(&measured(1), &elsewhere);
    let sentence = "measured times: they are of cuda:0 (NVIDIA H200), and now of cuda:0 (NVIDIA A100)";
    assert!(comparison.to_string().contains(sentence), "{comparison}");
}

#[test]
fn measured_steps_of_one_device_are_compared_and_guard_nothing() {
    let slower = changed(&on_cpu(), |launches| launches[0].measured_seconds = Some(0.06));
    let comparison = compared(&on_cpu(), &slower);
    assert!(!comparison.worse() && comparison.to_string().contains("measured us"), "{comparison}");
    assert!(
        comparison
            .totals
            .iter()
            .any(|change| change.measure == Measure::MeasuredSeconds && change.is_worse())
    );
}

#[test]
fn profiles_of_different_settings_or_gpus_are_refused() {
    let old = predicted(1);
    let mut smaller = old.clone();
    smaller.setting.batch_size = 64;
    let mut other_gpu = old.clone();
    other_gpu.gpu.as_mut().unwrap().name = "a100".into();
    let mut faster = old.clone();
    faster.gpu.as_mut().unwrap().dram_gb_per_s = 3_000.0;
    for (new, parts) in [
        (smaller, ["256 images a step, bf16 for h100", "64 images a step, bf16 for h100"]),
        (other_gpu, ["for h100", "for a100"]),
        (faster, ["different constants: DRAM 2950 GB/s, and now 3000 GB/s", "profile the old program again"]),
        (on_cpu(), ["256 images a step, bf16 for h100", "256 images a step, bf16; profile"]),
    ] {
        let error = Comparison::of(&old, &new).unwrap_err();
        for part in parts {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }
        assert_eq!(error.exit_code(), 2);
    }
}
