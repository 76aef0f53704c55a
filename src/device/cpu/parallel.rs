//! Splitting work over cores and vector lanes without changing its result.

use std::ops::Range;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

/// Calls `body` on consecutive ranges of `chunk` indices that cover `0..len`, in parallel.
///
/// The ranges depend on `len` and `chunk` alone, never on the number of threads, so a reduction that keeps one partial
/// result per range comes out the same on every machine.
pub fn for_each_range(len: usize, chunk: usize, body: impl Fn(Range<usize>) + Send + Sync) {
    if len <= chunk {
        return if len > 0 {
            body(0..len)
        };
    }
    (0..len.div_ceil(chunk)).into_par_iter().for_each(|i| body(i * chunk..((i + 1) * chunk).min(len)));
}

/// Calls `body(start, part)` on consecutive parts of `chunk` elements of `data`, in parallel; `start` is the index of the
/// part's first element. The split depends on the length and `chunk` alone.
pub fn for_each_chunk<T: Send>(data: &mut [T], chunk: usize, body: impl Fn(usize, &mut [T]) + Send + Sync) {
    if data.len() <= chunk {
        return if !data.is_empty() {
            body(0, data)
        };
    }
    data.par_chunks_mut(chunk).enumerate().for_each(|(i, part)| body(i * chunk, part));
}

/// As [`for_each_chunk`] over two slices at once, `chunks` elements of each at a time; `body(i, a, b)` gets the number
/// of the part.
pub fn for_each_chunk_pair<A: Send, B: Send>(
    a: &mut [A],
    b: &mut [B],
    chunks: (usize, usize),
    body: impl Fn(usize, &mut [A], &mut [B]) + Send + Sync,
) {
    a.par_chunks_mut(chunks.0)
        .zip_eq(b.par_chunks_mut(chunks.1))
        .enumerate()
        .for_each(|(i, (a, b))| body(i, a, b));
}

/// As [`for_each_chunk`] over three slices of equal length.
pub fn for_each_chunk_triple<T: Send>(
    a: &mut [T],
    b: &mut [T],
    c: &mut [T],
    chunk: usize,
    body: impl Fn(usize, &mut [T], &mut [T], &mut [T]) + Send + Sync,
) {
    a.par_chunks_mut(chunk)
        .zip_eq(b.par_chunks_mut(chunk))
        .zip_eq(c.par_chunks_mut(chunk))
        .enumerate()
        .for_each(|(i, ((a, b), c))| body(i * chunk, a, b, c));
}

/// A loop body over `W` neighbouring channels starting at `start`, with `W` known to the compiler: per-channel
/// coefficients and sums then stay in vector registers while the body walks along the rows.
///
/// Implementations mark `run` `#[inline(always)]`; only so is it compiled for the vectors of this processor.
pub trait ChannelTile {
    /// Handles channels `start..start + W`.
    fn run<const W: usize>(&mut self, start: usize);
}

/// Calls `tile` on tiles that cover `0..channels` once each, wide ones first, compiled as in [`vectorized`].
pub fn for_each_channel_tile(channels: usize, tile: &mut impl ChannelTile) {
    const WIDE: usize = 64;
    const NARROW: usize = 16;
    // A type instead of a closure: the compiler may refuse to inline a large closure, whatever is marked.
    struct Walk<'a, K>(usize, &'a mut K);
    impl<K: ChannelTile> NullaryFnOnce for Walk<'_, K> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let Walk(channels, tile) = self;
            let mut start = 0;
            while start + WIDE <= channels {
                tile.run::<WIDE>(start);
                start += WIDE;
            }
            while start + NARROW <= channels {
                tile.run::<NARROW>(start);
                start += NARROW;
            }
            while start < channels {
                tile.run::<1>(start);
                start += 1;
            }
        }
    }
    Arch::new().dispatch(Walk(channels, tile));
}

/// Elements `start..start + W` of `values` as an array, the operand of a [`ChannelTile`].
///
/// # Panics
/// If there are fewer.
#[inline(always)]
pub fn lanes<T, const W: usize>(values: &[T], start: usize) -> &[T; W] {
    values[start..].first_chunk().expect("a tile lies within its row")
}

/// As [`lanes`], for writing.
///
/// # Panics
/// If there are fewer elements.
#[inline(always)]
pub fn lanes_mut<T, const W: usize>(values: &mut [T], start: usize) -> &mut [T; W] {
    values[start..].first_chunk_mut().expect("a tile lies within its row")
}

/// Runs `body` compiled for the widest vectors of this processor.
///
/// Loops in `body` must be inlined into it to profit: closures, and functions marked `#[inline(always)]`.
#[inline(always)]
pub fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    struct Body<F>(F);
    impl<R, F: FnOnce() -> R> NullaryFnOnce for Body<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Body(body))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn ranges_cover_every_index_once() {
        for (len, chunk) in [(0, 4), (3, 4), (4, 4), (17, 4)] {
            let seen: Vec<AtomicU32> = (0..len).map(|_| AtomicU32::new(0)).collect();
            for_each_range(len, chunk, |range| {
                assert!(range.len() <= chunk);
                for i in range {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn tiles_cover_every_channel_once() {
        struct Count([u32; 200]);
        impl ChannelTile for Count {
            fn run<const W: usize>(&mut self, start: usize) {
                lanes_mut::<u32, W>(&mut self.0, start).iter_mut().for_each(|count| *count += 1);
            }
        }
        for channels in [0, 1, 15, 16, 50, 64, 147, 200] {
            let mut count = Count([0; 200]);
            for_each_channel_tile(channels, &mut count);
            assert_eq!(count.0, std::array::from_fn(|c| u32::from(c < channels)));
        }
    }
}
