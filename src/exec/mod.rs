//! Runs a program on a device: one arena, the steps of a plan in order, no policy.

mod exchange;
mod initial;
mod inputs;
mod timing;

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use half::bf16;

use self::inputs::Inputs;
use crate::device::cpu::{Arena, BorrowFlags, CpuArgs, Element};
use crate::device::cuda::CudaDevice;
use crate::device::{Device, DeviceKind, KernelDevice, LaunchArgs, Launcher, READBACK_BYTES, Slot};
use crate::dist::Collective;
use crate::error::{Error, Result};
use crate::plan::{Access, Plan, Program, Step};
use crate::tensor::DType;

/// How the persistent values of a session start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With their recorded initial values; random ones are a pure function of this seed and the value's name.
    Seed(u64),
    /// As zeros, for a session whose persistent values are all written before they are used.
    Zeros,
}

/// A program with its memory on a device.
pub struct Session {
    program: Program,
    backend: Backend,
    readback: Vec<u8>,
    /// How long it will be when the device is done.
    readback_bytes: usize,
    /// Small inputs that a device is given at once, before the run that they are for.
    inputs: Inputs,
    /// What is sent and what is received, on a device whose memory is not the host's.
    staging: [Vec<u8>; 2],
    /// Time in exchanges through memory of the host since it was last asked for.
    exchange_time: Duration,
    /// The plan that ran last, whose transient values the arena holds.
    last_run: Option<usize>,
}

enum Backend {
    Cpu { arena: Arena, flags: BorrowFlags },
    Kernels { device: Box<dyn KernelDevice>, arena_address: u64 },
}

impl Backend {
    /// The GPU that this is, where it is one.
    fn gpu(&mut self) -> Option<&mut CudaDevice> {
        match self {
            Backend::Cpu { .. } => None,
            Backend::Kernels { device, .. } => device.as_gpu(),
        }
    }
}

impl Session {
    /// A session on the CPU that starts from the initial values of seed 0; it allocates exactly the program's peak.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the memory is not there.
    pub fn new(program: Program) -> Result<Session> {
        Session::open(program, Device::Cpu, Start::Seed(0))
    }

    /// A session on `device`; the program must be planned for its kind.
    ///
    /// # Errors
    /// [`Error::Device`] if the device cannot be used, [`Error::DoesNotFit`] if the memory is not there.
    pub fn open(program: Program, device: Device, start: Start) -> Result<Session> {
        if let Some(kernels) = device.open_kernels()? {
            return Session::on(program, kernels, start);
        }
        let arena = Arena::new(program.peak_bytes)?;
        let operands = |step: &Step| step.inputs.len() + step.outputs.len();
        let most = program.plans.iter().flat_map(|plan| &plan.steps).map(operands).max().unwrap_or(0);
        Session::with(program, Backend::Cpu { arena, flags: BorrowFlags::new(most) }, start)
    }

    /// A session on a device that runs kernels; the program must be planned for its kind.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the memory is not there.
    pub fn on(program: Program, mut device: Box<dyn KernelDevice>, start: Start) -> Result<Session> {
        let arena_address = device.allocate(program.peak_bytes)?;
        Session::with(program, Backend::Kernels { device, arena_address }, start)
    }

    fn with(program: Program, backend: Backend, start: Start) -> Result<Session> {
        let readback = Vec::with_capacity(READBACK_BYTES);
        let inputs = match &backend {
            Backend::Cpu { .. } => Inputs::new(0..0),
            Backend::Kernels { .. } => {
                Inputs::new(program.persistent_bytes..program.persistent_bytes + program.input_bytes)
            }
        };
        let mut session = Session {
            program,
            backend,
            readback,
            readback_bytes: 0,
            inputs,
            staging: Default::default(),
            exchange_time: Duration::ZERO,
            last_run: None,
        };
        if let Start::Seed(seed) = start {
            session.initialise(seed)?;
        }
        Ok(session)
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

    /// Bytes of memory that the session has allocated on its device.
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
    /// [`Error::Device`] if a kernel is missing or fails.
    pub fn run_micro_batch(&mut self, index: usize) -> Result<()> {
        self.run(index, 0..self.program.plans[index].first_exchange, None)
    }

    /// [`Session::run_micro_batch`] on one of several ranks, which send each other values on the way ([`Op::exchange`]).
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`], and what the collective reports.
    ///
    /// [`Op::exchange`]: crate::graph::Op::exchange
    pub fn run_micro_batch_of_rank(&mut self, index: usize, collective: &mut dyn Collective) -> Result<()> {
        self.run(index, 0..self.program.plans[index].first_exchange, Some(collective))
    }

    /// Runs what plan `index` does with what every rank has sent.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch_of_rank`].
    pub fn run_exchange(&mut self, index: usize, collective: &mut dyn Collective) -> Result<()> {
        let plan = &self.program.plans[index];
        self.run(index, plan.first_exchange..plan.first_update, Some(collective))
    }

    /// Runs the optimiser's part of plan `index`.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`].
    pub fn run_update(&mut self, index: usize) -> Result<()> {
        let plan = &self.program.plans[index];
        self.run(index, plan.first_update..plan.steps.len(), None)
    }

    /// The elements of the value called `name` in plan `index`: borrowed on the CPU, copied from any other device.
    ///
    /// # Errors
    /// As [`Plan::readable_slot`] and [`Session::read`].
    pub fn value<T: Element>(&self, index: usize, name: &str) -> Result<Cow<'_, [T]>> {
        about(name, self.read(&self.plan(index).readable_slot(name)?))
    }

    /// Copies `values` to the value called `name` of plan `index`.
    ///
    /// # Errors
    /// As [`Plan::slot`] and [`Session::write`].
    pub fn set<T: Element>(&mut self, index: usize, name: &str, values: &[T]) -> Result<()> {
        let slot = self.plan(index).slot(name)?;
        about(name, self.write(&slot, values))
    }

    /// The elements at `slot`: borrowed on the CPU, copied from any other device.
    ///
    /// # Errors
    /// [`Error::Graph`] if the slot holds elements of another type, or its memory is given to other values during a run:
    /// parameters, state and values that the graph keeps ([`crate::graph::Graph::keep`]) can be read, the latter until
    /// another plan runs. [`Error::Device`] if the copy fails.
    pub fn read<T: Element>(&self, slot: &Slot) -> Result<Cow<'_, [T]>> {
        self.check_type::<T>(slot)?;
        self.check_readable(slot)?;
        match &self.backend {
            // SAFETY: slices handed out here borrow the session, and steps run only under `&mut self`.
            Backend::Cpu { arena, .. } => Ok(Cow::Borrowed(unsafe { arena.slice(slot) })),
            Backend::Kernels { device, .. } => {
                let mut copy = vec![T::zeroed(); slot.shape.num_elems()];
                let bytes = bytemuck::cast_slice_mut(&mut copy);
                match self.inputs.pending(slot) {
                    Some(pending) => bytes.copy_from_slice(pending),
                    None => device.download(slot.offset_bytes, bytes)?,
                }
                Ok(Cow::Owned(copy))
            }
        }
    }

    /// [`Session::read`] for elements of any type, every one of which fits in f64.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_as_f64(&self, slot: &Slot) -> Result<Vec<f64>> {
        Ok(match slot.dtype {
            DType::F64 => self.read::<f64>(slot)?.into_owned(),
            DType::F32 => self.read::<f32>(slot)?.iter().map(|&v| v.into()).collect(),
            DType::Bf16 => self.read::<bf16>(slot)?.iter().map(|&v| v.into()).collect(),
            DType::I32 => self.read::<i32>(slot)?.iter().map(|&v| v.into()).collect(),
            DType::U8 => self.read::<u8>(slot)?.iter().map(|&v| v.into()).collect(),
        })
    }

    /// Copies `values` to `slot`: an input, before every run that reads it, or a value that can be read.
    ///
    /// # Errors
    /// [`Error::Graph`] if `values` are too many, too few or of another type, or the slot's memory is given to other
    /// values during a run. [`Error::Device`] if the copy fails.
    pub fn write<T: Element>(&mut self, slot: &Slot, values: &[T]) -> Result<()> {
        self.check_elements(slot, values)?;
        if !self.is_persistent(slot)
            && !self.program.plans.iter().any(|plan| plan.reaches(slot, Access::is_writable))
        {
            return Err(self.misuse(
                slot,
                "is computed by the graph, and its memory is shared; write the graph's inputs".into(),
            ));
        }
        self.copy_to(slot, values)
    }

    /// Copies `values` to operand `operand` of step `step` of plan `index`, for a run of that step alone
    /// ([`Session::time_step`]); in a run of the whole plan other steps make it.
    ///
    /// # Errors
    /// [`Error::Graph`] if `values` are too many, too few or of another type, [`Error::Device`] if the copy fails.
    pub fn write_operand<T: Element>(
        &mut self,
        (index, step, operand): (usize, usize, usize),
        values: &[T],
    ) -> Result<()> {
        let slot = self.program.plans[index].steps[step].inputs[operand];
        self.check_elements(&slot, values)?;
        self.copy_to(&slot, values)
    }

    fn copy_to<T: Element>(&mut self, slot: &Slot, values: &[T]) -> Result<()> {
        match &mut self.backend {
            // SAFETY: `&mut self` rules out every other slice.
            Backend::Cpu { arena, .. } => unsafe { arena.slice_mut(slot) }.copy_from_slice(values),
            Backend::Kernels { device, .. } => {
                let bytes = bytemuck::cast_slice(values);
                if !self.inputs.take(slot, bytes) {
                    device.upload(slot.offset_bytes, bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Sets every byte of the arena, so that whatever is read before it is written shows: with 0xFF, as NaN.
    ///
    /// # Errors
    /// [`Error::Device`] if the copy fails.
    pub fn fill_memory(&mut self, byte: u8) -> Result<()> {
        let everything = Slot { offset_bytes: 0, shape: [self.program.peak_bytes].into(), dtype: DType::U8 };
        match &mut self.backend {
            // SAFETY: `&mut self` rules out every other slice.
            Backend::Cpu { arena, .. } => unsafe { arena.slice_mut::<u8>(&everything) }.fill(byte),
            Backend::Kernels { device, .. } => {
                self.inputs.fill(byte);
                device.upload(0, &vec![byte; everything.num_bytes()])?;
            }
        }
        Ok(())
    }

    /// Gives the device the small inputs that were written since the last time, by one copy.
    fn upload_inputs(&mut self) -> Result<()> {
        match (&mut self.backend, self.inputs.next()) {
            (Backend::Kernels { device, .. }, Some((offset_bytes, bytes))) => {
                device.upload(offset_bytes, bytes)
            }
            _ => Ok(()),
        }
    }

    fn is_persistent(&self, slot: &Slot) -> bool {
        slot.offset_bytes + slot.num_bytes() <= self.program.persistent_bytes
    }

    fn check_type<T: Element>(&self, slot: &Slot) -> Result<()> {
        match slot.dtype == T::DTYPE {
            true => Ok(()),
            false => Err(self.misuse(slot, format!("holds {}, not {}", slot.dtype, T::DTYPE))),
        }
    }

    fn check_elements<T: Element>(&self, slot: &Slot, values: &[T]) -> Result<()> {
        self.check_type::<T>(slot)?;
        match slot.shape.num_elems() {
            count if count == values.len() => Ok(()),
            count => {
                let message = format!("takes {count} elements ({}), got {}", slot.shape, values.len());
                Err(self.misuse(slot, message))
            }
        }
    }

    fn check_readable(&self, slot: &Slot) -> Result<()> {
        if self.is_persistent(slot) {
            return Ok(());
        }
        let plans = &self.program.plans;
        let is_kept = |plan: &Plan| plan.reaches(slot, Access::is_readable);
        if self.last_run.map_or_else(|| plans.iter().any(is_kept), |index| is_kept(&plans[index])) {
            return Ok(());
        }
        let message = if plans.iter().any(is_kept) {
            "was overwritten when another graph ran; read it before that"
        } else {
            "shares its memory with other values during a run; call Graph::keep on it before planning"
        };
        Err(self.misuse(slot, message.into()))
    }

    fn misuse(&self, slot: &Slot, message: String) -> Error {
        let named = self.program.plans.iter().find_map(|plan| plan.name_of(slot));
        let persistent =
            self.program.persistent.iter().find(|p| p.slot == *slot).map(|p| p.value.name.as_str());
        let node =
            persistent.or(named).map_or_else(|| format!("offset {}", slot.offset_bytes), str::to_string);
        Error::Graph { op: "session", node, message }
    }

    /// Copies what `slot` holds after the steps run so far to the host, without waiting for a device: the bytes follow those
    /// enqueued before, and [`Session::take_readback`] returns them. So values of every step are had without stopping at
    /// every step.
    ///
    /// # Errors
    /// [`Error::Device`] if the copy fails.
    pub fn enqueue_readback(&mut self, slot: &Slot) -> Result<()> {
        if self.inputs.pending(slot).is_some() {
            self.upload_inputs()?;
        }
        self.readback_bytes += slot.num_bytes();
        match &mut self.backend {
            Backend::Cpu { arena, .. } => {
                let bytes = Slot { shape: [slot.num_bytes()].into(), dtype: DType::U8, ..*slot };
                // SAFETY: `&mut self` rules out a step that writes.
                self.readback.extend_from_slice(unsafe { arena.slice::<u8>(&bytes) });
                Ok(())
            }
            Backend::Kernels { device, .. } => {
                device.enqueue_readback(slot.offset_bytes, slot.num_bytes(), &mut self.readback)
            }
        }
    }

    /// Waits for the device, hands the bytes enqueued since the last call to `read`, and forgets them.
    ///
    /// # Errors
    /// [`Error::Device`] if a copy or a step failed.
    pub fn take_readback<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.take_readback_after(0, read)
    }

    /// [`Session::take_readback`] without the first `num_bytes`, which stay: those that somebody else has enqueued and not yet
    /// taken ([`Session::readback_bytes`]).
    ///
    /// # Errors
    /// As [`Session::take_readback`].
    ///
    /// # Panics
    /// If fewer are enqueued.
    pub fn take_readback_after<R>(&mut self, num_bytes: usize, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        if let Backend::Kernels { device, .. } = &mut self.backend {
            device.finish_readback(&mut self.readback)?;
        }
        let result = read(&self.readback[num_bytes..]);
        self.readback.truncate(num_bytes);
        self.readback_bytes = num_bytes;
        Ok(result)
    }

    /// How many bytes are enqueued and not taken.
    pub fn readback_bytes(&self) -> usize {
        self.readback_bytes
    }

    /// How long the device was busy with steps since the last call, after waiting for it; `None` on the CPU, which is the
    /// host itself.
    ///
    /// # Errors
    /// [`Error::Device`] if a step failed.
    pub fn take_busy_time(&mut self) -> Result<Option<Duration>> {
        match &mut self.backend {
            Backend::Cpu { .. } => Ok(None),
            Backend::Kernels { device, .. } => device.take_busy_time().map(Some),
        }
    }

    /// Runs the steps in `range`; among them may be such that ask other ranks, which `collective` reaches.
    fn run(
        &mut self,
        index: usize,
        range: Range<usize>,
        mut collective: Option<&mut (dyn Collective + '_)>,
    ) -> Result<()> {
        self.upload_inputs()?;
        self.last_run = Some(index);
        let mut start = range.start;
        let exchanges = &self.program.plans[index].exchanges;
        let first = exchanges.partition_point(|&step| step < range.start);
        for next in first..exchanges.partition_point(|&step| step < range.end) {
            let step = self.program.plans[index].exchanges[next];
            self.run_steps(index, start..step)?;
            self.run_exchange_step(index, step, collective.as_deref_mut())?;
            start = step + 1;
        }
        self.run_steps(index, start..range.end)?;
        self.finish_exchanges()
    }

    /// Runs steps of which none asks other ranks.
    fn run_steps(&mut self, index: usize, range: Range<usize>) -> Result<()> {
        let steps = &self.program.plans[index].steps[range.clone()];
        if steps.is_empty() {
            return Ok(());
        }
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
                    steps.iter().try_for_each(|step| launch(step, *arena_address, launcher))
                })
            }
        }
    }
}

/// Names the value that was asked for in a message of the session: another value may have the same slot.
fn about<T>(name: &str, result: Result<T>) -> Result<T> {
    result.map_err(|error| match error {
        Error::Graph { op: "session", message, .. } => {
            Error::Graph { op: "session", node: name.to_string(), message }
        }
        other => other,
    })
}

fn launch(step: &Step, arena_address: u64, launcher: &mut dyn Launcher) -> Result<()> {
    let (inputs, outputs, workspace) = (&step.inputs, &step.outputs, step.workspace);
    let args = LaunchArgs { arena_address, inputs, outputs, workspace };
    launcher.bind(&args, step.op.mutates());
    step.op.launch(&args, launcher)
}

#[cfg(test)]
mod tests;
