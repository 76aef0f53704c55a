//! The order of training samples within an epoch.

use crate::rng::{Stream, Use};

/// Writes a permutation of `0..order.len()` to `order`, a function of `seed`, `epoch` and the length alone.
///
/// # Panics
/// If `order` has more than `u32::MAX` elements.
pub fn shuffle(seed: u64, epoch: u32, order: &mut [u32]) {
    assert!(u32::try_from(order.len()).is_ok(), "indices are 32 bits");
    order.iter_mut().zip(0..).for_each(|(slot, index)| *slot = index);
    // Fisher and Yates.
    let mut stream = Stream::new(seed, epoch, 0, Use::Shuffle);
    for last in (1..order.len()).rev() {
        order.swap(last, stream.below(last as u32 + 1) as usize);
    }
}

/// Which images batch `batch` of `epoch` has: part of the order that [`shuffle`] gives.
///
/// # Panics
/// If the epoch has no such batch.
pub fn batch_indices(seed: u64, epoch: u32, batch: usize, batch_size: usize, num_images: usize) -> Vec<u32> {
    let mut order = vec![0; num_images];
    shuffle(seed, epoch, &mut order);
    order[batch * batch_size..][..batch_size].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(seed: u64, epoch: u32, len: usize) -> Vec<u32> {
        let mut order = vec![7; len];
        shuffle(seed, epoch, &mut order);
        order
    }

    #[test]
    fn an_order_is_a_permutation_of_its_own() {
        let first = order(3, 5, 1000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
        assert_eq!(first, order(3, 5, 1000));
        assert_ne!(first, order(3, 6, 1000));
        assert_ne!(first, order(4, 5, 1000));
        assert!(order(3, 5, 0).is_empty());
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut counts = [[0; 4]; 4];
        for epoch in 0..4000 {
            for (place, index) in order(1, epoch, 4).into_iter().enumerate() {
                counts[place][index as usize] += 1;
            }
        }
        // Expected 1000 with a standard deviation of 27.
        assert!(counts.iter().flatten().all(|&count: &i32| (count - 1000).abs() < 140), "{counts:?}");
    }
}
