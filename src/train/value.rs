//! The types that settings have: how a flag reads them and how help and messages show them.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::Error;
use crate::fuse::Fusion;
use crate::models::{ObjectsKind, Variant};

/// A type that settings have.
pub(super) trait Value: Clone + Send + Sync + 'static {
    /// Lets `arg` read it.
    fn arg(arg: Arg) -> Arg;

    /// The value that was read.
    fn given(matches: &ArgMatches, name: &str) -> Option<Self> {
        matches.get_one::<Self>(name).cloned()
    }

    /// As a flag gives it; empty where there is no value, or none is needed.
    fn show(&self) -> String;

    /// Every value by a text of its own.
    fn record(&self) -> String {
        self.show()
    }

    /// The numbers that a range holds for.
    fn numbers(&self) -> Vec<f64> {
        Vec::new()
    }
}

/// Numbers.
macro_rules! number_values {
    ($($Type:ident)+) => { $(impl Value for $Type {
        fn arg(arg: Arg) -> Arg {
            arg.value_parser(value_parser!($Type))
        }

        fn show(&self) -> String {
            self.to_string()
        }

        fn numbers(&self) -> Vec<f64> {
            vec![*self as f64]
        }
    })+ };
}

number_values!(usize u64 f32 f64);

/// Choices among names.
macro_rules! named_values {
    ($($Type:ident)+) => { $(impl $crate::train::value::Value for $Type {
        fn arg(arg: clap::Arg) -> clap::Arg {
            use clap::builder::{PossibleValuesParser, TypedValueParser};
            arg.value_parser(PossibleValuesParser::new($Type::NAMES).try_map(|name| name.parse::<$Type>()))
        }

        fn show(&self) -> String {
            self.to_string()
        }
    })+ };
}
pub(super) use named_values;

named_values!(Variant);

impl Value for bool {
    fn arg(arg: Arg) -> Arg {
        arg
    }

    fn given(matches: &ArgMatches, name: &str) -> Option<bool> {
        let is_given = matches.value_source(name) == Some(ValueSource::CommandLine);
        is_given.then(|| matches.get_flag(name))
    }

    fn show(&self) -> String {
        String::new()
    }

    fn record(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn arg(arg: Arg) -> Arg {
        arg
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    fn arg(arg: Arg) -> Arg {
        arg.value_parser(value_parser!(PathBuf))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl<T: Value> Value for Option<T> {
    fn arg(arg: Arg) -> Arg {
        T::arg(arg)
    }

    fn given(matches: &ArgMatches, name: &str) -> Option<Option<T>> {
        T::given(matches, name).map(Some)
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, T::show)
    }

    fn record(&self) -> String {
        self.as_ref().map_or_else(|| none_or::NONE.into(), T::record)
    }

    fn numbers(&self) -> Vec<f64> {
        self.as_ref().map_or_else(Vec::new, T::numbers)
    }
}

impl Value for Vec<f64> {
    fn arg(arg: Arg) -> Arg {
        f64::arg(arg).value_delimiter(',')
    }

    fn given(matches: &ArgMatches, name: &str) -> Option<Vec<f64>> {
        matches.get_many(name).map(|numbers| numbers.copied().collect())
    }

    fn show(&self) -> String {
        self.iter().map(f64::to_string).collect::<Vec<_>>().join(",")
    }

    fn numbers(&self) -> Vec<f64> {
        self.clone()
    }
}

impl Value for [f32; 3] {
    fn arg(arg: Arg) -> Arg {
        arg.value_parser(parse_channels)
    }

    fn show(&self) -> String {
        self.map(|number| number.to_string()).join(",")
    }

    fn numbers(&self) -> Vec<f64> {
        self.map(f64::from).to_vec()
    }
}

/// A flag names the rewrites that do not run; alone it leaves out every one.
impl Value for Fusion {
    fn arg(arg: Arg) -> Arg {
        let arg = arg.action(ArgAction::Set).value_name("NAMES").value_parser(Fusion::without_named);
        arg.num_args(0..=1).default_missing_value(Fusion::EVERY)
    }

    fn show(&self) -> String {
        String::new()
    }

    fn record(&self) -> String {
        self.to_string()
    }
}

/// Three comma-separated numbers, one a channel.
fn parse_channels(text: &str) -> Result<[f32; 3], String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    let expected = || format!("`{text}`: give three numbers, red, green and blue, as in 0.485,0.456,0.406");
    numbers.map_err(|_| expected())?.try_into().map_err(|_| expected())
}

/// Objects that a network may take in, or `none`.
impl Value for Option<ObjectsKind> {
    fn arg(arg: Arg) -> Arg {
        let names = [&[none_or::NONE], ObjectsKind::NAMES].concat();
        arg.value_parser(
            PossibleValuesParser::new(names).try_map(|name| none_or::parse::<ObjectsKind>(&name)),
        )
    }

    fn show(&self) -> String {
        none_or::show(self)
    }
}

/// An option that files and flags write as `none` or the name of its value.
pub(super) mod none_or {
    use super::*;

    pub(super) const NONE: &str = "none";

    pub(super) fn parse<T: FromStr>(text: &str) -> Result<Option<T>, T::Err> {
        if text == NONE { Ok(None) } else { text.parse().map(Some) }
    }

    pub(super) fn show(value: &Option<impl fmt::Display>) -> String {
        value.as_ref().map_or_else(|| NONE.into(), |value| value.to_string())
    }

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<impl fmt::Display>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&show(value))
    }

    pub(crate) fn deserialize<'de, T: FromStr<Err = Error>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A value that remembers the text it was read from: files keep what the user wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Written<T> {
    text: String,
    value: T,
}

impl<T: FromStr<Err = Error>> Written<T> {
    /// The value of a text that this program itself gives.
    pub(super) fn known(text: &str) -> Written<T> {
        text.parse().expect("a default is a value of its setting")
    }
}

impl<T: FromStr> FromStr for Written<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Written<T>, T::Err> {
        Ok(Written { text: text.into(), value: text.parse()? })
    }
}

impl<T> Deref for Written<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> fmt::Display for Written<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl<T> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de, T: FromStr<Err = Error>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Written<T>, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<T: FromStr<Err = Error> + Clone + Send + Sync + 'static> Value for Written<T> {
    fn arg(arg: Arg) -> Arg {
        arg.value_parser(Written::<T>::from_str)
    }

    fn show(&self) -> String {
        self.text.clone()
    }
}
