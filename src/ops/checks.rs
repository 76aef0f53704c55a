//! What an operation gives to be checked by: cases, whose gradients are held to finite differences, and random trials,
//! which hold its kernels to its CPU code. The `check` module runs them.

use crate::error::Result;
use crate::graph::{Graph, Init, ValueId};
use crate::rng::{Stream, Use};
use crate::tensor::{DType, Layout, Shape};

/// Multiply-adds of a convolution or a linear layer that is still checked in a moment on the emulator.
pub(crate) const MOST_MACS: usize = 1_000_000;

/// All that the operations of one file are checked by.
pub struct Checks {
    /// Differentiable uses on small dimensions.
    pub cases: Vec<Case>,
    /// Each draws a use on random dimensions. Where an operation chooses among kernels by the dimensions, each of them
    /// has a trial of its own, or no small use would reach those for large ones.
    pub trials: Vec<DrawTrial>,
}

/// Draws a use of an operation.
pub type DrawTrial = Box<dyn Fn(&mut Draw) -> Trial>;

/// A differentiable use of an operation on small, odd, unequal dimensions; every case is checked by finite differences
/// in f64, and in f32 against f64.
pub struct Case {
    /// What the case is about.
    pub name: &'static str,
    /// Shapes of the differentiable operands, filled with random numbers.
    pub inputs: &'static [&'static [usize]],
    /// Records the operation on those operands and returns the result to differentiate.
    pub build: fn(&mut Graph, &[ValueId]) -> Result<ValueId>,
    /// Contents of the i32 input called `labels`, which `build` records where there are any; one called `partners` gets
    /// them in reverse.
    pub labels: &'static [i32],
    /// Operands that stay f32 in a graph of bf16: scales and shifts, scores, the last layer.
    pub in_f32: &'static [usize],
}

impl Case {
    /// A case called `name` over operands of these shapes.
    pub fn new(
        name: &'static str,
        inputs: &'static [&'static [usize]],
        build: fn(&mut Graph, &[ValueId]) -> Result<ValueId>,
    ) -> Case {
        Case { name, inputs, build, labels: &[], in_f32: &[] }
    }

    /// This case with contents for its input called `labels`.
    pub fn with_labels(self, labels: &'static [i32]) -> Case {
        Case { labels, ..self }
    }

    /// This case with operands that stay f32 in a graph of bf16.
    pub fn with_f32(self, in_f32: &'static [usize]) -> Case {
        Case { in_f32, ..self }
    }
}

/// Records operations on inputs and states of a graph of some float type.
pub type Record = Box<dyn Fn(&mut Graph) -> Result<()>>;

/// What an error is measured by, apart from the rounding of a result to bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// The largest element of the tensor. That of one changed in place is the larger of before and after, as its new value
    /// may be a small difference of the old one and another.
    Largest,
    /// Of each sum of products, the norm of its terms.
    Terms,
}

/// Operations to hold to the CPU; every value that their nodes make or change is compared.
///
/// Operands are filled from their names and the seed, unless contents are given. Floating-point ones get normal numbers,
/// rounded where a graph of bf16 takes them in bf16; those called after a variance, a deviation, a probability or
/// hyper-parameters get magnitudes. i32 ones get labels, some of which are padding (-1).
pub struct Trial {
    /// What is computed, with shapes.
    pub name: String,
    pub(crate) record: Record,
    pub(crate) scale: Scale,
    pub(crate) of_units: bool,
    pub(crate) in_tf32: bool,
    pub(crate) classes: u32,
    pub(crate) seed: u64,
    pub(crate) only_in: Option<DType>,
    pub(crate) given: Vec<(&'static str, Contents)>,
}

/// Elements of an operand that cannot be any numbers, such as indices into another.
#[derive(Debug, Clone, PartialEq)]
pub enum Contents {
    /// Of an f32 operand.
    F32(Vec<f32>),
    /// Of an i32 operand.
    I32(Vec<i32>),
    /// Of a u8 operand.
    U8(Vec<u8>),
}

impl Trial {
    /// Operations that `record` records.
    pub fn new(name: impl Into<String>, record: impl Fn(&mut Graph) -> Result<()> + 'static) -> Trial {
        let (name, record) = (name.into(), Box::new(record));
        Trial {
            name,
            record,
            scale: Scale::Largest,
            of_units: false,
            in_tf32: false,
            classes: 4,
            seed: 5,
            only_in: None,
            given: Vec::new(),
        }
    }

    /// Says that every result is a sum of products of operands, and is to be measured by the norm of its terms: the root
    /// of what the same operations make of the squares of the operands.
    pub fn of_products(self) -> Trial {
        Trial { scale: Scale::Terms, ..self }
    }

    /// This trial with -1, 0 and 1 in the operands that a graph of bf16 takes in bf16: sums of a few hundred products are the same
    /// in bf16 and f32 then, and so what is computed of them in f32 is not off by their rounding.
    pub fn of_units(self) -> Trial {
        Trial { of_units: true, ..self }
    }

    /// This trial with the tolerance of sums that tensor cores may take in TF32.
    pub fn in_tf32(self, allows: bool) -> Trial {
        Trial { in_tf32: allows, ..self }
    }

    /// This trial with labels below `classes`.
    pub fn with_classes(self, classes: u32) -> Trial {
        Trial { classes, ..self }
    }

    /// This trial for graphs of `float` alone.
    pub fn only_in(self, float: DType) -> Trial {
        Trial { only_in: Some(float), ..self }
    }

    /// Whether a device can be asked for it in a graph of `float`.
    pub fn is_for(&self, float: DType) -> bool {
        self.only_in.is_none_or(|only| only == float)
    }

    /// This trial with these contents of the operand called `name`.
    pub fn with_operand(mut self, name: &'static str, contents: Contents) -> Trial {
        self.given.push((name, contents));
        self
    }

    /// This trial with other contents of the operands that are not given.
    pub fn with_seed(self, seed: u64) -> Trial {
        Trial { seed, ..self }
    }

    /// The graph in which activations are of type `float`; everything made in it is kept.
    ///
    /// # Errors
    /// What recording the operations returns.
    pub fn graph(&self, float: DType) -> Result<Graph> {
        let mut graph = Graph::new(float);
        (self.record)(&mut graph)?;
        let made: Vec<_> = graph.nodes().iter().flat_map(|node| node.outputs.clone()).collect();
        made.into_iter().for_each(|id| graph.keep(id));
        Ok(graph)
    }
}

/// Draws the extents and attributes of a trial.
pub struct Draw(Stream);

impl Draw {
    /// The draws of trial `number` from `seed`.
    pub(crate) fn new(seed: u64, number: u32) -> Draw {
        Draw(Stream::new(seed, 3, number, Use::Init))
    }

    /// From `least` to `most`, both included.
    pub fn within(&mut self, least: usize, most: usize) -> usize {
        least + self.0.below((most - least + 1) as u32) as usize
    }

    /// True half of the time.
    pub fn coin(&mut self) -> bool {
        self.0.below(2) == 1
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        self.0.uniform()
    }

    /// One of `from`.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.0.below(from.len() as u32) as usize]
    }

    /// A number of elements around those of a vector, a block and a grid's turn.
    pub fn num_elems(&mut self) -> usize {
        match self.within(0, 2) {
            0 => self.within(1, 40),
            1 => 2048 - 4 + self.within(0, 8),
            _ => self.within(1, 6000),
        }
    }

    /// Channels: few, those of the object masks' nets, multiples of a vector of either type, whole tiles.
    pub fn channels(&mut self) -> usize {
        match self.within(0, 4) {
            0 => self.within(1, 20),
            1 => self.pick(&[3, 50, 175]),
            2 => 4 * self.within(1, 20),
            3 => 8 * self.within(1, 17),
            _ => self.pick(&[32, 64, 128]),
        }
    }

    /// An NHWC image of at least `least_rows` pixels.
    pub fn image(&mut self, least_rows: usize) -> [usize; 4] {
        loop {
            let shape = [self.within(1, 3), self.within(1, 13), self.within(1, 13), self.channels()];
            if shape[..3].iter().product::<usize>() >= least_rows {
                return shape;
            }
        }
    }

    /// [`Draw::image`], or an image of so many rows that blocks of 32 leave more than 64 sums of each channel.
    pub fn image_to_sum(&mut self, least_rows: usize) -> [usize; 4] {
        match self.within(0, 3) {
            0 => [1, self.within(50, 70), self.within(50, 70), self.pick(&[1, 3, 5])],
            _ => self.image(least_rows),
        }
    }

    /// Sizes of the tensors of an update: a few or more than a launch takes, most of them tiny, some around a chunk and
    /// some that end anywhere in one.
    pub fn tensor_sizes(&mut self) -> Vec<usize> {
        let count = if self.coin() { self.within(1, 6) } else { self.within(160, 170) };
        (0..count)
            .map(|i| match i {
                0..2 => self.pick(&[1, 3, 64, 4095, 4096, 4097, 9001]),
                2..8 => self.within(1, 9001),
                _ => self.within(1, 70),
            })
            .collect()
    }
}

/// Records an input of the graph's float type.
pub(crate) fn input(graph: &mut Graph, name: &str, shape: impl Into<Shape>) -> ValueId {
    let float = graph.float();
    graph.input(name, shape, float)
}

/// Records an input that is f32 in every graph.
pub(crate) fn in_f32(graph: &mut Graph, name: &str, shape: impl Into<Shape>) -> ValueId {
    graph.input(name, shape, DType::F32)
}

/// Records a state.
pub(crate) fn state(graph: &mut Graph, name: &str, shape: impl Into<Shape>) -> ValueId {
    graph.state(name, shape, Layout::Flat, Init::Constant(0.0))
}
