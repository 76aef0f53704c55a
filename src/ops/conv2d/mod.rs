//! Two-dimensional convolution (cross-correlation): fprop, dgrad and wgrad.
//!
//! Vocabulary: x is NHWC, w is KRSC, y is NPQK. `y[n,p,q,k] = sum_rsc x[n, p*stride_h-pad_h+r, q*stride_w-pad_w+s, c] *
//! w[k,r,s,c]`. Convolutions here have no bias; batch norm follows them and would take it out again.

mod batch_norm;
mod checks;
mod cpu;
#[cfg(test)]
mod kernel_tests;
mod launch;
mod split;
mod stats;
mod sums;
mod variants;

pub use batch_norm::Conv2dBatchNorm;
pub(super) use checks::checks;
use cpu::{Convolve, CpuWorkspace};
pub(super) use launch::Operands;
use launch::{ByChoice, Choice, Stored};
pub(super) use split::Split;
use split::wgrad_workspace_bytes;
pub use stats::Conv2dStats;
pub use sums::Conv2dDgradSums;
use variants::Pass;

use crate::device::cpu::CpuArgs;
use crate::device::cpu::conv::Conv2dDims;
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{
    Backward, Cost, Graph, InPlace, InferResult, Init, Onnx, OnnxNode, Op, ValueId, ValueType,
};
use crate::ops::{cast, dispatch_storage};
use crate::tensor::{DType, Layout, Shape};

/// What a convolution is beside its operands: steps, borders, and how exact its products are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Rows between neighbouring outputs.
    pub stride_h: usize,
    /// Columns between neighbouring outputs.
    pub stride_w: usize,
    /// Rows of zeros above and below.
    pub pad_h: usize,
    /// Columns of zeros left and right.
    pub pad_w: usize,
    /// Whether operands of f32 may be rounded to TF32, the ten bits of mantissa that tensor cores multiply. GPUs do so where
    /// channels come in fours; the CPU, and the CUDA cores of a GPU, multiply f32 as it is.
    pub allow_tf32: bool,
}

impl Window {
    /// The same stride and padding in both directions, and products of f32 as it is.
    pub fn square(stride: usize, pad: usize) -> Window {
        Window { stride_h: stride, stride_w: stride, pad_h: pad, pad_w: pad, allow_tf32: false }
    }

    /// The convolution of NHWC images with KRSC filters of these extents.
    pub fn dims(&self, x: [usize; 4], w: [usize; 4]) -> Conv2dDims {
        let Window { stride_h, stride_w, pad_h, pad_w, .. } = *self;
        let ([n, h, w_in, c], [k, r, s, _]) = (x, w);
        Conv2dDims { n, h, w: w_in, c, k, r, s, stride_h, stride_w, pad_h, pad_w }
    }

    /// The problem of an image and a filter operand, or what does not fit.
    fn checked(&self, x: &ValueType, w: &ValueType) -> InferResult<Conv2dDims> {
        let (Some(image), Some(filter)) = (x.shape.as_4d(), w.shape.as_4d()) else {
            return Err(format!("takes an NHWC image and a KRSC filter, got {x} and {w}"));
        };
        if image[3] != filter[3] {
            return Err(format!(
                "input has C={} (NHWC {}) but weight KRSC {} expects C={}; give it a filter of {} channels",
                image[3], x.shape, w.shape, filter[3], image[3]
            ));
        }
        if image[1] + 2 * self.pad_h < filter[1] || image[2] + 2 * self.pad_w < filter[2] {
            return Err(format!(
                "the {}x{} kernel is larger than the padded input (NHWC {}); use a larger image or more padding",
                filter[1], filter[2], x.shape
            ));
        }
        if x.dtype != w.dtype {
            return Err(format!("takes an image and a filter of one type, got {x} and {w}; cast the filter"));
        }
        Ok(self.dims(image, filter))
    }
}

/// `(x, w) -> y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dFprop {
    /// Strides and padding.
    pub window: Window,
}

/// `(dy, w) -> dx`, or `(dy, w, sum) -> sum + dx` with `accumulate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dDgrad {
    /// Strides and padding of the forward pass.
    pub window: Window,
    /// Shape of x, which dy does not determine.
    pub x: Shape,
    /// Whether a third operand is added; set by fusion.
    pub accumulate: bool,
}

/// `(x, dy) -> dw`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dWgrad {
    /// Strides and padding of the forward pass.
    pub window: Window,
    /// Shape of the filters, KRSC.
    pub w: Shape,
}

/// What a convolution layer is made of.
#[derive(Debug, Clone, Copy)]
pub struct Conv2dConfig {
    /// Number of filters, which is the number of output channels.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Strides and padding.
    pub window: Window,
}

impl Conv2dConfig {
    /// Square kernels of an odd `size`, padded so that `stride` 1 keeps height and width.
    pub fn square(out_channels: usize, size: usize, stride: usize) -> Conv2dConfig {
        Conv2dConfig { out_channels, kernel: [size, size], window: Window::square(stride, size / 2) }
    }
}

/// Records a convolution of `x` and its parameter `<name>.weight`, He-initialised for a convolution followed by a ReLU: normal with
/// variance 2 / fan_out, fan_out = K*R*S (He et al. 2015, "Delving deep into rectifiers").
///
/// # Errors
/// If `x` is no NHWC image or smaller than the kernel.
pub fn conv2d(graph: &mut Graph, name: &str, x: ValueId, config: Conv2dConfig) -> Result<ValueId> {
    let filter = conv2d_filter(graph, name, x, config)?;
    conv2d_with(graph, name, x, filter, config.window)
}

/// Records the parameter `<name>.weight` of a convolution of `x`, and its copy of x's type.
pub(super) fn conv2d_filter(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    config: Conv2dConfig,
) -> Result<ValueId> {
    let Conv2dConfig { out_channels, kernel: [r, s], .. } = config;
    let shape = [out_channels, r, s, graph.shape(x).last()];
    let std = (2.0 / (out_channels * r * s) as f32).sqrt();
    let weight = graph.parameter(&format!("{name}.weight"), shape, Layout::Krsc, Init::Normal { std });
    // A bf16 image meets the f32 parameter in bf16; the gradient comes back in f32.
    cast(graph, &format!("{name}.weight.cast"), weight, graph.value(x).ty.dtype)
}

/// Records a convolution of `x` with the filter value `w`. Its products may be of TF32 where `window` or the graph allows them.
///
/// # Errors
/// If the operands do not fit.
pub fn conv2d_with(graph: &mut Graph, name: &str, x: ValueId, w: ValueId, window: Window) -> Result<ValueId> {
    let window = Window { allow_tf32: window.allow_tf32 || graph.allows_tf32(), ..window };
    graph.apply_one(name, Conv2dFprop { window }, &[x, w])
}

fn cost(dims: &Conv2dDims, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
    Cost { flops: dims.flops(), ..Cost::traffic(inputs, outputs) }
}

impl Op for Conv2dFprop {
    fn name(&self) -> &'static str {
        "conv2d_fprop"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [x, w] = inputs else { return Err(format!("takes x and w, got {} operands", inputs.len())) };
        let dims = self.window.checked(x, w)?;
        Ok(vec![ValueType { shape: [dims.n, dims.p(), dims.q(), dims.k].into(), dtype: x.dtype }])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost(&self.window.dims(inputs[0].shape.nhwc(), inputs[1].shape.nhwc()), inputs, outputs)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (dy, x, w) = (backward.dy(self.name())?, backward.inputs[0], backward.inputs[1]);
        let dw = if backward.wanted[1] {
            let wgrad = Conv2dWgrad { window: self.window, w: backward.graph.shape(w) };
            Some(backward.apply_one("wgrad", wgrad, &[x, dy])?)
        } else {
            None
        };
        let dx = if backward.wanted[0] {
            let dgrad = Conv2dDgrad { window: self.window, x: backward.graph.shape(x), accumulate: false };
            Some(backward.apply_one("dgrad", dgrad, &[dy, w])?)
        } else {
            None
        };
        Ok(vec![dx, dw])
    }

    fn onnx(&self, inputs: &[ValueType]) -> Option<Onnx> {
        let Window { stride_h, stride_w, pad_h, pad_w, .. } = self.window;
        let [_, r, s, _] = inputs[1].shape.nhwc();
        Some(OnnxNode::new("Conv").with_window([r, s], [stride_h, stride_w], [pad_h, pad_w]).into())
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let dims = self.window.dims(inputs[0].shape.nhwc(), inputs[1].shape.nhwc());
        CpuWorkspace::FPROP.num_bytes(device, inputs[0].dtype, &dims)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Convolve>(dims: &Conv2dDims, args: &CpuArgs<'_>) {
            T::fprop(dims, args.input(0), args.input(1), args.output(0), args.workspace());
        }
        let dims = self.window.dims(args.input_shape(0).nhwc(), args.input_shape(1).nhwc());
        dispatch_storage!(args.input_dtype(0), run(&dims, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.window.dims(args.inputs[0].shape.nhwc(), args.inputs[1].shape.nhwc());
        self.launch_by(&Choice::new(Pass::Fprop, self.window, args.inputs[0].dtype, dims)?, args, launcher)
    }
}

impl ByChoice for Conv2dFprop {
    fn launch_by(&self, choice: &Choice, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        launch::launch(choice, Stored::Sums { addend: None }, args, launcher)
    }
}

impl Op for Conv2dDgrad {
    fn name(&self) -> &'static str {
        "conv2d_dgrad"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [dy, w, sum @ ..] = inputs else {
            return Err(format!("takes dy and w, got {} operands", inputs.len()));
        };
        let x = ValueType { shape: self.x, dtype: dy.dtype };
        let dims = self.window.checked(&x, w)?;
        let expected = Shape::from([dims.n, dims.p(), dims.q(), dims.k]);
        let fits_sum = if self.accumulate { sum == [x] } else { sum.is_empty() };
        if dy.shape != expected || !fits_sum {
            return Err(format!(
                "takes dy NPQK {expected}, w and, to accumulate, a sum NHWC {}; got {inputs:?}",
                self.x
            ));
        }
        Ok(vec![x])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost(&self.window.dims(self.x.nhwc(), inputs[1].shape.nhwc()), inputs, outputs)
    }

    fn in_place(&self) -> &'static [InPlace] {
        if self.accumulate { &[InPlace { output: 0, input: 2 }] } else { &[] }
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let dims = self.window.dims(self.x.nhwc(), inputs[1].shape.nhwc());
        CpuWorkspace::DGRAD.num_bytes(device, inputs[0].dtype, &dims)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Convolve>(dims: &Conv2dDims, adds: bool, args: &CpuArgs<'_>) {
            let dx = if adds { args.output_over_input::<T>(0, 2) } else { args.output(0) };
            T::dgrad(dims, args.input(0), args.input(1), adds, dx, args.workspace());
        }
        let dims = self.window.dims(self.x.nhwc(), args.input_shape(1).nhwc());
        dispatch_storage!(args.input_dtype(0), run(&dims, self.accumulate, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.window.dims(self.x.nhwc(), args.inputs[1].shape.nhwc());
        self.launch_by(&Choice::new(Pass::Dgrad, self.window, args.inputs[0].dtype, dims)?, args, launcher)
    }
}

impl ByChoice for Conv2dDgrad {
    fn launch_by(&self, choice: &Choice, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let addend = self.accumulate.then_some(2);
        launch::launch(choice, Stored::Sums { addend }, args, launcher)
    }
}

impl Op for Conv2dWgrad {
    fn name(&self) -> &'static str {
        "conv2d_wgrad"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [x, dy] = inputs else { return Err(format!("takes x and dy, got {} operands", inputs.len())) };
        let dims = self.window.checked(x, &ValueType { shape: self.w, dtype: x.dtype })?;
        let expected = ValueType { shape: [dims.n, dims.p(), dims.q(), dims.k].into(), dtype: x.dtype };
        if *dy != expected {
            return Err(format!("needs dy NPQK {expected}, got {dy}"));
        }
        // Gradients of parameters stay in f32: the reduction is long, and the optimiser works in f32.
        let dtype = if x.dtype == DType::Bf16 { DType::F32 } else { x.dtype };
        Ok(vec![ValueType { shape: self.w, dtype }])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        cost(&self.window.dims(inputs[0].shape.nhwc(), self.w.nhwc()), inputs, outputs)
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let dims = self.window.dims(inputs[0].shape.nhwc(), self.w.nhwc());
        match device {
            DeviceKind::Cpu => CpuWorkspace::WGRAD.num_bytes(device, inputs[0].dtype, &dims),
            DeviceKind::Cuda | DeviceKind::Simt => {
                let choice = Choice::new(Pass::Wgrad, self.window, inputs[0].dtype, dims);
                choice.map_or(0, |choice| self.workspace_by(&choice))
            }
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Convolve>(dims: &Conv2dDims, args: &CpuArgs<'_>) {
            T::wgrad(dims, args.input(0), args.input(1), args.output(0), args.workspace());
        }
        let dims = self.window.dims(args.input_shape(0).nhwc(), self.w.nhwc());
        dispatch_storage!(args.input_dtype(0), run(&dims, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.window.dims(args.inputs[0].shape.nhwc(), self.w.nhwc());
        self.launch_by(&Choice::new(Pass::Wgrad, self.window, args.inputs[0].dtype, dims)?, args, launcher)
    }
}

impl ByChoice for Conv2dWgrad {
    fn launch_by(&self, choice: &Choice, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        launch::launch(choice, Stored::Sums { addend: None }, args, launcher)
    }

    fn workspace_by(&self, choice: &Choice) -> usize {
        wgrad_workspace_bytes(choice.variant, &choice.dims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::differentiate;
    use crate::graph::Role;

    #[test]
    fn mismatched_channels_name_both_sides_and_the_remedy() {
        let mut graph = Graph::new(DType::F32);
        let x = graph.input("x", [2, 8, 8, 5], DType::F32);
        let w = graph.parameter("w", [4, 3, 3, 3], Layout::Krsc, Init::Constant(0.0));
        let message = conv2d_with(&mut graph, "stem", x, w, Window::square(1, 1)).unwrap_err().to_string();
        assert!(message.contains("`stem`") && message.contains("a filter of 5 channels"), "{message}");
    }

    #[test]
    fn a_kernel_larger_than_the_image_is_refused() {
        let mut graph = Graph::new(DType::F32);
        let x = graph.input("x", [2, 2, 8, 3], DType::F32);
        let w = graph.parameter("w", [4, 7, 7, 3], Layout::Krsc, Init::Constant(0.0));
        let message = conv2d_with(&mut graph, "stem", x, w, Window::square(1, 1)).unwrap_err().to_string();
        assert!(message.contains("7x7 kernel is larger"), "{message}");
    }

    #[test]
    fn bf16_convolution_keeps_its_parameter_and_its_gradient_in_f32() {
        let mut graph = Graph::new(DType::Bf16);
        let x = graph.input("x", [2, 6, 5, 8], DType::Bf16);
        let y = conv2d(&mut graph, "conv", x, Conv2dConfig::square(16, 3, 1)).unwrap();
        assert_eq!(graph.value(y).ty.dtype, DType::Bf16);
        let parameters: Vec<ValueId> = graph.parameters().collect();
        let dy = graph.input("dy", graph.shape(y), DType::Bf16);
        let gradients = differentiate(&mut graph, y, dy, &parameters).unwrap();
        assert_eq!(gradients.len(), 1);
        for (parameter, gradient) in parameters.iter().zip(gradients) {
            assert_eq!(graph.value(*parameter).role, Role::Parameter);
            assert_eq!(graph.value(*parameter).ty.dtype, DType::F32);
            assert_eq!(graph.value(gradient).ty, graph.value(*parameter).ty);
        }
    }
}
