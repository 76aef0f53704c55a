//! Kernels for the GPU: one image a file and architecture, and what the assembler says about them.

use std::path::Path;
use std::process::Command;

use crate::arch::{self, Arch};
use crate::jobs::{self, Job, Output};
use crate::nvcc::{Nvcc, read_env};
use crate::ptxas::{self, Usage};
use crate::source::KernelFile;

/// Variables by which people change nvcc's command line.
const NVCC_VARIABLES: [&str; 3] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// All images of a build.
#[derive(Debug)]
pub struct Cuda {
    /// As in `13.0.88`.
    pub nvcc_version: String,
    /// What was compiled for.
    pub archs: Vec<Arch>,
    /// One a file and architecture.
    pub images: Vec<Image>,
}

/// One compiled file.
#[derive(Debug)]
pub struct Image {
    /// Name of the kernel file without its ending.
    pub file: String,
    /// What it is for.
    pub arch: Arch,
    /// The machine code, or the assembly text.
    pub output: Output,
    /// One a kernel; none for assembly text, which the driver assembles later.
    pub usages: Vec<Usage>,
}

/// Compiles every file for every architecture asked for; `None` without nvcc.
pub fn compile(files: &[KernelFile], out_dir: &Path) -> Result<Option<Cuda>, String> {
    let archs = read_env("RESIDUUM_CUDA_ARCH").unwrap_or_else(|| arch::DEFAULT.to_string());
    if archs == "none" {
        return Ok(None);
    }
    let Some(nvcc) = Nvcc::find()? else { return Ok(None) };
    let archs = arch::parse_list(&archs, &nvcc.known_archs)?;
    let environment = NVCC_VARIABLES.map(|name| read_env(name).unwrap_or_default()).join("\0");
    let pairs: Vec<(&KernelFile, &Arch)> =
        files.iter().flat_map(|file| archs.iter().map(move |arch| (file, arch))).collect();
    let jobs = pairs.iter().map(|(file, arch)| job(&nvcc, &environment, file, arch)).collect();
    let outputs = jobs::run_all(jobs, &out_dir.join("cuda")).map_err(with_remedy)?;
    let mut images = Vec::new();
    let mut faults = Vec::new();
    for ((file, arch), output) in pairs.into_iter().zip(outputs) {
        let usages = ptxas::parse(&output.log);
        faults.extend(find_faults(file, arch, &output.log, &usages));
        for warning in ptxas::warnings(&output.log) {
            println!("cargo::warning={} for {arch}: {warning}", file.stem);
        }
        images.push(Image { file: file.stem.clone(), arch: arch.clone(), output, usages });
    }
    faults.dedup();
    if faults.is_empty() {
        Ok(Some(Cuda { nvcc_version: nvcc.version, archs, images }))
    } else {
        Err(faults.join("\n"))
    }
}

fn job(nvcc: &Nvcc, environment: &str, file: &KernelFile, arch: &Arch) -> Job {
    let mut command = Command::new(&nvcc.path);
    command.args(["-std=c++17", "-O3", "-lineinfo", "-Xptxas", "-v"]);
    command.arg(if arch.is_ptx { "-ptx" } else { "-cubin" }).arg("-gencode").arg(arch.gencode());
    command.arg(&file.path);
    Job {
        name: format!("{}.{arch}", file.stem),
        extension: if arch.is_ptx { "ptx" } else { "cubin" },
        command,
        inputs: format!("{}\0{environment}\0{}", nvcc.version, file.text_with_headers),
    }
}

/// What in a compiled file must not be shipped.
fn find_faults(file: &KernelFile, arch: &Arch, log: &str, usages: &[Usage]) -> Vec<String> {
    let path = file.path.display();
    let mut faults: Vec<String> =
        ptxas::fatal_warnings(log).iter().map(|line| format!("{path} for {arch}: {line}")).collect();
    for usage in usages {
        let name = &usage.kernel;
        if file.entries.iter().all(|entry| entry.name != *name) {
            faults.push(format!(
                "{path}: `{name}` is a kernel without KERNEL({name}, Args, threads) on a line"
            ));
        }
        let allowed =
            file.allowed_spills.iter().filter(|spill| spill.kernel == *name).map(|spill| spill.bytes).max();
        if usage.spill_bytes > allowed.unwrap_or(0) {
            faults.push(format!(
                "{path} for {arch}: `{name}` spills {} bytes of registers; make it smaller, or accept it with \
                 `// ALLOW_SPILL({name}, {}): reason`",
                usage.spill_bytes, usage.spill_bytes
            ));
        }
    }
    if !arch.is_ptx {
        let compiled = |name: &str| usages.iter().any(|usage| usage.kernel == name);
        faults.extend(
            file.entries
                .iter()
                .filter(|entry| !compiled(&entry.name))
                .map(|entry| format!("{path} for {arch}: the assembler says nothing about `{}`", entry.name)),
        );
    }
    faults
}

fn with_remedy(errors: String) -> String {
    let remedy = if errors.contains("unsupported GNU version") || errors.contains("unsupported clang version")
    {
        "\nthis nvcc does not know the host compiler; name an older one, as in NVCC_CCBIN=g++-13"
    } else if errors.contains("host compiler") {
        "\nnvcc needs a C++ compiler on the host; install g++, or name one in NVCC_CCBIN"
    } else {
        ""
    };
    errors + remedy
}
