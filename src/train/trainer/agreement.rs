//! What ranks agree on after an update: that a signal which one of them has heard stops all, that a checkpoint is written.
//!
//! They ask each other after the same updates, never at the same time: their clocks differ, and one that asks alone waits for
//! ever. After how many updates is for rank 0 to say, from how long they take.

use std::time::Instant;

use super::Trainer;
use crate::error::Result;

/// When ranks ask each other.
#[derive(Debug)]
pub(super) struct Agreement {
    /// Updates between two questions.
    interval: u64,
    /// Updates since the last one.
    updates: u64,
    since: Instant,
}

/// What a rank has to say.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Note {
    /// The number of a signal that asks the run to stop, or 0.
    signal: u32,
    /// Not 0 if a checkpoint is asked for, or due.
    checkpoint: u32,
    /// Updates until the next question.
    interval: u64,
}

/// What the run does after an update.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// It stops because of this signal.
    pub(super) signal: Option<i32>,
    /// It writes a checkpoint.
    pub(super) checkpoint: bool,
}

impl Agreement {
    pub(super) fn begin() -> Agreement {
        Agreement { interval: 1, updates: 0, since: Instant::now() }
    }

    /// As many updates as take about a second, and no more than lie between two lines of the log, for which ranks wait anyway.
    fn next_interval(&self, log_interval: u64) -> u64 {
        let a_second = self.updates as f64 / self.since.elapsed().as_secs_f64();
        (a_second as u64).clamp(1, log_interval)
    }
}

impl Trainer {
    /// What signals and time ask of the run after an update.
    pub(super) fn wanted(&mut self) -> Result<Wanted> {
        let due = self.log.is_written() && self.checkpoint_is_late();
        let Some(ranks) = self.training.collective() else {
            let checkpoint = self.signals.take_checkpoint_request() || due;
            return Ok(Wanted { signal: self.signals.received(), checkpoint });
        };
        let agreement = &mut self.agreement;
        agreement.updates += 1;
        if agreement.updates < agreement.interval {
            return Ok(Wanted::default());
        }
        let own = Note {
            signal: self.signals.received().map_or(0, |signal| signal as u32),
            checkpoint: u32::from(self.signals.take_checkpoint_request() || due),
            interval: agreement.next_interval(self.config.log_interval),
        };
        let mut notes = vec![Note::default(); ranks.rank().count];
        ranks.all_gather(bytemuck::bytes_of(&own), bytemuck::cast_slice_mut(&mut notes))?;
        *agreement = Agreement { interval: notes[0].interval, ..Agreement::begin() };
        let signal = notes.iter().map(|note| note.signal as i32).find(|signal| *signal > 0);
        Ok(Wanted { signal, checkpoint: notes.iter().any(|note| note.checkpoint > 0) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ranks_ask_each_other_about_once_a_second_and_by_each_line_of_the_log() {
        let asked = |updates, seconds_ago| {
            let since = Instant::now() - Duration::from_secs_f64(seconds_ago);
            Agreement { interval: 1, updates, since }.next_interval(50)
        };
        assert_eq!(asked(21, 2.0), 10);
        assert_eq!(asked(1, 3.0), 1, "a step takes longer than that");
        assert_eq!(asked(1000, 1.0), 50);
    }
}
