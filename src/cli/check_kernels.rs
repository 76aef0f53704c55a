//! `residuum check-kernels`: every kernel against the CPU, on this machine.

use clap::Args;

use super::flags::open_device;
use super::output;
use crate::check::{self, Launched, Outcome};
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
    /// That many more random shapes of every operation and kernel
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    random: u64,
}

impl CheckKernelsArgs {
    pub(super) fn run(self) -> Result<()> {
        let device = open_device(self.device)?;
        let cases = check::cases(&self.filter);
        let seeds = check::TABLE_SEEDS.start..check::TABLE_SEEDS.end + self.random;
        let mut trials: Vec<_> = seeds.flat_map(check::random).collect();
        trials.retain(|trial| trial.name.contains(&self.filter));
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
        let (mut checked, mut failed) = (0, 0);
        let mut note = |outcome: Outcome| {
            checked += 1;
            failed += usize::from(!outcome.passed());
            let verdict = if outcome.passed() { String::new() } else { format!(" FAILED {}", outcome.worst) };
            let error = format!("{:.1e}{verdict}", outcome.error);
            let allowed = format!("{:.0e}", outcome.tolerance);
            table.row([outcome.name, outcome.float.to_string(), error, allowed]);
        };
        let launched = Launched::default();
        let open = || {
            let kernels = device.open_kernels()?;
            let none = || Error::Usage(format!("--device {device}: runs no kernels; take simt or cuda"));
            kernels.ok_or_else(none).map(|kernels| launched.watch(kernels))
        };
        for float in [DType::F32, DType::Bf16] {
            for (name, case) in &cases {
                note(check::run(name, case, float, open()?)?);
            }
            for trial in trials.iter().filter(|trial| trial.is_for(float)) {
                note(trial.run(float, open()?)?);
            }
        }
        output::print(&table)?;
        match launched.missing().as_slice() {
            [] => say!("every kernel of the operations was launched"),
            missing => say!("not launched: {}", missing.join(", ")),
        }
        say!("{checked} checks on {device}, {failed} failed");
        if failed > 0 {
            return Err(Error::Device(format!("{failed} kernels disagree with the CPU")));
        }
        Ok(())
    }
}
