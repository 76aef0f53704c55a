//! The kernel on the emulator, every access judged, against the CPU.

use half::bf16;
use residuum::device::DeviceKind;
use residuum::device::cpu::Element;
use residuum::device::simt::{Checks, SimtDevice};
use residuum::exec::{Session, Start};
use residuum::ops::{Paint, Rasterise};
use residuum::rng::{Stream, Use};
use residuum::tensor::DType;

use super::operands::{IDENTITY, Operands};

fn on_simt<T: Element>(operands: &Operands, op: Rasterise, poison: T, seed: u64) -> Vec<T> {
    operands.run(op, poison, DeviceKind::Simt, |program| {
        Session::on(program, Box::new(SimtDevice::new(seed, Checks::Full).unwrap()), Start::Zeros).unwrap()
    })
}

/// Polygons of every kind, on the grid of pixels and off it, in a batch some of whose samples have none.
fn random_operands(stream: &mut Stream, samples: usize, num_classes: usize, size: f32) -> Operands {
    let params_stride = 6 + stream.below(5) as usize;
    let mut operands =
        Operands { params: Vec::new(), params_stride, points: Vec::new(), objects: Vec::new() };
    for sample in 0..samples {
        let is_identity = stream.uniform() < 0.3;
        let map = IDENTITY.map(|v| if is_identity { v } else { v + 0.7 * stream.normal() });
        operands.params.extend(map);
        operands.params.extend((6..params_stride).map(|_| f32::NAN));
        let num_objects = if stream.uniform() < 0.3 { 0 } else { stream.below(7) };
        for _ in 0..num_objects {
            let polygon = random_polygon(stream, size);
            operands.push(sample, stream.below(num_classes as u32) as usize, &polygon);
        }
    }
    operands.pad(1 + stream.below(4) as usize, 1 + stream.below(9) as usize);
    operands
}

fn random_polygon(stream: &mut Stream, size: f32) -> Vec<[f32; 2]> {
    let mut corner = |low: f32, high: f32| {
        let mut along = || low + (high - low) * stream.uniform();
        [along(), along()]
    };
    let (centre, radii) = (corner(0.0, size), corner(0.0, size));
    let offset = corner(-2.0 * size, 2.0 * size);
    match stream.below(6) {
        0 => {
            let at = |i: usize| std::f32::consts::TAU * i as f32 / 11.0;
            (0..11)
                .map(|i| [centre[0] + radii[0] * at(i).cos(), centre[1] + radii[1] * at(i).sin()])
                .collect()
        }
        1 => (0..stream.below(3)).map(|_| [size * stream.uniform(), size * stream.uniform()]).collect(),
        2 => vec![[offset[0], centre[1]], [size, centre[1]], [offset[0], centre[1]]],
        3 => (0..9).map(|_| [stream.below(size as u32) as f32, stream.below(size as u32) as f32]).collect(),
        4 => {
            (0..5).map(|_| [offset[0] + size * stream.normal(), offset[1] + size * stream.normal()]).collect()
        }
        _ => (0..40).map(|_| [size * stream.uniform(), size * stream.uniform()]).collect(),
    }
}

#[test]
fn the_kernel_computes_the_same_bits_as_the_cpu() {
    let mut stream = Stream::new(41, 0, 0, Use::Augment);
    let (mut covered, mut elems) = (0, 0);
    for (round, (samples, num_classes, height, width)) in
        [(3, 2, 17, 19), (2, 37, 9, 31), (5, 8, 16, 24), (4, 1, 5, 7), (1, 175, 12, 23)]
            .into_iter()
            .enumerate()
    {
        let operands = random_operands(&mut stream, samples, num_classes, width as f32);
        for paint in [Paint::Masks { num_classes }, Paint::Codes { num_classes }] {
            let op = Rasterise { paint, height, width, dtype: DType::F32 };
            let expected = operands.on_cpu(op);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            let got = on_simt(&operands, op, f32::NAN, round as u64);
            assert_eq!(bits(&got), bits(&expected), "round {round} {paint:?} in f32");
            let narrow = Rasterise { dtype: DType::Bf16, ..op };
            let got = on_simt(&operands, narrow, bf16::NAN, round as u64)
                .iter()
                .map(|v| v.to_f32())
                .collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&expected), "round {round} {paint:?} in bf16");
            covered += expected.iter().filter(|&&v| v != 0.0).count();
            elems += expected.len();
        }
    }
    assert!(covered * 20 > elems, "{covered} of {elems} elements are covered: the test sees too little");
}
