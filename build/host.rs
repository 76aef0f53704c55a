//! Kernels for the emulator: the same files, compiled as C++ for the host.
//!
//! Each is compiled twice, plain and with the compiler's sanitizers announcing every memory access and
//! undefined arithmetic; `kernels/host_unit.cpp` tells how.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::declared::Layout;
use crate::jobs::{self, Job};
use crate::source::{self, KernelFile};

/// What makes a kernel checked.
const CHECKED: [&str; 3] = [
    "-DRESIDUUM_SIMT_CHECKED",
    "-fsanitize=thread,bounds,alignment",
    "-fsanitize=signed-integer-overflow,integer-divide-by-zero,shift",
];

/// Compiles every file and links them into the crate; false, with a warning, without a C++ compiler.
pub fn compile(files: &[KernelFile], folder: &Path, out_dir: &Path) -> Result<bool, String> {
    // Its arena is mapped several times, which takes a Linux call.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return Ok(false);
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .include(folder)
        .include(".")
        .warnings(true)
        .extra_warnings(true);
    // Findings name source lines. `#pragma unroll` is for nvcc, and no file uses every helper of its headers.
    build.debug(false).flag("-g1").flag("-Wno-unknown-pragmas").flag("-Wno-unused-function");
    let compiler = match build.try_get_compiler() {
        Ok(compiler) if compiler.is_like_gnu() || compiler.is_like_clang() => compiler,
        Ok(compiler) => {
            return Ok(no_compiler(&format!("{} is neither GCC nor Clang", compiler.path().display())));
        }
        Err(error) => return Ok(no_compiler(&error.to_string())),
    };
    let version = match compiler.to_command().arg("--version").output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => return Ok(no_compiler(&format!("{} does not run", compiler.path().display()))),
    };
    let job = |name: String, source: &Path, arguments: &[String], text: &str| {
        let mut command = compiler.to_command();
        command.args(["-x", "c++"]).args(arguments).arg("-c");
        Job {
            name,
            extension: "o",
            command,
            source: source.to_path_buf(),
            inputs: format!("{version}\0{text}"),
        }
    };

    let unit = folder.join("host_unit.cpp");
    let unit_text = source::joined(&source::with_headers(&unit, folder)?);
    let mut all = Vec::new();
    for file in files {
        let define = format!("-DKERNEL_FILE={:?}", file.path);
        let text = format!("{unit_text}{}", file.text_with_headers);
        let checked: Vec<String> = [define.as_str()].into_iter().chain(CHECKED).map(str::to_string).collect();
        let prefix = if file.path.starts_with(folder) { "" } else { "test-" };
        let layout: String = file.declared.layouts.iter().map(Layout::assertions).collect();
        let plain = [define, format!("-DKERNEL_LAYOUT={layout}")];
        all.push(job(format!("{prefix}{}", file.stem), &unit, &plain, &text));
        all.push(job(format!("{prefix}{}-checked", file.stem), &unit, &checked, &text));
    }
    for path in runtime_sources(folder)?.iter().filter(|path| **path != unit) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = source::joined(&source::with_headers(path, folder)?);
        all.push(job(stem, path, &[], &text));
    }
    // Planted faults are meant to be there, and the checked compilation repeats what the plain one says.
    let is_quiet = |job: &Job| job.name.ends_with("-checked") || job.name.starts_with("test-");
    let quiet: Vec<bool> = all.iter().map(is_quiet).collect();
    for (output, is_quiet) in jobs::run_all(all, &out_dir.join("host"))?.into_iter().zip(quiet) {
        if !is_quiet {
            output.log.lines().for_each(|line| println!("cargo::warning={line}"));
        }
        build.object(output.path);
    }
    link_standard_library(&mut build, compiler.to_command());
    build.try_compile("residuum_kernels").map_err(|error| format!("cannot archive the kernels: {error}"))?;
    Ok(true)
}

/// Of the C++ library the kernels need one routine, so it is linked in where it is to be had, and programs run on machines
/// that do not have it.
fn link_standard_library(build: &mut cc::Build, mut compiler: Command) {
    let Ok(answer) = compiler.arg("-print-file-name=libstdc++.a").output() else { return };
    let archive = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    // A compiler that does not find the file says its name.
    if let Some(folder) = archive.parent().filter(|_| archive.is_absolute() && archive.is_file()) {
        build.cpp_link_stdlib(None);
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:-bundle=stdc++");
    }
}

/// The emulator's own C++ files, by name.
fn runtime_sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries =
        fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let is_source = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "cpp");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_source).collect();
    paths.sort();
    Ok(paths)
}

fn no_compiler(reason: &str) -> bool {
    println!(
        "cargo::warning=no C++ compiler ({reason}): this build has no emulator (--device simt); install g++ or \
         name a compiler in CXX"
    );
    false
}
