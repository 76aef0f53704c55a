//! From the pixels of photos to the network's input, on the device: sampled, coloured, mixed and normalised.

use std::mem::offset_of;

use half::bf16;

use crate::device::cpu::{CpuArgs, Storage, for_each_chunk};
use crate::device::kernels::augment::WIDE_PIXELS;
use crate::device::kernels::{self, AugmentArgs};
use crate::device::{LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, Graph, InferResult, Op, ValueId, ValueType};
use crate::ops::checks::{Checks, Contents, Draw, Trial};
use crate::ops::launch::{SIGNED, below};
use crate::ops::stem::{BLOCK, PADDING_BEFORE, SpaceToDepth};
use crate::rng::Use;
use crate::tensor::{DType, Shape};
use crate::transform::{
    Affine, Colour, Image, Mix, NUM_CHANNELS, Noise, Normalization, PixelBox, SampleParams,
};

/// A row of `params` lies as the kernel reads it.
const _: () = {
    use kernels::SampleParams as Read;
    macro_rules! same_place {
        ($($member:ident: $($field:ident).+),+) => {
            $(assert!(offset_of!(Read, $member) == offset_of!(SampleParams, $($field).+));)+
        };
    }
    assert!(size_of::<Read>() == size_of::<SampleParams>());
    same_place!(inverse_x: inverse.x, inverse_y: inverse.y, colour: colour.rows);
    same_place!(noise_probability: noise.probability, noise_key: noise.key);
    same_place!(noise_epoch: noise.epoch, noise_sample: noise.sample);
    same_place!(partner: mix.partner, weight: mix.weight);
    same_place!(left: mix.inside.left, top: mix.inside.top);
    same_place!(right: mix.inside.right, bottom: mix.inside.bottom);
    same_place!(erased_left: erased.left, erased_top: erased.top);
    same_place!(erased_right: erased.right, erased_bottom: erased.bottom);
};

/// Pixels that are made in f32 before they are stored as bf16.
const RUN_PIXELS: usize = 16;

/// `(pixels u8 [M,H,W,3], rows i32 [N], params f32 [N,P]) -> images [N,H,W,3]`.
///
/// Sample n shows photo `rows[n]` of `pixels` as row n of `params` says: the bit patterns of a [`SampleParams`], of which
/// `P` is the number of fields. Where `rows[n]` is -1 the result is zero. M may be N, or the number of photos in a data
/// set that lies on the device. There is no gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AugmentFwd {
    /// What pixel values become.
    pub normalization: Normalization,
    /// Type of the result: f32 or bf16.
    pub dtype: DType,
}

/// The same operands `-> blocks [N,ceil(H/2)+3,ceil(W/2)+3,16]`: [`SpaceToDepth`] of [`AugmentFwd`]. Set by fusion; the images
/// themselves are never written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AugmentBlocks(pub AugmentFwd);

/// Records the network's input of type `dtype` made from `pixels`, `rows` and `params`; see [`AugmentFwd`].
///
/// # Errors
/// If the shapes or types do not fit.
pub fn augment(
    graph: &mut Graph,
    name: &str,
    [pixels, rows, params]: [ValueId; 3],
    op: AugmentFwd,
) -> Result<ValueId> {
    graph.apply_one(name, op, &[pixels, rows, params])
}

impl Op for AugmentFwd {
    fn name(&self) -> &'static str {
        "augment"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [pixels, rows, params] = inputs else {
            return Err(format!("takes 3 operands, got {}", inputs.len()));
        };
        let (&[_, height, width, NUM_CHANNELS], DType::U8) = (pixels.shape.dims(), pixels.dtype) else {
            return Err(format!("needs pixels u8 [M, H, W, {NUM_CHANNELS}], got {pixels}"));
        };
        let (&[num_samples], DType::I32) = (rows.shape.dims(), rows.dtype) else {
            return Err(format!("needs rows i32 [N], got {rows}"));
        };
        let expected = Shape::from([num_samples, SampleParams::NUM_ELEMS]);
        if params.shape != expected || params.dtype != DType::F32 {
            return Err(format!("needs params f32 {expected}, got {params}"));
        }
        if !matches!(self.dtype, DType::F32 | DType::Bf16) {
            return Err(format!("makes images of f32 or bf16, not {}", self.dtype));
        }
        let shape = [num_samples, height, width, NUM_CHANNELS].into();
        Ok(vec![ValueType { shape, dtype: self.dtype }])
    }

    /// Of the photos, those that are shown.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let elems = outputs[0].shape.num_elems();
        let shown = ValueType { shape: outputs[0].shape, dtype: DType::U8 };
        Cost::traffic(&[shown, inputs[1], inputs[2]], outputs).with_flops(20 * elems)
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        let samples = Samples::new(self, args);
        let line_elems = samples.width * NUM_CHANNELS;
        if self.dtype == DType::F32 {
            for_each_chunk(args.output::<f32>(0), line_elems, |start, out| {
                samples.run(start / line_elems, 0, out.as_chunks_mut().0);
            });
            return;
        }
        for_each_chunk(args.output::<bf16>(0), line_elems, |start, out| {
            for (part, out) in out.chunks_mut(RUN_PIXELS * NUM_CHANNELS).enumerate() {
                let mut values = [[0.0; NUM_CHANNELS]; RUN_PIXELS];
                let values = &mut values[..out.len() / NUM_CHANNELS];
                samples.run(start / line_elems, part * RUN_PIXELS, values);
                out.iter_mut().zip(values.as_flattened()).for_each(|(out, &v)| *out = bf16::store(v));
            }
        });
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let images = &args.outputs[0];
        let kernel = kernels::augment(images.dtype)?;
        let arguments = self.arguments(args)?;
        let num_pixels = (arguments.height * arguments.width) as usize;
        let pixels_per_block = kernel.block_threads() * if arguments.is_wide == 1 { WIDE_PIXELS } else { 1 };
        kernel.launch(
            launcher,
            [num_pixels.div_ceil(pixels_per_block), images.shape.dims()[0], 1],
            &arguments,
        )
    }
}

impl AugmentFwd {
    /// What both kernels take.
    fn arguments(&self, args: &LaunchArgs<'_>) -> Result<AugmentArgs> {
        let [pixels, rows, params] = args.inputs else { unreachable!("inferred") };
        let &[_, height, width, _] = pixels.shape.dims() else { unreachable!("inferred") };
        // Threads of the last block count on behind the last pixel.
        below(SIGNED, height * width, "pixels of an image")?;
        let channels = self.normalization.scale_and_offset();
        Ok(AugmentArgs {
            pixels: args.address(pixels),
            rows: args.address(rows),
            params: args.address(params),
            y: args.output(0),
            height: height as u32,
            width: width as u32,
            is_wide: (height * width).is_multiple_of(WIDE_PIXELS).into(),
            noise_use: Use::Noise as u32,
            scale: channels.map(|(scale, _)| scale),
            offset: channels.map(|(_, offset)| offset),
        })
    }
}

impl Op for AugmentBlocks {
    fn name(&self) -> &'static str {
        "augment_blocks"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        SpaceToDepth.infer(&self.0.infer(inputs)?)
    }

    /// Of the photos, those that are shown.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let &[num_samples, ..] = inputs[1].shape.dims() else { unreachable!("inferred") };
        let &[_, height, width, channels] = inputs[0].shape.dims() else { unreachable!("inferred") };
        let shown = ValueType { shape: [num_samples, height, width, channels].into(), dtype: DType::U8 };
        Cost::traffic(&[shown, inputs[1], inputs[2]], outputs).with_flops(20 * shown.shape.num_elems())
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        fn run<T: Storage<Sum = f32>>(op: &AugmentFwd, args: &CpuArgs<'_>) {
            let samples = Samples::new(op, args);
            let [_, rows, columns, depth] = args.output_shape(0).nhwc();
            for_each_chunk(args.output::<T>(0), columns * depth, |start, blocks| {
                let (sample, row) = (start / (rows * columns * depth), start / (columns * depth) % rows);
                blocks.fill(T::ZERO);
                for below in 0..BLOCK {
                    let Some(y) = (BLOCK * row + below).checked_sub(BLOCK * PADDING_BEFORE) else { continue };
                    if y >= samples.height {
                        continue;
                    }
                    for first in (0..samples.width).step_by(RUN_PIXELS) {
                        let mut values = [[0.0; NUM_CHANNELS]; RUN_PIXELS];
                        let values = &mut values[..RUN_PIXELS.min(samples.width - first)];
                        samples.run(sample * samples.height + y, first, values);
                        for (x, value) in (first..).zip(values) {
                            let at = (x / BLOCK + PADDING_BEFORE) * depth
                                + (BLOCK * below + x % BLOCK) * NUM_CHANNELS;
                            let place = &mut blocks[at..at + NUM_CHANNELS];
                            place.iter_mut().zip(value).for_each(|(to, v)| *to = T::store(*v));
                        }
                    }
                }
            });
        }
        match self.0.dtype {
            DType::F32 => run::<f32>(&self.0, args),
            _ => run::<bf16>(&self.0, args),
        }
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let [num_samples, rows, columns, _] = args.outputs[0].shape.nhwc();
        let kernel = kernels::augment_blocks(args.outputs[0].dtype)?;
        let arguments = self.0.arguments(args)?;
        below(SIGNED, rows * columns, "blocks of pixels of an image")?;
        kernel.launch(
            launcher,
            [(rows * columns).div_ceil(kernel.block_threads()), num_samples, 1],
            &arguments,
        )
    }
}

/// The samples of a batch, as the CPU makes them.
struct Samples<'a> {
    pixels: &'a [u8],
    rows: &'a [i32],
    params: &'a [SampleParams],
    channels: [(f32, f32); NUM_CHANNELS],
    height: usize,
    width: usize,
}

impl<'a> Samples<'a> {
    fn new(op: &AugmentFwd, args: &CpuArgs<'a>) -> Samples<'a> {
        let &[_, height, width, _] = args.input_shape(0).dims() else { unreachable!("inferred") };
        Samples {
            pixels: args.input::<u8>(0),
            rows: args.input::<i32>(1),
            params: SampleParams::from_floats(args.input::<f32>(2)),
            channels: op.normalization.scale_and_offset(),
            height,
            width,
        }
    }

    /// The photo that a sample shows; none for padding.
    fn photo(&self, sample: usize) -> Option<Image<'a>> {
        let row = usize::try_from(self.rows[sample]).ok()?;
        let photo_bytes = self.height * self.width * NUM_CHANNELS;
        Some(Image::new(&self.pixels[row * photo_bytes..][..photo_bytes], self.height, self.width))
    }

    /// The pixels of line `line`, counted through all samples, from column `first` on.
    fn run(&self, line: usize, first: usize, out: &mut [[f32; NUM_CHANNELS]]) {
        let (sample, y) = (line / self.height, line % self.height);
        let Some(own) = self.photo(sample) else { return out.fill([0.0; NUM_CHANNELS]) };
        let params = &self.params[sample];
        params.input_run(own, (first, y), &self.channels, out);
        let mix = &params.mix;
        let columns = mix.columns(y);
        for x in columns.start.max(first)..columns.end.min(first + out.len()) {
            let partner = mix.partner as usize;
            let mut other = [[0.0; NUM_CHANNELS]];
            if let Some(photo) = self.photo(partner) {
                self.params[partner].input_run(photo, (x, y), &self.channels, &mut other);
            }
            out[x - first].iter_mut().zip(other[0]).for_each(|(own, other)| *own = mix.blend(*own, other));
        }
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    // Threads of the kernel take one pixel or several, by the number of pixels.
    let trials = [false, true].map(|is_wide| Box::new(move |draw: &mut Draw| trial(draw, is_wide)) as _);
    Checks { cases: vec![], trials: trials.into() }
}

/// Photos seen through maps that turn and move, with colour, noise, erasing and mixing, and a row of padding; their pixels are
/// a multiple of what a thread takes, or an odd number.
fn trial(draw: &mut Draw, is_wide: bool) -> Trial {
    let (photos, samples) = (draw.within(1, 4), draw.within(2, 5));
    let mut extent = || 2 * draw.within(0, 8) + 1;
    let [height, width] = [extent(), if is_wide { WIDE_PIXELS * draw.within(1, 4) } else { extent() }];
    let pixels = (0..photos * height * width * 3).map(|_| draw.within(0, 255) as u8).collect();
    let mut rows: Vec<i32> = (0..samples).map(|_| draw.within(0, photos - 1) as i32).collect();
    rows[samples - 1] = -1;
    let mut params: Vec<SampleParams> = (0..samples)
        .map(|sample| SampleParams {
            inverse: random_map(draw, height.min(width)),
            colour: Colour::contrast(0.5 + draw.uniform(), 120.0)
                .after(Colour::brightness(0.5 + draw.uniform())),
            noise: Noise::new(0.2 * draw.uniform(), 3, 1, sample as u32),
            erased: if draw.coin() { PixelBox::NONE } else { random_box(draw, [height, width]) },
            mix: random_mix(draw, samples, [height, width]),
        })
        .collect();
    // One that is mixed for certain, with itself where there is no other.
    let everywhere = PixelBox { left: 0, top: 0, right: width as i32, bottom: height as i32 };
    let partner = draw.within(0, samples - 2) as i32;
    params[0].mix = Mix { partner, weight: 0.3, inside: everywhere };
    let normalization = Normalization { mean: [0.1, 0.4, 0.7], std: [0.5, 0.2, 0.3] };
    let num_rows = rows.len();
    Trial::new(format!("augment: {photos} photos, {samples} samples of {height}x{width}"), move |graph| {
        let operands = [
            graph.input("pixels", [photos, height, width, 3], DType::U8),
            graph.input("rows", [num_rows], DType::I32),
            graph.input("params", [samples, SampleParams::NUM_ELEMS], DType::F32),
        ];
        let dtype = graph.float();
        let op = AugmentFwd { normalization, dtype };
        augment(graph, "images", operands, op)?;
        graph.apply_one("blocks", AugmentBlocks(op), &operands)?;
        Ok(())
    })
    .with_operand("pixels", Contents::U8(pixels))
    .with_operand("rows", Contents::I32(rows))
    .with_operand("params", Contents::F32(SampleParams::as_floats(&params).to_vec()))
}

/// The image as it is, or turned and moved.
pub(super) fn random_map(draw: &mut Draw, image_size: usize) -> Affine {
    if draw.coin() {
        return Affine::IDENTITY;
    }
    let turned = Affine::rotation(image_size, 180.0 * draw.uniform());
    turned.after(Affine::translation(3.0 * draw.uniform(), -3.0 * draw.uniform()))
}

/// Nothing mixed in, or another sample in a box.
fn random_mix(draw: &mut Draw, samples: usize, [height, width]: [usize; 2]) -> Mix {
    if draw.coin() {
        return Mix::NONE;
    }
    let (partner, weight) = (draw.within(0, samples - 1) as i32, draw.uniform());
    Mix { partner, weight, inside: random_box(draw, [height, width]) }
}

/// A box within the image, which may be empty.
fn random_box(draw: &mut Draw, [height, width]: [usize; 2]) -> PixelBox {
    PixelBox {
        left: draw.within(0, width) as i32,
        top: draw.within(0, height) as i32,
        right: draw.within(0, width) as i32,
        bottom: draw.within(0, height) as i32,
    }
}
