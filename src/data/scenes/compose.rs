//! What is where in each category: polygons in unit coordinates, painted back to front.

use std::f32::consts::TAU;

use super::outlines::{Point, arc, battlement, cactus, clip_to_unit_square, gable, rect, upright};
use super::{OBJECT_CATEGORIES, SceneObject};
use crate::rng::Stream;

type Colour = [f32; 3];

/// Sky colours at the top and at the horizon, and how bright everything below is.
const MOODS: [(Colour, Colour, f32); 5] = [
    ([70.0, 130.0, 215.0], [190.0, 220.0, 245.0], 1.0),
    ([120.0, 150.0, 190.0], [225.0, 225.0, 220.0], 0.9),
    ([75.0, 60.0, 120.0], [245.0, 160.0, 110.0], 0.75),
    ([110.0, 115.0, 125.0], [170.0, 175.0, 180.0], 0.8),
    ([12.0, 18.0, 50.0], [60.0, 66.0, 112.0], 0.6),
];
/// Soil and vegetation of every season.
const GROUNDS: [Colour; 6] = [
    [95.0, 140.0, 70.0],
    [140.0, 150.0, 75.0],
    [205.0, 180.0, 125.0],
    [150.0, 115.0, 80.0],
    [220.0, 225.0, 232.0],
    [125.0, 125.0, 120.0],
];
const WATERS: [Colour; 4] =
    [[45.0, 95.0, 150.0], [60.0, 130.0, 140.0], [85.0, 105.0, 110.0], [100.0, 120.0, 85.0]];
const LEAVES: [Colour; 5] =
    [[40.0, 95.0, 45.0], [75.0, 125.0, 50.0], [30.0, 75.0, 65.0], [185.0, 115.0, 40.0], [160.0, 70.0, 45.0]];
const WALLS: [Colour; 6] = [
    [205.0, 190.0, 165.0],
    [165.0, 85.0, 65.0],
    [150.0, 150.0, 155.0],
    [225.0, 220.0, 210.0],
    [110.0, 125.0, 150.0],
    [120.0, 100.0, 80.0],
];
const BRIGHTS: [Colour; 6] = [
    [200.0, 55.0, 50.0],
    [235.0, 190.0, 60.0],
    [240.0, 240.0, 235.0],
    [50.0, 90.0, 170.0],
    [60.0, 140.0, 90.0],
    [220.0, 120.0, 60.0],
];
const WOOD: Colour = [90.0, 65.0, 45.0];
const DARK: Colour = [45.0, 42.0, 48.0];

/// The objects of a scene of `category`, back to front.
pub(super) fn compose(category: u32, stream: &mut Stream) -> Vec<SceneObject> {
    let mood = MOODS[stream.below(MOODS.len() as u32) as usize];
    let mut painter = Painter { stream, brightness: mood.2, objects: Vec::new() };
    painter.sky(mood.0, mood.1);
    match category {
        0 => beach(&mut painter),
        1 => bridge(&mut painter),
        2 => castle(&mut painter),
        3 => desert(&mut painter),
        4 => forest(&mut painter),
        5 => harbour(&mut painter),
        6 => mountain(&mut painter),
        7 => skyline(&mut painter),
        8 => street(&mut painter),
        _ => windmill(&mut painter),
    }
    painter.objects
}

fn beach(p: &mut Painter) {
    let horizon = p.within(0.3, 0.5);
    p.water(horizon);
    let (left, right) = (p.within(0.5, 0.95), p.within(0.5, 0.95));
    let mut shore: Vec<Point> =
        (0..=8).map(|i| i as f32 / 8.0).map(|x| (x, left + x * (right - left))).collect();
    shore.iter_mut().for_each(|point| point.1 += p.within(-0.015, 0.015));
    shore.extend([(1.0, 1.0), (0.0, 1.0)]);
    let sand = p.pick(&GROUNDS);
    p.paint("sand", shore, sand);
    for _ in 0..p.count(2, 4) {
        let (x, size) = (p.within(0.1, 0.9), p.within(0.12, 0.22));
        let foot = (left + x * (right - left) + p.within(0.08, 0.25)).min(0.98);
        let colour = p.pick(&BRIGHTS);
        p.paint("parasol", upright(x, foot, 0.015, size), WOOD);
        p.paint("parasol", arc((x, foot - size * 0.9), (size * 0.8, size * 0.6), 0.5..1.0), colour);
    }
}

fn bridge(p: &mut Painter) {
    let horizon = p.within(0.45, 0.6);
    p.hills(horizon, 0.1);
    p.water(horizon);
    let (deck, thickness) = (p.within(0.45, 0.62), p.within(0.035, 0.06));
    let colour = p.pick(&WALLS);
    if p.chance(0.5) {
        let (left, right) = (p.within(0.15, 0.32), p.within(0.68, 0.85));
        let top = deck - p.within(0.22, 0.35);
        for (tower, inner, outer) in [(left, 0.5, -0.05), (right, 0.5, 1.05)] {
            for end in [inner, outer] {
                let low = deck - 0.02;
                p.paint(
                    "bridge",
                    vec![(tower, top), (tower, top + 0.03), (end, low + 0.02), (end, low)],
                    colour,
                );
            }
        }
        for tower in [left, right] {
            p.paint("bridge", upright(tower, deck + 0.2, 0.045, deck + 0.2 - top), colour);
        }
    } else {
        let (arches, rise) = (p.count(2, 4), p.within(0.16, 0.26));
        let (width, offset) = (1.3 / arches as f32, p.within(-0.25, 0.0));
        for arch in 0..=arches {
            let middle = offset + (arch as f32 + 0.5) * width;
            let radii = (width * 0.5, rise);
            let mut spandrel = arc((middle, deck + rise), radii, 0.5..1.0);
            spandrel.extend([(middle + radii.0, deck), (middle - radii.0, deck)]);
            p.paint("bridge", spandrel, colour);
            p.paint("bridge", upright(middle - radii.0, deck + rise + 0.1, 0.06, rise + 0.1), colour);
        }
    }
    p.paint("bridge", rect(0.0, deck - thickness, 1.0, deck), colour);
}

fn castle(p: &mut Painter) {
    let horizon = p.within(0.55, 0.75);
    p.hills(horizon, 0.12);
    p.ground(horizon);
    let wall = p.pick(&WALLS);
    let (left, right) = (p.within(0.08, 0.3), p.within(0.7, 0.92));
    let foot = horizon + p.within(0.03, 0.15);
    let top = foot - p.within(0.22, 0.32);
    p.paint("castle", battlement(left, right, top, foot), wall);
    for x in [left, right] {
        let (half, height) = (p.within(0.06, 0.1), p.within(0.08, 0.2));
        p.paint("tower", battlement(x - half, x + half, top - height, foot + 0.02), wall);
        if p.chance(0.4) {
            let (roof, rise) = (p.pick(&BRIGHTS), p.within(0.1, 0.2));
            p.paint("roof", gable(x, top - height, half * 1.3, rise), roof);
        }
    }
    if p.chance(0.5) {
        let (x, half, height) =
            (p.within(left + 0.15, right - 0.15), p.within(0.06, 0.09), p.within(0.08, 0.18));
        p.paint("tower", battlement(x - half, x + half, top - height, foot), wall);
    }
    let gate = (left + right) * 0.5;
    p.paint("door", rect(gate - 0.045, foot - 0.1, gate + 0.045, foot), DARK);
    p.paint("door", arc((gate, foot - 0.1), (0.045, 0.05), 0.5..1.0), DARK);
    p.distractors(foot + 0.05);
}

fn desert(p: &mut Painter) {
    let horizon = p.within(0.4, 0.6);
    let sand = p.pick(&GROUNDS);
    for layer in 0..3 {
        let base = horizon + layer as f32 * p.within(0.1, 0.16);
        let shade = sand.map(|value| value * (0.82 + 0.1 * layer as f32));
        let (waves, phase, height) = (p.within(0.6, 1.6), p.stream.uniform() * TAU, p.within(0.03, 0.07));
        let crest = |x: f32| base + height * (x * waves * TAU + phase).sin();
        let mut dune: Vec<Point> = (0..=16).map(|i| i as f32 / 16.0).map(|x| (x, crest(x))).collect();
        dune.extend([(1.0, 1.0), (0.0, 1.0)]);
        p.paint("sand", dune, shade);
    }
    for _ in 0..p.count(1, 4) {
        let (x, foot, height) = (p.within(0.08, 0.92), p.within(horizon + 0.15, 0.95), p.within(0.18, 0.4));
        let (green, variation) = (p.pick(&LEAVES), p.within(0.0, 1.0));
        p.paint("cactus", cactus(x, foot, height, variation), green);
    }
}

fn forest(p: &mut Painter) {
    let horizon = p.within(0.4, 0.6);
    p.ground(horizon);
    let num_trees = p.count(9, 16);
    let conifers = p.stream.uniform();
    for tree in 0..num_trees {
        let depth = tree as f32 / num_trees as f32;
        let foot = horizon + 0.03 + depth * (0.97 - horizon) * p.within(0.6, 1.0);
        let (x, size) = (p.within(-0.03, 1.03), (0.28 + 0.35 * depth) * p.within(0.8, 1.2));
        let conifer = p.chance(conifers);
        p.tree(x, foot, size, conifer);
    }
}

fn harbour(p: &mut Painter) {
    let horizon = p.within(0.35, 0.55);
    p.hills(horizon, 0.08);
    p.water(horizon);
    let num_boats = p.count(3, 5);
    for boat in 0..num_boats {
        let depth = (boat as f32 + 0.5) / num_boats as f32;
        let (x, size) = (p.within(0.08, 0.92), (0.16 + 0.2 * depth) * p.within(0.8, 1.2));
        let line = horizon + 0.05 + depth * (0.85 - horizon);
        p.boat(x, line, size);
    }
    if p.chance(0.6) {
        let (level, reach, left) = (p.within(0.84, 0.94), p.within(0.35, 1.0), p.chance(0.5));
        let quay = if left { rect(0.0, level, reach, 1.0) } else { rect(1.0 - reach, level, 1.0, 1.0) };
        let stone = p.pick(&WALLS);
        p.paint("quay", quay, stone);
    }
}

fn mountain(p: &mut Painter) {
    let horizon = p.within(0.6, 0.8);
    let rock = p.pick(&WALLS);
    let snow = p.pick(&[[235.0, 240.0, 245.0], [190.0, 205.0, 225.0]]);
    for _ in 0..p.count(3, 5) {
        let (x, half, height) = (p.within(0.0, 1.0), p.within(0.22, 0.42), p.within(0.25, 0.5));
        let shade = rock.map(|value| value * p.within(0.75, 1.05));
        let (peak, lean) = (horizon - height, p.within(-0.08, 0.08));
        let summit = (x + lean, peak);
        p.paint("mountain", vec![(x - half, horizon + 0.02), summit, (x + half, horizon + 0.02)], shade);
        let line = p.within(0.22, 0.4);
        let on_edge = |foot: f32, depth: f32| (summit.0 + (foot - summit.0) * depth, peak + height * depth);
        let (left, right) = (on_edge(x - half, line), on_edge(x + half, line * 0.85));
        let notch =
            |part: f32, depth: f32| (left.0 + part * (right.0 - left.0), peak + height * line * depth);
        let cap = vec![left, notch(0.3, 0.7), notch(0.5, 1.15), notch(0.75, 0.65), right, summit];
        p.paint("mountain", cap, snow);
    }
    p.ground(horizon);
    p.distractors(horizon + 0.1);
}

fn skyline(p: &mut Painter) {
    let horizon = p.within(0.7, 0.9);
    let mut x = p.within(-0.1, 0.0);
    while x < 1.0 {
        let (width, height) = (p.within(0.08, 0.18), p.within(0.2, 0.62));
        let (top, wall) = (horizon - height, p.pick(&WALLS));
        p.paint("tower", rect(x, top, x + width, horizon + 0.01), wall);
        if p.chance(0.3) {
            let antenna = p.within(0.04, 0.14);
            p.paint("tower", upright(x + width * 0.5, top, 0.012, antenna), DARK);
        }
        p.windows(x, top, width, height);
        x += width + p.within(-0.01, 0.03);
    }
    if p.chance(0.4) {
        p.water(horizon);
    } else {
        p.ground(horizon);
    }
}

fn street(p: &mut Painter) {
    let horizon = p.within(0.42, 0.58);
    p.ground(horizon);
    let vanishing = p.within(0.38, 0.62);
    let (left, right) = (p.within(-0.15, 0.2), p.within(0.8, 1.15));
    let asphalt = p.within(55.0, 110.0);
    let road = vec![(vanishing - 0.03, horizon), (vanishing + 0.03, horizon), (right, 1.0), (left, 1.0)];
    p.paint("road", road, [asphalt; 3]);
    let centre = |y: f32| vanishing + ((left + right) * 0.5 - vanishing) * (y - horizon) / (1.0 - horizon);
    for dash in [0.1f32, 0.3, 0.65] {
        let (y0, y1) = (horizon + dash * (1.0 - horizon), horizon + dash * 1.5 * (1.0 - horizon));
        let (half0, half1) = (0.025 * dash, 0.0375 * dash);
        let (x0, x1) = (centre(y0), centre(y1));
        p.paint(
            "road",
            vec![(x0 - half0, y0), (x0 + half0, y0), (x1 + half1, y1), (x1 - half1, y1)],
            [225.0; 3],
        );
    }
    for depth in [0.12f32, 0.3, 0.62] {
        let (foot, size) =
            (horizon + depth * (1.0 - horizon) * 0.8, (0.14 + 0.42 * depth) * p.within(0.85, 1.15));
        for (edge, side) in [(left, -1.0), (right, 1.0)] {
            let kerb = vanishing + side * 0.03 + (edge - vanishing - side * 0.03) * depth * 0.8;
            p.house(kerb + side * (size * 0.5 + 0.03), foot, size);
        }
    }
    if p.chance(0.6) {
        let (side, foot) = (if p.chance(0.5) { left } else { right }, p.within(0.75, 0.9));
        let x = vanishing + (side - vanishing) * (foot - horizon) / (1.0 - horizon);
        p.paint("lamp", upright(x, foot, 0.018, 0.42), DARK);
        p.paint("lamp", arc((x, foot - 0.43), (0.03, 0.03), 0.0..1.0), [250.0, 235.0, 170.0]);
    }
}

fn windmill(p: &mut Painter) {
    let horizon = p.within(0.55, 0.75);
    p.hills(horizon, 0.06);
    p.ground(horizon);
    for stripe in 0..p.count(0, 3) {
        let (y, colour) = (horizon + 0.05 + 0.1 * stripe as f32, p.pick(&GROUNDS));
        p.paint("field", rect(0.0, y, 1.0, y + 0.04), colour);
    }
    for _ in 0..p.count(1, 2) {
        let (x, foot, size) = (p.within(0.2, 0.8), horizon + p.within(0.03, 0.15), p.within(0.32, 0.5));
        let (wall, cap, hub) = (p.pick(&WALLS), p.pick(&BRIGHTS), foot - size);
        let body = vec![
            (x - size * 0.16, hub),
            (x + size * 0.16, hub),
            (x + size * 0.24, foot),
            (x - size * 0.24, foot),
        ];
        p.paint("windmill", body, wall);
        p.paint("roof", arc((x, hub), (size * 0.17, size * 0.14), 0.5..1.0), cap);
        let (turn, reach) = (p.stream.uniform() * TAU, size * p.within(0.6, 0.8));
        let blades = p.pick(&BRIGHTS);
        for blade in 0..4 {
            let (sin, cos) = (turn + blade as f32 * TAU / 4.0).sin_cos();
            let at =
                |along: f32, across: f32| (x + along * cos - across * sin, hub + along * sin + across * cos);
            let width = size * 0.11;
            p.paint(
                "windmill",
                vec![at(0.02, 0.0), at(reach, 0.0), at(reach, width), at(reach * 0.2, width)],
                blades,
            );
        }
    }
    p.distractors(horizon + 0.15);
}

/// Collects objects; everything random comes from one stream.
struct Painter<'a> {
    stream: &'a mut Stream,
    brightness: f32,
    objects: Vec<SceneObject>,
}

impl Painter<'_> {
    fn within(&mut self, low: f32, high: f32) -> f32 {
        low + self.stream.uniform() * (high - low)
    }

    fn chance(&mut self, probability: f32) -> bool {
        self.stream.uniform() < probability
    }

    /// A whole number from `low` to `high`, both included.
    fn count(&mut self, low: u32, high: u32) -> u32 {
        low + self.stream.below(high - low + 1)
    }

    /// One of `colours`, varied a little.
    fn pick(&mut self, colours: &[Colour]) -> Colour {
        let colour = colours[self.stream.below(colours.len() as u32) as usize];
        colour.map(|value| value + self.within(-14.0, 14.0))
    }

    /// Adds an object in daylight colours, darker towards its foot; what lies outside the image is cut off.
    fn paint(&mut self, class: &str, polygon: Vec<Point>, colour: Colour) {
        let lit = colour.map(|value| value * self.brightness);
        self.add(class, polygon, lit.map(|value| value * 1.08), lit.map(|value| value * 0.88));
    }

    fn add(&mut self, class: &str, polygon: Vec<Point>, top: Colour, bottom: Colour) {
        let class = OBJECT_CATEGORIES.iter().position(|&name| name == class).expect("every class is listed");
        let polygon = clip_to_unit_square(polygon);
        if polygon.len() >= 3 {
            self.objects.push(SceneObject { class: class as u32, polygon, top, bottom });
        }
    }

    /// The sky, perhaps with sun or moon and clouds.
    fn sky(&mut self, zenith: Colour, horizon: Colour) {
        self.add("sky", rect(0.0, 0.0, 1.0, 1.0), zenith, horizon);
        if self.chance(0.4) {
            let (centre, radius) =
                ((self.within(0.05, 0.95), self.within(0.05, 0.3)), self.within(0.03, 0.07));
            let glow = [255.0, 240.0, 190.0];
            self.add("sun", arc(centre, (radius, radius), 0.0..1.0), glow, glow);
        }
        for _ in 0..self.count(0, 3) {
            let (x, y, size) = (self.within(0.0, 1.0), self.within(0.05, 0.35), self.within(0.06, 0.14));
            for (dx, scale) in [(-0.7, 0.7), (0.0, 1.0), (0.8, 0.6)] {
                let polygon = arc((x + dx * size, y), (size * scale, size * 0.4 * scale), 0.0..1.0);
                self.paint("cloud", polygon, [235.0, 236.0, 240.0]);
            }
        }
    }

    /// Everything below `horizon` in a colour of the land.
    fn ground(&mut self, horizon: f32) {
        let colour = self.pick(&GROUNDS);
        self.paint("ground", rect(0.0, horizon, 1.0, 1.0), colour);
    }

    /// Everything below `horizon` as water with a few streaks.
    fn water(&mut self, horizon: f32) {
        let colour = self.pick(&WATERS);
        self.paint("sea", rect(0.0, horizon, 1.0, 1.0), colour);
        for _ in 0..self.count(2, 6) {
            let (x, y, width) = (self.within(-0.1, 0.9), self.within(horizon, 0.97), self.within(0.1, 0.3));
            self.paint("sea", rect(x, y, x + width, y + 0.012), colour.map(|value| value * 1.25));
        }
    }

    /// Perhaps a chain of hills of at most `height` along the horizon.
    fn hills(&mut self, horizon: f32, height: f32) {
        if self.chance(0.5) {
            let mut ridge: Vec<Point> = (0..=8).map(|i| (i as f32 / 8.0, horizon)).collect();
            ridge.iter_mut().for_each(|point| point.1 -= self.within(0.1, 1.0) * height);
            ridge.extend([(1.0, horizon + 0.01), (0.0, horizon + 0.01)]);
            let colour = self.pick(&LEAVES);
            self.paint("hill", ridge, colour.map(|value| value * 0.7 + 40.0));
        }
    }

    /// Up to two trees or houses, which tell nothing about the category.
    fn distractors(&mut self, foot: f32) {
        for _ in 0..self.count(0, 2) {
            let (x, foot) = (self.within(0.05, 0.95), (foot + self.within(0.0, 0.15)).min(0.98));
            match self.stream.below(3) {
                0 => self.house(x, foot, 0.14),
                kind => self.tree(x, foot, 0.22, kind == 1),
            }
        }
    }

    fn tree(&mut self, x: f32, foot: f32, size: f32, conifer: bool) {
        let colour = self.pick(&LEAVES);
        self.paint("tree", upright(x, foot, size * 0.1, size * 0.4), WOOD);
        if conifer {
            for (base, half, height) in [(0.2, 0.3, 0.45), (0.45, 0.23, 0.4), (0.68, 0.16, 0.32)] {
                self.paint("tree", gable(x, foot - size * base, size * half, size * height), colour);
            }
        } else {
            let crown = (size * self.within(0.26, 0.36), size * self.within(0.3, 0.4));
            self.paint("tree", arc((x, foot - size * 0.65), crown, 0.0..1.0), colour);
        }
    }

    /// A house of width `size` around `x`.
    fn house(&mut self, x: f32, foot: f32, size: f32) {
        let (wall, roof) = (self.pick(&WALLS), self.pick(&[BRIGHTS[0], WOOD, DARK, WALLS[4]]));
        let (half, eaves) = (size * 0.5, foot - size * self.within(0.6, 0.9));
        self.paint("house", rect(x - half, eaves, x + half, foot), wall);
        self.paint("roof", gable(x, eaves, half * 1.15, size * 0.42), roof);
        self.paint("door", upright(x, foot, size * 0.18, size * 0.34), DARK);
    }

    /// A boat of length `size`, afloat at `line`, mostly with sails.
    fn boat(&mut self, x: f32, line: f32, size: f32) {
        let (hull, sail) = (self.pick(&BRIGHTS), self.pick(&[BRIGHTS[2], BRIGHTS[0], BRIGHTS[1]]));
        let (half, deck) = (size * 0.5, line - size * 0.12);
        let outline =
            vec![(x - half, deck), (x + half, deck), (x + half * 0.7, line), (x - half * 0.7, line)];
        self.paint("boat", outline, hull);
        let height = size * self.within(0.8, 1.2);
        self.paint("boat", upright(x, deck, size * 0.04, height), WOOD);
        if self.chance(0.75) {
            let (side, boom) = (if self.chance(0.5) { 1.0 } else { -1.0 }, deck - size * 0.06);
            let main = vec![
                (x + side * 0.02, deck - height),
                (x + side * half * 0.9, boom),
                (x + side * 0.02, boom),
            ];
            self.paint("sail", main, sail);
            let jib = vec![
                (x - side * 0.02, deck - height * 0.85),
                (x - side * half * 0.7, boom),
                (x - side * 0.02, boom),
            ];
            self.paint("sail", jib, sail.map(|value| value * 0.9));
        }
    }

    /// Rows of windows on a tower.
    fn windows(&mut self, x: f32, top: f32, width: f32, height: f32) {
        let (columns, rows) = (self.count(2, 3), (height / 0.07) as u32);
        let lit = [245.0, 225.0, 150.0].map(|value: f32| value / self.brightness.max(0.6));
        for row in 0..rows {
            for column in 0..columns {
                let colour = if self.chance(0.4) { lit } else { DARK };
                let left = x + width * (column as f32 + 0.25) / columns as f32;
                let up = top + 0.025 + row as f32 * 0.07;
                self.paint("tower", rect(left, up, left + width * 0.5 / columns as f32, up + 0.035), colour);
            }
        }
    }
}
