//! Kernels of tests/kernels on the emulator.

use residuum::device::simt::{Checks, HostKernel, SimtDevice};
use residuum::device::{KernelDevice, LaunchArgs, Launcher, Slot};
use residuum::rng::{Stream, Use};
use residuum::tensor::DType;

include!(concat!(env!("OUT_DIR"), "/test_kernels.rs"));

pub fn kernel(name: &str) -> &'static HostKernel {
    TEST_KERNELS.iter().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no test kernel {name}"))
}

/// Words of an argument struct.
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn pair(low: usize, high: usize) -> u64 {
    low as u64 | (high as u64) << 32
}

/// A device with operands laid one right after another, as a planner does.
pub struct Bench {
    pub device: SimtDevice,
    pub address: u64,
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Slot>,
    pub end_bytes: usize,
}

impl Bench {
    pub fn new(seed: u64, checks: Checks) -> Bench {
        let mut device = SimtDevice::new(seed, checks).unwrap();
        let address = device.allocate(16 << 20).unwrap();
        Bench { device, address, inputs: Vec::new(), outputs: Vec::new(), end_bytes: 0 }
    }

    pub fn slot(&mut self, num_elems: usize, dtype: DType) -> Slot {
        let slot = Slot { offset_bytes: self.end_bytes, shape: [num_elems].into(), dtype };
        self.end_bytes = (self.end_bytes + slot.num_bytes()).next_multiple_of(64);
        slot
    }

    pub fn input<T: bytemuck::Pod>(&mut self, values: &[T], dtype: DType) -> u64 {
        let slot = self.slot(values.len(), dtype);
        self.device.upload(slot.offset_bytes, bytemuck::cast_slice(values)).unwrap();
        self.inputs.push(slot);
        self.address + slot.offset_bytes as u64
    }

    pub fn output(&mut self, num_elems: usize, dtype: DType) -> u64 {
        let slot = self.slot(num_elems, dtype);
        self.device.poison(slot.offset_bytes, slot.num_bytes());
        self.outputs.push(slot);
        self.address + slot.offset_bytes as u64
    }

    pub fn run(
        &mut self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[u8],
    ) -> residuum::Result<()> {
        let workspace = Slot { offset_bytes: self.end_bytes, shape: [0].into(), dtype: DType::U8 };
        let args = LaunchArgs {
            arena_address: self.address,
            inputs: &self.inputs,
            outputs: &self.outputs,
            workspace,
        };
        self.device.bind(&args, &[]);
        self.device.run_kernel(kernel(name), grid, block, shared_bytes, arguments)
    }

    pub fn result<T: bytemuck::Pod>(&self, output: usize) -> Vec<T> {
        let slot = self.outputs[output];
        let mut values = vec![T::zeroed(); slot.num_bytes() / size_of::<T>()];
        self.device.download(slot.offset_bytes, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }
}

pub fn random(num_elems: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0, 0, Use::Augment);
    (0..num_elems).map(|_| stream.normal()).collect()
}

/// Runs `body` with checks and so many seeds, and without; all must give the same bits.
pub fn same_with_seeds<T: PartialEq + std::fmt::Debug>(
    num_seeds: u64,
    body: impl Fn(Bench) -> Vec<T>,
) -> Vec<T> {
    let expected = body(Bench::new(0, Checks::Off));
    for seed in 1..=num_seeds {
        assert_eq!(expected, body(Bench::new(seed, Checks::Full)), "seed {seed}");
    }
    expected
}

/// a b in f64, of row-major matrices of m x k and k x n elements.
pub fn product(a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let element =
        |i: usize, j: usize| (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

pub fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64) {
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - expected).abs();
        assert!(error <= tolerance, "element {i}: {actual} for {expected}");
    }
}
