//! `--device cuda` on a machine without a GPU: the program, unchanged, on the software GPU beside this file, which answers
//! the driver's calls and interprets the PTX that nvcc made.

mod gpu;
#[path = "../common/left_by_run.rs"]
mod left_by_run;
#[path = "../common/program.rs"]
mod program;
#[path = "../common/rank_processes.rs"]
mod rank_processes;

mod faults;
mod kernels;
mod memory;
mod ranks;
mod runs;
mod selftest;
mod steps;
mod warp_groups;
