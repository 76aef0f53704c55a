//! Outlines of simple shapes as polygons; y points down, and 0..1 spans the image.

use std::f32::consts::TAU;
use std::ops::Range;

/// A corner (x, y).
pub(super) type Point = (f32, f32);

/// An upright rectangle.
pub(super) fn rect(left: f32, top: f32, right: f32, bottom: f32) -> Vec<Point> {
    vec![(left, top), (right, top), (right, bottom), (left, bottom)]
}

/// A post of `width` and `height` standing at `foot`.
pub(super) fn upright(x: f32, foot: f32, width: f32, height: f32) -> Vec<Point> {
    rect(x - width * 0.5, foot - height, x + width * 0.5, foot)
}

/// A triangle of half-width `half` on `base`.
pub(super) fn gable(x: f32, base: f32, half: f32, height: f32) -> Vec<Point> {
    vec![(x - half, base), (x, base - height), (x + half, base)]
}

/// The part of an ellipse over `turns`: 0.5..1.0 is the upper half, 0.0..1.0 all of it.
pub(super) fn arc(centre: Point, radii: Point, turns: Range<f32>) -> Vec<Point> {
    const STEPS: usize = 16;
    (0..=STEPS)
        .map(|step| {
            let angle = TAU * (turns.start + (turns.end - turns.start) * step as f32 / STEPS as f32);
            (centre.0 + radii.0 * angle.cos(), centre.1 + radii.1 * angle.sin())
        })
        .collect()
}

/// A wall from `left` to `right` with merlons above `top`.
pub(super) fn battlement(left: f32, right: f32, top: f32, foot: f32) -> Vec<Point> {
    const MERLON: f32 = 0.035;
    let teeth = ((right - left) / (2.0 * MERLON)).round().max(2.0) as usize;
    let step = (right - left) / (2 * teeth - 1) as f32;
    let mut outline = vec![(left, foot)];
    for tooth in 0..teeth {
        let x = left + 2.0 * step * tooth as f32;
        outline.extend([(x, top), (x, top - MERLON), (x + step, top - MERLON), (x + step, top)]);
    }
    outline.push((right, foot));
    outline
}

/// A cactus with an arm on either side; `variation` in 0..1 moves the arms.
pub(super) fn cactus(x: f32, foot: f32, height: f32, variation: f32) -> Vec<Point> {
    let (trunk, arm) = (height * 0.09, height * 0.26);
    let (low, high) = (foot - height * (0.3 + 0.2 * variation), foot - height * (0.6 - 0.2 * variation));
    let (thick, rise) = (trunk * 1.4, height * 0.25);
    vec![
        (x - trunk, foot),
        (x - trunk, low),
        (x - arm, low),
        (x - arm, low - rise),
        (x - arm + thick, low - rise),
        (x - arm + thick, low - thick),
        (x - trunk, low - thick),
        (x - trunk, foot - height),
        (x + trunk, foot - height),
        (x + trunk, high - thick),
        (x + arm - thick, high - thick),
        (x + arm - thick, high - rise),
        (x + arm, high - rise),
        (x + arm, high),
        (x + trunk, high),
        (x + trunk, foot),
    ]
}

/// `polygon` cut off at the border of the unit square (Sutherland and Hodgman 1974).
pub(super) fn clip_to_unit_square(polygon: Vec<Point>) -> Vec<Point> {
    let sides: [fn(Point) -> f32; 4] = [|p| p.0, |p| 1.0 - p.0, |p| p.1, |p| 1.0 - p.1];
    let inside = sides.iter().fold(polygon, |polygon, distance| {
        let mut kept = Vec::with_capacity(polygon.len() + 2);
        for (i, &point) in polygon.iter().enumerate() {
            let previous = polygon[(i + polygon.len() - 1) % polygon.len()];
            let (from, to) = (distance(previous), distance(point));
            if (from < 0.0) != (to < 0.0) {
                let part = from / (from - to);
                let cross = |a: f32, b: f32| a + part * (b - a);
                kept.push((cross(previous.0, point.0), cross(previous.1, point.1)));
            }
            if to >= 0.0 {
                kept.push(point);
            }
        }
        kept
    });
    // Interpolated corners can miss the border by a rounding error.
    inside.into_iter().map(|(x, y)| (x.clamp(0.0, 1.0), y.clamp(0.0, 1.0))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_keeps_what_is_inside() {
        let triangle = vec![(0.2, 0.2), (0.8, 0.3), (0.5, 0.9)];
        assert_eq!(clip_to_unit_square(triangle.clone()), triangle);
        assert!(clip_to_unit_square(rect(1.2, 0.0, 1.5, 1.0)).is_empty());
        let area = |polygon: &[Point]| {
            let next = polygon.iter().cycle().skip(1);
            polygon.iter().zip(next).map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum::<f32>().abs() * 0.5
        };
        let clipped = clip_to_unit_square(vec![(-0.5, 0.5), (0.5, -0.5), (1.5, 0.5), (0.5, 1.5)]);
        assert!((area(&clipped) - 1.0).abs() < 1e-5, "the diamond covers the square: {clipped:?}");
        let half = clip_to_unit_square(gable(0.0, 1.0, 0.5, 1.0));
        assert!((area(&half) - 0.25).abs() < 1e-5, "{half:?}");
    }
}
