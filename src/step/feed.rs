//! What the host writes before a step: the parts of a batch that the planned graph takes.

use super::values;
use crate::batch::{Batch, BatchContents};
use crate::data::annotations::Annotations;
use crate::device::Slot;
use crate::error::Result;
use crate::exec::Session;
use crate::plan::Plan;
use crate::transform::{AutoSteps, SampleParams};

/// The inputs of one plan, with room to gather the annotations of a batch.
#[derive(Debug)]
pub struct Feed {
    images: Option<Slot>,
    pixels: Option<Slot>,
    rows: Option<Slot>,
    params: Option<Slot>,
    steps: Option<Slot>,
    labels: Option<Slot>,
    partners: Option<Slot>,
    weights: Option<Slot>,
    polygons: Option<Polygons>,
    presence: Option<(Slot, Vec<f32>)>,
}

#[derive(Debug)]
struct Polygons {
    points: (Slot, Vec<[f32; 2]>),
    objects: (Slot, Vec<[i32; 4]>),
}

impl Feed {
    /// For a plan made from a training or an evaluation graph.
    pub fn new(plan: &Plan) -> Feed {
        let slot = |name| plan.slot(name).ok();
        let images = slot(values::IMAGES);
        let pixels = slot(values::PIXELS);
        let rows = slot(values::ROWS);
        let polygons = slot(values::POINTS).zip(slot(values::OBJECTS)).map(|(points, objects)| Polygons {
            points: (points, vec![[0.0; 2]; points.shape.dims()[0]]),
            objects: (objects, vec![[-1; 4]; objects.shape.dims()[0]]),
        });
        Feed {
            // Where the device makes the images, the value of that name is a result.
            images: images.filter(|_| rows.is_none()),
            pixels,
            rows,
            params: slot(values::PARAMS),
            steps: slot(values::STEPS),
            labels: slot(values::LABELS),
            partners: slot(values::PARTNERS),
            weights: slot(values::WEIGHTS),
            polygons,
            presence: slot(values::PRESENCE).map(|slot| (slot, vec![0.0; slot.shape.num_elems()])),
        }
    }

    /// What batches have to carry.
    pub fn contents(&self) -> BatchContents {
        match (&self.images, &self.pixels) {
            (Some(_), _) => BatchContents::Images,
            (None, Some(_)) => BatchContents::Pixels,
            (None, None) => BatchContents::Indices,
        }
    }

    /// Writes `batch`, with the objects that `annotations` of the same images has; none where it is absent.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device refuses a copy.
    pub fn write(
        &mut self,
        session: &mut Session,
        batch: &Batch,
        annotations: Option<&Annotations>,
    ) -> Result<()> {
        fn write<T: crate::device::cpu::Element>(
            session: &mut Session,
            slot: &Option<Slot>,
            values: &[T],
        ) -> Result<()> {
            slot.as_ref().map_or(Ok(()), |slot| session.write(slot, values))
        }
        write(session, &self.images, &batch.images)?;
        write(session, &self.pixels, &batch.pixels)?;
        write(session, &self.rows, &batch.rows)?;
        write(session, &self.params, SampleParams::as_floats(&batch.params))?;
        write(session, &self.steps, AutoSteps::as_floats(&batch.steps))?;
        write(session, &self.labels, &batch.labels)?;
        write(session, &self.partners, &batch.partner_labels)?;
        write(session, &self.weights, &batch.weights)?;
        if let Some(Polygons { points: (points_slot, points), objects: (objects_slot, objects) }) =
            &mut self.polygons
        {
            match annotations {
                Some(annotations) => annotations.fill(&batch.indices, points, objects),
                None => objects.fill([-1; 4]),
            }
            session.write(points_slot, points.as_flattened())?;
            session.write(objects_slot, objects.as_flattened())?;
        }
        if let Some((slot, bits)) = &mut self.presence {
            bits.fill(0.0);
            if let Some(annotations) = annotations {
                let rows = bits.chunks_exact_mut(annotations.num_classes());
                rows.zip(&batch.indices).for_each(|(row, &index)| annotations.presence(index as usize, row));
            }
            session.write(slot, bits)?;
        }
        Ok(())
    }
}
