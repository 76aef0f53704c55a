//! One run over several GPUs: ranks that `launch` starts and NCCL joins, here its double in `nccl/`, which has the memories of the
//! software GPUs of all processes to move bytes between.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use residuum::run::{metrics, state};
use serde_json::Value;

use crate::gpu::{Record, SoftGpu, software_gpu};
use crate::left_by_run::LeftByRun;
use crate::program::{Program, failed, signal, texts};
use crate::rank_processes::{all_end, rank_processes, send};

/// 2 updates of 4 batches, on as many ranks as divide 4.
const RUN: &str = "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 2 --limit-train 16 --limit-val 6 --epochs 1 \
                   --lr 0.001 --log-interval 1 --micro-batches 4 --grad-wire bf16 --precision bf16 --device cuda --augment flip,mixup \
                   --clip-grad 1 --model-ema --model-ema-decay 0.9";
/// Batches of all ranks in it.
const RUN_BATCHES: usize = 8;
/// 6 epochs of an update, long enough to be stopped.
const LONG_RUN: &str = "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 2 --limit-train 4 --limit-val 2 --epochs 6 \
                        --lr 0.001 --log-interval 1 --micro-batches 2 --device cuda";
/// In which all ranks have to be gone after one is.
const SOON: Duration = Duration::from_secs(120);

/// `call` on so many software GPUs, joined by the double with these of its variables, and what they leave behind.
fn launch(
    gpu: &SoftGpu,
    program: &Program,
    num_ranks: usize,
    call: &str,
    fault: Option<&str>,
) -> (Command, Record) {
    launch_with(gpu, program, &format!("-n {num_ranks}"), call, fault)
}

/// [`launch`] with these flags of the launcher.
fn launch_with(
    gpu: &SoftGpu,
    program: &Program,
    flags: &str,
    call: &str,
    fault: Option<&str>,
) -> (Command, Record) {
    let mut command = program.command(&format!("launch {flags} -- {call}"));
    let record = gpu.attach(&mut command, &[("SOFTGPU_DEVICES", "4")]);
    command.env("RESIDUUM_NCCL", gpu.nccl()).envs(fault.map(|fault| ("NCCL_DOUBLE_FAIL", fault)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    (command, record)
}

/// Runs `call` to a successful end; what the double of NCCL counted at each rank.
#[track_caller]
fn succeeds(gpu: &SoftGpu, program: &Program, num_ranks: usize, call: &str) -> Vec<Value> {
    let (mut command, record) = launch(gpu, program, num_ranks, call, None);
    let counts = program.path("counts");
    let output = command.env("NCCL_DOUBLE_REPORT", &counts).output().unwrap();
    let (_, stderr) = texts(&output);
    assert!(output.status.success(), "{num_ranks} ranks of `{call}`:\n{stderr}{}", record.log());
    record.assert_clean();
    assert_eq!(record.reports().len(), num_ranks, "each rank had a GPU");
    fs::read_to_string(counts).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn left_by(program: &Program) -> LeftByRun {
    LeftByRun::of(&program.path(program.only_run("runs")))
}

/// What `call` leaves on one GPU.
fn left_alone(gpu: &SoftGpu, call: &str) -> LeftByRun {
    let alone = Program::with_scenes();
    let (output, record) = gpu.output(&mut alone.command(call), &[]);
    assert!(output.status.success(), "{}{}", texts(&output).1, record.log());
    left_by(&alone)
}

#[test]
fn ranks_on_gpus_leave_what_one_gpu_leaves() {
    let Some(gpu) = software_gpu() else { return };
    let expected = left_alone(gpu, RUN);
    for num_ranks in [2, 4] {
        let program = Program::with_scenes();
        let counts = succeeds(gpu, &program, num_ranks, RUN);
        assert_eq!(counts.len(), num_ranks);
        for of_rank in counts {
            // To each rank after each of its batches: through memory of the host it would be in many parts.
            assert_eq!(of_rank["calls"]["ncclSend"], RUN_BATCHES, "{of_rank}");
            assert_eq!(of_rank["destroyed"], true, "a rank parts from the others: {of_rank}");
        }
        expected.assert_same(&left_by(&program), &format!("{num_ranks} ranks"));
        let log = program.path(program.only_run("runs").join("metrics.jsonl"));
        for line in metrics::read(&log).unwrap().steps {
            assert!(line.exchange_ms > Some(0.0), "the time of exchanges in {line:?}");
        }
    }
}

/// Two launchers are two machines here. Each adds up what its ranks have, bucket by bucket while the backward pass goes on, and sends
/// the other the sums.
#[test]
fn machines_leave_what_one_gpu_leaves() {
    let Some(gpu) = software_gpu() else { return };
    let call = format!("{RUN} --sum-order tree --bucket-mb 1");
    let expected = left_alone(gpu, &call);
    let program = Program::with_scenes();
    let counts = program.path("counts");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let machines = [0, 1].map(|machine| {
        let place = format!("--node-rank {machine} --master-addr 127.0.0.1 --master-port {port}");
        let (mut command, record) =
            launch_with(gpu, &program, &format!("-n 2 --nnodes 2 {place}"), &call, None);
        // A launch that does not wait for an exchange comes before it on one machine, an exchange that does not wait on the other.
        command.env("SOFTGPU_OTHERS_FIRST", machine.to_string());
        (command.env("NCCL_DOUBLE_REPORT", &counts).spawn().unwrap(), record)
    });
    for (machine, record) in machines {
        let output = machine.wait_with_output().unwrap();
        assert!(output.status.success(), "{}{}", texts(&output).1, record.log());
        record.assert_clean();
    }
    let counts = fs::read_to_string(counts).unwrap();
    let counts: Vec<Value> = counts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(counts.len(), 4);
    for of_rank in counts {
        // In each batch and each update to the two of the machine and the two of the same place, for each bucket.
        let num_sends = of_rank["calls"]["ncclSend"].as_u64().unwrap();
        assert!(num_sends > 16 && num_sends % 16 == 0, "{of_rank}");
    }
    expected.assert_same(&left_by(&program), "two machines");
}

/// A sum of two numbers is the same in either order, and so are the bits here; those of more ranks are NCCL's affair.
#[test]
fn nccl_adds_up_gradients_where_it_is_asked_to() {
    let Some(gpu) = software_gpu() else { return };
    let call = RUN.replace("--micro-batches 4 --grad-wire bf16", "--micro-batches 2 --all-reduce nccl");
    assert_ne!(call, RUN);
    let expected = left_alone(gpu, &call);
    let program = Program::with_scenes();
    for of_rank in succeeds(gpu, &program, 2, &call) {
        assert_eq!(of_rank["calls"]["ncclAllReduce"], RUN_BATCHES / 2, "one an update: {of_rank}");
        assert_eq!(of_rank["calls"]["ncclSend"], Value::Null, "{of_rank}");
    }
    expected.assert_same(&left_by(&program), "two ranks");
}

/// Two ranks whose batch norms take the statistics of both batches train as one does with batches of both's images.
#[test]
fn synchronised_batch_norms_are_those_of_one_batch() {
    let Some(gpu) = software_gpu() else { return };
    let in_f32 = RUN.replace("--grad-wire bf16 --precision bf16", "--precision f32").replace(",mixup", "");
    let losses = |program: &Program| -> Vec<f64> {
        let log = program.path(program.only_run("runs").join("metrics.jsonl"));
        metrics::read(&log).unwrap().steps.iter().map(|step| step.loss).collect()
    };
    let on_two = |call: &str| {
        let program = Program::with_scenes();
        let counts = succeeds(gpu, &program, 2, call);
        (losses(&program), counts[0]["calls"]["ncclAllGather"].as_u64().unwrap())
    };
    let alone = Program::with_scenes();
    let larger =
        in_f32.replace("--batch-size 2", "--batch-size 4").replace("--micro-batches 4", "--micro-batches 2");
    let (output, record) = gpu.output(&mut alone.command(&larger), &[]);
    assert!(output.status.success(), "{}{}", texts(&output).1, record.log());
    let whole = losses(&alone);
    assert_eq!(whole.len(), 2);
    let (synced, synced_gathers) = on_two(&format!("{in_f32} --sync-bn"));
    let (own, own_gathers) = on_two(&in_f32);
    let apart = |losses: &[f64], step: usize| (losses[step] - whole[step]).abs();
    assert!(apart(&synced, 0) < 1e-5 && apart(&synced, 1) < 1e-3, "{synced:?} for {whole:?}");
    assert!(apart(&own, 0) > 1e-2, "of their own batches: {own:?} for {whole:?}");
    // resnet9 has 8 batch norms: two numbers of each go forward and two back, and no statistics after the batch.
    let of_rank = RUN_BATCHES as u64 / 2;
    assert_eq!(synced_gathers + of_rank, own_gathers + of_rank * 8 * 4);
}

/// Starts `LONG_RUN` on two ranks and sends `name` after some steps: to the launcher, or to one of the ranks.
fn stop(gpu: &SoftGpu, program: &Program, name: &str, rank: Option<usize>) -> (Output, PathBuf) {
    let (mut command, _record) = launch(gpu, program, 2, LONG_RUN, None);
    let mut launcher = command.spawn().unwrap();
    let run = program.wait_for_steps(&mut launcher, 2);
    let ranks = rank_processes(&launcher, "RANK");
    assert_eq!(ranks.len(), 2);
    match rank {
        Some(rank) => send(name, ranks[rank]),
        None => signal(&launcher, name),
    }
    (all_end(launcher, &ranks, SOON), run)
}

#[test]
fn a_run_of_two_gpus_that_is_stopped_goes_on_with_one() {
    let Some(gpu) = software_gpu() else { return };
    let expected = left_alone(gpu, LONG_RUN);
    for (name, rank, code, part) in [
        ("INT", None, 130, "checkpoint written; resume with: residuum train --resume"),
        ("KILL", Some(1), 137, "rank 2 of 2 was killed by signal 9"),
    ] {
        let program = Program::with_scenes();
        let (output, run) = stop(gpu, &program, name, rank);
        failed(&output, LONG_RUN, code, &[part]);
        let checkpoint = program.checkpoint(&run, "last.state.safetensors");
        let (state, _) = state::load(&checkpoint).unwrap();
        assert!((1..6).contains(&state.step), "stopped at {}", state.step);
        let resume = format!("train --resume {}", run.display());
        let (output, record) = gpu.output(&mut program.command(&resume), &[]);
        assert!(output.status.success(), "{name}: {}{}", texts(&output).1, record.log());
        left_by(&program).assert_same(&expected, &format!("a run that {name} stopped"));
    }
}

#[test]
fn nobody_waits_for_a_rank_that_is_missing() {
    let Some(gpu) = software_gpu() else { return };
    for (fault, seconds, part) in [
        ("1@ncclCommInitRank:1:hang", 4, "a rank waited 4 s for the others in the beginning"),
        ("1@ncclGroupEnd:2:hang", 8, "waited 8 s for the others in exchange"),
        ("0@ncclAllGather:5:6", 60, "another rank has left during an exchange: NCCL"),
        // The rank that hears of it is in a call that does not return.
        ("1@ncclGroupEnd:1:hang,1@ncclCommGetAsyncError:100:6", 60, "rank 2 of 2: another rank has left"),
    ] {
        let program = Program::with_scenes();
        let call = format!("{LONG_RUN} --dist-timeout {seconds}");
        let (mut command, record) = launch(gpu, &program, 2, &call, Some(fault));
        let began = Instant::now();
        let output = command.output().unwrap();
        failed(&output, &format!("{call} with {fault}"), 7, &[part]);
        assert!(began.elapsed() < SOON, "{fault} took {:?}: {}", began.elapsed(), record.log());
    }
}

#[test]
fn gpus_without_nccl_and_ranks_without_gpus_are_refused_with_the_remedy() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    let (mut command, _record) = launch(gpu, &program, 2, RUN, None);
    let output = command.env("RESIDUUM_NCCL", "/nowhere/libnccl.so.2").output().unwrap();
    failed(&output, RUN, 3, &["no NCCL", "/nowhere/libnccl.so.2", "apt install libnccl2", "RESIDUUM_NCCL"]);
    let (mut command, _record) = launch(gpu, &program, 5, RUN, None);
    failed(&command.output().unwrap(), RUN, 3, &["cuda:4 is not there"]);
    assert!(!program.path("runs").exists(), "no run has begun");

    let mut devices = program.command("devices");
    let _record = gpu.attach(&mut devices, &[]);
    let told = texts(&devices.env("RESIDUUM_NCCL", gpu.nccl()).output().unwrap()).0;
    assert!(told.contains("NCCL") && told.contains("2.23.4"), "{told}");
}
