//! Recipes: TOML files with some of the settings of a run, between the defaults and the flags.
//!
//! A recipe has the keys of `config.toml`, so the configuration of any run is a recipe too. Those of `recipes/` are part
//! of the program; `reproduce` runs them.

use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

use super::config::TrainConfig;
use crate::error::{Error, Result, nearest};

/// Some settings, and where they stand.
#[derive(Debug, Clone)]
pub struct Recipe {
    path: PathBuf,
    text: String,
    settings: Table,
}

impl Recipe {
    /// Reads the recipe at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Usage`] with the line if it is no TOML or has a key that is no
    /// setting.
    pub fn read(path: &Path) -> Result<Recipe> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        Recipe::parse(path, text)
    }

    /// The recipe `text`, which messages call `path`.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn parse(path: &Path, text: impl Into<String>) -> Result<Recipe> {
        let text = text.into();
        let settings: Table =
            toml::from_str(&text).map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
        let recipe = Recipe { path: path.to_path_buf(), text, settings };
        let known = TrainConfig::NAMES;
        match recipe.settings.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(recipe),
            Some(key) => {
                let hint = match nearest(key, known) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => "the settings are those of a run's config.toml".into(),
                };
                Err(recipe.error(key, &format!("`{key}` is not a setting; {hint}")))
            }
        }
    }

    /// `base` with the settings of the recipe.
    ///
    /// # Errors
    /// [`Error::Usage`] with the line of a setting that has the wrong type.
    pub fn apply(&self, base: &TrainConfig) -> Result<TrainConfig> {
        let gives = |key| self.settings.contains_key(key);
        let mut applied = base.clone();
        if gives("grad_accum_steps") && !gives("micro_batches") {
            // As for a flag: so many of each rank, whatever they came to before.
            applied.micro_batches = None;
        }
        let mut config = Table::try_from(&applied).expect("a configuration is a table that TOML can express");
        // One by one, so that an error is about the setting that was added last.
        for (key, value) in &self.settings {
            let replaced = config.insert(key.clone(), value.clone());
            applied = config.clone().try_into().map_err(|error: toml::de::Error| {
                let was = replaced.map(|value| format!(", as in {value}")).unwrap_or_default();
                self.error(key, &format!("`{key}`: {}{was}", error.message()))
            })?;
        }
        Ok(applied)
    }

    fn error(&self, key: &str, message: &str) -> Error {
        let is_key = |line: &str| line.split('=').next().is_some_and(|before| before.trim() == key);
        let line = self.text.lines().position(is_key).map(|index| format!("line {}: ", index + 1));
        Error::Usage(format!("{}: {}{message}", self.path.display(), line.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Recipe> {
        Recipe::parse(Path::new("recipe.toml"), text)
    }

    fn message(result: Result<impl Sized>) -> String {
        result.err().expect("an error").to_string()
    }

    #[test]
    fn settings_replace_those_below_and_leave_the_others() {
        let base = TrainConfig::defaults(None);
        let recipe = parse(
            "# fast\nepochs = 3\nlr = 1\nsteps_per_epoch = 7\nmean = [0.5, 0.5, 0.5]\nsched = \"step\"",
        );
        let config = recipe.unwrap().apply(&base).unwrap();
        let expected = TrainConfig {
            epochs: 3,
            lr: Some(1.0),
            steps_per_epoch: Some(7),
            mean: [0.5; 3],
            sched: crate::train::schedule::Decay::Step,
            ..base
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn the_configuration_of_a_run_is_a_recipe() {
        let config =
            TrainConfig { clip_grad: Some(2.0), pretrained: Some("w".into()), ..TrainConfig::defaults(None) };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(parse(&text).unwrap().apply(&TrainConfig::defaults(None)).unwrap(), config);
    }

    #[test]
    fn unknown_keys_are_named_with_their_line_and_the_nearest_known_one() {
        let message_of = |text| message(parse(text));
        assert_eq!(
            message_of("epochs = 3\n\nbatchsize = 4"),
            "recipe.toml: line 3: `batchsize` is not a setting; did you mean `batch_size`?"
        );
        assert!(message_of("xyzzy = 1").contains("config.toml"));
        assert!(
            message_of("pretraned = 1").contains("`pretrained`"),
            "settings that are usually absent are known too"
        );
        assert!(message_of("epochs = ").contains("line 1"));
    }

    #[test]
    fn wrong_types_are_named_with_their_line() {
        let recipe = parse("epochs = 3\nmomentum = \"fast\"").unwrap();
        let text = message(recipe.apply(&TrainConfig::defaults(None)));
        assert!(
            text.starts_with("recipe.toml: line 2: `momentum`: ") && text.contains("as in 0.9"),
            "{text}"
        );
        let recipe = parse("opt = \"lion\"").unwrap();
        let text = message(recipe.apply(&TrainConfig::defaults(None)));
        assert!(text.contains("line 1: `opt`: `lion` is unknown; take sgd, adam or adamw"), "{text}");
    }
}
