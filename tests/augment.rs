//! The operation `augment`: its CPU code against the loader, its kernel against its CPU code.

#[path = "common/again.rs"]
mod again;
#[path = "common/devices.rs"]
mod devices;

use std::sync::Arc;

use devices::{Open, Watch, on_each_device};
use residuum::batch::{Augment, Batch, BatchContents, Loader, LoaderOptions, Normalization};
use residuum::data::scenes::SceneOptions;
use residuum::data::{Pack, Split};
use residuum::device::{Device, DeviceKind};
use residuum::exec::{Session, Start};
use residuum::fuse::{Rewrite, fuse};
use residuum::graph::Graph;
use residuum::ops::{AugmentFwd, SpaceToDepth, augment, auto_augment};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::tensor::DType;
use residuum::transform::{Affine, AutoOp, AutoStep, AutoSteps, Mix, PixelBox, SampleParams};

const NORMALIZATION: Normalization = Normalization { mean: [0.1, 0.4, 0.7], std: [0.5, 0.2, 0.3] };

/// The operation over M photos of H x W in a graph of its own, with N samples; before it operations on bytes where it
/// `has_steps`, whose photos are kept.
fn recorded([photos, height, width, samples]: [usize; 4], dtype: DType, has_steps: bool) -> Graph {
    let mut graph = Graph::new(DType::F32);
    let pixels = graph.input("pixels", [photos, height, width, 3], DType::U8);
    let rows = graph.input("rows", [samples], DType::I32);
    let params = graph.input("params", [samples, SampleParams::NUM_ELEMS], DType::F32);
    let op = AugmentFwd { normalization: NORMALIZATION, dtype };
    let mut operands = [pixels, rows, params];
    if has_steps {
        let steps = graph.input("steps", [samples, AutoSteps::NUM_ELEMS], DType::F32);
        operands = auto_augment(&mut graph, "photos", operands, steps).unwrap();
        graph.keep(operands[0]);
    }
    let images = augment(&mut graph, "images", operands, op).unwrap();
    graph.keep(images);
    graph
}

/// Writes the operands and runs.
fn run(session: &mut Session, Operands { pixels, rows, params, steps }: &Operands) {
    let slot = |session: &Session, name| session.plan(0).slot(name).unwrap();
    let [of_pixels, of_rows, of_params] = ["pixels", "rows", "params"].map(|name| slot(session, name));
    session.write(&of_pixels, pixels).unwrap();
    session.write(&of_rows, rows).unwrap();
    session.write(&of_params, SampleParams::as_floats(params)).unwrap();
    if !steps.is_empty() {
        session.write(&slot(session, "steps"), AutoSteps::as_floats(steps)).unwrap();
    }
    session.run_micro_batch(0).unwrap_or_else(|error| panic!("{error}"));
}

/// The images, and the photos that operations on bytes left, if there are any.
fn results(session: &Session) -> (Vec<f64>, Vec<u8>) {
    let slot = |name| session.plan(0).slot(name);
    let images = session.read_as_f64(&slot("images").unwrap()).unwrap();
    let photos = slot("photos").map(|slot| session.read::<u8>(&slot).unwrap().into_owned());
    (images, photos.unwrap_or_default())
}

fn on_cpu(dims: [usize; 4], operands: &Operands) -> (Vec<f64>, Vec<u8>) {
    let graph = recorded(dims, DType::F32, !operands.steps.is_empty());
    let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
    run(&mut session, operands);
    results(&session)
}

fn batch(pack: &Arc<Pack>, policy: &str, contents: BatchContents) -> Batch {
    let options = LoaderOptions {
        augment: policy.parse::<Augment>().unwrap(),
        normalization: NORMALIZATION,
        contents,
        seed: 5,
        workers: 1,
        prefetch: 1,
        ..LoaderOptions::new(7)
    };
    let mut loader = Loader::train(Arc::clone(pack), &options, 3, 1).unwrap();
    loader.next().unwrap().unwrap()
}

#[test]
fn a_device_that_augments_makes_what_the_loader_makes() {
    let options =
        SceneOptions { split: Split::Train, num_images: 19, num_categories: 10, image_size: 22, seed: 3 };
    let pack = Arc::new(Pack::from_scenes(&options));
    let everything: Vec<u8> =
        (0..pack.len()).flat_map(|index| pack.pixels(index, &mut Vec::new()).unwrap().to_vec()).collect();
    for policy in [
        "none",
        "flip,shift",
        "paper",
        "compose",
        "modern",
        "mixup,drop=0.3",
        "cutmix,rotate",
        "flip,erase",
        "modern,erase@1",
        "resized-crop,flip,trivial-augment,erase",
        "modern,rand-augment=3x20,drop=0.2",
    ] {
        let expected = batch(&pack, policy, BatchContents::Images);
        for (contents, photos) in [(BatchContents::Pixels, 7), (BatchContents::Indices, 19)] {
            let Batch { images, pixels, rows, params, steps, labels, partner_labels, weights, .. } =
                batch(&pack, policy, contents);
            assert!(images.is_empty() && pixels.is_empty() == (contents == BatchContents::Indices));
            assert_eq!(
                (&params, &steps, &labels, &partner_labels, &weights),
                (
                    &expected.params,
                    &expected.steps,
                    &expected.labels,
                    &expected.partner_labels,
                    &expected.weights
                )
            );
            let pixels = if contents == BatchContents::Pixels { pixels } else { everything.clone() };
            let (images, _) = on_cpu([photos, 22, 22, 7], &Operands { pixels, rows, params, steps });
            let errors = images.iter().zip(&expected.images).map(|(a, b)| (a - f64::from(*b)).abs());
            let error = errors.fold(0.0f64, |most, error| if error <= most { most } else { error });
            assert!(error < 2e-6, "{policy} from {contents:?}: {error}");
        }
    }
}

#[test]
fn operands_of_other_shapes_are_refused_with_the_right_ones() {
    let op = AugmentFwd { normalization: NORMALIZATION, dtype: DType::F32 };
    let record = |pixels: &[usize], dtype, rows: usize, num_params: usize, op| {
        let mut graph = Graph::new(DType::F32);
        let pixels = graph.input("pixels", residuum::tensor::Shape::new(pixels), dtype);
        let rows_value = graph.input("rows", [rows], DType::I32);
        let params = graph.input("params", [5, num_params], DType::F32);
        augment(&mut graph, "images", [pixels, rows_value, params], op).map(|_| ()).unwrap_err().to_string()
    };
    let p = SampleParams::NUM_ELEMS;
    assert!(record(&[2, 4, 6, 1], DType::U8, 5, p, op).contains("u8 [M, H, W, 3]"));
    assert!(record(&[2, 4, 6, 3], DType::F32, 5, p, op).contains("u8 [M, H, W, 3]"));
    assert!(record(&[2, 4, 6, 3], DType::U8, 4, p, op).contains("params"));
    assert!(record(&[2, 4, 6, 3], DType::U8, 5, 6, op).contains("params"));
    let doubles = AugmentFwd { dtype: DType::F64, ..op };
    assert!(record(&[2, 4, 6, 3], DType::U8, 5, p, doubles).contains("f32 or bf16"));
}

/// What the operations take; one row is padding.
#[derive(Default)]
struct Operands {
    pixels: Vec<u8>,
    rows: Vec<i32>,
    params: Vec<SampleParams>,
    /// Empty where no operation on bytes is recorded.
    steps: Vec<AutoSteps>,
}

/// Operands of `policy`, whose maps also serve images that are not square.
fn operands([photos, height, width, samples]: [usize; 4], policy: &str) -> Operands {
    let mut stream = Stream::new(7, height as u32, width as u32, Use::Scenes);
    let pixels = (0..photos * height * width * 3).map(|_| stream.below(256) as u8).collect();
    let policy: Augment = policy.parse().unwrap();
    let mut rows: Vec<i32> = (0..samples).map(|_| stream.below(photos as u32) as i32).collect();
    rows[samples / 2] = -1;
    let size = height.min(width);
    let mut operands = Operands { pixels, rows, ..Operands::default() };
    for sample in 0..samples as u32 {
        let mix = policy.draw_mix(size, 1, 2, width as u32);
        let drawn = policy.draw(size, 0xFEDC_BA98_7654_3210, 2, sample, || 120.0);
        let mix = Mix { partner: samples as i32 - 1 - sample as i32, ..mix };
        operands.params.push(SampleParams { mix, ..drawn.params });
        operands.steps.extend(drawn.steps);
    }
    operands
}

/// The results, from memory that was NaN before.
fn on_device(
    dims: [usize; 4],
    dtype: DType,
    open: Open,
    watch: Watch,
    operands: &Operands,
) -> (Vec<f64>, Vec<u8>) {
    let device = open(watch);
    let graph = recorded(dims, dtype, !operands.steps.is_empty());
    let program = plan(&[&graph], device.kind()).unwrap();
    let mut session = Session::on(program, device, Start::Zeros).unwrap();
    session.fill_memory(0xFF).unwrap();
    run(&mut session, operands);
    results(&session)
}

/// Judged, or fast in an order of threads of its own.
const JUDGED: Watch = Watch { seed: 3, judged: true };
const ORDERS: [Watch; 2] = [Watch { seed: 8, judged: false }, Watch { seed: 9, judged: false }];

#[test]
fn the_kernel_computes_what_the_cpu_computes() {
    let policies = [
        "none",
        "flip,shift",
        "paper",
        "compose",
        "modern",
        "rotate,shear,resized-crop,mixup",
        "brightness=1,contrast=1,saturation=1,drop=0.4,cutmix",
        "shift,erase@1,mixup",
        "scale,flip,drop",
        "crop,brightness,drop=0.2,trivial-augment,erase,mixup",
        "rotate,rand-augment=4x25",
    ];
    on_each_device(|_, open| {
        // Photos, height, width, samples: groups of four pixels and single ones, one block and several.
        for dims in [[5, 7, 9, 3], [2, 6, 10, 4], [1, 1, 1, 1], [3, 37, 29, 5], [2, 48, 24, 2]] {
            for policy in policies {
                let operands = operands(dims, policy);
                let (expected, bytes) = on_cpu(dims, &operands);
                // Colours reach 2000 before they are clamped; bf16 keeps 8 bits of numbers below 5.
                for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 2e-2)] {
                    let (got, got_bytes) = on_device(dims, dtype, open, JUDGED, &operands);
                    assert!(got.len() == expected.len() && got_bytes == bytes, "{policy} {dims:?}: bytes");
                    for (i, (a, b)) in expected.iter().zip(&got).enumerate() {
                        let error = (a - b).abs();
                        assert!(error <= tolerance, "{policy} {dims:?} {dtype}: [{i}] is {b}, not {a}");
                    }
                }
                let [first, second] =
                    ORDERS.map(|watch| on_device(dims, DType::F32, open, watch, &operands).0);
                let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(first), bits(second), "{policy} {dims:?}: order of threads");
            }
        }
    });
}

#[test]
fn images_made_in_blocks_are_the_blocks_of_the_images() {
    on_each_device(|_, open| {
        // Photos, height, width, samples: even and odd extents, one block of threads and several.
        for dims @ [photos, height, width, samples] in [[3, 7, 10, 4], [1, 1, 1, 1], [2, 38, 29, 3]] {
            let operands = operands(dims, "modern,erase@1,drop=0.2,cutmix");
            for dtype in [DType::F32, DType::Bf16] {
                let mut graph = Graph::new(dtype);
                let of = [
                    graph.input("pixels", [photos, height, width, 3], DType::U8),
                    graph.input("rows", [samples], DType::I32),
                    graph.input("params", [samples, SampleParams::NUM_ELEMS], DType::F32),
                ];
                let op = AugmentFwd { normalization: NORMALIZATION, dtype };
                let images = augment(&mut graph, "pictures", of, op).unwrap();
                let blocks = graph.apply_one("images", SpaceToDepth, &[images]).unwrap();
                graph.keep(blocks);
                let fused = fuse(&graph, &[Rewrite::AugmentBlocks]).unwrap();
                assert_eq!((graph.nodes().len(), fused.nodes().len()), (2, 1));
                let [apart, together] = [&graph, &fused].map(|graph| {
                    let device = open(JUDGED);
                    let program = plan(&[graph], device.kind()).unwrap();
                    let mut session = Session::on(program, device, Start::Zeros).unwrap();
                    let mut on_cpu = Session::new(plan(&[graph], DeviceKind::Cpu).unwrap()).unwrap();
                    session.fill_memory(0xFF).unwrap();
                    [&mut session, &mut on_cpu].map(|session| {
                        run(session, &operands);
                        results(session).0
                    })
                });
                assert!(apart == together, "{dims:?} in {dtype}");
                assert!(apart[1].iter().any(|&value| value > 0.5) || photos == 1);
            }
        }
    });
}

#[test]
fn every_operation_on_bytes_makes_the_cpu_s_bytes() {
    let extents @ [height, width] = [21, 26];
    let magnitudes = [0.0f32, 1.0, -1.0];
    let samples = AutoOp::ALL.len() * magnitudes.len();
    let dims = [3, height, width, samples];
    let mut operands = operands(dims, "none");
    // Few values, so that channels are stretched and flattened unequally.
    operands.pixels.iter_mut().enumerate().for_each(|(i, byte)| *byte = 30 + *byte / (2 + (i % 3) as u8));
    let sized = |op: AutoOp, magnitude: f32| match op {
        AutoOp::TranslateX | AutoOp::TranslateY => 7.0 * magnitude,
        AutoOp::Rotate => 33.0 * magnitude,
        AutoOp::Posterize => 4.0 + magnitude,
        AutoOp::Solarize => 70.0 + 20.0 * magnitude,
        _ => 0.7 * magnitude,
    };
    let ops = AutoOp::ALL.into_iter().flat_map(|op| magnitudes.map(|magnitude| (op, sized(op, magnitude))));
    for (op, magnitude) in ops {
        let mut steps = AutoSteps::NONE;
        steps.steps[0] = AutoStep::new(op, magnitude, extents);
        operands.steps.push(steps);
    }
    let (_, expected) = on_cpu(dims, &operands);
    on_each_device(|_, open| {
        for watch in [JUDGED, ORDERS[0], ORDERS[1]] {
            let (_, got) = on_device(dims, DType::F32, open, watch, &operands);
            let photos = got.chunks_exact(height * width * 3).zip(expected.chunks_exact(height * width * 3));
            for (sample, (got, expected)) in photos.enumerate() {
                assert!(got == expected, "{:?}", operands.steps[sample].steps[0]);
            }
        }
    });
}

#[test]
fn flips_and_whole_pixels_are_exact() {
    let dims = [4, 11, 11, 4];
    let mut operands = operands(dims, "none");
    let params = &mut operands.params;
    params[0].inverse = Affine::flip(11);
    params[1].inverse = Affine::flip(11).after(Affine::translation(3.0, -2.0));
    params[3].inverse = Affine::translation(f32::MAX, 1e30);
    params[3].erased = PixelBox { left: 2, top: 0, right: 9, bottom: 11 };
    let (expected, _) = on_cpu(dims, &operands);
    on_each_device(|device, open| {
        // A GPU rounds once where the host multiplies and adds.
        let tolerance = if device == Device::Simt { 0.0 } else { 1e-6 };
        let (got, _) = on_device(dims, DType::F32, open, JUDGED, &operands);
        for (a, b) in expected.iter().zip(&got) {
            assert!((a - b).abs() <= tolerance, "{b} instead of {a}");
        }
    });
}

#[test]
fn these_tests_hold_on_the_software_gpu() {
    again::run_tests_again(&[""], "on_the_software_gpu");
}
