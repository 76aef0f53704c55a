//! How long a GPU was at work of one kind, as the marks before and behind each piece of it tell.

use std::collections::VecDeque;
use std::time::Duration;

use super::Mark;
use crate::error::Result;

/// Pieces of work in the stream since they were last taken: the newest by their marks, those before as a sum. So what nobody takes
/// does not grow.
#[derive(Debug, Default)]
pub(super) struct Spans {
    newest: VecDeque<(Mark, Mark)>,
    before: Duration,
}

impl Spans {
    /// Adds a piece of work. Who adds calls [`Spans::wait_until_below`] before.
    pub fn push(&mut self, start: Mark, end: Mark) {
        self.newest.push_back((start, end));
    }

    /// Waits until fewer than `most` pieces are under way.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if one of those waited for failed.
    pub fn wait_until_below(&mut self, most: usize) -> Result<()> {
        while self.newest.len() >= most {
            let Some((start, end)) = self.newest.pop_front() else { break };
            self.before += start.elapsed_until(&end)?;
        }
        Ok(())
    }

    /// How many are kept by their marks.
    #[cfg(test)]
    pub fn num_kept(&self) -> usize {
        self.newest.len()
    }

    /// How long all of them took, after waiting for them; then there are none.
    ///
    /// # Errors
    /// As [`Spans::wait_until_below`].
    pub fn take(&mut self) -> Result<Duration> {
        self.wait_until_below(1)?;
        Ok(std::mem::take(&mut self.before))
    }
}
