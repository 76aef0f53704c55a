//! Reductions of a whole tensor to a scalar, and the constant that starts a backward pass.

use crate::device::cpu::{CpuArgs, Real, Storage, for_each_chunk, vectorized};
use crate::device::kernels::{self, FillArgs, ReduceBwdArgs, ReducePartialsArgs, ReduceTotalArgs};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Backward, Cost, Graph, InferResult, Op, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, Trial, in_f32, input};
use crate::ops::launch::{only_f32, vec_grid};
use crate::ops::{CHUNK_ELEMS, cast, cost_per_elem, dispatch_real, dispatch_storage, one_input, sum_dtype};
use crate::tensor::{DType, Shape};

/// What becomes of the sum of all elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// It is the result.
    Sum,
    /// It is divided by their number.
    Mean,
}

/// `x -> y []`, over all elements of x; y in f32 where x is bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reduce(pub Reduction);

/// `dy [] -> dx`, every element of which is scale*dy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReduceBwd {
    /// Shape of the gradient dx.
    pub shape: Shape,
    /// What each element of x adds to y.
    pub scale: f64,
    /// Type of dx.
    pub dtype: DType,
}

/// `() -> y`, every element of which is `value`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fill {
    /// Value of every element of the result.
    pub value: f32,
    /// Shape of the result.
    pub shape: Shape,
    /// Type of y: f32, or f64.
    pub dtype: DType,
}

/// Records the sum of all elements of `x`, a scalar.
///
/// # Errors
/// As [`Graph::apply`].
pub fn sum(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
    graph.apply_one(name, Reduce(Reduction::Sum), &[x])
}

/// Records the mean of all elements of `x`, a scalar.
///
/// # Errors
/// If `x` has none.
pub fn mean(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
    graph.apply_one(name, Reduce(Reduction::Mean), &[x])
}

/// Records a tensor of `shape`, every element of which is `value`: f32, or f64 in a graph of f64.
///
/// # Errors
/// As [`Graph::apply`].
pub fn fill(graph: &mut Graph, name: &str, shape: impl Into<Shape>, value: f32) -> Result<ValueId> {
    let op = Fill { value, shape: shape.into(), dtype: sum_dtype(graph.float()) };
    graph.apply_one(name, op, &[])
}

impl Reduce {
    fn scale(self, x: Shape) -> f64 {
        match self.0 {
            Reduction::Sum => 1.0,
            Reduction::Mean => 1.0 / x.num_elems() as f64,
        }
    }
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        match self.0 {
            Reduction::Sum => "sum_fwd",
            Reduction::Mean => "mean_fwd",
        }
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = one_input(inputs)?;
        if self.0 == Reduction::Mean && x.shape.num_elems() == 0 {
            return Err(format!("has no elements to take the mean of: {x}"));
        }
        Ok(vec![ValueType { shape: [].into(), dtype: sum_dtype(x.dtype) }])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.dy(self.name())?;
        let x = backward.graph.value(backward.inputs[0]).ty;
        let op = ReduceBwd { shape: x.shape, scale: self.scale(x.shape), dtype: x.dtype };
        Ok(vec![Some(backward.apply_one("bwd", op, &[dy])?)])
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let num_partials = match device {
            DeviceKind::Cpu => num_chunks(inputs[0].shape),
            DeviceKind::Cuda | DeviceKind::Simt => num_kernel_chunks(inputs[0].shape),
        };
        num_partials * size_of::<f64>()
    }

    /// One f64 sum a chunk, added up in order: the result does not depend on the number of threads.
    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: Reduce, args: &CpuArgs<'_>) {
            let x = args.input::<T>(0);
            let count = num_chunks(args.input_shape(0));
            let partials = &mut args.workspace::<f64>()[..count];
            for_each_chunk(partials, 1, |chunk, partial| {
                let end = x.len().min((chunk + 1) * CHUNK_ELEMS);
                partial[0] = sum_f64(&x[chunk * CHUNK_ELEMS..end]);
            });
            let total = partials.iter().sum::<f64>() * op.scale(args.input_shape(0));
            args.output::<T::Sum>(0)[0] = T::Sum::from_f64(total);
        }
        dispatch_storage!(args.input_dtype(0), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let x = &args.inputs[0];
        let num_partials = num_kernel_chunks(x.shape);
        let arguments = ReducePartialsArgs {
            x: args.address(x),
            partials: args.workspace(),
            num_elems: x.shape.num_elems() as u64,
        };
        kernels::reduce_partials(x.dtype)?.launch(launcher, num_partials, &arguments)?;
        let arguments = ReduceTotalArgs {
            partials: arguments.partials,
            y: args.output(0),
            num_partials: num_partials as u64,
            scale: self.scale(x.shape),
        };
        kernels::REDUCE_TOTAL.launch(launcher, 1, &arguments)
    }
}

/// The blocks of kernels/reduce_fwd.cu.
fn num_kernel_chunks(shape: Shape) -> usize {
    shape.num_elems().div_ceil(kernels::reduce_fwd::CHUNK_ELEMS)
}

fn num_chunks(shape: Shape) -> usize {
    shape.num_elems().div_ceil(CHUNK_ELEMS)
}

fn sum_f64<T: Storage>(values: &[T]) -> f64 {
    // Independent sums, enough to fill the vector lanes and hide the latency of the addition.
    const LANES: usize = 32;
    vectorized(|| {
        let (rows, rest) = values.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for row in rows {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value.load().to_f64());
        }
        sums.iter().sum::<f64>() + rest.iter().map(|value| value.load().to_f64()).sum::<f64>()
    })
}

impl Op for ReduceBwd {
    fn name(&self) -> &'static str {
        "reduce_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let dy = one_input(inputs)?;
        if dy.shape.rank() != 0 || dy.dtype != sum_dtype(self.dtype) {
            return Err(format!("needs a scalar {} dy, got {dy}", sum_dtype(self.dtype)));
        }
        Ok(vec![ValueType { shape: self.shape, dtype: self.dtype }])
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: ReduceBwd, args: &CpuArgs<'_>) {
            let dx = T::store(args.input::<T::Sum>(0)[0] * T::Sum::from_f64(op.scale));
            for_each_chunk(args.output::<T>(0), CHUNK_ELEMS, |_, part| part.fill(dx));
        }
        dispatch_storage!(self.dtype, run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dx = &args.outputs[0];
        let arguments = ReduceBwdArgs {
            dy: args.input(0),
            dx: args.address(dx),
            num_elems: dx.shape.num_elems() as u64,
            scale: self.scale,
        };
        kernels::reduce_bwd(dx.dtype)?.launch(launcher, vec_grid(dx), &arguments)
    }
}

impl Op for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        if !inputs.is_empty() || !matches!(self.dtype, DType::F32 | DType::F64) {
            return Err(format!(
                "takes no operand and makes f32 or f64, got {} and {}",
                inputs.len(),
                self.dtype
            ));
        }
        Ok(vec![ValueType { shape: self.shape, dtype: self.dtype }])
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Real>(value: f32, args: &CpuArgs<'_>) {
            let value = T::from_f64(f64::from(value));
            for_each_chunk(args.output::<T>(0), CHUNK_ELEMS, |_, part| part.fill(value));
        }
        dispatch_real!(self.dtype, run(self.value, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let y = &args.outputs[0];
        only_f32(self.name(), y.dtype)?;
        let num_elems = y.shape.num_elems() as u64;
        let arguments = FillArgs { y: args.address(y), num_elems, value: self.value, reserved: 0 };
        kernels::FILL_F32.launch(launcher, vec_grid(y), &arguments)
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("sum_odd_shape", &[&[2, 5, 3, 7]], |graph, x| sum(graph, "sum", x[0])),
        Case::new("mean_odd_shape", &[&[2, 5, 3, 7]], |graph, x| mean(graph, "mean", x[0])),
        Case::new("add_of_a_constant", &[&[3, 5]], |graph, x| {
            let constant = fill(graph, "constant", [3, 5], 0.75)?;
            let constant = cast(graph, "cast", constant, graph.float())?;
            crate::ops::add(graph, "add", x[0], constant)
        }),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let (len, shape) = (draw.num_elems() * draw.within(1, 20), draw.image(1));
    Trial::new(format!("reduce: {len} elements"), move |graph| {
        let x = input(graph, "x", [len]);
        graph.apply("sum", Reduce(Reduction::Sum), &[x])?;
        graph.apply("mean", Reduce(Reduction::Mean), &[x])?;
        let dy = in_f32(graph, "dy", []);
        let op = ReduceBwd { shape: shape.into(), scale: 0.25, dtype: graph.float() };
        graph.apply("dx", op, &[dy])?;
        graph.apply("constant", Fill { value: 0.3, shape: shape.into(), dtype: DType::F32 }, &[])?;
        Ok(())
    })
    .of_products()
}
