//! The CPU convolution engine: NHWC activations, KRSC filters, any kernel, stride and padding; f32 here, bf16 in `mixed`.
//!
//! fprop and dgrad are one implicit GEMM (`implicit_gemm`), an fprop of few pixels by many filters is one with the factors
//! exchanged (`pixel_panels`), and wgrad is a sum of outer products (`wgrad`); all end in the register tiles of
//! `microkernel`. No pass materialises im2col: filters are packed once per call into the caller's workspace, or few pixels
//! are, and images where they have too few channels. A linear layer is the 1x1 convolution on 1x1 maps. `reference` holds
//! the textbook loops that all of this is tested against.

mod axis;
mod dims;
mod finish;
mod implicit_gemm;
mod microkernel;
pub mod mixed;
mod pack;
mod parallel;
mod pixel_panels;
mod reference;
#[cfg(test)]
mod tests;
mod wgrad;

pub use dims::Conv2dDims;
pub use finish::{Finish, FinishNorm};
pub use implicit_gemm::{
    conv2d_dgrad, conv2d_fprop, dgrad_workspace_elems, fprop_norm_workspace_elems, fprop_workspace_elems,
};
pub use reference::{conv2d_dgrad_reference, conv2d_fprop_reference, conv2d_wgrad_reference};
pub use wgrad::{conv2d_wgrad, wgrad_workspace_elems};
