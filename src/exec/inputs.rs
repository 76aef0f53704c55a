//! Inputs on their way to a device: kept on the host until a run, and uploaded together.

use std::ops::Range;

use crate::device::Slot;

/// What the host has for the part of the arena in which the small inputs of all graphs lie, from the same place on.
pub(super) struct Inputs {
    offset_bytes: usize,
    bytes: Vec<u8>,
    /// What the device does not have yet.
    pending: Range<usize>,
}

impl Inputs {
    /// For that part of the arena.
    pub(super) fn new(place: Range<usize>) -> Inputs {
        Inputs { offset_bytes: place.start, bytes: vec![0; place.len()], pending: 0..0 }
    }

    /// The bytes of a slot within the part, if it lies there.
    fn range(&self, slot: &Slot) -> Option<Range<usize>> {
        let start = slot.offset_bytes.checked_sub(self.offset_bytes)?;
        let end = start + slot.num_bytes();
        (end <= self.bytes.len()).then_some(start..end)
    }

    /// Keeps `bytes` for the next run; false if `slot` is not that of a small input.
    pub(super) fn take(&mut self, slot: &Slot, bytes: &[u8]) -> bool {
        let Some(range) = self.range(slot) else { return false };
        self.bytes[range.clone()].copy_from_slice(bytes);
        self.pending = match self.pending.is_empty() {
            true => range,
            false => self.pending.start.min(range.start)..self.pending.end.max(range.end),
        };
        true
    }

    /// What `slot` will hold, if the device may not have it yet.
    pub(super) fn pending(&self, slot: &Slot) -> Option<&[u8]> {
        let range = self.range(slot)?;
        let overlaps = range.start < self.pending.end && self.pending.start < range.end;
        overlaps.then(|| &self.bytes[range])
    }

    /// What the device is to be given now, and where: everything from the first to the last byte written since the last call.
    /// What lies between is what was written there before.
    pub(super) fn next(&mut self) -> Option<(usize, &[u8])> {
        let pending = std::mem::take(&mut self.pending);
        (!pending.is_empty()).then(|| (self.offset_bytes + pending.start, &self.bytes[pending]))
    }

    /// All bytes of the device's memory are set to `byte`.
    pub(super) fn fill(&mut self, byte: u8) {
        self.bytes.fill(byte);
        self.pending = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn slot(offset_bytes: usize, num_bytes: usize) -> Slot {
        Slot { offset_bytes, shape: [num_bytes].into(), dtype: DType::U8 }
    }

    #[test]
    fn inputs_go_up_together_and_once() {
        let mut inputs = Inputs::new(100..164);
        assert_eq!(inputs.next(), None);
        assert!(inputs.take(&slot(102, 2), &[1, 2]) && inputs.take(&slot(106, 1), &[3]));
        assert_eq!(inputs.next(), Some((102, &[1, 2, 0, 0, 3][..])));
        assert_eq!(inputs.next(), None);
        // What lies between is what was written before, by whichever call.
        assert!(inputs.take(&slot(100, 1), &[4]) && inputs.take(&slot(107, 1), &[5]));
        assert_eq!(inputs.next(), Some((100, &[4, 0, 1, 2, 0, 0, 3, 5][..])));
    }

    #[test]
    fn other_values_go_up_by_themselves() {
        let mut inputs = Inputs::new(100..164);
        for outside in [slot(98, 2), slot(98, 4), slot(163, 2), slot(164, 1)] {
            assert!(!inputs.take(&outside, &[0; 4][..outside.num_bytes()]), "{outside:?}");
        }
        assert_eq!(inputs.next(), None);
    }

    #[test]
    fn what_the_device_does_not_have_yet_is_read_from_here() {
        let mut inputs = Inputs::new(0..8);
        assert_eq!(inputs.pending(&slot(0, 8)), None);
        inputs.take(&slot(2, 2), &[1, 2]);
        assert_eq!(inputs.pending(&slot(2, 2)), Some(&[1, 2][..]));
        assert_eq!((inputs.pending(&slot(0, 2)), inputs.pending(&slot(4, 4))), (None, None));
        inputs.next();
        assert_eq!(inputs.pending(&slot(2, 2)), None);
        inputs.fill(9);
        inputs.take(&slot(0, 1), &[7]);
        inputs.take(&slot(2, 1), &[8]);
        assert_eq!(inputs.next(), Some((0, &[7, 9, 8][..])));
    }
}
