//! Kernels for the emulator: the same files, compiled as C++ for the host.

use std::path::Path;

use crate::jobs::{self, Job};
use crate::source::KernelFile;

/// Compiles every file and links them into the crate; false, with a warning, without a C++ compiler.
pub fn compile(files: &[KernelFile], out_dir: &Path) -> Result<bool, String> {
    let mut build = cc::Build::new();
    // `#pragma unroll` is for nvcc.
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true)
        .flag("-Wno-unknown-pragmas");
    let compiler = match build.try_get_compiler() {
        Ok(compiler) if compiler.is_like_gnu() || compiler.is_like_clang() => compiler,
        Ok(compiler) => return Ok(no_compiler(&format!("{} is not known", compiler.path().display()))),
        Err(error) => return Ok(no_compiler(&error.to_string())),
    };
    let version = match compiler.to_command().arg("--version").output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => return Ok(no_compiler(&format!("{} does not run", compiler.path().display()))),
    };
    let jobs = files
        .iter()
        .map(|file| {
            let mut command = compiler.to_command();
            command.args(["-x", "c++", "-c"]).arg(&file.path);
            Job {
                name: file.stem.clone(),
                extension: "o",
                command,
                inputs: format!("{version}\0{}", file.text_with_headers),
            }
        })
        .collect();
    for output in jobs::run_all(jobs, &out_dir.join("host"))? {
        for line in output.log.lines() {
            println!("cargo::warning={line}");
        }
        build.object(output.path);
    }
    if !files.is_empty() {
        build.try_compile("residuum_kernels").map_err(|error| format!("cannot link the kernels: {error}"))?;
    }
    Ok(true)
}

fn no_compiler(reason: &str) -> bool {
    println!(
        "cargo::warning=no C++ compiler ({reason}): this build has no emulator (--device simt); install g++"
    );
    false
}
