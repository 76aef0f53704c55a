//! What the host does between steps.

use crate::gpu::{kernels_wait, software_gpu};
use crate::program::Program;

/// Work on the software GPU starts when something waits for it. A step that waits for the one before leaves a GPU without
/// work until the host has prepared the next; a host that is ahead waits for an older one, with newer ones queued.
#[test]
fn no_step_waits_for_the_step_before() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    for flags in ["", "--grad-accum-steps 2 --augment modern,trivial-augment"] {
        let [few, many] = [4, 9].map(|steps| {
            let call = format!(
                "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 2 --limit-val 2 --lr 0.001 \
                 --precision bf16 --log-interval 100 --device cuda --max-steps {steps} {flags}"
            );
            let (output, record) = gpu.output(&mut program.command(&call), &[]);
            assert!(output.status.success(), "{}", record.log());
            record.clean_report()
        });
        let more = |call: &str| many.calls[call] - few.calls[call];
        assert!(more("cuGraphLaunch") >= 5, "{} graphs more", more("cuGraphLaunch"));
        // Whatever a batch is told by, and the learning rate, goes up in one piece.
        let batches = if flags.is_empty() { 5 } else { 10 };
        assert_eq!(more("cuMemcpyHtoDAsync"), batches, "{flags}");
        assert_eq!(
            many.idles,
            few.idles,
            "{flags}: the GPU has nothing to do in {} steps more",
            many.idles - few.idles
        );
    }
}

#[test]
fn an_evaluation_waits_at_its_end() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    let [few, many] = [2, 14].map(|images| {
        let call = format!(
            "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 2 --lr 0.001 --precision bf16 \
             --device cuda --max-steps 1 --limit-val {images}"
        );
        let (output, record) = gpu.output(&mut program.command(&call), &[]);
        assert!(output.status.success(), "{}", record.log());
        record.clean_report()
    });
    let more = many.calls["cuGraphLaunch"] - few.calls["cuGraphLaunch"];
    assert!(more >= 5, "{more} graphs more");
    assert_eq!(many.idles, few.idles, "{} batches more are waited for", many.idles - few.idles);
}

#[test]
fn every_launch_of_a_step_may_begin_while_the_one_before_it_ends() {
    let Some(gpu) = software_gpu() else { return };
    let program = Program::with_scenes();
    let call = "train --data-dir scenes --model resnet9 --img-size 16 --batch-size 2 --limit-val 2 --lr 0.001 \
                --precision bf16 --device cuda --max-steps 3";
    let (output, record) = gpu.output(&mut program.command(call), &[]);
    assert!(output.status.success(), "{}", record.log());
    let report = record.clean_report();
    let launches: u64 = report.kernels.values().map(|kernel| kernel.launches).sum();
    assert!(report.calls["cuGraphLaunch"] > 0 && launches > report.calls["cuLaunchKernelEx"]);
    assert_eq!(report.overlapping, if kernels_wait() { launches } else { 0 });
}
