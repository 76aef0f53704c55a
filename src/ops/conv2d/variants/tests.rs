//! Which kernel takes which convolution.

use super::*;
use crate::device::kernels::common::WARP_THREADS;
use crate::ops::conv2d::launch::MOST_TILE_COLS;

/// What a consumer GPU gives a block.
const CONSUMER_SHARED_BYTES: u32 = 99 << 10;

fn dims(n: usize, size: usize, c: usize, k: usize, kernel: usize, stride: usize) -> Conv2dDims {
    let pad = kernel / 2;
    Conv2dDims {
        n,
        h: size,
        w: size,
        c,
        k,
        r: kernel,
        s: kernel,
        stride_h: stride,
        stride_w: stride,
        pad_h: pad,
        pad_w: pad,
    }
}

#[test]
fn every_variant_does_what_its_kernel_is_named_after() {
    for variant in &VARIANTS {
        let &kernels::Kernel { name, file, block_threads, .. } = variant.entry.kernel();
        assert_eq!(file, format!("conv2d_{:?}", variant.pass()).to_lowercase());
        let suffix = if variant.is_tf32() { "_tf32".into() } else { format!("_{}", variant.dtype) };
        assert!(name.ends_with(&suffix), "{name}");
        let named = name.contains(&format!("tile{}x{}", variant.tile_rows, variant.tile_cols));
        assert_eq!(named, variant.unit == Unit::TensorCores, "{name}");
        assert!(variant.tile_cols <= MOST_TILE_COLS);
        assert!(variant.shared_bytes() <= CONSUMER_SHARED_BYTES, "{name}");
        if let Some(groups) = variant.groups {
            let kernel = groups.kernel();
            assert_eq!((kernel.name.replace("_wgmma", ""), kernel.file), (name.to_string(), file));
            assert!(kernel.is_by_warp_groups() && kernel.block_threads.is_multiple_of(128));
        }
        let warps = block_threads as usize / WARP_THREADS;
        assert!((variant.tile_rows * variant.tile_cols).is_multiple_of(warps * 16 * 16), "{name}");
    }
}

#[test]
fn channels_not_in_eights_run_on_cuda_cores() {
    for (c, k) in [(3, 64), (64, 50), (175, 64)] {
        let name =
            choose(Pass::Dgrad, DType::Bf16, false, &dims(2, 9, c, k, 3, 1)).unwrap().entry.kernel().name;
        assert_eq!(name, "conv2d_dgrad_bf16");
    }
    assert!(choose(Pass::Fprop, DType::F64, true, &dims(2, 9, 3, 8, 3, 1)).is_err());
}

#[test]
fn tiles_follow_the_number_of_channels_and_of_blocks() {
    let fprop = |dims| choose(Pass::Fprop, DType::Bf16, false, &dims).unwrap().entry.kernel().name;
    assert_eq!(fprop(dims(256, 32, 128, 128, 3, 1)), "conv2d_fprop_tile128x128_bf16");
    assert_eq!(fprop(dims(256, 4, 512, 512, 3, 1)), "conv2d_fprop_tile128x128_bf16");
    assert_eq!(fprop(dims(256, 32, 64, 64, 3, 1)), "conv2d_fprop_tile256x64_bf16");
    assert_eq!(fprop(dims(8, 8, 256, 256, 3, 1)), "conv2d_fprop_tile64x64_bf16");
    let wgrad = |dims| choose(Pass::Wgrad, DType::Bf16, false, &dims).unwrap().entry.kernel().name;
    assert_eq!(wgrad(dims(256, 8, 256, 256, 3, 1)), "conv2d_wgrad_tile128x128_bf16");
    assert_eq!(wgrad(dims(256, 32, 64, 64, 3, 1)), "conv2d_wgrad_tile64x128_bf16");
}

#[test]
fn f32_is_rounded_to_tf32_where_that_is_allowed_and_channels_come_in_fours() {
    let fprop =
        |allow_tf32, dims| choose(Pass::Fprop, DType::F32, allow_tf32, &dims).unwrap().entry.kernel().name;
    assert_eq!(fprop(true, dims(256, 32, 128, 128, 3, 1)), "conv2d_fprop_tile128x128_tf32");
    assert_eq!(fprop(true, dims(256, 32, 12, 64, 4, 1)), "conv2d_fprop_tile128x64_tf32");
    assert_eq!(fprop(true, dims(256, 32, 3, 64, 7, 2)), "conv2d_fprop_f32");
    assert_eq!(fprop(false, dims(256, 32, 128, 128, 3, 1)), "conv2d_fprop_f32");
}

#[test]
fn filters_of_one_tap_have_kernels_of_their_own_and_large_ones_none_on_tensor_cores() {
    let fprop = |dims| choose(Pass::Fprop, DType::Bf16, false, &dims).unwrap().entry.kernel().name;
    assert_eq!(fprop(dims(256, 16, 512, 128, 1, 1)), "conv2d_fprop_1x1_tile128x128_bf16");
    assert_eq!(fprop(dims(2, 32, 64, 64, MOST_TAPS, 1)), "conv2d_fprop_tile64x64_bf16");
    assert_eq!(fprop(dims(2, 32, 64, 64, MOST_TAPS + 2, 1)), "conv2d_fprop_bf16");
}
