//! The kernels of this build, as `build.rs` writes them: a table with the compiled images, and for each kernel an
//! [`Entry`] that launches it with the argument struct its source declares. Constants that both sides need stand in
//! modules named after the files that declare them.
//!
//! ```
//! use residuum::device::kernels::{self, ReluFwdArgs};
//! use residuum::device::Launcher;
//! use residuum::tensor::DType;
//!
//! # fn main() {}
//! fn relu(launcher: &mut dyn Launcher, x: u64, y: u64, num_elems: u64) -> residuum::Result<()> {
//!     let grid = kernels::loop_grid(num_elems as usize, 4);
//!     kernels::relu_fwd(DType::F32)?.launch(launcher, grid, &ReluFwdArgs { x, y, num_elems })
//! }
//! ```
//!
//! There is no kernel of another name, and none takes another struct or a member of another name:
//!
//! ```compile_fail,E0425
//! # use residuum::{device::{Launcher, kernels::{self, ReluFwdArgs}}, tensor::DType};
//! # fn main() {}
//! # fn relu(launcher: &mut dyn Launcher, x: u64, y: u64, num_elems: u64) -> residuum::Result<()> {
//! # let grid = kernels::loop_grid(num_elems as usize, 4);
//! kernels::relu_forward(DType::F32)?.launch(launcher, grid, &ReluFwdArgs { x, y, num_elems })
//! # }
//! ```
//!
//! ```compile_fail,E0560
//! # use residuum::{device::{Launcher, kernels::{self, ReluFwdArgs}}, tensor::DType};
//! # fn main() {}
//! # fn relu(launcher: &mut dyn Launcher, x: u64, y: u64, num_elems: u64) -> residuum::Result<()> {
//! # let grid = kernels::loop_grid(num_elems as usize, 4);
//! kernels::relu_fwd(DType::F32)?.launch(launcher, grid, &ReluFwdArgs { x, out: y, num_elems })
//! # }
//! ```
//!
//! ```compile_fail,E0308
//! # use residuum::{device::{Launcher, kernels::{self, ReluFwdArgs}}, tensor::DType};
//! # fn main() {}
//! # fn relu(launcher: &mut dyn Launcher, x: u64, y: u64, num_elems: u64) -> residuum::Result<()> {
//! # let grid = kernels::loop_grid(num_elems as usize, 4);
//! kernels::add_fwd(DType::F32)?.launch(launcher, grid, &ReluFwdArgs { x, y, num_elems })
//! # }
//! ```

use std::io::Read as _;
use std::marker::PhantomData;

use bytemuck::Pod;
use flate2::read::DeflateDecoder;

use super::Launcher;
use crate::error::{Error, Result};
use crate::tensor::DType;

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

impl Kernel {
    /// The file of kernels that no operation launches: they are to be read, and `residuum profile --ladder` counts them
    /// ([`crate::profile::ladder`]).
    const LADDER: &str = "ladder";

    /// Whether it multiplies by warp groups, which only images for sm_90a do.
    pub fn is_by_warp_groups(&self) -> bool {
        self.name.contains("_wgmma_")
    }

    /// Whether an operation launches it.
    pub fn is_of_operations(&self) -> bool {
        self.file != Kernel::LADDER
    }
}

/// One kernel file, compiled for one architecture.
#[derive(Debug)]
pub struct Image {
    /// Name of the kernel file without its ending.
    pub file: &'static str,
    /// `sm_80` for machine code, `compute_80` for assembly text (PTX) that the driver compiles.
    pub arch: &'static str,
    deflated: &'static [u8],
}

impl Image {
    /// What the driver loads: machine code, or assembly text without the zero that ends it there.
    ///
    /// The program carries it deflated, and inflates it at every call.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let inflated = DeflateDecoder::new(self.deflated).read_to_end(&mut bytes);
        inflated.expect("what build.rs has deflated is whole");
        bytes
    }
}

/// What a kernel takes on an architecture.
#[derive(Debug)]
pub struct Resources {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Architecture, as in `sm_80`.
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
    /// Version of nvcc, as in `13.0.88`.
    pub nvcc_version: &'static str,
    /// Architectures of the images, as in `sm_80` and `compute_80`.
    pub archs: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// A kernel that takes arguments of type `Args`: all that launches it.
#[derive(Debug)]
pub struct Entry<Args> {
    /// Kernel to launch.
    pub kernel: &'static Kernel,
    args: PhantomData<fn(Args)>,
}

/// The blocks of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Their number in each direction.
    Blocks([usize; 3]),
    /// As many in a row as have a thread for each of `count`, but at most `max_blocks`, whose threads then take several
    /// turns.
    Threads {
        /// How many.
        count: usize,
        /// Limit of the number of blocks.
        max_blocks: usize,
    },
}

/// The grid of a loop over `num_elems` elements that takes `elems_per_turn` of them a thread and turn: a thread for each
/// turn, up to as many as keep any GPU busy a few times over.
pub fn loop_grid(num_elems: usize, elems_per_turn: usize) -> Grid {
    Grid::Threads { count: num_elems.div_ceil(elems_per_turn), max_blocks: 4096 }
}

/// The grid with a thread for each of `count`.
pub fn thread_grid(count: usize) -> Grid {
    Grid::Threads { count, max_blocks: usize::MAX }
}

impl From<[usize; 3]> for Grid {
    fn from(blocks: [usize; 3]) -> Grid {
        Grid::Blocks(blocks)
    }
}

impl From<usize> for Grid {
    /// So many blocks in a row.
    fn from(blocks: usize) -> Grid {
        Grid::Blocks([blocks, 1, 1])
    }
}

impl<Args: Pod> Entry<Args> {
    const fn new(kernel: &'static Kernel) -> Entry<Args> {
        Entry { kernel, args: PhantomData }
    }

    /// Threads of a block.
    pub fn block_threads(&self) -> usize {
        self.kernel.block_threads as usize
    }

    /// Launches the kernel; a grid without blocks launches nothing.
    ///
    /// # Errors
    /// [`Error::Device`] if the grid is too large or the device refuses.
    pub fn launch(&self, launcher: &mut dyn Launcher, grid: impl Into<Grid>, args: &Args) -> Result<()> {
        self.launch_with_shared(launcher, grid, 0, args)
    }

    /// [`Entry::launch`] with dynamic shared memory.
    ///
    /// # Errors
    /// As [`Entry::launch`].
    pub fn launch_with_shared(
        &self,
        launcher: &mut dyn Launcher,
        grid: impl Into<Grid>,
        shared_bytes: u32,
        args: &Args,
    ) -> Result<()> {
        let name = self.kernel.name;
        let grid = match grid.into() {
            Grid::Blocks(blocks) => blocks,
            Grid::Threads { count, max_blocks } => {
                [count.div_ceil(self.block_threads()).min(max_blocks), 1, 1]
            }
        };
        if grid.contains(&0) {
            return Ok(());
        }
        if grid[0] > i32::MAX as usize || grid[1].max(grid[2]) > usize::from(u16::MAX) {
            return Err(Error::Device(format!("{name}: a grid of {grid:?} blocks; use a smaller batch")));
        }
        let grid = grid.map(|blocks| blocks as u32);
        launcher.launch(
            self.kernel,
            grid,
            [self.kernel.block_threads, 1, 1],
            shared_bytes,
            bytemuck::bytes_of(args),
        )
    }
}

/// The kernel for elements of type `dtype`, given those for f32 and bf16.
fn by_dtype<Args>(
    dtype: DType,
    f32_kernel: &'static Entry<Args>,
    bf16_kernel: &'static Entry<Args>,
) -> Result<&'static Entry<Args>> {
    match dtype {
        DType::F32 => Ok(f32_kernel),
        DType::Bf16 => Ok(bf16_kernel),
        other => {
            let name = f32_kernel.kernel.name;
            Err(Error::Device(format!("{name} has no twin for {other}; kernels compute in f32 and bf16")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_at_its_place() {
        assert!(!KERNELS.is_empty());
        for (index, kernel) in KERNELS.iter().enumerate() {
            assert_eq!(kernel.index, index);
        }
        assert_eq!((FILL_F32.kernel.name, FILL_F32.kernel.file), ("fill_f32", "fill"));
    }

    #[test]
    fn kernels_are_chosen_by_the_type_of_elements() {
        assert_eq!(relu_fwd(DType::F32).unwrap().kernel.name, "relu_fwd_f32");
        assert_eq!(relu_fwd(DType::Bf16).unwrap().kernel.name, "relu_fwd_bf16");
        let message = relu_fwd(DType::F64).unwrap_err().to_string();
        assert!(message.contains("relu_fwd_f32 has no twin for f64"), "{message}");
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
        assert!(IMAGES.iter().all(|image| !image.bytes().is_empty()));
    }

    #[test]
    fn assembly_text_waits_for_launches_before_from_9_0_on_alone() {
        for image in &IMAGES {
            let Some(number) = image.arch.strip_prefix("compute_") else { continue };
            let number: u32 = number.trim_end_matches(['a', 'f']).parse().unwrap();
            let text = String::from_utf8(image.bytes()).unwrap();
            let num_kernels = KERNELS.iter().filter(|kernel| kernel.file == image.file).count();
            let expected = if number >= 90 { num_kernels } else { 0 };
            assert_eq!(text.matches("griddepcontrol.wait").count(), expected, "{} for {number}", image.file);
        }
    }
}
