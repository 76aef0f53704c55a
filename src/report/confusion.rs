//! A confusion matrix as a heat map, and the pairs most often confused as a table.

mod picture;

use maud::{Markup, Render, html};

use super::table::{Align, Table};

/// Up to this number of categories, rows and columns carry names and cells their counts.
const MAX_NAMED: usize = 20;
/// With more categories, only cells with at least this part of their row show their numbers under the
/// pointer: all of them would make a large page.
const MIN_TITLED_SHARE: f64 = 0.03;
/// The opacity of a cell whose whole row it is, where cells carry counts: what is written on it in the page's ink can be
/// read (a contrast of 4.5) on both colours, by day and by night.
const MAX_OPACITY_UNDER_COUNT: f64 = 0.5;
/// Rows of the table of confused pairs.
const NUM_PAIRS: usize = 12;

/// How often each category was taken for each other one.
#[derive(Debug, Clone, PartialEq)]
pub struct Confusion {
    names: Vec<String>,
    /// `counts[truth * names.len() + guess]`.
    counts: Vec<u32>,
}

impl Confusion {
    /// The matrix of `counts[truth * n + guess]` over the `n` categories called `names`.
    ///
    /// # Panics
    /// If there are not n x n counts.
    pub fn new(names: Vec<String>, counts: &[u32]) -> Confusion {
        assert_eq!(counts.len(), names.len() * names.len(), "a confusion matrix is square");
        Confusion { names, counts: counts.to_vec() }
    }

    fn row(&self, truth: usize) -> &[u32] {
        let n = self.names.len();
        &self.counts[truth * n..(truth + 1) * n]
    }

    /// How many images of category `truth` there are.
    fn images_of(&self, truth: usize) -> u64 {
        self.row(truth).iter().map(|&count| u64::from(count)).sum()
    }

    /// The pairs most often confused: truth, guess, how many images, and their share of the images of that
    /// truth.
    pub fn worst_pairs(&self) -> Table {
        let n = self.names.len();
        let mut pairs: Vec<(usize, usize, u32)> = (0..n * n)
            .map(|cell| (cell / n, cell % n, self.counts[cell]))
            .filter(|&(truth, guess, count)| truth != guess && count > 0)
            .collect();
        pairs.sort_by_key(|&(truth, guess, count)| (std::cmp::Reverse(count), truth, guess));
        let mut table = Table::new([
            ("Truth", Align::Left),
            ("Taken for", Align::Left),
            ("Images", Align::Right),
            ("Share", Align::Right),
        ]);
        for &(truth, guess, count) in pairs.iter().take(NUM_PAIRS) {
            let share = 100.0 * f64::from(count) / self.images_of(truth) as f64;
            table.row([
                self.names[truth].clone(),
                self.names[guess].clone(),
                count.to_string(),
                format!("{share:.1} %"),
            ]);
        }
        table
    }

    /// Names where there is room for them, else every tenth index.
    fn labels(&self, grid: &Grid) -> Markup {
        let every = if grid.named { 1 } else { 10 };
        html! {
            @for (index, name) in self.names.iter().enumerate().step_by(every) {
                @let label = if grid.named { shortened(name) } else { index.to_string() };
                @let middle = (index as f64 + 0.5) * grid.cell;
                @let y = format!("{:.1}", grid.top + middle + grid.font / 3.0);
                text x=(grid.left - 4.0) y=(y) text-anchor="end" { (label) }
                @let (x, y) = (grid.left + middle, grid.top - 4.0);
                @if grid.named {
                    @let x = x + grid.font / 3.0;
                    text transform=(format!("translate({x:.1} {y}) rotate(-90)")) { (label) }
                } @else {
                    text x=(x) y=(y) text-anchor="middle" { (label) }
                }
            }
        }
    }

    fn cell(&self, grid: &Grid, truth: usize, guess: usize) -> Markup {
        let (count, images) = (self.row(truth)[guess], self.images_of(truth));
        let share = f64::from(count) / images as f64;
        let (x, y) = (grid.left + guess as f64 * grid.cell, grid.top + truth as f64 * grid.cell);
        // The root lifts rare confusions out of the background.
        let opacity = share.sqrt() * if grid.named { MAX_OPACITY_UNDER_COUNT } else { 1.0 };
        let opacity = format!("{opacity:.2}");
        html! {
            rect class=(if truth == guess { "s0" } else { "s1" })
                x=(x) y=(y) width=(grid.cell) height=(grid.cell) fill-opacity=(opacity) {
                @if grid.named || share >= MIN_TITLED_SHARE {
                    title {
                        (self.names[truth]) ", taken for " (self.names[guess]) ": " (count) " of " (images)
                    }
                }
            }
            @if grid.named {
                @let size = grid.count_size(count);
                @let (x, y) = (x + grid.cell / 2.0, format!("{:.1}", y + grid.cell / 2.0 + 0.36 * size));
                text.count x=(x) y=(y) style={ "font-size:" (size) "px" } text-anchor="middle" { (count) }
            }
        }
    }
}

/// The matrix as a figure: a row for each truth, a column for each guess, stronger for a larger part of the row.
impl Render for Confusion {
    fn render(&self) -> Markup {
        let grid = Grid::of(self);
        let (width, height) = (grid.left + grid.size + 2.0, grid.top + grid.size + 2.0);
        let categories = 0..self.names.len();
        html! {
            figure.confusion.many[!grid.named] {
                svg viewBox=(format!("0 0 {width:.0} {height:.0}")) role="img" aria-label="Confusion matrix" {
                    rect.frame x=(grid.left) y=(grid.top) width=(grid.size) height=(grid.size) {}
                    (self.labels(&grid))
                    @for truth in categories.clone() {
                        @for guess in categories.clone().filter(|&guess| self.row(truth)[guess] > 0) {
                            (self.cell(&grid, truth, guess))
                        }
                    }
                }
                figcaption {
                    "A row is a true category, a column a guess. "
                    span { i.swatch.s0 {} "right" } " " span { i.swatch.s1 {} "wrong" }
                    " The stronger the colour, the larger the part of the row."
                }
            }
        }
    }
}

/// Where the cells lie, in the units of the drawing.
struct Grid {
    named: bool,
    cell: f64,
    font: f64,
    left: f64,
    top: f64,
    size: f64,
}

impl Grid {
    fn of(confusion: &Confusion) -> Grid {
        let n = confusion.names.len();
        let named = n <= MAX_NAMED;
        let (cell, font) = if named { (24.0, 11.0) } else { (5.0, 10.0) };
        let longest = confusion.names.iter().map(|name| shortened(name).chars().count()).max().unwrap_or(0);
        let margin = if named { 8.0 + longest as f64 * font * 0.56 } else { 26.0 };
        let top = if named { margin } else { 16.0 };
        Grid { named, cell, font, left: margin.round(), top: top.round(), size: n as f64 * cell }
    }
}

impl Grid {
    /// The size of the digits of `count`: as large as fits into a cell.
    fn count_size(&self, count: u32) -> f64 {
        const DIGIT_WIDTH: f64 = 0.58;
        let digits = count.to_string().len() as f64;
        ((self.cell - 3.0) / (digits * DIGIT_WIDTH)).min(13.0).round()
    }
}

/// A name cut to what fits next to the matrix.
fn shortened(name: &str) -> String {
    const MAX_CHARS: usize = 18;
    if name.chars().count() <= MAX_CHARS {
        return name.to_string();
    }
    name.chars().take(MAX_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion() -> Confusion {
        let names = ["abbey", "bar & grill", "canyon"].map(str::to_string);
        Confusion::new(names.into(), &[8, 2, 0, 1, 3, 0, 0, 0, 0])
    }

    #[test]
    fn cells_lie_at_their_truth_and_guess() {
        let html = confusion().render().into_string();
        // Eleven characters of names and the gap next to them: 76 units.
        assert!(html.contains("class=\"s1\" x=\"100\" y=\"76\""), "truth 0, guess 1: {html}");
        assert!(html.contains("<title>abbey, taken for bar &amp; grill: 2 of 10</title>"), "{html}");
        assert!(
            html.contains("fill-opacity=\"0.45\"><title>abbey, taken for abbey: 8 of 10</title>"),
            "{html}"
        );
        assert_eq!(html.matches("fill-opacity").count(), 4, "an empty cell is not drawn");
    }

    #[test]
    fn the_most_confused_pairs_come_first() {
        let text = confusion().worst_pairs().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[2].starts_with("abbey") && lines[2].ends_with("20.0 %"), "{text}");
        assert!(lines[3].starts_with("bar & grill") && lines[3].ends_with("25.0 %"), "{text}");
    }

    #[test]
    fn many_categories_have_indices_and_small_cells() {
        let n = 100;
        let names = (0..n).map(|index| format!("category {index}")).collect();
        let counts: Vec<u32> = (0..n * n).map(|cell| if cell % (n + 1) == 0 { 90 } else { 1 }).collect();
        let html = Confusion::new(names, &counts).render().into_string();
        assert!(html.contains(">90</text>") && !html.contains(">91</text>"), "labels at every tenth index");
        assert_eq!(html.matches("<rect class=\"s0\"").count(), n);
        assert_eq!(html.matches("<title>").count(), n, "rare confusions have no text of their own");
    }
}
