//! What a policy draws: what happens to a sample, and how a batch mixes.
//!
//! Draws are functions of the seed, the epoch and the number of the image or batch alone. Each kind takes its numbers
//! whether it is on or not, so a sample that flips does so whatever else is on.

use super::policy::{Augment, Choice, KINDS, Kind, Setting};
use crate::rng::{Stream, Use};
use crate::transform::{Affine, AutoSteps, Colour, Mix, Noise, PixelBox, SampleParams};

/// Side of the images for which a shift is given in pixels.
const SHIFT_SIZE: f32 = 128.0;
/// The longer over the shorter side of a random box that is resized to a square, at most.
const MAX_ASPECT: f32 = 4.0 / 3.0;
/// Share of the image that an erased box has at least.
const ERASED_LEAST: f32 = 0.02;
/// Height over width of an erased box, from and to.
const ERASED_ASPECT: [f32; 2] = [0.3, 3.3];
/// Random numbers that each kind takes, besides the one that decides whether it happens.
const DRAWS_PER_KIND: usize = 4;

/// What happens to one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Where it is seen, its colours, and what follows.
    pub params: SampleParams,
    /// The operations on its bytes, where the policy may have some. The map of `params` then goes through them, for what
    /// else is to be seen through it; the bytes start from the steps' own.
    pub steps: Option<AutoSteps>,
}

impl Augment {
    /// Draws what happens to image `index` in `epoch`, `image_size` pixels a side, apart from mixing.
    ///
    /// `mean_grey` is asked for [`crate::transform::Image::mean_grey`] where the contrast changes.
    pub fn draw(
        &self,
        image_size: usize,
        seed: u64,
        epoch: u32,
        index: u32,
        mean_grey: impl FnOnce() -> f32,
    ) -> Drawn {
        let draws = Draws::new(self, &mut Stream::new(seed, epoch, index, Use::Augment));
        let noise = draws.get(Kind::Drop).map(|(share, _)| Noise::new(share, seed, epoch, index));
        let steps = self.has_steps().then(|| draws.steps(image_size, seed, epoch, index));
        let inverse = |steps: AutoSteps| steps.whole_inverse([image_size; 2]);
        let params = SampleParams {
            inverse: steps.map_or_else(|| draws.inverse(image_size), inverse),
            colour: draws.colour(mean_grey),
            noise: noise.unwrap_or(Noise::NONE),
            erased: draws.get(Kind::Erase).map_or(PixelBox::NONE, |(most_area, _)| {
                erased(&mut Stream::new(seed, epoch, index, Use::Erase), image_size, most_area)
            }),
            mix: Mix::NONE,
        };
        Drawn { params, steps }
    }

    /// Whether samples may get operations on their bytes.
    pub fn has_steps(&self) -> bool {
        self.get(Kind::Trivial).is_some() || self.get(Kind::Rand).is_some()
    }

    /// Whether batches may be mixed.
    pub fn mixes(&self) -> bool {
        self.get(Kind::Mixup).is_some() || self.get(Kind::Cutmix).is_some()
    }

    /// Draws how the samples of batch number `batch` of `epoch` mix; the partner is the first row.
    ///
    /// Where mixup and cutmix are both on, the batch gets either, equally likely.
    pub fn draw_mix(&self, image_size: usize, seed: u64, epoch: u32, batch: u32) -> Mix {
        let mut stream = Stream::new(seed, epoch, batch, Use::Mix);
        let [coin, gate, x, y] = std::array::from_fn(|_| stream.uniform());
        let (mixup, cutmix) = (self.get(Kind::Mixup), self.get(Kind::Cutmix));
        let takes_cutmix = cutmix.is_some() && (mixup.is_none() || coin < 0.5);
        let chosen = if takes_cutmix { cutmix } else { mixup };
        let Some(setting) = chosen.filter(|setting| gate < setting.probability) else { return Mix::NONE };
        let own = beta(&mut stream, setting.strength);
        if !takes_cutmix {
            return Mix { weight: own, inside: PixelBox::whole(image_size), ..Mix::NONE };
        }
        // The box may reach over the edge; its place is drawn, not its area.
        let half = 0.5 * image_size as f32 * (1.0 - own).sqrt();
        let span = |at: f32| {
            let centre = at * image_size as f32;
            (((centre - half).round() as i32).max(0), ((centre + half).round() as i32).min(image_size as i32))
        };
        let ((left, right), (top, bottom)) = (span(x), span(y));
        Mix { partner: 0, weight: 0.0, inside: PixelBox { left, top, right, bottom } }
    }
}

/// The random numbers of one sample.
pub(super) struct Draws<'a> {
    augment: &'a Augment,
    chosen: Option<Kind>,
    gates: [f32; KINDS.len()],
    numbers: [[f32; DRAWS_PER_KIND]; KINDS.len()],
}

impl Draws<'_> {
    fn new<'a>(augment: &'a Augment, stream: &mut Stream) -> Draws<'a> {
        let choices = || {
            let kinds = KINDS.iter().map(|spec| spec.kind).filter(|kind| augment.get(*kind).is_some());
            kinds.filter(|kind| !matches!(kind, Kind::Mixup | Kind::Cutmix))
        };
        let choice = stream.below(choices().count() as u32 + 1) as usize;
        let mut draws = Draws {
            augment,
            chosen: choices().nth(choice),
            gates: [0.0; KINDS.len()],
            numbers: [[0.0; DRAWS_PER_KIND]; KINDS.len()],
        };
        for (gate, numbers) in draws.gates.iter_mut().zip(&mut draws.numbers) {
            *gate = stream.uniform();
            numbers.iter_mut().for_each(|number| *number = stream.uniform());
        }
        draws
    }

    /// Strength and random numbers of a kind that happens.
    pub(super) fn get(&self, kind: Kind) -> Option<(f32, [f32; DRAWS_PER_KIND])> {
        self.setting(kind).map(|(setting, numbers)| (setting.strength, numbers))
    }

    /// Setting and random numbers of a kind that happens.
    pub(super) fn setting(&self, kind: Kind) -> Option<(Setting, [f32; DRAWS_PER_KIND])> {
        let setting = self.augment.get(kind)?;
        let is_chosen = self.augment.choice == Choice::All || self.chosen == Some(kind);
        let happens = is_chosen && self.gates[kind as usize] < setting.probability;
        happens.then_some((setting, self.numbers[kind as usize]))
    }

    /// A number from -strength to strength.
    fn either_way(&self, kind: Kind) -> Option<f32> {
        self.get(kind).map(|(strength, [u, ..])| strength * (2.0 * u - 1.0))
    }

    /// Boxes first, then mirrored, turned, slanted, moved.
    pub(super) fn inverse(&self, image_size: usize) -> Affine {
        let mut inverse = Affine::IDENTITY;
        // The first pixel of a box, so that every pixel lies between centres of the image's pixels: no edge turns dark.
        let crop = |[u, v]: [f32; 2], shares: [f32; 2]| {
            let room = |share: f32| (image_size as f32 - 1.0) * (1.0 - share);
            Affine::crop([u * room(shares[0]), v * room(shares[1])], shares)
        };
        if let Some((least_area, [u, v, along, down])) = self.get(Kind::ResizedCrop) {
            let area = least_area + u * (1.0 - least_area);
            let aspect = MAX_ASPECT.powf(2.0 * v - 1.0);
            let shares = [area * aspect, area / aspect].map(|square| square.sqrt().min(1.0));
            inverse = inverse.after(crop([along, down], shares));
        }
        if let Some((setting, [u, along, down, _])) = self.setting(Kind::Scale) {
            let share = 1.0 / (setting.from + u * (setting.strength - setting.from));
            inverse = inverse.after(crop([along, down], [share; 2]));
        }
        if let Some((share, [u, v, ..])) = self.get(Kind::Crop) {
            inverse = inverse.after(crop([u, v], [share; 2]));
        }
        if self.get(Kind::Flip).is_some() {
            inverse = inverse.after(Affine::flip(image_size));
        }
        if let Some(degrees) = self.either_way(Kind::Rotate) {
            inverse = inverse.after(Affine::rotation(image_size, degrees));
        }
        if let Some(degrees) = self.either_way(Kind::Shear) {
            inverse = inverse.after(Affine::shear(image_size, degrees));
        }
        if let Some((most, [u, v, ..])) = self.get(Kind::Shift) {
            let limit = (image_size as f32 * most / SHIFT_SIZE).round();
            let offset = |u: f32| ((u * (2.0 * limit + 1.0)).floor() - limit).min(limit);
            inverse = inverse.after(Affine::translation(-offset(u), -offset(v)));
        }
        inverse
    }

    fn colour(&self, mean_grey: impl FnOnce() -> f32) -> Colour {
        let mut colour = Colour::IDENTITY;
        let mut brightness = 1.0;
        if let Some(change) = self.either_way(Kind::Brightness) {
            brightness += change;
            colour = Colour::brightness(brightness).after(colour);
        }
        if let Some(change) = self.either_way(Kind::Contrast) {
            colour = Colour::contrast(1.0 + change, brightness * mean_grey()).after(colour);
        }
        if let Some(change) = self.either_way(Kind::Saturation) {
            colour = Colour::saturation(1.0 + change).after(colour);
        }
        colour
    }
}

/// A box of at most `most_area` of the image, as torchvision's `RandomErasing` draws it: one that does not fit is drawn
/// anew, ten times at most.
///
/// Source: Zhong, Zheng, Kang, Li, Yang, "Random erasing data augmentation", 2017.
fn erased(stream: &mut Stream, image_size: usize, most_area: f32) -> PixelBox {
    let [flattest, tallest] = ERASED_ASPECT.map(f32::ln);
    for _ in 0..10 {
        let [area, aspect] = std::array::from_fn(|_| stream.uniform());
        let area = (image_size * image_size) as f32 * (ERASED_LEAST + area * (most_area - ERASED_LEAST));
        let aspect = (flattest + aspect * (tallest - flattest)).exp();
        let [height, width] = [area * aspect, area / aspect].map(|square| square.sqrt().round() as usize);
        if height < image_size && width < image_size {
            let first =
                |stream: &mut Stream, side: usize| stream.below((image_size - side + 1) as u32) as i32;
            let (top, left) = (first(stream, height), first(stream, width));
            return PixelBox { left, top, right: left + width as i32, bottom: top + height as i32 };
        }
    }
    PixelBox::NONE
}

/// A number from the Beta distribution with both parameters `alpha`.
fn beta(stream: &mut Stream, alpha: f32) -> f32 {
    let (own, other) = (gamma(stream, f64::from(alpha)), gamma(stream, f64::from(alpha)));
    (own / (own + other)) as f32
}

/// A number from the Gamma distribution of shape `alpha`.
///
/// Source: Marsaglia and Tsang, "A simple method for generating gamma variables", 2000.
fn gamma(stream: &mut Stream, alpha: f64) -> f64 {
    let uniform = |stream: &mut Stream| f64::from(1.0 - stream.uniform());
    if alpha < 1.0 {
        let boost = uniform(stream).powf(1.0 / alpha);
        return gamma(stream, alpha + 1.0) * boost;
    }
    let d = alpha - 1.0 / 3.0;
    loop {
        let x = f64::from(stream.normal());
        let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
        if v > 0.0 && uniform(stream).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Augment {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn draw(policy: &str, size: usize, index: u32) -> SampleParams {
        parse(policy).draw(size, 9, 2, index, || 100.0).params
    }

    #[test]
    fn half_the_samples_flip_and_shifts_fill_their_range() {
        let drawn: Vec<Affine> = (0..4000).map(|i| draw("flip,shift", 32, i).inverse).collect();
        let num_flipped = drawn.iter().filter(|map| map.x[0] < 0.0).count();
        assert!((1850..2150).contains(&num_flipped), "{num_flipped} of 4000");
        for offset in -5..=5 {
            assert!(drawn.iter().any(|map| map.y[2] == offset as f32), "never moved by {offset}");
        }
        assert!(drawn.iter().all(|map| map.y[2].abs() <= 5.0 && map.x[2].fract() == 0.0));
    }

    #[test]
    fn a_sample_flips_whatever_else_is_on() {
        for index in 0..50 {
            assert_eq!(draw("flip", 64, index).inverse.x[0], draw("flip,shift", 64, index).inverse.x[0]);
            assert_eq!(draw("shift", 64, index).inverse.y[2], draw("flip,shift", 64, index).inverse.y[2]);
            assert_eq!(draw("contrast,crop", 64, index).colour, draw("contrast,mixup", 64, index).colour);
        }
    }

    #[test]
    fn draws_depend_on_seed_epoch_and_index() {
        let policy = parse("compose");
        let base = policy.draw(64, 1, 2, 3, || 90.0);
        assert_eq!(base, policy.draw(64, 1, 2, 3, || 90.0));
        let others = [policy.draw(64, 2, 2, 3, || 90.0), policy.draw(64, 1, 3, 3, || 90.0)];
        assert!(others.into_iter().chain([policy.draw(64, 1, 2, 4, || 90.0)]).all(|other| other != base));
    }

    #[test]
    fn the_paper_policy_gives_nine_variants_equally_often() {
        let mut counts = [0; 9];
        for index in 0..9000 {
            let params = draw("paper", 128, index);
            let Affine { x, y } = params.inverse;
            let [scales, moves] = [x[0] != 1.0, x[1] == 0.0 && (x[2] != 0.0 || y[2] != 0.0)];
            let variant = match params {
                SampleParams { noise, .. } if noise.probability > 0.0 => 8,
                SampleParams { colour, .. } if colour.rows[0][3] != 0.0 => 7,
                SampleParams { colour, .. } if colour != Colour::IDENTITY => 6,
                _ if x[0] == -1.0 => 1,
                _ if y[0] != 0.0 => 4,
                _ if x[1] != 0.0 => 5,
                _ if scales => 2,
                _ if moves => 3,
                _ => 0,
            };
            counts[variant] += 1;
        }
        // Expected 1000 with a standard deviation of 30; a shift by nothing counts as untouched.
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn samples_of_boxes_never_leave_the_image() {
        for policy in ["crop", "crop=0.3", "resized-crop", "resized-crop=0.05", "scale", "scale=1..3"] {
            for index in 0..500 {
                let inverse = draw(policy, 57, index).inverse;
                for corner in [0.0, 56.0] {
                    let (x, y) = inverse.apply(corner, corner);
                    let inside = |at: f32| (-1e-3..=56.001).contains(&at);
                    assert!(inside(x) && inside(y), "{policy}: {x} {y}");
                }
                let area = inverse.x[0] * inverse.y[1];
                let aspect = inverse.x[0] / inverse.y[1];
                assert!(area > 0.03 && area <= 1.0 && (0.74..1.34).contains(&aspect), "{area} {aspect}");
            }
        }
    }

    #[test]
    fn erased_boxes_follow_the_paper_s_distribution() {
        let num_drawn = 4000;
        let drawn = (0..num_drawn).map(|index| draw("erase", 100, index).erased);
        let boxes: Vec<PixelBox> = drawn.filter(|erased| !erased.is_empty()).collect();
        assert!((1850..2150).contains(&boxes.len()), "half of {num_drawn}: {}", boxes.len());
        let sides = |of: &PixelBox| [of.bottom - of.top, of.right - of.left].map(|side| side as f32);
        let mean = |of: &dyn Fn(&PixelBox) -> f32| boxes.iter().map(of).sum::<f32>() / boxes.len() as f32;
        // Uniform from 0.02 to 0.33; in the logarithm from ln 0.3 to ln 3.3. Rounding to pixels moves both a little, and
        // so do the few that are drawn anew. Standard deviations of the means: 0.002 and 0.016.
        let area = mean(&|of| of.num_pixels() as f32 / 1e4);
        let log_aspect = mean(&|of| (sides(of)[0] / sides(of)[1]).ln());
        assert!((area - 0.175).abs() < 0.009 && (log_aspect + 0.005).abs() < 0.07, "{area} {log_aspect}");
        for of in &boxes {
            let [height, width] = sides(of);
            assert!(of.left >= 0 && of.top >= 0 && of.right <= 100 && of.bottom <= 100, "{of:?}");
            assert!((190.0..=3400.0).contains(&(height * width)) && (0.28..3.5).contains(&(height / width)));
        }
        let touching = |of: &dyn Fn(&PixelBox) -> bool| boxes.iter().any(of);
        assert!(touching(&|of| of.left == 0) && touching(&|of| of.right == 100));
        assert!(sample_areas("erase=0.1@1").all(|area| (1..=1050).contains(&area)));
    }

    fn sample_areas(policy: &str) -> impl Iterator<Item = i64> {
        (0..500).map(move |index| draw(policy, 100, index).erased.num_pixels())
    }

    #[test]
    fn strengths_bound_what_is_drawn() {
        let sample = |policy: &str| (0..500).map(|index| draw(policy, 128, index)).collect::<Vec<_>>();
        let largest = |values: Vec<f32>| values.into_iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let degrees = sample("rotate=40").iter().map(|p| p.inverse.y[0].asin().to_degrees()).collect();
        assert!((38.0..=40.001).contains(&largest(degrees)));
        let degrees = sample("shear=20").iter().map(|p| p.inverse.x[1].atan().to_degrees()).collect();
        assert!((19.0..=20.001).contains(&largest(degrees)));
        let factors = sample("brightness=0.3").iter().map(|p| p.colour.rows[1][1] - 1.0).collect();
        assert!((0.28..=0.3001).contains(&largest(factors)));
        let scales: Vec<f32> = sample("scale=1.25..2").iter().map(|p| 1.0 / p.inverse.x[0]).collect();
        assert!(scales.iter().all(|scale| (1.2499..2.0001).contains(scale)), "{scales:?}");
        let mean = scales.iter().sum::<f32>() / 500.0;
        // A standard deviation of 0.01.
        assert!(
            (mean - 1.625).abs() < 0.04 && sample("scale").iter().all(|p| p.inverse.x[0] == p.inverse.y[1])
        );
        assert!(sample("drop=0.07").iter().all(|p| p.noise.probability == 0.07));
        assert!(sample("shift=8").iter().all(|p| p.inverse.x[2].abs() <= 8.0));
    }

    #[test]
    fn mixing_weights_follow_their_distribution() {
        for (alpha, variance) in [(0.2f64, 1.0 / (4.0 * 1.4)), (1.0, 1.0 / 12.0), (4.0, 1.0 / 36.0)] {
            let policy = parse(&format!("mixup={alpha}"));
            let weights: Vec<f64> =
                (0..8000).map(|batch| f64::from(policy.draw_mix(32, 5, 1, batch).weight)).collect();
            let mean = weights.iter().sum::<f64>() / 8000.0;
            let spread = weights.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / 8000.0;
            assert!((mean - 0.5).abs() < 0.02, "Beta({alpha}): mean {mean}");
            assert!(
                (spread / variance - 1.0).abs() < 0.06,
                "Beta({alpha}): variance {spread}, not {variance}"
            );
        }
    }

    #[test]
    fn a_batch_is_mixed_one_way() {
        let policy = parse("mixup@0.5,cutmix@0.5");
        let mixes: Vec<Mix> = (0..2000).map(|batch| policy.draw_mix(40, 3, 0, batch)).collect();
        let count = |is: &dyn Fn(&&Mix) -> bool| mixes.iter().filter(is).count();
        let num_cutmix = count(&|mix| !mix.is_none() && mix.weight == 0.0);
        let num_mixup = count(&|mix| mix.weight > 0.0 && mix.inside == PixelBox::whole(40));
        assert!((430..570).contains(&num_cutmix) && (430..570).contains(&num_mixup));
        for mix in &mixes {
            let PixelBox { left, top, right, bottom } = mix.inside;
            assert!((0..=40).contains(&left) && right <= 40 && top >= 0 && bottom <= 40);
            assert!((0.0..=1.0).contains(&mix.own_share(1600)));
        }
        assert_eq!(parse("flip").draw_mix(40, 3, 0, 1), Mix::NONE);
    }
}
