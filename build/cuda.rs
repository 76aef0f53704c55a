//! Kernels for the GPU: one image a file and architecture, and what the assembler says about them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::DeflateEncoder;

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
    /// The machine code, or the assembly text, as [`deflate`] leaves it.
    pub deflated: PathBuf,
    /// One a kernel; none for assembly text, which the driver assembles later.
    pub usages: Vec<Usage>,
}

/// Compiles every file for every architecture asked for; `None` without nvcc.
pub fn compile(files: &[KernelFile], out_dir: &Path) -> Result<Option<Cuda>, String> {
    let list = read_env("RESIDUUM_CUDA_ARCH");
    if list.as_deref() == Some("none") {
        return Ok(None);
    }
    let Some(nvcc) = Nvcc::find()? else { return Ok(None) };
    let list = list.unwrap_or_else(|| arch::list_for(&capabilities(), &nvcc.known_archs));
    let archs = arch::parse_list(&list, &nvcc.known_archs)?;
    let environment = NVCC_VARIABLES.map(|name| read_env(name).unwrap_or_default()).join("\0");
    let compiler = Compiler { nvcc: &nvcc, inputs: format!("{}\0{environment}", nvcc.version) };
    let folder = out_dir.join("cuda");

    let pairs: Vec<(&KernelFile, &Arch)> =
        files.iter().flat_map(|file| archs.iter().map(move |arch| (file, arch))).collect();
    let texts = compiler.texts(&pairs, &folder)?;
    let to_assemble = pairs.iter().zip(&texts).filter(|((_, arch), _)| !arch.is_ptx);
    let jobs = to_assemble.map(|((file, arch), text)| compiler.machine_code(file, arch, &text.path));
    let mut assembled =
        jobs::run_all(jobs.collect::<Result<_, _>>()?, &folder).map_err(with_remedy)?.into_iter();
    let mut images = Vec::new();
    let mut faults = Vec::new();
    for ((file, arch), text) in pairs.into_iter().zip(texts) {
        let (output, usages) = if arch.is_ptx {
            (text, Vec::new())
        } else {
            let output = assembled.next().expect("a result a job");
            let usages = ptxas::parse(&output.log);
            faults.extend(find_faults(file, arch, &output.log, &usages));
            for warning in ptxas::warnings(&output.log) {
                println!("cargo::warning={} for {arch}: {warning}", file.stem);
            }
            (output, usages)
        };
        let deflated = deflate(&output.path)?;
        images.push(Image { file: file.stem.clone(), arch: arch.clone(), deflated, usages });
    }
    faults.dedup();
    if faults.is_empty() {
        Ok(Some(Cuda { nvcc_version: nvcc.version, archs, images }))
    } else {
        Err(faults.join("\n"))
    }
}

/// The compute capabilities of this machine's GPUs, one a line; nothing without a driver.
fn capabilities() -> String {
    let answer =
        Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output();
    let answer = answer.ok().filter(|output| output.status.success());
    answer.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// nvcc, and what all its results depend on.
struct Compiler<'a> {
    nvcc: &'a Nvcc,
    inputs: String,
}

impl Compiler<'_> {
    /// The assembly texts that `pairs` need, one a pair; those that several need are compiled once.
    fn texts(&self, pairs: &[(&KernelFile, &Arch)], folder: &Path) -> Result<Vec<Output>, String> {
        let jobs: Vec<Job> = pairs
            .iter()
            .map(|(file, arch)| self.text(file, &arch.text_of(&file.text_with_headers)))
            .collect();
        let wanted: Vec<String> = jobs.iter().map(|job| job.name.clone()).collect();
        let different: BTreeMap<String, Job> = jobs.into_iter().map(|job| (job.name.clone(), job)).collect();
        let (names, jobs): (Vec<String>, Vec<Job>) = different.into_iter().unzip();
        let outputs = jobs::run_all(jobs, folder).map_err(with_remedy)?;
        for (name, output) in names.iter().zip(&outputs) {
            ptxas::warnings(&output.log)
                .iter()
                .for_each(|warning| println!("cargo::warning={name}: {warning}"));
        }
        let made: BTreeMap<String, Output> = names.into_iter().zip(outputs).collect();
        Ok(wanted.iter().map(|name| made[name].clone()).collect())
    }

    /// From source to assembly text.
    fn text(&self, file: &KernelFile, arch: &Arch) -> Job {
        let mut command = self.command(arch);
        command.args(["-ptx", "-std=c++17"]);
        Job {
            name: format!("{}.{arch}", file.stem),
            extension: "ptx",
            command,
            source: file.path.clone(),
            inputs: format!("{}\0{}", self.inputs, file.text_with_headers),
        }
    }

    /// From assembly text to machine code.
    fn machine_code(&self, file: &KernelFile, arch: &Arch, text: &Path) -> Result<Job, String> {
        let mut command = self.command(arch);
        command.args(["-cubin", "-Xptxas", "-v"]);
        let read = fs::read_to_string(text).map_err(|error| format!("{}: {error}", text.display()))?;
        Ok(Job {
            name: format!("{}.{arch}", file.stem),
            extension: "cubin",
            command,
            source: text.to_path_buf(),
            inputs: format!("{}\0{read}", self.inputs),
        })
    }

    fn command(&self, arch: &Arch) -> Command {
        let mut command = Command::new(&self.nvcc.path);
        command.args(["-O3", "-lineinfo", "-gencode"]).arg(arch.gencode());
        command
    }
}

/// Writes the file's contents, deflated, beside it, unless a build before has; returns where. Every program and test carries
/// all images, and needs a few.
fn deflate(path: &Path) -> Result<PathBuf, String> {
    let deflated = jobs::with_ending(path, "deflated");
    if deflated.exists() {
        return Ok(deflated);
    }
    let write = || {
        let unfinished = jobs::with_ending(&deflated, "unfinished");
        let mut encoder = DeflateEncoder::new(File::create(&unfinished)?, Compression::default());
        encoder.write_all(&fs::read(path)?)?;
        encoder.finish()?;
        fs::rename(&unfinished, &deflated)
    };
    write().map_err(|error| format!("{} cannot be written: {error}", deflated.display()))?;
    Ok(deflated)
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
    let compiled = |name: &str| usages.iter().any(|usage| usage.kernel == name);
    faults.extend(
        file.entries
            .iter()
            .filter(|entry| !compiled(&entry.name))
            .map(|entry| format!("{path} for {arch}: the assembler says nothing about `{}`", entry.name)),
    );
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
