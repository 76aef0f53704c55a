//! A batch norm that a ReLU and a max pooling follow: what lies between them is never written.

use super::bwd::{Masking, backward};
use super::launch::{Norm, Partials, finalize_sums};
use super::{BatchNormApply, BatchNormBwd, Blocks, LEAST_ROWS, Mask, Normalize, Spread};
use crate::device::cpu::{CpuArgs, Storage};
use crate::device::kernels::{
    self, BatchNormPoolBwdArgs, BatchNormPoolBwdPartialsArgs, BatchNormPoolFwdArgs, PoolGeometry, PoolUnits,
};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InPlace, InferResult, Op, ValueType};
use crate::ops::checks::{Draw, DrawTrial, Trial, in_f32, input};
use crate::ops::launch::{ChannelGrid, SIGNED, below};
use crate::ops::max_pool::{
    MaxPool, MaxPoolBwd, PoolWindow, geometry, is_3x3, pixel_units, places, window_and_image,
};
use crate::ops::{dispatch_storage, same_shapes};
use crate::tensor::{DType, Shape};

/// `(x, gamma, beta, save_mean, save_rstd) -> (y, argmax)`: [`MaxPool`] of [`BatchNormApply`] with its ReLU. Set by fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormPool {
    /// The pooling's window.
    pub window: PoolWindow,
}

/// `(dy, x, gamma, save_mean, save_rstd, beta, argmax) -> (dx, dgamma, dbeta)`: [`BatchNormBwd`] of [`MaxPoolBwd`], with
/// [`Mask::Recomputed`]. Set by fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormPoolBwd {
    /// The window of the forward pass.
    pub window: PoolWindow,
}

/// The batch norm's part of the forward pass.
const APPLY: BatchNormApply = BatchNormApply { relu: true, residual: false, bits: false };
/// That of the backward pass.
const NORM: BatchNormBwd = BatchNormBwd { mask: Some(Mask::Recomputed), residual: false };
const NORM_OPERANDS: usize = 6;

impl BatchNormPoolBwd {
    /// The pooling's part.
    fn pool(self, x: Shape) -> MaxPoolBwd {
        let [_, height, width, _] = x.nhwc();
        MaxPoolBwd { window: self.window, height, width }
    }

    /// How blocks cover the units of x, `of` them.
    fn grid(self, x: ValueType, of: fn(Shape, DType) -> ChannelGrid) -> ChannelGrid {
        let units: usize = pixel_units(self.window, x).iter().product();
        of([units, x.shape.last()].into(), x.dtype)
    }
}

impl Op for BatchNormPoolBwd {
    fn name(&self) -> &'static str {
        "batch_norm_pool_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [dy, x, of_norm @ .., argmax] = inputs else {
            return Err(format!("takes 7 operands, got {}", inputs.len()));
        };
        if x.shape.as_4d().is_none() {
            return Err(format!("needs an NHWC image, got {x}"));
        }
        let dz = self.pool(x.shape).infer(&[*dy, *argmax])?[0];
        same_shapes(&[dz, *x], 2)?;
        NORM.infer(&[&[dz, *x], of_norm].concat())
    }

    fn output_names(&self) -> &'static [&'static str] {
        NORM.output_names()
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let taps = self.window.kernel_h * self.window.kernel_w;
        let flops = 11 * inputs[1].shape.num_elems() + 2 * 2 * taps * inputs[0].shape.num_elems();
        Cost::traffic(inputs, outputs).and_again(inputs, &[0, 1, NORM_OPERANDS]).with_flops(flops)
    }

    fn in_place(&self) -> &'static [InPlace] {
        NORM.in_place()
    }

    /// On the CPU, what reaches the batch norm is written after all: its passes read whole rows.
    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], outputs: &[ValueType]) -> usize {
        let x = inputs[1];
        match device {
            DeviceKind::Cpu => {
                NORM.workspace_bytes(device, &inputs[..NORM_OPERANDS], outputs)
                    + x.num_bytes().next_multiple_of(size_of::<f64>())
            }
            DeviceKind::Cuda | DeviceKind::Simt => {
                Partials::of(&self.grid(x, ChannelGrid::sums), 0).num_bytes()
            }
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: BatchNormPoolBwd, args: &CpuArgs<'_>) {
            let x = args.input_shape(1);
            let of_norm = Blocks::workspace_bytes(x) / size_of::<f64>();
            let (of_norm, dz) = args.workspace::<f64>().split_at_mut(of_norm);
            let dz = &mut bytemuck::cast_slice_mut::<f64, T>(dz)[..x.num_elems()];
            let argmax = args.input::<u8>(NORM_OPERANDS);
            op.pool(x).gather(args.input_shape(0).nhwc(), args.input::<T>(0), argmax, dz);
            let mask = Masking::Recomputed { gamma: args.input(2), beta: args.input(5) };
            backward(args, of_norm, dz, Some(mask), Spread::Rstd(args.input(4)), true);
        }
        dispatch_storage!(args.input_dtype(1), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (dy, x) = (&args.inputs[0], &args.inputs[1]);
        let image = ValueType { shape: x.shape, dtype: x.dtype };
        let (units, is_3x3) = (pixel_units(self.window, image), is_3x3(self.window, image));
        let num_units: usize = units.iter().product();
        below(SIGNED, num_units, "pixels")?;
        let geometry: PoolGeometry = geometry(self.window, x, dy)?;
        let units: PoolUnits = places(units, 1);
        let argmax = args.input(NORM_OPERANDS);

        let grid = self.grid(image, ChannelGrid::sums).checked()?;
        let arguments = BatchNormPoolBwdPartialsArgs {
            dy: args.address(dy),
            argmax,
            x: args.address(x),
            gamma: args.input(2),
            beta: args.input(5),
            mean: args.input(3),
            rstd: args.input(4),
            partials: args.workspace(),
            num_units: num_units as u32,
            block_units: grid.block_rows as u32,
            geometry,
            units,
            reserved: 0,
        };
        let kernel = if is_3x3 {
            kernels::batch_norm_pool_bwd_partials_3x3
        } else {
            kernels::batch_norm_pool_bwd_partials
        };
        kernel(x.dtype)?.launch(launcher, grid.grid(), &arguments)?;
        let saved = Norm::Saved { mean: &args.inputs[3], rstd: &args.inputs[4] };
        finalize_sums(Partials::of(&grid, args.workspace()), saved, args, launcher)?;

        let grid = self.grid(image, ChannelGrid::rows);
        let arguments = BatchNormPoolBwdArgs {
            dy: arguments.dy,
            argmax,
            x: arguments.x,
            gamma: arguments.gamma,
            beta: arguments.beta,
            mean: arguments.mean,
            rstd: arguments.rstd,
            dgamma: args.output(1),
            dbeta: args.output(2),
            dx: args.output(0),
            num_units: num_units as u32,
            block_units: grid.block_rows as u32,
            rows: (x.shape.num_elems() / x.shape.last()) as u32,
            geometry,
            units,
        };
        let kernel = if is_3x3 { kernels::batch_norm_pool_bwd_3x3 } else { kernels::batch_norm_pool_bwd };
        kernel(x.dtype)?.launch(launcher, grid.grid(), &arguments)
    }
}

impl BatchNormPool {
    fn pool(self) -> MaxPool {
        MaxPool(self.window)
    }
}

impl Op for BatchNormPool {
    fn name(&self) -> &'static str {
        "batch_norm_pool_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.pool().infer(&APPLY.infer(inputs)?)
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "argmax"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let taps = self.window.kernel_h * self.window.kernel_w;
        let flops = 4 * inputs[0].shape.num_elems() + taps * outputs[0].shape.num_elems();
        Cost::traffic(inputs, outputs).with_flops(flops)
    }

    /// On the CPU, the normalised image is written after all.
    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        match device {
            DeviceKind::Cpu => inputs[0].num_bytes(),
            DeviceKind::Cuda | DeviceKind::Simt => 0,
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: BatchNormPool, args: &CpuArgs<'_>) {
            let normalize = Normalize {
                x: Some(args.input::<T>(0)),
                residual: None,
                residual_norm: None,
                mean: args.input(3),
                spread: Spread::Rstd(args.input(4)),
                gamma: args.input(1),
                beta: args.input(2),
                relu: true,
            };
            let image = args.workspace::<T>();
            normalize.write(Blocks::new(args.input_shape(0)), image);
            let extents = [args.input_shape(0), args.output_shape(0)].map(|shape| shape.nhwc());
            op.pool().largest(extents, image, args.output(0), args.output(1));
        }
        dispatch_storage!(args.input_dtype(0), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (x, y) = (&args.inputs[0], &args.outputs[0]);
        let [n, p, q, channels] = y.shape.nhwc();
        let grid = ChannelGrid::rows([n * p * q, channels].into(), y.dtype).checked()?;
        let arguments = BatchNormPoolFwdArgs {
            x: args.address(x),
            gamma: args.input(1),
            beta: args.input(2),
            mean: args.input(3),
            rstd: args.input(4),
            y: args.address(y),
            argmax: args.output(1),
            num_units: grid.rows as u32,
            block_units: grid.block_rows as u32,
            geometry: geometry(self.window, x, y)?,
            units: places([n, p, q], 1),
            reserved: 0,
        };
        let image = ValueType { shape: x.shape, dtype: x.dtype };
        let is_3x3 = is_3x3(self.window, image);
        let kernel = if is_3x3 { kernels::batch_norm_pool_fwd_3x3 } else { kernels::batch_norm_pool_fwd };
        kernel(x.dtype)?.launch(launcher, grid.grid(), &arguments)
    }
}

/// What these operations are checked by: any windows, and those that have kernels of their own.
pub(super) fn trials() -> Vec<DrawTrial> {
    vec![
        Box::new(|draw| fwd_trial(window_and_image(draw))),
        Box::new(|draw| bwd_trial(window_and_image(draw))),
        Box::new(|draw| fwd_trial(window_of_resnets(draw))),
        Box::new(|draw| bwd_trial(window_of_resnets(draw))),
    ]
}

fn window_of_resnets(draw: &mut Draw) -> (PoolWindow, [usize; 4]) {
    let [n, h, w] = [draw.within(1, 3), draw.within(3, 20), draw.within(3, 20)];
    (PoolWindow::square(3, 2, 1), [n, h, w, 8 * draw.within(1, 12)])
}

/// Gamma and the spread are far from zero, or two normalised values could be one in bf16, and another tap the first.
fn fwd_trial((window, shape): (PoolWindow, [usize; 4])) -> Trial {
    Trial::new(format!("batch norm and max pool: {shape:?}, {window:?}"), move |graph| {
        let x = input(graph, "x", shape);
        let [gamma, beta, mean, rstd] =
            ["gamma.var", "beta", "mean", "rstd"].map(|name| in_f32(graph, name, [shape[3]]));
        graph.apply("y", BatchNormPool { window }, &[x, gamma, beta, mean, rstd])?;
        Ok(())
    })
    .of_units()
}

/// Sums of a few units are the same in bf16, to which dz is rounded on the way.
fn bwd_trial((window, mut shape): (PoolWindow, [usize; 4])) -> Trial {
    if shape[..3].iter().product::<usize>() < LEAST_ROWS {
        shape[0] = LEAST_ROWS;
    }
    Trial::new(format!("batch norm and max pool bwd: {shape:?}, {window:?}"), move |graph| {
        let c = shape[3];
        let x = input(graph, "x", shape);
        let pooled = graph.apply("pooled", MaxPool(window), &[x])?;
        let out_shape = graph.shape(pooled[0]);
        let dy = input(graph, "dy", out_shape);
        let [gamma, mean, rstd, beta] =
            ["gamma", "mean", "rstd", "beta"].map(|name| in_f32(graph, name, [c]));
        let operands = [dy, x, gamma, mean, rstd, beta, pooled[1]];
        graph.apply("dx", BatchNormPoolBwd { window }, &operands)?;
        Ok(())
    })
    .of_units()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Session;
    use crate::fuse::{Rewrite, fuse};
    use crate::graph::{Graph, ValueId};
    use crate::ops::add;
    use crate::plan::plan;
    use crate::rng::{Stream, Use};

    /// A pooling's gradient, then that of a batch norm with its ReLU; with `reuse`, x comes from a node and dies there, so
    /// that dx is written over it.
    fn chain(reuse: bool, window: PoolWindow) -> (Graph, Vec<ValueId>) {
        let mut graph = Graph::new(DType::F32);
        let mut x = graph.input("x", [2, 9, 7, 12], DType::F32);
        let pooled = graph.apply("pooled", MaxPool(window), &[x]).unwrap();
        if reuse {
            x = add(&mut graph, "twice", x, x).unwrap();
        }
        let shape = graph.shape(pooled[0]);
        let dy = graph.input("dy", shape, DType::F32);
        let [gamma, mean, rstd, beta] =
            ["gamma", "mean", "rstd", "beta"].map(|name| graph.input(name, [12], DType::F32));
        let gather = MaxPoolBwd { window, height: 9, width: 7 };
        let gradient = graph.apply_one("pool.bwd", gather, &[dy, pooled[1]]).unwrap();
        let results = graph.apply("norm.bwd", NORM, &[gradient, x, gamma, mean, rstd, beta]).unwrap();
        results.iter().for_each(|&id| graph.keep(id));
        (graph, results)
    }

    fn computed(graph: &Graph, results: &[ValueId]) -> Vec<Vec<u32>> {
        let mut session = Session::new(plan(&[graph], DeviceKind::Cpu).unwrap()).unwrap();
        let mut stream = Stream::new(1, 0, 0, Use::Init);
        for name in ["x", "dy", "gamma", "mean", "rstd", "beta"] {
            let Ok(slot) = session.plan(0).slot(name) else { continue };
            let values: Vec<f32> = (0..slot.shape.num_elems()).map(|_| stream.normal()).collect();
            session.write(&slot, &values).unwrap();
        }
        session.run_micro_batch(0).unwrap();
        let read = |&id: &ValueId| {
            let slot = session.plan(0).slot(&graph.value(id).name).unwrap();
            session.read::<f32>(&slot).unwrap().iter().map(|value| value.to_bits()).collect()
        };
        results.iter().map(read).collect()
    }

    #[test]
    fn pooling_and_batch_norm_in_one_have_the_bits_of_the_two_apart() {
        for window in [PoolWindow::square(3, 2, 1), PoolWindow::square(2, 2, 0)] {
            for reuse in [false, true] {
                let (apart, results) = chain(reuse, window);
                let together = fuse(&apart, &[Rewrite::BnPoolBwd]).unwrap();
                assert_eq!(together.nodes().len() + 1, apart.nodes().len());
                let expected = computed(&apart, &results);
                assert!(expected.iter().all(|values| values.iter().any(|&bits| bits != 0)));
                assert!(computed(&together, &results) == expected, "{window:?}, reuse {reuse}");
            }
        }
    }

    #[test]
    fn the_forward_passes_in_one_have_the_bits_of_the_two_apart() {
        for window in [PoolWindow::square(3, 2, 1), PoolWindow::square(2, 2, 0)] {
            let mut apart = Graph::new(DType::F32);
            let x = apart.input("x", [2, 9, 7, 12], DType::F32);
            let [gamma, beta, mean, rstd] =
                ["gamma", "beta", "mean", "rstd"].map(|name| apart.input(name, [12], DType::F32));
            let y = apart.apply_one("norm", APPLY, &[x, gamma, beta, mean, rstd]).unwrap();
            let pooled = apart.apply("pooled", MaxPool(window), &[y]).unwrap();
            apart.keep(pooled[0]);
            let together = fuse(&apart, &[Rewrite::BnPool]).unwrap();
            assert_eq!(together.nodes().len() + 1, apart.nodes().len());
            let expected = computed(&apart, &pooled[..1]);
            assert!(expected[0].iter().any(|&bits| bits != 0));
            assert!(computed(&together, &pooled[..1]) == expected, "{window:?}");
        }
    }
}
