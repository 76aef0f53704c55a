//! `residuum check-kernels`: every kernel against the CPU, on this machine.

use clap::Args;

use super::flags::open_device;
use crate::check;
use crate::error::{Error, Result};
use crate::report::{Align, Table};
use crate::tensor::DType;

/// Hold every kernel to the CPU's results and print a table
#[derive(Debug, Args)]
pub(super) struct CheckKernelsArgs {
    /// simt (the emulator) or cuda[:N]
    #[arg(long, value_name = "DEVICE", default_value = "simt")]
    device: String,
    /// Only cases whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    filter: String,
}

impl CheckKernelsArgs {
    pub(super) fn run(self) -> Result<()> {
        let device = open_device(&self.device)?;
        let cases = check::cases(&self.filter);
        if cases.is_empty() {
            return Err(Error::Usage(format!("--filter {}: no case has that in its name", self.filter)));
        }
        let columns = [
            ("case", Align::Left),
            ("type", Align::Left),
            ("error", Align::Right),
            ("allowed", Align::Right),
        ];
        let mut table = Table::new(columns);
        let mut failed = 0;
        for (name, case) in &cases {
            for float in [DType::F32, DType::Bf16] {
                let kernels = device.open_kernels()?.ok_or_else(|| {
                    Error::Usage(format!("--device {device}: runs no kernels; take simt or cuda"))
                })?;
                let outcome = check::run(name, case, float, kernels)?;
                failed += usize::from(!outcome.passed());
                let error = format!("{:.1e}{}", outcome.error, if outcome.passed() { "" } else { " FAILED" });
                table.row([name.clone(), float.to_string(), error, format!("{:.0e}", outcome.tolerance)]);
            }
        }
        print!("{table}");
        println!("{} checks on {device}, {failed} failed", 2 * cases.len());
        if failed > 0 {
            return Err(Error::Device(format!("{failed} kernels disagree with the CPU")));
        }
        Ok(())
    }
}
