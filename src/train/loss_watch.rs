//! Whether the loss of an update is out of line with those before it.
//!
//! A run that is about to diverge mostly says so first: its loss leaps, and some updates later it is no number. What is
//! saved in between is whole, and lost all the same.

use std::collections::VecDeque;

/// Losses that one is compared with, and how many there must be at least.
const WINDOW: usize = 64;
const LEAST: usize = 16;
/// A spike lies so many standard deviations above the mean of the losses before it,
const DEVIATIONS: f64 = 6.0;
/// and at least this share of the mean, and this much: a loss near 0 wavers by many times itself.
const SHARE: f64 = 0.5;
const LEAST_RISE: f64 = 0.5;

/// The losses of the newest updates, without those of a spike.
#[derive(Debug, Default)]
pub(super) struct LossWatch {
    recent: VecDeque<f64>,
    spike: Option<Spike>,
}

/// A loss out of line with those before it; as long as no later one is in line again, the spike lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spike {
    /// Updates before the one with this loss.
    pub(super) step: u64,
    pub(super) loss: f64,
    /// What the loss would have had to be below.
    pub(super) limit: f64,
}

/// What an update's loss begins or ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    Begins(Spike),
    Ends(Spike),
}

impl LossWatch {
    /// Takes the loss of the update after `step` others.
    pub(super) fn observe(&mut self, step: u64, loss: f64) -> Option<Change> {
        let limit = self.spike.map(|spike| spike.limit).or_else(|| self.limit());
        let is_high = limit.is_some_and(|limit| loss >= limit);
        if is_high {
            if self.spike.is_some() {
                return None;
            }
            let spike = Spike { step, loss, limit: limit? };
            self.spike = Some(spike);
            return Some(Change::Begins(spike));
        }
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(loss);
        self.spike.take().map(Change::Ends)
    }

    /// The spike that lasts.
    pub(super) fn spike(&self) -> Option<Spike> {
        self.spike
    }

    /// Whether there are enough losses to tell a spike.
    pub(super) fn can_tell(&self) -> bool {
        self.recent.len() >= LEAST
    }

    /// The losses that the next one is compared with, the oldest first.
    pub(super) fn recent(&self) -> impl Iterator<Item = f64> {
        self.recent.iter().copied()
    }

    fn limit(&self) -> Option<f64> {
        if !self.can_tell() {
            return None;
        }
        let count = self.recent.len() as f64;
        let mean = self.recent.iter().sum::<f64>() / count;
        let variance = self.recent.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / count;
        Some(mean + (DEVIATIONS * variance.sqrt()).max(SHARE * mean.abs()).max(LEAST_RISE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_of_the_loss_is_a_spike_until_it_is_in_line_again() {
        let mut watch = LossWatch::default();
        // Falling, and wavering as losses of small batches do.
        for step in 0..200 {
            let loss = 4.0 / (1.0 + 0.02 * step as f64) + 0.3 * ((step * 37 % 11) as f64 / 10.0 - 0.5);
            assert_eq!(watch.observe(step, loss), None, "step {step}");
        }
        let begun = watch.observe(200, 9.0);
        let Some(Change::Begins(spike)) = begun else { panic!("{begun:?}") };
        assert!((spike.step, spike.loss) == (200, 9.0) && (1.0..4.0).contains(&spike.limit), "{spike:?}");
        assert_eq!(watch.observe(201, 50.0), None);
        assert_eq!(watch.spike(), Some(spike));
        assert_eq!(watch.observe(202, 1.0), Some(Change::Ends(spike)));
        assert_eq!((watch.spike(), watch.recent().last()), (None, Some(1.0)));
    }

    #[test]
    fn the_first_losses_and_small_ones_are_no_spikes() {
        let mut watch = LossWatch::default();
        for (step, loss) in (0..).zip([5.0, 90.0, 4.0]) {
            assert_eq!(watch.observe(step, loss), None);
        }
        assert!(!watch.can_tell());
        let mut watch = LossWatch::default();
        for step in 0..100 {
            assert_eq!(watch.observe(step, 0.001), None);
        }
        assert_eq!(watch.observe(100, 0.4), None, "400 times the others, and still small");
    }
}
