//! The training runs behind the paper's tables and figures: a recipe each, and what differs from it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Options;
use crate::error::{Error, Result, nearest};
use crate::models::{ObjectsKind, Variant};
use crate::train::config::TrainConfig;
use crate::train::recipe::Recipe;

/// A table, a figure or a section of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Time of an epoch.
    Table1,
    /// Networks of different depths.
    Table2,
    /// Sizes, and the bound.
    Table3,
    /// The baseline's curves.
    Fig3,
    /// The augmentations.
    Fig4,
    /// Networks that take objects in.
    Section5,
}

impl Part {
    /// Every part by the name that `reproduce` takes, in the order of the page.
    pub const ALL: [(&'static str, Part); 6] = [
        ("table1", Part::Table1),
        ("fig3", Part::Fig3),
        ("fig4", Part::Fig4),
        ("table2", Part::Table2),
        ("table3", Part::Table3),
        ("section5", Part::Section5),
    ];

    /// The parts that `names` name; `all` is every one.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the name that is none, and the nearest.
    pub fn parse_list(names: &[String]) -> Result<Vec<Part>> {
        if names.iter().any(|name| name == "all") {
            return Ok(Part::ALL.map(|(_, part)| part).to_vec());
        }
        let mut parts: Vec<Part> = names.iter().map(|name| name.parse()).collect::<Result<_>>()?;
        parts.sort_unstable();
        parts.dedup();
        Ok(parts)
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Part> {
        Part::ALL.iter().find(|(name, _)| *name == text).map(|(_, part)| *part).ok_or_else(|| {
            let names = Part::ALL.map(|(name, _)| name);
            let hint =
                nearest(text, &names).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
            Error::Usage(format!(
                "`{text}` is not a part of the paper; take {} or all{hint}",
                names.join(", ")
            ))
        })
    }
}

/// One training run.
#[derive(Debug)]
pub struct Experiment {
    /// Names its run folder.
    pub key: &'static str,
    /// What it is, in words.
    pub title: &'static str,
    /// The parts that need it.
    pub parts: &'static [Part],
    recipe: (&'static str, &'static str),
    form: Option<Variant>,
    img_size: Option<usize>,
    objects: Option<ObjectsKind>,
}

/// A recipe of this program by its path below `recipes/`.
macro_rules! recipe {
    ($path:literal) => {
        (concat!("recipes/", $path), include_str!(concat!("../../recipes/", $path)))
    };
}

const PLAIN: Experiment = Experiment {
    key: "",
    title: "",
    parts: &[],
    recipe: ("", ""),
    form: None,
    img_size: None,
    objects: None,
};
const RESNET50: (&str, &str) = recipe!("paper/resnet50.toml");
const RESNET50_224: (&str, &str) = recipe!("paper/resnet50-224.toml");
const MASKS: (&str, &str) = recipe!("paper/masks.toml");
const PRETRAINING: &str = "pretraining";

/// Every run, in the order in which they are done.
pub static EXPERIMENTS: [Experiment; 15] = [
    Experiment {
        key: "resnet18",
        title: "ResNet-18 at 128 pixels",
        parts: &[Part::Table1, Part::Table2],
        recipe: recipe!("paper/resnet18.toml"),
        ..PLAIN
    },
    Experiment {
        key: "resnet34",
        title: "ResNet-34 at 128 pixels",
        parts: &[Part::Table1, Part::Table2],
        recipe: recipe!("paper/resnet34.toml"),
        ..PLAIN
    },
    Experiment {
        key: "resnet50",
        title: "ResNet-50 at 128 pixels",
        parts: &[Part::Table1, Part::Table2, Part::Table3, Part::Section5],
        recipe: RESNET50,
        ..PLAIN
    },
    Experiment {
        key: "baseline",
        title: "Keras' ResNet-50 without augmentation",
        parts: &[Part::Fig3],
        recipe: recipe!("paper/baseline.toml"),
        ..PLAIN
    },
    Experiment {
        key: "keras-224",
        title: "Keras' ResNet-50 at 224 pixels, the final network",
        parts: &[Part::Table3],
        recipe: RESNET50_224,
        ..PLAIN
    },
    Experiment {
        key: "v1-128",
        title: "ResNet-50 v1 at 128 pixels",
        parts: &[Part::Table3],
        recipe: RESNET50,
        form: Some(Variant::V1),
        ..PLAIN
    },
    Experiment {
        key: "v1.5-128",
        title: "ResNet-50 v1.5 at 128 pixels",
        parts: &[Part::Table3],
        recipe: RESNET50,
        form: Some(Variant::V1_5),
        ..PLAIN
    },
    Experiment {
        key: "v1.5-224",
        title: "ResNet-50 v1.5 at 224 pixels",
        parts: &[Part::Table3],
        recipe: RESNET50_224,
        form: Some(Variant::V1_5),
        ..PLAIN
    },
    Experiment {
        key: "v2-224",
        title: "ResNet-50 v2 at 224 pixels",
        parts: &[Part::Table3],
        recipe: RESNET50_224,
        form: Some(Variant::V2),
        ..PLAIN
    },
    Experiment {
        key: PRETRAINING,
        title: "a stand-in for ImageNet's weights: ResNet-50 on generated scenes",
        parts: &[Part::Table3],
        recipe: recipe!("paper/pretrained.toml"),
        ..PLAIN
    },
    Experiment {
        key: "pretrained",
        title: "ResNet-50 fine-tuned",
        parts: &[Part::Table3],
        recipe: recipe!("paper/pretrained.toml"),
        ..PLAIN
    },
    Experiment {
        key: "modern",
        title: "ResNet-50 at 128 pixels by the modern recipe",
        parts: &[Part::Table3],
        recipe: recipe!("modern.toml"),
        ..PLAIN
    },
    Experiment {
        key: "masks",
        title: "ResNet-50 with a head for masks",
        parts: &[Part::Section5],
        recipe: MASKS,
        ..PLAIN
    },
    Experiment {
        key: "vector",
        title: "ResNet-50 with a presence vector",
        parts: &[Part::Section5],
        recipe: MASKS,
        objects: Some(ObjectsKind::Vector),
        ..PLAIN
    },
    Experiment {
        key: "codes",
        title: "ResNet-50 with codes next to the image",
        parts: &[Part::Section5],
        recipe: MASKS,
        objects: Some(ObjectsKind::Codes),
        ..PLAIN
    },
];

/// The runs that the parts need, without those that cannot be done.
pub(super) fn needed(options: &Options) -> Vec<&'static Experiment> {
    let is_wanted =
        |experiment: &&Experiment| experiment.parts.iter().any(|part| options.parts.contains(part));
    let is_possible = |experiment: &&Experiment| match experiment.key {
        PRETRAINING => options.quick && options.pretrained.is_none(),
        "pretrained" => options.quick || options.pretrained.is_some(),
        _ => true,
    };
    EXPERIMENTS.iter().filter(is_wanted).filter(is_possible).collect()
}

impl Experiment {
    /// Whether this is the run whose weights stand in for ImageNet's.
    pub(super) fn is_pretraining(&self) -> bool {
        self.key == PRETRAINING
    }

    /// Its settings: the recipe, what differs from it, what all runs share, and, for a quick one, less of everything.
    pub(super) fn config(
        &self,
        options: &Options,
        seed: u64,
        pretrained: Option<PathBuf>,
    ) -> Result<TrainConfig> {
        let data_dir = (!self.is_pretraining()).then(|| options.data_dir.clone());
        let (path, text) = self.recipe;
        let mut config =
            Recipe::parse(Path::new(path), text)?.apply(&TrainConfig::defaults(data_dir.clone()))?;
        config.data_dir = data_dir;
        config.form = self.form.unwrap_or(config.form);
        config.img_size = self.img_size.unwrap_or(config.img_size);
        config.objects = self.objects.or(config.objects);
        config.pretrained = pretrained.filter(|_| self.key == "pretrained");
        if self.is_pretraining() {
            config.backbone_lr_scale = 1.0;
        }
        let common = options.common.clone();
        config = TrainConfig {
            cache_dir: common.cache_dir,
            workers: common.workers,
            seed,
            device: common.device,
            precision: common.precision,
            output: options.output.join("runs"),
            experiment: Some(self.key.to_string()),
            ..config
        };
        Ok(if options.quick { quick(config) } else { config })
    }
}

/// The same run in seconds: a tenth of the categories, small images, few steps. It shows that the chain works, and no
/// number of it means more.
fn quick(config: TrainConfig) -> TrainConfig {
    TrainConfig {
        categories: Some(10),
        limit_train: Some(160),
        limit_val: Some(60),
        img_size: if config.img_size > 128 { 56 } else { 32 },
        batch_size: 16,
        warmup_epochs: None,
        steps_per_epoch: Some(5),
        epochs: 3,
        ..config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceKind;
    use crate::step::Trained;
    use crate::train::config::OptimiserKind;

    fn options(quick: bool, pretrained: Option<&str>) -> Options {
        Options {
            parts: Part::parse_list(&["all".into()]).unwrap(),
            data_dir: "data".into(),
            quick,
            num_seeds: 1,
            output: "out".into(),
            pretrained: pretrained.map(Into::into),
            common: TrainConfig { seed: 7, ..TrainConfig::defaults(None) },
        }
    }

    fn config(key: &str, options: &Options) -> TrainConfig {
        let experiment = EXPERIMENTS.iter().find(|experiment| experiment.key == key).unwrap();
        experiment.config(options, options.common.seed, options.pretrained.clone()).unwrap()
    }

    #[test]
    fn every_run_has_settings_that_can_be_used() {
        for quick in [false, true] {
            let options = options(quick, Some("weights.safetensors"));
            for experiment in needed(&options) {
                let config = experiment.config(&options, 7, options.pretrained.clone()).unwrap();
                config.validate().unwrap_or_else(|error| panic!("{}: {error}", experiment.key));
                let (steps_per_epoch, total) = config.steps(480).unwrap();
                config.schedule(config.lr_for(480), steps_per_epoch, total).unwrap();
                assert_eq!((config.seed, config.experiment.as_deref()), (7, Some(experiment.key)));
                assert_eq!(config.data_dir.as_deref(), Some(Path::new("data")));
            }
        }
    }

    #[test]
    fn runs_have_the_authors_settings() {
        let options = options(false, Some("weights.safetensors"));
        for (key, batch_size, epochs, img_size, form) in [
            ("resnet18", 64, 100, 128, Variant::V2),
            ("resnet34", 64, 100, 128, Variant::V2),
            ("resnet50", 32, 100, 128, Variant::V2),
            ("baseline", 32, 100, 224, Variant::V1),
            ("keras-224", 32, 120, 224, Variant::V1),
            ("v1.5-224", 32, 120, 224, Variant::V1_5),
            ("v1-128", 32, 100, 128, Variant::V1),
        ] {
            let config = config(key, &options);
            assert_eq!(
                (config.batch_size, config.epochs, config.img_size),
                (batch_size, epochs, img_size),
                "{key}"
            );
            assert_eq!((config.form, config.opt), (form, OptimiserKind::Adam), "{key}");
            assert_eq!((config.steps_per_epoch, config.weight_decay), (Some(2000), 2e-4), "{key}");
            assert_eq!(config.augment.to_string(), if key == "baseline" { "none" } else { "paper" }, "{key}");
        }
        let tuned = config("pretrained", &options).step_config(100, DeviceKind::Cpu).unwrap();
        assert_eq!(tuned.trained, Trained::TwoRates { backbone_lr_scale: 0.1 });
        let objects = ["masks", "vector", "codes"].map(|key| config(key, &options).objects);
        assert_eq!(objects, [ObjectsKind::Masks, ObjectsKind::Vector, ObjectsKind::Codes].map(Some));
    }

    #[test]
    fn keys_are_unique_and_every_part_but_the_pictures_has_runs() {
        let keys: std::collections::BTreeSet<&str> =
            EXPERIMENTS.iter().map(|experiment| experiment.key).collect();
        assert_eq!(keys.len(), EXPERIMENTS.len());
        for (name, part) in Part::ALL {
            let runs = EXPERIMENTS.iter().filter(|experiment| experiment.parts.contains(&part)).count();
            assert_eq!(runs == 0, part == Part::Fig4, "{name}");
        }
    }

    #[test]
    fn the_bound_needs_weights_or_a_stand_in() {
        let keys =
            |options: &Options| needed(options).iter().map(|experiment| experiment.key).collect::<Vec<_>>();
        let whole = keys(&options(false, None));
        assert!(!whole.contains(&"pretrained") && !whole.contains(&PRETRAINING));
        assert!(keys(&options(false, Some("w"))).contains(&"pretrained"));
        let quick = keys(&options(true, None));
        let place = |key| quick.iter().position(|found| *found == key).unwrap();
        assert!(place(PRETRAINING) < place("pretrained"));
        assert!(!keys(&options(true, Some("w"))).contains(&PRETRAINING));
    }

    #[test]
    fn parts_are_read_and_misspelt_ones_named() {
        let parse =
            |names: &[&str]| Part::parse_list(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        assert_eq!(parse(&["table2", "table1", "table2"]).unwrap(), [Part::Table1, Part::Table2]);
        assert_eq!(parse(&["fig3", "all"]).unwrap().len(), 6);
        let message = parse(&["tabel1"]).unwrap_err().to_string();
        assert!(message.contains("did you mean `table1`?") && message.contains("section5"), "{message}");
    }
}
