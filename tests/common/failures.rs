//! Checks that did not pass, collected to be told together.

use residuum::check::Outcome;

#[derive(Default)]
pub struct Failures(Vec<String>);

impl Failures {
    pub fn note(&mut self, name: &str, outcome: residuum::Result<Outcome>) {
        match outcome {
            Ok(outcome) if outcome.passed() => {}
            Ok(Outcome { error, worst, .. }) => self.0.push(format!("{name}: error {error:.1e}: {worst}")),
            Err(error) => self.0.push(format!("{name}: {error}")),
        }
    }

    pub fn assert_none(self) {
        assert!(self.0.is_empty(), "{} failed:\n{}", self.0.len(), self.0.join("\n"));
    }
}
