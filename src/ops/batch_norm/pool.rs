//! A batch norm that a ReLU and a max pooling follow: what lies between them is never written.

use super::apply::dx;
use super::{BatchNormApply, BatchNormDx, Blocks, Normalize, Spread};
use crate::device::cpu::{CpuArgs, Storage, for_each_chunk, vectorized};
use crate::device::kernels::{self, BatchNormPoolBwdArgs, BatchNormPoolFwdArgs, PoolGeometry, PoolUnits};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, InPlace, InferResult, Op, ValueType};
use crate::ops::checks::{Draw, DrawTrial, Trial, in_f32, input};
use crate::ops::dispatch_storage;
use crate::ops::launch::{ChannelGrid, SIGNED, below};
use crate::ops::max_pool::{
    MaxPool, MaxPoolBwd, PoolWindow, geometry, is_3x3, pixel_units, places, window_and_image,
};
use crate::tensor::Shape;

/// `(x, gamma, beta, save_mean, save_rstd) -> (y, argmax, largest)`: [`MaxPool`] of [`BatchNormApply`] with its ReLU. Both keep
/// the order of numbers, or turn it round where gamma*rstd is below 0, so y is computed of one pixel a window: `largest` is its x,
/// `argmax` the first tap that has it. Where several numbers of a window become one y, that is the tap of the largest before.
/// Set by fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormPool {
    /// The pooling's window.
    pub window: PoolWindow,
}

/// `(dz, x, gamma, save_mean, save_rstd, dgamma, dbeta, argmax) -> dx`: [`BatchNormDx`] of [`MaxPoolBwd`], where dz is the
/// gradient of the pooling's result behind the mask of the ReLU. Set by fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormPoolDx {
    /// The window of the forward pass.
    pub window: PoolWindow,
}

/// The batch norm's part of the forward pass.
const APPLY: BatchNormApply = BatchNormApply { relu: true, residual: false, bits: false };
/// Place of argmax, behind the operands of [`BatchNormDx`].
const ARGMAX: usize = 7;

impl BatchNormPoolDx {
    /// The pooling's part.
    fn pool(self, x: Shape) -> MaxPoolBwd {
        let [_, height, width, _] = x.nhwc();
        MaxPoolBwd { window: self.window, height, width }
    }
}

impl Op for BatchNormPoolDx {
    fn name(&self) -> &'static str {
        "batch_norm_pool_dx"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [dz, x, of_norm @ .., argmax] = inputs else {
            return Err(format!("takes 8 operands, got {}", inputs.len()));
        };
        if x.shape.as_4d().is_none() {
            return Err(format!("needs an NHWC image, got {x}"));
        }
        let of_pixels = self.pool(x.shape).infer(&[*dz, *argmax])?[0];
        BatchNormDx.infer(&[&[of_pixels, *x], of_norm].concat())
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let taps = self.window.kernel_h * self.window.kernel_w;
        let flops = 6 * inputs[1].shape.num_elems() + 2 * taps * inputs[0].shape.num_elems();
        Cost::traffic(inputs, outputs).with_flops(flops)
    }

    fn in_place(&self) -> &'static [InPlace] {
        BatchNormDx.in_place()
    }

    /// On the CPU, what reaches the pixels is written after all: the last pass reads whole rows.
    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        match device {
            DeviceKind::Cpu => inputs[1].num_bytes(),
            DeviceKind::Cuda | DeviceKind::Simt => 0,
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: BatchNormPoolDx, args: &CpuArgs<'_>) {
            let of_pixels = args.workspace::<T>();
            let pool = op.pool(args.input_shape(1));
            pool.gather(args.input_shape(0).nhwc(), args.input::<T>(0), args.input(ARGMAX), of_pixels);
            dx(args, of_pixels, 1, 0);
        }
        dispatch_storage!(args.input_dtype(1), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (dz, x) = (&args.inputs[0], &args.inputs[1]);
        let image = ValueType { shape: x.shape, dtype: x.dtype };
        let units = pixel_units(self.window, image);
        let num_units: usize = units.iter().product();
        below(SIGNED, num_units, "pixels")?;
        let grid = ChannelGrid::long_rows([num_units, x.shape.last()].into(), x.dtype);
        let geometry: PoolGeometry = geometry(self.window, x, dz)?;
        let units: PoolUnits = places(units, 1);
        let arguments = BatchNormPoolBwdArgs {
            dz: args.address(dz),
            argmax: args.input(ARGMAX),
            x: args.address(x),
            gamma: args.input(2),
            mean: args.input(3),
            rstd: args.input(4),
            dgamma: args.input(5),
            dbeta: args.input(6),
            dx: args.output(0),
            num_units: num_units as u32,
            block_units: grid.block_rows as u32,
            rows: (x.shape.num_elems() / x.shape.last()) as u32,
            geometry,
            units,
        };
        let is_3x3 = is_3x3(self.window, image);
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
        let mut results = self.pool().infer(&APPLY.infer(inputs)?)?;
        results.push(results[0]);
        Ok(results)
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "argmax", "largest"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let taps = self.window.kernel_h * self.window.kernel_w;
        Cost::traffic(inputs, outputs).with_flops((taps + 4) * outputs[0].shape.num_elems())
    }

    /// On the CPU, the image with its order as it will be is written after all.
    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        match device {
            DeviceKind::Cpu => inputs[0].num_bytes(),
            DeviceKind::Cuda | DeviceKind::Simt => 0,
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: BatchNormPool, args: &CpuArgs<'_>) {
            let (gamma, rstd) = (args.input::<T::Sum>(1), args.input::<T::Sum>(4));
            // Negates the channels whose order a batch norm turns round.
            let turn = |image: &mut [T]| {
                vectorized(|| {
                    for pixel in image.chunks_exact_mut(gamma.len()) {
                        for ((value, &gamma), &rstd) in pixel.iter_mut().zip(gamma).zip(rstd) {
                            let x = value.load();
                            *value = T::store(if gamma * rstd < T::Sum::ZERO { -x } else { x });
                        }
                    }
                });
            };
            let (x, image) = (args.input::<T>(0), args.workspace::<T>());
            let (y, largest) = (args.output::<T>(0), args.output::<T>(2));
            for_each_chunk(image, Blocks::new(args.input_shape(0)).elems(), |start, image| {
                image.copy_from_slice(&x[start..][..image.len()]);
                turn(image);
            });
            let extents = [args.input_shape(0), args.output_shape(0)].map(|shape| shape.nhwc());
            op.pool().largest(extents, image, largest, args.output(1));
            let blocks = Blocks::new(args.output_shape(0));
            for_each_chunk(largest, blocks.elems(), |_, largest| turn(largest));
            let normalize = Normalize {
                x: Some(&*largest),
                residual: None,
                residual_norm: None,
                mean: args.input(3),
                spread: Spread::Rstd(rstd),
                gamma,
                beta: args.input(2),
                relu: true,
            };
            normalize.write(blocks, y);
        }
        dispatch_storage!(args.input_dtype(0), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (x, y) = (&args.inputs[0], &args.outputs[0]);
        let [n, p, q, channels] = y.shape.nhwc();
        let grid = ChannelGrid::long_rows([n * p * q, channels].into(), y.dtype).checked()?;
        let arguments = BatchNormPoolFwdArgs {
            x: args.address(x),
            gamma: args.input(1),
            beta: args.input(2),
            mean: args.input(3),
            rstd: args.input(4),
            y: args.address(y),
            argmax: args.output(1),
            largest: args.output(2),
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

fn fwd_trial((window, shape): (PoolWindow, [usize; 4])) -> Trial {
    Trial::new(format!("batch norm and max pool: {shape:?}, {window:?}"), move |graph| {
        let x = input(graph, "x", shape);
        let [gamma, beta, mean, rstd] =
            ["gamma", "beta", "mean", "rstd"].map(|name| in_f32(graph, name, [shape[3]]));
        graph.apply("y", BatchNormPool { window }, &[x, gamma, beta, mean, rstd])?;
        Ok(())
    })
    .of_units()
}

/// Sums of a few units are the same in bf16, to which what reaches a pixel is rounded on the way.
fn bwd_trial((window, shape): (PoolWindow, [usize; 4])) -> Trial {
    Trial::new(format!("batch norm and max pool bwd: {shape:?}, {window:?}"), move |graph| {
        let c = shape[3];
        let x = input(graph, "x", shape);
        let pooled = graph.apply("pooled", MaxPool(window), &[x])?;
        let out_shape = graph.shape(pooled[0]);
        let dz = input(graph, "dz", out_shape);
        let [gamma, mean, rstd, dgamma, dbeta] =
            ["gamma", "mean", "rstd", "dgamma", "dbeta"].map(|name| in_f32(graph, name, [c]));
        let operands = [dz, x, gamma, mean, rstd, dgamma, dbeta, pooled[1]];
        graph.apply("dx", BatchNormPoolDx { window }, &operands)?;
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
    use crate::tensor::DType;

    /// The last pass of a batch norm over a pooling's gradient, in one or apart; with `reuse`, x comes from a node and dies
    /// there, so that dx is written over it.
    fn last_pass(in_one: bool, reuse: bool, window: PoolWindow) -> (Graph, ValueId) {
        let mut graph = Graph::new(DType::F32);
        let mut x = graph.input("x", [2, 9, 7, 12], DType::F32);
        let pooled = graph.apply("pooled", MaxPool(window), &[x]).unwrap();
        if reuse {
            x = add(&mut graph, "twice", x, x).unwrap();
        }
        let shape = graph.shape(pooled[0]);
        let dz = graph.input("dz", shape, DType::F32);
        let of_norm =
            ["gamma", "mean", "rstd", "dgamma", "dbeta"].map(|name| graph.input(name, [12], DType::F32));
        let dx = if in_one {
            let operands = [&[dz, x], &of_norm[..], &pooled[1..]].concat();
            graph.apply_one("dx", BatchNormPoolDx { window }, &operands).unwrap()
        } else {
            let gather = MaxPoolBwd { window, height: 9, width: 7 };
            let of_pixels = graph.apply_one("pool.bwd", gather, &[dz, pooled[1]]).unwrap();
            graph.apply_one("dx", BatchNormDx, &[&[of_pixels, x], &of_norm[..]].concat()).unwrap()
        };
        graph.keep(dx);
        (graph, dx)
    }

    fn computed(graph: &Graph, result: ValueId) -> Vec<u32> {
        let mut session = Session::new(plan(&[graph], DeviceKind::Cpu).unwrap()).unwrap();
        let mut stream = Stream::new(1, 0, 0, Use::Init);
        for name in ["x", "dz", "gamma", "mean", "rstd", "beta", "dgamma", "dbeta"] {
            let Ok(slot) = session.plan(0).slot(name) else { continue };
            let values: Vec<f32> = (0..slot.shape.num_elems()).map(|_| stream.normal()).collect();
            session.write(&slot, &values).unwrap();
        }
        session.run_micro_batch(0).unwrap();
        let slot = session.plan(0).slot(&graph.value(result).name).unwrap();
        session.read::<f32>(&slot).unwrap().iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn the_last_pass_over_a_poolings_gradient_has_the_bits_of_the_two_apart() {
        for window in [PoolWindow::square(3, 2, 1), PoolWindow::square(2, 2, 0)] {
            for reuse in [false, true] {
                let [apart, together] = [false, true].map(|in_one| {
                    let (graph, dx) = last_pass(in_one, reuse, window);
                    computed(&graph, dx)
                });
                assert!(apart.iter().any(|&bits| bits != 0));
                assert!(together == apart, "{window:?}, reuse {reuse}");
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
            let expected = computed(&apart, pooled[0]);
            assert!(expected.iter().any(|&bits| bits != 0));
            assert!(computed(&together, pooled[0]) == expected, "{window:?}");
        }
    }
}
