//! Where programs of NVIDIA's toolkit may be: `build.rs` looks for nvcc, the profiler for nvdisasm.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where `program` may be, likeliest first; `variable` has the values of variables, and is asked only as far as the search
/// gets.
pub fn places<'a>(
    program: &'a str,
    variable: &'a dyn Fn(&str) -> Option<String>,
) -> impl Iterator<Item = PathBuf> + 'a {
    let folder = move |name| variable(name).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(folder);
    let in_path = [()].into_iter().flat_map(|()| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).collect::<Vec<_>>()
    });
    let usual = [()].into_iter().flat_map(|()| usual_folders());
    let python = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder);
    let installed = [()].into_iter().filter_map(move |()| installed_folder(variable));
    let bin = |folder: PathBuf| folder.join("bin");
    let folders = toolkits.map(bin).chain(in_path).chain(usual.map(bin));
    folders.chain(python.chain(installed).flat_map(in_python)).map(move |folder| folder.join(program))
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

/// The folders of programs in a Python environment: those of NVIDIA's pip packages, then its own.
fn in_python(environment: PathBuf) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = entries(&environment.join("lib"))
        .map(|python| python.join("site-packages/nvidia"))
        .flat_map(|packages| entries(&packages).collect::<Vec<_>>())
        .map(|package| package.join("bin"))
        .collect();
    found.sort();
    found.push(environment.join("bin"));
    found
}

/// Where `scripts/install-nvcc.sh` puts its Python environment.
fn installed_folder(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let cache = variable("RESIDUUM_CACHE").map(PathBuf::from);
    let user_cache = || {
        let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        Some(variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("residuum"))
    };
    Some(cache.or_else(user_cache)?.join("nvcc-13.0"))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
