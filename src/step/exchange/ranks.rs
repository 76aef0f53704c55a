//! What a rank of a training does with the others between its lists of launches.

use super::places::{BucketPlace, Places};
use super::{AllReduce, Groups, Names};
use crate::dist::{Collective, Group};
use crate::error::{Error, Result};
use crate::exec::Session;
use crate::plan::Program;
use crate::step::StepConfig;

/// The other processes of a training.
pub(in crate::step) struct Ranks {
    pub(in crate::step) collective: Box<dyn Collective>,
    groups: Groups,
    places: Places,
}

impl Ranks {
    /// # Errors
    /// [`Error::Graph`] if the program is not of a training with ranks.
    pub(in crate::step) fn new(
        program: &Program,
        config: &StepConfig,
        collective: Box<dyn Collective>,
    ) -> Result<Ranks> {
        let places = Places::of(program).ok_or_else(|| Error::Graph {
            op: "exchange",
            node: Names(0).gradient_prefix(),
            message: "is in no program that was planned for one rank".into(),
        })?;
        Ok(Ranks { collective, groups: Groups::of(config), places })
    }

    /// What follows a micro-batch of plan `plan`, in which gradients were sent.
    pub(in crate::step) fn exchange(&mut self, session: &mut Session, plan: usize) -> Result<()> {
        if let Some((own, all)) = &self.places.statistics {
            let everyone = Group::all(self.collective.rank().count);
            session.all_gather(&mut *self.collective, everyone, own.clone(), *all)?;
        }
        session.run_exchange(plan, &mut *self.collective)
    }

    /// What comes before an update.
    pub(in crate::step) fn gather(&mut self, session: &mut Session) -> Result<()> {
        let Ranks { collective, groups: Groups { first, across }, places } = self;
        let collective = &mut **collective;
        places.buckets.iter().try_for_each(|BucketPlace { gradients, sum, received }| {
            let (Some(sum), Some(received)) = (sum, received) else {
                return session.all_reduce(collective, gradients.clone());
            };
            let mut share = sum.clone();
            if let Some(across) = *across {
                session.all_gather(collective, across, share.clone(), received.start)?;
                share = received.start..received.start + across.size * share.len();
            }
            session.all_gather(collective, *first, share, gradients.start)
        })
    }
}

/// Fails unless `collective` joins as many ranks as the graphs were made for, and has what adds up their gradients.
pub(in crate::step) fn check_ranks(config: &StepConfig, collective: &dyn Collective) -> Result<()> {
    let (planned, count) = (config.num_ranks, collective.rank().count);
    if count != planned {
        return Err(Error::Usage(format!("the step is planned for {planned} ranks, and {count} are there")));
    }
    if planned > 1 && config.all_reduce == AllReduce::Nccl && collective.communicator().is_none() {
        let what = "--all-reduce nccl: NCCL joins ranks on GPUs, and these are on others; leave it out";
        return Err(Error::Usage(what.into()));
    }
    Ok(())
}
