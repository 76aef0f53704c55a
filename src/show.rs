//! What people read: messages on stderr, and how numbers are written in them: counts, sizes, times.

use std::fmt::Display;
use std::io::{Write, stderr};

use bytesize::ByteSize;
use indicatif::HumanCount;

/// Says `line` on stderr. Whoever read it may be gone, or its disk be full: no message is worth the work in hand.
pub(crate) fn tell(line: impl Display) {
    // One write: lines of several threads stay whole.
    let _ = stderr().write_all(format!("{line}\n").as_bytes());
}

/// `11,227,812`
pub(crate) fn show_count(count: usize) -> String {
    HumanCount(count as u64).to_string()
}

/// `1.50 GiB`
pub(crate) fn show_bytes(bytes: usize) -> String {
    format!("{:.2}", ByteSize(bytes as u64))
}

/// `41.2 s`, `2 min 41 s` or `3 h 07 min`
pub(crate) fn show_seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3_600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 11_181_642].map(show_count), ["0", "999", "1,000", "11,181,642"]);
        assert_eq!([100, 3 << 29, (5 << 30) + 1].map(show_bytes), ["100 B", "1.50 GiB", "5.00 GiB"]);
        let seconds = [0.04, 59.4, 59.6, 161.0, 11_220.0].map(show_seconds);
        assert_eq!(seconds, ["0.0 s", "59.4 s", "1 min 00 s", "2 min 41 s", "3 h 07 min"]);
    }
}
