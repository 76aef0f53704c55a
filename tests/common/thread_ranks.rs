//! Ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use residuum::dist::{Collective, Rank};
use residuum::{Error, Result};

/// A rank that does not come by then has failed.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Meeting {
    /// What each rank has sent of the exchange in progress.
    sent: Vec<Option<Vec<u8>>>,
    /// Ranks that have taken what they receive.
    num_served: usize,
}

/// One of the ranks.
pub struct ThreadRank {
    rank: Rank,
    meeting: Arc<(Mutex<Meeting>, Condvar)>,
}

/// `count` ranks that reach each other.
pub fn thread_ranks(count: usize) -> Vec<ThreadRank> {
    let meeting = Meeting { sent: vec![None; count], num_served: 0 };
    let meeting = Arc::new((Mutex::new(meeting), Condvar::new()));
    (0..count)
        .map(|index| ThreadRank { rank: Rank { index, count }, meeting: Arc::clone(&meeting) })
        .collect()
}

impl ThreadRank {
    /// Meets the others: each leaves `mine`, and takes of what all have left.
    fn meet(&self, mine: &[u8], take: impl FnOnce(&[Option<Vec<u8>>])) -> Result<()> {
        let (lock, changed) = &*self.meeting;
        let until = |waits: fn(&mut Meeting, usize) -> bool| {
            let meeting = lock.lock().unwrap();
            let waits = |meeting: &mut Meeting| waits(meeting, self.rank.index);
            let (meeting, waited) = changed.wait_timeout_while(meeting, PATIENCE, waits).unwrap();
            match waited.timed_out() {
                true => Err(Error::Peer(format!("rank {} waits for another", self.rank.index))),
                false => Ok(meeting),
            }
        };
        // The place is free once everybody has taken what was there before.
        until(|meeting, rank| meeting.sent[rank].is_some())?.sent[self.rank.index] = Some(mine.to_vec());
        changed.notify_all();
        let mut meeting = until(|meeting, _| meeting.sent.iter().any(Option::is_none))?;
        take(&meeting.sent);
        meeting.num_served += 1;
        if meeting.num_served == self.rank.count {
            meeting.num_served = 0;
            meeting.sent.fill(None);
        }
        changed.notify_all();
        drop(meeting);
        until(|meeting, rank| meeting.num_served > 0 && meeting.sent[rank].is_some()).map(drop)
    }
}

impl Collective for ThreadRank {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn all_gather(&mut self, mine: &[u8], all: &mut [u8]) -> Result<()> {
        assert_eq!(all.len(), mine.len() * self.rank.count);
        self.meet(mine, |sent| {
            for (to, sent) in all.chunks_exact_mut(mine.len().max(1)).zip(sent) {
                to.copy_from_slice(sent.as_ref().unwrap());
            }
        })
    }

    fn all_to_all(&mut self, to_each: &[u8], from_each: &mut [u8]) -> Result<()> {
        let num_bytes = to_each.len() / self.rank.count;
        assert_eq!([to_each.len(), from_each.len()], [num_bytes * self.rank.count; 2]);
        let part = self.rank.index * num_bytes;
        self.meet(to_each, |sent| {
            for (to, sent) in from_each.chunks_exact_mut(num_bytes.max(1)).zip(sent) {
                to.copy_from_slice(&sent.as_ref().unwrap()[part..][..num_bytes]);
            }
        })
    }
}
