//! What people read: messages on stderr; how numbers are written in them: counts, sizes, times; and text and paths that come
//! from files of others.

use std::fmt::Display;
use std::io::{Write, stderr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytesize::ByteSize;
use indicatif::HumanCount;

use crate::progress;

/// Whether this process has nothing to say but errors.
static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// Says nothing more but errors, in this process: of several that train one run, another speaks for all.
pub(crate) fn be_silent() {
    IS_SILENT.store(true, Ordering::Relaxed);
}

/// Says `line` on stderr. Whoever read it may be gone, or its disk be full: no message is worth the work in hand.
pub(crate) fn tell(line: impl Display) {
    if !IS_SILENT.load(Ordering::Relaxed) {
        tell_error(line);
    }
}

/// Says `line` on stderr, whoever else speaks.
pub(crate) fn tell_error(line: impl Display) {
    // One write: lines of several threads stay whole.
    let _ = progress::aside(|| stderr().write_all(format!("{line}\n").as_bytes()));
}

/// `11,227,812`
pub(crate) fn show_count(count: usize) -> String {
    HumanCount(count as u64).to_string()
}

/// Images a second: `84.6` or, where tenths say nothing, `35,621`
pub(crate) fn show_rate(images_per_second: f64) -> String {
    if images_per_second < 999.95 {
        format!("{images_per_second:.1}")
    } else {
        show_count(images_per_second.round() as usize)
    }
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

/// What a message quotes of a file ends here: a line may be a gigabyte long.
const MAX_QUOTED_BYTES: usize = 200;
/// No path of the operating system is longer; one that a file names may be.
const MAX_PATH_BYTES: usize = 4096;

/// `text` of a file as a message quotes it: without control of the terminal, and not at length.
pub(crate) fn show_text(text: &str) -> String {
    escaped(text, MAX_QUOTED_BYTES)
}

/// `path` without control of the terminal.
pub(crate) fn show_path(path: &Path) -> String {
    // Only so much of a longer one is looked at.
    escaped(&path.to_string_lossy(), MAX_PATH_BYTES)
}

/// At most `max_bytes` of `text`, with escapes for control characters and for those that turn the direction of writing.
fn escaped(text: &str, max_bytes: usize) -> String {
    let end = (0..=max_bytes.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let clipped = &text[..end];
    let mut shown = String::with_capacity(clipped.len());
    for character in clipped.chars() {
        match character {
            _ if character.is_control() => shown.extend(character.escape_default()),
            '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(character.escape_unicode());
            }
            _ => shown.push(character),
        }
    }
    if clipped.len() < text.len() {
        shown.push_str(&format!("... ({} in all)", show_bytes(text.len())));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_tenths_until_they_say_nothing() {
        let shown = [84.62, 999.94, 999.95, 35_621.08].map(show_rate);
        assert_eq!(shown, ["84.6", "999.9", "1,000", "35,621"]);
    }

    #[test]
    fn text_of_others_neither_controls_the_terminal_nor_fills_it() {
        assert_eq!(show_text("Straße 1.jpg"), "Straße 1.jpg");
        assert_eq!(show_text("a\x1b]0;x\x07\nb\u{202E}gpj"), "a\\u{1b}]0;x\\u{7}\\nb\\u{202e}gpj");
        let long = "é".repeat(1 << 20);
        assert_eq!(show_text(&long), format!("{}... (2.00 MiB in all)", "é".repeat(100)));
        assert_eq!(show_text(&long[..200]), &long[..200]);
        assert_eq!(show_path(Path::new("x\r.jpg")), "x\\r.jpg");
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 11_181_642].map(show_count), ["0", "999", "1,000", "11,181,642"]);
        assert_eq!([100, 3 << 29, (5 << 30) + 1].map(show_bytes), ["100 B", "1.50 GiB", "5.00 GiB"]);
        let seconds = [0.04, 59.4, 59.6, 161.0, 11_220.0].map(show_seconds);
        assert_eq!(seconds, ["0.0 s", "59.4 s", "1 min 00 s", "2 min 41 s", "3 h 07 min"]);
    }
}
