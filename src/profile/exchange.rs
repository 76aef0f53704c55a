//! What a step that ranks share sends between them.

use serde::{Deserialize, Serialize};

use super::Gpu;
use super::words::ms;
use crate::plan::Program;
use crate::show::show_bytes;
use crate::step::{StepConfig, Traffic};

/// What one of several ranks sends in an update. It is in no total: what is summed there are launches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Ranks that train together.
    pub num_ranks: usize,
    /// Bytes that each sends to the others, and receives.
    pub bytes: u64,
    /// GB/s on the label of what joins GPUs of this kind, in one direction.
    pub link_gb_per_s: f64,
    /// Seconds that the bytes take at that rate; nothing of it is measured.
    pub predicted_seconds: f64,
}

impl Exchange {
    /// That of a step of several ranks on GPUs like `gpu`; `None` for one rank.
    pub fn of(step: &StepConfig, program: &Program, gpu: &Gpu) -> Option<Exchange> {
        let bytes = Traffic::of(program, step)?.bytes_of(step.grad_accum_steps) as u64;
        let link_gb_per_s = link_gb_per_s(gpu);
        let predicted_seconds = bytes as f64 / (1e9 * link_gb_per_s);
        Some(Exchange { num_ranks: step.num_ranks, bytes, link_gb_per_s, predicted_seconds })
    }

    /// In a sentence.
    pub(super) fn sentence(&self) -> String {
        format!(
            "Each of {} ranks sends {} to the others in an update, and receives as much: {} ms at {} GB/s, what the link is made for. It \
             is not measured and in no sum; gradients are sent while the backward pass goes on, their sum after it.",
            self.num_ranks,
            show_bytes(self.bytes as usize),
            ms(self.predicted_seconds),
            self.link_gb_per_s
        )
    }
}

/// By the maker, in one direction: NVLink of the GPUs of a machine, PCIe where there is none.
fn link_gb_per_s(gpu: &Gpu) -> f64 {
    match gpu.name.as_str() {
        "h100" | "h200" => 450.0,
        "a100" => 300.0,
        _ => 32.0,
    }
}
