//! What a run leaves in its folder: checkpoints and pages. Ranks other than the first only look whether their weights are fit
//! to be saved.

use std::time::Instant;

use super::Trainer;
use crate::error::Result;
use crate::infer::model_file::ModelFile;
use crate::run::model_card::{ModelCard, ObjectsCard};
use crate::run::state;
use crate::train::resume::WEIGHTS_ONLY;
use crate::train::summary::{Standing, Status};

impl Trainer {
    /// Fails on weights that no checkpoint should hold: a finite loss may have had a gradient that is not.
    pub(super) fn check_weights(&mut self) -> Result<()> {
        let own = self.training.first_not_finite()?.map(|name| format!("`{name}` is no longer finite"));
        match self.of_any_rank(own)? {
            Some(what) => self.diverged(self.last_update(), &what),
            None => Ok(()),
        }
    }

    /// What is wrong here, or on another rank: they end alike.
    fn of_any_rank(&mut self, own: Option<String>) -> Result<Option<String>> {
        let Some(ranks) = self.training.collective() else { return Ok(own) };
        let mut all = vec![0; ranks.rank().count];
        ranks.all_gather(&[u8::from(own.is_some())], &mut all)?;
        let elsewhere = all.iter().position(|is_bad| *is_bad > 0);
        Ok(own.or_else(|| elsewhere.map(|rank| format!("weights of rank {} are no longer finite", rank + 1))))
    }

    /// Writes the weights for other programs and, when they are safe, the state a resumed run starts from.
    pub(super) fn save(&mut self) -> Result<()> {
        self.check_weights()?;
        if !self.log.is_written() {
            return Ok(());
        }
        match self.watch.spike() {
            Some(_) => self.dir().keep_before_spike()?,
            None if self.watch.can_tell() => self.dir().forget_before_spike()?,
            None => {}
        }
        self.model_file()?.write(&self.dir().last_weights())?;
        state::save(&self.dir().last_state(), &self.state, &self.training.state()?)?;
        self.last_save = Instant::now();
        Ok(())
    }

    /// The weights as they are evaluated and exported.
    pub(super) fn model_file(&self) -> Result<ModelFile> {
        let card = ModelCard {
            model: self.config.model.clone(),
            form: self.config.form.to_string(),
            img_size: self.config.img_size,
            objects: self.source.annotations.as_ref().zip(self.config.objects).map(|(annotations, kind)| {
                ObjectsCard { kind: kind.to_string(), num_classes: annotations.train.num_classes() }
            }),
            categories: self.source.categories.clone(),
            mean: self.config.mean,
            std: self.config.std,
        };
        let mut file = ModelFile::new(&self.dir().last_weights(), card, self.training.weights()?);
        file.fuse = self.config.fuse;
        Ok(file)
    }

    /// Writes the pages of a run that goes on, or is over.
    pub(super) fn write_pages(&mut self) -> Result<()> {
        if self.is_done() {
            if self.config.weights_only {
                let what = "the run is complete: its states are removed, its weights stay (--weights-only)";
                self.log.event(self.state.step, WEIGHTS_ONLY, what);
            }
            let model = self.model_file()?;
            let best = self.state.best.filter(|_| self.idle_epochs().is_some());
            let how = best.map_or_else(|| "finished".into(), |best| self.why_it_ended(&best));
            self.write_report(Status::Ended(&how), Some(&model));
        } else {
            self.write_report(Status::Running(self.state.step, self.total_steps), None);
        }
        Ok(())
    }

    pub(super) fn write_report(&mut self, status: Status, model: Option<&ModelFile>) {
        let standing = Standing { history: &self.state.history, model, status };
        self.log.pages(self.state.step, &self.source, &standing);
    }
}
