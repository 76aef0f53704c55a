//! Tells the program which commit it was built from; a build outside a checkout says nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for path in [".git/HEAD", ".git/logs/HEAD"] {
        if std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Some(output) = output.ok().filter(|output| output.status.success()) {
        println!("cargo::rustc-env=RESIDUUM_COMMIT={}", String::from_utf8_lossy(&output.stdout).trim());
    }
    kernels();
}

fn kernels() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=tests/kernels");
    println!("cargo::rustc-check-cfg=cfg(residuum_simt)");
    println!("cargo::rustc-cfg=residuum_simt");
    let out = PathBuf::from(std::env::var("OUT_DIR").unwrap());
    let base = || {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .flag("-g1")
            .include("kernels")
            .warnings(true)
            .extra_warnings(true);
        build.flag("-Wno-unknown-pragmas").cargo_metadata(false);
        build
    };
    let mut all = base();
    all.cargo_metadata(true);
    for object in base().file("kernels/host_runtime.cpp").compile_intermediates() {
        all.object(object);
    }
    let mut code = String::new();
    for folder in ["kernels", "tests/kernels"] {
        let Ok(files) = std::fs::read_dir(folder) else { continue };
        for path in files.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|ending| ending != "cu") {
                continue;
            }
            let file = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join(&path);
            for checked in [false, true] {
                let mut build = base();
                build.file("kernels/host_unit.cpp").define("KERNEL_FILE", format!("{file:?}").as_str());
                build.out_dir(out.join(format!("{}-{checked}", path.file_stem().unwrap().display())));
                if checked {
                    build.define("RESIDUUM_SIMT_CHECKED", None).flag("-fsanitize=thread,bounds,alignment");
                }
                for object in build.compile_intermediates() {
                    all.object(object);
                }
            }
            if folder == "kernels" {
                continue;
            }
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let Some(rest) = line.strip_prefix("KERNEL(") else { continue };
                code.push_str(rest.split(',').next().unwrap());
                code.push('\n');
            }
        }
    }
    all.compile("residuum_kernels");
    let names: Vec<&str> = code.lines().collect();
    let mut table = String::from("unsafe extern \"C\" {\n");
    for name in &names {
        writeln!(table, "    fn {name}(arguments: *const u8);\n    fn {name}_checked(arguments: *const u8);\n    fn {name}_layout(layout: *mut residuum::device::simt::ArgsLayout);").unwrap();
    }
    writeln!(table, "}}\npub static TEST_KERNELS: [residuum::device::simt::HostKernel; {}] = [", names.len())
        .unwrap();
    for name in &names {
        writeln!(table, "    residuum::device::simt::HostKernel {{ name: {name:?}, plain: {name}, checked: {name}_checked, layout: {name}_layout }},").unwrap();
    }
    table.push_str("];\n");
    std::fs::write(out.join("test_kernels.rs"), table).unwrap();
}
