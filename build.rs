//! Compiles the kernels, for the GPU where there is nvcc and for the emulator where there is a C++ compiler; writes their
//! argument structs, shared constants and launches in Rust; and tells the program which commit it was built from.
//!
//! `RESIDUUM_CUDA_ARCH` lists the architectures (`all` of those in common use, `none` leaves the GPU out), else they are
//! those of the GPUs that are there, or all; `RESIDUUM_REQUIRE_CUDA=1` makes a build without kernels for the GPU an error.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

#[path = "build/arch.rs"]
mod arch;
#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/cuda.rs"]
mod cuda;
#[path = "build/declared.rs"]
mod declared;
#[path = "build/host.rs"]
mod host;
#[path = "build/jobs.rs"]
mod jobs;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/places.rs"]
mod places;
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

/// A build outside a checkout says nothing, and neither does one of an archive that was unpacked in another checkout.
fn tell_commit() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    let own = env::var("CARGO_MANIFEST_DIR").ok().and_then(|dir| fs::canonicalize(dir).ok());
    let of_commit = git(&["rev-parse", "--show-toplevel"]).and_then(|dir| fs::canonicalize(dir).ok());
    if own.is_none() || own != of_commit {
        return;
    }
    println!("cargo::rustc-env=RESIDUUM_COMMIT={commit}");
    // In a worktree they are not below `.git`.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What git prints, if it is there and does as it is told.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn build_kernels() -> Result<(), String> {
    println!("cargo::rustc-check-cfg=cfg(residuum_simt)");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    let folder = Path::new("kernels");
    let mut files = kernel_files(folder, folder)?;
    let cuda = cuda::compile(&files, &out_dir)?;
    if cuda.is_none() {
        without_cuda()?;
    }
    let listing = table::Listing::new(&files)?;
    listing.write_table(cuda.as_ref(), &out_dir)?;
    bindings::write(&files, &listing, &out_dir)?;

    // Kernels with planted faults, on which the emulator is tested; a packaged crate comes without them.
    let mut tests = kernel_files(Path::new("tests/kernels"), folder)?;
    let host_table = ("HOST_KERNELS", "crate::device::simt", "host_kernels.rs");
    let test_table = ("TEST_KERNELS", "residuum::device::simt", "test_kernels.rs");
    for (files, (name, simt, file)) in [(&files, host_table), (&tests, test_table)] {
        table::Listing::new(files)?.write_host_table(name, simt, file, &out_dir)?;
    }
    files.append(&mut tests);
    if host::compile(&files, folder, &out_dir)? {
        println!("cargo::rustc-cfg=residuum_simt");
    }
    Ok(())
}

/// Says why there are no kernels for the GPU, or fails where that is not wanted.
fn without_cuda() -> Result<(), String> {
    let is_required = nvcc::read_env("RESIDUUM_REQUIRE_CUDA").is_some_and(|value| value != "0");
    let is_left_out = nvcc::read_env("RESIDUUM_CUDA_ARCH").is_some_and(|archs| archs == "none");
    let remedy = "run scripts/install-nvcc.sh (no root needed), or set NVCC, and build again";
    match (is_required, is_left_out) {
        (true, true) => {
            return Err("RESIDUUM_REQUIRE_CUDA is set, but RESIDUUM_CUDA_ARCH is none; unset one".into());
        }
        (true, false) => {
            return Err(format!("RESIDUUM_REQUIRE_CUDA is set, but no nvcc was found; {remedy}"));
        }
        (false, true) => {}
        (false, false) => {
            println!("cargo::warning=no nvcc was found: this build has no CUDA kernels; {remedy}");
        }
    }
    Ok(())
}

/// The `.cu` files of a folder that may be absent, by name.
fn kernel_files(folder: &Path, headers: &Path) -> Result<Vec<KernelFile>, String> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries =
        fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let is_kernel_file = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "cu");
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(is_kernel_file).collect();
    paths.sort();
    paths.iter().map(|path| KernelFile::read(path, headers)).collect()
}
