//! A small convolutional network learns to tell bright images from dark ones.
use residuum::prelude::*;

struct Small;

impl Network for Small {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        let x = conv2d(graph, "conv", inputs.images, Conv2dConfig::square(8, 3, 1))?;
        let x = batch_norm(graph, "bn", x, BnConfig::new(mode))?;
        let x = relu(graph, "relu", x)?;
        let x = global_avg_pool(graph, "pool", x)?;
        linear(graph, "fc", x, 2)
    }
}

fn main() -> Result<()> {
    let images = (0..16 * 8 * 8 * 3).map(|i| if i / (8 * 8 * 3) % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let batch = Batch::new(images, (0..16).map(|image| image % 2).collect());
    let mut training = Training::new(StepConfig::new(Small, 16, 8), Device::Cpu)?;
    for step in 1..=20 {
        training.step(&batch, 0.1)?;
        println!("step {step}: loss {:.4}", training.loss()?);
    }
    Ok(())
}
