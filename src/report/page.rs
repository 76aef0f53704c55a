//! The page: header, tiles, charts, tables, confusion matrix and images as one HTML file.

use base64::prelude::{BASE64_STANDARD, Engine};
use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use super::{Bars, Budget, Chart, Confusion, Scatter, Table, heat_scale};

/// What a page shows, from top to bottom. Empty parts are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Heading on the page.
    pub title: String,
    /// One line below the heading.
    pub subtitle: String,
    /// After how many seconds a browser reads the page again, for one that is about to change.
    pub refresh_seconds: Option<u32>,
    /// The numbers to see first.
    pub tiles: Vec<Tile>,
    /// Line charts; those without points are left out.
    pub charts: Vec<Chart>,
    /// Everything below the charts.
    pub sections: Vec<Section>,
}

/// One number to see first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tile {
    /// Name of the quantity.
    pub label: String,
    /// The number, with its unit.
    pub value: String,
    /// A few words below it; may be empty.
    pub note: String,
}

/// A part of the page with a heading of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Heading on the page.
    pub title: String,
    /// What stands below it.
    pub body: Body,
}

/// What a section shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Paragraphs of text.
    Text(Vec<String>),
    /// Line charts next to each other; those without points are left out.
    Charts(Vec<Chart>),
    /// A table.
    Table(Table),
    /// A confusion matrix with the pairs most often confused.
    Confusion(Confusion),
    /// Where the time of a step goes.
    Budget(Budget),
    /// Bars below each other.
    Bars(Bars),
    /// Points over logarithmic axes, charts next to each other; those without points are left out.
    Scatters(Vec<Scatter>),
    /// A row of images.
    Figures(Vec<Figure>),
    /// Images with their heat maps, and what the two ends of the colours stand for.
    Heats {
        /// The images.
        figures: Vec<Figure>,
        /// What is seen on them.
        note: String,
        /// What the first colour stands for, and the last.
        ends: [String; 2],
    },
    /// A list of names with their values.
    Facts(Vec<(String, String)>),
    /// What is shown when its heading is clicked.
    Folded(String, Box<Body>),
    /// One below the other.
    Several(Vec<Body>),
}

/// An image, or several side by side, with text below.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figure {
    /// The bytes of the image files, PNG or JPEG.
    pub images: Vec<Vec<u8>>,
    /// The text that stands in for the images.
    pub alt: String,
    /// Lines below it; the first is set off.
    pub caption: Vec<String>,
}

impl Page {
    /// The page as one HTML file that needs no other.
    pub fn to_html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    @if let Some(seconds) = self.refresh_seconds { meta http-equiv="refresh" content=(seconds); }
                    title { (self.title) }
                    style { (PreEscaped(include_str!("style.css"))) }
                }
                body {
                    main {
                        header { h1 { (self.title) } p { (self.subtitle) } }
                        @if !self.tiles.is_empty() {
                            dl.tiles { @for tile in &self.tiles { (tile) } }
                        }
                        @if self.charts.iter().any(Chart::has_points) {
                            section.charts { @for chart in &self.charts { (chart) } }
                        }
                        @for section in &self.sections { (section) }
                    }
                }
            }
        };
        page.into_string()
    }

    /// Titles, paragraphs, tables, facts, the numbers of charts, and captions as Markdown, for places that show no HTML.
    /// Confusion matrices, budgets, bars and scattered points are left out.
    pub fn to_markdown(&self) -> String {
        let heading = format!("# {}\n\n{}\n", self.title, self.subtitle);
        let tiles =
            self.tiles.iter().map(|tile| format!("\n- {}: {} ({})", tile.label, tile.value, tile.note));
        let charts = self.charts.iter().filter(|chart| chart.has_points());
        let charts = charts.map(|chart| format!("\n## {}\n\n{}", chart.title, chart.numbers().to_markdown()));
        let sections = self.sections.iter().map(Section::to_markdown);
        [heading].into_iter().chain(tiles).chain(charts).chain(sections).collect()
    }
}

impl Section {
    /// The section `title` that shows `body`.
    pub fn new(title: impl Into<String>, body: Body) -> Section {
        Section { title: title.into(), body }
    }

    fn to_markdown(&self) -> String {
        match self.body.to_markdown() {
            body if body.is_empty() => String::new(),
            body => format!("\n## {}\n\n{body}", self.title),
        }
    }
}

impl Body {
    fn is_empty(&self) -> bool {
        match self {
            Body::Text(paragraphs) => paragraphs.is_empty(),
            Body::Charts(charts) => !charts.iter().any(Chart::has_points),
            Body::Table(table) => table.is_empty(),
            Body::Confusion(_) => false,
            Body::Budget(budget) => !budget.has_time(),
            Body::Bars(bars) => !bars.has_length(),
            Body::Scatters(charts) => !charts.iter().any(Scatter::has_points),
            Body::Figures(figures) | Body::Heats { figures, .. } => figures.is_empty(),
            Body::Facts(facts) => facts.is_empty(),
            Body::Folded(_, body) => body.is_empty(),
            Body::Several(bodies) => bodies.iter().all(Body::is_empty),
        }
    }

    fn to_markdown(&self) -> String {
        let of_figures = |figures: &[Figure]| {
            figures.iter().map(|figure| format!("- {}\n", figure.caption.join(", "))).collect()
        };
        match self {
            Body::Text(paragraphs) => paragraphs.join("\n\n") + "\n",
            Body::Charts(charts) => {
                let shown = charts.iter().filter(|chart| chart.has_points());
                shown.map(|chart| format!("{}\n\n{}\n", chart.title, chart.numbers().to_markdown())).collect()
            }
            Body::Table(table) => table.to_markdown(),
            Body::Figures(figures) | Body::Heats { figures, .. } => of_figures(figures),
            Body::Facts(facts) => facts.iter().map(|(name, value)| format!("- {name}: {value}\n")).collect(),
            Body::Folded(_, body) => body.to_markdown(),
            Body::Several(bodies) => bodies.iter().map(Body::to_markdown).collect::<Vec<_>>().join("\n"),
            Body::Confusion(_) | Body::Budget(_) | Body::Bars(_) | Body::Scatters(_) => String::new(),
        }
    }
}

impl Render for Tile {
    fn render(&self) -> Markup {
        html! { div { dt { (self.label) } dd { (self.value) } dd.note { (self.note) } } }
    }
}

impl Render for Section {
    fn render(&self) -> Markup {
        let class = match self.body {
            Body::Charts(_) => Some("charts"),
            Body::Confusion(_) => Some("beside"),
            _ => None,
        };
        html! {
            @if !self.body.is_empty() {
                section { h2 { (self.title) } div class=[class] { (self.body) } }
            }
        }
    }
}

impl Render for Body {
    fn render(&self) -> Markup {
        html! {
            @match self {
                Body::Text(paragraphs) => @for text in paragraphs { p { (text) } },
                Body::Charts(charts) => @for chart in charts { (chart) },
                Body::Table(table) => (table),
                Body::Confusion(confusion) => {
                    div { (confusion) }
                    @let pairs = confusion.worst_pairs();
                    @if !pairs.is_empty() { div { h3 { "Most often confused" } (pairs) } }
                }
                Body::Budget(budget) => (budget),
                Body::Bars(bars) => (bars),
                Body::Scatters(charts) => div.charts { @for chart in charts { (chart) } },
                Body::Figures(figures) => div class=(class_of(figures)) { @for figure in figures { (figure) } },
                Body::Heats { figures, note, ends: [low, high] } => {
                    div class=(class_of(figures)) { @for figure in figures { (figure) } }
                    p.note { (note) }
                    (heat_scale(low, high))
                }
                Body::Facts(facts) => dl.facts { @for (name, value) in facts { dt { (name) } dd { (value) } } },
                Body::Folded(summary, body) => details { summary { (summary) } (body) },
                Body::Several(bodies) => @for body in bodies.iter().filter(|body| !body.is_empty()) { (body) },
            }
        }
    }
}

/// One picture is shown large, pairs are given more width than single pictures.
fn class_of(figures: &[Figure]) -> &'static str {
    match (figures.len(), figures.iter().map(|figure| figure.images.len()).max()) {
        (1, Some(1)) => "figures large",
        (_, None | Some(0 | 1)) => "figures",
        _ => "figures wide",
    }
}

impl Render for Figure {
    fn render(&self) -> Markup {
        html! {
            figure {
                div {
                    @for image in &self.images {
                        @let media_type = if image.starts_with(b"\x89PNG") { "image/png" } else { "image/jpeg" };
                        img src={ "data:" (media_type) ";base64," (BASE64_STANDARD.encode(image)) } alt=(self.alt);
                    }
                }
                figcaption {
                    @if let Some((first, rest)) = self.caption.split_first() {
                        b { (first) }
                        @for line in rest { span { (line) } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Align, Series};
    use super::*;

    fn page() -> Page {
        let mut table = Table::new([("Epoch", Align::Right)]);
        table.row(["1"]);
        Page {
            title: "resnet18 <on> scenes".into(),
            subtitle: "cpu".into(),
            refresh_seconds: Some(15),
            tiles: vec![Tile { label: "Top-1 error".into(), value: "9.5 %".into(), note: String::new() }],
            charts: vec![Chart {
                title: "Loss".into(),
                series: vec![Series { label: "a".into(), points: vec![(0.0, 1.0)], band: vec![] }],
                ..Chart::default()
            }],
            sections: vec![
                Section::new("Epochs", Body::Table(table)),
                Section::new(
                    "Confusion",
                    Body::Confusion(Confusion::new(vec!["a".into(), "b".into()], &[1, 2, 3, 4])),
                ),
                Section::new(
                    "Worst",
                    Body::Figures(vec![Figure {
                        images: vec![b"\x89PNG..".to_vec(), b"jpeg".to_vec()],
                        alt: "x.jpg".into(),
                        caption: vec!["abbey".into(), "bar & grill, 99 %".into()],
                    }]),
                ),
                Section::new(
                    "Time of a step",
                    Body::Budget(Budget { parts: vec![("computing".into(), 2.0)], note: "all of it".into() }),
                ),
                Section::new("Environment", Body::Facts(vec![("cpu".into(), "<fast>".into())])),
            ],
        }
    }

    /// The elements that HTML closes by themselves.
    const VOID: [&str; 3] = ["meta", "img", "wbr"];

    /// Checks that every element is closed in turn.
    fn assert_balanced(html: &str) {
        let body = html.split_once("</style>").unwrap().1;
        let mut open: Vec<&str> = vec!["html", "head"];
        for tag in body.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("every tag ends");
            let name = tag.trim_start_matches('/').split(' ').next().unwrap().trim_end_matches('/');
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed));
            } else if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn the_page_is_well_formed_and_escaped() {
        let html = page().to_html();
        assert_balanced(&html);
        for part in [
            "<title>resnet18 &lt;on&gt; scenes</title>",
            "bar &amp; grill, 99 %",
            "<dt>cpu</dt><dd>&lt;fast&gt;</dd>",
            "src=\"data:image/png;base64,iVBORy4u\"",
            "src=\"data:image/jpeg;base64,anBlZw==\"",
            "<div class=\"figures wide\">",
            "<h2>Time of a step</h2>",
            "<h3>Most often confused</h3>",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
    }

    #[test]
    fn the_page_asks_the_network_for_nothing() {
        let html = page().to_html();
        for word in ["http:", "https:", "<script", "<link", "@import", "url("] {
            assert!(!html.contains(word), "{word}");
        }
    }

    #[test]
    fn empty_parts_are_left_out() {
        let empty = Page {
            title: "t".into(),
            charts: vec![Chart::default()],
            sections: vec![
                Section::new("Epochs", Body::Table(Table::new([("Epoch", Align::Right)]))),
                Section::new("Worst", Body::Figures(vec![])),
                Section::new("Time of a step", Body::Budget(Budget::default())),
                Section::new("Bars", Body::Bars(Bars::default())),
                Section::new("Roofline", Body::Scatters(vec![Scatter::default()])),
                Section::new("Environment", Body::Facts(vec![])),
            ],
            ..Page::default()
        };
        let html = empty.to_html();
        assert_balanced(&html);
        assert!(!html.contains("<section") && !html.contains("<h2"), "{html}");
    }
}
