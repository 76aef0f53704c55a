//! The operations, one file each: attributes, builder, shape rule, cost, gradient, CPU code, launch, test cases.
//!
//! A new operation is one file here, its line in [`registry`], and its kernels.

mod accumulate;
mod adam;
mod adaptive_avg_pool;
mod add;
mod augment;
mod avg_pool;
mod batch_norm;
mod bias;
mod cast;
mod clip;
mod codes;
mod concat;
mod conv2d;
mod dropout;
mod ema;
mod flatten;
pub mod launch;
mod linear;
mod max_pool;
mod multi_tensor;
mod rasterise;
mod reduce;
mod relu;
mod sgd;
mod softmax_xent;
mod stem;

pub use accumulate::{Accumulate, Clear};
pub use adam::{Adam, AdamConfig};
pub use adaptive_avg_pool::{AdaptiveAvgPool, AdaptiveAvgPoolBwd, adaptive_avg_pool};
pub use add::{Add, add};
pub use augment::{AugmentFwd, augment};
pub use avg_pool::{GlobalAvgPool, GlobalAvgPoolBwd, global_avg_pool};
pub use batch_norm::{
    BatchNormBwd, BatchNormInference, BatchNormInferenceBwd, BatchNormTrain, BnConfig, Mode, batch_norm,
};
pub use bias::{AddBias, AddBiasBwd, add_bias};
pub use cast::{Cast, CastTensors, cast};
pub use clip::ClipNorm;
pub use codes::{CODE_CHANNELS, MAX_CODED_CLASSES, code};
pub use concat::{Concat, SliceChannels, concat};
pub use conv2d::{Conv2dConfig, Conv2dDgrad, Conv2dFprop, Conv2dWgrad, Window, conv2d, conv2d_with};
pub use dropout::{DRAWS, Dropout, dropout};
pub use ema::Ema;
pub use flatten::{Flatten, FlattenBwd, flatten};
pub use linear::{LinearDgrad, LinearFprop, LinearWgrad, linear};
pub use max_pool::{MaxPool, MaxPoolBwd, PoolWindow, max_pool};
pub use rasterise::{Paint, Rasterise, rasterise};
pub use reduce::{Fill, Reduce, ReduceBwd, Reduction, fill, mean, sum};
pub use relu::{Relu, ReluBwd, relu};
pub use sgd::{Sgd, SgdConfig};
pub use softmax_xent::{
    Mix, PADDING_LABEL, SoftmaxXent, SoftmaxXentBwd, SoftmaxXentValues, Targets, softmax_xent,
};
pub use stem::{SpaceToDepth, StemFilter, StemFilterBwd, stem_conv2d};

use crate::error::Result;
use crate::graph::{Cost, Graph, InferResult, ValueId, ValueType};
use crate::tensor::DType;

/// Elements that one task of an elementwise loop handles: 64 KiB of f32, well inside a second-level cache.
pub(crate) const CHUNK_ELEMS: usize = 16 * 1024;

/// A differentiable use of an operation on small, odd, unequal dimensions; every case is checked by finite differences
/// in f64, and in f32 against f64.
pub struct Case {
    /// What the case is about.
    pub name: &'static str,
    /// Shapes of the differentiable operands, filled with random numbers.
    pub inputs: &'static [&'static [usize]],
    /// Records the operation on those operands and returns the result to differentiate.
    pub build: fn(&mut Graph, &[ValueId]) -> Result<ValueId>,
    /// Contents of the i32 input called `labels`, which `build` records where there are any; one called `partners` gets
    /// them in reverse.
    pub labels: &'static [i32],
    /// Operands that stay f32 in a graph of bf16: scales and shifts, scores, the last layer.
    pub in_f32: &'static [usize],
}

impl Case {
    /// A case called `name` over operands of these shapes.
    pub fn new(
        name: &'static str,
        inputs: &'static [&'static [usize]],
        build: fn(&mut Graph, &[ValueId]) -> Result<ValueId>,
    ) -> Case {
        Case { name, inputs, build, labels: &[], in_f32: &[] }
    }

    /// This case with contents for its input called `labels`.
    pub fn with_labels(self, labels: &'static [i32]) -> Case {
        Case { labels, ..self }
    }

    /// This case with operands that stay f32 in a graph of bf16.
    pub fn with_f32(self, in_f32: &'static [usize]) -> Case {
        Case { in_f32, ..self }
    }
}

/// The test cases of every operation, by operation.
pub fn registry() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("adaptive_avg_pool", adaptive_avg_pool::cases()),
        ("add", add::cases()),
        ("avg_pool", avg_pool::cases()),
        ("batch_norm", batch_norm::cases()),
        ("bias", bias::cases()),
        ("concat", concat::cases()),
        ("conv2d", conv2d::cases()),
        ("dropout", dropout::cases()),
        ("flatten", flatten::cases()),
        ("linear", linear::cases()),
        ("max_pool", max_pool::cases()),
        ("reduce", reduce::cases()),
        ("relu", relu::cases()),
        ("softmax_xent", softmax_xent::cases()),
        ("stem", stem::cases()),
    ]
}

/// Calls `run::<f32>(args)` or `run::<f64>(args)` by the element type.
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

/// Every operand and result once, and `flops` operations for each element of the largest operand.
pub(crate) fn cost_per_elem(flops: usize, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
    let elems = inputs.iter().map(|ty| ty.shape.num_elems()).max().unwrap_or(0);
    Cost::traffic(inputs, outputs).with_flops(flops * elems)
}

/// The type of sums, statistics and parameters beside values of type `dtype`: bf16 is too narrow for them.
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

/// The type of the only operand, which holds floating-point numbers.
pub(crate) fn one_input(inputs: &[ValueType]) -> InferResult<ValueType> {
    match inputs {
        [only] => float(*only),
        _ => Err(format!("takes 1 operand, got {}", inputs.len())),
    }
}

/// The common type of exactly `count` operands, which hold floating-point numbers.
pub(crate) fn same_shapes(inputs: &[ValueType], count: usize) -> InferResult<ValueType> {
    if inputs.len() != count {
        return Err(format!("takes {count} operands, got {}", inputs.len()));
    }
    match inputs.iter().find(|ty| **ty != inputs[0]) {
        None => float(inputs[0]),
        Some(other) => Err(format!("needs operands of one type and shape, got {} and {other}", inputs[0])),
    }
}
