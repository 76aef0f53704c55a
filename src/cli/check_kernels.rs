//! `residuum check-kernels`: every kernel against the CPU, on this machine.

use clap::Args;

use super::flags::open_device;
use crate::check::{self, Outcome};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::report::{Align, Table};
use crate::tensor::DType;

/// Hold every kernel to the CPU's results and print a table
#[derive(Debug, Args)]
pub(super) struct CheckKernelsArgs {
    /// simt (the emulator), cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "simt")]
    device: DeviceChoice,
    /// Only cases whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    filter: String,
    /// Also that many random shapes of every operation
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    random: u64,
}

impl CheckKernelsArgs {
    pub(super) fn run(self) -> Result<()> {
        let device = open_device(self.device)?;
        let cases = check::cases(&self.filter);
        let trials = (0..self.random).flat_map(check::random);
        let trials: Vec<_> = trials.filter(|trial| trial.name.contains(&self.filter)).collect();
        if cases.is_empty() && trials.is_empty() {
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
        let mut note = |outcome: Outcome| {
            failed += usize::from(!outcome.passed());
            let verdict = if outcome.passed() { String::new() } else { format!(" FAILED {}", outcome.worst) };
            let error = format!("{:.1e}{verdict}", outcome.error);
            let allowed = format!("{:.0e}", outcome.tolerance);
            table.row([outcome.name, outcome.float.to_string(), error, allowed]);
        };
        let open = || {
            device
                .open_kernels()?
                .ok_or_else(|| Error::Usage(format!("--device {device}: runs no kernels; take simt or cuda")))
        };
        for float in [DType::F32, DType::Bf16] {
            for (name, case) in &cases {
                note(check::run(name, case, float, open()?)?);
            }
            for trial in &trials {
                note(trial.run(float, open()?)?);
            }
        }
        print!("{table}");
        println!("{} checks on {device}, {failed} failed", 2 * (cases.len() + trials.len()));
        if failed > 0 {
            return Err(Error::Device(format!("{failed} kernels disagree with the CPU")));
        }
        Ok(())
    }
}
