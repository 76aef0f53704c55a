//! The types of activations: `--precision`, and what `auto` is on a device.

use super::value::named_values;
use crate::device::DeviceKind;
use crate::device::cpu::conv::mixed::{AmxAbsence, amx};
use crate::named::named;
use crate::tensor::DType;

named! {
    /// The value of `--precision`.
    pub enum PrecisionChoice {
        /// The type that suits the device.
        Auto = "auto",
        /// Single precision.
        F32 = "f32",
        /// Single precision, but convolutions on the tensor cores of a GPU.
        Tf32 = "tf32",
        /// Half the bytes, with the exponents of f32.
        Bf16 = "bf16",
    }
}

named! {
    /// What activations are, and what convolutions multiply.
    pub enum Precision {
        /// Single precision.
        F32 = "f32",
        /// Single precision in memory; convolutions on tensor cores round what they multiply to ten bits of mantissa.
        Tf32 = "tf32",
        /// Half the bytes, with the exponents of f32.
        Bf16 = "bf16",
    }
}

named! {
    /// The types of gradients on their way between ranks.
    pub enum GradWire {
        /// Single precision.
        F32 = "f32",
        /// Half the bytes.
        Bf16 = "bf16",
    }
}

named_values!(PrecisionChoice GradWire);

impl PrecisionChoice {
    /// The type of a run on a device of this kind: the one that was named, and for `auto` bf16 where the device multiplies it
    /// faster than f32, on GPUs and on CPUs with AMX, and f32 elsewhere.
    pub fn on(self, device: DeviceKind) -> Precision {
        match self {
            PrecisionChoice::F32 => Precision::F32,
            PrecisionChoice::Tf32 => Precision::Tf32,
            PrecisionChoice::Bf16 => Precision::Bf16,
            PrecisionChoice::Auto => of_device(device, amx()).0,
        }
    }

    /// What to say of the type on a device of this kind: why it is that one, where `auto` decides, that bf16 is slow on a CPU
    /// without AMX, and that TF32 is not there on any CPU.
    pub fn remark(self, device: DeviceKind) -> Option<String> {
        let (precision, reason) = match (self, device, amx()) {
            (PrecisionChoice::Auto, _, amx) => of_device(device, amx),
            (PrecisionChoice::Bf16, DeviceKind::Cpu, Err(absence)) => {
                (Precision::Bf16, format!("{absence}; vectors give its results, slower than f32"))
            }
            (PrecisionChoice::Tf32, DeviceKind::Cpu, _) => {
                (Precision::Tf32, "a CPU has no tensor cores; it multiplies f32 as it is".into())
            }
            _ => return None,
        };
        Some(format!("precision: {precision} ({reason})"))
    }
}

/// The type that suits a device, and why, where the CPU has a matrix unit or has none.
fn of_device(device: DeviceKind, amx: Result<(), AmxAbsence>) -> (Precision, String) {
    match (device, amx) {
        (DeviceKind::Cuda, _) => (
            Precision::Bf16,
            "what the GPU's tensor cores take fastest; --precision tf32 keeps activations f32".into(),
        ),
        (DeviceKind::Cpu, Ok(())) => {
            (Precision::Bf16, "what the processor's AMX takes; --precision f32 is slower".into())
        }
        (DeviceKind::Cpu, Err(absence)) => (Precision::F32, format!("{absence}, and bf16 is slower without")),
        (DeviceKind::Simt, _) => {
            (Precision::F32, "the emulator is held to the CPU; --precision bf16 is what a GPU takes".into())
        }
    }
}

impl Precision {
    /// Whether convolutions of f32 may multiply in TF32: on a CPU, which has no such products, never.
    pub fn allows_tf32(self, device: DeviceKind) -> bool {
        self == Precision::Tf32 && device != DeviceKind::Cpu
    }
}

impl From<Precision> for PrecisionChoice {
    fn from(precision: Precision) -> PrecisionChoice {
        match precision {
            Precision::F32 => PrecisionChoice::F32,
            Precision::Tf32 => PrecisionChoice::Tf32,
            Precision::Bf16 => PrecisionChoice::Bf16,
        }
    }
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> DType {
        match precision {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        }
    }
}

impl From<GradWire> for DType {
    fn from(wire: GradWire) -> DType {
        match wire {
            GradWire::F32 => DType::F32,
            GradWire::Bf16 => DType::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_bf16_where_that_is_faster_and_says_why() {
        let absence = Err(AmxAbsence::Processor);
        for (device, amx, precision, why) in [
            (
                DeviceKind::Cpu,
                absence,
                Precision::F32,
                "the processor has no AMX for bf16, and bf16 is slower",
            ),
            (DeviceKind::Cpu, Ok(()), Precision::Bf16, "what the processor's AMX takes; --precision f32"),
            (DeviceKind::Simt, Ok(()), Precision::F32, "the emulator"),
            (DeviceKind::Cuda, absence, Precision::Bf16, "what the GPU's tensor cores take fastest"),
        ] {
            let (decided, reason) = of_device(device, amx);
            assert_eq!(decided, precision);
            assert!(reason.starts_with(why), "{reason}");
        }
        let remark = PrecisionChoice::Auto.remark(DeviceKind::Simt).unwrap();
        assert!(remark.starts_with("precision: f32 (the emulator"), "{remark}");
        assert_eq!(PrecisionChoice::Auto.on(DeviceKind::Cuda), Precision::Bf16);
    }

    #[test]
    fn a_type_that_was_named_is_taken_without_a_word_but_where_a_cpu_has_no_such_unit() {
        for device in [DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Simt] {
            for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
                let choice = PrecisionChoice::from(precision);
                let has_unit = match precision {
                    Precision::F32 => true,
                    Precision::Tf32 => false,
                    Precision::Bf16 => amx().is_ok(),
                };
                let has_remark = device == DeviceKind::Cpu && !has_unit;
                assert_eq!((choice.on(device), choice.remark(device).is_some()), (precision, has_remark));
            }
        }
    }
}
