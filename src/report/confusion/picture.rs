//! The matrix as a picture file, with every name at its row and column.

use super::super::canvas::{Canvas, Color, TextSize};
use super::{Confusion, shortened};

const PAPER: Color = [255; 3];
const INK: Color = [28, 30, 33];
const SOFT: Color = [93, 99, 107];
const RULE: Color = [226, 227, 223];
const RIGHT: Color = [31, 95, 168];
const WRONG: Color = [194, 87, 26];
const MARGIN: u32 = 12;
const HEADING: [&str; 2] =
    ["A row is a true category, a column a guess.", "Blue: right. Orange: wrong. At the end: error."];
/// Up to this number of categories, cells are large and hold their counts.
const MAX_COUNTED: usize = 25;
/// Cells between two lines of the grid, to follow a row by.
const RULED: usize = 5;

impl Confusion {
    /// The matrix as a picture: a row for each truth with its error at the end, a column for each guess, stronger for a
    /// larger part of the row.
    ///
    /// # Panics
    /// If there are no categories.
    pub fn to_canvas(&self) -> Canvas {
        let n = self.names.len();
        let counted = n <= MAX_COUNTED;
        let (cell, size) = if counted { (34, TextSize::Large) } else { (12, TextSize::Small) };
        let names: Vec<String> = self.names.iter().map(|name| shortened(name).replace('…', "..")).collect();
        let longest = names.iter().map(|name| size.width(name)).max().expect("a matrix has categories");
        let line_height = TextSize::Large.height() + 3;
        let heading = MARGIN + HEADING.len() as u32 * line_height + MARGIN;
        let (left, top) = (MARGIN + longest + 6, heading + longest + 6);
        let side = n as u32 * cell;
        let errors = size.width(" 100 %") + 6;
        let widest = HEADING.iter().map(|line| TextSize::Large.width(line)).max().unwrap_or(0);
        let width = (left + side + errors).max(MARGIN + widest) + MARGIN;
        let mut canvas = Canvas::new(width, top + side + MARGIN, PAPER);
        let point = |x: u32, y: u32| (x as i32, y as i32);
        for (index, line) in (0..).zip(HEADING) {
            canvas.text(point(MARGIN, MARGIN + index * line_height), line, TextSize::Large, SOFT);
        }
        for (index, name) in (0..).zip(&names) {
            let middle = index * cell + (cell - size.height()) / 2;
            canvas.text(point(left - 6 - size.width(name), top + middle), name, size, INK);
            canvas.text_upwards(point(left + middle, top - 6), name, size, INK);
        }
        for truth in 0..n {
            let images = self.images_of(truth);
            let y = top + truth as u32 * cell;
            for (guess, &count) in self.row(truth).iter().enumerate().filter(|(_, count)| **count > 0) {
                let x = left + guess as u32 * cell;
                // The root lifts rare confusions out of the background.
                let share = (f64::from(count) / images as f64).sqrt();
                let color = if truth == guess { RIGHT } else { WRONG };
                canvas.rectangle(point(x, y), (cell, cell), mixed(color, share));
                if counted {
                    let (count, ink) = (count.to_string(), if share > 0.6 { PAPER } else { INK });
                    let inset = (cell.saturating_sub(size.width(&count)) / 2, (cell - size.height()) / 2);
                    canvas.text(point(x + inset.0, y + inset.1), &count, size, ink);
                }
            }
            if images > 0 {
                let wrong = 100.0 * (images - u64::from(self.row(truth)[truth])) as f64 / images as f64;
                let at = point(left + side + 6, y + (cell - size.height()) / 2);
                canvas.text(at, &format!("{wrong:3.0} %"), size, SOFT);
            }
        }
        for line in (0..=n).filter(|line| counted || line % RULED == 0 || *line == n) {
            let at = line as u32 * cell;
            canvas.line(point(left + at, top), point(left + at, top + side), RULE);
            canvas.line(point(left, top + at), point(left + side, top + at), RULE);
        }
        canvas
    }
}

/// `color` on paper, `share` of it.
fn mixed(color: Color, share: f64) -> Color {
    let mix = |channel: usize| f64::from(PAPER[channel]) * (1.0 - share) + f64::from(color[channel]) * share;
    std::array::from_fn(|channel| mix(channel).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(n: usize, counts: &[u32]) -> image::RgbImage {
        let names = (0..n).map(|index| format!("category {index:02}")).collect();
        let canvas = Confusion::new(names, counts).to_canvas();
        image::load_from_memory(&canvas.to_png()).unwrap().to_rgb8()
    }

    #[test]
    fn a_hundred_categories_have_room_for_their_names() {
        let counts: Vec<u32> = (0..100 * 100).map(|cell| if cell % 101 == 0 { 90 } else { 0 }).collect();
        let image = picture(100, &counts);
        assert!(image.width() > 1200 && image.width() < 1500 && image.height() < 1500);
        let right = image.pixels().filter(|pixel| pixel.0 == mixed(RIGHT, 1.0)).count();
        assert!((100 * 11 * 11..=100 * 12 * 12).contains(&right), "{right}");
        let names = image.enumerate_pixels().filter(|(x, _, pixel)| *x < 90 && pixel.0 == INK).count();
        assert!(names > 100 * 50, "{names}");
    }

    #[test]
    fn cells_are_coloured_by_truth_and_guess() {
        // Truth 0 is always taken for 1; there is no image of truth 1.
        let image = picture(2, &[0, 4, 0, 0]);
        let wrong: Vec<(u32, u32)> = image
            .enumerate_pixels()
            .filter(|(.., p)| p.0 == mixed(WRONG, 1.0))
            .map(|(x, y, _)| (x, y))
            .collect();
        let (left, top) = (MARGIN + 11 * 9 + 6, MARGIN + 2 * 18 + MARGIN + 11 * 9 + 6);
        assert!(wrong.len() > 900, "{}", wrong.len());
        assert!(wrong.iter().all(|&(x, y)| x > left + 34 && x < left + 68 && y > top && y < top + 34));
        assert!(image.pixels().all(|pixel| pixel.0 != mixed(RIGHT, 1.0)));
    }
}
