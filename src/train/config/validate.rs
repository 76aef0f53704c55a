//! Settings that do not go together.

use super::super::precision::GradWire;
use super::super::schedule::Decay;
use super::TrainConfig;
use crate::error::{Error, Result};
use crate::step::AllReduce;

impl TrainConfig {
    /// Checks what can be checked without the data, which may take minutes to read.
    ///
    /// # Errors
    /// [`Error::Setting`] or [`Error::Usage`] naming the settings that cannot be used.
    pub fn validate(&self) -> Result<()> {
        self.check_ranges()?;
        self.model(1)?;
        if let Some(objects) = self.objects.filter(|_| self.augment.mixes()) {
            return Err(Error::Usage(format!(
                "--objects {objects} with --augment {}: a mixed image would show the objects of one of its two photos; \
                 take a policy without mixup and cutmix",
                self.augment
            )));
        }
        let milestones = &self.decay_milestones;
        if self.sched == Decay::Step && (milestones.is_empty() || !milestones.is_sorted_by(|a, b| a < b)) {
            return Err(Error::Usage(format!(
                "--sched step with --decay-milestones {milestones:?}: give epochs in rising order, such as 30,60,80"
            )));
        }
        self.check_growth()?;
        if (self.all_reduce, self.grad_wire) == (AllReduce::Nccl, GradWire::Bf16) {
            return Err(Error::Usage(
                "--all-reduce nccl with --grad-wire bf16: NCCL would round the sum once for each rank; leave one out".into(),
            ));
        }
        if self.freeze && self.backbone_lr_scale != 1.0 {
            return Err(Error::Usage(
                "--freeze and --backbone-lr-scale: frozen layers have no rate; leave one out".into(),
            ));
        }
        match &self.experiment {
            Some(name) if name.contains(['/', '\\']) => {
                Err(Error::setting("experiment", name, "is a part of a folder's name; leave out slashes"))
            }
            _ => Ok(()),
        }
    }
}
