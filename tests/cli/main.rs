//! The program from outside: exit codes and messages of everything a user can get wrong, and what a run must give
//! however it is interrupted, repeated or asked.

mod augment;
mod bad_data;
mod bad_files;
mod bad_flags;
mod browser;
mod data;
#[cfg(feature = "fetch")]
mod fetch;
mod fusion;
mod going_on;
mod growing;
mod launch;
mod launcher;
mod length;
mod networks;
mod old_run;
mod other_programs;
mod pages;
mod plan;
#[cfg(residuum_simt)]
mod plan_on_kernels;
mod precision;
mod predict;
#[cfg(residuum_simt)]
mod profile;
mod program;
#[path = "../common/python.rs"]
mod python;
mod readers;
mod recipes;
mod repeat;
mod replay;
mod results;
mod resume;
#[cfg(feature = "fetch")]
mod server;
mod shell;
mod stop;
mod use_model;
mod weights;
