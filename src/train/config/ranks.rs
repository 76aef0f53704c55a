//! The batches of an update, and the ranks that share them.

use std::collections::BTreeMap;

use super::TrainConfig;
use crate::error::{Error, Result};
use crate::step::{AllReduce, StepConfig, SumOrder, check_sum_order};

impl TrainConfig {
    /// Batches of an update, over all ranks.
    pub fn batches_per_update(&self) -> usize {
        self.micro_batches.unwrap_or(self.grad_accum_steps)
    }

    /// What an update takes on each of so many ranks, and in all, of settings that were split over them.
    pub fn update_line(&self, num_ranks: usize) -> String {
        let (images, rounds) = (self.batch_size, self.grad_accum_steps);
        let all = images * self.batches_per_update();
        format!("{num_ranks} ranks: an update takes {rounds} x {images} images on each, {all} in all")
    }

    /// What would send less between the machines that have so many of the ranks each.
    pub(in crate::train) fn order_remark(&self, num_ranks: usize, ranks_per_node: usize) -> Option<String> {
        let is_flat = (self.all_reduce, self.sum_order) == (AllReduce::Ordered, SumOrder::Chain);
        let has_nodes = 1 < ranks_per_node && ranks_per_node < num_ranks;
        (is_flat && has_nodes && self.batches_per_update().is_power_of_two()).then(|| {
            let nodes = num_ranks / ranks_per_node;
            format!("{nodes} machines of {ranks_per_node} ranks: --sum-order tree sends less between them")
        })
    }

    /// `step` as one of so many ranks takes it, of settings that were split over them.
    pub fn of_rank(&self, step: StepConfig, num_ranks: usize) -> StepConfig {
        StepConfig { num_ranks, grad_accum_steps: self.grad_accum_steps, ..step }
    }

    /// These settings for a run that goes on with an update of as many batches, on whatever number of ranks it has now.
    pub fn keeping_updates(self) -> TrainConfig {
        TrainConfig { micro_batches: Some(self.batches_per_update()), ..self }
    }

    /// These settings as files write them, of one rank that takes all batches of an update: they decide the same results, on whatever
    /// number of ranks. With synchronised batch norms, it is one of them.
    pub(in crate::train) fn records_on_one_rank(&self) -> BTreeMap<String, String> {
        let batches = self.batches_per_update();
        let mut records =
            TrainConfig { grad_accum_steps: batches, micro_batches: None, ..self.clone() }.records();
        if self.sync_bn {
            records.insert("sync_bn".into(), format!("of {} ranks", batches / self.grad_accum_steps.max(1)));
        }
        records
    }

    /// Gives each of so many ranks its part of an update.
    ///
    /// # Errors
    /// [`Error::Usage`] if the parts would not be equal, saying with how many ranks they are.
    pub fn split_over(&mut self, num_ranks: usize) -> Result<()> {
        let batches = self.micro_batches.unwrap_or(self.grad_accum_steps * num_ranks);
        if !batches.is_multiple_of(num_ranks) {
            let divides = |count: &usize| batches.is_multiple_of(*count);
            let counts: Vec<String> = (1..=batches).filter(divides).map(|count| count.to_string()).collect();
            return Err(Error::Usage(format!(
                "an update takes {batches} batches, of which {num_ranks} ranks have no equal parts; start {} of them, or begin a run with \
                 another --micro-batches",
                counts.join(", ")
            )));
        }
        check_sum_order(self.sum_order, self.all_reduce, batches)?;
        self.grad_accum_steps = batches / num_ranks;
        self.micro_batches = (num_ranks > 1).then_some(batches);
        Ok(())
    }
}
