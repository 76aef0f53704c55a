//! What rank 0 tells the others when a run begins or goes on: they read nothing of its folder.

use serde::{Deserialize, Serialize};

use crate::dist;
use crate::error::{Error, Result};
use crate::run::run_dir::RunDir;
use crate::run::state::{Base, TrainState};
use crate::train::prepare::Prepared;

/// Where a run stands, and where its folder is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Beginning {
    /// The folder's path at rank 0, for messages.
    pub(super) dir: String,
    pub(super) state: TrainState,
    /// Whether it goes on with other settings, and so begins with a checkpoint.
    pub(super) is_changed: bool,
}

impl Beginning {
    pub(super) fn new(dir: &RunDir, state: &TrainState, is_changed: bool) -> Beginning {
        Beginning { dir: dir.path().display().to_string(), state: state.clone(), is_changed }
    }

    /// Tells the other ranks, if there are some, and gives them the weights of `run`.
    pub(super) fn give(self, run: &mut Prepared) -> Result<()> {
        let Some(ranks) = run.training.collective() else { return Ok(()) };
        dist::share(ranks, serde_json::to_vec(&self).expect("a state of numbers and strings is JSON"))?;
        run.training.share_state(self.state.step)?;
        run.training.check_replicas()
    }

    /// What rank 0 gives; `run` then stands where its does.
    pub(super) fn take(run: &mut Prepared) -> Result<Beginning> {
        let alone = || Error::Usage("a run of one rank has none to follow".into());
        let bytes = dist::share(run.training.collective().ok_or_else(alone)?, Vec::new())?;
        let garbled = |error| Error::Peer(format!("rank 1 told of no run that this version knows: {error}"));
        let beginning: Beginning = serde_json::from_slice(&bytes).map_err(garbled)?;
        let base = beginning.state.origin.as_ref().map_or_else(Base::default, |origin| origin.base);
        if base != Base::default() {
            run.rebase(&base)?;
        }
        run.training.share_state(beginning.state.step)?;
        run.training.check_replicas()?;
        Ok(beginning)
    }
}
