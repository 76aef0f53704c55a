//! The `residuum` program: parse, run, map the result to an exit code.

use std::process::ExitCode;

use clap::Parser;
use residuum::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
