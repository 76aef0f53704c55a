//! What the emulator counts, against kernels of tests/kernels/counted.cu that can be counted by hand.
#![cfg(residuum_simt)]

use residuum::device::counts::Counts;
use residuum::device::simt::{CountingDevice, Footprint, HostKernel};
use residuum::device::{LaunchArgs, Launcher, Slot};
use residuum::tensor::DType;

include!(concat!(env!("OUT_DIR"), "/test_kernels.rs"));

const ELEMS: usize = 4096;

/// What `num_blocks` blocks of the kernel do, of which up to 4 are run, and what they touch of 4096 floats of x and of y.
fn count(name: &str, num_blocks: u32, threads: u32, shared_bytes: u32) -> (Counts, Vec<Footprint>) {
    let kernel = TEST_KERNELS.iter().find(|kernel| kernel.name == name).expect("a kernel of counted.cu");
    let slot = |i: usize| Slot { offset_bytes: 4 * ELEMS * i, shape: [ELEMS].into(), dtype: DType::F32 };
    let share = |_: &_, _: u32| 0;
    let mut device = CountingDevice::new(8 * ELEMS, 4, &share, true).unwrap();
    let arena_address = device.arena_address();
    let workspace = Slot { offset_bytes: 0, shape: [0].into(), dtype: DType::U8 };
    let args = LaunchArgs { arena_address, inputs: &[slot(0)], outputs: &[slot(1)], workspace };
    device.bind(&args, &[]);
    let pointers = [args.input(0), args.output(0)].map(u64::to_le_bytes).concat();
    let kernel: &HostKernel = kernel;
    device.count(kernel, [num_blocks, 1, 1], [threads, 1, 1], shared_bytes, &pointers, 1 << 10).unwrap()
}

#[test]
fn rows_are_whole_sectors_and_the_blocks_that_ran_stand_for_all() {
    let (counts, touched) = count("counted_rows", 12, 64, 0);
    let expected = Counts {
        sampled_blocks: 4,
        global_requests: 12 * 2 * 2,
        global_sectors: 12 * 2 * 2 * 4,
        ideal_sectors: 12 * 2 * 2 * 4,
        l2_bytes: 12 * 256,
        written_bytes: 12 * 256,
        loads_past_l1: 1,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
    let bytes: Vec<_> = touched.iter().map(|operand| (operand.read_bytes, operand.written_bytes)).collect();
    assert_eq!(bytes, [(12 * 256, 0), (0, 12 * 256)]);
}

#[test]
fn columns_take_a_sector_a_lane_and_absent_lanes_none() {
    let (counts, _) = count("counted_columns", 1, 32, 0);
    assert_eq!((counts.global_requests, counts.global_sectors), (2, 32 + 1));
    assert_eq!(counts.ideal_sectors, 4 + 1);
    assert_eq!((counts.l2_bytes, counts.written_bytes), (32 * 32, 32));
}

#[test]
fn what_l1_holds_comes_from_l2_once() {
    let (counts, _) = count("counted_again", 1, 32, 0);
    assert_eq!((counts.global_requests, counts.global_sectors), (11, 44));
    assert_eq!((counts.l2_bytes, counts.loads_past_l1), (128, 1));
}

#[test]
fn words_of_one_bank_take_turns_and_one_word_serves_all_lanes() {
    let (counts, _) = count("counted_banks", 1, 32, 32 * 32 * 4);
    assert_eq!((counts.shared_phases, counts.ideal_phases), (32 + 32 + 1, 32 + 1 + 1));
    assert_eq!((counts.bank_conflicts(), counts.barriers), (31, 1));
}

#[test]
fn copies_and_products_are_counted_by_warps() {
    let (counts, _) = count("counted_product", 3, 32, 512);
    assert_eq!(counts.tensor_instructions, 3);
    // A copy writes four phases of shared memory, zeros included, and ldmatrix reads four.
    assert_eq!((counts.shared_phases, counts.bank_conflicts()), (3 * 8, 0));
    assert_eq!((counts.l2_bytes, counts.written_bytes), (3 * 16 * 32, 3 * 512));
    assert_eq!(counts.copy_waits, 1);
}

#[test]
fn a_product_of_a_warp_group_counts_as_those_of_warps_that_it_holds() {
    let (counts, _) = count("counted_group_product", 2, 128, (64 + 128) * 128);
    // Of 16x8x16, by four warps.
    assert_eq!(counts.tensor_instructions, 2 * 4 * 16);
    // Its operands are read once: 64 rows and 128 columns of 32 bytes.
    assert_eq!((counts.shared_phases, counts.bank_conflicts()), (2 * (64 + 128) * 32 / 128, 0));
}

#[test]
fn copies_through_l1_bring_a_sector_from_l2_once_and_read_lines_of_l1() {
    let (counts, _) = count("counted_cached_copies", 1, 8, 128);
    // 128 bytes, 64 that are new of 128 in two lines, and none.
    assert_eq!((counts.global_requests, counts.global_sectors, counts.l2_bytes), (3, 12, 128 + 64));
    assert_eq!(counts.l1_phases, 1 + 2 + 1);
}
