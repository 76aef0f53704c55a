//! A network of your own on a folder of photos, `train/<category>/*` and `val/<category>/*`, or on MiniPlaces.
//!
//!     cargo run --release --example own_network -- FOLDER

use std::path::Path;
use std::sync::Arc;

use residuum::batch::{Loader, LoaderOptions};
use residuum::data::{self, OpenOptions, Pack, Split, pack};
use residuum::prelude::*;

const SIZE: usize = 32;
const EPOCHS: u32 = 3;

/// Four convolutions that halve height and width, then a linear layer.
struct Halving {
    num_classes: usize,
}

impl Network for Halving {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        let mut x = inputs.images;
        for (layer, channels) in [32, 64, 128, 256].into_iter().enumerate() {
            x = conv2d(graph, &format!("conv{layer}"), x, Conv2dConfig::square(channels, 3, 2))?;
            x = batch_norm(graph, &format!("bn{layer}"), x, BnConfig::new(mode))?;
            x = relu(graph, &format!("relu{layer}"), x)?;
        }
        let x = global_avg_pool(graph, "pool", x)?;
        linear(graph, self.last_layer(), x, self.num_classes)
    }
}

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or_else(|| Error::Usage("name a folder of photos".into()))?;
    let dataset = data::open(Path::new(&folder), &OpenOptions::default())?;
    let open = |split| Pack::open_or_build(&dataset, split, SIZE, &pack::default_cache_dir()?).map(Arc::new);
    let (train, val) = (open(Split::Train)?, open(Split::Val)?);
    let options = LoaderOptions { augment: "flip".parse()?, ..LoaderOptions::new(16) };

    let network = Halving { num_classes: dataset.categories().len() };
    let mut training = Training::new(StepConfig::new(network, options.batch_size, SIZE), Device::Cpu)?;
    let steps = train.len() / options.batch_size;
    for epoch in 0..EPOCHS {
        let mut loader = Loader::train(Arc::clone(&train), &options, epoch, 0)?;
        for _ in 0..steps {
            let batch = loader.next()?.expect("training batches do not end");
            training.step(&batch, 0.02)?;
            loader.recycle(batch);
        }
        let loss = training.loss()?;
        let eval = training.evaluate(&val, &options, || None)?;
        println!(
            "epoch {epoch}: loss {loss:.3}, top-1 error {:.1} % on {} photos",
            eval.top1_error(),
            eval.num_images
        );
    }
    training.save(Path::new("own_network.safetensors"))
}
