//! Two-dimensional convolution (cross-correlation): fprop, dgrad and wgrad.
//!
//! Vocabulary: x is NHWC, w is KRSC, y is NPQK. `y[n,p,q,k] = sum_rsc x[n, p*stride_h-pad_h+r, q*stride_w-pad_w+s, c] *
//! w[k,r,s,c]`. Convolutions here have no bias; batch norm follows them and would take it out again.

mod batch_norm;
mod checks;
#[cfg(test)]
mod kernel_tests;
mod launch;
mod split;
mod variants;

pub use batch_norm::Conv2dBatchNorm;
pub(super) use checks::checks;
pub(super) use launch::Operands;
use launch::Stored;
pub(super) use split::Split;
use split::wgrad_workspace_bytes;
use variants::{Pass, choose};

use crate::device::cpu::conv::{self, Conv2dDims, Finish, mixed};
use crate::device::cpu::{CpuArgs, Element};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{
    Backward, Cost, Graph, InPlace, InferResult, Init, Onnx, OnnxNode, Op, ValueId, ValueType,
};
use crate::ops::cast;
use crate::tensor::{DType, Layout, Shape};

/// Steps and borders of a convolution.
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
}

impl Window {
    /// The same stride and padding in both directions.
    pub fn square(stride: usize, pad: usize) -> Window {
        Window { stride_h: stride, stride_w: stride, pad_h: pad, pad_w: pad }
    }

    /// The convolution of NHWC images with KRSC filters of these extents.
    pub fn dims(&self, x: [usize; 4], w: [usize; 4]) -> Conv2dDims {
        let Window { stride_h, stride_w, pad_h, pad_w } = *self;
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

/// Records a convolution of `x` with the filter value `w`.
///
/// # Errors
/// If the operands do not fit.
pub fn conv2d_with(graph: &mut Graph, name: &str, x: ValueId, w: ValueId, window: Window) -> Result<ValueId> {
    graph.apply_one(name, Conv2dFprop { window }, &[x, w])
}

fn cost(dims: &Conv2dDims, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
    Cost { flops: dims.flops(), ..Cost::traffic(inputs, outputs) }
}

/// Scratch memory of a pass on the CPU, by the type of its operands; the f64 oracle needs none.
struct CpuWorkspace {
    f32_elems: fn(&Conv2dDims) -> usize,
    bf16_bytes: fn(&Conv2dDims) -> usize,
}

impl CpuWorkspace {
    fn num_bytes(&self, device: DeviceKind, dtype: DType, dims: &Conv2dDims) -> usize {
        match (device, dtype) {
            (DeviceKind::Cpu, DType::F32) => (self.f32_elems)(dims) * size_of::<f32>(),
            (DeviceKind::Cpu, DType::Bf16) => (self.bf16_bytes)(dims),
            _ => 0,
        }
    }
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
        let Window { stride_h, stride_w, pad_h, pad_w } = self.window;
        let [_, r, s, _] = inputs[1].shape.nhwc();
        Some(OnnxNode::new("Conv").with_window([r, s], [stride_h, stride_w], [pad_h, pad_w]).into())
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let dims = self.window.dims(inputs[0].shape.nhwc(), inputs[1].shape.nhwc());
        let workspace =
            CpuWorkspace { f32_elems: conv::fprop_workspace_elems, bf16_bytes: mixed::fprop_workspace_bytes };
        workspace.num_bytes(device, inputs[0].dtype, &dims)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        let dims = self.window.dims(args.input_shape(0).nhwc(), args.input_shape(1).nhwc());
        let (x, w, y) = (0, 1, 0);
        match args.input_dtype(0) {
            DType::Bf16 => mixed::fprop(
                &dims,
                args.input(x),
                args.input(w),
                None,
                args.output(y),
                args.workspace::<f32>(),
            ),
            DType::F32 => conv::conv2d_fprop(
                &dims,
                args.input(x),
                args.input(w),
                Finish::None,
                args.output(y),
                args.workspace::<f32>(),
            ),
            _ => conv::conv2d_fprop_reference::<f64>(&dims, args.input(x), args.input(w), args.output(y)),
        }
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.window.dims(args.inputs[0].shape.nhwc(), args.inputs[1].shape.nhwc());
        launch::launch(Pass::Fprop, &dims, Stored::Sums, args, launcher)
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
        let workspace =
            CpuWorkspace { f32_elems: conv::dgrad_workspace_elems, bf16_bytes: mixed::dgrad_workspace_bytes };
        workspace.num_bytes(device, inputs[0].dtype, &dims)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn dx<'a, T: Element>(args: &CpuArgs<'a>, adds: bool) -> &'a mut [T] {
            if adds { args.output_over_input(0, 2) } else { args.output(0) }
        }
        let dims = self.window.dims(self.x.nhwc(), args.input_shape(1).nhwc());
        let (dy, w, adds) = (0, 1, self.accumulate);
        match args.input_dtype(0) {
            DType::Bf16 => mixed::dgrad(
                &dims,
                args.input(dy),
                args.input(w),
                adds,
                dx(args, adds),
                args.workspace::<f32>(),
            ),
            DType::F32 => conv::conv2d_dgrad(
                &dims,
                args.input(dy),
                args.input(w),
                adds,
                dx(args, adds),
                args.workspace::<f32>(),
            ),
            _ => {
                let dx = dx::<f64>(args, adds);
                conv::conv2d_dgrad_reference(&dims, args.input(dy), args.input(w), adds, dx);
            }
        }
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.window.dims(self.x.nhwc(), args.inputs[1].shape.nhwc());
        launch::launch(Pass::Dgrad, &dims, Stored::Sums, args, launcher)
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
            DeviceKind::Cpu => {
                let workspace = CpuWorkspace {
                    f32_elems: conv::wgrad_workspace_elems,
                    bf16_bytes: mixed::wgrad_workspace_bytes,
                };
                workspace.num_bytes(device, inputs[0].dtype, &dims)
            }
            DeviceKind::Cuda | DeviceKind::Simt => choose(Pass::Wgrad, inputs[0].dtype, &dims)
                .map_or(0, |variant| wgrad_workspace_bytes(variant, &dims)),
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        let dims = self.window.dims(args.input_shape(0).nhwc(), self.w.nhwc());
        let (x, dy, dw) = (0, 1, 0);
        match args.input_dtype(0) {
            DType::Bf16 => {
                mixed::wgrad(&dims, args.input(x), args.input(dy), args.output(dw), args.workspace::<f32>())
            }
            DType::F32 => conv::conv2d_wgrad(
                &dims,
                args.input(x),
                args.input(dy),
                args.output(dw),
                args.workspace::<f32>(),
            ),
            _ => conv::conv2d_wgrad_reference::<f64>(&dims, args.input(x), args.input(dy), args.output(dw)),
        }
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let dims = self.window.dims(args.inputs[0].shape.nhwc(), self.w.nhwc());
        launch::launch(Pass::Wgrad, &dims, Stored::Sums, args, launcher)
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
