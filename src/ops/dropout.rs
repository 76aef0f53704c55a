//! Dropout: in training each element is zero with probability p, else divided by 1 - p.
//!
//! Random numbers are counted: those of an element are a function of the seed, the number of the batch, the layer and the
//! element's position, so the backward pass draws the same ones instead of keeping a mask, and a resumed run draws those
//! that it would have drawn. Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from
//! overfitting" (2014).

use crate::device::cpu::{CpuArgs, Real, Storage, for_each_chunk};
use crate::device::kernels::{self, DropoutArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::{Error, Result};
use crate::graph::{Backward, Cost, Graph, InPlace, InferResult, Op, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, Trial, input};
use crate::ops::launch::{UNSIGNED, below};
use crate::ops::{CHUNK_ELEMS, Mode, dispatch_storage, float};
use crate::rng::{Use, philox4x32_10, unit_interval};
use crate::tensor::DType;

/// Name of the input that the host writes before every batch: i32 `[4]` with the bits of the seed (low word, high word),
/// the number of the batch and 0.
pub const DRAWS: &str = "draws";

/// `(x, draws [4]) -> y`, both of any shape; applied to dy it is its own gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability with which an element becomes zero.
    pub p: f32,
    /// Tells layers apart, which draw numbers of their own.
    pub layer: u32,
}

/// Records dropout of `x` with probability `p` of zero; `x` itself in evaluation.
///
/// # Errors
/// [`Error::Graph`] if `p` is not at least 0 and below 1.
pub fn dropout(graph: &mut Graph, name: &str, x: ValueId, p: f32, mode: Mode) -> Result<ValueId> {
    if !(0.0..1.0).contains(&p) {
        let message = format!("needs a probability of at least 0 and below 1, got {p}");
        return Err(Error::Graph { op: "dropout", node: name.to_string(), message });
    }
    if mode == Mode::Eval || p == 0.0 {
        return Ok(x);
    }
    let draws = graph.shared_input(DRAWS, [4], DType::I32);
    let layer = crc32c::crc32c(graph.path(name).as_bytes());
    graph.apply_one(name, Dropout { p, layer }, &[x, draws])
}

impl Dropout {
    fn scale(self) -> f32 {
        1.0 / (1.0 - self.p)
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        match inputs {
            [x, draws] if draws.dtype == DType::I32 && draws.shape == [4].into() => Ok(vec![float(*x)?]),
            _ => Err(format!("takes x and draws, i32 of 4 elements, got {} operands", inputs.len())),
        }
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        // Of few elements there may be more words of draws.
        Cost::traffic(inputs, outputs).with_flops(outputs[0].shape.num_elems())
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (dy, draws) = (backward.dy(self.name())?, backward.inputs[1]);
        Ok(vec![Some(backward.apply_one("bwd", *self, &[dy, draws])?), None])
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 0 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: Dropout, args: &CpuArgs<'_>) {
            let &[low, high, batch, _] = args.input::<i32>(1) else {
                unreachable!("the shape rule asked for four")
            };
            let scale = T::Sum::from_f64(f64::from(op.scale()));
            for_each_chunk(args.output_over_input::<T>(0, 0), CHUNK_ELEMS, |start, y| {
                for (group, y) in (start / 4..).zip(y.chunks_mut(4)) {
                    let counter = [group as u32, batch as u32, op.layer, Use::Dropout as u32];
                    let words = philox4x32_10(counter, [low as u32, high as u32]);
                    for (y, word) in y.iter_mut().zip(words) {
                        *y = if unit_interval(word) < op.p { T::ZERO } else { T::store(y.load() * scale) };
                    }
                }
            });
        }
        dispatch_storage!(args.output_dtype(0), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let x = &args.inputs[0];
        let num_elems = x.shape.num_elems();
        below(UNSIGNED, num_elems.div_ceil(4), "groups of four elements")?;
        let arguments = DropoutArgs {
            x: args.address(x),
            y: args.output(0),
            draws: args.input(1),
            num_elems: num_elems as u64,
            layer: self.layer,
            usage: Use::Dropout as u32,
            p: self.p,
            scale: self.scale(),
        };
        kernels::dropout(x.dtype)?.launch(launcher, kernels::loop_grid(num_elems, 4), &arguments)
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("dropout_odd_shape", &[&[2, 5, 3, 7]], |graph, x| {
            let draws = graph.input("labels", [4], DType::I32);
            graph.apply_one("dropped", Dropout { p: 0.375, layer: 77 }, &[x[0], draws])
        })
        .with_labels(&[3, -1, 12, 0]),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let (len, p) = (draw.num_elems(), draw.pick(&[0.1, 0.5]));
    Trial::new(format!("dropout: {len} elements, {p}"), move |graph| {
        let x = input(graph, "x", [len]);
        let draws = graph.input(DRAWS, [4], DType::I32);
        graph.apply("y", Dropout { p, layer: 77 }, &[x, draws])?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceKind;
    use crate::exec::Session;
    use crate::plan::plan;

    fn dropped(layer: &str, draws: [i32; 4], len: usize) -> Vec<f32> {
        let mut graph = Graph::new(DType::F32);
        let x = graph.input("x", [len], DType::F32);
        let y = dropout(&mut graph, layer, x, 0.25, Mode::Train).unwrap();
        graph.keep(y);
        let mut session = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
        session.set(0, "x", &vec![3.0f32; len]).unwrap();
        session.set(0, DRAWS, &draws).unwrap();
        session.run_micro_batch(0).unwrap();
        session.value::<f32>(0, layer).unwrap().into_owned()
    }

    #[test]
    fn a_quarter_of_the_elements_is_dropped_and_the_mean_stays() {
        let y = dropped("drop", [1, 2, 3, 0], 40_000);
        assert!(y.iter().all(|&v| v == 0.0 || (v - 4.0).abs() < 1e-6));
        let mean = y.iter().map(|&v| f64::from(v)).sum::<f64>() / 40_000.0;
        assert!((mean - 3.0).abs() < 0.03, "{mean}");
    }

    #[test]
    fn seed_batch_and_layer_draw_numbers_of_their_own() {
        let base = dropped("drop", [1, 2, 3, 0], 400);
        assert_eq!(base, dropped("drop", [1, 2, 3, 0], 400));
        for other in [
            dropped("drop", [9, 2, 3, 0], 400),
            dropped("drop", [1, 2, 4, 0], 400),
            dropped("other", [1, 2, 3, 0], 400),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn evaluation_passes_x_through() {
        let mut graph = Graph::new(DType::F32);
        let x = graph.input("x", [4], DType::F32);
        assert_eq!(dropout(&mut graph, "drop", x, 0.5, Mode::Eval).unwrap(), x);
        assert!(
            dropout(&mut graph, "drop", x, 1.0, Mode::Train).unwrap_err().to_string().contains("below 1")
        );
    }
}
