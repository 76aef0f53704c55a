//! `--device auto | cuda[:N] | cpu | simt`: what was asked for, and what there is.

use std::str::FromStr;

use super::DeviceKind;
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

/// Why a build cannot use a GPU.
pub const NO_CUDA: &str = "this build has no CUDA kernels";

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceChoice> {
        let unknown =
            || Error::Usage(format!("--device `{text}` is unknown; take auto, cuda, cuda:N, cpu or simt"));
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
    /// The device to use, and for `auto` a line that says why it is no GPU.
    ///
    /// # Errors
    /// [`Error::Device`] if a device was named and cannot be used.
    pub fn open(self) -> Result<(DeviceKind, Option<String>)> {
        match self {
            DeviceChoice::Cpu => Ok((DeviceKind::Cpu, None)),
            DeviceChoice::Auto => Ok((DeviceKind::Cpu, Some(format!("device: the CPU ({NO_CUDA})")))),
            DeviceChoice::Cuda(number) => {
                Err(Error::Device(format!("--device cuda:{number}: {NO_CUDA}; take --device cpu")))
            }
            DeviceChoice::Simt => Err(Error::Device(
                "--device simt: this build has no kernels to emulate; take --device cpu".into(),
            )),
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
    fn a_named_device_that_is_not_there_is_an_error_and_auto_says_why() {
        assert_eq!(DeviceChoice::Cuda(0).open().unwrap_err().exit_code(), 3);
        let (kind, remark) = DeviceChoice::Auto.open().unwrap();
        assert_eq!(kind, DeviceKind::Cpu);
        assert!(remark.unwrap().contains(NO_CUDA));
    }
}
