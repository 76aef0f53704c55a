//! A profile on a terminal, on a page and as a trace.

use serde_json::Value;

use super::*;

/// A step whose numbers are long.
fn large() -> Profile {
    changed(&measured(8), |launches| {
        for launch in launches {
            launch.measured_seconds = Some(0.0123);
            launch.compulsory_bytes *= 70;
            let gpu = gpu_of(launch);
            gpu.kernel = gpu.kernel.replace("tile64x64", "tile128x128");
            gpu.grid = [4096, 36, 4];
            gpu.waves *= 70.0;
            gpu.dram_bytes *= 70;
            gpu.counts.l2_bytes *= 70;
            gpu.counts.shared_phases += 12_345_678;
            gpu.predicted_seconds *= 70.0;
        }
    })
}

#[test]
fn the_text_fits_a_terminal_and_says_what_is_counted_and_what_modelled() {
    for profile in [predicted(8), measured(8), on_cpu(), large()] {
        let text = profile.text(20);
        let longest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
        assert!(longest.chars().count() <= 120, "{} columns: {longest}", longest.chars().count());
    }
    let text = predicted(8).text(20);
    for part in [
        "resnet18, 128 x 128 pixels, 256 images a step, bf16; predicted for h100\n",
        "\nh100: sm_90a, 132 multiprocessors (SM) at 1.65 GHz",
        "\nCounted: products on the tensor cores",
        "\nModelled: ",
        "\nthe slowest 20 of 55 launches\n",
        "conv2d_fprop_tile128x64_bf16",
        "\na step: 55 launches, ",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("measured"), "{text}");
    let text = measured(1).text(1_000);
    for part in [
        "measured on cuda:0 (NVIDIA H200)",
        "all 13 launches",
        "measured       over       of\n",
        "), measured 0.379 ms",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn what_was_not_counted_is_a_dash() {
    let profile = changed(&predicted(1), |launches| {
        launches.iter_mut().map(gpu_of).for_each(|gpu| {
            gpu.registers = None;
            gpu.loop_instructions = None;
        });
    });
    let text = profile.text(1);
    let demands = text.lines().find(|line| line.trim_start().starts_with("1  2441 ")).expect(&text);
    assert_eq!(demands.matches('–').count(), 3, "{demands}");
}

#[test]
fn on_a_cpu_operations_have_times_and_rates() {
    let text = on_cpu().text(2);
    for part in [
        "256 images a step, bf16; measured on cpu (2 threads)\n",
        "Ceilings, measured beside the step: 0.20 TFLOP/s in a 3x3 convolution, 20.0 GB/s",
        // 3 GFLOP in 60 ms, 2 MB in 60 ms, of 15 ms at the ceiling and of 100 ms of the step.
        "conv2d_wgrad        1  60.000     50.0   0.0      25.0 %  60.0 %",
        "\nthe slowest 2 of 4 nodes\n",
        "a step: 4 operations, 6.0 GFLOP, measured 100.000 ms (2,560 images/s)\n",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("predicted"), "{text}");
}

#[test]
fn the_page_has_tiles_bars_roofs_and_tables() {
    let html = measured(2).html();
    for part in [
        "<h1>A training step of resnet18</h1>",
        "<dt>Images/s, predicted</dt>",
        "<dt>Images/s, measured</dt>",
        "<dt>Bank conflicts</dt><dd>1,900</dd>",
        "bound by tensor</span>",
        "<span class=\"label\">conv2d_fprop</span>",
        "<h2>Rooflines</h2>",
        "TFLOP/s over flops a byte, DRAM",
        "TFLOP/s over flops a byte, L2",
        "892 TFLOP/s, 2950 GB/s",
        "layer1.0.bn1: ",
        "all 8 layers",
        "what all 19 launches ask for",
        "<th scope=\"col\" class=\"num\">Of ceiling</th>",
        "Ceilings, measured beside the step: 700.00 TFLOP/s",
        "<dt>Gap between launches</dt><dd>2.3 us</dd>",
        "Modelled: ",
    ] {
        assert!(html.contains(part), "{part} is not in {html}");
    }
    let rings = html.matches("<circle class=\"ring\"").count();
    assert!(rings > 0 && !predicted(2).html().contains("<circle class=\"ring\""));
    let html = on_cpu().html();
    assert!(
        html.contains("<dt>Images/s, measured</dt><dd>2,560</dd>") && !html.contains("Rooflines"),
        "{html}"
    );
}

#[test]
fn names_are_text_on_the_page_and_no_commands_of_a_terminal() {
    let hostile = "<script>\x1b[2J";
    let profile = changed(&predicted(1), |launches| {
        launches[0].layer = hostile.into();
        launches[0].operation = hostile.into();
        gpu_of(&mut launches[0]).kernel = hostile.into();
    });
    assert!(!profile.html().contains("<script"));
    let compared = Comparison::of(&predicted(1), &profile).unwrap().to_string();
    for text in [profile.text(100), compared] {
        assert!(text.contains("<script>\\u{1b}[2J") && !text.contains('\x1b'), "{text}");
    }
}

#[test]
fn a_trace_has_a_track_of_predicted_and_one_of_measured_times() {
    let profile = measured(2);
    let trace: Value = serde_json::from_str(&profile.trace()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let track = |thread: u64| -> Vec<&Value> {
        events.iter().filter(|event| event["ph"] == "X" && event["tid"] == thread).collect()
    };
    for (thread, seconds) in
        [(1, profile.totals.predicted_seconds), (2, profile.totals.measured_seconds.unwrap())]
    {
        let track = track(thread);
        assert_eq!(track.len(), profile.launches.len());
        let mut end_us = 0.0;
        for event in &track {
            assert!((event["ts"].as_f64().unwrap() - end_us).abs() < 1e-6, "{event}");
            end_us += event["dur"].as_f64().unwrap();
        }
        assert!((end_us - 1e6 * seconds).abs() < 1e-6);
    }
    let first = track(1)[3];
    assert_eq!(first["name"], "conv1 conv2d_fprop_tile128x64_bf16");
    assert_eq!(first["args"]["l2_bytes"], 320_000_000);
    assert_eq!(first["args"]["bound"], "shared");
    let names = |trace: &str| -> Vec<String> {
        let trace: Value = serde_json::from_str(trace).unwrap();
        let events = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "M");
        events.map(|event| event["args"]["name"].as_str().unwrap().to_string()).collect()
    };
    let subject = profile.subject();
    assert_eq!(names(&profile.trace()), [&subject, "predicted for h100", "measured on cuda:0 (NVIDIA H200)"]);
    assert_eq!(names(&predicted(1).trace()), [&subject, "predicted for h100"]);
    assert_eq!(names(&on_cpu().trace()), [&on_cpu().subject(), "measured on cpu (2 threads)"]);
}
