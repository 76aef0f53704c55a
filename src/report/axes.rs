//! The two axes of a drawing: from data to drawing units, with lines and numbers.

use maud::{Markup, html};

use super::ticks::Ticks;

/// The drawing is this large in its own units and scales to the width it is given. It is narrow, so that on a
/// telephone its text is still large enough to read.
pub const WIDTH: f64 = 440.0;
pub const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// The numbers of one axis and how they are spread.
pub struct Axis {
    /// Where the axis carries numbers; the first and last are its ends.
    pub ticks: Ticks,
    /// Whether equal ratios, rather than equal differences, are equally long.
    pub logarithmic: bool,
}

impl Axis {
    /// The place of `value` between the ends, which are at 0 and 1.
    fn share(&self, value: f64) -> f64 {
        let [low, high, at] = [self.ticks.low(), self.ticks.high(), value]
            .map(|value| if self.logarithmic { value.log10() } else { value });
        (at - low) / (high - low)
    }
}

/// From data to drawing units.
pub struct Axes {
    pub x: Axis,
    pub y: Axis,
}

impl Axes {
    pub fn x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)
    }

    pub fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// The path through `points`.
    pub fn path(&self, points: &[(f64, f64)]) -> String {
        let places: Vec<String> =
            points.iter().map(|&(x, y)| format!("{:.1} {:.1}", self.x(x), self.y(y))).collect();
        format!("M{}", places.join("L"))
    }

    /// Lines and numbers of both axes, with the name of the lower one.
    pub fn draw(&self, x_label: &str) -> Markup {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        html! {
            @for &value in &self.y.ticks.values {
                @let y = self.y(value);
                @let class = if value == self.y.ticks.low() { "axis" } else { "grid" };
                path class=(class) d=(format!("M{LEFT} {y:.1}H{right}")) {}
                text x=(LEFT - 7.0) y=(format!("{:.1}", y + 4.0)) text-anchor="end" { (self.y.ticks.label(value)) }
            }
            @for &value in &self.x.ticks.values {
                @let x = format!("{:.1}", self.x(value));
                path.axis d={ "M" (x) " " (bottom) "v4" } {}
                text x=(x) y=(bottom + 18.0) text-anchor="middle" { (self.x.ticks.label(value)) }
            }
            text.title x=((LEFT + right) / 2.0) y=(HEIGHT - 5.0) text-anchor="middle" { (x_label) }
        }
    }
}

/// The least and the largest of `values`; `None` where there are none.
pub fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}
