//! The operations, one file each: attributes, builder, shape rule, cost, gradient, CPU code, launch, what it is checked by.
//!
//! A new operation is one file here with its row in `operations!`, and its kernels.

mod accumulate;
mod adam;
mod adaptive_avg_pool;
mod add;
mod augment;
mod auto_augment;
mod avg_pool;
mod batch_norm;
mod bias;
mod blend;
mod cast;
pub(crate) mod checks;
mod clip;
mod codes;
mod concat;
mod conv2d;
mod dropout;
mod ema;
mod exchange;
mod flatten;
mod launch;
mod linear;
mod max_pool;
mod multi_tensor;
mod ordered_sum;
mod rasterise;
mod reduce;
mod relu;
mod sgd;
mod softmax_xent;
mod stem;
mod tree_sum;

pub use checks::{Case, Checks, Contents, Draw, DrawTrial, Record, Trial};
pub use codes::{CODE_CHANNELS, MAX_CODED_CLASSES, code};

pub use crate::graph::Mode;
use crate::graph::{Cost, InferResult, ValueType};
use crate::tensor::DType;

/// Makes of each row, `file: names;`, what the file shows of itself and its line in [`registry`].
macro_rules! operations {
    ($($file:ident: $($name:ident),+;)+) => {
        $(pub use $file::{$($name),+};)+

        /// What the operations are checked by, each file under its name.
        pub fn registry() -> Vec<(&'static str, Checks)> {
            vec![$((stringify!($file), $file::checks())),+]
        }
    };
}

operations! {
    accumulate: Accumulate, Clear;
    adam: Adam, AdamConfig;
    adaptive_avg_pool: AdaptiveAvgPool, AdaptiveAvgPoolBwd, adaptive_avg_pool;
    add: Add, add;
    augment: AugmentBlocks, AugmentFwd, augment;
    auto_augment: AutoAugment, auto_augment;
    avg_pool: GlobalAvgPool, GlobalAvgPoolBwd, global_avg_pool;
    batch_norm: BatchNormApply, BatchNormBwd, BatchNormDx, BatchNormInference, BatchNormInferenceBwd, BatchNormJoin, BatchNormJoinDx, BatchNormPool, BatchNormPoolDx,
        BatchNormStatistics, BatchNormSums, BatchNormSync, BatchNormSyncSums, BatchNormTrain, BnConfig, Mask, batch_norm;
    bias: AddBias, AddBiasBwd, add_bias;
    blend: Blend;
    cast: Cast, CastTensors, CopyTensors, cast;
    clip: ClipNorm;
    concat: Concat, SliceChannels, concat;
    conv2d: Conv2dBatchNorm, Conv2dConfig, Conv2dDgrad, Conv2dDgradSums, Conv2dFprop, Conv2dStats, Conv2dWgrad, Window, conv2d,
        conv2d_with;
    dropout: DRAWS, Dropout, dropout;
    ema: Ema;
    flatten: Flatten, FlattenBwd, flatten;
    linear: LinearDgrad, LinearFprop, LinearWgrad, linear;
    max_pool: MaxPool, MaxPoolBwd, PoolWindow, max_pool;
    ordered_sum: OrderedSum;
    rasterise: Paint, Rasterise, rasterise;
    reduce: Fill, Reduce, ReduceBwd, Reduction, fill, mean, sum;
    relu: Relu, ReluBwd, relu;
    sgd: Sgd, SgdConfig;
    softmax_xent: Mix, PADDING_LABEL, SoftmaxXent, SoftmaxXentBwd, SoftmaxXentValues, Targets, softmax_xent;
    stem: SpaceToDepth, StemFilter, StemFilterBwd, stem_conv2d;
    tree_sum: TreeAccumulate, TreeSum;
}

/// Elements that one task of an elementwise loop handles: 64 KiB of f32, well inside a second-level cache.
pub const CHUNK_ELEMS: usize = 16 * 1024;

/// Calls `run::<f32>(args)` or `run::<f64>(args)` by the element type, which an [`Op::cpu`](crate::graph::Op::cpu) learns
/// from its operands.
///
/// # Panics
/// For every other type.
#[macro_export]
macro_rules! dispatch_real {
    ($dtype:expr, $run:ident($($arg:expr),*)) => {
        match $dtype {
            $crate::tensor::DType::F32 => $run::<f32>($($arg),*),
            $crate::tensor::DType::F64 => $run::<f64>($($arg),*),
            other => panic!("the CPU computes in f32 and f64, not {other}"),
        }
    };
}
pub(crate) use dispatch_real;

/// As [`dispatch_real!`], with `run::<bf16>(args)` besides: for operations that see activations.
///
/// # Panics
/// For every other type.
macro_rules! dispatch_storage {
    ($dtype:expr, $run:ident($($arg:expr),*)) => {
        match $dtype {
            $crate::tensor::DType::Bf16 => $run::<half::bf16>($($arg),*),
            other => $crate::ops::dispatch_real!(other, $run($($arg),*)),
        }
    };
}
pub(crate) use dispatch_storage;

/// Every operand and result once, and `flops` operations for each element of the largest operand.
pub(crate) fn cost_per_elem(flops: usize, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
    let elems = inputs.iter().map(|ty| ty.shape.num_elems()).max().unwrap_or(0);
    Cost::traffic(inputs, outputs).with_flops(flops * elems)
}

/// The type of sums, statistics and parameters next to values of type `dtype`: bf16 is too narrow for them.
pub(crate) fn sum_dtype(dtype: DType) -> DType {
    if dtype == DType::Bf16 { DType::F32 } else { dtype }
}

/// `ty`, if its elements are floating-point numbers.
pub(crate) fn float(ty: ValueType) -> InferResult<ValueType> {
    match ty.dtype {
        DType::F32 | DType::F64 | DType::Bf16 => Ok(ty),
        _ => Err(format!("needs floating-point numbers, got {ty}")),
    }
}

/// The type of the only operand, which holds floating-point numbers: the shape rule of an elementwise operation.
///
/// # Errors
/// If there are more operands or fewer, or of another type.
pub fn one_input(inputs: &[ValueType]) -> InferResult<ValueType> {
    match inputs {
        [only] => float(*only),
        _ => Err(format!("takes 1 operand, got {}", inputs.len())),
    }
}

/// The common type of exactly `count` operands, which hold floating-point numbers.
///
/// # Errors
/// If their number is another, or they are not of one such type and shape.
pub fn same_shapes(inputs: &[ValueType], count: usize) -> InferResult<ValueType> {
    if inputs.len() != count {
        return Err(format!("takes {count} operands, got {}", inputs.len()));
    }
    match inputs.iter().find(|ty| **ty != inputs[0]) {
        None => float(inputs[0]),
        Some(other) => Err(format!("needs operands of one type and shape, got {} and {other}", inputs[0])),
    }
}
