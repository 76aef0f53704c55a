//! Rasterising: from the polygons of a batch to an image of masks or codes, each sample seen through its map.

use super::codes::{CODE_CHANNELS, MAX_CODED_CLASSES, code};
use crate::device::cpu::{CpuArgs, Real, Storage, for_each_chunk};
use crate::device::kernels::rasterise::{PIXELS, WORD_BITS};
use crate::device::kernels::{self, RasteriseArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Graph, InferResult, Op, ValueId, ValueType};
use crate::ops::augment::random_map;
use crate::ops::checks::{Checks, Contents, Draw, Trial};
use crate::ops::dispatch_storage;
use crate::ops::launch::{SIGNED, below, vec_elems};
use crate::tensor::DType;
use crate::transform::Affine;

/// Leading elements of a row of `params`: the x row and the y row of the inverse affine map.
const MAP_ELEMS: usize = 6;
/// Classes whose bits for a block of pixels fill the shared memory that every GPU gives a block.
const MAX_MASKS: usize = 48 * 1024 / (PIXELS * size_of::<u32>()) * WORD_BITS;

/// What the channels say about the polygons over a pixel. The classes of objects are below `num_classes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// One channel a class: 1 where any object of the class is, else 0.
    Masks {
        /// K.
        num_classes: usize,
    },
    /// The [code](code()) of the last object over the pixel, in the order of the list; 0 where there is none.
    Codes {
        /// K.
        num_classes: usize,
    },
}

impl Paint {
    /// Channels of the result.
    pub fn channels(self) -> usize {
        match self {
            Paint::Masks { num_classes } => num_classes,
            Paint::Codes { .. } => CODE_CHANNELS,
        }
    }

    fn check(self) -> InferResult<()> {
        let (what, num_classes, most) = match self {
            Paint::Masks { num_classes } => ("masks", num_classes, MAX_MASKS),
            Paint::Codes { num_classes } => ("codes", num_classes, MAX_CODED_CLASSES),
        };
        if (1..=most).contains(&num_classes) {
            return Ok(());
        }
        Err(format!("makes {what} of 1 to {most} classes of objects, got {num_classes}"))
    }
}

/// `(params [N, P] f32, points [Q, 2] f32, objects [M, 4] i32) -> y [N, H, W, C]`.
///
/// The first six numbers of a row of `params` are the inverse affine map of a sample, from pixel of y to place in the
/// source. `points` are corners (x, y) in pixels of the source, counted from the centre of the first. `objects` are
/// (sample, class, first point, number of points), sorted by sample, and last the unused rows, whose sample is -1.
///
/// A pixel is inside a polygon by the even-odd rule at its centre; the left and upper edges belong to the polygon, the
/// right and lower ones do not. Fewer than three corners enclose nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rasterise {
    /// What the channels are.
    pub paint: Paint,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// Element type of the result: f32, f64 or bf16.
    pub dtype: DType,
}

/// Records the rasterising of the polygons of a batch. Nothing in it has a gradient.
///
/// # Errors
/// If an operand is not of the shape that [`Rasterise`] says, or there are too many classes.
pub fn rasterise(
    graph: &mut Graph,
    name: &str,
    op: Rasterise,
    [params, points, objects]: [ValueId; 3],
) -> Result<ValueId> {
    graph.apply_one(name, op, &[params, points, objects])
}

impl Op for Rasterise {
    fn name(&self) -> &'static str {
        "rasterise"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        self.paint.check()?;
        let [params, points, objects] = inputs else {
            return Err(format!("takes params, points and objects, got {} operands", inputs.len()));
        };
        let is_list = |ty: &ValueType, dtype| ty.shape.rank() == 2 && ty.dtype == dtype;
        if !is_list(params, DType::F32) || params.shape.last() < MAP_ELEMS {
            return Err(format!(
                "needs params of f32 [N, P] that start with {MAP_ELEMS} numbers of a map, got {params}"
            ));
        }
        if !is_list(points, DType::F32) || points.shape.last() != 2 {
            return Err(format!("needs points of f32 [Q, 2], got {points}"));
        }
        if !is_list(objects, DType::I32) || objects.shape.last() != 4 {
            return Err(format!("needs objects of i32 [M, 4], got {objects}"));
        }
        if !matches!(self.dtype, DType::F32 | DType::F64 | DType::Bf16) {
            return Err(format!("makes f32, f64 or bf16, got {}", self.dtype));
        }
        let shape = [params.shape.dims()[0], self.height, self.width, self.paint.channels()].into();
        Ok(vec![ValueType { shape, dtype: self.dtype }])
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        dispatch_storage!(args.output_dtype(0), run(self, args));
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let (params, objects) = (&args.inputs[0], &args.inputs[2]);
        let y = &args.outputs[0];
        let (pixels, channels) = (self.height * self.width, self.paint.channels());
        below(SIGNED, pixels, "pixels of an image")?;
        below(SIGNED, PIXELS * channels, "elements of a tile of pixels")?;
        below(SIGNED, objects.shape.num_elems(), "words of objects")?;
        let arguments = RasteriseArgs {
            params: args.input(0),
            points: args.input(1),
            objects: args.input(2),
            y: args.output(0),
            num_objects: objects.shape.dims()[0] as u32,
            params_stride: params.shape.last() as u32,
            width: self.width as u32,
            pixels: pixels as u32,
            channels: channels as u32,
            is_wide: u32::from((pixels * channels).is_multiple_of(vec_elems(y.dtype))),
        };
        let (kernel, words) = match self.paint {
            Paint::Masks { .. } => (kernels::rasterise_masks(y.dtype)?, channels.div_ceil(WORD_BITS)),
            Paint::Codes { .. } => (kernels::rasterise_codes(y.dtype)?, 1),
        };
        let shared_bytes = words * PIXELS * size_of::<u32>();
        let blocks = params.shape.dims()[0] * pixels.div_ceil(PIXELS);
        kernel.launch_with_shared(launcher, blocks, shared_bytes as u32, &arguments)
    }
}

fn run<T: Storage>(op: &Rasterise, args: &CpuArgs<'_>) {
    let params_stride = args.input_shape(0).last();
    let (params, (points, _), (objects, _)) =
        (args.input::<f32>(0), args.input::<f32>(1).as_chunks(), args.input::<i32>(2).as_chunks());
    let row_elems = op.width * op.paint.channels();
    for_each_chunk(args.output::<T>(0), row_elems, |start, y| {
        y.fill(T::ZERO);
        let (sample, row) = (start / row_elems / op.height, start / row_elems % op.height);
        let (map, _) = params[sample * params_stride..][..MAP_ELEMS].as_chunks();
        for &[_, class, first, len] in of_sample(objects, sample) {
            let polygon = &points[first as usize..][..len as usize];
            paint_row(op.paint, class as usize, polygon, (map, row), y);
        }
    });
}

/// The objects of `sample`. Read as unsigned, the -1 of unused rows is the largest.
fn of_sample(objects: &[[i32; 4]], sample: usize) -> &[[i32; 4]] {
    let before = |sample: usize| objects.partition_point(|object| (object[0] as u32 as usize) < sample);
    &objects[before(sample)..before(sample + 1)]
}

/// Paints an object where it covers a row of the result.
fn paint_row<T: Storage>(
    paint: Paint,
    class: usize,
    polygon: &[[f32; 2]],
    (map, row): (&[[f32; 3]], usize),
    y: &mut [T],
) {
    let Some(bounds) = Bounds::of(polygon) else { return };
    let place = |axis: [f32; 3], column: usize| axis[0] * column as f32 + axis[1] * row as f32 + axis[2];
    let channels = paint.channels();
    let last_column = (y.len() / channels).saturating_sub(1);
    // Rounding keeps order, so places in between lie between those of the ends.
    if bounds.misses_rows(place(map[1], 0), place(map[1], last_column)) {
        return;
    }
    let code = match paint {
        Paint::Masks { .. } => None,
        Paint::Codes { .. } => Some(code(class).map(|v| T::store(T::Sum::from_f64(f64::from(v))))),
    };
    for (column, pixel) in y.chunks_exact_mut(channels).enumerate() {
        let (x, y) = (place(map[0], column), place(map[1], column));
        if !bounds.may_hold(x) || !covers(polygon, x, y) {
            continue;
        }
        match &code {
            Some(code) => pixel.copy_from_slice(code),
            None => pixel[class] = T::store(T::Sum::ONE),
        }
    }
}

/// Whether (x, y) is inside `polygon` by the even-odd rule. The kernel does the same arithmetic, step by step.
fn covers(polygon: &[[f32; 2]], x: f32, y: f32) -> bool {
    let Some(mut previous) = polygon.last() else { return false };
    let mut is_inside = false;
    for point in polygon {
        let (upper, lower) = if previous[1] <= point[1] { (previous, point) } else { (point, previous) };
        if upper[1] <= y && y < lower[1] {
            let to_edge = (lower[0] - upper[0]) * (y - upper[1]);
            let to_pixel = (x - upper[0]) * (lower[1] - upper[1]);
            is_inside ^= to_pixel < to_edge;
        }
        previous = point;
    }
    is_inside
}

/// The box around a polygon.
struct Bounds {
    low: [f32; 2],
    high: [f32; 2],
}

impl Bounds {
    /// `None` for polygons that enclose nothing.
    fn of(polygon: &[[f32; 2]]) -> Option<Bounds> {
        let nothing = Bounds { low: [f32::MAX; 2], high: [f32::MIN; 2] };
        (polygon.len() >= 3).then(|| {
            polygon.iter().fold(nothing, |Bounds { low, high }, &[x, y]| Bounds {
                low: [low[0].min(x), low[1].min(y)],
                high: [high[0].max(x), high[1].max(y)],
            })
        })
    }

    /// Whether no edge crosses any height from `a` to `b`.
    fn misses_rows(&self, a: f32, b: f32) -> bool {
        a.max(b) < self.low[1] || a.min(b) >= self.high[1]
    }

    /// Whether a pixel at `x` can be inside. Rounding may put a pixel that touches the box from the left inside, hence the
    /// margin: what is skipped here must be what the kernel finds outside.
    fn may_hold(&self, x: f32) -> bool {
        x >= self.low[0] - 1.0 && x < self.high[0]
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial)] }
}

/// Polygons of none to nine points, some of them far outside, painted as masks and as codes.
fn trial(draw: &mut Draw) -> Trial {
    let (samples, num_classes) = (draw.within(1, 3), draw.pick(&[1, 8, 37, 175]));
    let [height, width] = [draw.within(1, 18), draw.within(1, 18)];
    let maps: Vec<Affine> = (0..samples).map(|_| random_map(draw, height.min(width))).collect();
    let (mut points, mut objects) = (Vec::new(), Vec::new());
    for sample in 0..samples as i32 {
        for _ in 0..draw.within(0, 6) {
            let (first, len) = (points.len() as i32, draw.within(0, 9) as i32);
            let reach = draw.pick(&[1.0, 1.0, 4.0]);
            points
                .extend((0..len).map(|_| [height, width].map(|v| v as f32 * reach * draw.uniform() - reach)));
            objects.push([sample, draw.within(0, num_classes - 1) as i32, first, len]);
        }
    }
    objects.push([-1; 4]);
    points.push([0.0; 2]);
    let (num_points, num_objects) = (points.len(), objects.len());
    let title =
        format!("rasterise: {num_objects} objects, {samples} of {height}x{width}, {num_classes} classes");
    Trial::new(title, move |graph| {
        let operands = [
            graph.input("maps", [samples, 6], DType::F32),
            graph.input("points", [num_points, 2], DType::F32),
            graph.input("objects", [num_objects, 4], DType::I32),
        ];
        let dtype = graph.float();
        for (name, paint) in
            [("masks", Paint::Masks { num_classes }), ("codes", Paint::Codes { num_classes })]
        {
            rasterise(graph, name, Rasterise { paint, height, width, dtype }, operands)?;
        }
        Ok(())
    })
    .with_operand("maps", Contents::F32(bytemuck::cast_slice(&maps).to_vec()))
    .with_operand("points", Contents::F32(points.concat()))
    .with_operand("objects", Contents::I32(objects.concat()))
}
