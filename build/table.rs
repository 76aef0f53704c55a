//! Writes what the program knows about its kernels: `kernels.rs`, which `src/device/kernels.rs` includes, tables of
//! the kernels compiled for the host, which the emulator and its tests include, and `resources.txt` for people.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use crate::cuda::Cuda;
use crate::declared::Place;
use crate::ptxas::Usage;
use crate::source::{Entry, KernelFile};

/// All kernels of some files, by name, each with the file it stands in.
pub struct Listing<'a>(pub Vec<(&'a KernelFile, &'a Entry)>);

impl<'a> Listing<'a> {
    /// Fails if two kernels have one name.
    pub fn new(files: &'a [KernelFile]) -> Result<Listing<'a>, String> {
        let in_file = |file: &'a KernelFile| file.entries.iter().map(move |entry| (file, entry));
        let mut kernels: Vec<_> = files.iter().flat_map(in_file).collect();
        kernels.sort_by_key(|(_, entry)| &entry.name);
        match kernels.windows(2).find(|pair| pair[0].1.name == pair[1].1.name) {
            None => Ok(Listing(kernels)),
            Some(pair) => {
                let [(first, entry), (second, _)] = [pair[0], pair[1]];
                Err(format!(
                    "kernel `{}` is in both {} and {}",
                    entry.name,
                    first.path.display(),
                    second.path.display()
                ))
            }
        }
    }

    /// The table of `src/device/kernels.rs`.
    pub fn write_table(&self, cuda: Option<&Cuda>, out_dir: &Path) -> Result<(), String> {
        let mut code = String::new();
        self.write_code(&mut code, cuda, out_dir).map_err(|error| error.to_string())?;
        write(out_dir, "kernels.rs", &code)?;
        let mut text = String::new();
        write_resources(&mut text, cuda).map_err(|error| error.to_string())?;
        write(out_dir, "resources.txt", &text)
    }

    /// The emulator's table `name` of the kernels compiled for the host, in the order of the names, with the type
    /// `HostKernel` at `simt`.
    pub fn write_host_table(&self, name: &str, simt: &str, file: &str, out_dir: &Path) -> Result<(), String> {
        let mut code = String::new();
        self.write_host_code(&mut code, name, simt).map_err(|error| error.to_string())?;
        write(out_dir, file, &code)
    }

    fn write_code(&self, code: &mut String, cuda: Option<&Cuda>, out_dir: &Path) -> fmt::Result {
        writeln!(code, "/// Every kernel, by name.\npub static KERNELS: [Kernel; {}] = [", self.0.len())?;
        for (index, (file, Entry { name, block_threads, .. })) in self.0.iter().enumerate() {
            let stem = &file.stem;
            writeln!(
                code,
                "    Kernel {{ name: {name:?}, file: {stem:?}, block_threads: {block_threads}, index: {index} }},"
            )?;
        }
        let images = cuda.map_or(&[][..], |cuda| &cuda.images);
        writeln!(code, "];\n/// Every image, by file.\npub static IMAGES: [Image; {}] = [", images.len())?;
        for image in images {
            let path = image.deflated.strip_prefix(out_dir).unwrap_or(&image.deflated).display();
            writeln!(code, "    Image {{ file: {:?}, arch: \"{}\",", image.file, image.arch)?;
            writeln!(code, "        deflated: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{path}\")) }},")?;
        }
        let usages = || images.iter().flat_map(|image| image.usages.iter().map(|usage| (&image.arch, usage)));
        writeln!(code, "];\n/// What the kernels take on each architecture.")?;
        writeln!(code, "pub static RESOURCES: [Resources; {}] = [", usages().count())?;
        for (arch, Usage { kernel, registers, spill_bytes, shared_bytes }) in usages() {
            writeln!(code, "    Resources {{ kernel: {kernel:?}, arch: \"{arch}\", registers: {registers},")?;
            writeln!(code, "        spill_bytes: {spill_bytes}, shared_bytes: {shared_bytes} }},")?;
        }
        writeln!(code, "];\n/// What compiled the kernels for the GPU, if anything did.")?;
        write!(code, "pub static TOOLKIT: Option<Toolkit> = ")?;
        match cuda {
            None => writeln!(code, "None;"),
            Some(Cuda { nvcc_version, archs, .. }) => {
                let archs: Vec<String> = archs.iter().map(ToString::to_string).collect();
                writeln!(code, "Some(Toolkit {{ nvcc_version: {nvcc_version:?}, archs: &{archs:?} }});")
            }
        }
    }

    fn write_host_code(&self, code: &mut String, table: &str, simt: &str) -> fmt::Result {
        writeln!(code, "unsafe extern \"C\" {{")?;
        for (_, Entry { name, .. }) in &self.0 {
            writeln!(code, "    fn {name}(arguments: *const u8);")?;
            writeln!(code, "    fn {name}_checked(arguments: *const u8);")?;
        }
        writeln!(code, "}}\n/// The kernels compiled for the host, by name.")?;
        writeln!(code, "pub static {table}: [{simt}::HostKernel; {}] = [", self.0.len())?;
        for (file, Entry { name, args, .. }) in &self.0 {
            let layout = file.declared.layout(args).expect("read with the kernels");
            writeln!(
                code,
                "    {simt}::HostKernel {{ name: {name:?}, plain: {name}, checked: {name}_checked,"
            )?;
            write!(
                code,
                "        arguments: {simt}::ArgsLayout {{ num_bytes: {}, members: &[",
                layout.num_bytes
            )?;
            for Place { name, offset_bytes, num_bytes, is_pointer } in &layout.members {
                write!(code, "{simt}::Member {{ name: {name:?}, offset_bytes: {offset_bytes}, ")?;
                write!(code, "num_bytes: {num_bytes}, is_pointer: {is_pointer} }}, ")?;
            }
            writeln!(code, "] }} }},")?;
        }
        writeln!(code, "];")
    }
}

/// Writes one of the generated files.
pub fn write(out_dir: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = out_dir.join(name);
    fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn write_resources(text: &mut String, cuda: Option<&Cuda>) -> fmt::Result {
    writeln!(
        text,
        "{:<48} {:<8} {:>9} {:>11} {:>12}",
        "kernel", "arch", "registers", "spill_bytes", "shared_bytes"
    )?;
    for image in cuda.map_or(&[][..], |cuda| &cuda.images) {
        for usage in &image.usages {
            writeln!(
                text,
                "{:<48} {:<8} {:>9} {:>11} {:>12}",
                usage.kernel,
                image.arch.to_string(),
                usage.registers,
                usage.spill_bytes,
                usage.shared_bytes
            )?;
        }
    }
    Ok(())
}
