//! What a weight file says of itself.

use serde::{Deserialize, Serialize};

use crate::transform::Normalization;

/// What a weight file says of itself, in its metadata: enough to predict with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Name for `--model`.
    pub model: String,
    /// Variant for `--form`.
    pub form: String,
    /// Height and width of the images it was trained on.
    pub img_size: usize,
    /// How it takes objects in, for `--objects`; absent in files of networks that do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<ObjectsCard>,
    /// Category names by label.
    pub categories: Vec<String>,
    /// Mean of each channel that was subtracted, for pixels in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel that was divided by.
    pub std: [f32; 3],
}

impl ModelCard {
    /// What pixel values become before the model sees them.
    pub fn normalization(&self) -> Normalization {
        Normalization { mean: self.mean, std: self.std }
    }
}

/// How a network takes objects in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectsCard {
    /// Name for `--objects`.
    pub kind: String,
    /// Number of classes of objects.
    pub num_classes: usize,
}
