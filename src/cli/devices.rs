//! `residuum devices`: what this build can run on here, and what is missing.

use clap::Args;
use pulp::Arch;

use crate::device::NO_CUDA;
use crate::error::Result;
use crate::report::{Align, Table};

/// List the devices this build can use here
#[derive(Debug, Args)]
pub(super) struct DevicesArgs {}

/// The widest vectors that the kernels use here.
fn vectors() -> &'static str {
    match Arch::new() {
        Arch::Scalar => "no",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "AVX2",
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "AVX-512",
        _ => "SIMD",
    }
}

impl DevicesArgs {
    pub(super) fn run(self) -> Result<()> {
        let mut table =
            Table::new([("device", Align::Left), ("usable", Align::Left), ("details", Align::Left)]);
        let threads = rayon::current_num_threads();
        let cpu = format!("{threads} threads, {} vectors, f32", vectors());
        table.row(["cpu", "yes", cpu.as_str()]);
        table.row(["cuda", "no", NO_CUDA]);
        table.row(["simt", "no", "this build has no kernels to emulate"]);
        print!("{table}");
        Ok(())
    }
}
