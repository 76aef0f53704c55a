//! What ranks send each other, from the arena of each to the arenas of the others: from GPU to GPU where both the device and what
//! joins the ranks can, else through memory of the host.

use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Backend, Session};
use crate::device::Slot;
use crate::device::cuda::CudaDevice;
use crate::dist::{Collective, Group};
use crate::error::{Error, Result};
use crate::graph::Exchange;
use crate::plan::Step;
use crate::tensor::DType;

impl Session {
    /// Sends part i of the bytes at `from` to the i-th rank of the own group, and puts what comes from it into part i of as many bytes
    /// from `to` on.
    ///
    /// # Errors
    /// What the collective reports, and [`crate::Error::Device`] if a copy fails.
    ///
    /// # Panics
    /// If a place is not of persistent values, or the two overlap.
    pub fn all_to_all(
        &mut self,
        collective: &mut dyn Collective,
        group: Group,
        from: Range<usize>,
        to: usize,
    ) -> Result<()> {
        self.start_all_to_all(collective, group, from, to)?;
        self.finish_exchanges()
    }

    /// [`Session::all_to_all`], which a GPU's launches are not made to wait for.
    fn start_all_to_all(
        &mut self,
        collective: &mut (dyn Collective + '_),
        group: Group,
        from: Range<usize>,
        to: usize,
    ) -> Result<()> {
        let to = to..to + from.len();
        self.check_exchange(&from, &to);
        if let Some((gpu, ranks)) = self.backend.gpu().zip(collective.communicator()) {
            return gpu.all_to_all(ranks, group.members(collective.rank().index), from, to.start);
        }
        self.exchange(from, to, |mine, received| collective.all_to_all(group, mine, received))
    }

    /// Puts what each rank of the own group has at `from` into the bytes from `to` on, in the order of ranks.
    ///
    /// # Errors
    /// As [`Session::all_to_all`].
    ///
    /// # Panics
    /// As [`Session::all_to_all`].
    pub fn all_gather(
        &mut self,
        collective: &mut dyn Collective,
        group: Group,
        from: Range<usize>,
        to: usize,
    ) -> Result<()> {
        let to = to..to + from.len() * group.size;
        self.check_exchange(&from, &to);
        if let Some((gpu, ranks)) = self.backend.gpu().zip(collective.communicator()) {
            let members = group.members(collective.rank().index);
            gpu.all_gather(ranks, members, [from.start], from.len(), to.start)?;
            return gpu.finish_exchanges();
        }
        self.exchange(from, to, |mine, received| collective.all_gather_among(group, mine, received))
    }

    /// Runs step `step` of plan `index`, at which ranks send each other values, with those that `collective` reaches.
    pub(super) fn run_exchange_step(
        &mut self,
        index: usize,
        step: usize,
        collective: Option<&mut (dyn Collective + '_)>,
    ) -> Result<()> {
        let Step { name, op, inputs, .. } = &self.program.plans[index].steps[step];
        let exchange = op.exchange().expect("the plan lists the steps that are exchanges");
        if exchange == Exchange::Arrive {
            return self.finish_exchanges();
        }
        let Some(collective) = collective else {
            return Err(Error::Graph {
                op: op.name(),
                node: name.clone(),
                message: "takes values of other ranks; call Session::run_micro_batch_of_rank".into(),
            });
        };
        let Exchange::AllToAll(group) = exchange else { return self.gather(index, step, collective) };
        let [received, sent @ ..] = inputs.as_slice() else { unreachable!("the shape rule has seen it") };
        let last = sent[sent.len() - 1];
        let from = sent[0].offset_bytes..last.offset_bytes + last.num_bytes();
        assert_eq!(from.len(), received.num_bytes(), "what is sent lies in a row");
        let to = received.offset_bytes;
        self.start_all_to_all(collective, group, from, to)
    }

    fn gather(&mut self, index: usize, step: usize, collective: &mut (dyn Collective + '_)) -> Result<()> {
        let Step { inputs, outputs, .. } = &self.program.plans[index].steps[step];
        let (num_bytes, to) = (inputs[0].num_bytes(), outputs[0]);
        let count = collective.rank().count;
        let all_bytes = num_bytes * count;
        assert_eq!(to.num_bytes(), inputs.len() * all_bytes, "a node gathers from the ranks that there are");
        if let Some((gpu, ranks)) = self.backend.gpu().zip(collective.communicator()) {
            let from = inputs.iter().map(|slot| slot.offset_bytes);
            gpu.all_gather(ranks, 0..count, from, num_bytes, to.offset_bytes)?;
            return gpu.finish_exchanges();
        }
        (0..inputs.len()).try_for_each(|row| {
            let from = self.program.plans[index].steps[step].inputs[row].offset_bytes;
            let to = to.offset_bytes + row * all_bytes;
            self.exchange(from..from + num_bytes, to..to + all_bytes, |mine, received| {
                collective.all_gather(mine, received)
            })
        })
    }

    /// Has a GPU wait for the exchanges under way before what follows.
    pub(super) fn finish_exchanges(&mut self) -> Result<()> {
        self.backend.gpu().map_or(Ok(()), CudaDevice::finish_exchanges)
    }

    /// Adds up the f32 that each rank has at `sums`, in the order of the library that joins them, for every rank.
    ///
    /// # Errors
    /// As [`Session::all_to_all`].
    ///
    /// # Panics
    /// If the place is not of persistent values, or it is not GPUs that are joined: elsewhere a sum has no library.
    pub fn all_reduce(&mut self, collective: &mut dyn Collective, sums: Range<usize>) -> Result<()> {
        assert!(sums.end <= self.program.persistent_bytes, "ranks exchange persistent values");
        let joined = self.backend.gpu().zip(collective.communicator());
        let (gpu, ranks) = joined.expect("a sum of the library's is asked for of ranks on GPUs");
        gpu.all_reduce(ranks, sums)?;
        gpu.finish_exchanges()
    }

    /// How long this rank was in exchanges since the last call, waiting for the others included; it waits for those under way.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if one of them failed.
    pub fn take_exchange_time(&mut self) -> Result<Duration> {
        let on_gpu = self.backend.gpu().map_or(Ok(Duration::ZERO), CudaDevice::take_exchange_time)?;
        Ok(mem::take(&mut self.exchange_time) + on_gpu)
    }

    fn check_exchange(&self, from: &Range<usize>, to: &Range<usize>) {
        assert!(from.end.max(to.end) <= self.program.persistent_bytes, "ranks exchange persistent values");
        assert!(from.end <= to.start || to.end <= from.start, "what is received lies beside what is sent");
    }

    /// Exchanges through memory of the host.
    fn exchange(
        &mut self,
        from: Range<usize>,
        to: Range<usize>,
        send: impl FnOnce(&[u8], &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let start = Instant::now();
        let exchanged = match &mut self.backend {
            Backend::Cpu { arena, .. } => {
                let slot = |bytes: &Range<usize>| Slot {
                    offset_bytes: bytes.start,
                    shape: [bytes.len()].into(),
                    dtype: DType::U8,
                };
                // SAFETY: `&mut self` rules out every other slice, and the two do not overlap: a caller has checked it,
                // or they are operand and result of a node.
                let (mine, received) =
                    unsafe { (arena.slice::<u8>(&slot(&from)), arena.slice_mut::<u8>(&slot(&to))) };
                send(mine, received)
            }
            Backend::Kernels { device, .. } => {
                let [mine, received] = &mut self.staging;
                mine.resize(from.len(), 0);
                received.resize(to.len(), 0);
                device.download(from.start, mine)?;
                send(mine, received)?;
                device.upload(to.start, received)
            }
        };
        self.exchange_time += start.elapsed();
        exchanged
    }
}
