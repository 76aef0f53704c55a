//! GELU as an operation of one's own: CPU code, a gradient that finite differences confirm, and what a device says that
//! has no kernel for it. `cargo run --release --example own_operation`

use residuum::check::{finite_differences, run};
use residuum::device::{Device, cpu::CpuArgs, cpu::Real, cpu::for_each_chunk};
use residuum::graph::{Backward, InferResult, Op, ValueId, ValueType};
use residuum::ops::{CHUNK_ELEMS, Case, one_input, same_shapes};
use residuum::{Result, dispatch_real, tensor::DType};

/// `x -> y`, y = x/2 * (1 + t) with t = tanh(a*(x + b*x^3)).
#[derive(Debug)]
struct Gelu;
/// `(dy, x) -> dx`.
#[derive(Debug)]
struct GeluBwd;
/// y and dy/dx at x.
fn gelu<T: Real>(x: T) -> (T, T) {
    let [a, b, half, three] = [0.797_884_560_802_865_4, 0.044715, 0.5, 3.0].map(T::from_f64);
    let t = (a * (x + b * x * x * x)).tanh();
    let dt = (T::ONE - t * t) * a * (T::ONE + three * b * x * x);
    (half * x * (T::ONE + t), half * (T::ONE + t + x * dt))
}

#[rustfmt::skip]
impl Op for Gelu {
    fn name(&self) -> &'static str { "gelu_fwd" }
    fn infer(&self, inputs: &[ValueType]) -> InferResult { Ok(vec![one_input(inputs)?]) }
    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let operands = [backward.dy(self.name())?, backward.inputs[0]];
        Ok(vec![Some(backward.apply_one("bwd", GeluBwd, &operands)?)])
    }
    fn cpu(&self, args: &CpuArgs<'_>) { dispatch_real!(args.output_dtype(0), elementwise(args, |v| gelu(v[0]).0)) }
}

#[rustfmt::skip]
impl Op for GeluBwd {
    fn name(&self) -> &'static str { "gelu_bwd" }
    fn infer(&self, inputs: &[ValueType]) -> InferResult { Ok(vec![same_shapes(inputs, 2)?]) }
    fn cpu(&self, args: &CpuArgs<'_>) { dispatch_real!(args.output_dtype(0), elementwise(args, |v| v[0] * gelu(v[1]).1)) }
}

/// Makes each element of the result from those of the operands.
fn elementwise<T: Real>(args: &CpuArgs<'_>, one: fn([T; 2]) -> T) {
    let inputs = [0, args.num_inputs() - 1].map(|i| args.input::<T>(i));
    for_each_chunk(args.output::<T>(0), CHUNK_ELEMS, |start, y| {
        (start..).zip(y).for_each(|(i, y)| *y = one(inputs.map(|x| x[i])));
    });
}

fn main() -> Result<()> {
    let case = Case::new("gelu", &[&[3, 5]], |graph, x| graph.apply_one("gelu", Gelu, &[x[0]]));
    let outcome = finite_differences(&case)?;
    println!("gradient: off by {:.1e}, {:.0e} allowed", outcome.error, outcome.tolerance);
    assert!(outcome.passed(), "{}", outcome.worst);
    let emulator = Device::Simt.open_kernels().map(|device| device.expect("it runs kernels"));
    let refusal = emulator.and_then(|device| run(case.name, &case, DType::F32, device)).unwrap_err();
    println!("on the emulator: {refusal}");
    Ok(())
}
