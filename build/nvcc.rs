//! Finds nvcc and asks what it is.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::places::places;

/// Older ones lack `__grid_constant__` on every architecture, or compile C++17 badly.
const LOWEST_MAJOR: u32 = 12;

/// A working nvcc.
#[derive(Debug, Clone)]
pub struct Nvcc {
    /// The program.
    pub path: PathBuf,
    /// As in `13.0.88`.
    pub version: String,
    /// What `--list-gpu-code` prints.
    pub known_archs: String,
}

impl Nvcc {
    /// The first nvcc there is, or none.
    ///
    /// A place that the user named must work; elsewhere what does not run is passed over.
    pub fn find() -> Result<Option<Nvcc>, String> {
        if let Some(path) = read_env("NVCC") {
            return Nvcc::open(Path::new(&path)).map(Some).map_err(|reason| format!("NVCC={path}: {reason}"));
        }
        let mut too_old = None;
        for path in places("nvcc", &read_env).filter(|path| path.is_file()) {
            match Nvcc::open(&path) {
                Ok(nvcc) => return Ok(Some(nvcc)),
                Err(reason) => too_old = too_old.or(Some(format!("{}: {reason}", path.display()))),
            }
        }
        if let Some(reason) = too_old {
            println!("cargo::warning={reason}");
        }
        Ok(None)
    }

    fn open(path: &Path) -> Result<Nvcc, String> {
        let ask = |question: &str| {
            let output = Command::new(path).arg(question).output().map_err(|error| error.to_string())?;
            match output.status.success() {
                true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
                false => {
                    Err(format!("`{question}` fails: {}", String::from_utf8_lossy(&output.stderr).trim()))
                }
            }
        };
        let version = parse_version(&ask("--version")?).ok_or("prints no version that starts with V")?;
        let major: u32 = version.split('.').next().and_then(|part| part.parse().ok()).unwrap_or(0);
        if major < LOWEST_MAJOR {
            return Err(format!(
                "is version {version}; the kernels need nvcc {LOWEST_MAJOR}.0 or later (scripts/install-nvcc.sh)"
            ));
        }
        Ok(Nvcc { path: path.to_path_buf(), version, known_archs: ask("--list-gpu-code")? })
    }
}

/// The word after `V` in what `nvcc --version` prints.
fn parse_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    text.split_whitespace().filter_map(|word| word.strip_prefix('V')).find(is_version).map(str::to_string)
}

/// A variable's value if it is set to something; cargo runs the script again when it changes.
pub fn read_env(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}
