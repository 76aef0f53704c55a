//! Tells the program which commit it was built from; a build outside a checkout says nothing.

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
}
