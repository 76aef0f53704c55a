//! The types of activations: `--precision`, and what `auto` is on a device.

use super::value::named_values;
use crate::device::DeviceKind;
use crate::named::named;
use crate::tensor::DType;

named! {
    /// The value of `--precision`.
    pub enum PrecisionChoice {
        /// The type that suits the device.
        Auto = "auto",
        /// Single precision.
        F32 = "f32",
        /// Half the bytes, with the exponents of f32.
        Bf16 = "bf16",
    }
}

named! {
    /// The types of activations.
    pub enum Precision {
        /// Single precision.
        F32 = "f32",
        /// Half the bytes, with the exponents of f32.
        Bf16 = "bf16",
    }
}

named_values!(PrecisionChoice);

impl PrecisionChoice {
    /// The type of a run on a device of this kind: the one that was named, whether the device has it or not, and for `auto`
    /// bf16 on a GPU and f32 elsewhere.
    pub fn on(self, device: DeviceKind) -> Precision {
        match (self, device) {
            (PrecisionChoice::Bf16, _) | (PrecisionChoice::Auto, DeviceKind::Cuda) => Precision::Bf16,
            (PrecisionChoice::F32, _) | (PrecisionChoice::Auto, DeviceKind::Cpu | DeviceKind::Simt) => {
                Precision::F32
            }
        }
    }

    /// What to say of the type on a device of this kind, and why it is that one, where `auto` decides.
    pub fn remark(self, device: DeviceKind) -> Option<String> {
        let reason = match device {
            DeviceKind::Cpu => "the CPU computes in no other",
            DeviceKind::Cuda => "what the GPU's tensor cores take; --precision f32 is slower",
            DeviceKind::Simt => "the emulator is held to the CPU; --precision bf16 is what a GPU takes",
        };
        (self == PrecisionChoice::Auto).then(|| format!("precision: {} ({reason})", self.on(device)))
    }
}

impl From<Precision> for PrecisionChoice {
    fn from(precision: Precision) -> PrecisionChoice {
        match precision {
            Precision::F32 => PrecisionChoice::F32,
            Precision::Bf16 => PrecisionChoice::Bf16,
        }
    }
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> DType {
        match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_bf16_on_a_gpu_and_f32_elsewhere_and_says_why() {
        for (device, precision, why) in [
            (DeviceKind::Cpu, Precision::F32, "precision: f32 (the CPU "),
            (DeviceKind::Simt, Precision::F32, "precision: f32 (the emulator "),
            (
                DeviceKind::Cuda,
                Precision::Bf16,
                "precision: bf16 (what the GPU's tensor cores take; --precision f32 ",
            ),
        ] {
            assert_eq!(PrecisionChoice::Auto.on(device), precision);
            let remark = PrecisionChoice::Auto.remark(device).unwrap();
            assert!(remark.starts_with(why), "{remark}");
        }
    }

    #[test]
    fn a_type_that_was_named_is_taken_on_every_device_without_a_word() {
        for device in [DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Simt] {
            for precision in [Precision::F32, Precision::Bf16] {
                let choice = PrecisionChoice::from(precision);
                assert_eq!((choice.on(device), choice.remark(device)), (precision, None));
            }
        }
    }
}
