//! The emulator finds planted faults and names them, finds nothing in correct kernels, and computes the same bits in
//! every order of threads. Its kernels are in tests/kernels.
#![cfg(residuum_simt)]

use half::bf16;
use residuum::Error;
use residuum::device::KernelDevice;
use residuum::device::simt::Checks;
use residuum::rng::philox4x32_10;
use residuum::tensor::DType;

#[path = "common/emulated.rs"]
mod emulated;
use emulated::{Bench, assert_close, pair, product, random, same_with_seeds, words};

/// The message of a planted kernel on 128 elements of x, 64 per block, 128 of y.
fn finding(name: &str, grid_x: u32, threads: u32, num_y: usize) -> String {
    let messages: Vec<String> = [3, 4]
        .into_iter()
        .map(|seed| {
            let mut bench = Bench::new(seed, Checks::Full);
            let x = bench.input(&random(128, 1), DType::F32);
            let y = bench.output(num_y, DType::F32);
            match bench.run(name, [grid_x, 1, 1], [threads, 1, 1], 256, &words(&[x, y, num_y as u64])) {
                Err(Error::Device(message)) => message,
                other => panic!("{name}: expected a finding, got {other:?}"),
            }
        })
        .collect();
    println!("{}", messages[0]);
    for message in &messages {
        assert!(message.starts_with(&format!("kernel {name}, block (")), "{message}");
        assert!(message.contains(", thread ("), "{message}");
        assert!(message.contains("planted.cu:"), "{message}");
    }
    messages.into_iter().next().unwrap()
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

#[test]
fn missing_barrier_is_found_as_a_race() {
    let message = finding("planted_missing_barrier", 2, 64, 128);
    assert!(message.contains("static shared memory"), "{message}");
    let message = finding("planted_missing_barrier_dynamic", 2, 64, 128);
    assert_says(&message, &["dynamic shared memory", "data race"]);
}

#[test]
fn a_product_in_tf32_of_what_is_not_rounded_is_found() {
    let message = finding("planted_unrounded_tf32", 2, 32, 128);
    assert_says(
        &message,
        &["multiplies 3.3333334e-1 as TF32, which has fewer digits; round it by `to_tf32`"],
    );
}

#[test]
fn missing_barrier_changes_the_result_without_checks() {
    let results: Vec<Vec<f32>> = (0..2)
        .map(|seed| {
            let mut bench = Bench::new(seed, Checks::Off);
            let x = bench.input(&random(64, seed), DType::F32);
            let y = bench.output(64, DType::F32);
            bench
                .run("planted_missing_barrier_dynamic", [1, 1, 1], [64, 1, 1], 256, &words(&[x, y, 64]))
                .unwrap();
            bench.result(0)
        })
        .collect();
    assert_ne!(results[0].iter().map(|v| *v == 0.0).collect::<Vec<_>>(), vec![false; 64]);
    assert_ne!(results[0], results[1]);
}

#[test]
fn accesses_outside_an_operand_are_found_even_inside_a_neighbour() {
    assert_says(
        &finding("planted_read_past_end", 2, 64, 128),
        &["reads 4 bytes at byte 512 of x, past its end (512"],
    );
    assert_says(
        &finding("planted_read_before_start", 1, 32, 32),
        &["reads 16 bytes at byte -16 of x, before its start"],
    );
    assert_says(
        &finding("planted_write_past_end", 3, 64, 128),
        &["writes 4 bytes at byte 512 of y, past its end (512"],
    );
    assert_says(&finding("planted_write_to_input", 1, 64, 128), &["of x, which the operation may only read"]);
    assert_says(&finding("planted_wild_pointer", 1, 32, 32), &["which is in no buffer"]);
}

#[test]
fn reads_of_unwritten_memory_are_found() {
    assert_says(
        &finding("planted_uninitialised_shared", 1, 64, 64),
        &["thread (17, 0, 0)", "which this block has not written"],
    );
    assert_says(
        &finding("planted_unwritten_output", 1, 64, 64),
        &["of y, which the operation has not written"],
    );
}

#[test]
fn accesses_outside_shared_memory_are_found() {
    assert_says(
        &finding("planted_index_outside_tile", 1, 64, 64),
        &["outside an array of type 'float [33]'"],
    );
    assert_says(
        &finding("planted_past_dynamic_shared", 1, 64, 64),
        &["thread (63, 0, 0)", "at byte 256 of dynamic shared memory, past its end (256"],
    );
}

#[test]
fn divergent_barriers_are_found() {
    let message = finding("planted_divergent_barrier", 1, 64, 64);
    assert_says(
        &message,
        &["divergent barrier", "threads 0-39 wait at __syncthreads", "threads 40-63 have returned"],
    );
    let message = finding("planted_two_barriers", 1, 64, 64);
    assert_says(&message, &["divergent barrier", "threads 0-31 wait", "threads 32-63 wait"]);
}

#[test]
fn wrong_masks_are_found() {
    let message = finding("planted_mismatched_mask", 1, 32, 32);
    assert_says(&message, &["mismatched mask", "__shfl_xor_sync with mask 0xffffffff"]);
    assert_says(&finding("planted_lane_not_in_mask", 1, 32, 32), &["leaves out the calling lane"]);
    assert_says(&finding("planted_shuffle_from_outside_mask", 1, 32, 32), &["shuffles from lane 20"]);
    assert_says(&finding("planted_lanes_missing_from_vote", 1, 64, 64), &["__ballot_sync", "have returned"]);
    assert!(finding("planted_missing_syncwarp", 1, 32, 32).contains("shared memory"));
}

#[test]
fn misaligned_vectors_are_found() {
    assert_says(
        &finding("planted_misaligned_vector", 1, 32, 32),
        &["misaligned access", "not a multiple of 16"],
    );
}

#[test]
fn undefined_arithmetic_is_found() {
    assert_says(
        &finding("planted_signed_overflow", 1, 32, 32),
        &["thread (31, 0, 0)", "signed overflow: ", " + ", "2147483647"],
    );
    assert_says(
        &finding("planted_product_overflow", 1, 32, 32),
        &["signed overflow: ", " * ", "65536", "32768"],
    );
    assert_says(&finding("planted_division_by_zero", 1, 32, 32), &["division by zero: "]);
    assert_says(
        &finding("planted_wide_shift", 1, 32, 32),
        &["thread (31, 0, 0)", "undefined shift: 1 of type 'unsigned int' by 32 bits"],
    );
}

#[test]
fn races_in_global_memory_are_found() {
    assert_says(&finding("planted_blocks_overlap", 2, 32, 128), &["byte 124 of y", "data race"]);
    assert_says(&finding("planted_global_race", 1, 64, 128), &["of y"]);
}

#[test]
fn copies_need_their_wait_and_their_barrier() {
    assert_says(&finding("planted_copy_not_waited_for", 1, 32, 32), &["asynchronous copy", "cp_async_wait"]);
    assert_says(&finding("planted_copy_without_barrier", 1, 32, 32), &["static shared memory", "data race"]);
}

#[test]
fn a_device_works_on_after_a_finding() {
    let mut bench = Bench::new(1, Checks::Full);
    let x = bench.input(&random(128, 1), DType::F32);
    let y = bench.output(128, DType::F32);
    let arguments = words(&[x, y, 128]);
    for _ in 0..3 {
        bench.run("planted_copy_not_waited_for", [1, 1, 1], [32, 1, 1], 0, &arguments).unwrap_err();
        bench.run("planted_divergent_barrier", [1, 1, 1], [64, 1, 1], 0, &arguments).unwrap_err();
        bench.run("correct_reduce", [2, 1, 1], [128, 1, 1], 0, &arguments).unwrap();
    }
}

#[test]
fn malformed_launches_are_refused() {
    let mut bench = Bench::new(1, Checks::Off);
    for (grid, block, shared, size) in [
        ([1, 1, 1], [1025, 1, 1], 0, 24),
        ([0, 1, 1], [32, 1, 1], 0, 24),
        ([1, 1, 1], [32, 1, 1], 1 << 20, 24),
        ([1, 1, 1], [32, 1, 1], 0, 16),
    ] {
        let error = bench.run("correct_reduce", grid, block, shared, &vec![0; size]).unwrap_err();
        assert!(error.to_string().starts_with("launch of correct_reduce: "), "{error}");
    }
}

#[test]
fn reduction_is_right() {
    let x = random(3001, 5);
    let sums = same_with_seeds(10, |mut bench| {
        let arguments = words(&[bench.input(&x, DType::F32), bench.output(3, DType::F32), 3001]);
        bench.run("correct_reduce", [3, 1, 1], [128, 1, 1], 0, &arguments).unwrap();
        bench.result::<f32>(0)
    });
    let (sum, expected) = (sums.iter().sum::<f32>(), x.iter().sum::<f32>());
    assert!((sum - expected).abs() <= 1e-3, "{sum} {expected}");
}

#[test]
fn atomics_count() {
    let x = random(1001, 6);
    let counts = same_with_seeds(10, |mut bench| {
        let y = bench.output(1, DType::I32);
        let slot = bench.outputs[0];
        bench.device.upload(slot.offset_bytes, &[0; 4]).unwrap();
        let arguments = words(&[bench.input(&x, DType::F32), y, 1001]);
        bench.run("correct_count", [4, 1, 1], [96, 1, 1], 0, &arguments).unwrap();
        bench.result::<u32>(0)
    });
    assert_eq!(counts[0] as usize, x.iter().filter(|v| **v > 0.0).count());
}

#[test]
fn scan_by_shuffles_is_right() {
    let x: Vec<f32> = (0..128).map(|i| (i % 7) as f32).collect();
    let sums = same_with_seeds(10, |mut bench| {
        let arguments = words(&[bench.input(&x, DType::F32), bench.output(128, DType::F32), 128]);
        bench.run("correct_scan", [2, 1, 1], [64, 1, 1], 0, &arguments).unwrap();
        bench.result::<f32>(0)
    });
    for (i, sum) in sums.iter().enumerate() {
        assert_eq!(*sum, x[i / 16 * 16..=i].iter().sum::<f32>());
    }
}

#[test]
fn shuffles_and_votes_follow_cuda() {
    let results = same_with_seeds(10, |mut bench| {
        let arguments = words(&[0, bench.output(256, DType::I32), 0]);
        bench.run("correct_warp_calls", [1, 1, 1], [32, 1, 1], 0, &arguments).unwrap();
        bench.result::<i32>(0)
    });
    let votes = (0..32).filter(|lane| lane % 3 == 0).fold(0u32, |votes, lane| votes | 1 << lane);
    for lane in 0..32i32 {
        let up = if lane % 16 >= 3 { lane - 3 } else { lane };
        let down = if lane % 16 < 13 { lane + 3 } else { lane };
        let expected = [lane / 8 * 8 + 5, up, down, lane ^ 9, votes as i32, 1, 0, lane ^ 1];
        assert_eq!(results[lane as usize * 8..][..8], expected, "lane {lane}");
    }
}

#[test]
fn syncwarp_orders_a_warp() {
    let results = same_with_seeds(10, |mut bench| {
        let arguments = words(&[bench.input(&[10f32, 20.0], DType::F32), bench.output(192, DType::F32), 0]);
        bench.run("correct_syncwarp", [1, 1, 1], [64, 1, 1], 0, &arguments).unwrap();
        bench.result::<f32>(0)
    });
    for (i, value) in results.into_iter().enumerate() {
        assert_eq!(value, [10.0, 20.0][i % 64 / 32] + (i / 64) as f32);
    }
}

#[test]
fn transpose_is_right() {
    let (rows, columns) = (45, 70);
    let grid = [3, 2, 1];
    let x = random(rows * columns, 7);
    let y = same_with_seeds(10, |mut bench| {
        let (from, to) = (bench.input(&x, DType::F32), bench.output(x.len(), DType::F32));
        bench
            .run("correct_transpose_f32", grid, [32, 8, 1], 0, &words(&[from, to, pair(rows, columns)]))
            .unwrap();
        bench.result::<f32>(0)
    });
    let x16: Vec<u16> = x.iter().map(|v| bf16::from_f32(*v).to_bits()).collect();
    let y16 = same_with_seeds(10, |mut bench| {
        let (from, to) = (bench.input(&x16, DType::Bf16), bench.output(x.len(), DType::Bf16));
        bench
            .run("correct_transpose_bf16", grid, [32, 8, 1], 0, &words(&[from, to, pair(rows, columns)]))
            .unwrap();
        bench.result::<u16>(0)
    });
    for row in 0..rows {
        for column in 0..columns {
            assert_eq!(y[column * rows + row], x[row * columns + column]);
            assert_eq!(y16[column * rows + row], x16[row * columns + column]);
        }
    }
}

#[test]
fn bf16_rounds_as_rust_does() {
    let mut x: Vec<f32> = (0..20_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B1))).collect();
    x.extend([
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN_POSITIVE,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
    ]);
    x.push(f32::from_bits(0x7f80_0001));
    let y = same_with_seeds(10, |mut bench| {
        let arguments =
            words(&[bench.input(&x, DType::F32), bench.output(x.len(), DType::Bf16), x.len() as u64]);
        bench.run("correct_to_bf16", [3, 1, 1], [128, 1, 1], 0, &arguments).unwrap();
        bench.result::<u16>(0)
    });
    for (x, y) in x.iter().zip(y) {
        assert_eq!(y, bf16::from_f32(*x).to_bits(), "{x}");
    }
}

#[test]
fn philox_gives_the_numbers_of_the_host() {
    let y = same_with_seeds(10, |mut bench| {
        let arguments = words(&[0, bench.output(128, DType::I32), 0]);
        bench.run("correct_philox", [1, 1, 1], [32, 1, 1], 0, &arguments).unwrap();
        bench.result::<u32>(0)
    });
    for i in 0..32 {
        assert_eq!(y[4 * i..][..4], philox4x32_10([i as u32, 2, 3, 4], [5, 6]));
    }
}

#[test]
fn tiled_gemm_is_right() {
    let [m, n, k] = [70, 90, 37];
    let (a, b) = (random(m * k, 1), random(k * n, 2));
    let c = same_with_seeds(10, |mut bench| {
        let (a, b) = (bench.input(&a, DType::F32), bench.input(&b, DType::F32));
        let arguments = words(&[a, b, bench.output(m * n, DType::F32), pair(m, n), pair(k, 0)]);
        bench.run("correct_gemm_f32", [2, 2, 1], [256, 1, 1], 0, &arguments).unwrap();
        bench.result::<f32>(0)
    });
    assert_close(&c, &product(&a, &b, [m, n, k]), 1e-4);
}

#[test]
fn tensor_core_pipeline_is_right() {
    let [m, n, k] = [48, 24, 96];
    let round = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let (a, b) = (round(random(m * k, 3)), round(random(k * n, 4)));
    let c = same_with_seeds(10, |mut bench| {
        let (a, b) = (bench.input(&a, DType::Bf16), bench.input(&b, DType::Bf16));
        let arguments = words(&[a, b, bench.output(m * n, DType::F32), pair(m, n), pair(k, 0)]);
        let shared_bytes = 2 * 2 * (16 * 40 + 32 * 8);
        bench.run("correct_gemm_mma", [3, 3, 1], [32, 1, 1], shared_bytes, &arguments).unwrap();
        bench.result::<f32>(0)
    });
    let widen = |values: &[bf16]| values.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    assert_close(&c, &product(&widen(&a), &widen(&b), [m, n, k]), 1e-4);
}

#[test]
fn ldmatrix_follows_the_ptx_layout() {
    // Element (row, column) of matrix i is 100 i + 10 row + column.
    let x: Vec<u16> = (0..256).map(|at| (at / 64 * 100 + at / 8 % 8 * 10 + at % 8) as u16).collect();
    let y = same_with_seeds(10, |mut bench| {
        let arguments = words(&[bench.input(&x, DType::Bf16), bench.output(512, DType::I32)]);
        let result = bench.run("correct_ldmatrix", [1, 1, 1], [32, 1, 1], 0, &arguments);
        result.unwrap();
        bench.result::<u32>(0)
    });
    for lane in 0..32u32 {
        for i in 0..4u32 {
            let plain = |column| 100 * i + 10 * (lane / 4) + column;
            let transposed = |row| 100 * i + 10 * row + lane / 4;
            let pair = lane % 4 * 2;
            let at = |variant: u32| y[(variant * 128 + lane * 4 + i) as usize];
            let expected = plain(pair) | plain(pair + 1) << 16;
            let expected_transposed = transposed(pair) | transposed(pair + 1) << 16;
            assert_eq!([at(0), at(1)], [expected, expected_transposed], "lane {lane} register {i}");
            if i < 2 {
                assert_eq!([at(2), at(3)], [expected, expected_transposed], "lane {lane} register {i}");
            }
        }
    }
}
