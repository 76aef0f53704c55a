//! `auto`, `cuda[:N]`, `cpu` or `simt`: what was asked for, and what there is.

use std::fmt;
use std::str::FromStr;

use super::cuda::{Driver, ReplayingGpu};
#[cfg(residuum_simt)]
use super::simt::{Checks, SimtDevice};
use super::{DeviceKind, KernelDevice};
use crate::error::{Error, Result};

/// The value of `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best there is.
    Auto,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// The host's cores.
    Cpu,
    /// The kernels under the emulator.
    Simt,
}

/// A device that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The host's cores.
    Cpu,
    /// An NVIDIA GPU by number; driver, GPU and kernels for it are there.
    Cuda(usize),
    /// The kernels under the emulator.
    Simt,
}

/// As in `--device`.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Device::Simt => f.write_str("simt"),
        }
    }
}

impl Device {
    /// The kind to plan for.
    pub fn kind(self) -> DeviceKind {
        match self {
            Device::Cpu => DeviceKind::Cpu,
            Device::Cuda(_) => DeviceKind::Cuda,
            Device::Simt => DeviceKind::Simt,
        }
    }

    /// The device in words, as in `cpu (2 threads)` or `cuda:0 (NVIDIA H200)`.
    pub fn describe(self) -> String {
        match self {
            Device::Cpu => format!("cpu ({} threads)", rayon::current_num_threads()),
            Device::Cuda(ordinal) => match Driver::start().and_then(|driver| driver.gpu(ordinal)) {
                Ok(gpu) => format!("{self} ({})", gpu.name),
                Err(_) => self.to_string(),
            },
            Device::Simt => self.to_string(),
        }
    }

    /// Looks whether it is there.
    ///
    /// # Errors
    /// [`Error::Device`] saying what is missing and how to get it.
    pub fn check(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(ordinal) => {
                let driver = Driver::start()?;
                driver.choose_images(&driver.gpu(ordinal)?).map(|_| ())
            }
            Device::Simt if cfg!(residuum_simt) => Ok(()),
            Device::Simt => Err(Error::Device(NO_EMULATOR.into())),
        }
    }

    /// Memory that is free for a program, in bytes, where the device tells.
    ///
    /// # Errors
    /// [`Error::Device`] if it does not answer.
    pub fn free_bytes(self) -> Result<Option<usize>> {
        match self {
            Device::Cuda(ordinal) => Driver::start()?.free_bytes(ordinal).map(Some),
            Device::Cpu | Device::Simt => Ok(None),
        }
    }

    /// Opens what runs kernels there; `None` on the CPU, which runs none.
    ///
    /// # Errors
    /// [`Error::Device`] saying what is missing and how to get it.
    pub fn open_kernels(self) -> Result<Option<Box<dyn KernelDevice>>> {
        match self {
            Device::Cpu => Ok(None),
            Device::Cuda(ordinal) => Ok(Some(Box::new(ReplayingGpu::open(ordinal)?))),
            #[cfg(residuum_simt)]
            Device::Simt => Ok(Some(Box::new(SimtDevice::new(EMULATOR_SEED, Checks::Off)?))),
            #[cfg(not(residuum_simt))]
            Device::Simt => Err(Error::Device(NO_EMULATOR.into())),
        }
    }
}

/// Decides the order of threads between barriers; correct kernels give the same bits in any.
#[cfg(residuum_simt)]
const EMULATOR_SEED: u64 = 0;

/// Why this build has no emulator.
pub const NO_EMULATOR: &str = "this build has no emulator; install a C++ compiler (g++) and build again";

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceChoice> {
        let unknown = || Error::Usage(format!("`{text}` is unknown; take auto, cuda, cuda:N, cpu or simt"));
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "simt" => Ok(DeviceChoice::Simt),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            other => {
                let number = other.strip_prefix("cuda:").ok_or_else(unknown)?;
                Ok(DeviceChoice::Cuda(number.parse().map_err(|_| unknown())?))
            }
        }
    }
}

impl DeviceChoice {
    /// The kind to plan for: of the device that was named, whether it is there or not, and of the best there is for `auto`.
    ///
    /// # Errors
    /// As [`DeviceChoice::open`].
    pub fn kind(self) -> Result<DeviceKind> {
        match self {
            DeviceChoice::Auto => Ok(self.open()?.0.kind()),
            DeviceChoice::Cuda(_) => Ok(DeviceKind::Cuda),
            DeviceChoice::Cpu => Ok(DeviceKind::Cpu),
            DeviceChoice::Simt => Ok(DeviceKind::Simt),
        }
    }

    /// The device to use, and for `auto` a line that says why it is no GPU.
    ///
    /// # Errors
    /// [`Error::Device`] if a device was named and cannot be used.
    pub fn open(self) -> Result<(Device, Option<String>)> {
        let device = match self {
            DeviceChoice::Auto => {
                return Ok(match Device::Cuda(0).check() {
                    Ok(()) => (Device::Cuda(0), None),
                    Err(reason) => (Device::Cpu, Some(format!("device: the CPU ({reason})"))),
                });
            }
            DeviceChoice::Cuda(ordinal) => Device::Cuda(ordinal),
            DeviceChoice::Cpu => Device::Cpu,
            DeviceChoice::Simt => Device::Simt,
        };
        match device.check() {
            Ok(()) => Ok((device, None)),
            Err(reason) => Err(Error::Device(format!("{device}: {reason}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!("cuda:3".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(3));
        assert_eq!("auto".parse::<DeviceChoice>().unwrap(), DeviceChoice::Auto);
        for wrong in ["gpu", "cuda:", "cuda:x", ""] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_device_is_described_even_where_it_is_not_there() {
        assert!(Device::Cpu.describe().starts_with("cpu ("));
        assert_eq!(Device::Cuda(4096).describe(), "cuda:4096");
    }

    #[test]
    fn a_named_device_that_cannot_be_used_is_an_error_with_a_way_out() {
        let error = DeviceChoice::Cuda(4096).open().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().starts_with("cuda:4096: "), "{error}");
    }

    #[test]
    fn auto_takes_the_cpu_with_a_reason_or_a_gpu_without() {
        let (device, remark) = DeviceChoice::Auto.open().unwrap();
        assert_eq!(device == Device::Cpu, remark.is_some());
        assert!(remark.is_none_or(|remark| remark.starts_with("device: the CPU (")));
    }
}
