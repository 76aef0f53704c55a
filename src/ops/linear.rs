//! The fully connected layer: y = x w^T + b. It runs on the convolution's engine and kernels, as a 1x1 convolution of
//! 1x1 images. It computes in f32 whatever the type of the activations: the last layer is small.

use crate::device::cpu::conv::{self, Conv2dDims, Finish};
use crate::device::cpu::{CpuArgs, Real, vectorized};
use crate::device::kernels::common::WARP_THREADS;
use crate::device::kernels::conv2d_tap_gemm::{TILE, TILE_K};
use crate::device::kernels::{self, Conv2dArgs, Conv2dWgradArgs, LinearDbArgs, SplitSumArgs};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{
    Backward, Cost, Graph, InferResult, Init, Onnx, OnnxAttribute, OnnxNode, Op, ValueId, ValueType,
};
use crate::ops::checks::{Case, Checks, Draw, MOST_MACS, Trial, in_f32};
use crate::ops::conv2d::{Operands, Split};
use crate::ops::dispatch_real;
use crate::ops::launch::{TotalGrid, only_f32};
use crate::tensor::{DType, Layout, Shape};

/// `(x [N, features], w [classes, features], b [classes]) -> y [N, classes]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearFprop;

/// `(dy [N, classes], w [classes, features]) -> dx [N, features]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearDgrad;

/// `(x [N, features], dy [N, classes]) -> (dw [classes, features], db [classes])`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearWgrad;

/// Records the layer with parameters `<name>.weight` and `<name>.bias`, both uniform within 1/sqrt(features) as PyTorch
/// starts them.
///
/// # Errors
/// If `x` is not of shape [N, features].
pub fn linear(graph: &mut Graph, name: &str, x: ValueId, out_features: usize) -> Result<ValueId> {
    let features = graph.shape(x).last();
    let init = Init::Uniform { bound: 1.0 / (features as f32).sqrt() };
    let weight =
        graph.parameter(&format!("{name}.weight"), [out_features, features], Layout::Flat, init.clone());
    let bias = graph.parameter(&format!("{name}.bias"), [out_features], Layout::Flat, init);
    graph.apply_one(name, LinearFprop, &[x, weight, bias])
}

fn dims(rows: usize, features: usize, classes: usize) -> Conv2dDims {
    Conv2dDims {
        n: rows,
        h: 1,
        w: 1,
        c: features,
        k: classes,
        r: 1,
        s: 1,
        stride_h: 1,
        stride_w: 1,
        pad_h: 0,
        pad_w: 0,
    }
}

/// The problem of two rank-2 operands whose dimensions `common` must agree.
fn matrices(a: &ValueType, b: &ValueType, common: (usize, usize)) -> InferResult<()> {
    if a.dtype == DType::Bf16 {
        return Err(format!("computes in f32, got {a}; pool or cast the features to f32"));
    }
    let fits = a.shape.rank() == 2
        && b.shape.rank() == 2
        && a.dtype == b.dtype
        && a.shape.dims()[common.0] == b.shape.dims()[common.1];
    if fits {
        Ok(())
    } else {
        Err(format!(
            "dimension {} of {a} and dimension {} of {b} must agree; pool or flatten the features to [N, features]",
            common.0, common.1
        ))
    }
}

fn extents(shape: Shape) -> (usize, usize) {
    (shape.dims()[0], shape.dims()[1])
}

/// Scratch bytes of `num_elems` floats; the f64 oracle needs none.
fn cpu_workspace(dtype: DType, num_elems: usize) -> usize {
    if dtype == DType::F32 { num_elems * size_of::<f32>() } else { 0 }
}

impl Op for LinearFprop {
    fn name(&self) -> &'static str {
        "linear_fprop"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [x, w, b] = inputs else {
            return Err(format!("takes x, w and b, got {} operands", inputs.len()));
        };
        matrices(x, w, (1, 1))?;
        let ((rows, _), (classes, _)) = (extents(x.shape), extents(w.shape));
        if b.shape != Shape::from([classes]) {
            return Err(format!("needs a bias of {classes} elements for w {w}, got {b}"));
        }
        Ok(vec![ValueType { shape: [rows, classes].into(), dtype: x.dtype }])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        Cost::traffic(inputs, outputs).with_flops(2 * inputs[0].shape.num_elems() * outputs[0].shape.last())
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (dy, x, w) = (backward.dy(self.name())?, backward.inputs[0], backward.inputs[1]);
        let weights = if backward.wanted[1] || backward.wanted[2] {
            backward.apply("wgrad", LinearWgrad, &[x, dy])?.into_iter().map(Some).collect()
        } else {
            vec![None; 2]
        };
        let dx =
            if backward.wanted[0] { Some(backward.apply_one("dgrad", LinearDgrad, &[dy, w])?) } else { None };
        Ok([vec![dx], weights].concat())
    }

    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        Some(OnnxNode::new("Gemm").with("transB", OnnxAttribute::Int(1)).into())
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], outputs: &[ValueType]) -> usize {
        let (rows, features) = extents(inputs[0].shape);
        let dims = dims(rows, features, outputs[0].shape.last());
        match device {
            DeviceKind::Cpu => cpu_workspace(inputs[0].dtype, conv::fprop_workspace_elems(&dims)),
            DeviceKind::Cuda | DeviceKind::Simt => fprop_split(&dims).parts * outputs[0].num_bytes(),
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        let (rows, features) = extents(args.input_shape(0));
        let dims = dims(rows, features, args.output_shape(0).last());
        if args.input_dtype(0) == DType::F32 {
            let finish = Finish::Bias(args.input(2));
            let (x, w, y) = (args.input(0), args.input(1), args.output(0));
            return conv::conv2d_fprop(&dims, x, w, finish, y, args.workspace::<f32>());
        }
        fn run<T: Real>(dims: &Conv2dDims, args: &CpuArgs<'_>) {
            let (y, bias) = (args.output::<T>(0), args.input::<T>(2));
            conv::conv2d_fprop_reference(dims, args.input(0), args.input(1), y);
            y.chunks_exact_mut(bias.len())
                .for_each(|row| row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b));
        }
        dispatch_real!(args.input_dtype(0), run(&dims, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        only_f32(self.name(), args.inputs[0].dtype)?;
        let (rows, features) = extents(args.inputs[0].shape);
        let dims = dims(rows, features, args.outputs[0].shape.last());
        let split = fprop_split(&dims);
        let parts = args.workspace();
        let operands =
            Operands { src: args.input(0), weights: args.input(1), out: parts, ..Default::default() };
        let grid = [num_tiles(dims.n, dims.k), 1, split.parts];
        let arguments = Conv2dArgs::fprop(&dims, operands, split.depth)?;
        kernels::LINEAR_FPROP_F32.launch(launcher, grid, &arguments)?;
        let (sum, blocks) = SplitSumArgs::new(parts, split.parts, args.output(0), dims.y_elems());
        let sum = SplitSumArgs { addend: args.input(2), addend_elems: dims.k as u64, ..sum };
        kernels::LINEAR_FPROP_BIAS_F32.launch(launcher, blocks, &sum)
    }
}

impl Op for LinearDgrad {
    fn name(&self) -> &'static str {
        "linear_dgrad"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [dy, w] = inputs else { return Err(format!("takes dy and w, got {} operands", inputs.len())) };
        matrices(dy, w, (1, 0))?;
        Ok(vec![ValueType { shape: [dy.shape.dims()[0], w.shape.last()].into(), dtype: dy.dtype }])
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        Cost::traffic(inputs, outputs).with_flops(2 * inputs[0].shape.num_elems() * outputs[0].shape.last())
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], outputs: &[ValueType]) -> usize {
        let (rows, classes) = extents(inputs[0].shape);
        let dims = dims(rows, outputs[0].shape.last(), classes);
        match device {
            DeviceKind::Cpu => cpu_workspace(inputs[0].dtype, conv::dgrad_workspace_elems(&dims)),
            DeviceKind::Cuda | DeviceKind::Simt => 0,
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        let (rows, classes) = extents(args.input_shape(0));
        let dims = dims(rows, args.output_shape(0).last(), classes);
        if args.input_dtype(0) == DType::F32 {
            let (dy, w, dx) = (args.input(0), args.input(1), args.output(0));
            return conv::conv2d_dgrad(&dims, dy, w, false, dx, args.workspace::<f32>());
        }
        fn run<T: Real>(dims: &Conv2dDims, args: &CpuArgs<'_>) {
            conv::conv2d_dgrad_reference::<T>(dims, args.input(0), args.input(1), false, args.output(0));
        }
        dispatch_real!(args.input_dtype(0), run(&dims, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        only_f32(self.name(), args.inputs[0].dtype)?;
        let (rows, classes) = extents(args.inputs[0].shape);
        let dims = dims(rows, args.outputs[0].shape.last(), classes);
        let (src, weights, out) = (args.input(0), args.input(1), args.output(0));
        let operands = Operands { src, weights, out, ..Default::default() };
        let arguments = Conv2dArgs::dgrad(&dims, operands)?;
        kernels::LINEAR_DGRAD_F32.launch(launcher, [num_tiles(dims.n, dims.c), 1, 1], &arguments)
    }
}

impl Op for LinearWgrad {
    fn name(&self) -> &'static str {
        "linear_wgrad"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [x, dy] = inputs else { return Err(format!("takes x and dy, got {} operands", inputs.len())) };
        matrices(x, dy, (0, 0))?;
        let (classes, features) = (dy.shape.last(), x.shape.last());
        Ok(vec![
            ValueType { shape: [classes, features].into(), dtype: x.dtype },
            ValueType { shape: [classes].into(), dtype: x.dtype },
        ])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "db"]
    }

    /// dy is read for dw and for db.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let [of_dw, of_db] = [2 * inputs[0].shape.last(), 1].map(|flops| flops * inputs[1].shape.num_elems());
        Cost::traffic(inputs, outputs).and_again(inputs, &[1]).with_flops(of_dw + of_db)
    }

    fn workspace_bytes(&self, device: DeviceKind, inputs: &[ValueType], _outputs: &[ValueType]) -> usize {
        let (rows, features) = extents(inputs[0].shape);
        let dims = dims(rows, features, inputs[1].shape.last());
        match device {
            DeviceKind::Cpu => cpu_workspace(inputs[0].dtype, conv::wgrad_workspace_elems(&dims)),
            DeviceKind::Cuda | DeviceKind::Simt => 0,
        }
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn bias<T: Real>(args: &CpuArgs<'_>) {
            let (dy, db) = (args.input::<T>(1), args.output::<T>(1));
            db.fill(T::ZERO);
            let classes = db.len();
            vectorized(|| {
                dy.chunks_exact(classes)
                    .for_each(|row| db.iter_mut().zip(row).for_each(|(sum, &v)| *sum += v));
            });
        }
        dispatch_real!(args.input_dtype(0), bias(args));
        let (rows, features) = extents(args.input_shape(0));
        let dims = dims(rows, features, args.input_shape(1).last());
        if args.input_dtype(0) == DType::F32 {
            let (x, dy, dw) = (args.input(0), args.input(1), args.output(0));
            return conv::conv2d_wgrad(&dims, x, dy, dw, args.workspace::<f32>());
        }
        fn run<T: Real>(dims: &Conv2dDims, args: &CpuArgs<'_>) {
            conv::conv2d_wgrad_reference::<T>(dims, args.input(0), args.input(1), args.output(0));
        }
        dispatch_real!(args.input_dtype(0), run(&dims, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        only_f32(self.name(), args.inputs[0].dtype)?;
        let (rows, features) = extents(args.inputs[0].shape);
        let dims = dims(rows, features, args.inputs[1].shape.last());
        let (x, dy) = (args.input(0), args.input(1));
        let whole = Split { depth: rows, parts: 1 };
        let arguments = Conv2dWgradArgs::new(&dims, [x, dy, args.output(0)], whole)?;
        let grid = [num_tiles(dims.k, dims.c), 1, 1];
        kernels::LINEAR_WGRAD_F32.launch(launcher, grid, &arguments)?;
        let totals = TotalGrid::new(dims.k, rows, WARP_THREADS);
        let db = LinearDbArgs {
            dy,
            db: args.output(1),
            num_classes: dims.k as u64,
            num_rows: rows as u32,
            columns: totals.columns as u32,
        };
        kernels::LINEAR_WGRAD_DB_F32.launch(launcher, totals.blocks, &db)
    }
}

fn num_tiles(rows: usize, cols: usize) -> usize {
    rows.div_ceil(TILE) * cols.div_ceil(TILE)
}

/// How the features of an fprop are divided: a batch and a hundred classes alone would leave a GPU idle.
fn fprop_split(dims: &Conv2dDims) -> Split {
    Split::new(dims.c, num_tiles(dims.n, dims.k), TILE_K, 4 * TILE_K)
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("linear_with_bias", &[&[4, 6], &[5, 6], &[5]], |graph, x| {
            graph.apply_one("linear", LinearFprop, &[x[0], x[1], x[2]])
        })
        .with_f32(&[0, 1, 2]),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

fn trial(draw: &mut Draw) -> Trial {
    let [rows, features, classes] = loop {
        // At times so many features that there are more than 64 parts to add.
        let extents = match draw.within(0, 3) {
            0 => [draw.within(1, 3), draw.within(4200, 6000), draw.within(1, 6)],
            _ => [draw.within(1, 70), draw.within(1, 1100), draw.within(1, 130)],
        };
        if extents.iter().product::<usize>() <= MOST_MACS {
            break extents;
        }
    };
    Trial::new(format!("linear: {rows} rows, {features} to {classes}"), move |graph| {
        let (x, dy) = (in_f32(graph, "x", [rows, features]), in_f32(graph, "dy", [rows, classes]));
        let (w, b) = (in_f32(graph, "w", [classes, features]), in_f32(graph, "b", [classes]));
        graph.apply("y", LinearFprop, &[x, w, b])?;
        graph.apply("dx", LinearDgrad, &[dy, w])?;
        graph.apply("dw", LinearWgrad, &[x, dy])?;
        Ok(())
    })
    .of_products()
}
