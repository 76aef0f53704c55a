//! What people look at: aligned tables on a terminal, one offline HTML page, and pictures with words.
//!
//! Nothing here knows what a training run is. A [`Page`] is tiles, charts, tables, a confusion matrix and
//! images, and [`Page::to_html`] is a pure function of it; what a run says on its page is decided in
//! `run::page`. The page needs no network and no script: its style and its SVG are in the one file, and it
//! follows the reader's light or dark setting. What belongs on it implements maud's `Render`, which escapes all text.

mod axes;
mod bars;
mod budget;
pub mod canvas;
mod confusion;
mod heat;
mod page;
mod plot;
mod scatter;
mod sheet;
mod table;
mod ticks;

pub use bars::{Bar, Bars};
pub use budget::Budget;
pub use confusion::Confusion;
pub use heat::{EVIDENCE, heat_map, heat_scale};
pub use page::{Body, Figure, Page, Section, Tile};
pub use plot::{Chart, MAX_LINES, Series, YAxis};
pub use scatter::{Guide, Look, Mark, Marks, Scatter};
pub use sheet::{PhotoTile, sheet};
pub use table::{Align, Cell, Table};
