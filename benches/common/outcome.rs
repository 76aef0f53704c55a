//! What comes of a benchmark: an end with a word, or statistics.

use residuum::Error;

/// Ends as the program does.
pub fn end(error: &Error) -> ! {
    eprintln!("{error}");
    std::process::exit(error.exit_code().into())
}

/// The middle of sorted values, and the distance of their quartiles over it.
pub fn median_and_spread(sorted: &[f64]) -> (f64, f64) {
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    (at(0.5), (at(0.75) - at(0.25)) / at(0.5))
}
