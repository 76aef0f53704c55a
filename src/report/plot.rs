//! A line chart as SVG.

use maud::{Markup, Render, html};

use super::axes::{Axes, Axis, HEIGHT, WIDTH, bounds};
use super::ticks::Ticks;
use super::{Align, Table};

/// Up to this number of points in a line, each is drawn as a dot that shows its numbers under the pointer.
const MAX_DOTS: usize = 80;
/// Up to this number, the dots are there but show under the pointer alone; a longer line has none.
const MAX_HIDDEN_DOTS: usize = 400;
/// From this ratio of the largest to the smallest number on, a linear axis would flatten the small ones.
const WIDE: f64 = 50.0;

/// As many lines of a chart have a look of their own.
pub const MAX_LINES: usize = 8;

/// One line of a chart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// Name of the line in the legend.
    pub label: String,
    /// Points `(x, y)`, x rising. The line has a gap at a point that is not finite.
    pub points: Vec<(f64, f64)>,
    /// Spread `(x, low, high)` drawn as a band behind the line; empty for none.
    pub band: Vec<(f64, f64, f64)>,
}

/// How the y axis is laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum YAxis {
    /// Around the numbers.
    #[default]
    Around,
    /// From 0.
    FromZero,
    /// Around the numbers; logarithmic where all are positive and one is 50 times another.
    LogarithmicIfWide,
}

/// Lines over whole numbers: epochs or steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chart {
    /// Heading of the chart.
    pub title: String,
    /// Label of the x axis.
    pub x_label: String,
    /// The unit of y, put after its numbers in the pointer's text; may be empty.
    pub unit: String,
    /// How the y axis is laid out.
    pub y_axis: YAxis,
    /// The lines; up to [`MAX_LINES`] are told apart by colour and dashes.
    pub series: Vec<Series>,
}

impl Chart {
    /// The numbers behind the lines, a row for each x.
    pub(super) fn numbers(&self) -> Table {
        let heading = self.series.iter().map(|series| (series.label.clone(), Align::Right));
        let mut table =
            Table::with_columns([(self.x_label.clone(), Align::Right)].into_iter().chain(heading));
        let mut xs: Vec<f64> =
            self.series.iter().flat_map(|series| &series.points).map(|point| point.0).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        for x in xs {
            let at = |series: &Series| series.points.iter().find(|point| point.0 == x).map(|point| point.1);
            let shown = |y: Option<f64>| y.map_or(String::new(), |y| format!("{y:.4}{}", self.unit));
            let values = self.series.iter().map(|series| shown(at(series)));
            table.row([x.to_string()].into_iter().chain(values));
        }
        table
    }

    /// Whether there is a finite point to draw.
    pub fn has_points(&self) -> bool {
        self.series.iter().any(|series| series.points.iter().any(is_finite))
    }

    fn axes(&self) -> Option<Axes> {
        let points = self.series.iter().flat_map(|series| {
            let edges = series.band.iter().flat_map(|&(x, low, high)| [(x, low), (x, high)]);
            series.points.iter().copied().chain(edges)
        });
        let finite: Vec<(f64, f64)> = points.filter(is_finite).collect();
        let (x_low, x_high) = bounds(finite.iter().map(|point| point.0))?;
        let (y_low, y_high) = bounds(finite.iter().map(|point| point.1))?;
        let is_wide = y_low > 0.0 && y_high >= WIDE * y_low;
        let logarithmic = self.y_axis == YAxis::LogarithmicIfWide && is_wide;
        let y_low = if self.y_axis == YAxis::FromZero { y_low.min(0.0) } else { y_low };
        let ticks = if logarithmic {
            Ticks::logarithmic(y_low, y_high, 5)
        } else {
            Ticks::around(y_low, y_high, 5, 0.0)
        };
        let x = Axis { ticks: Ticks::around(x_low, x_high, 6, 1.0), logarithmic: false };
        Some(Axes { x, y: Axis { ticks, logarithmic } })
    }

    /// Dots that show their numbers under the pointer, hidden until then on longer lines; a lone point between gaps always
    /// gets one, or it would be invisible.
    fn dots(&self, axes: &Axes, index: usize, series: &Series) -> Markup {
        let finite = |at: usize| series.points.get(at).is_some_and(is_finite);
        let alone = |at: usize| !at.checked_sub(1).is_some_and(finite) && !finite(at + 1);
        let count = series.points.len();
        let shown = series.points.iter().enumerate();
        let shown = shown.filter(|(at, _)| finite(*at) && (count <= MAX_HIDDEN_DOTS || alone(*at)));
        html! {
            @for (at, &(x, y)) in shown {
                @let class = if count <= MAX_DOTS || alone(at) { "dot" } else { "hidden dot" };
                @let [cx, cy] = [axes.x(x), axes.y(y)].map(|place| format!("{place:.1}"));
                circle class={ (class) " s" (index) } cx=(cx) cy=(cy) r="2.6" {
                    title { (series.label) ", " (self.x_label) " " (x) ": " (significant(y)) (self.unit) }
                }
            }
        }
    }
}

/// The chart with heading and legend, or nothing where there is no point.
impl Render for Chart {
    fn render(&self) -> Markup {
        let Some(axes) = self.axes() else { return html! {} };
        let series = || self.series.iter().enumerate();
        html! {
            figure.chart {
                figcaption {
                    b { (self.title) }
                    @for (index, series) in series() {
                        span {
                            svg.key viewBox="0 0 24 8" aria-hidden="true" {
                                path class={ "line s" (index) } d="M1 4H23" {}
                            }
                            (series.label)
                        }
                    }
                    @if axes.y.logarithmic { span { "logarithmic axis" } }
                }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.title) {
                    (axes.draw(&self.x_label))
                    @for (index, series) in series() {
                        @if let Some(band) = band(&axes, series) { path class={ "band s" (index) } d=(band) {} }
                        path class={ "line s" (index) } d=(line(&axes, series)) {}
                    }
                    @for (index, series) in series() { (self.dots(&axes, index, series)) }
                }
            }
        }
    }
}

fn is_finite(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}

/// `value` with four significant digits.
fn significant(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-3..1e6).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let digits_before = if magnitude < 1.0 { 0 } else { magnitude.log10().floor() as usize + 1 };
    format!("{value:.0$}", 4_usize.saturating_sub(digits_before))
}

/// The path through the points, begun anew after a gap.
fn line(axes: &Axes, series: &Series) -> String {
    let runs = series.points.split(|point| !is_finite(point)).filter(|run| !run.is_empty());
    runs.map(|run| axes.path(run)).collect()
}

/// The outline of the band: its upper edge, and its lower one back.
fn band(axes: &Axes, series: &Series) -> Option<String> {
    let finite = |(x, low, high): &&(f64, f64, f64)| x.is_finite() && low.is_finite() && high.is_finite();
    let band: Vec<_> = series.band.iter().filter(finite).collect();
    let upper = band.iter().map(|(x, _, high)| (*x, *high));
    let outline: Vec<_> = upper.chain(band.iter().rev().map(|(x, low, _)| (*x, *low))).collect();
    (!outline.is_empty()).then(|| axes.path(&outline) + "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: "Loss & error".into(),
            x_label: "epoch".into(),
            unit: " %".into(),
            y_axis: YAxis::FromZero,
            series: vec![Series { label: "a<b".into(), points, band: vec![] }],
        }
    }

    #[test]
    fn points_land_where_the_axes_say() {
        let html = chart(vec![(0.0, 0.0), (2.0, 50.0), (4.0, 100.0)]).render().into_string();
        // x runs from 46 to 426, y from 220 up to 12.
        assert!(html.contains("d=\"M46.0 220.0L236.0 116.0L426.0 12.0\""), "{html}");
        assert!(html.contains("<title>a&lt;b, epoch 2: 50.00 %</title>"), "{html}");
        assert!(html.contains("Loss &amp; error"), "{html}");
    }

    #[test]
    fn numbers_that_are_none_leave_a_gap() {
        let html = chart(vec![(0.0, 0.0), (1.0, f64::NAN), (2.0, 50.0), (3.0, f64::INFINITY)])
            .render()
            .into_string();
        assert!(html.contains("d=\"M46.0 220.0M"), "{html}");
        assert_eq!(html.matches("<circle").count(), 2);
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
    }

    #[test]
    fn numbers_that_lie_far_apart_have_a_logarithmic_axis() {
        let wide = |points| Chart { y_axis: YAxis::LogarithmicIfWide, ..chart(points) };
        let html = wide(vec![(0.0, 0.01), (2.0, 1.0), (4.0, 100.0)]).render().into_string();
        assert!(html.contains("d=\"M46.0 220.0L236.0 116.0L426.0 12.0\""), "{html}");
        assert!(html.contains("logarithmic axis"), "{html}");
        for points in [vec![(0.0, 0.1), (1.0, 4.0)], vec![(0.0, 0.0), (1.0, 100.0)], vec![(0.0, 3.0)]] {
            assert!(!wide(points).render().into_string().contains("logarithmic"));
        }
        assert!(!chart(vec![(0.0, 0.01), (1.0, 9.0)]).render().into_string().contains("logarithmic"));
    }

    #[test]
    fn every_point_of_a_line_shows_its_numbers() {
        let dots = |count: u32, class: &str| {
            let points = (0..count).map(|x| (f64::from(x), 1.0)).collect();
            chart(points).render().into_string().matches(&format!("<circle class=\"{class} s0\"")).count()
        };
        assert_eq!((dots(80, "dot"), dots(80, "hidden dot")), (80, 0));
        assert_eq!((dots(240, "dot"), dots(240, "hidden dot")), (0, 240));
        assert_eq!(dots(401, "hidden dot"), 0);
    }

    #[test]
    fn a_chart_without_points_is_left_out() {
        for points in [vec![], vec![(1.0, f64::NAN)]] {
            assert!(!chart(points.clone()).has_points());
            assert_eq!(chart(points).render().into_string(), "");
        }
        assert!(chart(vec![(1.0, 3.0)]).render().into_string().contains("<circle"));
    }

    #[test]
    fn the_band_is_inside_the_axes() {
        let mut chart = chart(vec![(0.0, 5.0), (1.0, 6.0)]);
        chart.series[0].band = vec![(0.0, 2.0, 9.0), (1.0, 5.0, 10.0)];
        let html = chart.render().into_string();
        assert!(
            html.contains("<path class=\"band s0\" d=\"M46.0 32.8L426.0 12.0L426.0 116.0L46.0 178.4Z\">"),
            "{html}"
        );
    }

    #[test]
    fn pointer_text_has_four_digits() {
        for (value, text) in
            [(0.0, "0.0000"), (3.71962, "3.720"), (85.3, "85.30"), (5e-5, "5.000e-5"), (-0.25, "-0.2500")]
        {
            assert_eq!(significant(value), text);
        }
    }
}
