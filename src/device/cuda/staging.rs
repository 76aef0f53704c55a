//! Copies to the GPU that do not make the host wait, and large ones that do not make its kernels wait.

use std::collections::VecDeque;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result, sys};

use super::driver::failed;
use super::landing::{self, Landing};
use super::memory::Pinned;
use crate::error::{Error, Result};

/// How many lists of launches the host may have started that the GPU has not finished. Two would keep the GPU at work; more
/// hide a batch that comes late.
pub(super) const LISTS_AHEAD: usize = 4;

/// A ring is at least this large, and this large where one upload asks for it.
const LEAST_BYTES: usize = 64 << 10;
const USUAL_BYTES: usize = 8 << 20;

/// A ring is no larger than this, whatever a step uploads.
const MOST_BYTES: usize = 512 << 20;

/// A ring of page-locked memory through which uploads pass: the host writes a piece and goes on, the GPU fetches it when
/// its turn comes. The ring grows until it holds what [`LISTS_AHEAD`] lists are given, so that no upload waits for the
/// step before it.
#[derive(Debug)]
pub(super) struct Staging {
    ring: Option<Pinned>,
    pieces: Pieces<CudaEvent>,
    /// Events of pieces that are over.
    spare: Vec<CudaEvent>,
    /// Uploaded since the last list was started; none before the first, which parameters and data precede.
    list_bytes: Option<usize>,
    most_list_bytes: usize,
    landing: Option<Landing>,
    /// The GPU had no memory for it.
    landing_is_refused: bool,
    context: Arc<CudaContext>,
}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Staging {
        Staging {
            ring: None,
            pieces: Pieces::default(),
            spare: Vec::new(),
            list_bytes: None,
            most_list_bytes: 0,
            landing: None,
            landing_is_refused: false,
            context: Arc::clone(context),
        }
    }

    /// A list of launches starts, which what was uploaded was meant for.
    pub(super) fn begin_list(&mut self) {
        self.most_list_bytes = self.most_list_bytes.max(self.list_bytes.unwrap_or(0));
        self.list_bytes = Some(0);
    }

    /// Copies `bytes` to `address` as work on `stream`; they may change once this returns.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the host has no page-locked memory, [`crate::Error::Device`] if the GPU failed.
    ///
    /// # Safety
    /// The range at `address` is allocated, and stays so until the work is done.
    pub(super) unsafe fn upload(&mut self, address: u64, bytes: &[u8], stream: &CudaStream) -> Result<()> {
        if let Some(list_bytes) = &mut self.list_bytes {
            *list_bytes += bytes.len();
        }
        self.context.bind_to_thread().map_err(failed("copying to the GPU"))?;
        self.grow_for(bytes.len())?;
        // What precedes the first list need not be ahead of anything.
        let lands = self.list_bytes.is_some() && bytes.len() >= landing::LEAST_BYTES;
        let lands = lands && self.make_landing_for(bytes.len())?;
        let ring = self.ring.as_ref().expect("a ring that has grown is there");
        let (ring, ring_bytes) = (ring.address, ring.num_bytes);
        // Half a ring at most, so that the host writes one piece while the GPU fetches another.
        let piece_bytes = ring_bytes / 2;
        for (index, piece) in bytes.chunks(piece_bytes).enumerate() {
            let offset = loop {
                match self.pieces.place(piece.len(), ring_bytes) {
                    Some(offset) => break offset,
                    None => self.wait_for_oldest()?,
                }
            };
            let sent = match self.spare.pop() {
                Some(event) => event,
                None => self.context.new_event(None).map_err(failed("creating an event"))?,
            };
            let address = address + (index * piece_bytes) as u64;
            // SAFETY: the ring has `piece.len()` bytes there, which no copy under way reads and which stay until `sent` has
            // come; the caller vouches for `address`.
            unsafe {
                let to = ring.add(offset);
                to.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                let piece = std::slice::from_raw_parts(to, piece.len());
                match &mut self.landing {
                    Some(landing) if lands => landing.upload(address, piece, &sent, stream)?,
                    _ => {
                        result::memcpy_htod_async(address, piece, stream.cu_stream())
                            .and_then(|()| sent.record(stream))
                            .map_err(failed("copying to the GPU"))?;
                    }
                }
            }
            self.pieces.push(offset, piece.len(), sent);
        }
        Ok(())
    }

    /// Makes the ring as large as an upload of `num_bytes` and the lists seen so far ask for.
    fn grow_for(&mut self, num_bytes: usize) -> Result<()> {
        let wanted = (LISTS_AHEAD * self.most_list_bytes).max((2 * num_bytes).min(USUAL_BYTES));
        let wanted = wanted.clamp(LEAST_BYTES, MOST_BYTES).next_power_of_two();
        if self.ring.as_ref().is_none_or(|ring| ring.num_bytes < wanted) {
            self.wait_for_all()?;
            // Freed first: both together may be more than the host locks.
            self.ring = None;
            // The host only writes it: write-combined memory spares its caches.
            let flags = sys::CU_MEMHOSTALLOC_WRITECOMBINED;
            self.ring = Some(Pinned::new(&self.context, wanted, flags, "uploads")?);
        }
        Ok(())
    }

    /// Makes room for large uploads beside the launches; false where the GPU has no memory for it.
    fn make_landing_for(&mut self, num_bytes: usize) -> Result<bool> {
        if self.landing.as_ref().is_some_and(|landing| landing.has_room_for(num_bytes)) {
            return Ok(true);
        }
        // Freeing it waits for the copies that use it.
        self.landing = None;
        if !self.landing_is_refused {
            match Landing::new(&self.context, num_bytes) {
                Ok(landing) => self.landing = Some(landing),
                Err(Error::DoesNotFit { .. }) => self.landing_is_refused = true,
                Err(error) => return Err(error),
            }
        }
        Ok(self.landing.is_some())
    }

    fn wait_for_oldest(&mut self) -> Result<()> {
        let Some(sent) = self.pieces.pop() else { return Ok(()) };
        self.context
            .bind_to_thread()
            .and_then(|()| sent.synchronize())
            .map_err(failed("copying to the GPU"))?;
        self.spare.push(sent);
        Ok(())
    }

    fn wait_for_all(&mut self) -> Result<()> {
        while !self.pieces.is_empty() {
            self.wait_for_oldest()?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The ring is freed next. A failure here follows one that has already been reported.
        let _ = self.context.bind_to_thread();
        let _ = self.wait_for_all();
    }
}

/// Which parts of a ring are in use: pieces one behind the other, each in one part, oldest first.
#[derive(Debug)]
pub(super) struct Pieces<E> {
    /// Start of each, and the event behind its copy.
    under_way: VecDeque<(usize, E)>,
    /// Where the newest ends.
    head: usize,
}

impl<E> Default for Pieces<E> {
    fn default() -> Self {
        Pieces { under_way: VecDeque::new(), head: 0 }
    }
}

impl<E> Pieces<E> {
    fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Where `num_bytes` have room in a ring of `ring_bytes`; `None` if they have none now.
    pub(super) fn place(&self, num_bytes: usize, ring_bytes: usize) -> Option<usize> {
        let Some(&(tail, _)) = self.under_way.front() else { return (num_bytes <= ring_bytes).then_some(0) };
        if self.head <= tail {
            (num_bytes <= tail - self.head).then_some(self.head)
        } else if num_bytes <= ring_bytes - self.head {
            Some(self.head)
        } else {
            (num_bytes <= tail).then_some(0)
        }
    }

    pub(super) fn push(&mut self, offset: usize, num_bytes: usize, event: E) {
        self.under_way.push_back((offset, event));
        self.head = offset + num_bytes;
    }

    pub(super) fn pop(&mut self) -> Option<E> {
        self.under_way.pop_front().map(|(_, event)| event)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ring_goes_round_and_is_full_when_head_meets_tail() {
        let mut pieces = Pieces::default();
        for offset in [0, 40] {
            assert_eq!(pieces.place(40, 100), Some(offset));
            pieces.push(offset, 40, ());
        }
        assert_eq!(pieces.place(40, 100), None, "20 are left behind the newest, none before the oldest");
        assert_eq!(pieces.place(20, 100), Some(80));
        pieces.pop();
        assert_eq!(pieces.place(40, 100), Some(0));
        pieces.push(0, 40, ());
        assert_eq!(pieces.place(1, 100), None);
        pieces.pop();
        assert_eq!((pieces.place(60, 100), pieces.place(61, 100)), (Some(40), None));
        pieces.pop();
        assert_eq!((pieces.place(100, 100), pieces.place(101, 100)), (Some(0), None));
    }

    proptest! {
        #[test]
        fn pieces_under_way_never_overlap(sizes in proptest::collection::vec(1usize..50, 1..200)) {
            let (mut pieces, mut live) = (Pieces::default(), VecDeque::<(usize, usize)>::new());
            for size in sizes {
                let offset = loop {
                    match pieces.place(size, 100) {
                        Some(offset) => break offset,
                        None => {
                            prop_assert!(pieces.pop().is_some(), "an empty ring has room");
                            live.pop_front();
                        }
                    }
                };
                prop_assert!(offset + size <= 100);
                prop_assert!(live.iter().all(|&(start, end)| offset + size <= start || end <= offset));
                pieces.push(offset, size, ());
                live.push_back((offset, offset + size));
            }
        }
    }
}
