//! The ladder of kernels/ladder.cu: every step computes the product, and its counts show what is new in it.

#[path = "common/again.rs"]
mod again;
#[path = "common/devices.rs"]
mod devices;

use devices::{Watch, on_each_device};
use half::bf16;
use residuum::device::{KernelDevice, LaunchArgs};
use residuum::profile::ladder::{Product, RUNGS, Rung};
use residuum::rng::{Stream, Use};

/// So many numbers in [-1, 1), rounded to bf16.
fn numbers(seed: u64, many: usize) -> Vec<bf16> {
    let mut stream = Stream::new(seed, 0, 0, Use::Init);
    (0..many).map(|_| bf16::from_f32(2.0 * stream.uniform() - 1.0)).collect()
}

/// C as the step computes it, in memory that held NaN.
fn on_device(
    rung: &Rung,
    product: Product,
    [a, b]: [&[bf16]; 2],
    device: &mut dyn KernelDevice,
) -> Vec<bf16> {
    let [slot_a, slot_b, slot_c, workspace] = product.slots();
    let arena_address = device.allocate(workspace.offset_bytes).unwrap();
    let mut c = vec![bf16::NAN; product.m * product.n];
    for (slot, contents) in [(slot_a, a), (slot_b, b), (slot_c, &c[..])] {
        device.upload(slot.offset_bytes, bytemuck::cast_slice(contents)).unwrap();
    }
    let args = LaunchArgs { arena_address, inputs: &[slot_a, slot_b], outputs: &[slot_c], workspace };
    let mut record = |launcher: &mut dyn residuum::device::Launcher| {
        launcher.bind(&args, &[]);
        rung.launch(&args, launcher)
    };
    device.run((0, 0, 0), &mut record).unwrap_or_else(|error| panic!("{}: {error}", rung.name));
    device.download(slot_c.offset_bytes, bytemuck::cast_slice_mut(&mut c)).unwrap();
    c
}

#[test]
fn every_step_computes_the_product() {
    for product in [Product { m: 128, n: 256, k: 64 }, Product { m: 256, n: 128, k: 320 }] {
        let Product { m, n, k } = product;
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        // Of a sum of k terms in f32, and of its rounding to bf16, by the sum of the terms' sizes.
        let (rounding, summing) = (0.5f64.powi(8), k as f64 * f64::from(f32::EPSILON));
        let expected: Vec<(f64, f64)> = (0..m * n)
            .map(|at| {
                let terms = (0..k).map(|l| a[at / n * k + l].to_f64() * b[l * n + at % n].to_f64());
                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
            })
            .collect();
        on_each_device(|device, open| {
            for rung in &RUNGS {
                let c = on_device(rung, product, [&a, &b], &mut *open(Watch { seed: 5, judged: true }));
                for (at, (got, (sum, size))) in c.iter().zip(&expected).enumerate() {
                    let (error, tolerance) =
                        ((got.to_f64() - sum).abs(), rounding * sum.abs() + summing * size);
                    let place = (at / n, at % n);
                    assert!(
                        error <= tolerance,
                        "{} on {device}, {product:?}, {place:?}: {got}, not {sum}",
                        rung.name
                    );
                }
            }
        });
    }
}

#[test]
fn every_step_computes_the_same_bits_in_any_order_of_threads() {
    let product = Product { m: 128, n: 128, k: 192 };
    let (a, b) = (numbers(3, product.m * product.k), numbers(4, product.k * product.n));
    on_each_device(|device, open| {
        for rung in &RUNGS {
            let [first, second] = [1, 2]
                .map(|seed| on_device(rung, product, [&a, &b], &mut *open(Watch { seed, judged: false })));
            assert!(first == second, "{} on {device}", rung.name);
        }
    });
}

#[cfg(residuum_simt)]
#[test]
fn counts_show_what_is_new_in_each_step() {
    use residuum::device::counts::{Counts, LOADS_IN_FLIGHT};
    use residuum::profile::Gpu;
    use residuum::profile::ladder::Ladder;

    let product = Product { m: 512, n: 512, k: 512 };
    let ladder = Ladder::count(product, &Gpu::named("h100").unwrap(), "this".into()).unwrap();
    let names: Vec<&str> = ladder.steps.iter().map(|counted| counted.step).collect();
    assert_eq!(names, ["naive", "coalesced", "shared", "tensor", "swizzled", "pipelined", "wide"]);
    let counts: Vec<_> = ladder.steps.iter().map(|counted| counted.gpu.counts).collect();
    let [naive, coalesced, shared, tensor, swizzled, pipelined, wide] = counts[..] else { unreachable!() };

    // Of 2 k loads and a store, half the loads and the store take a sector a lane.
    let requests = (512 * 512 / 32 * (2 * 512 + 1)) as u64;
    assert_eq!((naive.global_requests, coalesced.global_requests), (requests, requests));
    let warps = 512 * 512 / 32;
    assert_eq!(naive.global_sectors, warps * (512 * (32 + 1) + 32));
    assert_eq!(coalesced.global_sectors, coalesced.ideal_sectors);
    // Every tile reads its rows of a and columns of b once.
    let tiles_of = |extent: u64| (512 / extent).pow(2) * 2 * extent * 512 * 2;
    assert!(naive.l2_bytes > 10 * tiles_of(64) && coalesced.l2_bytes > 10 * tiles_of(64));
    for counts in [shared, tensor, swizzled, pipelined] {
        assert_eq!(counts.l2_bytes, tiles_of(64));
    }
    assert_eq!(wide.l2_bytes, tiles_of(128));
    // An instruction of a warp has 2048 products.
    assert_eq!([naive, coalesced, shared].map(|counts| counts.tensor_instructions), [0; 3]);
    for counts in [tensor, swizzled, pipelined, wide] {
        assert_eq!(counts.tensor_instructions, 512 * 512 * 512 / 2048);
    }
    assert!(tensor.bank_conflicts() > 0);
    assert_eq!(tensor.ideal_phases, swizzled.ideal_phases);
    for counts in [shared, swizzled, pipelined, wide] {
        assert_eq!(counts.bank_conflicts(), 0);
    }
    let round_trips = |counts: Counts| counts.round_trips(LOADS_IN_FLIGHT);
    assert!(round_trips(pipelined) < round_trips(swizzled));
    // Of a larger tile every element that is read from shared memory is used more often.
    assert!(wide.shared_phases < pipelined.shared_phases);
    assert!(shared.shared_phases > tensor.shared_phases);
}

#[test]
fn these_tests_hold_on_the_software_gpu() {
    again::run_tests_again(&["every_step"], "on_the_software_gpu");
}
