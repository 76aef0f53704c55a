//! How large training images are, as a pure function of the epoch: a resumed run cannot get another size.
//!
//! Small images cost less, and what a network learns of them it keeps, because no layer before the pooling knows the size:
//! training begins with small images and ends with full ones. Evaluation takes full ones throughout.
//!
//! Source: Howard and others, "Progressive resizing" (DAWNBench, 2018); Tan and Le, "EfficientNetV2", 2021, from which is
//! that each size has equally many epochs.

use super::config::TrainConfig;
use crate::error::{Error, Result};

/// Pixels between two sizes where the settings do not say.
pub(super) const GROW_STEP: usize = 32;

/// The heights and widths of a run's training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Of the first epoch, in pixels.
    pub from: usize,
    /// Of the last.
    pub to: usize,
    /// Pixels between two sizes.
    pub step: usize,
    /// Epochs before the first with full images.
    pub epochs: u64,
}

impl Growth {
    /// The sizes before the last, in rising order.
    pub fn smaller_sizes(&self) -> Vec<usize> {
        (self.from..self.to).step_by(self.step).collect()
    }

    /// The epochs of a run of `num_epochs` that are before the first with full images, if each size has equally many.
    pub fn equal_share(&self, num_epochs: u64) -> u64 {
        num_epochs * self.num_smaller() / (self.num_smaller() + 1)
    }

    /// The size of the training images of `epoch`, counted from 0.
    pub fn size(&self, epoch: u64) -> usize {
        if epoch >= self.epochs {
            return self.to;
        }
        self.from + (epoch * self.num_smaller() / self.epochs) as usize * self.step
    }

    /// What to say of sizes that no epoch before the last size has, if there are any.
    pub fn remark(&self) -> Option<String> {
        let skipped = self.num_smaller().checked_sub(self.epochs).filter(|&skipped| skipped > 0)?;
        let (num, epochs) = (self.num_smaller(), self.epochs);
        Some(format!(
            "growing: {skipped} of {num} smaller sizes have no epoch, because {epochs} come before the first with full images; \
             give more --epochs or --grow-epochs, or a larger --grow-step"
        ))
    }

    fn num_smaller(&self) -> u64 {
        self.to.saturating_sub(self.from).div_ceil(self.step) as u64
    }
}

impl TrainConfig {
    /// The sizes of the training images of a run of `num_epochs`.
    pub fn growth(&self, num_epochs: u64) -> Growth {
        let (to, step) = (self.img_size, self.grow_step);
        let growth = Growth { from: self.grow_from.unwrap_or(to), to, step, epochs: 0 };
        Growth { epochs: self.grow_epochs.unwrap_or_else(|| growth.equal_share(num_epochs)), ..growth }
    }

    /// Fails on settings that make no growth.
    pub(super) fn check_growth(&self) -> Result<()> {
        let Some(from) = self.grow_from else {
            let needed = "needs --grow-from, the first size";
            return match self.grow_epochs {
                Some(epochs) => Err(Error::setting("grow_epochs", epochs, needed)),
                None if self.grow_step != GROW_STEP => {
                    Err(Error::setting("grow_step", self.grow_step, needed))
                }
                None => Ok(()),
            };
        };
        if from >= self.img_size {
            let message = format!("must be below --img-size {}, to which images grow", self.img_size);
            return Err(Error::setting("grow_from", from, message));
        }
        if let Some(epochs) = self.grow_epochs.filter(|&epochs| epochs >= self.epochs) {
            let message =
                format!("must be below --epochs {}, the last of which have full images", self.epochs);
            return Err(Error::setting("grow_epochs", epochs, message));
        }
        match self.objects {
            Some(objects) => Err(Error::Usage(format!(
                "--objects {objects} with --grow-from {from}: outlines are read for one size; leave one out"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(growth: Growth, num_epochs: u64) -> Vec<usize> {
        (0..num_epochs).map(|epoch| growth.size(epoch)).collect()
    }

    #[test]
    fn each_size_has_its_share_of_the_epochs() {
        let growth = Growth { from: 64, to: 128, step: 32, epochs: 0 };
        assert_eq!(growth.smaller_sizes(), [64, 96]);
        let share =
            |num_epochs| sizes(Growth { epochs: growth.equal_share(num_epochs), ..growth }, num_epochs);
        assert_eq!(share(6), [64, 64, 96, 96, 128, 128]);
        assert_eq!(share(7), [64, 64, 96, 96, 128, 128, 128]);
        assert_eq!(share(2), [64, 128]);
        assert_eq!(share(1), [128]);
    }

    #[test]
    fn sizes_without_an_epoch_are_told() {
        let growth = |epochs| Growth { from: 64, to: 128, step: 16, epochs };
        assert_eq!(growth(4).remark(), None);
        let remark = growth(3).remark().unwrap();
        assert!(
            remark.contains("1 of 4 smaller sizes have no epoch") && remark.contains("--epochs"),
            "{remark}"
        );
    }

    #[test]
    fn the_last_step_may_be_shorter_and_without_growth_all_are_full() {
        let growth = Growth { from: 40, to: 128, step: 32, epochs: 3 };
        assert_eq!(growth.smaller_sizes(), [40, 72, 104]);
        assert_eq!(sizes(growth, 5), [40, 72, 104, 128, 128]);
        let full = Growth { from: 128, to: 128, step: 32, epochs: 0 };
        assert_eq!((full.smaller_sizes(), sizes(full, 2), full.equal_share(9)), (vec![], vec![128, 128], 0));
        let one_epoch = Growth { epochs: 1, ..growth };
        assert_eq!(sizes(one_epoch, 2), [40, 128]);
    }
}
