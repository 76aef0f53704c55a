//! VGG-11 with batch norm against PyTorch (`tests/golden/vgg.py`): logits, gradients, running statistics.

use residuum::device::DeviceKind;
use residuum::exec::Session;
use residuum::models::Vgg11Bn;
use residuum::plan::plan;
use residuum::step::{StepConfig, evaluation_graph, training_graph, values};

use crate::{
    CLASSES, assert_logits, errors, feed, golden_json, golden_tensors, gradients, keep_gradients, median,
    running_statistics, write_formula,
};

/// Batch and size of images: the pooling to 7x7 makes more pixels of the one, and leaves the other as it is.
const BATCHES: [(usize, usize); 2] = [(4, 96), (1, 224)];

#[test]
fn logits_and_a_training_step_of_vgg_match_pytorch() {
    let network = Vgg11Bn { dropout: 0.0, ..Vgg11Bn::new(CLASSES) };
    let [small, large] = BATCHES.map(|(batch, size)| StepConfig::new(network, batch, size));
    let mut training = training_graph(&small).unwrap();
    keep_gradients(&mut training);
    let graphs = [training, evaluation_graph(&small, "").unwrap(), evaluation_graph(&large, "").unwrap()];
    let mut session = Session::new(plan(&graphs.each_ref(), DeviceKind::Cpu).unwrap()).unwrap();
    write_formula("vgg11_bn", &mut session);
    let file = golden_tensors("vgg.safetensors");
    for (index, (_, size)) in (1..).zip(BATCHES) {
        assert_logits(&mut session, index, file.get(&format!("eval/{size}/logits")).unwrap());
    }

    feed(&mut session, 0, "step0");
    session.run_micro_batch(0).unwrap();
    let slot = session.plan(0).slot(values::LOSS).unwrap();
    let loss = f64::from(session.read::<f32>(&slot).unwrap()[0]);
    let expected = golden_json("vgg.json")["loss"].as_f64().unwrap();
    assert!((loss - expected).abs() <= 5e-6, "loss {loss}, PyTorch's {expected}");

    let persistent = session.program().persistent.clone();
    let buffers = errors(&running_statistics(&session, &persistent), "train/buffers", &file);
    let worst_buffer = buffers.iter().copied().fold(0.0, f64::max);
    // Batch norm takes the biases of convolutions away: their gradients are zero but for rounding.
    let recorded = |name: &str| file.get(&format!("train/grads/{name}")).is_some();
    let (gradients, zeros): (Vec<_>, Vec<_>) =
        gradients(&session, &persistent).into_iter().partition(|(name, _)| recorded(name));
    assert_eq!((gradients.len(), zeros.len()), (30, 8));
    let gradient_errors = errors(&gradients, "train/grads", &file);
    println!("worst buffer {worst_buffer:.1e}, gradients {gradient_errors:?}");
    assert!(worst_buffer <= 5e-6, "running statistics off by {worst_buffer}");
    // Five times what PyTorch in f32 is off by.
    assert!(median(gradient_errors) <= 1e-5);
    for (name, values) in zeros {
        assert!(values.iter().all(|value| value.abs() <= 1e-5), "{name}: {values:?}");
    }
}
