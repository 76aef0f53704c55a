//! A trained model in use: what is in a photo, and where the model sees it.
//!
//!     cargo run --release --example use_a_model -- RUN PHOTO

use std::path::Path;

use residuum::data::{Crop, decode_image};
use residuum::device::Device;
use residuum::infer::grad_cam::Explainer;
use residuum::infer::model_file::{CardOverrides, ModelFile};
use residuum::infer::predictor::{Predictor, Prepare};
use residuum::run::run_dir::RunDir;
use residuum::step::evaluate::Views;
use residuum::step::scores;
use residuum::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [run, photo] = arguments.as_slice() else {
        return Err(Error::Usage("name a run folder and a photo".into()));
    };
    let model = ModelFile::of_run(&RunDir::open(Path::new(run))?, &CardOverrides::default())?;
    let pixels = decode_image(Path::new(photo), model.card.img_size)?;

    let whole = Crop::whole(model.card.img_size);
    let mut predictor = Predictor::new(&model, &[whole], Views::Mirrored, 1, Device::Cpu)?;
    let scores = predictor.scores(&[vec![pixels.clone()]])?;
    for (category, probability) in scores::top(&scores[0], 3) {
        println!("{:5.1} %  {}", 100.0 * probability, model.card.categories[category]);
    }

    let mut explainer = Explainer::new(&model, Device::Cpu)?;
    let explanation = explainer.explain(&Prepare::new(&model).to_image(&pixels), None)?;
    println!("where it sees {}:", model.card.categories[explanation.category]);
    for row in explanation.heat().chunks(explanation.extents[1]) {
        let shades: String = row.iter().map(|heat| [' ', '.', '+', '#'][(3.99 * heat) as usize]).collect();
        println!("  |{shades}|");
    }
    Ok(())
}
