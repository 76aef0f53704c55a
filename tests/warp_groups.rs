//! Products of warp groups on the emulator: right ones are right in every order of threads and at every time at which a product may
//! read, and each rule of kernels/wgmma.cuh that a kernel breaks is found and named.
#![cfg(residuum_simt)]

#[path = "common/emulated.rs"]
mod emulated;

use half::bf16;
use residuum::device::simt::Checks;
use residuum::tensor::DType;

use emulated::{Bench, assert_close, pair, product, random, same_with_seeds, words};

/// Rows and columns, and positions of k: three k-tiles, so that a stage is filled twice.
const EXTENT: usize = 64;
const DEPTH: usize = 192;
const SHARED_BYTES: u32 = 2 * 2 * 64 * 128;

fn operand(seed: u64) -> Vec<bf16> {
    random(EXTENT * DEPTH, seed).into_iter().map(bf16::from_f32).collect()
}

/// A matrix of `rows` rows by columns, row-major.
fn transposed(matrix: &[bf16], rows: usize) -> Vec<bf16> {
    let columns = matrix.len() / rows;
    (0..matrix.len()).map(|at| matrix[at % rows * columns + at / rows]).collect()
}

fn run(bench: &mut Bench, name: &str, [a, b]: [&[bf16]; 2]) -> residuum::Result<()> {
    let (a, b) = (bench.input(a, DType::Bf16), bench.input(b, DType::Bf16));
    let c = bench.output(EXTENT * EXTENT, DType::F32);
    bench.run(name, [1, 1, 1], [128, 1, 1], SHARED_BYTES, &words(&[a, b, c, pair(DEPTH, 0)]))
}

#[test]
fn products_are_right() {
    // Both 64 x gemm_k.
    let (a, b) = (operand(1), operand(2));
    let widen = |values: &[bf16]| values.iter().map(|value| value.to_f32()).collect::<Vec<_>>();
    let expected = product(&widen(&a), &widen(&transposed(&b, EXTENT)), [EXTENT, EXTENT, DEPTH]);
    let (a_mn, b_mn) = (transposed(&a, EXTENT), transposed(&b, EXTENT));
    for (name, operands) in [
        ("correct_wgmma_k_k", [&a, &b]),
        ("correct_wgmma_k_mn", [&a, &b_mn]),
        ("correct_wgmma_mn_mn", [&a_mn, &b_mn]),
    ] {
        let c = same_with_seeds(100, |mut bench| {
            run(&mut bench, name, operands.map(Vec::as_slice)).unwrap();
            bench.result::<f32>(0)
        });
        assert_close(&c, &expected, 1e-3);
    }
}

#[test]
fn operands_and_sums_lie_as_cute_has_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/cute.json");
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let numbers = |name: &str| -> Vec<u64> {
        let flat = |value: &serde_json::Value| match value.as_array() {
            Some(pair) => pair.iter().map(|number| number.as_u64().unwrap()).collect(),
            None => vec![value.as_u64().unwrap()],
        };
        golden[name].as_array().unwrap().iter().flat_map(flat).collect()
    };
    let operand = |name: &str| -> Vec<u64> {
        let bits = golden[name].as_u64().unwrap();
        (0..4).map(|word| bits >> (16 * word) & 0xffff).collect()
    };
    let mut expected = [numbers("k_major"), numbers("mn_major")].concat();
    let mut of_rows = operand("k_major_operand");
    // The leading offset of K-major operands is not used; CuTe writes 1.
    of_rows[1] = 0;
    expected.extend([of_rows, operand("mn_major_operand")].concat());
    expected.extend([numbers("sums_64x64"), numbers("sums_64x128")].concat());

    let mut bench = Bench::new(0, Checks::Full);
    let c = bench.output(expected.len(), DType::F32);
    bench.run("group_layouts", [1, 1, 1], [128, 1, 1], 0, &words(&[0, 0, c, 0])).unwrap();
    let written: Vec<u64> = bench.result::<f32>(0).into_iter().map(|number| number as u64).collect();
    let differs = written.iter().zip(&expected).position(|(written, expected)| written != expected);
    assert_eq!(differs, None, "of {} numbers", expected.len());
}

#[test]
fn every_broken_rule_is_found_and_named() {
    let (a, b) = (operand(1), operand(2));
    for (name, words) in [
        ("planted_wgmma_no_proxy_fence", &["fence_proxy_async by that thread and then a barrier"][..]),
        (
            "planted_wgmma_proxy_fence_behind_barrier",
            &["fence_proxy_async by that thread and then a barrier"],
        ),
        ("planted_wgmma_refilled_before_wait", &["overwrites an operand of a wgmma under way"]),
        ("planted_wgmma_read_before_wait", &["touches registers that a wgmma under way adds to"]),
        ("planted_wgmma_changed_before_wait", &["touches registers that a wgmma under way adds to"]),
        ("planted_wgmma_no_wait", &["ends while a wgmma is under way"]),
        ("planted_wgmma_no_fence", &["set after the last wgmma_fence"]),
        // Of a thread's own bytes there is no race.
        ("planted_wgmma_no_barrier", &["data race|fence_proxy_async by that thread and then a barrier"]),
        ("planted_wgmma_start", &["which begins no 16 positions"]),
        ("planted_wgmma_swizzle", &["an operand of swizzle 2; 1 is that of 128 bytes"]),
        ("planted_wgmma_stride", &["eights of lines are 512 bytes apart, not 1024"]),
        ("planted_wgmma_unlike_operands", &["with other operands than thread 0 of its warp group"]),
        (
            "planted_wgmma_three_warps",
            &["the warps of a group", "wait at wgmma_k16_bf16", "wait at wgmma_commit"],
        ),
    ] {
        let messages: Vec<String> = (0..20)
            .filter_map(|seed| run(&mut Bench::new(seed, Checks::Full), name, [&a, &b]).err())
            .map(|error| error.to_string())
            .collect();
        // When a product reads is drawn, and not every time tells.
        assert!(messages.len() >= 5, "{name}: {messages:?}");
        for message in messages {
            let has = |either: &&str| either.split('|').any(|word| message.contains(word));
            assert!(words.iter().all(has), "{name}: {message}");
            assert!(message.contains("wgmma.cu"), "{message}");
        }
    }
}
