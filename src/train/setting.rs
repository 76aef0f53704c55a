//! What a row of the table of settings in [`config`](super::config) can say, and what is made of a row: a field, a flag
//! with its help, a range.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::config::TrainConfig;
pub(super) use super::value::Value;
use crate::error::{self, Error};

/// Defines `TrainConfig`, the settings of a run: a field for each row, and what the rows say of flags and ranges.
///
/// A row is `name: Type = default => flag;`. After the default may stand `scenes` and `adam` with the defaults of runs on
/// generated scenes and of runs with Adam, `shown` with what help calls the default, and `range` with the range of the
/// numbers, which must be finite as well, and `resume` with what it is to a run that goes on; after the flag `with`, another flag. The row's docstring is the field's and the
/// flag's help.
macro_rules! settings {
    ($(#[$meta:meta])* pub struct TrainConfig { $([$heading:literal] $(
        $(#[doc = $doc:literal])+
        $(#[serde($($serde:tt)*)])?
        $name:ident: $Type:ty = $default:expr
            $(, scenes $scenes:expr)? $(, adam $adam:expr)? $(, shown $shown:literal)? $(, range $range:expr)?
            $(, resume $resume:ident)? => $flag:expr $(, with $with:expr)?;
    )+)+ }) => {
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        // A run folder of an earlier version lacks the settings that were added since.
        #[serde(deny_unknown_fields, default = "TrainConfig::plain")]
        $(#[$meta])*
        pub struct TrainConfig { $($(
            $(#[doc = $doc])+
            $(#[serde($($serde)*)])?
            pub $name: $Type,
        )+)+ }

        impl TrainConfig {
            /// Names of all settings, in the order of `config.toml`.
            pub const NAMES: &'static [&'static str] = &[$($(stringify!($name)),+),+];

            fn plain() -> TrainConfig {
                TrainConfig { $($($name: $default,)+)+ }
            }

            fn set_scenes(&mut self) {
                $($($(self.$name = $scenes;)?)+)+
            }

            fn set_adam(&mut self) {
                $($($(self.$name = $adam;)?)+)+
            }

            /// The flags of all settings that `wanted` holds for.
            pub(super) fn flags(wanted: impl Fn(&str) -> bool) -> Vec<clap::Arg> {
                let [plain, mut scenes, mut adam] = [TrainConfig::plain(), TrainConfig::plain(), TrainConfig::plain()];
                scenes.set_scenes();
                adam.set_adam();
                let mut flags = Vec::new();
                $($(if wanted(stringify!($name)) {
                    let shown: Option<&str> = [$($shown)?].first().copied();
                    let defaults = [&plain.$name, &scenes.$name, &adam.$name];
                    let help = $crate::train::setting::help(concat!($($doc),+), shown, defaults);
                    let flag = $crate::train::setting::complete::<$Type>($flag, stringify!($name), help);
                    $(flags.push($with.help_heading($heading));)?
                    flags.push(flag.help_heading($heading));
                })+)+
                flags
            }

            /// Takes over the settings that were given as flags.
            pub(super) fn set(&mut self, given: &clap::ArgMatches) {
                $($(if let Some(value) = $crate::train::setting::given(given, stringify!($name)) {
                    self.$name = value;
                })+)+
            }

            /// What the setting `name` is to a run that goes on.
            pub(super) fn on_resume(name: &str) -> $crate::train::setting::OnResume {
                use $crate::train::setting::OnResume;
                let marked = [$($($((stringify!($name), OnResume::$resume),)?)+)+];
                marked.iter().find(|(marked, _)| *marked == name).map_or(OnResume::Kept, |(_, is)| *is)
            }

            /// Every setting as files of a run record it, by name.
            pub(super) fn records(&self) -> std::collections::BTreeMap<String, String> {
                [$($((stringify!($name).to_string(), $crate::train::setting::record(&self.$name)),)+)+].into()
            }

            fn check_ranges(&self) -> $crate::Result<()> {
                $($($($crate::train::setting::check(stringify!($name), &self.$name, $range)?;)?)+)+
                Ok(())
            }
        }
    };
}

pub(super) use settings;

/// What a setting is to a run that goes on with another value of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnResume {
    /// It decides results: a run is what it was begun with.
    Kept,
    /// It decides how much is still to come.
    Changes,
    /// It decides no result.
    Free,
}

/// `value` as files of a run record it.
pub(super) fn record(value: &impl Value) -> String {
    value.record()
}

/// A flag that takes a value, which help calls `value_name`.
pub(super) fn flag(value_name: &'static str) -> Arg {
    Arg::new(value_name).value_name(value_name)
}

/// A flag that switches on what is off by default.
pub(super) fn on() -> Arg {
    Arg::new("on").action(ArgAction::SetTrue)
}

/// A flag `--no-<name>` that switches off what is on by default, as `help` says.
pub(super) fn off(help: impl Into<StyledStr>) -> Arg {
    Arg::new(OFF).action(ArgAction::SetFalse).help(help.into())
}

/// What a flag that switches off is called until it has the name of its setting.
const OFF: &str = "off";

/// `flag` as that of the setting `name`.
pub(super) fn complete<T: Value>(flag: Arg, name: &'static str, help: String) -> Arg {
    let long = name.replace('_', "-");
    let flag = match flag.get_id().as_str() {
        OFF => flag.long(format!("no-{long}")),
        _ => flag.long(long).help(help),
    };
    T::arg(flag.id(name))
}

/// `text` with the default, and with those for generated scenes and for Adam where they differ.
pub(super) fn help<T: Value>(text: &str, shown: Option<&str>, defaults: [&T; 3]) -> String {
    let text = text.trim().trim_end_matches('.');
    let [plain, scenes, adam] = defaults.map(Value::show);
    let others = [("scenes", scenes), ("adam and adamw", adam)];
    let others = others.iter().filter(|(_, other)| *other != plain);
    let others: String = others.map(|(runs, default)| format!("; {runs}: {default}")).collect();
    let default = shown.unwrap_or(&plain);
    if default.is_empty() { text.into() } else { format!("{text} [default: {default}{others}]") }
}

/// Fails on a number of the setting `name` that is not finite or not in `range`.
pub(super) fn check<N: Copy + Into<f64>>(
    name: &'static str,
    value: &impl Value,
    range: impl RangeBounds<N>,
) -> error::Result<()> {
    let range = (range.start_bound().map(|&n| n.into()), range.end_bound().map(|&n| n.into()));
    if value.numbers().iter().all(|number| number.is_finite() && range.contains(number)) {
        return Ok(());
    }
    let expected = match range {
        (Bound::Included(least), Bound::Unbounded) => format!("at least {least}"),
        (Bound::Excluded(bound), Bound::Unbounded) => format!("above {bound}"),
        (Bound::Included(least), Bound::Included(most)) => format!("from {least} to {most}"),
        (Bound::Included(least), Bound::Excluded(bound)) => format!("at least {least} and below {bound}"),
        _ => "a number".into(),
    };
    Err(Error::setting(name, value.show(), format!("must be {expected}")))
}

/// The range of what is above `bound`.
pub(super) fn above(bound: f64) -> (Bound<f64>, Bound<f64>) {
    (Bound::Excluded(bound), Bound::Unbounded)
}

/// The range of all numbers.
pub(super) const ANY: (Bound<f64>, Bound<f64>) = (Bound::Unbounded, Bound::Unbounded);

/// The value of the setting `name`, if it is among the flags and was given.
pub(super) fn given<T: Value>(matches: &ArgMatches, name: &str) -> Option<T> {
    matches.try_contains_id(name).is_ok_and(|is_given| is_given).then(|| T::given(matches, name)).flatten()
}

/// Which settings a command has flags for.
pub trait Subset: fmt::Debug + Clone {
    /// Whether `name`, one of [`TrainConfig::NAMES`], is among them.
    fn includes(name: &str) -> bool;
}

/// All settings.
#[derive(Debug, Clone)]
pub struct All;

impl Subset for All {
    fn includes(_: &str) -> bool {
        true
    }
}

/// The settings that were given as flags, of a command that flattens this into its arguments.
#[derive(Debug, Clone)]
pub struct SettingFlags<S = All> {
    given: ArgMatches,
    subset: PhantomData<S>,
}

impl<S> SettingFlags<S> {
    pub(super) fn given(&self) -> &ArgMatches {
        &self.given
    }
}

impl<S: Subset> Args for SettingFlags<S> {
    fn augment_args(command: Command) -> Command {
        command.args(TrainConfig::flags(S::includes))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingFlags::<S>::augment_args(command)
    }
}

impl<S: Subset> FromArgMatches for SettingFlags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingFlags<S>, clap::Error> {
        Ok(SettingFlags { given: matches.clone(), subset: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given = matches.clone();
        Ok(())
    }
}
