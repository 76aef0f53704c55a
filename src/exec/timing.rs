//! Runs that are timed: the steps of a plan, their launches, or one step alone.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Backend, Session, launch};
use crate::device::{Launcher, Only};
use crate::error::Result;

impl Session {
    /// Runs all of plan `index`, adding the time of each step to the same place of `times`: the device's time, without the
    /// host's for starting it.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`].
    ///
    /// # Panics
    /// If `times` does not have one entry a step.
    pub fn run_timed(&mut self, index: usize, times: &mut [Duration]) -> Result<()> {
        assert_eq!(times.len(), self.program.plans[index].steps.len(), "one time a step");
        self.upload_inputs()?;
        if let Backend::Kernels { device, arena_address } = &mut self.backend {
            let steps = &self.program.plans[index].steps;
            self.last_run = Some(index);
            return device
                .run_timed(&mut |list, launcher| launch(&steps[list], *arena_address, launcher), times);
        }
        for (step, time) in times.iter_mut().enumerate() {
            *time += self.timed(index, step..step + 1)?;
        }
        Ok(())
    }

    /// [`Session::run_timed`] by launch, on a device that runs kernels: `launches` has the number of launches of each step,
    /// `times` an entry a launch.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`].
    ///
    /// # Panics
    /// If the device runs no kernels, or there are other numbers of steps or launches.
    pub fn run_timed_by_launch(
        &mut self,
        index: usize,
        launches: &[usize],
        times: &mut [Duration],
    ) -> Result<()> {
        self.upload_inputs()?;
        let steps = &self.program.plans[index].steps;
        assert_eq!(launches.len(), steps.len(), "a number of launches a step");
        assert_eq!(launches.iter().sum::<usize>(), times.len(), "one time a launch");
        let Backend::Kernels { device, arena_address } = &mut self.backend else {
            panic!("the CPU launches nothing")
        };
        self.last_run = Some(index);
        let of_step = |(step, &count): (usize, &usize)| (0..count).map(move |skipped| (step, skipped));
        let lists: Vec<(usize, usize)> = launches.iter().enumerate().flat_map(of_step).collect();
        let mut record = |list: usize, launcher: &mut dyn Launcher| {
            let (step, skipped) = lists[list];
            launch(&steps[step], *arena_address, &mut Only { launcher, skipped, seen: 0 })
        };
        device.run_timed(&mut record, times)
    }

    /// Adds to each of `times` the time of a run of step `step` of plan `index`. All of plan `between` runs before each,
    /// uncounted, for one to clear the device's caches.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`].
    pub fn time_step(
        &mut self,
        index: usize,
        step: usize,
        between: usize,
        times: &mut [Duration],
    ) -> Result<()> {
        self.upload_inputs()?;
        if let Backend::Kernels { device, arena_address } = &mut self.backend {
            let [step, between] =
                [&self.program.plans[index].steps[step..=step], &*self.program.plans[between].steps];
            let mut both = vec![Duration::ZERO; 2 * times.len()];
            let mut record = |list: usize, launcher: &mut dyn Launcher| {
                let steps = if list.is_multiple_of(2) { between } else { step };
                steps.iter().try_for_each(|step| launch(step, *arena_address, launcher))
            };
            device.run_timed(&mut record, &mut both)?;
            self.last_run = Some(index);
            times.iter_mut().zip(both.chunks_exact(2)).for_each(|(time, both)| *time += both[1]);
            return Ok(());
        }
        for time in times {
            self.run(between, 0..self.program.plans[between].steps.len(), None)?;
            *time += self.timed(index, step..step + 1)?;
        }
        Ok(())
    }

    /// The host's time for steps that it runs itself.
    fn timed(&mut self, index: usize, range: Range<usize>) -> Result<Duration> {
        let start = Instant::now();
        self.run(index, range, None)?;
        Ok(start.elapsed())
    }
}
