//! Every kernel of every pass against the textbook loops in f64, on the emulator and, where there is one, on a GPU.

#[path = "../../../tests/common/devices.rs"]
mod devices;

use devices::{Watch, on_each_device};
use half::bf16;
use proptest::prelude::*;

use super::launch::{Choice, Stored, launch};
use super::split::wgrad_workspace_bytes;
use super::variants::{Pass, VARIANTS, Variant};
use crate::device::Device;
use crate::device::cpu::conv::{
    Conv2dDims, conv2d_dgrad_reference, conv2d_fprop_reference, conv2d_wgrad_reference,
};
use crate::device::{KernelDevice, LaunchArgs, Slot};
use crate::rng::{Stream, Use};
use crate::tensor::DType;

/// What a dgrad adds its result to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sum {
    Nothing,
    Another,
    /// A value whose memory the result takes over.
    InPlace,
}

/// Random numbers that are the same in bf16 and in f32.
fn random(num_elems: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0, 0, Use::Augment);
    (0..num_elems).map(|_| bf16::from_f32(stream.normal()).to_f32()).collect()
}

fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        _ => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
    }
}

/// Operands and result of a pass, in elements.
fn sizes(pass: Pass, dims: &Conv2dDims) -> ([usize; 2], usize) {
    let (x, w, y) = (dims.x_elems(), dims.w_elems(), dims.y_elems());
    match pass {
        Pass::Fprop => ([x, w], y),
        Pass::Dgrad => ([y, w], x),
        Pass::Wgrad => ([x, y], w),
    }
}

const fn judged(seed: u64) -> Watch {
    Watch { seed, judged: true }
}

const fn quick(seed: u64) -> Watch {
    Watch { seed, judged: false }
}

/// The result of the kernel of `variant`, by warp groups or not, on `operands`; memory of the result and the workspace starts
/// as NaN.
fn computed(
    (variant, by_groups): (&'static Variant, bool),
    dims: &Conv2dDims,
    operands: &[Vec<f32>],
    sum: Sum,
    mut device: Box<dyn KernelDevice>,
) -> Vec<f32> {
    let out_dtype = if variant.pass() == Pass::Wgrad { DType::F32 } else { variant.dtype };
    let mut end_bytes = 0;
    let mut slot = |num_elems: usize, dtype: DType| {
        let slot = Slot { offset_bytes: end_bytes, shape: [num_elems].into(), dtype };
        end_bytes = (end_bytes + slot.num_bytes()).next_multiple_of(64);
        slot
    };
    let inputs: Vec<Slot> = operands.iter().map(|values| slot(values.len(), variant.dtype)).collect();
    let out = if sum == Sum::InPlace { inputs[2] } else { slot(sizes(variant.pass(), dims).1, out_dtype) };
    let workspace_bytes =
        if variant.pass() == Pass::Wgrad { wgrad_workspace_bytes(variant, dims) } else { 0 };
    let workspace = slot(workspace_bytes, DType::U8);

    let arena_address = device.allocate(end_bytes).unwrap();
    device.upload(0, &vec![0xFF; end_bytes]).unwrap();
    for (slot, values) in inputs.iter().zip(operands) {
        device.upload(slot.offset_bytes, &bytes_of(values, variant.dtype)).unwrap();
    }
    let args = LaunchArgs { arena_address, inputs: &inputs, outputs: &[out], workspace };
    device
        .run((0, 0, 0), &mut |launcher| {
            launcher.bind(&args, &[]);
            let choice = Choice { variant, dims: *dims, by_groups };
            let addend = (inputs.len() > 2).then_some(2);
            launch(&choice, Stored::Sums { addend }, &args, launcher)
        })
        .unwrap();
    let mut bytes = vec![0; out.num_bytes()];
    device.download(out.offset_bytes, &mut bytes).unwrap();
    match out_dtype {
        DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
        _ => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

fn reference(pass: Pass, dims: &Conv2dDims, operands: &[Vec<f64>]) -> Vec<f64> {
    let mut out = operands.get(2).cloned().unwrap_or_else(|| vec![0.0; sizes(pass, dims).1]);
    let (first, second) = (&operands[0], &operands[1]);
    match pass {
        Pass::Fprop => conv2d_fprop_reference(dims, first, second, &mut out),
        Pass::Dgrad => conv2d_dgrad_reference(dims, first, second, operands.len() == 3, &mut out),
        Pass::Wgrad => conv2d_wgrad_reference(dims, first, second, &mut out),
    }
    out
}

/// Holds the kernels of `variant` to the reference: within 1e-5 of the norm of each sum's terms, in TF32 5e-5 because tensor cores
/// cut sums often, and, in bf16, one rounding.
fn check(variant: &'static Variant, dims: &Conv2dDims, sum: Sum, watch: Watch) {
    let sum = if variant.pass() == Pass::Dgrad { sum } else { Sum::Nothing };
    let ([first, second], num_results) = sizes(variant.pass(), dims);
    let mut operands = vec![random(first, 1), random(second, 2)];
    if sum != Sum::Nothing {
        operands.push(random(num_results, 3));
    }
    let map = |f: fn(f64) -> f64| -> Vec<Vec<f64>> {
        operands.iter().map(|values| values.iter().map(|&v| f(f64::from(v))).collect()).collect()
    };
    let expected = reference(variant.pass(), dims, &map(|v| v));
    let squares = reference(variant.pass(), dims, &map(|v| v * v));
    let rounding =
        if variant.pass() == Pass::Wgrad || variant.dtype == DType::F32 { 0.0 } else { 1.0 / 256.0 };
    let share = if variant.is_tf32() { 5e-5 } else { 1e-5 };
    on_each_device(|device, open| {
        let name = variant.entry.kernel().name;
        let compute = |&by_groups: &bool| computed((variant, by_groups), dims, &operands, sum, open(watch));
        let by_form: Vec<Vec<f32>> = variant.forms().iter().map(compute).collect();
        // The emulator adds in the same order; of a GPU nobody knows the order within 16 positions.
        let is_alike = device != Device::Simt || by_form.iter().all(|got| *got == by_form[0]);
        assert!(is_alike, "{name} {dims:?}: warp groups give other bits");
        for got in by_form {
            for (i, (&got, (&expected, &square))) in got.iter().zip(expected.iter().zip(&squares)).enumerate()
            {
                let error = (f64::from(got) - expected).abs();
                let tolerance = share * square.sqrt() + rounding * expected.abs();
                assert!(
                    error <= tolerance,
                    "{name} {dims:?} {sum:?} on {device}: [{i}] is {got}, not {expected}"
                );
            }
        }
    });
}

fn dims(image: [usize; 4], k: usize, kernel: [usize; 2], stride: [usize; 2], pad: [usize; 2]) -> Conv2dDims {
    let [n, h, w, c] = image;
    let [r, s] = kernel;
    let [[stride_h, stride_w], [pad_h, pad_w]] = [stride, pad];
    Conv2dDims { n, h, w, c, k, r, s, stride_h, stride_w, pad_h, pad_w }
}

/// Those that take the problem, whatever would be chosen.
fn variants_for(dims: &Conv2dDims) -> impl Iterator<Item = &'static Variant> {
    VARIANTS.iter().filter(|variant| variant.takes(variant.pass(), variant.dtype, dims))
}

#[test]
fn every_access_of_every_variant_is_in_order() {
    for (dims, sum) in [
        (dims([2, 5, 7, 3], 66, [3, 2], [1, 2], [1, 0]), Sum::InPlace),
        (dims([1, 9, 8, 72], 136, [3, 3], [2, 2], [1, 1]), Sum::InPlace),
        (dims([3, 7, 6, 16], 24, [1, 1], [2, 1], [0, 0]), Sum::Another),
        (dims([1, 6, 5, 128], 264, [3, 2], [1, 1], [1, 1]), Sum::Nothing),
    ] {
        variants_for(&dims).for_each(|variant| check(variant, &dims, sum, judged(11)));
    }
}

#[test]
fn every_variant_computes_the_same_bits_in_any_order_of_threads() {
    for dims in [
        dims([2, 11, 13, 40], 72, [3, 3], [2, 1], [1, 1]),
        dims([1, 9, 7, 128], 64, [3, 3], [1, 1], [1, 1]),
        dims([2, 7, 9, 200], 136, [1, 1], [1, 1], [0, 0]),
    ] {
        for (variant, by_groups) in variants_for(&dims).flat_map(|v| v.forms().iter().map(move |&by| (v, by)))
        {
            let ([first, second], _) = sizes(variant.pass(), &dims);
            let operands = [random(first, 4), random(second, 5)];
            on_each_device(|device, open| {
                let compute =
                    |seed| computed((variant, by_groups), &dims, &operands, Sum::Nothing, open(quick(seed)));
                let [first, others @ ..] = [1, 2, 3].map(compute);
                let name = variant.kernel(by_groups).kernel().name;
                assert!(others.iter().all(|other| *other == first), "{name} on {device}: {dims:?}");
            });
        }
    }
}

/// The nearest TF32, halfway away from zero.
fn to_tf32(value: f32) -> f32 {
    let step = f32::from_bits((value.to_bits() & 0x7f80_0000) - (10 << 23));
    (value / step).round() * step
}

#[test]
fn f32_is_rounded_to_the_nearest_tf32() {
    let dims = dims([2, 9, 7, 20], 36, [3, 2], [1, 1], [1, 1]);
    for variant in variants_for(&dims).filter(|variant| variant.is_tf32()) {
        let ([first, second], _) = sizes(variant.pass(), &dims);
        let mut stream = Stream::new(9, 0, 0, Use::Augment);
        let operands = [first, second].map(|len| (0..len).map(|_| stream.normal()).collect::<Vec<f32>>());
        let of = |map: fn(f32) -> f32| {
            let operands = operands.each_ref().map(|values| values.iter().map(|&v| map(v).into()).collect());
            reference(variant.pass(), &dims, &operands)
        };
        let (rounded, exact) = (of(to_tf32), of(|value| value));
        on_each_device(|device, open| {
            let got = computed((variant, false), &dims, &operands, Sum::Nothing, open(judged(3)));
            let error_from = |expected: &[f64]| {
                let error = |(&got, &expected): (&f32, &f64)| (f64::from(got) - expected).abs();
                got.iter().zip(expected).map(error).fold(0.0, f64::max)
            };
            let name = variant.entry.kernel().name;
            let (from_rounded, from_exact) = (error_from(&rounded), error_from(&exact));
            assert!(
                from_rounded < 1e-4 && from_exact > 1e-3,
                "{name} on {device}: {from_rounded}, {from_exact}"
            );
        });
    }
}

#[test]
fn long_reductions_are_split_and_summed() {
    let dims = dims([3, 33, 31, 8], 16, [3, 3], [1, 1], [1, 1]);
    for variant in variants_for(&dims).filter(|variant| variant.pass() == Pass::Wgrad) {
        assert!(wgrad_workspace_bytes(variant, &dims) > 0);
        check(variant, &dims, Sum::Nothing, quick(5));
        check(variant, &dims, Sum::Nothing, judged(6));
    }
}

/// Every small extent, kernel, stride and padding of both axes, the second axis one step behind the first.
#[test]
fn index_maps_hold_for_every_small_axis() {
    let axes: Vec<[usize; 4]> = (1..=5)
        .flat_map(|extent| (1..=4).map(move |kernel| [extent, kernel]))
        .flat_map(|[extent, kernel]| (1..=3).map(move |stride| [extent, kernel, stride]))
        .flat_map(|[extent, kernel, stride]| (0..=2).map(move |pad| [extent, kernel, stride, pad]))
        .filter(|[extent, kernel, _, pad]| *kernel <= extent + 2 * pad)
        .collect();
    for (i, &[h, r, stride_h, pad_h]) in axes.iter().enumerate() {
        let [w, s, stride_w, pad_w] = axes[(i * 7 + 3) % axes.len()];
        let plane = |c, k| dims([2, h, w, c], k, [r, s], [stride_h, stride_w], [pad_h, pad_w]);
        for variant in &VARIANTS {
            match variant.entry.kernel().name {
                name if name.ends_with("_f32") => {
                    check(variant, &plane(2, 3), Sum::InPlace, quick(i as u64));
                }
                name if name.contains("_tile64x64") => {
                    let plane = plane(variant.chunk_elems(), 2 * variant.chunk_elems());
                    if variant.takes(variant.pass(), variant.dtype, &plane) {
                        check(variant, &plane, Sum::Another, quick(i as u64));
                    }
                }
                _ => {}
            }
        }
    }
}

#[test]
fn layers_of_resnets_match() {
    // NHWC, filters, kernel, stride; images are smaller than in the nets, channels are theirs.
    for (image, k, kernel, stride) in [
        ([1, 30, 32, 3], 64, 7, 2),
        ([2, 9, 8, 64], 64, 3, 1),
        ([2, 8, 8, 64], 128, 3, 2),
        ([2, 8, 8, 64], 128, 1, 2),
        ([1, 4, 4, 256], 256, 3, 1),
        ([1, 4, 4, 256], 512, 3, 2),
        ([1, 2, 2, 512], 512, 3, 1),
        ([2, 8, 8, 64], 256, 1, 1),
        ([2, 8, 8, 256], 64, 1, 1),
        ([2, 8, 8, 256], 512, 1, 2),
        ([1, 4, 4, 1024], 2048, 1, 2),
        ([1, 3, 3, 2048], 512, 1, 1),
        // The two-headed net.
        ([1, 17, 15, 175], 50, 7, 2),
        ([1, 8, 8, 50], 64, 1, 1),
    ] {
        let dims = dims(image, k, [kernel; 2], [stride; 2], [kernel / 2; 2]);
        for pass in [Pass::Fprop, Pass::Dgrad, Pass::Wgrad] {
            for (dtype, allow_tf32) in [(DType::F32, false), (DType::F32, true), (DType::Bf16, false)] {
                let chosen = super::variants::choose(pass, dtype, allow_tf32, &dims).unwrap();
                check(chosen, &dims, Sum::Another, quick(1));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes_match(
        (n, h, w) in (1usize..4, 1usize..13, 1usize..13),
        (c, k) in (1usize..140, 1usize..140),
        multiple in prop::sample::select(vec![1usize, 4, 8]),
        kernel in [1usize..8, 1usize..8],
        stride in [1usize..4, 1usize..4],
        pad in [0usize..4, 0usize..4],
        seed: u64,
    ) {
        let round = |channels: usize| channels.next_multiple_of(multiple);
        let fit = |kernel: usize, extent: usize, pad: usize| kernel.min(extent + 2 * pad);
        let kernel = [fit(kernel[0], h, pad[0]), fit(kernel[1], w, pad[1])];
        let dims = dims([n, h, w, round(c)], round(k), kernel, stride, pad);
        let sum = [Sum::Nothing, Sum::Another, Sum::InPlace][(seed % 3) as usize];
        for variant in variants_for(&dims) {
            // Judging every access takes time; the small problems have it.
            let is_small = dims.flops() < 1_000_000;
            check(variant, &dims, sum, Watch { seed, judged: is_small });
        }
    }
}
