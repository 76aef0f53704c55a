//! Runs a program on a device: one arena, the steps of a plan in order, no policy.

use std::borrow::Cow;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::device::cpu::{Arena, BorrowFlags, CpuArgs, Element};
use crate::device::{Device, DeviceKind, KernelDevice, LaunchArgs, Slot};
use crate::error::Result;
use crate::plan::{Plan, Program, Step};

/// A program with its memory on a device.
pub struct Session {
    program: Program,
    backend: Backend,
}

enum Backend {
    Cpu { arena: Arena, flags: BorrowFlags },
    Kernels { device: Box<dyn KernelDevice>, arena_address: u64 },
}

impl Session {
    /// On the CPU; allocates exactly the program's peak, zeroed.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the memory is not there.
    pub fn new(program: Program) -> Result<Session> {
        let arena = Arena::new(program.peak_bytes)?;
        let operands = |step: &Step| step.inputs.len() + step.outputs.len();
        let most = program.plans.iter().flat_map(|plan| &plan.steps).map(operands).max().unwrap_or(0);
        Ok(Session { program, backend: Backend::Cpu { arena, flags: BorrowFlags::new(most) } })
    }

    /// On `device`; the program must be planned for its kind.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if it cannot be used, [`crate::Error::DoesNotFit`] if the memory is not there.
    pub fn open(program: Program, device: Device) -> Result<Session> {
        match device.open_kernels()? {
            Some(kernels) => Session::on(program, kernels),
            None => Session::new(program),
        }
    }

    /// On a device that runs kernels; the program must be planned for its kind.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the memory is not there.
    pub fn on(program: Program, mut device: Box<dyn KernelDevice>) -> Result<Session> {
        let arena_address = device.allocate(program.peak_bytes)?;
        Ok(Session { program, backend: Backend::Kernels { device, arena_address } })
    }

    /// The kind of device it runs on.
    pub fn device(&self) -> DeviceKind {
        match &self.backend {
            Backend::Cpu { .. } => DeviceKind::Cpu,
            Backend::Kernels { device, .. } => device.kind(),
        }
    }

    /// The program this session runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Bytes allocated.
    pub fn arena_bytes(&self) -> usize {
        match &self.backend {
            Backend::Cpu { arena, .. } => arena.num_bytes(),
            Backend::Kernels { .. } => self.program.peak_bytes,
        }
    }

    /// The plan of graph `index`.
    pub fn plan(&self, index: usize) -> &Plan {
        &self.program.plans[index]
    }

    /// Runs forward and backward of plan `index`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if a kernel is missing or fails.
    pub fn run_micro_batch(&mut self, index: usize) -> Result<()> {
        self.run(index, 0..self.program.plans[index].first_update)
    }

    /// Runs the optimiser's part of plan `index`.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`].
    pub fn run_update(&mut self, index: usize) -> Result<()> {
        let plan = &self.program.plans[index];
        self.run(index, plan.first_update..plan.steps.len())
    }

    /// Runs all of plan `index`, adding the time of each step to the same place of `times`.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`].
    ///
    /// # Panics
    /// If `times` does not have one entry a step.
    pub fn run_timed(&mut self, index: usize, times: &mut [Duration]) -> Result<()> {
        assert_eq!(times.len(), self.program.plans[index].steps.len(), "one time a step");
        for (step, time) in times.iter_mut().enumerate() {
            let start = Instant::now();
            self.run(index, step..step + 1)?;
            *time += start.elapsed();
        }
        Ok(())
    }

    /// The elements at `slot`: borrowed on the CPU, copied from any other device.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the copy fails.
    pub fn read<T: Element>(&self, slot: &Slot) -> Result<Cow<'_, [T]>> {
        match &self.backend {
            // SAFETY: slices handed out here borrow the session, and steps run only under `&mut self`.
            Backend::Cpu { arena, .. } => Ok(Cow::Borrowed(unsafe { arena.slice(slot) })),
            Backend::Kernels { device, .. } => {
                let mut copy = vec![T::zeroed(); slot.shape.num_elems()];
                device.download(slot.offset_bytes, bytemuck::cast_slice_mut(&mut copy))?;
                Ok(Cow::Owned(copy))
            }
        }
    }

    /// Copies `values` to `slot`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the copy fails.
    ///
    /// # Panics
    /// If `values` do not fill the slot.
    pub fn write<T: Element>(&mut self, slot: &Slot, values: &[T]) -> Result<()> {
        assert_eq!(values.len(), slot.shape.num_elems(), "values for another shape");
        match &mut self.backend {
            // SAFETY: `&mut self` rules out every other slice.
            Backend::Cpu { arena, .. } => unsafe { arena.slice_mut(slot) }.copy_from_slice(values),
            Backend::Kernels { device, .. } => {
                device.upload(slot.offset_bytes, bytemuck::cast_slice(values))?;
            }
        }
        Ok(())
    }

    fn run(&mut self, index: usize, range: Range<usize>) -> Result<()> {
        let steps = &self.program.plans[index].steps[range.clone()];
        match &mut self.backend {
            Backend::Cpu { arena, flags } => {
                for step in steps {
                    // SAFETY: `&mut self` is held; the planner separates all operands but the in-place pairs.
                    let args =
                        unsafe { CpuArgs::new(arena, &step.inputs, &step.outputs, step.workspace, flags) };
                    step.op.cpu(&args);
                }
                Ok(())
            }
            Backend::Kernels { device, arena_address } => {
                let key = (index, range.start, range.end);
                device.run(key, &mut |launcher| {
                    steps.iter().try_for_each(|step| {
                        let (inputs, outputs, workspace) = (&step.inputs, &step.outputs, step.workspace);
                        let args = LaunchArgs { arena_address: *arena_address, inputs, outputs, workspace };
                        launcher.bind(&args, step.op.mutates());
                        step.op.launch(&args, launcher)
                    })
                })
            }
        }
    }
}
