//! Softmax, mean cross-entropy with label smoothing, and the hits that accuracies are made of, in one pass.

use crate::device::cpu::{CpuArgs, Real, for_each_chunk, for_each_chunk_pair, vectorized};
use crate::device::kernels::softmax_xent::ROWS_PER_BLOCK;
use crate::device::kernels::{self, SoftmaxXentBwdArgs, SoftmaxXentRowsArgs, SoftmaxXentTotalsArgs};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::{Error, Result};
use crate::graph::{Backward, Cost, Graph, InPlace, InferResult, Op, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, Trial, in_f32};
use crate::ops::launch::{SIGNED, below, only_f32};
use crate::ops::{cast, cost_per_elem, dispatch_real, fill, sum_dtype};
use crate::tensor::DType;

pub use crate::device::kernels::softmax_xent::PADDING_LABEL;

/// `(logits [N,C], labels i32 [N][, partners i32 [N], weights [N]]) -> (loss [], probs [N,C], hits i32 [3])`.
///
/// loss is the mean over the counted rows of -sum_j target_j*log(probs_j) with
/// target = (1 - label_smoothing)*onehot(label) + label_smoothing/C, or 0 if no row is counted.
/// Where images are mixed, onehot(label) becomes weight*onehot(label) + (1 - weight)*onehot(partner).
/// hits are the rows whose label ranks first, those whose label ranks among the first five (all of them if C < 5), and
/// the counted rows. A class ranks before another if its logit is larger, or equal and its number lower.
/// A row with a NaN makes the loss NaN and is not a hit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxXent {
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f32,
}

/// `(dloss [], probs [N,C], labels i32 [N][, partners i32 [N], weights [N]]) -> dlogits [N,C]`:
/// dloss*(probs - target) / counted, 0 for padding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxXentBwd {
    /// Label smoothing of the forward pass.
    pub label_smoothing: f32,
}

/// Values of [`softmax_xent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftmaxXentValues {
    /// Mean loss, a scalar.
    pub loss: ValueId,
    /// Probabilities, N x C.
    pub probs: ValueId,
    /// Top-1 hits, top-5 hits, counted rows: i32.
    pub hits: ValueId,
}

/// What the rows should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// Class of each row, i32 N; -1 is padding.
    pub labels: ValueId,
    /// Where rows show two images mixed.
    pub mix: Option<Mix>,
}

/// The second image of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Category of the image mixed in, i32 `[N]`.
    pub partners: ValueId,
    /// Share of the first image, N; f32, or f64 next to f64.
    pub weights: ValueId,
}

impl From<ValueId> for Targets {
    /// One class a row.
    fn from(labels: ValueId) -> Targets {
        Targets { labels, mix: None }
    }
}

/// Records the mean softmax cross-entropy of `logits` (N x C) against `targets`.
///
/// # Errors
/// If the shapes do not fit, or `label_smoothing` is not in `0..=1`.
pub fn softmax_xent(
    graph: &mut Graph,
    name: &str,
    logits: ValueId,
    targets: impl Into<Targets>,
    label_smoothing: f32,
) -> Result<SoftmaxXentValues> {
    let Targets { labels, mix } = targets.into();
    let mut operands = vec![logits, labels];
    operands.extend(mix.into_iter().flat_map(|mix| [mix.partners, mix.weights]));
    let outputs = graph.apply(name, SoftmaxXent { label_smoothing }, &operands)?;
    Ok(SoftmaxXentValues { loss: outputs[0], probs: outputs[1], hits: outputs[2] })
}

impl Op for SoftmaxXent {
    fn name(&self) -> &'static str {
        "softmax_xent_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [logits, targets @ ..] = inputs else {
            return Err("takes 2 or 4 operands, got 0".into());
        };
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return Err(format!("needs label smoothing from 0 to 1, got {}", self.label_smoothing));
        }
        check_rows(logits, targets)?;
        Ok(vec![
            ValueType { shape: [].into(), dtype: logits.dtype },
            *logits,
            ValueType { shape: [3].into(), dtype: DType::I32 },
        ])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "probs", "hits"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(6, inputs, outputs)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dloss = backward.dy(self.name())?;
        if backward.upstream[1].is_some() {
            return Err(Error::Graph {
                op: self.name(),
                node: backward.name.to_string(),
                message: "has no gradient through its probabilities; use the loss only".into(),
            });
        }
        let targets = &backward.inputs[1..];
        let operands = [&[dloss, backward.outputs[1]], targets].concat();
        let op = SoftmaxXentBwd { label_smoothing: self.label_smoothing };
        let mut gradients = vec![None; backward.inputs.len()];
        gradients[0] = Some(backward.apply_one("bwd", op, &operands)?);
        Ok(gradients)
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let bytes_per_row = match device {
            DeviceKind::Cpu => 2 * size_of::<f64>(),
            DeviceKind::Cuda | DeviceKind::Simt => size_of::<f32>() + size_of::<u32>(),
        };
        inputs[1].shape.num_elems() * bytes_per_row
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: SoftmaxXent, args: &CpuArgs<'_>) {
            let classes = args.input_shape(0).last();
            let (logits, labels) = (args.input::<T>(0), args.input::<i32>(1));
            let mix = MixedRows::<T>::of(args, 2);
            let (loss, probs, hits) = (args.output::<T>(0), args.output::<T>(1), args.output::<i32>(2));
            let results = &mut args.workspace::<f64>()[..2 * labels.len()];
            let smoothing = f64::from(op.label_smoothing);
            for_each_chunk_pair(probs, results, (classes, 2), |row, probs, result| {
                let logits = &logits[row * classes..][..classes];
                let log_sum = vectorized(|| softmax(logits, probs));
                let label = class_of(labels[row], classes);
                (result[0], result[1]) = label.map_or((0.0, f64::INFINITY), |label| {
                    let own =
                        mix.as_ref().map_or(logits[label].to_f64(), |mix| mix.logit(row, logits, label));
                    (row_loss(logits, log_sum, own, smoothing), rank(logits, log_sum, label))
                });
            });
            let counted = num_counted(labels);
            let ranked_below =
                |limit: f64| results.chunks_exact(2).filter(|row| row[1] < limit).count() as i32;
            let total: f64 = results.chunks_exact(2).map(|row| row[0]).sum();
            loss[0] = T::from_f64(total / counted.max(1) as f64);
            hits.copy_from_slice(&[ranked_below(1.0), ranked_below(5.0), counted as i32]);
        }
        dispatch_real!(args.input_dtype(0), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let logits = &args.inputs[0];
        only_f32(self.name(), logits.dtype)?;
        let (rows, classes) = (args.inputs[1].shape.num_elems(), logits.shape.last());
        checked(rows, classes)?;
        let losses = args.workspace();
        let arguments = SoftmaxXentRowsArgs {
            logits: args.address(logits),
            labels: args.input(1),
            partners: args.optional_input(2),
            weights: args.optional_input(3),
            probs: args.output(1),
            losses,
            ranks: losses + (rows * size_of::<f32>()) as u64,
            rows: rows as u32,
            classes: classes as u32,
            label_smoothing: f64::from(self.label_smoothing),
        };
        kernels::SOFTMAX_XENT_ROWS.launch(launcher, rows.div_ceil(ROWS_PER_BLOCK), &arguments)?;
        let arguments = SoftmaxXentTotalsArgs {
            losses,
            ranks: arguments.ranks,
            labels: arguments.labels,
            loss: args.output(0),
            hits: args.output(2),
            rows: rows as u64,
        };
        kernels::SOFTMAX_XENT_TOTALS.launch(launcher, 1, &arguments)
    }
}

/// Kernels count rows and classes in 32 bits, and threads on behind the last.
fn checked(rows: usize, classes: usize) -> Result<()> {
    below(SIGNED, rows, "rows")?;
    below(SIGNED, classes, "classes")
}

impl Op for SoftmaxXentBwd {
    fn name(&self) -> &'static str {
        "softmax_xent_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [dloss, probs, targets @ ..] = inputs else {
            return Err(format!("takes 3 or 5 operands, got {}", inputs.len()));
        };
        check_rows(probs, targets)?;
        if dloss.shape.rank() != 0 || dloss.dtype != probs.dtype {
            return Err(format!("needs a scalar {} dloss, got {dloss}", probs.dtype));
        }
        Ok(vec![*probs])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(3, inputs, outputs)
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 1 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(op: SoftmaxXentBwd, args: &CpuArgs<'_>) {
            let classes = args.input_shape(1).last();
            let labels = args.input::<i32>(2);
            let scale = args.input::<T>(0)[0] * T::from_f64(1.0 / num_counted(labels).max(1) as f64);
            let smoothing = f64::from(op.label_smoothing);
            let spread = T::from_f64(smoothing / classes as f64);
            let peak = T::from_f64(1.0 - smoothing);
            let mix = MixedRows::<T>::of(args, 3);
            for_each_chunk(args.output_over_input::<T>(0, 1), classes, |start, dlogits| {
                let row = start / classes;
                let Some(label) = class_of(labels[row], classes) else {
                    return dlogits.fill(T::ZERO);
                };
                match &mix {
                    None => dlogits[label] -= peak,
                    Some(mix) => {
                        dlogits[label] -= peak * mix.weights[row];
                        dlogits[mix.partner(row, classes)] -= peak * (T::ONE - mix.weights[row]);
                    }
                }
                vectorized(|| dlogits.iter_mut().for_each(|d| *d = (*d - spread) * scale));
            });
        }
        dispatch_real!(args.input_dtype(1), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let probs = &args.inputs[1];
        only_f32(self.name(), probs.dtype)?;
        let (rows, classes) = (args.inputs[2].shape.num_elems(), probs.shape.last());
        checked(rows, classes)?;
        let arguments = SoftmaxXentBwdArgs {
            dloss: args.input(0),
            probs: args.address(probs),
            labels: args.input(2),
            partners: args.optional_input(3),
            weights: args.optional_input(4),
            dlogits: args.output(0),
            rows: rows as u32,
            classes: classes as u32,
            label_smoothing: f64::from(self.label_smoothing),
        };
        kernels::SOFTMAX_XENT_BWD.launch(launcher, rows.div_ceil(ROWS_PER_BLOCK), &arguments)
    }
}

fn check_rows(rows: &ValueType, targets: &[ValueType]) -> InferResult<()> {
    let is_real = matches!(rows.dtype, DType::F32 | DType::F64);
    let &[n, classes] = rows.shape.dims() else {
        return Err(format!("needs rows of classes (N x C), got {rows}"));
    };
    let of_rows = |dtype| ValueType { shape: [n].into(), dtype };
    let expected = [of_rows(DType::I32), of_rows(DType::I32), of_rows(rows.dtype)];
    if is_real && classes > 0 && (targets == &expected[..1] || targets == expected) {
        return Ok(());
    }
    let got: Vec<String> = targets.iter().map(ToString::to_string).collect();
    Err(format!(
        "needs f32 or f64 rows of classes (N x C) and i32 labels (N), with or without i32 partners (N) and weights \
         (N), got {rows} and {}",
        got.join(", ")
    ))
}

/// The second images of mixed rows.
struct MixedRows<'a, T> {
    partners: &'a [i32],
    weights: &'a [T],
}

impl<'a, T: Real> MixedRows<'a, T> {
    /// The operands from `first` on, if there are any.
    fn of(args: &CpuArgs<'a>, first: usize) -> Option<MixedRows<'a, T>> {
        (args.num_inputs() > first)
            .then(|| MixedRows { partners: args.input::<i32>(first), weights: args.input::<T>(first + 1) })
    }

    /// The class of a counted row's second image.
    fn partner(&self, row: usize, classes: usize) -> usize {
        class_of(self.partners[row], classes).expect("a counted row is mixed with a counted row")
    }

    /// What stands for the logit of the label.
    fn logit(&self, row: usize, logits: &[T], label: usize) -> f64 {
        let (weight, partner) = (self.weights[row].to_f64(), self.partner(row, logits.len()));
        weight * logits[label].to_f64() + (1.0 - weight) * logits[partner].to_f64()
    }
}

/// The class a label names, `None` for padding.
///
/// # Panics
/// If the label names no class: the data set checks labels, so one out of range is a bug.
fn class_of(label: i32, classes: usize) -> Option<usize> {
    (label != PADDING_LABEL).then(|| {
        let class = usize::try_from(label).ok().filter(|&class| class < classes);
        class.unwrap_or_else(|| panic!("label {label} is neither padding nor one of {classes} classes"))
    })
}

fn num_counted(labels: &[i32]) -> usize {
    labels.iter().filter(|&&label| label != PADDING_LABEL).count()
}

/// Writes the softmax of a row and returns the logarithm of the sum of its exponentials.
#[inline(always)]
fn softmax<T: Real>(logits: &[T], probs: &mut [T]) -> f64 {
    let largest = logits.iter().fold(logits[0], |most, &v| if v > most { v } else { most });
    let mut sum = 0.0;
    for (prob, &logit) in probs.iter_mut().zip(logits) {
        *prob = (logit - largest).exp();
        sum += prob.to_f64();
    }
    let scale = T::from_f64(1.0 / sum);
    probs.iter_mut().for_each(|prob| *prob *= scale);
    largest.to_f64() + sum.ln()
}

/// The loss of a row in which `own` is the logit of the label.
fn row_loss<T: Real>(logits: &[T], log_sum: f64, own: f64, smoothing: f64) -> f64 {
    let of_label = log_sum - own;
    if smoothing == 0.0 {
        return of_label;
    }
    let mean_logit = logits.iter().map(|v| v.to_f64()).sum::<f64>() / logits.len() as f64;
    (1.0 - smoothing) * of_label + smoothing * (log_sum - mean_logit)
}

/// The number of classes that rank before `label`, infinite for a row that is not a number.
fn rank<T: Real>(logits: &[T], log_sum: f64, label: usize) -> f64 {
    if log_sum.is_nan() {
        return f64::INFINITY;
    }
    let own = logits[label];
    let before = logits.iter().enumerate().filter(|&(j, &v)| v > own || (v == own && j < label)).count();
    before as f64
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    fn case(graph: &mut Graph, x: &[ValueId], smoothing: f32) -> Result<ValueId> {
        let rows = graph.shape(x[0]).dims()[0];
        let labels = graph.input("labels", [rows], DType::I32);
        let logits = cast(graph, "logits", x[0], sum_dtype(graph.float()))?;
        Ok(softmax_xent(graph, "loss", logits, labels, smoothing)?.loss)
    }
    fn mixed(graph: &mut Graph, x: &[ValueId]) -> Result<ValueId> {
        let rows = graph.shape(x[0]).dims()[0];
        let labels = graph.input("labels", [rows], DType::I32);
        let partners = graph.input("partners", [rows], DType::I32);
        let weights = fill(graph, "weights", [rows], 0.7)?;
        let logits = cast(graph, "logits", x[0], sum_dtype(graph.float()))?;
        let targets = Targets { labels, mix: Some(Mix { partners, weights }) };
        Ok(softmax_xent(graph, "loss", logits, targets, 0.2)?.loss)
    }
    let cases = vec![
        Case::new("softmax_xent_with_padding", &[&[5, 7]], |graph, x| case(graph, x, 0.0))
            .with_labels(&[3, -1, 0, 6, 3])
            .with_f32(&[0]),
        Case::new("softmax_xent_smoothed", &[&[3, 7]], |graph, x| case(graph, x, 0.15))
            .with_labels(&[2, 6, -1])
            .with_f32(&[0]),
        Case::new("softmax_xent_mixed", &[&[5, 7]], mixed).with_labels(&[2, 6, -1, 0, 3]).with_f32(&[0]),
        Case::new("softmax_xent_of_padding_only", &[&[2, 3]], |graph, x| case(graph, x, 0.1))
            .with_labels(&[-1, -1])
            .with_f32(&[0]),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let rows = draw.within(1, 40);
    let classes = match draw.within(0, 2) {
        0 => draw.within(2, 10),
        1 => draw.within(90, 400),
        _ => draw.within(1000, 1300),
    };
    let label_smoothing = draw.pick(&[0.0, 0.1, 0.25]);
    Trial::new(format!("cross-entropy: {rows} rows, {classes} classes, {label_smoothing}"), move |graph| {
        let (logits, labels) =
            (in_f32(graph, "logits", [rows, classes]), graph.input("labels", [rows], DType::I32));
        graph.apply("loss", SoftmaxXent { label_smoothing }, &[logits, labels])?;
        let (dloss, probs) = (in_f32(graph, "dloss", []), in_f32(graph, "probs", [rows, classes]));
        graph.apply("dlogits", SoftmaxXentBwd { label_smoothing }, &[dloss, probs, labels])?;
        Ok(())
    })
    // A few classes, so that padding and hits occur.
    .with_classes(draw.within(1, classes.min(6)) as u32)
}
