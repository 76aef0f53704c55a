//! What commands print to stdout.
//!
//! `println!` would panic where nobody reads any more, as in `residuum eval --run RUN | head`, or where the disk is full:
//! here both are an error of the command.

use std::fmt::Display;
use std::io::{Write, stdout};

use crate::error::{Error, Result};

/// Prints `text` to stdout.
///
/// # Errors
/// [`Error::Stdout`] if it cannot be written.
pub(super) fn print(text: impl Display) -> Result<()> {
    stdout().write_all(text.to_string().as_bytes()).map_err(Error::Stdout)
}

/// Prints a line to stdout, from a function that returns a `Result`.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::print(format_args!("{}\n", format_args!($($text)*)))?
    };
}
