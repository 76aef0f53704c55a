//! The one error type of the crate, and the exit code each kind of failure maps to.

use std::io;
use std::path::{Path, PathBuf};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::show::show_path;

/// The result of every fallible function here.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, worded for the person who has to put it right.
///
/// Every message names the file, line, flag or tensor and ends with a remedy where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A flag, a configuration value or a combination of them that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A setting with a value that cannot be used; `name` is the field's, as in `batch_size`.
    #[error("{name} {value}: {message}")]
    Setting { name: &'static str, value: String, message: String },
    /// An operation was recorded with inputs it does not accept.
    #[error("{op} `{node}`: {message}")]
    Graph { op: &'static str, node: String, message: String },
    /// No usable device, or not the one that was named.
    #[error("{0}")]
    Device(String),
    /// A device that worked and failed; what was in its memory is gone.
    #[error("{0}")]
    DeviceFailed(String),
    /// Another process of the same run that left, or does not come.
    #[error("{0}")]
    Peer(String),
    /// Processes of one run whose weights are no longer the same.
    #[error("{0}")]
    Replicas(String),
    /// Data set, list, image or annotation that cannot be used.
    #[error("{}: {message}", show_path(path))]
    Data { path: PathBuf, message: String },
    /// Some of the files that were given cannot be used; each was told, and the others are done.
    #[error("{count} of {of} photos cannot be read; the others are done")]
    Unreadable { count: usize, of: usize },
    /// A checkpoint or weight file that is damaged or belongs to another model.
    #[error("{}: {message}", show_path(path))]
    Checkpoint { path: PathBuf, message: String },
    /// The operating system refused; `action` reads as in "cannot {action} {path}".
    #[error("cannot {action} {}: {source}", show_path(path))]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A profile that counts more somewhere than the one it was compared with.
    #[error("counts are worse than in {}; the tables say where", show_path(path))]
    Worse { path: PathBuf },
    /// What a command found out cannot be printed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// The loss stopped being a finite number.
    #[error("diverged at step {step}: {message}")]
    Diverged { step: u64, message: String },
    /// The plan needs more memory than there is.
    #[error("{message}")]
    DoesNotFit {
        message: String,
        /// What a plan may use there, where the device says it.
        free_bytes: Option<usize>,
    },
    /// A signal asked the run to stop; the checkpoint is written.
    #[error("stopped by {}", signal_name(*signal))]
    Interrupted { signal: i32 },
}

/// What people call the signal of this number.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "Ctrl-C",
        SIGTERM => "a termination signal",
        other => signal_hook::low_level::signal_name(other).unwrap_or("a signal"),
    }
}

impl Error {
    /// An [`Error::Io`] for `action` on `path`, made to be used with `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// An [`Error::Setting`] about the setting `name` with this value.
    pub fn setting(name: &'static str, value: impl ToString, message: impl Into<String>) -> Error {
        Error::Setting { name, value: value.to_string(), message: message.into() }
    }

    /// An [`Error::Data`] about `path`.
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Data { path: path.as_ref().to_path_buf(), message: message.into() }
    }

    /// An [`Error::Checkpoint`] about `path`.
    pub fn checkpoint(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Checkpoint { path: path.as_ref().to_path_buf(), message: message.into() }
    }

    /// An [`Error::DoesNotFit`] where nothing tells how much memory there is.
    pub fn does_not_fit(message: impl Into<String>) -> Error {
        Error::DoesNotFit { message: message.into(), free_bytes: None }
    }

    /// Whether nobody reads stdout any more.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The process exit code of this failure, as the README lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            // As of a process that SIGPIPE ended.
            Error::Stdout(_) if self.is_broken_pipe() => 141,
            Error::Stdout(_)
            | Error::Graph { .. }
            | Error::Checkpoint { .. }
            | Error::Io { .. }
            | Error::Replicas(_)
            | Error::Worse { .. } => 1,
            Error::Usage(_) | Error::Setting { .. } => 2,
            Error::Device(_) => 3,
            Error::Data { .. } | Error::Unreadable { .. } => 4,
            Error::Diverged { .. } => 5,
            Error::DoesNotFit { .. } => 6,
            Error::Peer(_) => 7,
            Error::DeviceFailed(_) => 8,
            Error::Interrupted { signal } => 128 + *signal as u8,
        }
    }
}

/// The name of `known` that is most like `name`, for messages about an unknown one; `None` if none is close.
///
/// Close is at most two letters put in, taken out, replaced or swapped, and fewer than `name` has.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known| strsim::damerau_levenshtein(name, known);
    let (distance, closest) = known.iter().map(|known| (distance(known), *known)).min()?;
    (distance <= 2 && distance < name.chars().count()).then_some(closest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_name_is_offered_if_it_is_close() {
        let known = ["flip", "rotate", "mixup"];
        for (name, expected) in [
            ("flop", "flip"),
            ("rotat", "rotate"),
            ("mix-up", "mixup"),
            ("Rotate", "rotate"),
            ("ratote", "rotate"),
        ] {
            assert_eq!(nearest(name, &known), Some(expected));
        }
        for name in ["", "xy", "turned", "f"] {
            assert_eq!(nearest(name, &known), None, "{name}");
        }
    }
}
