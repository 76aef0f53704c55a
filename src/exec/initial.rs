//! The initial values of a session.

use half::bf16;
use rayon::prelude::*;

use super::Session;
use crate::error::Result;
use crate::graph::{Init, Role};
use crate::plan::Persistent;
use crate::rng::{Stream, Use};
use crate::tensor::DType;

impl Session {
    /// Writes the initial value of every parameter and state: a pure function of `seed` and the value's name. Copies
    /// start as what they copy.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device refuses the copy.
    pub fn initialise(&mut self, seed: u64) -> Result<()> {
        let is_model = |p: &&Persistent| p.value.role != Role::Data;
        let values: Vec<Persistent> = self.program.persistent.iter().filter(is_model).cloned().collect();
        let contents: Vec<Vec<f32>> = values.par_iter().map(|p| initial_values(p, seed)).collect();
        for (p, contents) in values.iter().zip(contents) {
            match p.slot.dtype {
                DType::F64 => {
                    self.write(&p.slot, &contents.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())?
                }
                DType::Bf16 => {
                    self.write(&p.slot, &contents.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>())?
                }
                _ => self.write(&p.slot, &contents)?,
            }
        }
        self.restart_copies()
    }

    /// Sets every value that starts as a copy of another, such as an average, to what the other holds now.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device refuses the copy.
    pub fn restart_copies(&mut self) -> Result<()> {
        for copy in self.program.persistent.clone() {
            let Some(Init::CopyOf(name)) = &copy.value.init else { continue };
            let source = self.program.persistent(name)?.slot;
            let contents = self.read::<f32>(&source)?.into_owned();
            self.write(&copy.slot, &contents)?;
        }
        Ok(())
    }
}

fn initial_values(persistent: &Persistent, seed: u64) -> Vec<f32> {
    let name = persistent.value.name.as_str();
    let mut stream = Stream::new(seed, 0, crc32c::crc32c(name.as_bytes()), Use::Init);
    let len = persistent.slot.shape.num_elems();
    match persistent.value.init {
        Some(Init::Normal { std }) => (0..len).map(|_| std * stream.normal()).collect(),
        Some(Init::Uniform { bound }) => (0..len).map(|_| bound * (2.0 * stream.uniform() - 1.0)).collect(),
        Some(Init::Constant(value)) => vec![value; len],
        Some(Init::CopyOf(_)) | None => vec![0.0; len],
    }
}
