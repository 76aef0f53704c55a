//! A differentiable computation and its gradients, recorded once and run on any device, in any type.

use half::bf16;

use crate::autodiff::differentiate;
use crate::device::{Device, DeviceKind, KernelDevice, Slot};
use crate::error::Result;
use crate::exec::{Session, Start};
use crate::fuse::{Rewrite, fuse};
use crate::graph::{Graph, Init, ValueId};
use crate::ops::Case;
use crate::plan::plan;
use crate::rng::{Stream, Use};
use crate::tensor::{DType, Shape};

/// A graph in which the gradients of operands and parameters follow a result.
pub struct Recording {
    /// The graph; result and gradients are kept.
    pub graph: Graph,
    /// Names of the operands, in the order in which they were given, and of the upstream gradient, `dy`.
    pub operands: Vec<String>,
    /// Names of what has a gradient: the operands and the parameters.
    pub differentiated: Vec<String>,
    /// Names of the result and of the gradients, in the order of `differentiated`.
    pub results: Vec<String>,
    labels: &'static [i32],
}

impl Recording {
    /// What `build` records on `operands`, given by name and type, in a graph of `float`, and its gradients.
    ///
    /// # Errors
    /// What `build` returns, and [`crate::Error::Graph`] if an operation has no gradient.
    pub fn new(
        float: DType,
        operands: &[(&str, Shape, DType)],
        build: impl FnOnce(&mut Graph, &[ValueId]) -> Result<ValueId>,
    ) -> Result<Recording> {
        let mut graph = Graph::new(float);
        let inputs: Vec<ValueId> =
            operands.iter().map(|&(name, shape, dtype)| graph.input(name, shape, dtype)).collect();
        let y = build(&mut graph, &inputs)?;
        let (shape, dtype) = (graph.shape(y), graph.value(y).ty.dtype);
        let dy = graph.input("dy", shape, dtype);
        let wanted: Vec<ValueId> = inputs.iter().copied().chain(graph.parameters()).collect();
        let gradients = differentiate(&mut graph, y, dy, &wanted)?;
        let results: Vec<ValueId> = [y].into_iter().chain(gradients).collect();
        results.iter().for_each(|&id| graph.keep(id));
        let names = |ids: Vec<ValueId>| ids.into_iter().map(|id| graph.value(id).name.clone()).collect();
        let operands = names(inputs.into_iter().chain([dy]).collect());
        let (differentiated, results) = (names(wanted), names(results));
        Ok(Recording { graph, operands, differentiated, results, labels: &[] })
    }

    /// The recording of a case.
    ///
    /// # Errors
    /// As [`Recording::new`].
    pub fn of_case(case: &Case, float: DType) -> Result<Recording> {
        let names: Vec<String> = (0..case.inputs.len()).map(|i| format!("operand{i}")).collect();
        let stays_f32 = |i: &usize| float == DType::Bf16 && case.in_f32.contains(i);
        let dtype = |i: usize| if stays_f32(&i) { DType::F32 } else { float };
        let operands: Vec<(&str, Shape, DType)> = (0..)
            .zip(&names)
            .map(|(i, name)| (name.as_str(), Shape::new(case.inputs[i]), dtype(i)))
            .collect();
        Ok(Recording { labels: case.labels, ..Recording::new(float, &operands, case.build)? })
    }

    /// This recording with its graph fused, as training runs it.
    ///
    /// # Errors
    /// As [`fuse`].
    pub fn fused(self) -> Result<Recording> {
        Ok(Recording { graph: fuse(&self.graph, &Rewrite::ALL)?, ..self })
    }

    /// Memory for it on the CPU, filled with NaN.
    ///
    /// # Errors
    /// As [`plan`] and [`Session::open`].
    pub fn on_cpu(self) -> Result<Recorded> {
        let session = poisoned_cpu(&self.graph)?;
        Ok(Recorded { recording: self, session })
    }

    /// Memory for it on `device`, filled with NaN.
    ///
    /// # Errors
    /// As [`plan`] and [`Session::on`].
    pub fn on_device(self, device: Box<dyn KernelDevice>) -> Result<Recorded> {
        let session = poisoned(&self.graph, device)?;
        Ok(Recorded { recording: self, session })
    }
}

/// A [`Recording`] with its memory.
pub struct Recorded {
    /// What was recorded.
    pub recording: Recording,
    session: Session,
}

impl Recorded {
    /// Numbers to start from, by name: normal ones for the operands, the upstream gradient and the parameters, drawn from
    /// `seed`; constants for parameters and state that start as such. The same for every device and type.
    pub fn contents(&self, seed: u64) -> Vec<(String, Vec<f64>)> {
        let graph = &self.recording.graph;
        let mut operands = Stream::new(seed, 0, 0, Use::Init);
        let mut normal = |len: usize| (0..len).map(|_| f64::from(operands.normal())).collect::<Vec<f64>>();
        let num_elems = |name: &str| graph.find(name).map_or(0, |id| graph.shape(id).num_elems());
        let of_operands: Vec<_> =
            self.recording.operands.iter().map(|name| (name.clone(), normal(num_elems(name)))).collect();
        let persistent = graph.values().iter().filter(|value| value.role.is_persistent());
        let of_persistent = persistent.map(|value| {
            let mut stream = Stream::new(seed, 1, crc32c::crc32c(value.name.as_bytes()), Use::Init);
            let values = (0..value.ty.shape.num_elems()).map(|_| match value.init {
                Some(Init::Constant(constant)) => f64::from(constant),
                _ => f64::from(0.1 * stream.normal()),
            });
            (value.name.clone(), values.collect())
        });
        of_operands.into_iter().chain(of_persistent).collect()
    }

    /// Writes the value called `name`, rounded to its type; one that no node reads has no memory and is passed over.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn write(&mut self, name: &str, values: &[f64]) -> Result<()> {
        match self.session.plan(0).slot(name) {
            Ok(slot) => write(&mut self.session, &slot, values),
            Err(_) => Ok(()),
        }
    }

    /// Writes the i32 input called `name`.
    ///
    /// # Errors
    /// If there is none, and as [`Session::write`].
    pub fn write_labels(&mut self, name: &str, labels: &[i32]) -> Result<()> {
        self.session.set(0, name, labels)
    }

    /// Reads the value called `name`.
    ///
    /// # Errors
    /// If there is none, and as [`Session::read`].
    pub fn read(&self, name: &str) -> Result<Vec<f64>> {
        self.session.read_as_f64(&self.session.plan(0).slot(name)?)
    }

    /// Runs all of it once.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`].
    pub fn run(&mut self) -> Result<()> {
        self.session.run_micro_batch(0)
    }

    /// Writes `contents` and the case's labels, runs, and returns the result and the gradients.
    ///
    /// # Errors
    /// As [`Session::run_micro_batch`].
    pub fn evaluate(&mut self, contents: &[(String, Vec<f64>)]) -> Result<Vec<Vec<f64>>> {
        for (name, values) in contents {
            self.write(name, values)?;
        }
        let labels = self.recording.labels;
        if !labels.is_empty() {
            self.write_labels("labels", labels)?;
            if self.session.plan(0).slot("partners").is_ok() {
                let reversed: Vec<i32> = labels.iter().rev().copied().collect();
                self.write_labels("partners", &reversed)?;
            }
        }
        self.run()?;
        self.recording.results.iter().map(|name| self.read(name)).collect()
    }
}

/// A session on a device whose memory is filled with NaN.
pub(super) fn poisoned(graph: &Graph, device: Box<dyn KernelDevice>) -> Result<Session> {
    filled_with_nan(Session::on(plan(&[graph], device.kind())?, device, Start::Zeros)?)
}

/// As [`poisoned`], on the CPU.
pub(super) fn poisoned_cpu(graph: &Graph) -> Result<Session> {
    filled_with_nan(Session::open(plan(&[graph], DeviceKind::Cpu)?, Device::Cpu, Start::Zeros)?)
}

fn filled_with_nan(mut session: Session) -> Result<Session> {
    // All bits set is NaN in f32 and in bf16.
    session.fill_memory(0xFF)?;
    Ok(session)
}

/// Writes numbers in the slot's own type.
pub(super) fn write(session: &mut Session, slot: &Slot, values: &[f64]) -> Result<()> {
    match slot.dtype {
        DType::F64 => session.write(slot, values),
        DType::Bf16 => session.write(slot, &values.iter().map(|&v| bf16::from_f64(v)).collect::<Vec<_>>()),
        _ => session.write(slot, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
    }
}
