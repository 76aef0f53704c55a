//! `--device cuda` on a machine without a GPU: the program, unchanged, on the software GPU beside this file, which answers
//! the driver's calls and interprets the PTX that nvcc made.

mod gpu;
#[path = "../common/program.rs"]
mod program;

mod faults;
mod kernels;
mod memory;
mod runs;
mod selftest;
mod steps;
mod warp_groups;
