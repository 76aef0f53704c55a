//! A learned number for each channel, added to every pixel: y = x + b. Convolutions that batch norm does not follow have
//! one, and so do those of networks older than batch norm.

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk, vectorized};
use crate::device::kernels::{self, AddBiasBwdPartialsArgs, AddBiasBwdTotalArgs, AddBiasFwdArgs};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{
    Backward, Cost, Graph, InPlace, InferResult, Init, Onnx, OnnxNode, Op, ValueId, ValueType,
};
use crate::ops::checks::{Case, Checks, Draw, Trial, in_f32, input};
use crate::ops::launch::ChannelGrid;
use crate::ops::{cost_per_elem, dispatch_storage, float, one_input, sum_dtype};
use crate::tensor::Layout;

/// Rows that one partial sum of the backward pass takes on the CPU.
const CHUNK_ROWS: usize = 1024;

/// `(x [.., C], bias [C]) -> y`, of x's type; the bias in f32 where x is bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddBias;

/// `dy [.., C] -> dbias [C]`: the sum over all rows, in f32 where dy is bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddBiasBwd;

/// Records y = x + b with the parameter `<name>.bias`, one number for each channel of `x`, zero at first.
///
/// # Errors
/// If `x` has no channels.
pub fn add_bias(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
    let channels = graph.shape(x).last();
    let bias = graph.parameter(&format!("{name}.bias"), [channels], Layout::Flat, Init::Constant(0.0));
    graph.apply_one(&format!("{name}.add_bias"), AddBias, &[x, bias])
}

impl Op for AddBias {
    fn name(&self) -> &'static str {
        "add_bias_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [x, bias] = inputs else {
            return Err(format!("takes x and a bias, got {} operands", inputs.len()));
        };
        float(*x)?;
        let expected = ValueType { shape: [x.shape.last()].into(), dtype: sum_dtype(x.dtype) };
        match x.shape.rank() > 0 && *bias == expected {
            true => Ok(vec![*x]),
            false => Err(format!("needs a bias of {expected} for x {x}, got {bias}")),
        }
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.dy(self.name())?;
        let dbias =
            if backward.wanted[1] { Some(backward.apply_one("bwd", AddBiasBwd, &[dy])?) } else { None };
        Ok(vec![Some(dy), dbias])
    }

    fn onnx(&self, inputs: &[ValueType]) -> Option<Onnx> {
        // ONNX adds along the last dimension; only rows of features have their channels there.
        Some(if inputs[0].shape.rank() == 4 { Onnx::ConvBias } else { OnnxNode::new("Add").into() })
    }

    fn in_place(&self) -> &'static [InPlace] {
        &[InPlace { output: 0, input: 0 }]
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let bias = args.input::<T::Sum>(1);
            for_each_chunk(args.output_over_input::<T>(0, 0), CHUNK_ROWS * bias.len(), |_, y| {
                vectorized(|| {
                    for row in y.chunks_exact_mut(bias.len()) {
                        row.iter_mut().zip(bias).for_each(|(y, &b)| *y = T::store(y.load() + b));
                    }
                });
            });
        }
        dispatch_storage!(args.output_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let x = &args.inputs[0];
        let grid = ChannelGrid::rows(x.shape, x.dtype).checked()?;
        let arguments = AddBiasFwdArgs {
            x: args.address(x),
            bias: args.input(1),
            y: args.output(0),
            rows: grid.rows as u32,
            channels: grid.channels as u32,
            block_rows: grid.block_rows as u32,
            is_wide: grid.is_wide.into(),
        };
        kernels::add_bias_fwd(x.dtype)?.launch(launcher, grid.grid(), &arguments)
    }
}

impl Op for AddBiasBwd {
    fn name(&self) -> &'static str {
        "add_bias_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let dy = one_input(inputs)?;
        match dy.shape.rank() {
            0 => Err(format!("needs dy with channels, got {dy}")),
            _ => Ok(vec![ValueType { shape: [dy.shape.last()].into(), dtype: sum_dtype(dy.dtype) }]),
        }
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], outputs: &[ValueType]) -> usize {
        let ValueType { shape, dtype } = inputs[0];
        let channels = shape.last();
        match device {
            DeviceKind::Cpu => num_chunks(shape.num_elems(), channels) * outputs[0].num_bytes(),
            DeviceKind::Cuda | DeviceKind::Simt => {
                ChannelGrid::sums(shape, dtype).num_blocks() * channels * size_of::<f32>()
            }
        }
    }

    /// One sum a chunk of rows, added up in order: the result does not depend on the number of threads.
    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(args: &CpuArgs<'_>) {
            let (dy, dbias) = (args.input::<T>(0), args.output::<T::Sum>(0));
            let channels = dbias.len();
            let partials = &mut args.workspace::<T::Sum>()[..num_chunks(dy.len(), channels) * channels];
            for_each_chunk(partials, channels, |start, sums| {
                let rows = dy.chunks(CHUNK_ROWS * channels).nth(start / channels).unwrap_or_default();
                add_rows(rows, sums);
            });
            add_rows(partials, dbias);
        }
        dispatch_storage!(args.input_dtype(0), run(args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dy = &args.inputs[0];
        let grid = ChannelGrid::sums(dy.shape, dy.dtype).checked()?;
        let arguments = AddBiasBwdPartialsArgs {
            dy: args.address(dy),
            partials: args.workspace(),
            rows: grid.rows as u32,
            channels: grid.channels as u32,
            block_rows: grid.block_rows as u32,
            is_wide: grid.is_wide.into(),
        };
        kernels::add_bias_bwd_partials(dy.dtype)?.launch(launcher, grid.grid(), &arguments)?;
        let totals = grid.totals();
        let arguments = AddBiasBwdTotalArgs {
            partials: arguments.partials,
            dbias: args.output(0),
            num_blocks: grid.num_blocks() as u32,
            columns: totals.columns as u32,
            channels: grid.channels as u64,
        };
        kernels::ADD_BIAS_BWD_TOTAL.launch(launcher, totals.blocks, &arguments)
    }
}

fn num_chunks(num_elems: usize, channels: usize) -> usize {
    (num_elems / channels.max(1)).div_ceil(CHUNK_ROWS)
}

/// The sum of `rows`, each as long as `sums`.
fn add_rows<T: Storage>(rows: &[T], sums: &mut [T::Sum]) {
    sums.fill(T::Sum::ZERO);
    let len = sums.len();
    vectorized(|| {
        rows.chunks_exact(len)
            .for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += v.load()));
    });
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("add_bias_to_an_image", &[&[2, 5, 3, 7], &[7]], |graph, x| {
            graph.apply_one("biased", AddBias, &[x[0], x[1]])
        })
        .with_f32(&[1]),
        Case::new("add_bias_of_whole_vectors", &[&[3, 4, 5, 24], &[24]], |graph, x| {
            graph.apply_one("biased", AddBias, &[x[0], x[1]])
        })
        .with_f32(&[1]),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let shape = draw.image_to_sum(1);
    Trial::new(format!("bias: {shape:?}"), move |graph| {
        let (x, dy) = (input(graph, "x", shape), input(graph, "dy", shape));
        let bias = in_f32(graph, "bias", [shape[3]]);
        graph.apply("y", AddBias, &[x, bias])?;
        graph.apply("dbias", AddBiasBwd, &[dy])?;
        Ok(())
    })
    .of_products()
}
