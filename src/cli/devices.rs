//! `residuum devices`: what this build can run on here, and what is missing.

use clap::Args;
use pulp::Arch;

use crate::device::NO_CUDA;
use crate::error::Result;
use crate::report::{Align, Table};

/// List the devices this build can use here
#[derive(Debug, Args)]
pub(super) struct DevicesArgs {}

impl DevicesArgs {
    pub(super) fn run(self) -> Result<()> {
        let mut table =
            Table::new([("device", Align::Left), ("usable", Align::Left), ("details", Align::Left)]);
        let threads = rayon::current_num_threads();
        let cpu = format!("{threads} threads, {:?} vectors, f32", Arch::new());
        table.row(["cpu", "yes", cpu.as_str()]);
        table.row(["cuda", "no", NO_CUDA]);
        table.row(["simt", "no", "this build has no kernels to emulate"]);
        print!("{table}");
        Ok(())
    }
}
