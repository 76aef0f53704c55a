//! Max pooling. The forward pass records where in its window each maximum lay, so that the backward pass needs neither
//! x nor y.

use crate::device::cpu::{
    ChannelTile, CpuArgs, Storage, for_each_channel_tile, for_each_chunk, for_each_chunk_pair, lanes,
    lanes_mut,
};
use crate::device::kernels::{self, Divisor, MaxPoolBwdArgs, MaxPoolFwdArgs, PoolGeometry, PoolUnits};
use crate::device::{LaunchArgs, Launcher, Slot};
use crate::error::Result;
use crate::graph::{Backward, Cost, Graph, InferResult, Onnx, OnnxNode, Op, ValueId, ValueType};
use crate::ops::checks::{Case, Checks, Draw, Trial, input};
use crate::ops::launch::{SIGNED, UNSIGNED, below, vec_elems};
use crate::ops::{dispatch_storage, float, one_input};
use crate::tensor::DType;

/// The window that slides over the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolWindow {
    /// Rows of the window.
    pub kernel_h: usize,
    /// Columns of the window.
    pub kernel_w: usize,
    /// Rows from one window to the next.
    pub stride_h: usize,
    /// Columns from one window to the next.
    pub stride_w: usize,
    /// Rows of padding above and below; padding never is the maximum.
    pub pad_h: usize,
    /// Columns of padding left and right.
    pub pad_w: usize,
}

impl PoolWindow {
    /// The same in both directions.
    pub fn square(kernel: usize, stride: usize, pad: usize) -> PoolWindow {
        PoolWindow {
            kernel_h: kernel,
            kernel_w: kernel,
            stride_h: stride,
            stride_w: stride,
            pad_h: pad,
            pad_w: pad,
        }
    }

    /// Extents P and Q of the result for an H x W image.
    fn output_extents(&self, height: usize, width: usize) -> InferResult<(usize, usize)> {
        if self.stride_h == 0 || self.stride_w == 0 || !(1..=256).contains(&(self.kernel_h * self.kernel_w)) {
            return Err(format!("needs strides of at least 1 and windows of 1 to 256 pixels, got {self:?}"));
        }
        if 2 * self.pad_h > self.kernel_h || 2 * self.pad_w > self.kernel_w {
            return Err(format!("needs padding of at most half the window, got {self:?}"));
        }
        let (padded_h, padded_w) = (height + 2 * self.pad_h, width + 2 * self.pad_w);
        if padded_h < self.kernel_h || padded_w < self.kernel_w {
            return Err(format!("has a window larger than the padded {height}x{width} image: {self:?}"));
        }
        Ok(((padded_h - self.kernel_h) / self.stride_h + 1, (padded_w - self.kernel_w) / self.stride_w + 1))
    }
}

/// `x [N,H,W,C] -> (y [N,P,Q,C], argmax u8 [N,P,Q,C])`, argmax being r*kernel_w + s of the first maximum within its
/// window. A NaN counts as larger than any number, the last NaN of a window as the largest, as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool(pub PoolWindow);

/// `(dy, argmax) -> dx [N,H,W,C]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPoolBwd {
    /// The window of the forward pass.
    pub window: PoolWindow,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
}

/// Records max pooling of NHWC `x`.
///
/// # Errors
/// If `x` is not an image, or the window does not fit it.
pub fn max_pool(graph: &mut Graph, name: &str, x: ValueId, window: PoolWindow) -> Result<ValueId> {
    Ok(graph.apply(name, MaxPool(window), &[x])?[0])
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool_fwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let x = one_input(inputs)?;
        let [n, h, w, c] = x.shape.as_4d().ok_or_else(|| format!("needs an NHWC image, got {x}"))?;
        let (p, q) = self.0.output_extents(h, w)?;
        let shape = [n, p, q, c].into();
        Ok(vec![ValueType { shape, dtype: x.dtype }, ValueType { shape, dtype: DType::U8 }])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", "argmax"]
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let taps = self.0.kernel_h * self.0.kernel_w;
        Cost::traffic(inputs, outputs).with_flops(taps * outputs[0].shape.num_elems())
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (dy, argmax) = (backward.dy(self.name())?, backward.outputs[1]);
        let [_, height, width, _] = backward.graph.shape(backward.inputs[0]).nhwc();
        let op = MaxPoolBwd { window: self.0, height, width };
        Ok(vec![Some(backward.apply_one("bwd", op, &[dy, argmax])?)])
    }

    fn onnx(&self, _inputs: &[ValueType]) -> Option<Onnx> {
        let PoolWindow { kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w } = self.0;
        let node = OnnxNode::new("MaxPool");
        Some(node.with_window([kernel_h, kernel_w], [stride_h, stride_w], [pad_h, pad_w]).into())
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: MaxPool, args: &CpuArgs<'_>) {
            let extents = [args.input_shape(0), args.output_shape(0)].map(|shape| shape.nhwc());
            op.largest(extents, args.input::<T>(0), args.output(0), args.output(1));
        }
        dispatch_storage!(args.input_dtype(0), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (x, y) = (&args.inputs[0], &args.outputs[0]);
        let geometry = geometry(self.0, x, y)?;
        let [n, p, q, _] = y.shape.nhwc();
        let (num_vecs, units) = vecs_of(&geometry, y.dtype, [n, p, q])?;
        let arguments = MaxPoolFwdArgs {
            x: args.address(x),
            y: args.address(y),
            argmax: args.output(1),
            num_vecs,
            geometry,
            units,
        };
        let image = ValueType { shape: x.shape, dtype: x.dtype };
        let is_3x3 = is_3x3(self.0, image);
        let kernel = if is_3x3 { kernels::max_pool_fwd_3x3 } else { kernels::max_pool_fwd };
        kernel(x.dtype)?.launch(launcher, kernels::thread_grid(num_vecs as usize), &arguments)
    }
}

impl MaxPool {
    /// y and argmax of `x`; the extents are those of x and y.
    pub(super) fn largest<T: Storage>(
        self,
        [[_, height, width, channels], [_, p, q, _]]: [[usize; 4]; 2],
        x: &[T],
        y: &mut [T],
        argmax: &mut [u8],
    ) {
        let row_elems = q * channels;
        for_each_chunk_pair(y, argmax, (row_elems, row_elems), |row, y, argmax| {
            let image = &x[row / p * height * width * channels..][..height * width * channels];
            let extents = [height, width, channels];
            let mut tile = MaxTile { window: self.0, extents, image, p: row % p, y, argmax };
            for_each_channel_tile(channels, &mut tile);
        });
    }
}

/// One row of the result.
struct MaxTile<'a, 'y, T> {
    window: PoolWindow,
    extents: [usize; 3],
    image: &'a [T],
    p: usize,
    y: &'y mut [T],
    argmax: &'y mut [u8],
}

impl<T: Storage> ChannelTile for MaxTile<'_, '_, T> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let PoolWindow { kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w } = self.window;
        let [height, width, channels] = self.extents;
        let rows = taps(self.p * stride_h, pad_h, kernel_h, height);
        for q in 0..self.y.len() / channels {
            let columns = taps(q * stride_w, pad_w, kernel_w, width);
            let mut largest: Option<[T::Sum; W]> = None;
            let mut argmax = [0u8; W];
            for r in rows.clone() {
                for s in columns.clone() {
                    let pixel = (self.p * stride_h + r - pad_h) * width + q * stride_w + s - pad_w;
                    let x = lanes::<T, W>(self.image, pixel * channels + start);
                    let tap = (r * kernel_w + s) as u8;
                    let Some(largest) = &mut largest else {
                        (largest, argmax) = (Some(x.map(T::load)), [tap; W]);
                        continue;
                    };
                    for c in 0..W {
                        let x = x[c].load();
                        let wins = x > largest[c] || x.partial_cmp(&x).is_none();
                        largest[c] = if wins { x } else { largest[c] };
                        argmax[c] = if wins { tap } else { argmax[c] };
                    }
                }
            }
            let at = q * channels + start;
            let largest = largest.expect("padding is at most half the window");
            *lanes_mut(self.y, at) = largest.map(T::store);
            *lanes_mut(self.argmax, at) = argmax;
        }
    }
}

impl Op for MaxPoolBwd {
    fn name(&self) -> &'static str {
        "max_pool_bwd"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [dy, argmax] = inputs else {
            return Err(format!("takes 2 operands, got {}", inputs.len()));
        };
        float(*dy)?;
        let (p, q) = self.window.output_extents(self.height, self.width)?;
        match dy.shape.as_4d() {
            Some([n, dy_p, dy_q, c])
                if (dy_p, dy_q) == (p, q) && argmax.shape == dy.shape && argmax.dtype == DType::U8 =>
            {
                Ok(vec![ValueType { shape: [n, self.height, self.width, c].into(), dtype: dy.dtype }])
            }
            _ => Err(format!("needs dy of Nx{p}x{q}xC and u8 argmax of its shape, got {dy} and {argmax}")),
        }
    }

    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let taps = self.window.kernel_h * self.window.kernel_w;
        Cost::traffic(inputs, outputs).with_flops(2 * taps * inputs[0].shape.num_elems())
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage>(op: MaxPoolBwd, args: &CpuArgs<'_>) {
            op.gather(args.input_shape(0).nhwc(), args.input::<T>(0), args.input(1), args.output(0));
        }
        dispatch_storage!(args.input_dtype(0), run(*self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (dy, dx) = (&args.inputs[0], &args.outputs[0]);
        let geometry = geometry(self.window, dx, dy)?;
        let image = ValueType { shape: dx.shape, dtype: dx.dtype };
        let (num_vecs, units) = vecs_of(&geometry, dx.dtype, pixel_units(self.window, image))?;
        let arguments = MaxPoolBwdArgs {
            dy: args.address(dy),
            argmax: args.input(1),
            dx: args.address(dx),
            num_vecs,
            geometry,
            units,
        };
        let kernel =
            if is_3x3(self.window, image) { kernels::max_pool_bwd_3x3 } else { kernels::max_pool_bwd };
        kernel(dx.dtype)?.launch(launcher, kernels::thread_grid(num_vecs as usize), &arguments)
    }
}

impl MaxPoolBwd {
    /// dx of the gradient `dy`, of these extents.
    pub(super) fn gather<T: Storage>(
        self,
        [_, p, q, channels]: [usize; 4],
        dy: &[T],
        argmax: &[u8],
        dx: &mut [T],
    ) {
        let image_elems = p * q * channels;
        for_each_chunk(dx, self.width * channels, |start, dx| {
            let row = start / (self.width * channels);
            let image = row / self.height * image_elems;
            let (dy, argmax) = (&dy[image..][..image_elems], &argmax[image..][..image_elems]);
            let extents = [p, q, channels];
            let mut tile = MaxBwdTile { op: self, extents, dy, argmax, h: row % self.height, dx };
            for_each_channel_tile(channels, &mut tile);
        });
    }
}

/// One row of dx, gathered from the windows that cover it: no two tasks write the same element.
struct MaxBwdTile<'a, 'x, T> {
    op: MaxPoolBwd,
    extents: [usize; 3],
    dy: &'a [T],
    argmax: &'a [u8],
    h: usize,
    dx: &'x mut [T],
}

impl<T: Storage> ChannelTile for MaxBwdTile<'_, '_, T> {
    #[inline(always)]
    fn run<const W: usize>(&mut self, start: usize) {
        let PoolWindow { kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w } = self.op.window;
        let [p_extent, q_extent, channels] = self.extents;
        let padded_h = self.h + pad_h;
        for w in 0..self.op.width {
            let padded_w = w + pad_w;
            let mut dx = [T::Sum::ZERO; W];
            for p in windows(padded_h, kernel_h, stride_h, p_extent) {
                for q in windows(padded_w, kernel_w, stride_w, q_extent) {
                    let tap = ((padded_h - p * stride_h) * kernel_w + padded_w - q * stride_w) as u8;
                    let at = (p * q_extent + q) * channels + start;
                    let (dy, argmax) = (lanes::<T, W>(self.dy, at), lanes::<u8, W>(self.argmax, at));
                    for c in 0..W {
                        dx[c] += if argmax[c] == tap { dy[c].load() } else { T::Sum::ZERO };
                    }
                }
            }
            *lanes_mut(self.dx, w * channels + start) = dx.map(T::store);
        }
    }
}

/// The taps of a window that starts at padded position `start` and lie within the image.
fn taps(start: usize, pad: usize, kernel: usize, extent: usize) -> std::ops::Range<usize> {
    pad.saturating_sub(start)..kernel.min(extent + pad - start)
}

/// The windows that cover padded position `position`.
fn windows(position: usize, kernel: usize, stride: usize, count: usize) -> std::ops::Range<usize> {
    (position + 1).saturating_sub(kernel).div_ceil(stride)..(position / stride + 1).min(count)
}

/// Image, result and window, as both kernels take them.
///
/// # Errors
/// [`Error::Device`] if there are more elements than kernels count.
pub(super) fn geometry(window: PoolWindow, image: &Slot, result: &Slot) -> Result<PoolGeometry> {
    below(UNSIGNED, image.shape.num_elems().max(result.shape.num_elems()), "elements")?;
    below(SIGNED / 2, window.stride_h.max(window.stride_w), "pixels from one window to the next")?;
    let [_, height, width, channels] = image.shape.nhwc().map(|extent| extent as u32);
    let [_, out_height, out_width, _] = result.shape.nhwc().map(|extent| extent as u32);
    Ok(PoolGeometry {
        channels,
        height,
        width,
        out_height,
        out_width,
        kernel_h: window.kernel_h as u32,
        kernel_w: window.kernel_w as u32,
        pad_h: window.pad_h as u32,
        pad_w: window.pad_w as u32,
        stride_h: Divisor::new(window.stride_h),
        stride_w: Divisor::new(window.stride_w),
        is_wide: image.shape.last().is_multiple_of(vec_elems(image.dtype)).into(),
    })
}

/// Whether the kernels for windows of 3x3 pixels two apart take images like `image`.
pub(super) fn is_3x3(window: PoolWindow, image: ValueType) -> bool {
    let PoolWindow { kernel_h, kernel_w, stride_h, stride_w, .. } = window;
    let is_wide = image.shape.last().is_multiple_of(vec_elems(image.dtype));
    is_wide && [kernel_h, kernel_w, stride_h, stride_w] == [3, 3, 2, 2]
}

/// Images, rows and columns of what threads of the backward pass take: pixels, or blocks of 2x2 of them, padding included.
pub(super) fn pixel_units(window: PoolWindow, image: ValueType) -> [usize; 3] {
    let [n, h, w, _] = image.shape.nhwc();
    if !is_3x3(window, image) {
        return [n, h, w];
    }
    [n, (h + window.pad_h).div_ceil(window.stride_h), (w + window.pad_w).div_ceil(window.stride_w)]
}

/// How a thread finds its vector of channels, or single channel, of units of so many images, rows and columns; `vecs` of
/// each.
pub(super) fn places([_, rows, columns]: [usize; 3], vecs: usize) -> PoolUnits {
    PoolUnits { rows: Divisor::new(rows), columns: Divisor::new(columns), vecs: Divisor::new(vecs) }
}

/// How many such vectors there are: `geometry`'s channels, of units of so many images, rows and columns.
///
/// # Errors
/// [`Error::Device`] if there are more than kernels count.
fn vecs_of(geometry: &PoolGeometry, dtype: DType, units: [usize; 3]) -> Result<(u32, PoolUnits)> {
    let width = if geometry.is_wide == 1 { vec_elems(dtype) } else { 1 };
    let vecs = geometry.channels as usize / width;
    let num_vecs = units.iter().product::<usize>() * vecs;
    below(SIGNED, num_vecs, "vectors of channels")?;
    Ok((num_vecs as u32, places(units, vecs)))
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    let cases = vec![
        Case::new("max_pool_3x3_stride_2_pad_1", &[&[2, 7, 6, 5]], |graph, x| {
            max_pool(graph, "pool", x[0], PoolWindow::square(3, 2, 1))
        }),
        Case::new("max_pool_3x3_stride_2_pad_1_of_whole_vectors", &[&[3, 7, 5, 16]], |graph, x| {
            max_pool(graph, "pool", x[0], PoolWindow::square(3, 2, 1))
        }),
        Case::new("max_pool_5x5_stride_1_pad_2_of_whole_vectors", &[&[2, 6, 7, 8]], |graph, x| {
            max_pool(graph, "pool", x[0], PoolWindow::square(5, 1, 2))
        }),
        Case::new("max_pool_2x3_stride_3x1_pad_0x1_leaving_a_row_out", &[&[2, 6, 5, 3]], |graph, x| {
            let window =
                PoolWindow { kernel_h: 2, kernel_w: 3, stride_h: 3, stride_w: 1, pad_h: 0, pad_w: 1 };
            max_pool(graph, "pool", x[0], window)
        }),
    ];
    Checks { cases, trials: vec![Box::new(trial)] }
}

/// A window and an image that it fits.
pub(super) fn window_and_image(draw: &mut Draw) -> (PoolWindow, [usize; 4]) {
    // Windows of 3x3 with stride 2 have kernels of their own.
    let is_3x3 = draw.coin();
    let [kernel_h, kernel_w] = if is_3x3 { [3, 3] } else { [draw.within(1, 5), draw.within(1, 5)] };
    let [stride_h, stride_w] = if is_3x3 { [2, 2] } else { [draw.within(1, 4), draw.within(1, 4)] };
    let (pad_h, pad_w) = (draw.within(0, kernel_h / 2), draw.within(0, kernel_w / 2));
    let window = PoolWindow { kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w };
    let [n, h, w, c] = draw.image(1);
    (window, [n, h.max(kernel_h), w.max(kernel_w), c])
}

fn trial(draw: &mut Draw) -> Trial {
    let (window, shape) = window_and_image(draw);
    Trial::new(format!("max pool: {shape:?}, {window:?}"), move |graph| {
        let x = input(graph, "x", shape);
        let outputs = graph.apply("y", MaxPool(window), &[x])?;
        let out_shape = graph.shape(outputs[0]);
        let dy = input(graph, "dy", out_shape);
        let op = MaxPoolBwd { window, height: shape[1], width: shape[2] };
        graph.apply("dx", op, &[dy, outputs[1]])?;
        Ok(())
    })
}
