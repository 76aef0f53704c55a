//! Photos changed byte by byte, each by operations of its own: what TrivialAugment and RandAugment drew for it.

use std::mem::offset_of;

use crate::device::cpu::{CpuArgs, for_each_chunk_pair};
use crate::device::kernels::auto_augment as kinds;
use crate::device::kernels::{self, AutoAugmentArgs};
use crate::device::{DeviceKind, LaunchArgs, Launcher};
use crate::error::Result;
use crate::graph::{Cost, Graph, InferResult, Op, ValueId, ValueType};
use crate::ops::augment::{AugmentFwd, augment, random_map};
use crate::ops::checks::{Checks, Contents, Draw, Trial};
use crate::ops::launch::{UNSIGNED, below};
use crate::rng::Use;
use crate::tensor::{DType, Shape};
use crate::transform::{
    AutoOp, AutoStep, AutoSteps, Colour, Image, MAX_AUTO_STEPS, NUM_CHANNELS, Noise, Normalization,
    SampleParams,
};

/// A row of `steps` lies as the kernel reads it, and kinds have the kernel's numbers.
const _: () = {
    use kernels::{AutoStep as Read, AutoSteps as ReadAll};
    macro_rules! same_place {
        ($Read:ident, $Type:ident: $($member:ident: $field:ident),+) => {
            assert!(size_of::<$Read>() == size_of::<$Type>());
            $(assert!(offset_of!($Read, $member) == offset_of!($Type, $field));)+
        };
    }
    same_place!(Read, AutoStep: kind: kind, level: level, factor: factor, rest: rest, map_x: map_x, map_y: map_y);
    same_place!(ReadAll, AutoSteps: inverse_x: inverse, steps: steps);
    assert!(kinds::MAX_AUTO_STEPS == MAX_AUTO_STEPS);
    macro_rules! same_number {
        ($($name:ident),+) => { $(assert!(kinds::$name == AutoStep::$name as usize);)+ };
    }
    same_number!(MAP, BRIGHTNESS, CONTRAST, POSTERIZE, SOLARIZE, AUTO_CONTRAST, EQUALIZE, COLOR, SHARPNESS);
};

/// `(pixels u8 [M,H,W,3], rows i32 [N], params f32 [N,P], steps f32 [N,S]) -> (photos u8 [N,H,W,3], own rows i32 [N], own params f32 [N,P])`.
///
/// Photo n of the result is photo `rows[n]` of `pixels` as row n of `steps` says, an [`AutoSteps`]: seen through its map, with the
/// colours and the noise of row n of `params`, rounded to bytes and changed by its operations; zero where `rows[n]` is -1.
/// The other results are what [`AugmentFwd`] takes next to the photos: the samples' own rows, and `params` with erasing and
/// mixing alone left to do. There is no gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoAugment;

/// Records operations on bytes before [`augment`]: what comes back are its operands instead of `pixels`, `rows` and `params`.
///
/// # Errors
/// If the shapes or types do not fit.
pub fn auto_augment(
    graph: &mut Graph,
    name: &str,
    [pixels, rows, params]: [ValueId; 3],
    steps: ValueId,
) -> Result<[ValueId; 3]> {
    let results = graph.apply(name, AutoAugment, &[pixels, rows, params, steps])?;
    Ok([results[0], results[1], results[2]])
}

impl Op for AutoAugment {
    fn name(&self) -> &'static str {
        "auto_augment"
    }

    fn infer(&self, inputs: &[ValueType]) -> InferResult {
        let [pixels, rows, params, steps] = inputs else {
            return Err(format!("takes 4 operands, got {}", inputs.len()));
        };
        let (&[_, height, width, NUM_CHANNELS], DType::U8) = (pixels.shape.dims(), pixels.dtype) else {
            return Err(format!("needs pixels u8 [M, H, W, {NUM_CHANNELS}], got {pixels}"));
        };
        let (&[num_samples], DType::I32) = (rows.shape.dims(), rows.dtype) else {
            return Err(format!("needs rows i32 [N], got {rows}"));
        };
        for (name, got, num_elems) in
            [("params", params, SampleParams::NUM_ELEMS), ("steps", steps, AutoSteps::NUM_ELEMS)]
        {
            let expected = Shape::from([num_samples, num_elems]);
            if got.shape != expected || got.dtype != DType::F32 {
                return Err(format!("needs {name} f32 {expected}, got {got}"));
            }
        }
        let photos = ValueType { shape: [num_samples, height, width, NUM_CHANNELS].into(), dtype: DType::U8 };
        Ok(vec![photos, *rows, *params])
    }

    fn output_names(&self) -> &'static [&'static str] {
        &["", ".rows", ".params"]
    }

    /// Of the photos, those that are shown; the operations find them in the caches.
    fn cost(&self, inputs: &[ValueType], outputs: &[ValueType]) -> Cost {
        let elems = outputs[0].shape.num_elems();
        Cost::traffic(&[outputs[0], inputs[1], inputs[2], inputs[3]], outputs).with_flops(20 * elems)
    }

    /// Where photos lie that cannot be written over what they are made of.
    fn workspace_bytes(&self, _: DeviceKind, _: &[ValueType], outputs: &[ValueType]) -> usize {
        outputs[0].num_bytes()
    }

    fn cpu(&self, args: &CpuArgs<'_>) {
        let &[_, height, width, _] = args.input_shape(0).dims() else { unreachable!("inferred") };
        let (pixels, rows) = (args.input::<u8>(0), args.input::<i32>(1));
        let params = SampleParams::from_floats(args.input::<f32>(2));
        let steps = AutoSteps::from_floats(args.input::<f32>(3));
        let photo_bytes = height * width * NUM_CHANNELS;
        let (photos, workspace) = (args.output::<u8>(0), args.workspace::<u8>());
        let room = &mut workspace[..photos.len()];
        for_each_chunk_pair(photos, room, (photo_bytes, photo_bytes), |sample, photo, room| {
            let Ok(row) = usize::try_from(rows[sample]) else { return photo.fill(0) };
            let image = Image::new(&pixels[row * photo_bytes..][..photo_bytes], height, width);
            let ((photo, _), (room, _)) = (photo.as_chunks_mut(), room.as_chunks_mut());
            steps[sample].run(&params[sample], image, photo, room);
        });
        for (sample, (own, &row)) in args.output::<i32>(1).iter_mut().zip(rows).enumerate() {
            *own = if row < 0 { -1 } else { sample as i32 };
        }
        for (own, params) in args.output::<f32>(2).chunks_exact_mut(SampleParams::NUM_ELEMS).zip(params) {
            own.copy_from_slice(SampleParams::as_floats(&[params.without_bytes()]));
        }
    }

    fn launch(&self, args: &LaunchArgs<'_>, launcher: &mut dyn Launcher) -> Result<()> {
        let &[num_samples, height, width, _] = args.outputs[0].shape.dims() else { unreachable!("inferred") };
        below(UNSIGNED, height * width * 255, "levels in the sum of an image")?;
        let arguments = AutoAugmentArgs {
            pixels: args.input(0),
            rows: args.input(1),
            params: args.input(2),
            steps: args.input(3),
            photos: args.output(0),
            own_rows: args.output(1),
            own_params: args.output(2),
            spare: args.workspace(),
            height: height as u32,
            width: width as u32,
            num_pixels: (height * width) as u32,
            noise_use: Use::Noise as u32,
        };
        kernels::AUTO_AUGMENT.launch(launcher, [num_samples, 1, 1], &arguments)
    }
}

/// What these operations are checked by.
pub(super) fn checks() -> Checks {
    Checks { cases: vec![], trials: vec![Box::new(trial)] }
}

/// Photos with each operation once, alone and after others, seen through maps with colour and noise; a row of padding.
fn trial(draw: &mut Draw) -> Trial {
    let photos = draw.within(1, 3);
    // Images of fewer than three rows or columns have no inside to smooth.
    let extents @ [height, width] = [draw.within(1, 40), draw.within(1, 25)];
    let pixels = (0..photos * height * width * 3).map(|_| draw.within(0, 255) as u8).collect();
    let num_samples = AutoOp::ALL.len() + 1;
    let mut rows: Vec<i32> = (0..num_samples).map(|_| draw.within(0, photos - 1) as i32).collect();
    rows[num_samples - 1] = -1;
    let params: Vec<SampleParams> = (0..num_samples)
        .map(|sample| SampleParams {
            colour: Colour::brightness(0.5 + draw.uniform()),
            noise: Noise::new(0.2 * draw.uniform(), 3, 1, sample as u32),
            ..SampleParams::NONE
        })
        .collect();
    let steps: Vec<AutoSteps> = (0..num_samples)
        .map(|sample| {
            let mut steps = AutoSteps { inverse: random_map(draw, height.min(width)), ..AutoSteps::NONE };
            let first = AutoOp::ALL[sample % AutoOp::ALL.len()];
            steps.steps[0] = AutoStep::new(first, random_magnitude(draw, first), extents);
            for step in &mut steps.steps[1..draw.within(1, 4)] {
                let op = draw.pick(&AutoOp::ALL);
                *step = AutoStep::new(op, random_magnitude(draw, op), extents);
            }
            steps
        })
        .collect();
    Trial::new(
        format!("auto_augment: {photos} photos, {num_samples} samples of {height}x{width}"),
        move |graph| {
            let operands = [
                graph.input("pixels", [photos, height, width, 3], DType::U8),
                graph.input("rows", [num_samples], DType::I32),
                graph.input("params", [num_samples, SampleParams::NUM_ELEMS], DType::F32),
            ];
            let steps = graph.input("steps", [num_samples, AutoSteps::NUM_ELEMS], DType::F32);
            let operands = auto_augment(graph, "photos", operands, steps)?;
            let op = AugmentFwd { normalization: Normalization::default(), dtype: graph.float() };
            augment(graph, "images", operands, op)?;
            Ok(())
        },
    )
    .with_operand("pixels", Contents::U8(pixels))
    .with_operand("rows", Contents::I32(rows))
    .with_operand("params", Contents::F32(SampleParams::as_floats(&params).to_vec()))
    .with_operand("steps", Contents::F32(AutoSteps::as_floats(&steps).to_vec()))
}

/// A magnitude of `op`, and its sign.
fn random_magnitude(draw: &mut Draw, op: AutoOp) -> f32 {
    let share = draw.uniform();
    let magnitude = match op {
        AutoOp::TranslateX | AutoOp::TranslateY => 12.0 * share,
        AutoOp::Rotate => 135.0 * share,
        AutoOp::Posterize => (8.0 * share).round(),
        AutoOp::Solarize => 255.0 * share,
        _ => share,
    };
    if op.is_signed() && draw.coin() { -magnitude } else { magnitude }
}
