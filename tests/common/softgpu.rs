//! The software GPU of `tests/softgpu/`: built once, set in the way of a program that opens the NVIDIA driver, and asked
//! afterwards what happened on it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, process, thread};

use residuum::device::kernels::TOOLKIT;
use serde_json::Value;
use tempfile::TempDir;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/softgpu");
const FOLDERS: [&str; 4] = ["src", "selftest", "nccl", "nccl/selftest"];
const FLAGS: [&str; 10] = [
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-frounding-math",
    "-fno-strict-aliasing",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Werror",
];

/// A folder with a `libcuda.so.1` that runs PTX on the host, and in `nccl/`, where nobody looks for it unasked, a
/// `libnccl.so.2` that joins processes of it.
#[derive(Debug)]
pub struct SoftGpu {
    pub folder: PathBuf,
}

/// The software GPU; none, with a line that says why, where this build has no PTX for it or tests were asked for on
/// another device.
///
/// # Panics
/// If it cannot be built, or `RESIDUUM_REQUIRE_CUDA` is set and there is nothing to run on it.
pub fn software_gpu() -> Option<&'static SoftGpu> {
    static BUILT: OnceLock<SoftGpu> = OnceLock::new();
    let reason = match (TOOLKIT.as_ref(), env::var("RESIDUUM_TEST_DEVICES")) {
        (_, Ok(wanted)) => format!("RESIDUUM_TEST_DEVICES is {wanted}"),
        (None, _) => "this build has no CUDA kernels".into(),
        (Some(toolkit), _) if !toolkit.archs.iter().any(|arch| arch.starts_with("compute_")) => {
            format!("this build has no PTX, only {}", toolkit.archs.join(", "))
        }
        _ => return Some(BUILT.get_or_init(SoftGpu::build)),
    };
    assert!(
        env::var_os("RESIDUUM_REQUIRE_CUDA").is_none() || env::var_os("RESIDUUM_TEST_DEVICES").is_some(),
        "no software GPU ({reason})"
    );
    println!("skipped: no software GPU ({reason})");
    None
}

impl SoftGpu {
    /// Compiles what is not there from these sources by this compiler.
    fn build() -> SoftGpu {
        let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
        let [library, selftest, nccl, nccl_selftest] = FOLDERS.map(|folder| sources(folder, "cpp"));
        let headers = FOLDERS.map(|folder| sources(folder, "hpp"));
        let mut hasher = DefaultHasher::new();
        (&compiler, FLAGS).hash(&mut hasher);
        for path in [&library, &selftest, &nccl, &nccl_selftest].into_iter().chain(&headers).flatten() {
            (path, fs::read(path).unwrap()).hash(&mut hasher);
        }
        let executable = env::current_exe().unwrap();
        let target = executable.ancestors().nth(2).expect("tests run from a folder of cargo's");
        let folder = target.join(format!("softgpu-{:016x}", hasher.finish()));
        if !folder.exists() {
            // Another process may build, too: the first that is done is taken.
            let scratch = target.join(format!("softgpu-being-built-{}", process::id()));
            fs::create_dir_all(scratch.join("nccl")).unwrap();
            compile(&compiler, &library, &scratch, &["-shared", "-Wl,-soname,libcuda.so.1"], "libcuda.so.1");
            compile(&compiler, &selftest, &scratch, &[], "selftest");
            // Its hub is a thread that outlives the program's use of the library.
            let flags = ["-shared", "-Wl,-soname,libnccl.so.2", "-Wl,-z,nodelete"];
            compile(&compiler, &nccl, &scratch.join("nccl"), &flags, "libnccl.so.2");
            compile(&compiler, &nccl_selftest, &scratch, &[], "nccl_selftest");
            if fs::rename(&scratch, &folder).is_err() {
                fs::remove_dir_all(&scratch).unwrap();
            }
        }
        assert!(folder.join("libcuda.so.1").exists(), "{} is not whole; remove it", folder.display());
        SoftGpu { folder }
    }

    /// Lets `command` find the software GPU where it looks for NVIDIA's, set up by these of its variables.
    pub fn attach(&self, command: &mut Command, variables: &[(&str, &str)]) -> Record {
        let record = Record { folder: TempDir::new().unwrap() };
        command.env("LD_LIBRARY_PATH", &self.folder);
        command.env("SOFTGPU_LOG", record.log_file()).env("SOFTGPU_REPORT", record.report_file());
        command.envs(variables.iter().copied());
        record
    }
}

/// The files of a folder of the software GPU that end so, sorted.
fn sources(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(SOURCES).join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|it| it == ending));
    paths.sort();
    paths
}

/// Compiles `sources` side by side and links them to `name` in `folder`.
fn compile(compiler: &str, sources: &[PathBuf], folder: &Path, link_flags: &[&str], name: &str) {
    let run = |command: &mut Command| {
        let output = command.output().unwrap_or_else(|error| {
            panic!("cannot run {compiler}: {error}; install a C++ compiler, or name one in CXX")
        });
        assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let object = |source: &PathBuf| {
        folder.join(name).with_extension(format!("{}.o", source.file_stem().unwrap().to_str().unwrap()))
    };
    let compile_one = |source: &PathBuf| {
        let mut command = Command::new(compiler);
        run(command
            .args(FLAGS)
            .arg("-fvisibility=hidden")
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(object(source)));
    };
    let threads = thread::available_parallelism().map_or(1, |count| count.get());
    thread::scope(|scope| {
        for part in sources.chunks(sources.len().div_ceil(threads)) {
            scope.spawn(move || part.iter().for_each(compile_one));
        }
    });
    let objects = sources.iter().map(object);
    run(Command::new(compiler)
        .args(link_flags)
        .arg("-o")
        .arg(folder.join(name))
        .args(objects)
        .args(["-ldl", "-lpthread"]));
}

/// What processes on the software GPU leave behind.
#[derive(Debug)]
pub struct Record {
    folder: TempDir,
}

impl Record {
    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn report_file(&self) -> PathBuf {
        self.folder.path().join("report")
    }

    /// The lines that the software GPU wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// What each process that is over counted.
    pub fn reports(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.report_file()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Fails unless something ran, and nothing was objected to, left alive, or beyond what the software GPU covers.
    #[track_caller]
    pub fn assert_clean(&self) {
        let (reports, log) = (self.reports(), self.log());
        assert!(!reports.is_empty(), "nothing ran on the software GPU:\n{log}");
        let is_clean = |report: &Value| report["violations"] == 0 && report["leaks"] == 0;
        let is_covered = !log.contains("limit:") && !log.contains("nccl double: violation:");
        assert!(reports.iter().all(is_clean) && is_covered, "{log}");
    }
}
