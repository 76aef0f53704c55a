//! Which operations TrivialAugment and RandAugment draw for a sample, and how strong: torchvision's tables.
//!
//! Sources: Müller and Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", 2021, in its wide form;
//! Cubuk, Zoph, Shlens, Le, "RandAugment: practical automated data augmentation with a reduced search space", 2019.

use super::augment::Draws;
use super::policy::Kind;
use crate::rng::{Stream, Use};
use crate::transform::{AutoOp, AutoStep, AutoSteps};

/// Steps from no magnitude to the largest, both counted.
pub(super) const NUM_MAGNITUDE_BINS: u32 = 31;

/// Whose magnitudes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MagnitudeSpace {
    /// TrivialAugment's wide ones.
    Wide,
    /// RandAugment's.
    Rand,
}

impl Draws<'_> {
    /// The operations on image `index` in `epoch`, where its kinds happen: TrivialAugment's first.
    pub(super) fn steps(&self, image_size: usize, seed: u64, epoch: u32, index: u32) -> AutoSteps {
        let mut steps = AutoSteps { inverse: self.inverse(image_size), ..AutoSteps::NONE };
        let mut free = steps.steps.iter_mut();
        let mut add = |space: MagnitudeSpace, stream: &mut Stream, bin: Option<u32>| {
            let op = AutoOp::ALL[stream.below(AutoOp::ALL.len() as u32) as usize];
            let is_negative = stream.below(2) == 1;
            let bin = bin.unwrap_or_else(|| stream.below(NUM_MAGNITUDE_BINS));
            let magnitude = space.magnitude(op, bin, image_size);
            let signed = if op.is_signed() && is_negative { -magnitude } else { magnitude };
            *free.next().expect("policies allow no more") = AutoStep::new(op, signed, [image_size; 2]);
        };
        if self.get(Kind::Trivial).is_some() {
            add(MagnitudeSpace::Wide, &mut Stream::new(seed, epoch, index, Use::TrivialAugment), None);
        }
        if let Some((setting, _)) = self.setting(Kind::Rand) {
            let mut stream = Stream::new(seed, epoch, index, Use::RandAugment);
            (0..setting.from as u32)
                .for_each(|_| add(MagnitudeSpace::Rand, &mut stream, Some(setting.strength as u32)));
        }
        steps
    }
}

impl MagnitudeSpace {
    /// The magnitude of `op` in one of 31 bins, before its sign, for images of `image_size` pixels a side.
    pub fn magnitude(self, op: AutoOp, bin: u32, image_size: usize) -> f32 {
        let of = |wide: f64, rand: f64| if self == MagnitudeSpace::Wide { wide } else { rand };
        let last = NUM_MAGNITUDE_BINS - 1;
        let most = match op {
            AutoOp::Identity | AutoOp::AutoContrast | AutoOp::Equalize => 0.0,
            AutoOp::ShearX | AutoOp::ShearY => of(0.99, 0.3),
            AutoOp::TranslateX | AutoOp::TranslateY => of(32.0, 150.0 / 331.0 * image_size as f64),
            AutoOp::Rotate => of(135.0, 30.0),
            AutoOp::Brightness | AutoOp::Color | AutoOp::Contrast | AutoOp::Sharpness => of(0.99, 0.9),
            // Bits that are kept.
            AutoOp::Posterize => {
                let dropped = f64::from(bin) / (f64::from(last) / of(6.0, 4.0));
                return 8.0 - dropped.round_ties_even() as f32;
            }
            AutoOp::Solarize => return 255.0 - 8.5 * bin as f32,
        };
        // `torch.linspace`: from the nearer end, product and sum rounded once.
        let most = most as f32;
        let step = most / last as f32;
        if bin < NUM_MAGNITUDE_BINS / 2 {
            return step * bin as f32;
        }
        (f64::from(most) - f64::from(step) * f64::from(last - bin)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Augment, Drawn};
    use crate::transform::Affine;

    fn draw(policy: &str, index: u32) -> Drawn {
        policy.parse::<Augment>().unwrap().draw(64, 9, 2, index, || 100.0)
    }

    fn steps(policy: &str, index: u32) -> AutoSteps {
        draw(policy, index).steps.unwrap()
    }

    #[test]
    fn trivial_augment_draws_every_operation_equally_often_and_every_magnitude_either_way() {
        let drawn: Vec<AutoSteps> = (0..7000).map(|index| steps("trivial-augment", index)).collect();
        let count = |is: &dyn Fn(&AutoStep) -> bool| drawn.iter().filter(|steps| is(&steps.steps[0])).count();
        // Expected 500 of each operation, five of which are maps, with a standard deviation of 22.
        for kind in 0..=AutoStep::SHARPNESS {
            let expected = if kind == AutoStep::MAP { 2500 } else { 500 };
            let num = count(&|step| step.kind == kind);
            assert!(num.abs_diff(expected) < expected / 5, "{num} of kind {kind}");
        }
        let is_blend = |step: &AutoStep| step.factor != 1.0;
        let num_blends = count(&is_blend);
        let num_more = count(&|step| is_blend(step) && step.factor > 1.0);
        assert!(
            num_blends > 1700 && num_more.abs_diff(num_blends - num_more) < 200,
            "{num_more} of {num_blends}"
        );
        for bin in 0..NUM_MAGNITUDE_BINS {
            let magnitude = MagnitudeSpace::Wide.magnitude(AutoOp::Solarize, bin, 64);
            let level = AutoStep::new(AutoOp::Solarize, magnitude, [64; 2]).level;
            assert!(count(&|step| step.kind == AutoStep::SOLARIZE && step.level == level) > 0, "bin {bin}");
        }
        assert!(drawn.iter().all(|steps| steps.steps[1..].iter().all(|step| *step == AutoStep::NONE)));
    }

    #[test]
    fn rand_augment_draws_as_many_operations_as_it_is_told_all_at_one_magnitude() {
        let drawn: Vec<AutoSteps> = (0..2000).map(|index| steps("rand-augment=3x9", index)).collect();
        for position in 0..3 {
            for kind in 0..=AutoStep::SHARPNESS {
                assert!(drawn.iter().any(|steps| steps.steps[position].kind == kind), "{position} {kind}");
            }
        }
        for steps in &drawn {
            assert!(steps.steps[3..].iter().all(|step| *step == AutoStep::NONE));
            for step in &steps.steps[..3] {
                match step.kind {
                    AutoStep::POSTERIZE => assert_eq!(step.level, 0xFE),
                    AutoStep::SOLARIZE => assert_eq!(step.level, 179),
                    AutoStep::BRIGHTNESS | AutoStep::CONTRAST | AutoStep::COLOR | AutoStep::SHARPNESS => {
                        assert!(((step.factor - 1.0).abs() - 0.27).abs() < 1e-6, "{step:?}");
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn operations_change_nothing_else_that_is_drawn() {
        for index in 0..50 {
            let plain = draw("resized-crop,flip,contrast,erase", index).params;
            let both = draw("resized-crop,flip,contrast,erase,trivial-augment,rand-augment", index);
            assert_eq!((both.params.colour, both.params.erased), (plain.colour, plain.erased));
            let of_both = both.steps.unwrap();
            assert_eq!(
                (of_both.inverse, of_both.whole_inverse([64; 2])),
                (plain.inverse, both.params.inverse)
            );
            assert_eq!(of_both.steps[0], steps("trivial-augment", index).steps[0]);
            assert_eq!(of_both.steps[1..3], steps("rand-augment", index).steps[..2]);
        }
        assert_eq!(draw("flip", 0).steps, None);
        let never = steps("trivial-augment@0", 3);
        assert_eq!((never, never.inverse), (AutoSteps::NONE, Affine::IDENTITY));
    }

    #[test]
    fn operations_depend_on_seed_epoch_and_image() {
        let policy: Augment = "rand-augment=8x20".parse().unwrap();
        let of = |seed, epoch, index| policy.draw(64, seed, epoch, index, || 90.0).steps;
        let base = of(1, 2, 3);
        assert_eq!(base, of(1, 2, 3));
        assert!([of(2, 2, 3), of(1, 3, 3), of(1, 2, 4)].iter().all(|other| *other != base));
    }
}
