//! What must hold of every graph, whichever pass made it.

use std::collections::HashMap;

use super::{Graph, Node, ValueId, ValueType};
use crate::error::{Error, Result};

impl Graph {
    /// Checks the graph: unique names, every operand made before it is used and by one node only, every node's types
    /// as its operation infers them, phases in order.
    ///
    /// # Errors
    /// [`Error::Graph`] naming the first node that breaks a rule.
    pub fn verify(&self) -> Result<()> {
        let mut names = HashMap::new();
        for value in self.values() {
            if names.insert(value.name.as_str(), ()).is_some() {
                return Err(Error::Graph {
                    op: "graph",
                    node: value.name.clone(),
                    message: "two values have this name; give each layer its own scope".into(),
                });
            }
        }
        let mut made = vec![false; self.values().len()];
        for id in self.value_ids() {
            made[id.index()] =
                self.value(id).role.is_persistent() || self.value(id).role == super::Role::Input;
        }
        let mut phase = super::Phase::Forward;
        for node in self.nodes() {
            self.verify_node(node, &mut made)?;
            if node.phase < phase {
                return Err(fault(
                    node,
                    format!("belongs to {:?} but follows a node of {phase:?}", node.phase),
                ));
            }
            phase = node.phase;
        }
        for &id in self.results() {
            if !made[id.index()] {
                return Err(Error::Graph {
                    op: "graph",
                    node: self.value(id).name.clone(),
                    message: "is kept as a result but nothing makes it".into(),
                });
            }
        }
        Ok(())
    }

    fn verify_node(&self, node: &Node, made: &mut [bool]) -> Result<()> {
        let types = |ids: &[ValueId]| ids.iter().map(|&id| self.value(id).ty).collect::<Vec<ValueType>>();
        for &id in &node.inputs {
            if !made[id.index()] {
                return Err(fault(node, format!("reads `{}` before it is made", self.value(id).name)));
            }
        }
        for &id in &node.outputs {
            if std::mem::replace(&mut made[id.index()], true) {
                return Err(fault(node, format!("makes `{}`, which exists already", self.value(id).name)));
            }
        }
        for &position in node.op.mutates() {
            let changed = self.value(node.inputs[position]);
            if !changed.role.is_persistent() {
                return Err(fault(node, format!("changes `{}`, which is not state", changed.name)));
            }
        }
        let inferred = node.op.infer(&types(&node.inputs)).map_err(|message| fault(node, message))?;
        let recorded = types(&node.outputs);
        if inferred != recorded {
            return Err(fault(node, format!("infers {inferred:?} but was recorded with {recorded:?}")));
        }
        Ok(())
    }
}

fn fault(node: &Node, message: String) -> Error {
    Error::Graph { op: node.op.name(), node: node.name.clone(), message }
}
