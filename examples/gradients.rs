//! From a graph to gradients: record, differentiate, plan, run.
//!
//!     cargo run --release --example gradients

use residuum::autodiff::differentiate;
use residuum::device::DeviceKind;
use residuum::exec::Session;
use residuum::graph::{Graph, Phase};
use residuum::ops::{fill, linear, softmax_xent};
use residuum::plan::plan;
use residuum::tensor::DType;

fn main() -> residuum::Result<()> {
    // Record: two rows of three features, four classes. The layer has the parameters `fc.weight` [4, 3] and `fc.bias` [4].
    let mut graph = Graph::new(DType::F32);
    let x = graph.input("x", [2, 3], DType::F32);
    let labels = graph.input("labels", [2], DType::I32);
    let logits = linear(&mut graph, "fc", x, 4)?;
    let loss = softmax_xent(&mut graph, "loss", logits, labels, 0.0)?.loss;
    graph.keep(loss);

    // Differentiate: the seed is the gradient of the loss by itself.
    let parameters: Vec<_> = graph.parameters().collect();
    graph.set_phase(Phase::Backward);
    let seed = fill(&mut graph, "seed", [], 1.0)?;
    let gradients = differentiate(&mut graph, loss, seed, &parameters)?;
    for (parameter, gradient) in parameters.iter().zip(gradients) {
        let alias = format!("gradient of {}", graph.value(*parameter).name);
        graph.keep_as(&alias, gradient);
    }
    print!("{graph}");

    // Plan: what runs, in which order, in how many bytes. A session allocates them and sets the initial values.
    let program = plan(&[&graph], DeviceKind::Cpu)?;
    println!("{} bytes", program.peak_bytes);
    let mut session = Session::new(program)?;
    session.set(0, "fc.weight", &[0.0f32; 12])?;
    session.set(0, "fc.bias", &[0.0f32; 4])?;

    // Run: the host writes the inputs before every run, and reads what the graph keeps after it.
    session.set(0, "x", &[1.0f32, 2.0, 3.0, -1.0, 0.5, 0.0])?;
    session.set(0, "labels", &[1i32, 3])?;
    session.run_micro_batch(0)?;
    let loss = session.value::<f32>(0, "loss")?[0];
    let bias_gradient = session.value::<f32>(0, "gradient of fc.bias")?;
    println!("loss {loss}, gradient of the bias {bias_gradient:?}");
    assert!((loss - 4.0f32.ln()).abs() < 1e-6);
    assert_eq!(*bias_gradient, [0.25, -0.25, 0.25, -0.25]);
    Ok(())
}
