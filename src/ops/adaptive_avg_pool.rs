//! Adaptive average pooling: the mean of each channel over each cell of a grid whose size does not depend on the image's.
//!
//! Along an axis of `in` pixels cut into `out` cells, cell i holds the pixels from floor(i * in / out) to before
//! ceil((i + 1) * in / out), as in PyTorch: neighbours share a pixel where `out` does not divide `in`.

use std::ops::Range;

use crate::device::cpu::{
    ChannelTile, CpuArgs, Real, Storage, for_each_channel_tile, for_each_chunk, lanes, lanes_mut,
};
use crate::device::kernels::{self, AdaptiveAvgPoolArgs};
use crate::device::{LaunchArgs, Launcher, Slot};
use crate::error::Result;
use crate::graph::{
    Backward, Cost, Graph, InferResult, Onnx, OnnxAttribute, OnnxNode, Op, ValueId, ValueType,
};
use crate::ops::checks::{Case, Checks, Draw, Trial, input};
use crate::ops::launch::{UNSIGNED, below};
use crate::ops::{cost_per_elem, dispatch_storage, one_input};
use crate::tensor::Tensor;

/// `x [N,H,W,C] -> y [N,P,Q,C]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveAvgPool {
    /// Height and width of y, P and Q.
    pub out: [usize; 2],
}

/// `dy [N,P,Q,C] -> dx [N,H,W,C]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveAvgPoolBwd {
    /// Height and width of dx.
    pub image: [usize; 2],
}

/// Records the means of NHWC `x` over a grid of `out` cells, height by width; `x` itself if it has that size.
///
/// # Errors
/// If `x` is not an image with pixels, or `out` has no cells.
pub fn adaptive_avg_pool(graph: &mut Graph, name: &str, x: ValueId, out: [usize; 2]) -> Result<ValueId> {
    match graph.shape(x).as_4d() {
        Some([_, h, w, _]) if [h, w] == out => Ok(x),
        _ => graph.apply_one(name, AdaptiveAvgPool { out }, &[x]),
    }
}

/// The pixels of cell `i`.
fn pixels_of(i: usize, len: usize, out: usize) -> Range<usize> {
    i * len / out..((i + 1) * len).div_ceil(out)
}

/// The cells that hold pixel `i`.
fn cells_over(i: usize, len: usize, out: usize) -> Range<usize> {
    i * out / len..((i + 1) * out).div_ceil(len)
}

/// The operand with another height and width, where both are images.
fn resized(inputs: &[ValueType], [height, width]: [usize; 2]) -> InferResult<ValueType> {
    let x = one_input(inputs)?;
    match x.shape.as_4d() {
        Some([n, h, w, c]) if h * w > 0 && height * width > 0 => {
            Ok(ValueType { shape: [n, height, width, c].into(), dtype: x.dtype })
        }
        _ => Err(format!("needs an NHWC image and a grid with cells, got {x} and {height}x{width}")),
    }
}

impl Op for AdaptiveAvgPool {
    fn name(&self) -> &'static str {
        "adaptive_avg_pool_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        Ok(vec![resized(inputs, self.out)?])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost_per_elem(1, inputs, outputs)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let dy = backward.dy(self.name())?;
        let dims = backward.graph.shape(backward.inputs[0]);
        let op = AdaptiveAvgPoolBwd { image: [dims.dims()[1], dims.dims()[2]] };
        Ok(vec![Some(backward.apply_one("bwd", op, &[dy])?)])
    }

    fn onnx(&self, inputs: &[ValueType]) -> Option<Onnx> {
        // ONNX has no such operator: a matrix of means along each axis instead.
        let means = |len: usize, out: usize| {
            let mut means = vec![0.0; out * len];
            for (i, row) in means.chunks_exact_mut(len).enumerate() {
                let pixels = pixels_of(i, len, out);
                let mean = 1.0 / pixels.len() as f32;
                row[pixels].fill(mean);
            }
            Tensor::new([out, len], means)
        };
        let ([_, h, w, _], [p, q]) = (inputs[0].shape.nhwc(), self.out);
        let node = OnnxNode::new("Einsum").with("equation", OnnxAttribute::Text("nchw,ph,qw->ncpq"));
        Some(OnnxNode { constants: vec![means(h, p), means(w, q)], ..node }.into())
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>([out_height, out_width]: [usize; 2], args: &CpuArgs<'_>) {
            let [_, height, width, channels] = args.input_shape(0).nhwc();
            let x = args.input::<T>(0);
            for_each_chunk(args.output::<T>(0), channels, |start, y| {
                let cell = start / channels;
                let image = cell / out_width / out_height * height;
                let rows = pixels_of(cell / out_width % out_height, height, out_height);
                let columns = pixels_of(cell % out_width, width, out_width);
                let rows = image + rows.start..image + rows.end;
                for_each_channel_tile(channels, &mut CellTile { x, width, rows, columns, y });
            });
        }
        dispatch_storage!(args.input_dtype(0), run(self.out, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (x, y) = (&args.inputs[0], &args.outputs[0]);
        let (arguments, grid) = operands(args, (x, y), y)?;
        kernels::adaptive_avg_pool_fwd(x.dtype)?.launch(launcher, grid, &arguments)
    }
}

impl Op for AdaptiveAvgPoolBwd {
    fn name(&self) -> &'static str {
        "adaptive_avg_pool_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        Ok(vec![resized(inputs, self.image)?])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        Cost::traffic(inputs, outputs).with_flops(2 * outputs[0].shape.num_elems())
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>([height, width]: [usize; 2], args: &CpuArgs<'_>) {
            let [_, out_height, out_width, channels] = args.input_shape(0).nhwc();
            let dy = args.input::<T>(0);
            for_each_chunk(args.output::<T>(0), channels, |start, dx| {
                let pixel = start / channels;
                let image = &dy[pixel / width / height * out_height * out_width * channels..];
                let place = [pixel / width % height, pixel % width];
                let extents = [height, width, out_height, out_width];
                for_each_channel_tile(channels, &mut PixelTile { dy: image, extents, place, dx });
            });
        }
        dispatch_storage!(args.input_dtype(0), run(self.image, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (dy, dx) = (&args.inputs[0], &args.outputs[0]);
        let (arguments, grid) = operands(args, (dx, dy), dx)?;
        kernels::adaptive_avg_pool_bwd(dx.dtype)?.launch(launcher, grid, &arguments)
    }
}

/// The mean over the pixels of one cell; rows are counted through all images.
struct CellTile<'a, 'y, T> {
    x: &'a [T],
    width: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    y: &'y mut [T],
}

impl<T: Storage> ChannelTile for CellTile<'_, '_, T> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let channels = self.y.len();
        let mut sum = [T::Sum::ZERO; W];
        for row in self.rows.clone() {
            for column in self.columns.clone() {
                let x = lanes::<T, W>(self.x, (row * self.width + column) * channels + start);
                sum = std::array::from_fn(|c| sum[c] + x[c].load());
            }
        }
        let count = T::Sum::from_f64((self.rows.len() * self.columns.len()) as f64);
        *lanes_mut(self.y, start) = sum.map(|sum| T::store(sum / count));
    }
}

/// What the cells that hold one pixel give it; `dy` begins with the pixel's image.
struct PixelTile<'a, 'x, T> {
    dy: &'a [T],
    extents: [usize; 4],
    place: [usize; 2],
    dx: &'x mut [T],
}

impl<T: Storage> ChannelTile for PixelTile<'_, '_, T> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let ([height, width, out_height, out_width], [h, w]) = (self.extents, self.place);
        let channels = self.dx.len();
        let mut sum = [T::Sum::ZERO; W];
        for p in cells_over(h, height, out_height) {
            let in_rows = pixels_of(p, height, out_height).len();
            for q in cells_over(w, width, out_width) {
                let count = T::Sum::from_f64((in_rows * pixels_of(q, width, out_width).len()) as f64);
                let dy = lanes::<T, W>(self.dy, (p * out_width + q) * channels + start);
                sum = std::array::from_fn(|c| sum[c] + dy[c].load() / count);
            }
        }
        *lanes_mut(self.dx, start) = sum.map(T::store);
    }
}

/// Arguments for an image and its grid of cells; `to` is the result.
fn operands(
    args: &LaunchArgs<'_>,
    (image, cells): (&Slot, &Slot),
    to: &Slot,
) -> Result<(AdaptiveAvgPoolArgs, kernels::Grid)> {
    let [_, height, width, channels] = image.shape.nhwc();
    let [_, out_height, out_width, _] = cells.shape.nhwc();
    below(UNSIGNED, (height + 1) * (out_height + 1), "rows times cells")?;
    below(UNSIGNED, (width + 1) * (out_width + 1), "columns times cells")?;
    let num_elems = to.shape.num_elems();
    let arguments = AdaptiveAvgPoolArgs {
        from: args.input(0),
        to: args.output(0),
        num_elems: num_elems as u64,
        height: height as u32,
        width: width as u32,
        out_height: out_height as u32,
        out_width: out_width as u32,
        channels: channels as u32,
        reserved: 0,
    };
    Ok((arguments, kernels::loop_grid(num_elems, 1)))
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("adaptive_avg_pool_to_fewer", &[&[2, 7, 5, 3]], |graph, x| {
            adaptive_avg_pool(graph, "pool", x[0], [3, 2])
        }),
        Case::new("adaptive_avg_pool_to_more", &[&[2, 2, 3, 5]], |graph, x| {
            adaptive_avg_pool(graph, "pool", x[0], [7, 4])
        }),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let ([n, height, width, c], out) = (draw.image(1), [draw.within(1, 9), draw.within(1, 9)]);
    Trial::new(format!("adaptive pool: {n}x{height}x{width}x{c} to {out:?}"), move |graph| {
        let x = input(graph, "x", [n, height, width, c]);
        graph.apply("y", AdaptiveAvgPool { out }, &[x])?;
        let dy = input(graph, "dy", [n, out[0], out[1], c]);
        graph.apply("dx", AdaptiveAvgPoolBwd { image: [height, width] }, &[dy])?;
        Ok(())
    })
    .of_products()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_and_pixels_agree_about_who_holds_whom() {
        for len in 1..20 {
            for out in 1..20 {
                for pixel in 0..len {
                    let holds = |cell: &usize| pixels_of(*cell, len, out).contains(&pixel);
                    let expected: Vec<usize> = (0..out).filter(holds).collect();
                    assert_eq!(
                        cells_over(pixel, len, out).collect::<Vec<_>>(),
                        expected,
                        "{len} {out} {pixel}"
                    );
                }
            }
        }
    }
}
