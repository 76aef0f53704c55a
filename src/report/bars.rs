//! Bars below each other, each in parts that share their colours with the parts of the others.

use maud::{Markup, Render, html};

use super::axes::bounds;

/// Bars of one scale.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bars {
    /// What the parts of every bar stand for, in their order; up to six are told apart by colour. The legend leaves out those
    /// that no bar has.
    pub parts: Vec<String>,
    /// The bars from top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// Its number, in words.
    pub value: String,
    /// Length of each part, in any unit; none is negative.
    pub lengths: Vec<f64>,
}

impl Bar {
    fn length(&self) -> f64 {
        self.lengths.iter().sum()
    }
}

impl Bars {
    /// Whether a bar has a length to show.
    pub(super) fn has_length(&self) -> bool {
        self.longest() > 0.0
    }

    fn longest(&self) -> f64 {
        bounds(self.bars.iter().map(Bar::length)).map_or(0.0, |(_, longest)| longest)
    }

    /// The parts that some bar has.
    fn seen(&self) -> impl Iterator<Item = (usize, &String)> {
        let has = |index: usize| self.bars.iter().any(|bar| bar.lengths.get(index).is_some_and(|&l| l > 0.0));
        self.parts.iter().enumerate().filter(move |(index, _)| has(*index))
    }
}

/// The legend, and each bar between its name and its number.
impl Render for Bars {
    fn render(&self) -> Markup {
        let longest = self.longest();
        html! {
            div.bars {
                p.legend {
                    @for (index, part) in self.seen() { span { i class={ "swatch s" (index) } {} (part) } " " }
                }
                @for bar in &self.bars {
                    div.row {
                        span.label { (bar.label) }
                        div.bar {
                            @for (index, length) in bar.lengths.iter().enumerate().filter(|(_, l)| **l > 0.0) {
                                i class={ "swatch s" (index) }
                                    style={ "width:" (format!("{:.2}", 100.0 * length / longest)) "%" }
                                    title=[self.parts.get(index)] {}
                            }
                        }
                        span.value { (bar.value) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_share_one_scale_and_the_legend_names_what_is_seen() {
        let bar = |label: &str, lengths: [f64; 3]| Bar {
            label: label.into(),
            value: "1 <ms>".into(),
            lengths: lengths.to_vec(),
        };
        let parts = ["tensor & more", "latency", "DRAM"].map(String::from).to_vec();
        let bars = Bars { parts, bars: vec![bar("conv<2d>", [1.0, 0.0, 3.0]), bar("relu", [0.0, 0.0, 1.0])] };
        assert!(bars.has_length());
        let html = bars.render().into_string();
        for part in [
            "<i class=\"swatch s0\"></i>tensor &amp; more</span>",
            "<span class=\"label\">conv&lt;2d&gt;</span>",
            "<span class=\"value\">1 &lt;ms&gt;</span>",
            "<i class=\"swatch s0\" style=\"width:25.00%\" title=\"tensor &amp; more\">",
            "<i class=\"swatch s2\" style=\"width:75.00%\" title=\"DRAM\">",
            "<i class=\"swatch s2\" style=\"width:25.00%\" title=\"DRAM\">",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("latency") && !html.contains("s1"), "{html}");
    }

    #[test]
    fn bars_without_length_are_nothing_to_show() {
        assert!(!Bars::default().has_length());
        let bar = Bar { lengths: vec![0.0], ..Bar::default() };
        assert!(!Bars { parts: vec!["a".into()], bars: vec![bar] }.has_length());
    }
}
