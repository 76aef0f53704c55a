//! What an update is made of, recorded behind the backward pass: sums of gradients, optimiser, averages.

use super::exchange::SumOrder;
use super::graph::{
    ACCUMULATED_PREFIX, EMA_PREFIX, OPTIMISER_PREFIX, Optimiser, StepConfig, Trained, values,
};
use crate::error::Result;
use crate::graph::{Graph, Init, Role, ValueId};
use crate::ops::{Accumulate, Adam, Ema, Sgd, TreeAccumulate};
use crate::tensor::{DType, Layout};

/// How sums and the state of an optimiser begin.
pub(super) fn zero(_: &str) -> Init {
    Init::Constant(0.0)
}

/// Operands of a multi-tensor operation: the leading ones, then `columns` interleaved.
pub(super) fn interleave(leading: &[ValueId], columns: &[&[ValueId]]) -> Vec<ValueId> {
    let rows = columns.first().map_or(0, |column| column.len());
    let groups = (0..rows).flat_map(|row| columns.iter().map(move |column| column[row]));
    leading.iter().copied().chain(groups).collect()
}

/// Adds the gradients of a micro-batch to sums, which are the result.
pub(super) fn accumulate(
    graph: &mut Graph,
    config: &StepConfig,
    parameters: &[ValueId],
    gradients: &[ValueId],
) -> Result<Vec<ValueId>> {
    let sums = graph.companions(ACCUMULATED_PREFIX, parameters, Role::Accumulated, zero);
    match config.sum_order {
        SumOrder::Chain => {
            let operands = interleave(&[], &[&sums, gradients]);
            graph.apply("accumulate", Accumulate::new(sums.len()), &operands)?;
        }
        SumOrder::Tree => accumulate_as_tree(graph, config.grad_accum_steps, &sums, gradients)?,
    }
    Ok(sums)
}

/// Adds `terms` to `sums` by a tree over the rounds of an update.
pub(super) fn accumulate_as_tree(
    graph: &mut Graph,
    num_rounds: usize,
    sums: &[ValueId],
    terms: &[ValueId],
) -> Result<()> {
    let mut waiting = Vec::new();
    for &sum in sums {
        let name = format!("waiting.{}", graph.value(sum).name);
        let ty = TreeAccumulate::waiting_type(num_rounds, graph.value(sum).ty);
        waiting.push(graph.persistent_of(&name, ty, Role::Accumulated, Layout::Flat, zero(&name)));
    }
    let round = graph.input(values::ROUND, [1], DType::I32);
    let op = TreeAccumulate::new(num_rounds, sums.len());
    graph.apply("accumulate", op, &interleave(&[round], &[sums, &waiting, terms]))?;
    Ok(())
}

/// The optimiser's updates, by groups that share a rule and a rate; `scale` is what gradients are multiplied by.
pub(super) fn update(
    graph: &mut Graph,
    config: &StepConfig,
    parameters: &[ValueId],
    gradients: &[ValueId],
    scale: ValueId,
) -> Result<()> {
    let hyper = graph.input(values::HYPER, [4], DType::F32);
    let has_two_rates = matches!(config.trained, Trained::TwoRates { .. });
    let hyper_backbone = has_two_rates.then(|| graph.input(values::HYPER_BACKBONE, [4], DType::F32));
    // Vectors are the biases, gammas and betas; only filters and matrices have more dimensions.
    let is_spared = |graph: &Graph, id: ValueId| !config.norm_decay && graph.shape(id).rank() <= 1;
    let is_slowed =
        |graph: &Graph, id: ValueId| has_two_rates && !config.is_of_last_layer(&graph.value(id).name);
    for (rate, hyper) in [(".backbone", hyper_backbone), ("", Some(hyper))] {
        let Some(hyper) = hyper else { continue };
        for (decay, optimiser) in [("", config.optimiser), (".no_decay", config.optimiser.without_decay())] {
            let of_group = |id: ValueId| {
                is_slowed(graph, id) != rate.is_empty() && is_spared(graph, id) != decay.is_empty()
            };
            let members = parameters.iter().zip(gradients).filter(|(parameter, _)| of_group(**parameter));
            let (parameters, gradients): (Vec<ValueId>, Vec<ValueId>) = members.unzip();
            if !parameters.is_empty() {
                let suffix = format!("{rate}{decay}");
                update_group(graph, optimiser, &suffix, [hyper, scale], &parameters, &gradients)?;
            }
        }
    }
    Ok(())
}

/// The update of parameters that share their rule and their hyper-parameters, `leading[0]`.
fn update_group(
    graph: &mut Graph,
    optimiser: Optimiser,
    suffix: &str,
    leading: [ValueId; 2],
    parameters: &[ValueId],
    gradients: &[ValueId],
) -> Result<()> {
    let mut state = |what: &str| {
        graph.companions(&format!("{OPTIMISER_PREFIX}{what}."), parameters, Role::Optimiser, zero)
    };
    match optimiser {
        Optimiser::Sgd(sgd) => {
            let velocity = state("velocity");
            let operands = interleave(&leading, &[parameters, gradients, &velocity]);
            graph.apply(&format!("sgd{suffix}"), Sgd::new(sgd, parameters.len()), &operands)?;
        }
        Optimiser::Adam(adam) => {
            let moment1 = state("moment1");
            let moment2 = state("moment2");
            let operands = interleave(&leading, &[parameters, gradients, &moment1, &moment2]);
            graph.apply(&format!("adam{suffix}"), Adam::new(adam, parameters.len()), &operands)?;
        }
    }
    Ok(())
}

/// Averages parameters and running statistics, the model's whole state.
pub(super) fn average(graph: &mut Graph, decay: f32) -> Result<()> {
    let model: Vec<ValueId> = graph.value_ids().filter(|&id| graph.value(id).role.is_model()).collect();
    let copy = |name: &str| Init::CopyOf(name.to_string());
    let averages = graph.companions(EMA_PREFIX, &model, Role::Average, copy);
    graph.apply("ema", Ema::new(decay, averages.len()), &interleave(&[], &[&averages, &model]))?;
    Ok(())
}
