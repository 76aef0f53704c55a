//! What an operation's CPU code sees of the arena: typed slices, each handed out under a borrow flag.

use std::cell::Cell;

use bytemuck::Pod;

use super::Arena;
use crate::device::Slot;
use crate::tensor::{DType, Shape};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Borrow {
    #[default]
    Free,
    Shared,
    Exclusive,
}

/// One borrow flag per operand, result and workspace; kept by the executor so that a step allocates nothing.
#[derive(Debug, Default)]
pub struct BorrowFlags(Vec<Cell<Borrow>>);

impl BorrowFlags {
    /// Flags for nodes with up to `num_operands` operands and results together.
    pub fn new(num_operands: usize) -> BorrowFlags {
        BorrowFlags(vec![Cell::default(); num_operands + 1])
    }
}

/// The operands, results and scratch memory of one node on the CPU.
///
/// Each operand can be read any number of times or taken once for writing; a second kind of use panics, since it is a
/// bug of the operation. Two different operands never share memory, but for the pairs of
/// [`crate::graph::Op::in_place`], which [`CpuArgs::output_over_input`] serves.
pub struct CpuArgs<'a> {
    arena: &'a Arena,
    inputs: &'a [Slot],
    outputs: &'a [Slot],
    workspace: Slot,
    flags: &'a BorrowFlags,
}

impl<'a> CpuArgs<'a> {
    /// The view of one node.
    ///
    /// # Safety
    /// While the view lives nothing else may touch the arena. Slots that share memory must be an in-place pair of the
    /// operation or the same operand given twice for reading; the planner guarantees it.
    ///
    /// # Panics
    /// If `flags` were made for fewer operands.
    pub unsafe fn new(
        arena: &'a Arena,
        inputs: &'a [Slot],
        outputs: &'a [Slot],
        workspace: Slot,
        flags: &'a BorrowFlags,
    ) -> CpuArgs<'a> {
        assert!(inputs.len() + outputs.len() < flags.0.len(), "borrow flags for too few operands");
        flags.0.iter().for_each(|flag| flag.set(Borrow::Free));
        CpuArgs { arena, inputs, outputs, workspace, flags }
    }

    /// The number of operands.
    pub fn num_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Extents of operand `i`.
    pub fn input_shape(&self, i: usize) -> Shape {
        self.inputs[i].shape
    }

    /// Extents of result `i`.
    pub fn output_shape(&self, i: usize) -> Shape {
        self.outputs[i].shape
    }

    /// Element type of operand `i`.
    pub fn input_dtype(&self, i: usize) -> DType {
        self.inputs[i].dtype
    }

    /// Element type of result `i`.
    pub fn output_dtype(&self, i: usize) -> DType {
        self.outputs[i].dtype
    }

    /// Operand `i` for reading.
    pub fn input<T: Element>(&self, i: usize) -> &'a [T] {
        self.borrow(i, Borrow::Shared);
        // SAFETY: the flag rules out an exclusive slice of this operand, `new`'s contract every other.
        unsafe { self.arena.slice(typed::<T>(&self.inputs[i])) }
    }

    /// Operand `i` for reading and writing: one that the operation declares in [`crate::graph::Op::mutates`].
    pub fn input_mut<T: Element>(&self, i: usize) -> &'a mut [T] {
        self.borrow(i, Borrow::Exclusive);
        // SAFETY: as in `input`, and the exclusive flag is taken at most once.
        unsafe { self.arena.slice_mut(typed::<T>(&self.inputs[i])) }
    }

    /// Result `i` for writing; its contents are unspecified.
    pub fn output<T: Element>(&self, i: usize) -> &'a mut [T] {
        let slot = typed::<T>(&self.outputs[i]);
        self.borrow(self.inputs.len() + i, Borrow::Exclusive);
        assert!(
            self.inputs.iter().all(|input| !input.overlaps(slot)),
            "a result that lies over an operand must be taken by output_over_input"
        );
        // SAFETY: as in `input_mut`, and the assertion rules out in-place pairs.
        unsafe { self.arena.slice_mut(slot) }
    }

    /// Result `output` for writing, holding what operand `input` holds: the same memory where the planner let it,
    /// a copy elsewhere.
    pub fn output_over_input<T: Element>(&self, output: usize, input: usize) -> &'a mut [T] {
        let (from, to) = (typed::<T>(&self.inputs[input]), typed::<T>(&self.outputs[output]));
        if from.offset_bytes == to.offset_bytes {
            self.borrow(input, Borrow::Exclusive);
            self.borrow(self.inputs.len() + output, Borrow::Exclusive);
            // SAFETY: both flags are taken, so this is the only slice of that memory.
            return unsafe { self.arena.slice_mut(to) };
        }
        let source = self.input::<T>(input);
        let result = self.output::<T>(output);
        result.copy_from_slice(source);
        result
    }

    /// The scratch memory, contents unspecified.
    pub fn workspace<T: Element>(&self) -> &'a mut [T] {
        self.borrow(self.inputs.len() + self.outputs.len(), Borrow::Exclusive);
        let bytes = self.workspace.num_bytes();
        let num_elems = bytes / size_of::<T>();
        let slot =
            Slot { offset_bytes: self.workspace.offset_bytes, shape: [num_elems].into(), dtype: T::DTYPE };
        // SAFETY: the planner gives the workspace to this node alone, and the flag is taken at most once.
        unsafe { self.arena.slice_mut(&slot) }
    }

    fn borrow(&self, operand: usize, wanted: Borrow) {
        let flag = &self.flags.0[operand];
        let allowed =
            flag.get() == Borrow::Free || (flag.get() == Borrow::Shared && wanted == Borrow::Shared);
        assert!(allowed, "operand {operand} is taken as {:?} and wanted as {wanted:?}", flag.get());
        flag.set(wanted);
    }
}

/// A Rust type that tensors hold.
pub trait Element: Pod + Send + Sync {
    /// Its name in the graph.
    const DTYPE: DType;
}

macro_rules! element {
    ($($ty:ty => $dtype:ident),*) => {
        $(impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}
element!(f32 => F32, f64 => F64, half::bf16 => Bf16, u8 => U8, i32 => I32);

fn typed<T: Element>(slot: &Slot) -> &Slot {
    assert_eq!(slot.dtype, T::DTYPE, "operand of another element type");
    slot
}
