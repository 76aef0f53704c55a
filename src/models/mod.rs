//! The networks: ordinary Rust that records a graph, and the table of those that have a name.
//!
//! [`Network`] is anything that records a forward pass. [`MODELS`] lists the networks of the program: [`resnet`] holds the
//! residual ones and [`objects`] the ways in which they take in where objects are.

mod network;
pub mod objects;
pub mod resnet;
mod resnet9;
mod vgg;

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result, nearest};
use crate::graph::{Graph, ValueId};
use crate::ops::Mode;

pub(crate) use network::is_of_layer;
pub use network::{Inputs, Network};
pub use objects::{Objects, ObjectsKind};
pub use resnet::{ResNet, Variant};
pub use vgg::Vgg11Bn;

/// A row of the table of models.
#[derive(Clone, Copy)]
pub struct Row {
    /// Name for `--model`.
    pub name: &'static str,
    /// Whether the model exists in several forms and takes objects in.
    pub has_variants: bool,
    build: fn(&Options) -> Arc<dyn Network>,
}

/// Every model that has a name.
pub const MODELS: [Row; 7] = [
    Row { name: "resnet18", has_variants: true, build: |options| objects::build(18, options) },
    Row { name: "resnet34", has_variants: true, build: |options| objects::build(34, options) },
    Row { name: "resnet50", has_variants: true, build: |options| objects::build(50, options) },
    Row { name: "resnet101", has_variants: true, build: |options| objects::build(101, options) },
    Row { name: "resnet152", has_variants: true, build: |options| objects::build(152, options) },
    Row { name: "resnet9", has_variants: false, build: resnet9::build },
    Row { name: "vgg11_bn", has_variants: false, build: vgg::build },
];

/// The names of [`MODELS`].
pub fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|row| row.name)
}

/// What a model is built from, besides its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Number of categories.
    pub num_classes: usize,
    /// Variant of a residual network; models without variants have [`Variant::V1_5`].
    pub form: Variant,
    /// How the model takes objects in, if it does.
    pub objects: Option<Objects>,
    /// Whether the last gamma of every residual branch starts at zero (Goyal et al., "Accurate, large minibatch SGD",
    /// 2017).
    pub zero_init_last: bool,
}

impl Options {
    /// Images alone, in form v1.5.
    pub fn new(num_classes: usize) -> Options {
        Options { num_classes, form: Variant::V1_5, objects: None, zero_init_last: false }
    }
}

/// A model of the table, built.
#[derive(Clone)]
pub struct Model {
    row: Row,
    options: Options,
    network: Arc<dyn Network>,
}

impl Model {
    /// The model called `name`.
    ///
    /// # Errors
    /// [`Error::Setting`] with the nearest name if there is none, and if `options` ask for a variant that it does not have.
    pub fn new(name: &str, options: Options) -> Result<Model> {
        let Some(row) = MODELS.iter().find(|row| row.name == name) else {
            let all: Vec<&str> = names().collect();
            let hint = match nearest(name, &all) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("take one of {}", all.join(", ")),
            };
            return Err(Error::setting("model", name, format!("unknown; {hint}")));
        };
        if !row.has_variants && options.form != Variant::V1_5 {
            return Err(Error::setting(
                "form",
                options.form,
                format!("{name} has one form, {}", Variant::V1_5),
            ));
        }
        if let Some(objects) = options.objects.filter(|_| !row.has_variants) {
            let message = format!("{name} takes images alone; take a ResNet");
            return Err(Error::setting("objects", objects.kind, message));
        }
        if options.zero_init_last && (!row.has_variants || options.form == Variant::V2) {
            let message =
                "no residual branch of this model ends in a batch norm; take a ResNet of form v1 or v1.5";
            return Err(Error::setting("zero_init_last", options.zero_init_last, message));
        }
        Ok(Model { row: *row, options, network: (row.build)(&options) })
    }

    /// `resnet18`; other forms than v1.5 append theirs, as in `resnet50-v2`, and so does what takes objects in, as in
    /// `resnet50-masks`.
    pub fn title(&self) -> String {
        let mut title = self.row.name.to_string();
        if self.options.form != Variant::V1_5 {
            title += &format!("-{}", self.options.form);
        }
        if let Some(objects) = self.options.objects {
            title += &format!("-{}", objects.kind);
        }
        title
    }

    /// What the model was built from.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The same model with other options.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn with(&self, options: Options) -> Result<Model> {
        Model::new(self.row.name, options)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("name", &self.row.name).field("options", &self.options).finish()
    }
}

impl Network for Model {
    fn forward(&self, graph: &mut Graph, inputs: Inputs, mode: Mode) -> Result<ValueId> {
        self.network.forward(graph, inputs, mode)
    }

    fn last_layer(&self) -> &str {
        self.network.last_layer()
    }

    fn objects(&self) -> Option<Objects> {
        self.options.objects
    }

    fn backbone(&self) -> Option<Arc<dyn Network>> {
        self.network.backbone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_and_variants_that_a_model_lacks_are_refused() {
        let message = |name: &str, options| Model::new(name, options).unwrap_err().to_string();
        assert!(message("resnet19", Options::new(3)).contains("did you mean `resnet"));
        let v2 = Options { form: Variant::V2, ..Options::new(3) };
        assert!(message("vgg11_bn", v2).contains("form v2"));
        let objects = Some(Objects { kind: ObjectsKind::Codes, num_classes: 4 });
        assert!(message("resnet9", Options { objects, ..Options::new(3) }).contains("objects codes"));
        let zero = Options { zero_init_last: true, ..Options::new(3) };
        assert!(message("resnet9", zero).contains("zero_init_last"));
        assert!(message("resnet50", Options { form: Variant::V2, ..zero }).contains("form v1 or v1.5"));
        assert!(message("transformer", Options::new(3)).contains("resnet18, resnet34"));
    }

    #[test]
    fn every_model_of_the_table_is_found_by_its_name() {
        for name in names() {
            assert_eq!(Model::new(name, Options::new(3)).unwrap().title(), name);
        }
    }
}
