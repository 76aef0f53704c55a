//! The `residuum` program: parse, run, map the result to an exit code.

use std::process::ExitCode;

use clap::Parser;
use residuum::cli::{self, Cli};

fn main() -> ExitCode {
    cli::end(Cli::parse().run())
}
