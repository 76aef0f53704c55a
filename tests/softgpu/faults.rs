//! Every driver call that a run makes, failing at its first, a middle and its last time.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use residuum::run::state;

use crate::gpu::software_gpu;
use crate::program::{Program, texts};

const RUN: &str = "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 2 --limit-train 4 --limit-val 2 \
                   --lr 0.001 --epochs 1 --log-interval 1 --recovery-interval 1 --device cuda --precision bf16";

/// A run takes seconds; what takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// Exit codes of a run that fails: the driver's word in general, no usable device, out of memory, a GPU that failed.
const CODES: [i32; 4] = [1, 3, 6, 8];

/// The error that is likely for a call, by its number in the driver; `!` makes it stay.
fn error_of(call: &str) -> &'static str {
    match call {
        _ if call.contains("Alloc") || call.contains("Module") || call.contains("Instantiate") => "2",
        "cuLaunchKernelEx" | "cuGraphLaunch" => "719!",
        _ if call.contains("Synchronize") || call.contains("Memcpy") || call.contains("Query") => "700!",
        _ => "999",
    }
}

/// What `child` prints by its end; none after [`PATIENCE`].
fn output_in_time(mut child: Child) -> Option<Output> {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Some(child.wait_with_output().unwrap())
}

#[test]
fn a_driver_call_that_fails_ends_a_run_in_words_and_keeps_its_checkpoint() {
    let Some(gpu) = software_gpu() else { return };
    let whole = Program::with_scenes();
    let (output, record) = gpu.output(&mut whole.command(RUN), &[]);
    assert!(output.status.success(), "{}", texts(&output).1);
    let calls: BTreeMap<String, u64> = record.clean_report().calls;
    let expected = whole.checkpoint_bytes(&whole.only_run("runs"), "last.safetensors");

    let mut faults: Vec<(String, u64)> = Vec::new();
    for (call, &count) in &calls {
        let mut times = vec![1, count.div_ceil(2), count];
        times.dedup();
        faults.extend(times.into_iter().map(|time| (call.clone(), time)));
    }
    let outcomes: Vec<Result<Option<i32>, String>> = faults
        .par_iter()
        .map(|(call, time)| {
            let fault = format!("{call}:{time}:{}", error_of(call));
            let program = Program::with_scenes();
            let mut command = program.command(RUN);
            let record = gpu.attach(&mut command, &[("SOFTGPU_FAIL", &fault)]);
            let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let output = output_in_time(child).ok_or_else(|| format!("{fault}: hangs"))?;
            let (code, stderr) = (output.status.code(), texts(&output).1);
            let told =
                |what: &str| Err(format!("{fault}: {what}, exit code {code:?}:\n{stderr}{}", record.log()));
            if !record.log().contains("injected") {
                return told("the call was not made");
            }
            let runs = program.path("runs");
            let run = runs.is_dir().then(|| program.only_run("runs"));
            let last = run.as_ref().map(|run| program.checkpoint(run, "last.state.safetensors"));
            if let Some(error) = last.filter(|last| last.exists()).and_then(|last| state::load(&last).err()) {
                return told(&format!("the checkpoint is lost ({error})"));
            }
            match code {
                Some(0) => {
                    let weights = program.checkpoint_bytes(&run.unwrap(), "last.safetensors");
                    if weights == expected {
                        Ok(None)
                    } else {
                        told("a run that says nothing has other weights")
                    }
                }
                Some(code) if CODES.contains(&code) && stderr.contains("error: ") => Ok(Some(code)),
                _ => told("ends without words"),
            }
        })
        .collect();
    let failures: Vec<String> = outcomes.iter().filter_map(|outcome| outcome.clone().err()).collect();
    assert!(failures.is_empty(), "{} of {} faults:\n{}", failures.len(), faults.len(), failures.join("\n"));
    let told = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Some(_)))).count();
    writeln!(
        std::io::stderr(),
        "software GPU: {} failing calls of {} entry points: {told} ended the run in words, {} changed nothing",
        faults.len(),
        calls.len(),
        faults.len() - told
    )
    .unwrap();
}

#[test]
fn a_gpu_that_fails_in_the_middle_of_a_run_says_where_to_go_on() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    let call = RUN.replace("--limit-train 4", "--limit-train 12");
    let fault = [("SOFTGPU_FAIL", "cuGraphLaunch:5:719!")];
    let (output, _) = gpu.output(&mut program.command(&call), &fault);
    let run = program.only_run("runs");
    let resume = format!("train --resume {}", run.display());
    crate::program::failed(&output, &call, 8, &["the GPU failed", "compute-sanitizer", &resume]);
    let events = program.records(&run).events;
    assert!(events.iter().any(|event| event.event == "device failed"), "{events:?}");
    let page = std::fs::read_to_string(program.path(&run).join("report.html")).unwrap();
    assert!(page.contains("stopped by a failure of the GPU"));

    let (output, record) = gpu.output(&mut program.command(&resume), &[]);
    assert!(output.status.success(), "{}", texts(&output).1);
    record.clean_report();
    let whole = Program::with_scenes();
    gpu.output(&mut whole.command(&call), &[]);
    let weights = |program: &Program| program.checkpoint_bytes(&program.only_run("runs"), "last.safetensors");
    assert!(weights(&program) == weights(&whole), "the resumed run ends in other bits");
}
