//! The software GPU as the other tests have it, with its own test and what it counts.

#[path = "../common/softgpu.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

pub use common::{Record, SoftGpu, software_gpu};
use residuum::device::kernels::TOOLKIT;
use serde::Deserialize;

impl SoftGpu {
    /// The program that holds the software GPU to the documents it is written from.
    pub fn selftest(&self) -> Command {
        let mut command = Command::new(self.folder.join("selftest"));
        command.arg(self.folder.join("libcuda.so.1"));
        command
    }

    /// The double of NCCL for processes on the software GPU.
    pub fn nccl(&self) -> PathBuf {
        self.folder.join("nccl/libnccl.so.2")
    }

    /// The program that holds the double of NCCL to what the library is documented to do.
    pub fn nccl_selftest(&self) -> Command {
        let mut command = Command::new(self.folder.join("nccl_selftest"));
        command.arg(self.folder.join("libcuda.so.1")).arg(self.nccl());
        command
    }

    /// Runs `command` on the software GPU to its end.
    pub fn output(&self, command: &mut Command, variables: &[(&str, &str)]) -> (Output, Record) {
        let record = self.attach(command, variables);
        (command.output().unwrap(), record)
    }
}

/// Whether this build has assembly text whose kernels wait for the launches before them.
pub fn kernels_wait() -> bool {
    TOOLKIT.as_ref().is_some_and(|toolkit| toolkit.archs.contains(&"compute_90"))
}

/// Counts of what happened on the software GPU, over one process or several.
#[derive(Debug, Default, Deserialize)]
pub struct Report {
    /// Calls of each entry point of the driver.
    pub calls: BTreeMap<String, u64>,
    /// Calls that waited for work that was not over.
    pub waits: u64,
    /// Those after which no work was left: a GPU that has nothing to do.
    #[serde(default)]
    pub idles: u64,
    /// Kernels that ran in launches that may begin before those before them are done.
    #[serde(default)]
    pub overlapping: u64,
    /// What a driver or a GPU would object to, or leave undefined.
    pub violations: u64,
    /// What was alive at the end of a process.
    pub leaks: u64,
    /// Violations that are races.
    pub races: u64,
    /// Calls that failed because they were asked to.
    pub injected: u64,
    /// What ran, by name.
    pub kernels: BTreeMap<String, KernelReport>,
}

/// What ran of a kernel.
#[derive(Debug, Default, Deserialize)]
pub struct KernelReport {
    /// How often it was launched.
    pub launches: u64,
    /// `1` for each instruction of its PTX that has run, `0` for others.
    pub covered: String,
    /// The line of each instruction in the PTX.
    #[serde(default)]
    pub lines: Vec<u32>,
    /// The line of each instruction in the kernel's source.
    #[serde(default)]
    pub source: Vec<String>,
}

impl Record {
    /// The counts of all processes so far, at none of which anything may be objected to.
    #[track_caller]
    pub fn clean_report(&self) -> Report {
        self.assert_clean();
        let mut sum = Report::default();
        self.reports().into_iter().for_each(|report| sum.add(serde_json::from_value(report).unwrap()));
        sum
    }
}

impl Report {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: Report) {
        for (name, count) in other.calls {
            *self.calls.entry(name).or_default() += count;
        }
        self.waits += other.waits;
        self.idles += other.idles;
        self.overlapping += other.overlapping;
        self.violations += other.violations;
        self.leaks += other.leaks;
        self.races += other.races;
        self.injected += other.injected;
        for (name, kernel) in other.kernels {
            let sum = self.kernels.entry(name).or_default();
            sum.launches += kernel.launches;
            if sum.covered.is_empty() {
                *sum = KernelReport { launches: sum.launches, ..kernel };
                continue;
            }
            assert_eq!(sum.covered.len(), kernel.covered.len(), "one name, two kernels");
            if sum.source.is_empty() {
                (sum.lines, sum.source) = (kernel.lines, kernel.source);
            }
            let either = sum.covered.bytes().zip(kernel.covered.bytes()).map(|(a, b)| char::from(a.max(b)));
            sum.covered = either.collect();
        }
    }
}
