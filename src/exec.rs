//! Runs a program on a device: one arena, the steps of a plan in order, no policy.

use std::time::{Duration, Instant};

use crate::device::Slot;
use crate::device::cpu::{Arena, BorrowFlags, CpuArgs, Element};
use crate::error::Result;
use crate::plan::{Plan, Program, Step};

/// A program with its memory on the CPU device.
#[derive(Debug)]
pub struct Session {
    program: Program,
    arena: Arena,
    flags: BorrowFlags,
}

impl Session {
    /// Allocates exactly the program's peak, zeroed.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the memory is not there.
    pub fn new(program: Program) -> Result<Session> {
        let arena = Arena::new(program.peak_bytes)?;
        let operands = |step: &Step| step.inputs.len() + step.outputs.len();
        let most = program.plans.iter().flat_map(|plan| &plan.steps).map(operands).max().unwrap_or(0);
        Ok(Session { program, arena, flags: BorrowFlags::new(most) })
    }

    /// The program this session runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Bytes allocated.
    pub fn arena_bytes(&self) -> usize {
        self.arena.num_bytes()
    }

    /// Runs forward and backward of plan `index`.
    pub fn run_micro_batch(&mut self, index: usize) {
        let plan = &self.program.plans[index];
        plan.steps[..plan.first_update].iter().for_each(|step| self.run_step(step));
    }

    /// Runs the optimiser's part of plan `index`.
    pub fn run_update(&mut self, index: usize) {
        let plan = &self.program.plans[index];
        plan.steps[plan.first_update..].iter().for_each(|step| self.run_step(step));
    }

    /// Runs all of plan `index`, adding the time of each step to the same place of `times`.
    ///
    /// # Panics
    /// If `times` does not have one entry a step.
    pub fn run_timed(&mut self, index: usize, times: &mut [Duration]) {
        let plan = &self.program.plans[index];
        assert_eq!(times.len(), plan.steps.len(), "one time a step");
        for (step, time) in plan.steps.iter().zip(times) {
            let start = Instant::now();
            self.run_step(step);
            *time += start.elapsed();
        }
    }

    /// The plan of graph `index`.
    pub fn plan(&self, index: usize) -> &Plan {
        &self.program.plans[index]
    }

    /// The elements at `slot`.
    pub fn read<T: Element>(&self, slot: &Slot) -> &[T] {
        // SAFETY: slices handed out here borrow the session, and steps run only under `&mut self`.
        unsafe { self.arena.slice(slot) }
    }

    /// The elements at `slot` for writing.
    pub fn write<T: Element>(&mut self, slot: &Slot) -> &mut [T] {
        // SAFETY: `&mut self` rules out every other slice.
        unsafe { self.arena.slice_mut(slot) }
    }

    fn run_step(&self, step: &Step) {
        // SAFETY: callers hold `&mut self`; the planner separates all operands but the in-place pairs.
        let args =
            unsafe { CpuArgs::new(&self.arena, &step.inputs, &step.outputs, step.workspace, &self.flags) };
        step.op.cpu(&args);
    }
}
