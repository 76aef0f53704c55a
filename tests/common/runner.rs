//! Runs one recorded graph on the CPU, its values given and read by name.

use residuum::device::DeviceKind;
use residuum::device::cpu::{Element, Real};
use residuum::exec::Session;
use residuum::graph::Graph;
use residuum::plan::plan;

/// A graph with its memory.
pub struct Runner {
    session: Session,
}

impl Runner {
    /// Plans `graph` and allocates what it needs.
    pub fn new(graph: &Graph) -> Runner {
        Runner { session: Session::new(plan(&[graph], DeviceKind::Cpu).unwrap()).unwrap() }
    }

    /// Fills the value called `name`. Inputs hold their contents for one run only.
    pub fn write<T: Element>(&mut self, name: &str, values: &[T]) {
        let slot = self.session.plan(0).slot(name).unwrap();
        self.session.write::<T>(&slot, values).unwrap();
    }

    /// As [`Runner::write`], for a value of type `T` from f32.
    pub fn write_real<T: Real>(&mut self, name: &str, values: &[f32]) {
        let values: Vec<T> = values.iter().map(|&v| T::from_f64(f64::from(v))).collect();
        self.write(name, &values);
    }

    /// Runs the whole graph once.
    pub fn run(&mut self) {
        self.session.run_micro_batch(0).unwrap();
        self.session.run_update(0).unwrap();
    }

    /// The elements of the value called `name`: a persistent one, or one the graph keeps.
    pub fn read<T: Element>(&self, name: &str) -> Vec<T> {
        let slot = self.session.plan(0).slot(name).unwrap();
        self.session.read::<T>(&slot).unwrap().into_owned()
    }
}
