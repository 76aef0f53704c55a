//! The `residuum` program: parse, run, map the result to an exit code.

use std::panic;
use std::process::{self, ExitCode};

use clap::Parser;
use residuum::cli::{self, Cli};

/// As of a process that SIGPIPE ended.
const NOBODY_READS: i32 = 141;

fn main() -> ExitCode {
    end_quietly_when_nobody_reads();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", cli::message(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Whoever reads the output may have had enough, as in `residuum eval --run RUN | head`. The standard library panics then,
/// which would look like a bug.
fn end_quietly_when_nobody_reads() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let message = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            process::exit(NOBODY_READS);
        }
        report(info);
    }));
}
