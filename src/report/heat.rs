//! A heat map over a photo: where the values are high, the photo glows; elsewhere it stays, a little darker.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma};
use maud::{Markup, html};

/// Colours from low to high, evenly spaced; each brighter than the one before, so that the map survives a printer.
const COLORS: [[f32; 3]; 5] = [
    [20.0, 11.0, 52.0],
    [101.0, 21.0, 110.0],
    [188.0, 55.0, 84.0],
    [249.0, 142.0, 9.0],
    [252.0, 255.0, 164.0],
];
/// How much of the photo is left where the value is 0, and where it is 1.
const PHOTO_SHARE: (f32, f32) = (0.6, 0.5);

/// What the least and the most mean on a map of the evidence for a category.
pub const EVIDENCE: [&str; 2] = ["nothing, or against it", "the most"];

/// The square photo `pixels` (HWC u8, `size` pixels a side) under the map `values` (0..=1, row by row of `columns`), which
/// is stretched over it.
///
/// # Panics
/// If the pixels are not a square photo or the values not whole rows.
pub fn heat_map(pixels: &[u8], size: usize, values: &[f32], columns: usize) -> Vec<u8> {
    let (pixels, rest) = pixels.as_chunks::<3>();
    assert!(rest.is_empty() && pixels.len() == size * size, "one RGB triple per pixel");
    assert!(!values.is_empty() && values.len().is_multiple_of(columns), "whole rows of values");
    let rows = (values.len() / columns) as u32;
    let map: ImageBuffer<Luma<f32>, _> =
        ImageBuffer::from_raw(columns as u32, rows, values).expect("whole rows of values");
    let map = imageops::resize(&map, size as u32, size as u32, FilterType::Triangle);
    let mixed = pixels.iter().zip(map.pixels()).flat_map(|(pixel, &Luma([value]))| {
        let share = PHOTO_SHARE.0 + (PHOTO_SHARE.1 - PHOTO_SHARE.0) * value;
        let color = color_of(value);
        std::array::from_fn::<u8, 3, _>(|channel| {
            (share * f32::from(pixel[channel]) + (1.0 - share) * color[channel]).round() as u8
        })
    });
    mixed.collect()
}

/// What the colours of a heat map stand for, from `low` to `high`.
pub fn heat_scale(low: &str, high: &str) -> Markup {
    let colors = COLORS.map(|[r, g, b]| format!("rgb({r},{g},{b})")).join(",");
    html! {
        p.scale { (low) " " i style={ "background:linear-gradient(90deg," (colors) ")" } {} " " (high) }
    }
}

/// The colours of a heat map from low to high, HWC u8, `width` by `height` pixels.
pub(super) fn heat_strip(width: u32, height: u32) -> Vec<u8> {
    let last = width.saturating_sub(1).max(1) as f32;
    let row: Vec<u8> =
        (0..width).flat_map(|x| color_of(x as f32 / last).map(|channel| channel.round() as u8)).collect();
    row.repeat(height as usize)
}

fn color_of(value: f32) -> [f32; 3] {
    let at = value.clamp(0.0, 1.0) * (COLORS.len() - 1) as f32;
    let low = (at as usize).min(COLORS.len() - 2);
    let part = at - low as f32;
    std::array::from_fn(|channel| COLORS[low][channel] * (1.0 - part) + COLORS[low + 1][channel] * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_places_glow_and_cold_ones_keep_the_photo() {
        let grey = vec![128; 4 * 4 * 3];
        let mixed = heat_map(&grey, 4, &[0.0, 1.0], 2);
        assert_eq!(mixed.len(), grey.len());
        let brightness = |pixel: usize| mixed[pixel * 3..][..3].iter().map(|&c| u32::from(c)).sum::<u32>();
        assert!(brightness(0) < 3 * 128 && brightness(3) > 3 * 170, "{mixed:?}");
        assert!(brightness(0) > 3 * 76, "more than half of the photo is left");
    }
}
