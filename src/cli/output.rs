//! What commands print to stdout.
//!
//! `println!` would panic where nobody reads any more, as in `residuum eval --run RUN | head`, or where the disk is full:
//! here both are an error of the command.

use std::fmt::Display;
use std::io::{Write, stdout};

use crate::error::{Error, Result};
use crate::progress;

/// Prints `text` to stdout.
///
/// # Errors
/// [`Error::Stdout`] if it cannot be written.
pub(super) fn print(text: impl Display) -> Result<()> {
    progress::aside(|| stdout().write_all(text.to_string().as_bytes())).map_err(Error::Stdout)
}

/// A table of text as CSV, held in memory.
pub(super) struct Csv(csv::Writer<Vec<u8>>);

impl Csv {
    /// With these columns and no rows.
    pub(super) fn new<const N: usize>(columns: [&str; N]) -> Csv {
        let mut table = Csv::empty();
        table.row(columns);
        table
    }

    /// Rows that go on with a table.
    pub(super) fn empty() -> Csv {
        Csv(csv::Writer::from_writer(Vec::new()))
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If the row does not have a field for each column.
    pub(super) fn row(&mut self, fields: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        self.0.write_record(fields).expect("memory takes a field for each column");
    }

    /// The text so far.
    pub(super) fn into_text(self) -> String {
        let bytes = self.0.into_inner().expect("memory takes text");
        String::from_utf8(bytes).expect("fields are text")
    }
}

/// Prints a line to stdout, from a function that returns a `Result`.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::print(format_args!("{}\n", format_args!($($text)*)))?
    };
}
