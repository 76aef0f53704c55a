//! The readable form of a graph: one node a line, in execution order.

use std::fmt;

use super::Graph;

impl fmt::Display for Graph {
    /// `backward  layer1.0.conv1.dgrad  conv2d_dgrad(layer1.0.bn1.bwd f32 2x8x8x64, ...) -> f32 2x8x8x64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in self.nodes() {
            let operand = |id: &super::ValueId| format!("{} {}", self.value(*id).name, self.value(*id).ty);
            let inputs: Vec<String> = node.inputs.iter().take(8).map(operand).collect();
            let more = node.inputs.len().saturating_sub(inputs.len());
            let outputs: Vec<String> = node.outputs.iter().map(|id| self.value(*id).ty.to_string()).collect();
            writeln!(
                f,
                "{:<8}  {}  {}({}{}) -> {}",
                format!("{:?}", node.phase).to_lowercase(),
                node.name,
                node.op.name(),
                inputs.join(", "),
                if more > 0 { format!(", and {more} more") } else { String::new() },
                outputs.join(", "),
            )?;
        }
        Ok(())
    }
}
