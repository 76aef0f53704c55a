//! `residuum devices`: what this build can run on here, what is missing, and how to get it.

use std::env;

use clap::Args;
use pulp::Arch;

use super::output;
use crate::device::cpu::conv::mixed::amx;
use crate::device::cuda::{Driver, Gpu, Nccl, driver_package_version, has_warp_groups};
use crate::device::kernels::{KERNELS, RESOURCES, Resources, TOOLKIT};
use crate::device::{Device, NO_EMULATOR};
use crate::error::Result;
use crate::report::{Align, Table};
use crate::show::show_bytes;

/// List the devices this build can use here, and what is missing
#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    /// List the kernels of this build with the registers, spills and shared memory they take
    #[arg(long)]
    kernels: bool,
}

impl DevicesArgs {
    pub(super) fn run(self) -> Result<()> {
        output::print(if self.kernels { kernels() } else { devices() })?;
        Ok(())
    }
}

/// One row a device, then one row a thing that devices need.
fn devices() -> String {
    let mut devices =
        Table::new([("device", Align::Left), ("usable", Align::Left), ("details", Align::Left)]);
    let mut add = |device: Device, details: String| match device.check() {
        Ok(()) => devices.row([&device.to_string(), "yes", &details]),
        Err(reason) if details.is_empty() => devices.row([&device.to_string(), "no", &reason.to_string()]),
        Err(reason) => devices.row([&device.to_string(), "no", &format!("{details}; {reason}")]),
    };
    let threads = rayon::current_num_threads();
    let matrix_unit = amx().map_or_else(|absence| absence.to_string(), |()| "AMX multiplies bf16".into());
    add(Device::Cpu, format!("{threads} threads, {} vectors, f32 and bf16; {matrix_unit}", vectors()));
    let driver = Driver::start();
    let gpus = driver.as_ref().ok().and_then(|driver| driver.gpus().ok()).unwrap_or_default();
    if gpus.is_empty() {
        add(Device::Cuda(0), String::new());
    }
    for gpu in gpus {
        let free_bytes = driver.as_ref().ok().and_then(|driver| driver.free_bytes(gpu.ordinal).ok());
        let images = driver.as_ref().ok().and_then(|driver| driver.choose_images(&gpu).ok());
        add(Device::Cuda(gpu.ordinal), describe(&gpu, free_bytes, images));
    }
    add(Device::Simt, format!("{} kernels on the host's cores", KERNELS.len()));

    let mut parts = Table::new([("part", Align::Left), ("what there is", Align::Left)]);
    let version = |(major, minor)| format!("up to CUDA {major}.{minor}");
    let driver = driver.map_or_else(|_| "none".into(), |driver| version(driver.cuda_version));
    let package = driver_package_version().map_or_else(String::new, |package| format!(", package {package}"));
    parts.row(["NVIDIA driver", &format!("{driver}{package}")]);
    if let Ok(visible) = env::var("CUDA_VISIBLE_DEVICES") {
        parts.row(["CUDA_VISIBLE_DEVICES", &format!("`{visible}`")]);
    }
    let compiled = TOOLKIT.as_ref().map_or_else(
        || "none; run scripts/install-nvcc.sh or set NVCC, and build again".into(),
        |toolkit| {
            format!("{} for {}, by nvcc {}", KERNELS.len(), toolkit.archs.join(" "), toolkit.nvcc_version)
        },
    );
    parts.row(["CUDA kernels", &compiled]);
    let nccl = match Nccl::open() {
        Ok(library) => format!("{} ({}), joins ranks on GPUs", library.version, library.file),
        Err(reason) => reason.to_string(),
    };
    parts.row(["NCCL", &nccl]);
    let emulator = if cfg!(residuum_simt) { "the same kernels, compiled for the host" } else { NO_EMULATOR };
    parts.row(["emulator", emulator]);
    format!("{devices}\n{parts}")
}

/// One line on a GPU and the images of this build that it runs, if there are any.
fn describe(gpu: &Gpu, free_bytes: Option<usize>, images: Option<&str>) -> String {
    let (major, minor) = gpu.capability;
    let memory = match free_bytes {
        Some(free) => format!("{} free of {}", show_bytes(free), show_bytes(gpu.memory_bytes)),
        None => format!("{}, free unknown", show_bytes(gpu.memory_bytes)),
    };
    let images = images.map_or_else(String::new, |arch| format!("; {}", products(gpu.capability, arch)));
    format!("{}, compute capability {major}.{minor}, {memory}{images}", gpu.name)
}

/// By which instructions images for `arch` multiply in bf16 on a GPU of this compute capability.
fn products(capability: (u32, u32), arch: &str) -> String {
    match capability {
        _ if has_warp_groups(arch) => format!("{arch}: bf16 by wgmma"),
        // Blackwell in data centres; in graphics cards, from 12.0 on, it has no tensor memory.
        (10 | 11, _) => format!(
            "{arch}: bf16 by mma.sync; there are no kernels for its tcgen05, whose sums lie in tensor memory"
        ),
        _ => format!("{arch}: bf16 by mma.sync"),
    }
}

/// The widest vectors that the CPU's code uses here.
fn vectors() -> &'static str {
    match Arch::new() {
        Arch::Scalar => "no",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "AVX2",
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "AVX-512",
        _ => "SIMD",
    }
}

/// One row a kernel, with its registers on each architecture.
fn kernels() -> String {
    let mut table = Table::new([
        ("kernel", Align::Left),
        ("file", Align::Left),
        ("threads", Align::Right),
        ("shared", Align::Right),
        ("registers", Align::Left),
    ]);
    for kernel in &KERNELS {
        let of_kernel = || RESOURCES.iter().filter(|resources| resources.kernel == kernel.name);
        let shared = of_kernel().map(|resources| resources.shared_bytes).max();
        let registers = of_kernel().map(|Resources { arch, registers, spill_bytes, .. }| match spill_bytes {
            0 => format!("{arch} {registers}"),
            _ => format!("{arch} {registers} and {spill_bytes} bytes spilt"),
        });
        table.row([
            kernel.name.to_string(),
            format!("{}.cu", kernel.file),
            kernel.block_threads.to_string(),
            shared.map_or_else(|| "-".into(), |bytes| show_bytes(bytes as usize)),
            registers.collect::<Vec<_>>().join(", "),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_listed_with_total_and_free_memory() {
        let gpu = Gpu { ordinal: 1, name: "NVIDIA H100".into(), capability: (9, 0), memory_bytes: 80 << 30 };
        let free = describe(&gpu, Some(3 << 29), Some("sm_90a"));
        assert_eq!(
            free,
            "NVIDIA H100, compute capability 9.0, 1.50 GiB free of 80.00 GiB; sm_90a: bf16 by wgmma"
        );
        assert!(describe(&gpu, None, None).ends_with("80.00 GiB, free unknown"));
    }

    #[test]
    fn the_instructions_that_multiply_are_told() {
        assert_eq!(products((8, 6), "sm_86"), "sm_86: bf16 by mma.sync");
        assert_eq!(products((9, 0), "compute_90"), "compute_90: bf16 by mma.sync");
        assert!(products((10, 0), "compute_90").contains("no kernels for its tcgen05"));
        assert_eq!(products((12, 0), "compute_90"), "compute_90: bf16 by mma.sync");
    }
}
