//! Compiles the kernels, for the GPU where there is nvcc and for the emulator where there is a C++ compiler, and
//! tells the program which commit it was built from.
//!
//! `RESIDUUM_CUDA_ARCH` lists the architectures (`none` leaves the GPU out); `RESIDUUM_REQUIRE_CUDA=1` makes a
//! build without kernels for the GPU an error.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

#[path = "build/arch.rs"]
mod arch;
#[path = "build/cuda.rs"]
mod cuda;
#[path = "build/host.rs"]
mod host;
#[path = "build/jobs.rs"]
mod jobs;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/ptxas.rs"]
mod ptxas;
#[path = "build/source.rs"]
mod source;
#[path = "build/table.rs"]
mod table;

use source::KernelFile;

fn main() -> ExitCode {
    tell_commit();
    match build_kernels() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            message.lines().for_each(|line| println!("cargo::error={line}"));
            ExitCode::FAILURE
        }
    }
}

/// A build outside a checkout says nothing.
fn tell_commit() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    for path in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Some(output) = output.ok().filter(|output| output.status.success()) {
        println!("cargo::rustc-env=RESIDUUM_COMMIT={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

fn build_kernels() -> Result<(), String> {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rustc-check-cfg=cfg(residuum_simt)");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    let files = kernel_files()?;
    let cuda = cuda::compile(&files, &out_dir)?;
    let is_required = nvcc::read_env("RESIDUUM_REQUIRE_CUDA").is_some_and(|value| value != "0");
    if cuda.is_none() {
        let left_out = nvcc::read_env("RESIDUUM_CUDA_ARCH").is_some_and(|archs| archs == "none");
        let reason = if left_out { "RESIDUUM_CUDA_ARCH=none" } else { "no nvcc was found" };
        let remedy = "run scripts/install-nvcc.sh (no root needed), or set NVCC, and build again";
        if is_required {
            return Err(format!("RESIDUUM_REQUIRE_CUDA is set, but {reason}; {remedy}"));
        }
        if !left_out {
            println!("cargo::warning={reason}: this build has no CUDA kernels; {remedy}");
        }
    }
    let has_host = host::compile(&files, &out_dir)?;
    if has_host {
        println!("cargo::rustc-cfg=residuum_simt");
    }
    table::write(&files, cuda.as_ref(), has_host, &out_dir)
}

/// The `.cu` files, by name.
fn kernel_files() -> Result<Vec<KernelFile>, String> {
    let folder = Path::new("kernels");
    let entries =
        fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "cu"))
        .collect();
    paths.sort();
    paths.iter().map(|path| KernelFile::read(path)).collect()
}
