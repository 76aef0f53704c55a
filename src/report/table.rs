//! A table of text, printed with aligned columns on a terminal or put on the page.

use std::fmt;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentLineStyle, LineStyle};
use maud::{Markup, Render, html};

/// With more columns than these, or more characters in its columns of numbers, a row becomes a card of its own where the page
/// is narrow.
const MAX_NARROW_COLUMNS: usize = 4;
const MAX_NARROW_CHARS: usize = 28;

/// The side a column's text stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Flush left, for names.
    Left,
    /// Flush right, for numbers.
    Right,
}

/// What stands in one place of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    /// Address that the text leads to, on pages.
    link: Option<String>,
}

impl Cell {
    /// Text that leads to the address `link`, relative to the page.
    pub fn link(text: impl Into<String>, link: impl Into<String>) -> Cell {
        Cell { text: text.into(), link: Some(link.into()) }
    }

    fn to_markdown(&self) -> String {
        let text = self.text.replace('|', "\\|");
        self.link.as_ref().map_or(text.clone(), |link| format!("[{text}](<{link}>)"))
    }
}

impl Render for Cell {
    fn render(&self) -> Markup {
        html! {
            @if let Some(link) = &self.link { a href=(link) { (breakable(&self.text)) } } @else { (breakable(&self.text)) }
        }
    }
}

/// `text`, which may be broken after the underscores of names rather than anywhere else.
fn breakable(text: &str) -> Markup {
    html! { @for part in text.split_inclusive('_') { (part) @if part.ends_with('_') { wbr; } } }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), link: None }
    }
}

/// Rows of text under a heading. Its `Display` form is the one for a terminal: columns two blanks apart, a
/// rule below the heading, no blanks at line ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    heading: Vec<(String, Align)>,
    rows: Vec<Vec<Cell>>,
    /// The rows that the page sets off from the others.
    marked: Vec<usize>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new<const N: usize>(columns: [(&str, Align); N]) -> Table {
        Table::with_columns(columns.map(|(name, align)| (name.to_string(), align)))
    }

    /// [`Table::new`] for columns that are only known when it is made.
    pub fn with_columns(columns: impl IntoIterator<Item = (String, Align)>) -> Table {
        Table { heading: columns.into_iter().collect(), rows: Vec::new(), marked: Vec::new() }
    }

    /// Adds a row below the others.
    ///
    /// # Panics
    /// If the row does not have a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<Cell>>) {
        let cells: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.heading.len(), "a row has a cell for each column, got {cells:?}");
        self.rows.push(cells);
    }

    /// Sets off row `index` on the page.
    pub fn mark(&mut self, index: usize) {
        self.marked.push(index);
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether its columns do not fit next to each other on a telephone: numbers are not broken into lines.
    fn is_wide(&self) -> bool {
        let chars =
            |column: usize| self.rows.iter().map(|row| row[column].text.chars().count()).max().unwrap_or(0);
        let numbers = self.heading.iter().enumerate().filter(|(_, (_, align))| *align == Align::Right);
        let of_numbers: usize = numbers.map(|(column, _)| chars(column)).sum();
        self.heading.len() > MAX_NARROW_COLUMNS || of_numbers > MAX_NARROW_CHARS
    }

    /// The table as Markdown.
    pub(super) fn to_markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| {
            let cells: Vec<String> = cells.collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = line(&mut self.heading.iter().map(|(name, _)| name.clone()));
        let rule = |align| if align == Align::Right { "---:" } else { "---" };
        text += &line(&mut self.heading.iter().map(|(_, align)| rule(*align).to_string()));
        for row in &self.rows {
            text += &line(&mut row.iter().map(Cell::to_markdown));
        }
        text
    }
}

impl Render for Table {
    fn render(&self) -> Markup {
        let class = |align: &Align| (*align == Align::Right).then_some("num");
        let cards = self.is_wide();
        let label = |name: &str| cards.then(|| name.to_string());
        html! {
            div.scroll {
                table.cards[cards] {
                    thead {
                        tr { @for (name, align) in &self.heading { th scope="col" class=[class(align)] { (name) } } }
                    }
                    tbody {
                        @for (index, row) in self.rows.iter().enumerate() {
                            tr.marked[self.marked.contains(&index)] {
                                @for (cell, (name, align)) in row.iter().zip(&self.heading) {
                                    td class=[class(align)] data-label=[label(name)] { (cell) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BLANK: ContentLineStyle = ContentLineStyle::none().junction(' ');
        const RULE: LineStyle = LineStyle::none().fill('─').junction('─');
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING.header_lines(BLANK).content_lines(BLANK).header_separator(RULE));
        table.set_header(self.heading.iter().map(|(name, _)| name));
        table.add_rows(self.rows.iter().map(|row| row.iter().map(|cell| &cell.text)));
        let last = self.heading.len().saturating_sub(1);
        for (index, (column, (_, align))) in table.column_iter_mut().zip(&self.heading).enumerate() {
            column.set_padding((0, u16::from(index < last)));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        writeln!(f, "{}", table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([("layer", Align::Left), ("shape", Align::Left), ("MiB", Align::Right)]);
        table.row(["conv1", "64×3×7×7", "0.04"]);
        table.row(["layer1.0.conv1 <3x3>", "", "12.50"]);
        table.mark(1);
        table
    }

    #[test]
    fn columns_are_aligned_by_characters() {
        let expected = [
            "layer                 shape       MiB",
            "─────────────────────────────────────",
            "conv1                 64×3×7×7   0.04",
            "layer1.0.conv1 <3x3>            12.50",
            "",
        ];
        assert_eq!(table().to_string(), expected.join("\n"));
    }

    #[test]
    fn cells_are_escaped_on_the_page_and_the_marked_row_is_set_off() {
        let html = table().render().into_string();
        assert!(html.contains("<tr class=\"marked\"><td>layer1.0.conv1 &lt;3x3&gt;</td>"), "{html}");
        assert!(html.contains("<td class=\"num\">0.04</td>"), "{html}");
        assert_eq!(html.matches("<tr").count(), 3);
    }

    #[test]
    fn cells_lead_somewhere_on_pages_and_stay_text_on_a_terminal() {
        let mut table = Table::new([("run", Align::Left), ("error", Align::Right)]);
        table.row([Cell::link("a|b", "runs/a b/report.html"), "3 %".into()]);
        assert!(table.render().into_string().contains("<a href=\"runs/a b/report.html\">a|b</a>"));
        let markdown = "| run | error |\n| --- | ---: |\n| [a\\|b](<runs/a b/report.html>) | 3 % |\n";
        assert_eq!(table.to_markdown(), markdown);
        assert!(table.to_string().contains("\na|b"), "{table}");
    }

    #[test]
    fn rows_of_many_columns_carry_their_headings() {
        let names = ["a", "b <c>", "d", "e", "f"];
        let mut table = Table::new(names.map(|name| (name, Align::Left)));
        table.row(["1", "2", "3", "4", "5"]);
        let html = table.render().into_string();
        assert!(html.contains("<table class=\"cards\">"), "{html}");
        assert!(html.contains("<td data-label=\"b &lt;c&gt;\">2</td>"), "{html}");
        let with_number = |number: &str| {
            let mut table = Table::new([("a", Align::Left), ("b", Align::Right), ("c", Align::Right)]);
            table.row(["a long name that may be broken into lines", number, number]);
            table.render().into_string()
        };
        assert!(!with_number("63.70 / 33.10").contains("cards"));
        assert!(with_number("63.70 \u{b1} 0.21 / 33.10 \u{b1} 0.10").contains("cards"));
    }

    #[test]
    #[should_panic(expected = "a cell for each column")]
    fn a_short_row_is_refused() {
        table().row(["one"]);
    }
}
