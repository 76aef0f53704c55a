//! Writes what the program knows about its kernels: `kernels.rs`, which `src/device/kernels.rs` includes, and
//! `resources.txt` for people.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use crate::cuda::Cuda;
use crate::source::{Entry, KernelFile};

/// Writes both files.
pub fn write(
    files: &[KernelFile],
    cuda: Option<&Cuda>,
    has_host: bool,
    out_dir: &Path,
) -> Result<(), String> {
    let mut kernels: Vec<(&str, &Entry)> = files
        .iter()
        .flat_map(|file| file.entries.iter().map(move |entry| (file.stem.as_str(), entry)))
        .collect();
    kernels.sort_by_key(|(_, entry)| &entry.name);
    if let Some(twice) = kernels.windows(2).find(|pair| pair[0].1.name == pair[1].1.name) {
        let [(first, entry), (second, _)] = [twice[0], twice[1]];
        return Err(format!("kernel `{}` is in both {first}.cu and {second}.cu", entry.name));
    }
    let mut code = String::new();
    write_code(&mut code, &kernels, cuda, has_host, out_dir).map_err(|error| error.to_string())?;
    let mut text = String::new();
    write_resources(&mut text, cuda).map_err(|error| error.to_string())?;
    for (name, text) in [("kernels.rs", code), ("resources.txt", text)] {
        let path = out_dir.join(name);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn write_code(
    code: &mut String,
    kernels: &[(&str, &Entry)],
    cuda: Option<&Cuda>,
    has_host: bool,
    out_dir: &Path,
) -> fmt::Result {
    writeln!(code, "/// Every kernel, by name.\npub static KERNELS: [Kernel; {}] = [", kernels.len())?;
    for (index, (file, Entry { name, block_threads })) in kernels.iter().enumerate() {
        writeln!(
            code,
            "    Kernel {{ name: {name:?}, file: {file:?}, block_threads: {block_threads}, index: {index} }},"
        )?;
    }
    let images = cuda.map_or(&[][..], |cuda| &cuda.images);
    writeln!(code, "];\n/// Every image, by file.\npub static IMAGES: [Image; {}] = [", images.len())?;
    for image in images {
        let path = image.output.path.strip_prefix(out_dir).unwrap_or(&image.output.path);
        writeln!(
            code,
            "    Image {{ file: {:?}, arch: \"{}\", bytes: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{}\")) }},",
            image.file,
            image.arch,
            path.display()
        )?;
    }
    let usages: Vec<_> =
        images.iter().flat_map(|image| image.usages.iter().map(move |usage| (&image.arch, usage))).collect();
    writeln!(
        code,
        "];\n/// What the kernels take on each architecture.\npub static RESOURCES: [Resources; {}] = [",
        usages.len()
    )?;
    for (arch, usage) in usages {
        writeln!(
            code,
            "    Resources {{ kernel: {:?}, arch: \"{arch}\", registers: {}, spill_bytes: {}, shared_bytes: {} }},",
            usage.kernel, usage.registers, usage.spill_bytes, usage.shared_bytes
        )?;
    }
    writeln!(code, "];\n/// What compiled the kernels for the GPU, if anything did.")?;
    match cuda {
        None => writeln!(code, "pub static TOOLKIT: Option<Toolkit> = None;")?,
        Some(Cuda { nvcc_version, archs, .. }) => {
            let archs: Vec<String> = archs.iter().map(ToString::to_string).collect();
            writeln!(
                code,
                "pub static TOOLKIT: Option<Toolkit> =\n    \
                 Some(Toolkit {{ nvcc_version: {nvcc_version:?}, archs: &{archs:?} }});"
            )?;
        }
    }
    if has_host {
        write_host_entries(code, kernels)?;
    }
    Ok(())
}

fn write_host_entries(code: &mut String, kernels: &[(&str, &Entry)]) -> fmt::Result {
    writeln!(code, "unsafe extern \"C\" {{")?;
    for (_, entry) in kernels {
        writeln!(code, "    fn {}(arguments: *const u8);", entry.name)?;
    }
    writeln!(
        code,
        "}}\n/// The kernels compiled for the host, in the order of [`KERNELS`].\n\
         pub static HOST_ENTRIES: [HostEntry; {}] = [",
        kernels.len()
    )?;
    for (_, entry) in kernels {
        writeln!(code, "    {},", entry.name)?;
    }
    writeln!(code, "];")
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
