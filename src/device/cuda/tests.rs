//! The device with a GPU, where there is one, and with the software GPU.

use super::spans::Spans;
use super::*;
use crate::device::READBACK_BYTES;
use crate::device::kernels::{FILL_F32, FillArgs, thread_grid};

/// The first GPU, or none with a line that says so; with `RESIDUUM_TEST_DEVICES=cuda`, none is a failure.
fn open() -> Option<CudaDevice> {
    match CudaDevice::open(0) {
        Ok(device) => Some(device),
        Err(Error::Device(reason)) => {
            let wanted = std::env::var("RESIDUUM_TEST_DEVICES").unwrap_or_default();
            assert!(wanted != "cuda", "no CUDA device ({reason})");
            println!("skipped: no CUDA device ({reason})");
            None
        }
        Err(error) => panic!("a device that cannot be opened is another error than {error}"),
    }
}

/// Whether the GPU is interpreted: then its times are the host's, and say nothing while other programs run.
fn is_software(device: &CudaDevice) -> bool {
    device.gpu().name.contains("softgpu")
}

/// Elements whose filling takes a time that can be told from that of a launch.
fn timed_elems(device: &CudaDevice) -> usize {
    if is_software(device) { 1 << 16 } else { 1 << 24 }
}

fn fill(launcher: &mut dyn Launcher, address: u64, num_elems: usize, value: f32) -> Result<()> {
    let arguments = FillArgs { y: address, num_elems: num_elems as u64, value, reserved: 0 };
    FILL_F32.launch(launcher, thread_grid(num_elems), &arguments)
}

fn read(device: &CudaDevice, count: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; count];
    device.download(0, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

#[test]
fn these_tests_hold_on_the_software_gpu() {
    crate::again::run_tests_again(&["device::cuda::tests", "conv2d::kernel_tests"], "on_the_software_gpu");
}

#[test]
fn a_device_that_is_not_there_is_an_error_of_exit_code_3() {
    let error = CudaDevice::open(4096).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}

#[test]
fn memory_starts_zeroed_and_copies_come_back() {
    let Some(mut device) = open() else { return };
    let bytes: Vec<u8> = (0..20_000_003).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    device.allocate(bytes.len() + 64).unwrap();
    let mut back = vec![1; bytes.len() + 64];
    device.download(0, &mut back).unwrap();
    assert!(back.iter().all(|&byte| byte == 0), "a new arena is zeroed");
    device.upload(64, &bytes).unwrap();
    device.download(0, &mut back).unwrap();
    assert!(back[64..] == bytes, "what was uploaded is downloaded");
    assert!(back[..64].iter().all(|&byte| byte == 0), "and nothing before it is touched");
}

#[test]
fn uploads_of_every_size_arrive_whole_with_others_under_way() {
    let Some(mut device) = open() else { return };
    // Each asks for more page-locked memory than the ones before, which have not arrived.
    let sizes = [1_000, 100_000, 3_000_000, 12_000_001, 64];
    let total: usize = sizes.iter().sum();
    device.allocate(total).unwrap();
    let mut expected = Vec::with_capacity(total);
    for (size, seed) in sizes.into_iter().zip(1_u32..) {
        let bytes: Vec<u8> = (0..size as u32)
            .map(|i| (i.wrapping_mul(seed.wrapping_mul(2_654_435_761)) >> 13) as u8)
            .collect();
        device.upload(expected.len(), &bytes).unwrap();
        expected.extend(bytes);
    }
    let mut back = vec![0; total];
    device.download(0, &mut back).unwrap();
    assert!(back == expected, "what was uploaded is downloaded");
}

/// The bytes of a batch, each batch's its own.
fn batch_bytes(num_bytes: usize, batch: u32) -> Vec<u8> {
    (0..num_bytes as u32).map(|i| ((i + 977 * batch).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn a_large_upload_of_a_later_list_does_not_overtake_the_lists_before_it() {
    let Some(mut device) = open() else { return };
    // From the second on they land beside the launches, first with room for these and then for twice as much.
    let (large, small) = (landing::LEAST_BYTES + 4, 4000);
    device.allocate(2 * large + small).unwrap();
    let address = device.arena_address();
    let list = device.capture(|launcher| fill(launcher, address + 4, 1, 1.0)).unwrap();
    let (mut readback, mut expected) = (Vec::new(), Vec::new());
    for batch in 0..12 {
        let num_bytes = if batch < 6 { large } else { 2 * large };
        let bytes = batch_bytes(num_bytes, batch);
        device.upload(0, &bytes).unwrap();
        device.upload(2 * large, &bytes[..small]).unwrap();
        device.replay(list).unwrap();
        for at in [0, 4, 8, num_bytes - 4, 2 * large, 2 * large + small - 4] {
            device.enqueue_readback(at, 4, &mut readback).unwrap();
            let from = if at >= 2 * large { at - 2 * large } else { at };
            let uploaded: [u8; 4] = bytes[from..from + 4].try_into().unwrap();
            expected.extend(if at == 4 { 1.0_f32.to_ne_bytes() } else { uploaded });
        }
    }
    device.finish_readback(&mut readback).unwrap();
    assert!(readback == expected, "a batch has bytes of another");
}

#[test]
fn a_launch_writes_its_elements_and_no_others() {
    let Some(mut device) = open() else { return };
    device.allocate(4 * 1000).unwrap();
    let address = device.arena_address();
    fill(&mut device, address, 777, 2.5).unwrap();
    let values = read(&device, 1000);
    assert!(
        values[..777].iter().all(|&value| value == 2.5) && values[777..].iter().all(|&value| value == 0.0)
    );
}

#[test]
fn a_captured_list_runs_only_when_replayed_and_as_often() {
    let Some(mut device) = open() else { return };
    device.allocate(4 * 1000).unwrap();
    let address = device.arena_address();
    let graph = device
        .capture(|launcher| {
            fill(launcher, address, 1000, 1.0)?;
            fill(launcher, address, 300, 3.0)
        })
        .unwrap();
    assert!(read(&device, 1000).iter().all(|&value| value == 0.0), "a capture runs nothing");
    for _ in 0..3 {
        device.upload(0, &[0xff; 4000]).unwrap();
        device.replay(graph).unwrap();
        let values = read(&device, 1000);
        assert!(
            values[..300].iter().all(|&value| value == 3.0)
                && values[300..].iter().all(|&value| value == 1.0)
        );
    }
}

#[test]
fn a_capture_that_fails_leaves_the_device_usable() {
    let Some(mut device) = open() else { return };
    device.allocate(64).unwrap();
    let address = device.arena_address();
    let error = device.capture(|launcher| {
        fill(launcher, address, 16, 1.0)?;
        Err(Error::Usage("stop here".into()))
    });
    assert_eq!(error.unwrap_err().exit_code(), 2);
    fill(&mut device, address, 16, 4.0).unwrap();
    assert_eq!(read(&device, 16), [4.0; 16]);
}

#[test]
fn captured_lists_can_be_dropped_with_work_under_way_and_made_again() {
    if open().is_none() {
        return;
    }
    for _ in 0..20 {
        let mut device = CudaDevice::open(0).unwrap();
        for count in [1 << 20, 1 << 22] {
            device.allocate(4 * count).unwrap();
            let address = device.arena_address();
            let graph = device.capture(|launcher| fill(launcher, address, count, 1.0)).unwrap();
            (0..10).for_each(|_| device.replay(graph).unwrap());
        }
    }
}

#[test]
fn an_arena_that_does_not_fit_says_how_much_there_is() {
    let Some(mut device) = open() else { return };
    let (_, total) = device.memory_bytes().unwrap();
    let error = device.allocate(total * 2).unwrap_err();
    assert_eq!(error.exit_code(), 6);
    assert!(error.to_string().contains(" free of "), "{error}");
    device.allocate(64).unwrap();
}

#[test]
fn readback_holds_what_was_there_when_it_was_enqueued_however_much_there_is() {
    let Some(mut device) = open() else { return };
    let most = READBACK_BYTES / size_of::<f32>();
    device.allocate(2 * READBACK_BYTES).unwrap();
    let address = device.arena_address();
    let (mut readback, mut expected) = (Vec::new(), Vec::new());
    // Together more than there is room for, and one by itself.
    for (value, count) in [3, most / 2, 5, most / 2, most, 1, most + 1, 2].into_iter().enumerate() {
        fill(&mut device, address, most + 2, value as f32).unwrap();
        device.enqueue_readback(4, count * size_of::<f32>(), &mut readback).unwrap();
        expected.extend(vec![value as f32; count]);
    }
    device.finish_readback(&mut readback).unwrap();
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&readback);
    assert!(values == expected, "{} values came back of {}", values.len(), expected.len());
}

#[test]
fn lists_are_timed_apart_and_run_once() {
    let Some(mut device) = open() else { return };
    let count = timed_elems(&device);
    device.allocate(4 * count).unwrap();
    let address = device.arena_address();
    let mut times = [Duration::ZERO; 3];
    for _ in 0..2 {
        times = [Duration::ZERO; 3];
        let record = |list: usize, launcher: &mut dyn Launcher| {
            (0..[1, 20, 0][list]).try_for_each(|_| fill(launcher, address, count, list as f32))
        };
        device.run_timed(record, &mut times).unwrap();
    }
    let [one, twenty, none] = times;
    let are_apart = twenty > 10 * one && one > 2 * none;
    assert!(are_apart || is_software(&device), "1, 20 and 0 launches take {times:?}");
    assert_eq!(read(&device, 2), [1.0; 2]);
}

#[test]
fn marks_measure_the_work_between_them() {
    let Some(mut device) = open() else { return };
    let count = timed_elems(&device);
    device.allocate(4 * count).unwrap();
    let address = device.arena_address();
    let mut time = |launches: usize| {
        let start = device.mark().unwrap();
        (0..launches).for_each(|_| fill(&mut device, address, count, 1.0).unwrap());
        let end = device.mark().unwrap();
        device.elapsed_us(&start, &end).unwrap()
    };
    time(1);
    let (few, many) = (time(2), time(100));
    let is_more = many > 5.0 * few || is_software(&device);
    assert!(few > 0.0 && many > 0.0 && is_more, "2 launches take {few} us, 100 take {many} us");
}

/// Of the true library: its double joins no rank that is alone without `NCCL_COMM_ID`.
#[test]
fn times_that_nobody_takes_are_a_sum() {
    let Some(mut device) = open() else { return };
    device.allocate(4 * 1024).unwrap();
    let address = device.arena_address();
    let mut spans = Spans::default();
    for _ in 0..20 {
        let start = device.mark().unwrap();
        fill(&mut device, address, 1024, 1.0).unwrap();
        spans.wait_until_below(4).unwrap();
        spans.push(start, device.mark().unwrap());
        assert!(spans.num_kept() <= 4);
    }
    let kept = spans.num_kept();
    let all = spans.take().unwrap();
    assert!(kept == 4 && all > Duration::ZERO, "{kept} kept, {all:?}");
    assert_eq!(spans.take().unwrap(), Duration::ZERO);
}

#[test]
fn a_rank_that_is_alone_exchanges_with_itself() {
    let Some(mut device) = open().filter(|device| !is_software(device)) else { return };
    if let Err(reason) = Nccl::open() {
        println!("skipped: {reason}");
        return;
    }
    let ranks = Communicator::join(0, 0, 1).unwrap();
    device.allocate(192).unwrap();
    let sent: Vec<u8> = (1..65).collect();
    device.upload(0, &sent).unwrap();
    device.all_to_all(&ranks, 0..1, 0..64, 64).unwrap();
    device.all_gather(&ranks, 0..1, [64], 64, 128).unwrap();
    device.finish_exchanges().unwrap();
    let mut received = vec![0; 128];
    device.download(64, &mut received).unwrap();
    assert_eq!(received, [&sent[..], &sent[..]].concat());

    let mine: Vec<u8> = (0..600_001).map(|i: u32| (i % 251) as u8).collect();
    let mut received = [vec![0; mine.len()], vec![0; mine.len()]];
    ranks.all_gather_bytes(0..1, &mine, &mut received[0]).unwrap();
    ranks.all_to_all_bytes(0..1, &mine, &mut received[1]).unwrap();
    assert!(received.iter().all(|received| *received == mine));
    let mut bytes = mine.clone();
    ranks.broadcast_bytes(&mut bytes).unwrap();
    assert!(bytes == mine);
    assert_eq!(ranks.oldest().unwrap(), None, "no exchange is under way");
    ranks.check().unwrap();
}
