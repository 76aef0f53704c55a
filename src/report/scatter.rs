//! Points over two logarithmic axes, with lines to hold them to, as SVG.

use maud::{Markup, Render, html};

use super::axes::{Axes, Axis, HEIGHT, WIDTH, bounds};
use super::ticks::Ticks;

/// Points over two logarithmic axes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scatter {
    /// Heading of the chart: what is drawn over what.
    pub title: String,
    /// Label of the x axis.
    pub x_label: String,
    /// The points, in groups.
    pub marks: Vec<Marks>,
    /// Lines behind the points.
    pub guides: Vec<Guide>,
}

/// Points of one look.
#[derive(Debug, Clone, PartialEq)]
pub struct Marks {
    /// Name in the legend.
    pub label: String,
    /// How they are drawn.
    pub look: Look,
    /// The points.
    pub points: Vec<Mark>,
}

/// How points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Discs in one of six colours, from 0.
    Disc(usize),
    /// Rings in the colour of text.
    Ring,
}

/// One point.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mark {
    /// Its place. One that is not positive and finite has none on logarithmic axes and is left out.
    pub x: f64,
    /// See `x`.
    pub y: f64,
    /// What it shows under the pointer.
    pub title: String,
}

/// A line of straight pieces. The axis of y holds all of it between the ends of the axis of x.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Guide {
    /// Name in the legend.
    pub label: String,
    /// Its corners `(x, y)`, positive, x rising.
    pub corners: Vec<(f64, f64)>,
}

impl Mark {
    fn has_place(&self) -> bool {
        is_positive(self.x) && is_positive(self.y)
    }
}

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

impl Guide {
    /// The part of the line between `low` and `high`.
    fn between(&self, low: f64, high: f64) -> Vec<(f64, f64)> {
        let positive = |at: (f64, f64)| is_positive(at.0) && is_positive(at.1);
        let pieces = self.corners.windows(2).filter(|piece| piece.iter().copied().all(positive));
        let pieces = pieces.filter_map(|piece| {
            let [from, to] = [piece[0], piece[1]];
            let (left, right) = (from.0.max(low), to.0.min(high));
            let at = |x: f64| {
                let share = (x / from.0).ln() / (to.0 / from.0).ln();
                (x, from.1 * (to.1 / from.1).powf(share))
            };
            (left < right).then(|| [at(left), at(right)])
        });
        let mut corners: Vec<(f64, f64)> = pieces.flatten().collect();
        corners.dedup_by(|a, b| a.0 == b.0);
        corners
    }
}

impl Scatter {
    fn placed(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter().flat_map(|marks| &marks.points).filter(|mark| mark.has_place())
    }

    /// Whether there is a point to draw.
    pub(super) fn has_points(&self) -> bool {
        self.placed().next().is_some()
    }

    fn axes(&self) -> Option<Axes> {
        let logarithmic = |(low, high)| Axis { ticks: Ticks::logarithmic(low, high, 6), logarithmic: true };
        let x = logarithmic(bounds(self.placed().map(|mark| mark.x))?);
        let of_guides =
            self.guides.iter().flat_map(|guide| guide.between(x.ticks.low(), x.ticks.high())).map(|at| at.1);
        let y = logarithmic(bounds(self.placed().map(|mark| mark.y).chain(of_guides))?);
        Some(Axes { x, y })
    }
}

/// The chart with heading and legend, or nothing where there is no point.
impl Render for Scatter {
    fn render(&self) -> Markup {
        let Some(axes) = self.axes() else { return html! {} };
        let marks = || self.marks.iter().filter(|marks| marks.points.iter().any(Mark::has_place));
        let class = |marks: &Marks| match marks.look {
            Look::Disc(color) => format!("disc s{color}"),
            Look::Ring => "ring".to_string(),
        };
        // A ring lies around the disc at its place.
        let radius = |marks: &Marks| if marks.look == Look::Ring { "4.4" } else { "3.2" };
        html! {
            figure.chart {
                figcaption {
                    b { (self.title) }
                    @for marks in marks() {
                        span {
                            svg.key.round viewBox="0 0 8 8" aria-hidden="true" {
                                circle class=(class(marks)) cx="4" cy="4" r="3" {}
                            }
                            (marks.label)
                        }
                    }
                    @for guide in &self.guides {
                        span {
                            svg.key viewBox="0 0 24 8" aria-hidden="true" { path.guide d="M1 4H23" {} }
                            (guide.label)
                        }
                    }
                }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.title) {
                    (axes.draw(&self.x_label))
                    @for guide in &self.guides {
                        @let corners = guide.between(axes.x.ticks.low(), axes.x.ticks.high());
                        @if corners.len() > 1 { path.guide d=(axes.path(&corners)) {} }
                    }
                    @for marks in marks() {
                        @for mark in marks.points.iter().filter(|mark| mark.has_place()) {
                            @let [x, y] = [axes.x(mark.x), axes.y(mark.y)].map(|place| format!("{place:.1}"));
                            circle class=(class(marks)) cx=(x) cy=(y) r=(radius(marks)) { title { (mark.title) } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scatter(points: &[(f64, f64)]) -> Scatter {
        let mark = |&(x, y): &(f64, f64)| Mark { x, y, title: format!("at <{x}>") };
        let points = points.iter().map(mark).collect();
        let marks = Marks { label: "bound by a & b".into(), look: Look::Disc(3), points };
        let roof = Guide { label: "roof".into(), corners: vec![(0.001, 0.001), (10.0, 10.0), (1e6, 10.0)] };
        Scatter {
            title: "speed".into(),
            x_label: "flops a byte".into(),
            marks: vec![marks],
            guides: vec![roof],
        }
    }

    #[test]
    fn points_and_lines_land_where_the_axes_say() {
        let html = scatter(&[(0.01, 0.01), (1.0, 1.0), (100.0, 1.0)]).render().into_string();
        // x runs over four powers of ten from 46 to 426, y over three from 220 up to 12.
        assert!(html.contains("<circle class=\"disc s3\" cx=\"236.0\" cy=\"81.3\" r=\"3.2\">"), "{html}");
        assert!(html.contains("<title>at &lt;0.01&gt;</title>"), "{html}");
        assert!(html.contains("<path class=\"guide\" d=\"M46.0 220.0L331.0 12.0L426.0 12.0\">"), "{html}");
        assert!(html.contains("bound by a &amp; b"), "{html}");
    }

    #[test]
    fn points_without_a_place_are_left_out() {
        let wrong = [(0.0, 1.0), (1.0, 0.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (-1.0, 1.0)];
        assert!(!scatter(&wrong).has_points());
        assert_eq!(scatter(&wrong).render().into_string(), "");
        let html = scatter(&[&wrong[..], &[(1.0, 2.0)]].concat()).render().into_string();
        assert_eq!(html.matches("<title>").count(), 1, "{html}");
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
    }

    #[test]
    fn rings_stand_apart_from_discs() {
        let mut scatter = scatter(&[(1.0, 2.0)]);
        scatter.marks[0].look = Look::Ring;
        let html = scatter.render().into_string();
        assert_eq!((html.matches("class=\"ring\"").count(), html.matches("disc").count()), (2, 0), "{html}");
    }

    #[test]
    fn the_axes_reach_up_to_the_line_above_the_points() {
        let html = scatter(&[(100.0, 0.2), (200.0, 0.3)]).render().into_string();
        // Tick labels up to the roof of 10, which is the upper end.
        assert!(
            html.contains(">10</text>")
                && html.contains("<path class=\"guide\" d=\"M46.0 12.0L426.0 12.0\">"),
            "{html}"
        );
    }
}
