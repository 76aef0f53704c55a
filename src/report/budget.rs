//! Where the time of a step goes: one bar, its parts as long as they take.

use maud::{Markup, Render, html};

/// The time of one step in parts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Budget {
    /// What each part is, and its milliseconds.
    pub parts: Vec<(String, f64)>,
    /// What the parts do not say; may be empty.
    pub note: String,
}

impl Budget {
    /// Whether there is a time to show.
    pub(super) fn has_time(&self) -> bool {
        self.total_ms() > 0.0
    }

    fn total_ms(&self) -> f64 {
        self.parts.iter().map(|(_, ms)| ms.max(0.0)).sum()
    }
}

/// The bar, the parts with their numbers, the note.
impl Render for Budget {
    fn render(&self) -> Markup {
        let total = self.total_ms();
        let percent = |ms: f64| 100.0 * ms.max(0.0) / total;
        html! {
            div.budget {
                div.bar {
                    @for (index, (_, ms)) in self.parts.iter().enumerate().filter(|(_, (_, ms))| *ms > 0.0) {
                        i class={ "swatch s" (index) } style={ "width:" (format!("{:.2}", percent(*ms))) "%" } {}
                    }
                }
                dl.facts {
                    @for (index, (label, ms)) in self.parts.iter().enumerate() {
                        dt { i class={ "swatch s" (index) } {} (label) }
                        dd { (format!("{ms:.2} ms, {:.1} %", percent(*ms))) }
                    }
                    dt { "A step" }
                    dd { (format!("{total:.2} ms")) }
                }
                @if !self.note.is_empty() { p { (self.note) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_long_as_they_take() {
        let parts = vec![
            ("waiting".to_string(), 1.0),
            ("copying & more".to_string(), 0.0),
            ("computing".to_string(), 3.0),
        ];
        let html = Budget { parts, note: "on <cpu>".into() }.render().into_string();
        for part in [
            "<i class=\"swatch s0\" style=\"width:25.00%\">",
            "<i class=\"swatch s2\" style=\"width:75.00%\">",
            "copying &amp; more</dt><dd>0.00 ms, 0.0 %</dd>",
            "<dt>A step</dt><dd>4.00 ms</dd>",
            "<p>on &lt;cpu&gt;</p>",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("s1\" style"), "{html}");
        assert!(!Budget::default().has_time());
    }
}
