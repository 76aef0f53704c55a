//! The NVIDIA driver: whether it is there, what it can load, and its errors in words.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::{env, fs};

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::images;
use crate::device::kernels::{TOOLKIT, Toolkit};
use crate::error::{Error, Result};

/// A version of CUDA, as `(13, 0)`.
pub type CudaVersion = (u32, u32);

/// The driver, found and started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA it can run.
    pub cuda_version: CudaVersion,
}

/// A GPU that the driver shows, before anything is opened on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The number in `cuda:N`, among those that `CUDA_VISIBLE_DEVICES` leaves.
    pub ordinal: usize,
    /// What NVIDIA calls it.
    pub name: String,
    /// Compute capability, as `(9, 0)`.
    pub capability: (u32, u32),
    /// Bytes of memory that the GPU has in all.
    pub memory_bytes: usize,
}

impl Driver {
    /// Starts the driver.
    ///
    /// # Errors
    /// [`Error::Device`] if there is none or it cannot start, with what to do about it.
    pub fn start() -> Result<Driver> {
        static STARTED: OnceLock<std::result::Result<Driver, String>> = OnceLock::new();
        STARTED.get_or_init(Driver::start_once).clone().map_err(Error::Device)
    }

    fn start_once() -> std::result::Result<Driver, String> {
        // SAFETY: loading the driver's library runs its initialisers, which is what it is for.
        if !unsafe { sys::is_culib_present() } {
            return Err(
                "no NVIDIA driver (libcuda.so.1 is not there): install one; in a container, start it with \
                        `--gpus all`"
                    .into(),
            );
        }
        result::init()
            .map_err(|error| explain_start(error, env::var("CUDA_VISIBLE_DEVICES").ok().as_deref()))?;
        let mut version = 0;
        // SAFETY: the driver is started and writes one integer.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }
            .result()
            .map_err(|error| explain_start(error, None))?;
        let version = u32::try_from(version).unwrap_or(0);
        Ok(Driver { cuda_version: (version / 1000, version % 1000 / 10) })
    }

    /// The GPUs it shows; `CUDA_VISIBLE_DEVICES` has been applied.
    ///
    /// # Errors
    /// [`Error::Device`] if one of them does not answer.
    pub fn gpus(&self) -> Result<Vec<Gpu>> {
        let count = result::device::get_count().map_err(failed("counting the GPUs"))?;
        (0..count)
            .map(|ordinal| gpu(ordinal).map_err(failed(format!("asking cuda:{ordinal} what it is"))))
            .collect()
    }

    /// Memory of `cuda:<ordinal>` that is free for a program, in bytes; asking takes a moment and some of it.
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU does not answer, [`Error::DoesNotFit`] if nothing is free.
    pub fn free_bytes(&self, ordinal: usize) -> Result<usize> {
        let context = self.context(ordinal)?;
        let (free, _) = context.mem_get_info().map_err(failed("asking for free memory"))?;
        Ok(free)
    }

    /// The context of `cuda:<ordinal>`, current on this thread: the same for the life of the process, because making one
    /// takes a tenth of a second and some memory.
    ///
    /// # Errors
    /// [`Error::Device`] if the GPU cannot be opened, [`Error::DeviceFailed`] if it failed earlier in this process.
    pub(super) fn context(&self, ordinal: usize) -> Result<Arc<CudaContext>> {
        static CONTEXTS: Mutex<BTreeMap<usize, Arc<CudaContext>>> = Mutex::new(BTreeMap::new());
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        let action = || failed(format!("opening cuda:{ordinal}"));
        if let Some(context) = contexts.get(&ordinal) {
            // What failed while an earlier device was taken down was reported then, or was of no consequence.
            let _ = context.check_err();
            context.bind_to_thread().map_err(action())?;
            return Ok(Arc::clone(context));
        }
        let context = CudaContext::new(ordinal).map_err(action())?;
        // SAFETY: a device has one stream; there is nothing to order between streams.
        unsafe { context.disable_event_tracking() };
        contexts.insert(ordinal, Arc::clone(&context));
        Ok(context)
    }

    /// The GPU called `cuda:<ordinal>`.
    ///
    /// # Errors
    /// [`Error::Device`] naming those there are.
    pub fn gpu(&self, ordinal: usize) -> Result<Gpu> {
        let gpus = self.gpus()?;
        gpus.get(ordinal).cloned().ok_or_else(|| {
            let hint = match env::var("CUDA_VISIBLE_DEVICES") {
                Ok(visible) => format!(" with CUDA_VISIBLE_DEVICES={visible}"),
                Err(_) => String::new(),
            };
            Error::Device(format!("cuda:{ordinal} is not there: the driver shows {} GPUs{hint}", gpus.len()))
        })
    }

    /// The architecture among this build's images that `gpu` is to run: what `RESIDUUM_CUDA_IMAGE` names, or the best.
    ///
    /// # Errors
    /// [`Error::Device`] if there is none, or the driver is too old for it.
    pub fn choose_images(&self, gpu: &Gpu) -> Result<&'static str> {
        let wanted = env::var("RESIDUUM_CUDA_IMAGE").ok();
        self.choose_images_of(TOOLKIT.as_ref(), gpu, wanted.as_deref()).map_err(Error::Device)
    }

    fn choose_images_of(
        &self,
        toolkit: Option<&'static Toolkit>,
        gpu: &Gpu,
        wanted: Option<&str>,
    ) -> std::result::Result<&'static str, String> {
        let toolkit = toolkit.ok_or(super::NO_KERNELS)?;
        let archs: Vec<&'static str> = toolkit
            .archs
            .iter()
            .copied()
            .filter(|&arch| wanted.is_none_or(|wanted| wanted == arch))
            .collect();
        let (major, minor) = gpu.capability;
        if let Some(wanted) = wanted.filter(|_| archs.is_empty()) {
            return Err(format!(
                "RESIDUUM_CUDA_IMAGE is `{wanted}`, but this build has kernels for {} only; build with \
                 RESIDUUM_CUDA_ARCH={wanted}",
                toolkit.archs.join(", ")
            ));
        }
        let arch = images::choose(gpu.capability, &archs).ok_or_else(|| match wanted {
            Some(wanted) => format!(
                "RESIDUUM_CUDA_IMAGE is `{wanted}`, which {} of compute capability {major}.{minor} does not run; unset it",
                gpu.name
            ),
            None => format!(
                "{} has compute capability {major}.{minor}, but this build has kernels for {} only; build with \
                 RESIDUUM_CUDA_ARCH={major}{minor}",
                gpu.name,
                toolkit.archs.join(", ")
            ),
        })?;
        images::check_driver(self.cuda_version, toolkit.nvcc_version, arch)?;
        Ok(arch)
    }
}

fn gpu(ordinal: i32) -> std::result::Result<Gpu, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: the handle is one that the driver has just given.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Gpu {
        ordinal: ordinal.unsigned_abs() as usize,
        name: result::device::get_name(device)?,
        capability: (major.unsigned_abs(), minor.unsigned_abs()),
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }?,
    })
}

/// The version of the installed driver package, as in `580.65.06`, where the kernel module tells it.
pub fn driver_package_version() -> Option<String> {
    package_version(&fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// The first word of numbers and points in the module's first line.
fn package_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_string)
}

/// Why the driver does not start, for `visible` in `CUDA_VISIBLE_DEVICES`.
fn explain_start(error: DriverError, visible: Option<&str>) -> String {
    use sys::CUresult as Code;
    match error.0 {
        Code::CUDA_ERROR_NO_DEVICE => match visible {
            Some(visible) => format!("the NVIDIA driver shows no GPU: CUDA_VISIBLE_DEVICES is `{visible}`"),
            None => "the NVIDIA driver finds no GPU; in a container, start it with `--gpus all`".into(),
        },
        Code::CUDA_ERROR_STUB_LIBRARY => {
            "libcuda.so is the CUDA toolkit's stub instead of a driver; take its folder off LD_LIBRARY_PATH"
                .into()
        }
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "the NVIDIA driver's library and kernel module differ in version; restart the machine".into()
        }
        Code::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the CUDA compatibility library does not work with this GPU; take its folder off LD_LIBRARY_PATH"
                .into()
        }
        _ => format!("the NVIDIA driver does not start: {}", describe(error)),
    }
}

/// The error of the driver while doing `action`, made to be used with `map_err`: [`Error::DoesNotFit`] where the GPU's
/// memory ran out, [`Error::DeviceFailed`] where the GPU is of no more use to this process, else [`Error::Device`].
pub(super) fn failed(action: impl Into<String>) -> impl FnOnce(DriverError) -> Error {
    let action = action.into();
    move |error| explain_failure(&action, error.0, &describe(error))
}

/// As [`failed`], for an error called `name`.
fn explain_failure(action: &str, code: sys::CUresult, name: &str) -> Error {
    match (code, advice_after_failure(code)) {
        (sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, _) => Error::does_not_fit(format!(
            "CUDA: {action} failed: the GPU's memory is full; end other programs that use it, or take a smaller \
             batch"
        )),
        (_, Some(advice)) => Error::DeviceFailed(format!("the GPU failed: {action}: {name}; {advice}")),
        _ => Error::Device(format!("CUDA: {action} failed: {name}")),
    }
}

/// What to do about an error after which every call of this process fails; `None` for any other.
fn advice_after_failure(code: sys::CUresult) -> Option<&'static str> {
    use sys::CUresult as Code;
    match code {
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | Code::CUDA_ERROR_INVALID_PC
        | Code::CUDA_ERROR_LAUNCH_FAILED
        | Code::CUDA_ERROR_ASSERT => Some(
            "a kernel went wrong, by a fault of its own or of the hardware: `compute-sanitizer` tells which kernel, and \
             `residuum check-kernels --device cuda` whether it does so again",
        ),
        Code::CUDA_ERROR_LAUNCH_TIMEOUT => {
            Some("a kernel ran longer than this system allows: train on a GPU that drives no display")
        }
        Code::CUDA_ERROR_ECC_UNCORRECTABLE
        | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
        | Code::CUDA_ERROR_DEVICE_UNAVAILABLE
        | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | Code::CUDA_ERROR_UNKNOWN => Some(
            "the hardware or the driver is at fault: `nvidia-smi` shows whether the GPU is still there, `dmesg` has a line \
             with `Xid`; reset the GPU or restart the machine",
        ),
        _ => None,
    }
}

/// What the driver calls an error, and its code.
fn describe(error: DriverError) -> String {
    let text = |text: std::result::Result<&CStr, DriverError>| {
        text.map_or_else(|_| "unknown error".into(), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({:?})", text(error.error_string()), error.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100() -> Gpu {
        Gpu { ordinal: 0, name: "NVIDIA H100".into(), capability: (9, 0), memory_bytes: 80 << 30 }
    }

    #[test]
    fn a_build_without_kernels_or_without_this_architecture_says_so() {
        static OLD: Toolkit = Toolkit { nvcc_version: "12.4.131", archs: &["sm_80", "sm_86"] };
        let driver = Driver { cuda_version: (12, 4) };
        assert!(driver.choose_images_of(None, &h100(), None).unwrap_err().contains("no CUDA kernels"));
        let message = driver.choose_images_of(Some(&OLD), &h100(), None).unwrap_err();
        assert!(message.contains("sm_80, sm_86") && message.contains("RESIDUUM_CUDA_ARCH=90"), "{message}");
    }

    #[test]
    fn the_driver_must_be_new_enough() {
        static NEW: Toolkit = Toolkit { nvcc_version: "13.0.88", archs: &["sm_90a"] };
        let choose = |cuda_version| Driver { cuda_version }.choose_images_of(Some(&NEW), &h100(), None);
        assert_eq!(choose((13, 0)), Ok("sm_90a"));
        assert!(choose((12, 9)).unwrap_err().contains("CUDA 12.9"));
    }

    #[test]
    fn an_image_that_is_asked_for_is_taken_or_missed() {
        static BUILT: Toolkit =
            Toolkit { nvcc_version: "12.4.131", archs: &["sm_90a", "compute_80", "compute_90a", "sm_80"] };
        let choose =
            |wanted| Driver { cuda_version: (12, 4) }.choose_images_of(Some(&BUILT), &h100(), Some(wanted));
        assert_eq!(choose("compute_90a"), Ok("compute_90a"));
        assert_eq!(choose("compute_80"), Ok("compute_80"));
        let message = choose("compute_90").unwrap_err();
        assert!(
            message.contains("RESIDUUM_CUDA_IMAGE is `compute_90`") && message.contains("ARCH=compute_90"),
            "{message}"
        );
        let message = choose("sm_80").unwrap_err();
        assert!(message.contains("NVIDIA H100 of compute capability 9.0 does not run"), "{message}");
    }

    #[test]
    fn reasons_for_a_driver_that_does_not_start_name_the_remedy() {
        use sys::CUresult as Code;
        let explain = |code, visible| explain_start(DriverError(code), visible);
        assert!(explain(Code::CUDA_ERROR_NO_DEVICE, Some("-1")).contains("CUDA_VISIBLE_DEVICES is `-1`"));
        assert!(explain(Code::CUDA_ERROR_NO_DEVICE, None).contains("--gpus all"));
        assert!(explain(Code::CUDA_ERROR_STUB_LIBRARY, None).contains("LD_LIBRARY_PATH"));
        assert!(explain(Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, None).contains("restart"));
    }

    #[test]
    fn memory_that_runs_out_after_the_arena_is_told_as_such() {
        let error = explain_failure("loading kernels", sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, "");
        assert_eq!(error.exit_code(), 6);
        assert!(error.to_string().contains("loading kernels failed: the GPU's memory is full"), "{error}");
    }

    #[test]
    fn a_gpu_that_fails_has_an_exit_code_and_a_remedy_of_its_own() {
        let of = |code| explain_failure("a kernel or a copy", code, "its name");
        for (code, remedy) in [
            (sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "compute-sanitizer"),
            (sys::CUresult::CUDA_ERROR_ECC_UNCORRECTABLE, "Xid"),
            (sys::CUresult::CUDA_ERROR_LAUNCH_TIMEOUT, "display"),
        ] {
            let error = of(code);
            assert_eq!(error.exit_code(), 8, "{error}");
            assert!(error.to_string().contains(remedy), "{error}");
        }
        assert_eq!(of(sys::CUresult::CUDA_ERROR_INVALID_VALUE).exit_code(), 3);
    }

    #[test]
    fn the_package_version_is_read() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:16:17 UTC 2025\nGCC 12.3\n";
        assert_eq!(package_version(text).as_deref(), Some("580.65.06"));
        assert_eq!(package_version("NVRM version: none"), None);
    }
}
