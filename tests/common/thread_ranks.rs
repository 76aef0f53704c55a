//! Ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use residuum::dist::{Collective, Group, Rank};
use residuum::{Error, Result};

/// A rank that does not come by then has failed.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Meeting {
    /// What each rank has sent of the exchange in progress.
    sent: Vec<Option<Vec<u8>>>,
    /// Ranks that have taken what they receive.
    num_served: usize,
    /// Ranks that are no more.
    left: Vec<bool>,
}

impl Meeting {
    /// A rank that everybody waits for in vain.
    fn missing(&self) -> Option<usize> {
        (0..self.left.len()).find(|&rank| self.left[rank] && self.sent[rank].is_none())
    }
}

/// One of the ranks.
pub struct ThreadRank {
    rank: Rank,
    /// As one of those of its machine; at first it is alone there.
    pub local: Rank,
    meeting: Arc<(Mutex<Meeting>, Condvar)>,
}

/// `count` ranks that reach each other.
pub fn thread_ranks(count: usize) -> Vec<ThreadRank> {
    let meeting = Meeting { sent: vec![None; count], num_served: 0, left: vec![false; count] };
    let meeting = Arc::new((Mutex::new(meeting), Condvar::new()));
    (0..count)
        .map(|index| ThreadRank {
            rank: Rank { index, count },
            local: Rank::ALONE,
            meeting: Arc::clone(&meeting),
        })
        .collect()
}

impl ThreadRank {
    /// Meets the others: each leaves `mine`, and takes of what all have left.
    fn meet(&self, mine: &[u8], take: impl FnOnce(&[Option<Vec<u8>>])) -> Result<()> {
        let (lock, changed) = &*self.meeting;
        let until = |waits: fn(&mut Meeting, usize) -> bool| {
            let meeting = lock.lock().unwrap();
            let waits = |meeting: &mut Meeting| waits(meeting, self.rank.index);
            let goes_on_waiting = |meeting: &mut Meeting| waits(meeting) && meeting.missing().is_none();
            let (mut meeting, _) = changed.wait_timeout_while(meeting, PATIENCE, goes_on_waiting).unwrap();
            match (waits(&mut meeting), meeting.missing()) {
                (false, _) => Ok(meeting),
                (true, Some(rank)) => Err(Error::Peer(format!("rank {} has left", rank + 1))),
                (true, None) => Err(Error::Peer(format!("rank {} waits for another", self.rank))),
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

impl Drop for ThreadRank {
    fn drop(&mut self) {
        let (lock, changed) = &*self.meeting;
        lock.lock().unwrap_or_else(PoisonError::into_inner).left[self.rank.index] = true;
        changed.notify_all();
    }
}

impl Collective for ThreadRank {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn local(&self) -> Rank {
        self.local
    }

    fn all_gather_among(&mut self, group: Group, mine: &[u8], all: &mut [u8]) -> Result<()> {
        assert_eq!(all.len(), mine.len() * group.size);
        let members = group.members(self.rank.index);
        self.meet(mine, |sent| {
            for (to, member) in all.chunks_exact_mut(mine.len().max(1)).zip(members) {
                to.copy_from_slice(sent[member].as_ref().unwrap());
            }
        })
    }

    fn all_to_all(&mut self, group: Group, to_each: &[u8], from_each: &mut [u8]) -> Result<()> {
        let num_bytes = to_each.len() / group.size;
        assert_eq!([to_each.len(), from_each.len()], [num_bytes * group.size; 2]);
        let part = group.place(self.rank.index) * num_bytes;
        let members = group.members(self.rank.index);
        self.meet(to_each, |sent| {
            for (to, member) in from_each.chunks_exact_mut(num_bytes.max(1)).zip(members) {
                to.copy_from_slice(&sent[member].as_ref().unwrap()[part..][..num_bytes]);
            }
        })
    }
}

/// What `body` gives on each of so many ranks.
pub fn on_ranks<T: Send>(num_ranks: usize, body: impl Fn(usize, ThreadRank) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let ranks = thread_ranks(num_ranks).into_iter().enumerate();
        let body = &body;
        let ranks: Vec<_> = ranks.map(|(index, rank)| scope.spawn(move || body(index, rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}
