//! The kernels of this build: a table that `build.rs` writes, with the compiled images.

/// A kernel in `kernels/`.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name of the symbol.
    pub name: &'static str,
    /// The file it stands in, without its ending.
    pub file: &'static str,
    /// Threads of a block, the most and the usual number.
    pub block_threads: u32,
    /// Place in [`KERNELS`].
    pub index: usize,
}

/// One kernel file, compiled for one architecture.
#[derive(Debug)]
pub struct Image {
    /// Name of the kernel file without its ending.
    pub file: &'static str,
    /// `sm_80` for machine code, `compute_80` for assembly text (PTX) that the driver compiles.
    pub arch: &'static str,
    /// What the driver loads.
    pub bytes: &'static [u8],
}

/// What a kernel takes on an architecture.
#[derive(Debug)]
pub struct Resources {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// As in `sm_80`.
    pub arch: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Register spills of a thread, stores and loads together.
    pub spill_bytes: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
}

/// What compiled the kernels for the GPU.
#[derive(Debug)]
pub struct Toolkit {
    /// As in `13.0.88`.
    pub nvcc_version: &'static str,
    /// As in `sm_80` and `compute_80`.
    pub archs: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernel called `name`.
pub fn kernel(name: &str) -> Option<&'static Kernel> {
    KERNELS.binary_search_by(|kernel| kernel.name.cmp(name)).ok().map(|index| &KERNELS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_found_at_its_place() {
        assert!(!KERNELS.is_empty());
        for (index, entry) in KERNELS.iter().enumerate() {
            assert_eq!(entry.index, index);
            assert_eq!(kernel(entry.name), Some(entry));
        }
        assert_eq!(kernel("fill_f64"), None);
    }

    #[test]
    fn every_file_has_an_image_for_each_architecture() {
        let archs = TOOLKIT.as_ref().map_or(&[][..], |toolkit| toolkit.archs);
        for kernel in &KERNELS {
            for arch in archs {
                let images = IMAGES.iter().filter(|image| image.file == kernel.file && image.arch == *arch);
                assert_eq!(images.count(), 1, "{} for {arch}", kernel.file);
            }
        }
        assert!(IMAGES.iter().all(|image| !image.bytes.is_empty()));
    }
}
