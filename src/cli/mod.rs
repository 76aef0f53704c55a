//! The command line: one file per subcommand, from raw flags to validated settings to a call into the library.

// Before the commands, which use its macro.
#[macro_use]
mod output;

mod augment;
mod check_kernels;
mod completions;
mod data;
mod devices;
mod eval;
mod export;
mod flags;
mod launch;
mod man;
mod model;
mod plan;
mod predict;
mod profile;
mod replay;
mod report;
mod reproduce;
mod train;
mod verify_resume;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::show::tell_error;
use crate::train::signal;

/// Trains residual networks on kernels of its own
#[derive(Debug, Parser)]
#[command(version = version(), propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// As in `0.1.0 (8527b54a1c2d)`, where the commit is known.
fn version() -> String {
    let commit = option_env!("RESIDUUM_COMMIT").map_or_else(String::new, |commit| format!(" ({commit})"));
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failure, 2 usage, 3 no usable device, 4 data, 5 diverged, \
6 does not fit, 7 another process of the run left, 8 the GPU failed, 128 + N stopped by signal N, with a checkpoint written \
or what is decoded kept.";

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::TrainArgs>),
    Launch(launch::LaunchArgs),
    Eval(eval::EvalArgs),
    Predict(predict::PredictArgs),
    Export(export::ExportArgs),
    Report(report::ReportArgs),
    Reproduce(reproduce::ReproduceArgs),
    Plan(plan::PlanArgs),
    Profile(Box<profile::ProfileArgs>),
    Replay(replay::ReplayArgs),
    VerifyResume(Box<verify_resume::VerifyResumeArgs>),
    Data(data::DataArgs),
    Augment(augment::AugmentArgs),
    Devices(devices::DevicesArgs),
    CheckKernels(check_kernels::CheckKernelsArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Whatever stops it; [`crate::Error::exit_code`] says how the process ends.
    pub fn run(self) -> Result<()> {
        signal::report_files_too_large()?;
        match self.command {
            Command::Train(args) => args.run(),
            Command::Launch(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Predict(args) => args.run(),
            Command::Export(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Reproduce(args) => args.run(),
            Command::Plan(args) => args.run(),
            Command::Profile(args) => args.run(),
            Command::Replay(args) => args.run(),
            Command::VerifyResume(args) => args.run(),
            Command::Data(args) => args.run(),
            Command::Augment(args) => args.run(),
            Command::Devices(args) => args.run(),
            Command::CheckKernels(args) => args.run(),
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
        }
    }
}

/// Says what stopped the program, if something did, and how its process ends.
pub fn end(outcome: Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    // Whoever reads may have had enough, as in `residuum eval --run RUN | head`: that is no failure.
    if !error.is_broken_pipe() {
        say_error("", &error);
    }
    ExitCode::from(error.exit_code())
}

/// Says `error`, after whose it is where that is to be said.
fn say_error(who: &str, error: &Error) {
    tell_error(format_args!("error: {who}{}", message(error)));
}

/// What `error` says at the command line, where settings have the names of their flags.
fn message(error: &Error) -> String {
    match error {
        Error::Setting { name, value, message } => format!("--{} {value}: {message}", name.replace('_', "-")),
        other => other.to_string(),
    }
}
