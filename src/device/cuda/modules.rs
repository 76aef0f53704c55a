//! Compiled kernels on the GPU: a file's image is loaded when one of its kernels is first asked for.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::driver::failed;
use crate::device::kernels::{IMAGES, KERNELS, Kernel};
use crate::error::{Error, Result};

/// The loaded images of one architecture.
#[derive(Debug)]
pub(super) struct Modules {
    arch: &'static str,
    /// Shared memory a block may ask for on this GPU, static and dynamic together.
    block_shared_bytes: i32,
    /// In the order of `KERNELS`.
    functions: [Option<sys::CUfunction>; KERNELS.len()],
    loaded: Vec<sys::CUmodule>,
    context: Arc<CudaContext>,
}

impl Modules {
    /// None loaded yet.
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU does not answer.
    pub(super) fn new(context: &Arc<CudaContext>, arch: &'static str) -> Result<Modules> {
        let block_shared_bytes = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .map_err(failed("asking for the size of shared memory"))?;
        Ok(Modules {
            arch,
            block_shared_bytes,
            functions: [None; KERNELS.len()],
            loaded: Vec::new(),
            context: Arc::clone(context),
        })
    }

    pub(super) fn arch(&self) -> &'static str {
        self.arch
    }

    /// The function to launch, loaded if it is not.
    ///
    /// Not to be called for a new kernel while a stream is captured: loading allocates, which a capture forbids.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses the image.
    pub(super) fn function(&mut self, kernel: &'static Kernel) -> Result<sys::CUfunction> {
        if let Some(function) = self.functions[kernel.index] {
            return Ok(function);
        }
        self.load(kernel.file)?;
        self.functions[kernel.index]
            .ok_or_else(|| Error::Device(format!("CUDA: {}.cu has no kernel `{}`", kernel.file, kernel.name)))
    }

    fn load(&mut self, file: &str) -> Result<()> {
        let image =
            IMAGES.iter().find(|image| image.file == file && image.arch == self.arch).ok_or_else(|| {
                Error::Device(format!("CUDA: this build has no image of {file}.cu for {}", self.arch))
            })?;
        let action = || format!("loading {file}.cu for {}", self.arch);
        self.context.bind_to_thread().map_err(failed(action()))?;
        // Assembly text must end in a zero; machine code tells its own length.
        let mut bytes = image.bytes();
        bytes.push(0);
        // SAFETY: the image is whole and ends in a zero.
        let module = unsafe { result::module::load_data(bytes.as_ptr().cast::<c_void>()) }
            .map_err(failed(action()))?;
        self.loaded.push(module);
        for kernel in KERNELS.iter().filter(|kernel| kernel.file == file) {
            let function = find_function(module, kernel, self.block_shared_bytes)
                .map_err(failed(format!("loading kernel `{}` for {}", kernel.name, self.arch)))?;
            self.functions[kernel.index] = Some(function);
        }
        Ok(())
    }
}

/// Finds a kernel and lets it ask for all the shared memory there is: without that a launch gets 48 KiB at most.
fn find_function(
    module: sys::CUmodule,
    kernel: &Kernel,
    block_shared_bytes: i32,
) -> std::result::Result<sys::CUfunction, DriverError> {
    use sys::CUfunction_attribute as Attribute;
    let name = CString::new(kernel.name).expect("a kernel's name is an identifier");
    // SAFETY: the module is loaded and stays so as long as its functions.
    unsafe {
        let function = result::module::get_function(module, name)?;
        let fixed = result::function::get_function_attribute(
            function,
            Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
        )?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        result::function::set_function_attribute(function, attribute, block_shared_bytes - fixed)?;
        Ok(function)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        for module in self.loaded.drain(..) {
            // SAFETY: loaded here, unloaded once, after the graphs that use it. A failure here follows one that has
            // already been reported.
            let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::module::unload(module) });
        }
    }
}
