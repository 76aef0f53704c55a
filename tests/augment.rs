//! The operation `augment`: its CPU code against the loader, its kernel against its CPU code.

#[path = "common/again.rs"]
mod again;
#[path = "common/devices.rs"]
mod devices;

use std::sync::Arc;

use devices::{Open, Watch, on_each_device};
use half::bf16;
use residuum::batch::{Augment, Batch, BatchContents, Loader, LoaderOptions, Normalization};
use residuum::data::scenes::SceneOptions;
use residuum::data::{Pack, Split};
use residuum::device::{Device, DeviceKind};
use residuum::exec::{Session, Start};
use residuum::graph::Graph;
use residuum::ops::{AugmentFwd, augment};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::tensor::DType;
use residuum::transform::{Affine, Mix, PixelBox, SampleParams};

const NORMALIZATION: Normalization = Normalization { mean: [0.1, 0.4, 0.7], std: [0.5, 0.2, 0.3] };

/// The operation over M photos of H x W in a graph of its own, with N samples.
fn recorded([photos, height, width, samples]: [usize; 4], dtype: DType) -> Graph {
    let mut graph = Graph::new(DType::F32);
    let pixels = graph.input("pixels", [photos, height, width, 3], DType::U8);
    let rows = graph.input("rows", [samples], DType::I32);
    let params = graph.input("params", [samples, SampleParams::NUM_ELEMS], DType::F32);
    let op = AugmentFwd { normalization: NORMALIZATION, dtype };
    let images = augment(&mut graph, "images", [pixels, rows, params], op).unwrap();
    graph.keep(images);
    graph
}

/// Writes the operands and runs.
fn run(session: &mut Session, pixels: &[u8], rows: &[i32], params: &[SampleParams]) {
    let slot = |session: &Session, name| session.plan(0).slot(name).unwrap();
    let [of_pixels, of_rows, of_params] = ["pixels", "rows", "params"].map(|name| slot(session, name));
    session.write(&of_pixels, pixels).unwrap();
    session.write(&of_rows, rows).unwrap();
    session.write(&of_params, SampleParams::as_floats(params)).unwrap();
    session.run_micro_batch(0).unwrap_or_else(|error| panic!("{error}"));
}

fn on_cpu(dims: [usize; 4], pixels: &[u8], rows: &[i32], params: &[SampleParams]) -> Vec<f32> {
    let mut session = Session::new(plan(&[&recorded(dims, DType::F32)], DeviceKind::Cpu).unwrap()).unwrap();
    run(&mut session, pixels, rows, params);
    session.read::<f32>(&session.plan(0).slot("images").unwrap()).unwrap().into_owned()
}

fn batch(pack: &Arc<Pack>, policy: &str, contents: BatchContents) -> Batch {
    let options = LoaderOptions {
        batch_size: 7,
        augment: policy.parse::<Augment>().unwrap(),
        normalization: NORMALIZATION,
        contents,
        seed: 5,
        workers: 1,
        prefetch: 1,
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
    ] {
        let expected = batch(&pack, policy, BatchContents::Images);
        for (contents, photos) in [(BatchContents::Pixels, 7), (BatchContents::Indices, 19)] {
            let batch = batch(&pack, policy, contents);
            assert!(
                batch.images.is_empty() && batch.pixels.is_empty() == (contents == BatchContents::Indices)
            );
            assert_eq!(
                (&batch.params, &batch.labels, &batch.partner_labels, &batch.weights),
                (&expected.params, &expected.labels, &expected.partner_labels, &expected.weights)
            );
            let pixels = if contents == BatchContents::Pixels { &batch.pixels } else { &everything };
            let images = on_cpu([photos, 22, 22, 7], pixels, &batch.rows, &batch.params);
            let error = images
                .iter()
                .zip(&expected.images)
                .fold(0.0f32, |most, (a, b)| if (a - b).abs() <= most { most } else { (a - b).abs() });
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

/// Photos, rows and parameters; one row is padding.
type Operands = (Vec<u8>, Vec<i32>, Vec<SampleParams>);

/// Operands of `policy`, whose maps also serve images that are not square.
fn operands([photos, height, width, samples]: [usize; 4], policy: &str) -> Operands {
    let mut stream = Stream::new(7, height as u32, width as u32, Use::Scenes);
    let pixels = (0..photos * height * width * 3).map(|_| stream.below(256) as u8).collect();
    let policy: Augment = policy.parse().unwrap();
    let mut rows: Vec<i32> = (0..samples).map(|_| stream.below(photos as u32) as i32).collect();
    rows[samples / 2] = -1;
    let size = height.min(width);
    let params = (0..samples as u32).map(|sample| {
        let mix = policy.draw_mix(size, 1, 2, width as u32);
        let params = policy.draw(size, 0xFEDC_BA98_7654_3210, 2, sample, || 120.0);
        SampleParams { mix: Mix { partner: samples as i32 - 1 - sample as i32, ..mix }, ..params }
    });
    (pixels, rows, params.collect())
}

/// Every element, as f64, from memory that was NaN before.
fn on_device(
    dims: [usize; 4],
    dtype: DType,
    open: Open,
    watch: Watch,
    (pixels, rows, params): &Operands,
) -> Vec<f64> {
    let device = open(watch);
    let program = plan(&[&recorded(dims, dtype)], device.kind()).unwrap();
    let mut session = Session::on(program, device, Start::Zeros).unwrap();
    session.fill_memory(0xFF).unwrap();
    run(&mut session, pixels, rows, params);
    let slot = session.plan(0).slot("images").unwrap();
    match dtype {
        DType::Bf16 => session.read::<bf16>(&slot).unwrap().iter().map(|v| v.to_f64()).collect(),
        _ => session.read::<f32>(&slot).unwrap().iter().map(|&v| f64::from(v)).collect(),
    }
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
    ];
    on_each_device(|_, open| {
        // Photos, height, width, samples: groups of four pixels and single ones, one block and several.
        for dims in [[5, 7, 9, 3], [2, 6, 10, 4], [1, 1, 1, 1], [3, 37, 29, 5], [2, 48, 24, 2]] {
            for policy in policies {
                let operands = operands(dims, policy);
                let expected = on_cpu(dims, &operands.0, &operands.1, &operands.2);
                // Colours reach 2000 before they are clamped; bf16 keeps 8 bits of numbers below 5.
                for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 2e-2)] {
                    let got = on_device(dims, dtype, open, JUDGED, &operands);
                    assert_eq!(got.len(), expected.len());
                    for (i, (a, b)) in expected.iter().zip(&got).enumerate() {
                        let error = (f64::from(*a) - b).abs();
                        assert!(error <= tolerance, "{policy} {dims:?} {dtype}: [{i}] is {b}, not {a}");
                    }
                }
                let [first, second] = ORDERS.map(|watch| on_device(dims, DType::F32, open, watch, &operands));
                let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(first), bits(second), "{policy} {dims:?}: order of threads");
            }
        }
    });
}

#[test]
fn flips_and_whole_pixels_are_exact() {
    let dims = [4, 11, 11, 4];
    let (pixels, rows, mut params) = operands(dims, "none");
    params[0].inverse = Affine::flip(11);
    params[1].inverse = Affine::flip(11).after(Affine::translation(3.0, -2.0));
    params[3].inverse = Affine::translation(f32::MAX, 1e30);
    params[3].erased = PixelBox { left: 2, top: 0, right: 9, bottom: 11 };
    let expected = on_cpu(dims, &pixels, &rows, &params);
    let operands = (pixels, rows, params);
    on_each_device(|device, open| {
        // A GPU rounds once where the host multiplies and adds.
        let tolerance = if device == Device::Simt { 0.0 } else { 1e-6 };
        let got = on_device(dims, DType::F32, open, JUDGED, &operands);
        for (a, b) in expected.iter().zip(&got) {
            assert!((f64::from(*a) - b).abs() <= tolerance, "{b} instead of {a}");
        }
    });
}

#[test]
fn these_tests_hold_on_the_software_gpu() {
    again::run_tests_again(&[""], "on_the_software_gpu");
}
