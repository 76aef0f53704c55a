//! Finds nvcc and asks what it is.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
        for path in candidates().filter(|path| path.is_file()) {
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

/// Where nvcc may be, likeliest first. Variables are read, and so watched, only as far as the search gets.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let in_toolkit = |variable| read_env(variable).map(|folder| Path::new(&folder).join("bin/nvcc"));
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(in_toolkit);
    let in_path = [()].into_iter().flat_map(|()| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|folder| folder.join("nvcc")).collect::<Vec<_>>()
    });
    let usual = [()].into_iter().flat_map(|()| usual_folders()).map(|folder| folder.join("bin/nvcc"));
    let python = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(read_env)
        .map(PathBuf::from)
        .flat_map(in_python);
    let installed = [()].into_iter().filter_map(|()| installed_folder()).flat_map(in_python);
    toolkits.chain(in_path).chain(usual).chain(python).chain(installed)
}

/// `/usr/local/cuda`, then the versions next to it, latest first.
fn usual_folders() -> Vec<PathBuf> {
    let mut versions: Vec<(Vec<u32>, PathBuf)> = entries(Path::new("/usr/local"))
        .filter_map(|path| {
            let version = path.file_name()?.to_str()?.strip_prefix("cuda-")?;
            let version = version.split('.').map(|part| part.parse().unwrap_or(0)).collect();
            Some((version, path))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    let versions = versions.into_iter().map(|(_, path)| path);
    ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from).into_iter().chain(versions).collect()
}

/// nvcc of NVIDIA's pip packages in a Python environment.
fn in_python(environment: PathBuf) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = entries(&environment.join("lib"))
        .map(|python| python.join("site-packages/nvidia"))
        .flat_map(|packages| entries(&packages).collect::<Vec<_>>())
        .map(|package| package.join("bin/nvcc"))
        .collect();
    found.sort();
    found.push(environment.join("bin/nvcc"));
    found
}

/// Where `scripts/install-nvcc.sh` puts it.
fn installed_folder() -> Option<PathBuf> {
    let cache = read_env("RESIDUUM_CACHE").map(PathBuf::from);
    let user_cache = || {
        let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        Some(read_env("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("residuum"))
    };
    Some(cache.or_else(user_cache)?.join("nvcc-13.0"))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// A variable's value if it is set to something; cargo runs the script again when it changes.
pub fn read_env(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}
