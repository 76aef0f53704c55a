//! nvdisasm, which says what stands in the machine code of this build's kernels.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rayon::prelude::*;

use super::sass::KernelCode;
use crate::device::kernels::{IMAGES, Image, Kernel};
use crate::error::{Error, Result};
use crate::show::{show_path, show_text, tell};

#[path = "../../build/places.rs"]
mod places;

/// nvdisasm of NVIDIA's toolkit, with what it said so far.
#[derive(Debug)]
pub struct Disassembler {
    path: PathBuf,
    /// The kernels of an image, by its file and architecture; none where the program failed.
    by_file: HashMap<(&'static str, &'static str), HashMap<String, KernelCode>>,
    is_failure_told: bool,
}

impl Disassembler {
    /// How to get one.
    pub const REMEDY: &str = "install nvdisasm (pip install nvidia-cuda-nvdisasm, or scripts/install-nvcc.sh), and name it in \
                              NVDISASM if it is not found";

    /// That which `NVDISASM` names, else one next to the nvcc that `NVCC` names, else one in the places where `build.rs` looks
    /// for nvcc; none where there is none.
    pub fn find() -> Option<Disassembler> {
        let path = find(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
        Some(Disassembler { path, by_file: HashMap::new(), is_failure_told: false })
    }

    /// The machine code that this build has of `kernel` for `arch`, as in `sm_90a`; none where it has none.
    ///
    /// Where the program fails there is none, either; the first failure is told on stderr.
    pub fn code(&mut self, kernel: &Kernel, arch: &str) -> Option<&KernelCode> {
        self.read(&[kernel], arch);
        let image = IMAGES.iter().find(|image| image.file == kernel.file && image.arch == arch)?;
        self.by_file.get(&(image.file, image.arch))?.get(kernel.name)
    }

    /// Disassembles what [`Disassembler::code`] will be asked for, as many files at once as there are cores: each takes a
    /// third of a second.
    pub fn read(&mut self, kernels: &[&Kernel], arch: &str) {
        let is_needed = |image: &&Image| {
            image.arch == arch
                && kernels.iter().any(|kernel| kernel.file == image.file)
                && !self.by_file.contains_key(&(image.file, image.arch))
        };
        let images: Vec<&Image> = IMAGES.iter().filter(is_needed).collect();
        let listed =
            images.par_iter().map(|image| disassemble(&self.path, &image.bytes())).collect::<Vec<_>>();
        for (image, kernels) in images.into_iter().zip(listed) {
            let kernels = kernels.unwrap_or_else(|error| {
                if !self.is_failure_told {
                    tell(format!("instructions of {}.cu and others are not counted: {error}", image.file));
                    self.is_failure_told = true;
                }
                HashMap::new()
            });
            self.by_file.insert((image.file, image.arch), kernels);
        }
    }
}

fn find(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    // What the user named is run even if it is not there, so that this is told.
    if let Some(named) = variable("NVDISASM") {
        return Some(named.into());
    }
    let beside_nvcc = variable("NVCC").map(|nvcc| Path::new(&nvcc).with_file_name("nvdisasm"));
    beside_nvcc.into_iter().chain(places::places("nvdisasm", variable)).find(|path| path.is_file())
}

/// The kernels of an image by symbol, as the program at `path` lists them.
///
/// # Errors
/// [`Error::Device`] with what the program said, and how to get another.
fn disassemble(path: &Path, image: &[u8]) -> Result<HashMap<String, KernelCode>> {
    let failed = |reason: String| {
        let remedy = Disassembler::REMEDY;
        Error::Device(format!("{}: {reason}; unset NVDISASM if that names it, or {remedy}", show_path(path)))
    };
    let mut file =
        tempfile::NamedTempFile::new().map_err(Error::io("create a file in", std::env::temp_dir()))?;
    file.write_all(image).map_err(Error::io("write", file.path()))?;
    let output = Command::new(path).arg("-json").arg(file.path()).output();
    let output = output.map_err(|error| failed(format!("cannot be run: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("fails with {} and says `{}`", output.status, show_text(said.trim()))));
    }
    KernelCode::of_listing(&output.stdout).map_err(|reason| failed(show_text(&reason)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::device::kernels::common::WARP_THREADS;
    use crate::device::kernels::mma_tile::DEPTH;
    use crate::device::kernels::{KERNELS, TOOLKIT};

    /// A folder with an empty `bin/nvdisasm`, and the path of that.
    fn toolkit() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bin/nvdisasm");
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(&program, "").unwrap();
        (folder, program)
    }

    /// What is found where `name` has the value and no other variable is set.
    fn found(name: &str, value: &Path) -> Option<PathBuf> {
        find(&|asked| (asked == name).then(|| value.to_str().unwrap().to_string()))
    }

    #[test]
    fn a_disassembler_is_found_by_variables() {
        let (folder, program) = toolkit();
        assert_eq!(found("NVDISASM", Path::new("/not/there")), Some("/not/there".into()));
        assert_eq!(found("NVCC", &program.with_file_name("nvcc")), Some(program.clone()));
        assert_eq!(found("CUDA_HOME", folder.path()), Some(program.clone()));
        assert_eq!(found("CUDA_PATH", folder.path()), Some(program));
        assert_ne!(found("NVCC", Path::new("/not/there/nvcc")), Some("/not/there/nvdisasm".into()));
    }

    #[test]
    fn a_disassembler_that_the_script_installed_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let bin = cache.path().join("nvcc-13.0/lib/python3.11/site-packages/nvidia/cu13/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("nvdisasm"), "").unwrap();
        let cache_alone =
            |name: &str| (name == "RESIDUUM_CACHE").then(|| cache.path().to_str().unwrap().to_string());
        assert!(places::places("nvdisasm", &cache_alone).any(|place| place == bin.join("nvdisasm")));
    }

    #[test]
    fn a_broken_disassembler_is_an_error_with_its_words_and_a_remedy() {
        let fails = |program: &str| disassemble(Path::new(program), b"image").unwrap_err().to_string();
        for (program, words) in [
            ("/not/there", "/not/there: cannot be run: No such file"),
            ("false", "false: fails with exit status: 1"),
            ("echo", "echo: its output is no listing"),
            ("ls", "and says `ls: "),
        ] {
            let message = fails(program);
            assert!(message.contains(words) && message.contains(Disassembler::REMEDY), "{message}");
        }
    }

    /// An architecture that this build has machine code for. One will do: all is assembled from the same text.
    fn arch() -> Option<&'static str> {
        let archs = TOOLKIT.as_ref().map_or(&[][..], |toolkit| toolkit.archs);
        let found = archs.iter().rfind(|arch| arch.starts_with("sm_")).copied();
        if found.is_none() {
            eprintln!("skipped: this build has no machine code of kernels");
        }
        found
    }

    #[test]
    fn where_the_disassembler_fails_no_kernel_has_code() {
        let Some(arch) = arch() else { return };
        let path = PathBuf::from("false");
        let mut disassembler = Disassembler { path, by_file: HashMap::new(), is_failure_told: false };
        for kernel in &KERNELS[..2] {
            assert_eq!(disassembler.code(kernel, arch), None);
            assert!(disassembler.is_failure_told);
        }
    }

    /// Elements of the tile that a kernel's name tells, as in `conv2d_fprop_tile128x64_bf16`.
    fn tile(kernel: &Kernel) -> Option<u32> {
        let (rows, rest) = kernel.name.split_once("_tile")?.1.split_once('x')?;
        let columns = rest.split('_').next()?;
        Some(rows.parse::<u32>().ok()? * columns.parse::<u32>().ok()?)
    }

    #[test]
    fn every_kernel_of_this_build_is_listed() {
        let Some(arch) = arch() else { return };
        let Some(mut disassembler) = Disassembler::find() else {
            return eprintln!("skipped: no nvdisasm ({})", Disassembler::REMEDY);
        };
        disassembler.read(&KERNELS.iter().collect::<Vec<_>>(), arch);
        for kernel in &KERNELS {
            let code = disassembler.code(kernel, arch);
            let code = code.unwrap_or_else(|| panic!("{} for {arch} is not listed", kernel.name));
            assert!(code.instructions > 0, "{} for {arch} has no instructions", kernel.name);
            // Single numbers are rounded where a thread has one channel, never a vector of them.
            assert!(
                code.single_roundings < 4,
                "{} rounds {} numbers one by one",
                kernel.name,
                code.single_roundings
            );
            // Products of warp groups are only in this machine code.
            let multiplies = !kernel.is_by_warp_groups() || arch == "sm_90a";
            if let Some(tile) = tile(kernel).filter(|_| kernel.name.starts_with("conv2d_") && multiplies) {
                let main =
                    code.main_loop().unwrap_or_else(|| panic!("{} for {arch} has no loop", kernel.name));
                let by_warps = main.products * kernel.block_threads / WARP_THREADS as u32;
                assert_eq!(by_warps, tile * DEPTH as u32 / (16 * 8 * 16), "{}: {main:?}", kernel.name);
                assert!(main.global > 0 && main.barriers > 0, "{}: {main:?}", kernel.name);
                println!("{} for {arch}: {} instructions, {main:?}", kernel.name, code.instructions);
            }
        }
    }
}
