//! What an fprop makes of its sums before it leaves them.

use std::ops::Range;

use super::Conv2dDims;
use super::microkernel::PANEL;

/// What [`conv2d_fprop`](super::conv2d_fprop) makes of its sums before it leaves them.
#[derive(Debug, Clone, Copy)]
pub enum Finish<'a> {
    /// Nothing.
    None,
    /// A number for each output channel is added.
    Bias(&'a [f32]),
    /// A batch norm by running statistics follows.
    Norm(FinishNorm<'a, f32>),
}

/// act((y - mean) / sqrt(var + eps) * gamma + beta + residual), act a ReLU or nothing; all but `residual`, of y's shape, by
/// output channel.
#[derive(Debug, Clone, Copy)]
pub struct FinishNorm<'a, T> {
    /// Scale.
    pub gamma: &'a [f32],
    /// Shift.
    pub beta: &'a [f32],
    /// Running mean.
    pub mean: &'a [f32],
    /// Running variance.
    pub var: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// Added after the normalisation.
    pub residual: Option<&'a [T]>,
    /// Whether a ReLU follows.
    pub relu: bool,
}

/// The batch norm that finishes an fprop; rows of whole panels, zero behind the last channel.
#[derive(Clone, Copy)]
pub(super) struct PanelNorm<'a, T> {
    mean: &'a [f32],
    scale: &'a [f32],
    beta: &'a [f32],
    pub(super) residual: Option<&'a [T]>,
    relu: bool,
}

impl PanelNorm<'_, f32> {
    /// [`PanelNorm::finish`] with the residual that lies where the row does in y: at `places`, which end with the last channel.
    #[inline(always)]
    pub(super) fn finish_at(&self, row: &mut [f32; PANEL], first_column: usize, places: Range<usize>) {
        let mut padded = [0.0; PANEL];
        let residual = self.residual.map(|residual| {
            let from = &residual[places];
            from.first_chunk().unwrap_or_else(|| {
                padded[..from.len()].copy_from_slice(from);
                &padded
            })
        });
        self.finish(row, first_column, residual);
    }
}

impl<'a, T> PanelNorm<'a, T> {
    /// `mean` is a row of whole panels, `rows` two.
    pub(super) fn new(
        d: &Conv2dDims,
        norm: &FinishNorm<'a, T>,
        mean: &'a mut [f32],
        rows: &'a mut [f32],
    ) -> PanelNorm<'a, T> {
        let FinishNorm { gamma, beta: shift, mean: running_mean, var, eps, residual, relu } = *norm;
        for vector in [gamma, shift, running_mean, var] {
            assert_eq!(vector.len(), d.k, "a batch norm of {d:?}");
        }
        assert!(residual.is_none_or(|residual| residual.len() == d.y_elems()), "a residual of {d:?}");
        let (scale, beta) = rows.split_at_mut(mean.len());
        for row in [&mut *mean, scale, beta] {
            row[d.k..].fill(0.0);
        }
        mean[..d.k].copy_from_slice(running_mean);
        beta[..d.k].copy_from_slice(shift);
        for (scale, (gamma, var)) in scale.iter_mut().zip(gamma.iter().zip(var)) {
            *scale = gamma * (1.0 / (var + eps).sqrt());
        }
        PanelNorm { mean, scale, beta, residual, relu }
    }

    /// Finishes `row`, the sums of one pixel in a panel whose first column is `first_column`, with `residual` next to it.
    #[inline(always)]
    pub(super) fn finish(
        &self,
        row: &mut [f32; PANEL],
        first_column: usize,
        residual: Option<&[f32; PANEL]>,
    ) {
        let part = |values: &'a [f32]| values[first_column..].first_chunk::<PANEL>().expect("whole panels");
        let (mean, scale, beta) = (part(self.mean), part(self.scale), part(self.beta));
        for column in 0..PANEL {
            row[column] = (row[column] - mean[column]) * scale[column] + beta[column];
        }
        if let Some(residual) = residual {
            row.iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
        }
        if self.relu {
            // NaN stays NaN, so that a diverged run shows.
            row.iter_mut().for_each(|y| *y = if *y <= 0.0 { 0.0 } else { *y });
        }
    }
}
