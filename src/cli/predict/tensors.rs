//! Logits of a batch of tensors.

use std::path::Path;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::model_file::ModelFile;
use crate::infer::predictor::{self, photos_batch};
use crate::run::checkpoint::{self, NamedTensor};
use crate::step::evaluate::Evaluator;
use crate::tensor::{Shape, Tensor};

/// Writes the logits of the tensor `input` in one file to another.
pub(super) fn predict(mut file: ModelFile, input: &Path, output: &Path, device: Device) -> Result<()> {
    let source = checkpoint::read(input)?;
    let tensor = source.get("input").ok_or_else(|| {
        Error::data(input, "has no tensor `input`; write the images under that name, NCHW f32")
    })?;
    let (shape, data) = match (tensor.shape.as_slice(), tensor.as_f32()) {
        (&[n, 3, h, w], Some(data)) if n > 0 && h == w => ([n, h], data),
        (shape, _) => {
            let message = format!("tensor `input` must be f32 of shape [N, 3, S, S], got {shape:?}");
            return Err(Error::data(input, message));
        }
    };
    let [num_images, size] = shape;
    file.card.img_size = size;
    let nhwc = Tensor::new(Shape::new(&tensor.shape), data.to_vec()).permuted([0, 2, 3, 1]).into_data();
    let batch_size = predictor::BATCH_SIZE.min(num_images);
    let mut session = file.session(batch_size, device)?;
    let mut evaluator = Evaluator::new(&session, 0, size)?;
    let mut results = Vec::new();
    let image_elems = size * size * 3;
    let mut batch = photos_batch(vec![0.0; batch_size * image_elems], batch_size);
    for part in nhwc.chunks(batch.images.len()) {
        batch.images[..part.len()].copy_from_slice(part);
        let scores = evaluator.logits(&mut session, &batch)?;
        results.extend_from_slice(&scores[..scores.len() / batch_size * (part.len() / image_elems)]);
    }
    let logits = NamedTensor::f32("logits", [num_images, results.len() / num_images].as_slice(), results);
    checkpoint::write_atomic(output, &[logits], &serde_json::Value::Null)?;
    say!("logits of {num_images} images in {}", output.display());
    Ok(())
}
