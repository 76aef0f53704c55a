//! A Python with the libraries of others.

use std::path::PathBuf;
use std::process::Command;

/// A Python that has these `modules`: the one that `RESIDUUM_TEST_PYTHON` names, else the first of the path. Where it has them
/// not, that is said.
pub fn python_with(modules: &str) -> Option<PathBuf> {
    let python = std::env::var_os("RESIDUUM_TEST_PYTHON").map_or("python3".into(), PathBuf::from);
    let output = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    let has_them = output.is_ok_and(|output| output.status.success());
    if !has_them {
        eprintln!("skipped: no Python with {modules} (RESIDUUM_TEST_PYTHON names one)");
    }
    has_them.then_some(python)
}
