//! Codes of object classes for few channels: any two of them are equally far apart.
//!
//! Among points of R^N at most N + 1 are pairwise equidistant, so 175 classes would need 174 channels. Codes differ in
//! the number of channels in which they agree instead: they are the words of the simplex code over GF(17), of which any
//! two differ in exactly 17 of their 18 symbols. Word (a, b) is the line a + b*t at t = 0 to 16 and, last, its slope b:
//! two lines meet once, or have one slope in common. Word 0 is all zeros and means that there is no object.

use crate::device::kernels::rasterise::SYMBOLS;

/// Symbols of the alphabet: a prime, so that the line has one solution for every value.
const NUM_SYMBOLS: u32 = SYMBOLS as u32;

/// Channels of a code.
pub const CODE_CHANNELS: usize = NUM_SYMBOLS as usize + 1;

/// The most classes that have codes: every word but the first.
pub const MAX_CODED_CLASSES: usize = (NUM_SYMBOLS * NUM_SYMBOLS) as usize - 1;

/// The channels of a class's code: symbols 0 to 8 as 0 to 1, symbols 9 to 16 as -1 to -1/8.
///
/// # Panics
/// If `class` is not below [`MAX_CODED_CLASSES`].
pub fn code(class: usize) -> [f32; CODE_CHANNELS] {
    assert!(class < MAX_CODED_CLASSES, "class {class} has no code");
    channels_of(class as u32 + 1)
}

fn channels_of(word: u32) -> [f32; CODE_CHANNELS] {
    let (a, b) = (word / NUM_SYMBOLS, word % NUM_SYMBOLS);
    std::array::from_fn(|channel| {
        let t = channel as u32;
        let symbol = if t == NUM_SYMBOLS { b } else { (a + b * t) % NUM_SYMBOLS };
        let balanced =
            if symbol > NUM_SYMBOLS / 2 { symbol as i32 - NUM_SYMBOLS as i32 } else { symbol as i32 };
        balanced as f32 / (NUM_SYMBOLS / 2) as f32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_words_differ_in_all_channels_but_one() {
        let words: Vec<_> = (0..=MAX_CODED_CLASSES as u32).map(channels_of).collect();
        assert_eq!(words.len(), 289);
        for (i, word) in words.iter().enumerate() {
            for other in &words[..i] {
                let differing = std::iter::zip(word, other).filter(|(a, b)| a != b).count();
                assert_eq!(differing, CODE_CHANNELS - 1);
            }
        }
    }

    #[test]
    fn no_object_is_zero_and_values_are_exact_in_bf16() {
        assert_eq!(channels_of(0), [0.0; CODE_CHANNELS]);
        assert_eq!(code(0)[..4], [0.0, 0.125, 0.25, 0.375]);
        for class in 0..MAX_CODED_CLASSES {
            assert!(code(class).iter().all(|&v| v.abs() <= 1.0 && half::bf16::from_f32(v).to_f32() == v));
        }
    }
}
