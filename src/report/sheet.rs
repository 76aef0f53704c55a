//! A sheet of photos, each with a title and bars below it.

use super::canvas::{Canvas, Color, TextSize};
use super::heat::heat_strip;

const PAPER: Color = [255; 3];
const INK: Color = [28, 30, 33];
const SOFT: Color = [93, 99, 107];
const RULE: Color = [226, 227, 223];
const BAR: Color = [31, 95, 168];
const MARGIN: u32 = 16;
/// Between the pictures of one tile.
const GAP: u32 = 8;
const LINE: u32 = 20;
/// A bar with its label above it.
const BAR_ROW: u32 = 28;
const BAR_HEIGHT: u32 = 5;
/// What the colours of a heat map stand for.
const SCALE_WIDTH: u32 = 128;
const SCALE_HEIGHT: u32 = 9;
const MAX_COLUMNS: usize = 4;
/// Tiles are at least so wide, for the names.
const MIN_TILE_WIDTH: u32 = 256;

/// One photo with what is said of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PhotoTile {
    /// Pictures side by side, square, HWC u8, all of the sheet's size.
    pub pictures: Vec<Vec<u8>>,
    /// Text below the pictures.
    pub title: String,
    /// A softer line below the title; may be empty.
    pub note: String,
    /// What the colours of a heat map among the pictures stand for, from low to high.
    pub scale: Option<[&'static str; 2]>,
    /// Names with shares in 0..=1, one below the other.
    pub bars: Vec<(String, f32)>,
}

/// The tiles in rows of up to four, their pictures `picture_size` pixels a side.
///
/// # Panics
/// If there are no tiles or a picture is of another size.
pub fn sheet(tiles: &[PhotoTile], picture_size: usize) -> Canvas {
    let most =
        |count: fn(&PhotoTile) -> usize| tiles.iter().map(count).max().expect("a sheet has tiles") as u32;
    let (pictures, bars) = (most(|tile| tile.pictures.len()), most(|tile| tile.bars.len()));
    let side = picture_size as u32;
    let tile_width = (pictures * (side + GAP) - GAP).max(MIN_TILE_WIDTH);
    let text_height = LINE
        * (1 + most(|tile| usize::from(!tile.note.is_empty()))
            + most(|tile| usize::from(tile.scale.is_some())));
    let tile_height = side + GAP + text_height + bars * BAR_ROW;
    let columns = (tiles.len() as f64).sqrt().ceil().min(MAX_COLUMNS as f64) as u32;
    let rows = (tiles.len() as u32).div_ceil(columns);
    let place = |index: u32, extent: u32| MARGIN + index * (extent + MARGIN);
    let mut canvas = Canvas::new(place(columns, tile_width), place(rows, tile_height), PAPER);
    for (index, tile) in (0..).zip(tiles) {
        let at = (place(index % columns, tile_width), place(index / columns, tile_height));
        draw_tile(&mut canvas, tile, at, picture_size, (tile_width, text_height));
    }
    canvas
}

fn draw_tile(
    canvas: &mut Canvas,
    tile: &PhotoTile,
    (left, top): (u32, u32),
    picture_size: usize,
    (width, text_height): (u32, u32),
) {
    let side = picture_size as u32;
    let point = |x: u32, y: u32| (x as i32, y as i32);
    for (index, picture) in (0..).zip(&tile.pictures) {
        assert_eq!(picture.len(), picture_size * picture_size * 3, "all pictures of a sheet have one size");
        canvas.image(point(left + index * (side + GAP), top), picture, picture_size, 1);
    }
    let below = top + side + GAP;
    canvas.text(point(left, below), &shortened(&tile.title, width), TextSize::Large, INK);
    canvas.text(point(left, below + LINE), &shortened(&tile.note, width), TextSize::Large, SOFT);
    if let Some([low, high]) = tile.scale {
        let line = top + side + GAP + LINE * (1 + u32::from(!tile.note.is_empty()));
        let strip = left + TextSize::Large.width(low) + GAP;
        canvas.text(point(left, line), low, TextSize::Large, SOFT);
        let middle = line + (TextSize::Large.height() - SCALE_HEIGHT) / 2;
        canvas.image(point(strip, middle), &heat_strip(SCALE_WIDTH, SCALE_HEIGHT), SCALE_WIDTH as usize, 1);
        canvas.text(point(strip + SCALE_WIDTH + GAP, line), high, TextSize::Large, SOFT);
    }
    for (index, (label, share)) in (0..).zip(&tile.bars) {
        let row = below + text_height + index * BAR_ROW;
        let percent = format!("{:.1} %", 100.0 * share);
        let number_width = TextSize::Large.width(&percent);
        let label = shortened(label, width - number_width - GAP);
        canvas.text(point(left, row), &label, TextSize::Large, INK);
        canvas.text(point(left + width - number_width, row), &percent, TextSize::Large, INK);
        let bar = point(left, row + TextSize::Large.height() + 2);
        canvas.rectangle(bar, (width, BAR_HEIGHT), RULE);
        let filled = (share.clamp(0.0, 1.0) * width as f32).round() as u32;
        canvas.rectangle(bar, (filled, BAR_HEIGHT), BAR);
    }
}

/// As much of `text` as `width` pixels hold, its beginning left out: file names differ at their ends.
fn shortened(text: &str, width: u32) -> String {
    let most = (width / TextSize::Large.width("x")) as usize;
    let count = text.chars().count();
    if count <= most {
        return text.to_string();
    }
    let kept = most.saturating_sub(2);
    "..".chars().chain(text.chars().skip(count - kept)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(canvas: &Canvas) -> image::RgbImage {
        image::load_from_memory(&canvas.to_png()).unwrap().to_rgb8()
    }

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let bars = vec![("beach".to_string(), 0.75), ("desert".to_string(), 0.25)];
        let tile = PhotoTile {
            pictures: vec![vec![200; 64 * 64 * 3]],
            title: "a.jpg".into(),
            bars,
            ..PhotoTile::default()
        };
        let image = decoded(&sheet(&[tile], 64));
        assert_eq!(image.width(), MIN_TILE_WIDTH + 2 * MARGIN);
        assert_eq!(image.get_pixel(MARGIN, MARGIN).0, [200; 3]);
        let lengths: Vec<usize> = image
            .rows()
            .map(|row| row.filter(|pixel| pixel.0 == BAR).count())
            .filter(|&length| length > 0)
            .collect();
        let (long, short) = (3 * MIN_TILE_WIDTH as usize / 4, MIN_TILE_WIDTH as usize / 4);
        assert_eq!(lengths, [vec![long; BAR_HEIGHT as usize], vec![short; BAR_HEIGHT as usize]].concat());
    }

    #[test]
    fn many_photos_stand_in_rows_of_four() {
        let tile = PhotoTile { pictures: vec![vec![9; 300 * 300 * 3]; 2], ..PhotoTile::default() };
        let (width, height) = sheet(&vec![tile; 17], 300).size();
        assert_eq!(width, MARGIN + 4 * (2 * 300 + GAP + MARGIN));
        assert_eq!(height, MARGIN + 5 * (300 + GAP + LINE + MARGIN));
    }

    #[test]
    fn a_scale_stands_below_its_heat_map() {
        let pictures = vec![vec![255; 64 * 64 * 3]; 2];
        let tile = PhotoTile { pictures, scale: Some(["low", "high"]), ..PhotoTile::default() };
        let image = decoded(&sheet(&[tile], 64));
        let rows = image.rows().filter(|row| {
            let row: Vec<u8> = row.clone().flat_map(|pixel| pixel.0).collect();
            row.windows(3 * SCALE_WIDTH as usize).any(|part| part == heat_strip(SCALE_WIDTH, 1))
        });
        assert_eq!(rows.count() as u32, SCALE_HEIGHT);
    }

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(shortened("folder/of/photos/00000001.jpg", 14 * 9), "..00000001.jpg");
        assert_eq!(shortened("beach", 14 * 9), "beach");
    }
}
