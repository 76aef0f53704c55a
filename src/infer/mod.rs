//! A trained model in use: weights with what they are for, predictions, explanations, exports.

pub mod export;
pub mod grad_cam;
pub mod model_file;
pub mod onnx;
pub mod predictor;
pub mod submission;
