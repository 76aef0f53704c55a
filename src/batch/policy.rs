//! Augmentation policies: the kinds there are, how strong each is, and the text that chooses among them.

use std::fmt;
use std::str::FromStr;

use super::auto::NUM_MAGNITUDE_BINS;
use crate::error::{Error, Result, nearest};
use crate::transform::MAX_AUTO_STEPS;

/// One augmentation. Draws are taken in this order; new kinds go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Flip,
    Crop,
    Shift,
    Rotate,
    Shear,
    Brightness,
    Contrast,
    Drop,
    ResizedCrop,
    Saturation,
    Mixup,
    Cutmix,
    Erase,
    Scale,
    Trivial,
    Rand,
}

/// What `--augment` knows of a kind.
pub(super) struct Spec {
    pub(super) kind: Kind,
    name: &'static str,
    about: &'static str,
    strength: Option<Strength>,
    /// How often it happens where nothing else is said.
    probability: f32,
}

/// The number after `name=`, or two of them.
struct Strength {
    first: Option<First>,
    number: Number,
}

/// The first of two numbers.
struct First {
    number: Number,
    /// What stands between the two: `..` where they are the ends of a range.
    separator: &'static str,
}

struct Number {
    default: f32,
    least: f32,
    most: f32,
    unit: &'static str,
    is_whole: bool,
}

impl Strength {
    /// As [`Augment`] reads it.
    fn show(&self, from: f32, strength: f32) -> String {
        match &self.first {
            Some(first) => format!("{from}{}{strength}", first.separator),
            None => strength.to_string(),
        }
    }

    fn shown_default(&self) -> String {
        self.show(self.default_from(), self.number.default)
    }

    fn default_from(&self) -> f32 {
        self.first.as_ref().map_or(self.number.default, |first| first.number.default)
    }

    /// Units and ranges; two ends of a range have the same.
    fn about(&self) -> String {
        let other = self.first.as_ref().filter(|first| first.separator != RANGE);
        let numbers = other.map(|first| &first.number).into_iter().chain([&self.number]);
        numbers.map(|number| format!("; {}, {} to {}", number.unit, number.least, number.most)).collect()
    }
}

impl Number {
    /// Reads it from `text`, a part of `item`.
    fn parse(&self, item: &str, text: &str) -> Result<f32> {
        let what = format!("strength ({})", self.unit);
        let value = in_range(item, text, &what, [self.least, self.most], self.default)?;
        if self.is_whole && value.fract() != 0.0 {
            return Err(usage(format!("`{item}`: the {what} must be a whole number")));
        }
        Ok(value)
    }
}

/// A number of `item` that must be in a range.
fn in_range(item: &str, text: &str, what: &str, [least, most]: [f32; 2], default: f32) -> Result<f32> {
    let value = text.trim().parse::<f32>().ok().filter(|value| (least..=most).contains(value));
    value.ok_or_else(|| {
        usage(format!("`{item}`: the {what} must be from {least} to {most}; the default is {default}"))
    })
}

const fn spec(kind: Kind, name: &'static str, about: &'static str, strength: Strength) -> Spec {
    Spec { kind, name, about, strength: Some(strength), probability: 1.0 }
}

const fn number(default: f32, [least, most]: [f32; 2], unit: &'static str) -> Number {
    Number { default, least, most, unit, is_whole: false }
}

const fn whole(default: f32, range: [f32; 2], unit: &'static str) -> Number {
    Number { is_whole: true, ..number(default, range, unit) }
}

const fn strength(default: f32, range: [f32; 2], unit: &'static str) -> Strength {
    Strength { first: None, number: number(default, range, unit) }
}

const fn two(first: Number, separator: &'static str, number: Number) -> Strength {
    Strength { first: Some(First { number: first, separator }), number }
}

/// Between the ends of a range.
const RANGE: &str = "..";
const SIZES: &str = "size of the photo, in crops";
const FACTOR: &str = "most change";
const ALPHA: &str = "Beta's parameters";

/// Every kind, in the order of [`Kind`].
pub(super) const KINDS: [Spec; 16] = [
    Spec {
        kind: Kind::Flip,
        name: "flip",
        about: "mirrored left to right",
        strength: None,
        probability: 0.5,
    },
    spec(Kind::Crop, "crop", "a box, resized", strength(0.8, [0.05, 1.0], "share of each side")),
    spec(Kind::Shift, "shift", "moved by whole pixels", strength(20.0, [0.0, 128.0], "most pixels, of 128")),
    spec(Kind::Rotate, "rotate", "turned", strength(90.0, [0.0, 180.0], "most degrees")),
    spec(Kind::Shear, "shear", "slanted", strength(30.0, [0.0, 80.0], "most degrees")),
    spec(Kind::Brightness, "brightness", "times a factor about 1", strength(0.4, [0.0, 1.0], FACTOR)),
    spec(
        Kind::Contrast,
        "contrast",
        "distance to the mean grey times a factor",
        strength(0.4, [0.0, 1.0], FACTOR),
    ),
    spec(Kind::Drop, "drop", "pixels get a random colour", strength(0.1, [0.0, 1.0], "share of pixels")),
    spec(
        Kind::ResizedCrop,
        "resized-crop",
        "a box up to 4:3, resized",
        strength(0.35, [0.01, 1.0], "smallest share of area"),
    ),
    spec(
        Kind::Saturation,
        "saturation",
        "distance to grey times a factor",
        strength(0.4, [0.0, 1.0], FACTOR),
    ),
    spec(Kind::Mixup, "mixup", "blended with another image", strength(0.2, [0.05, 10.0], ALPHA)),
    spec(Kind::Cutmix, "cutmix", "a box shows another image", strength(1.0, [0.05, 10.0], ALPHA)),
    Spec {
        probability: 0.5,
        ..spec(
            Kind::Erase,
            "erase",
            "a box becomes the mean colour",
            strength(0.33, [0.02, 1.0], "largest share of area"),
        )
    },
    spec(
        Kind::Scale,
        "scale",
        "the photo enlarged, a crop of it",
        two(number(1.14, [1.0, 4.0], SIZES), RANGE, number(2.14, [1.0, 4.0], SIZES)),
    ),
    Spec {
        kind: Kind::Trivial,
        name: "trivial-augment",
        about: "TrivialAugment (wide): one operation of 14, at any magnitude",
        strength: None,
        probability: 1.0,
    },
    spec(
        Kind::Rand,
        "rand-augment",
        "RandAugment: operations of the same 14, all at one magnitude",
        two(
            // The one that is left is TrivialAugment's.
            whole(2.0, [1.0, (MAX_AUTO_STEPS - 1) as f32], "num_ops"),
            "x",
            whole(9.0, [0.0, (NUM_MAGNITUDE_BINS - 1) as f32], "magnitude"),
        ),
    ),
];

/// Names for whole policies: what each stands for, and whether a sample gets one of it or all.
const POLICIES: [(&str, Choice, &str); 3] = [
    ("paper", Choice::One, "flip@1,crop,shift,rotate,shear,brightness,contrast,drop"),
    (
        "compose",
        Choice::All,
        "flip,crop@0.5,shift@0.5,rotate@0.25,shear@0.25,brightness@0.5,contrast@0.5,drop@0.25",
    ),
    ("modern", Choice::All, "resized-crop,flip,brightness,contrast,saturation,mixup,cutmix"),
];

/// How the kinds that are on meet in a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Each happens with its probability.
    All,
    /// One of them is chosen, or none, all equally likely.
    One,
}

/// A kind that is on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Setting {
    /// The first of two strengths; `strength` itself where there is one.
    pub(super) from: f32,
    pub(super) strength: f32,
    pub(super) probability: f32,
}

/// Which augmentations are on and how strong, as `--augment` gives them.
///
/// The text is `none`; or names joined by commas, each as `name`, `name=strength`, `name@probability` or
/// `name=strength@probability`; or the name of a policy, which may be followed by such items to add or to change.
/// [`Augment::help`] lists them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augment {
    pub(super) choice: Choice,
    settings: [Option<Setting>; KINDS.len()],
}

impl Augment {
    /// No augmentation.
    pub const NONE: Augment = Augment { choice: Choice::All, settings: [None; KINDS.len()] };

    /// How a kind is set; `None` where it is off.
    pub(super) fn get(&self, kind: Kind) -> Option<Setting> {
        self.settings[kind as usize]
    }

    /// The names of the kinds that are on.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        KINDS.iter().filter(|spec| self.get(spec.kind).is_some()).map(|spec| spec.name)
    }

    /// The policies and kinds with their strengths, for people.
    pub fn help() -> String {
        let mut text = String::from("Policies:\n  none        every image as it is\n");
        for (name, choice, items) in POLICIES {
            let how = if choice == Choice::One { "one of these, or none: " } else { "" };
            text += &format!("  {name:<11} {how}{items}\n");
        }
        text += "\nNames for a list, as in `flip,rotate=45,mixup=0.2@0.5`, with their strengths:\n";
        for spec in KINDS {
            let name = spec
                .strength
                .as_ref()
                .map_or(spec.name.to_string(), |s| format!("{}={}", spec.name, s.shown_default()));
            let units = spec.strength.as_ref().map_or(String::new(), Strength::about);
            text += &format!("  {name:<18} {}{units}\n", spec.about);
        }
        text + "\n`@P` after a name makes it happen with probability P: 0.5 for flip and erase, else 1 where none is given."
    }
}

impl FromStr for Augment {
    type Err = Error;

    /// # Errors
    /// [`Error::Usage`] naming the item that is not understood, what is known, and what is most like it.
    fn from_str(text: &str) -> Result<Augment> {
        if text.trim() == "none" {
            return Ok(Augment::NONE);
        }
        let refuse = |what: &str| Err(usage(format!("--augment `{text}`: {what}")));
        let mut augment = Augment::NONE;
        for (position, item) in text.split(',').map(str::trim).enumerate() {
            match policy(item) {
                _ if item.is_empty() => return refuse("an empty item; take out the comma, or give none"),
                _ if item == "none" => return refuse("none stands alone; take it out of the list"),
                Some(policy) if position == 0 => augment = policy,
                Some(_) => return refuse(&format!("`{item}` must come first, other items change it")),
                None => augment.add(item)?,
            }
        }
        Ok(augment)
    }
}

impl Augment {
    /// Switches on the kind that `item` names.
    fn add(&mut self, item: &str) -> Result<()> {
        let (rest, probability) = item.split_once('@').map_or((item, None), |(rest, p)| (rest, Some(p)));
        let (name, strength) = rest.split_once('=').map_or((rest, None), |(name, s)| (name, Some(s)));
        let name = name.trim();
        let spec = KINDS.iter().find(|spec| spec.name == name).ok_or_else(|| unknown(name))?;
        let (from, strength) = match (strength, &spec.strength) {
            (None, None) => (0.0, 0.0),
            (None, Some(known)) => (known.default_from(), known.number.default),
            (Some(_), None) => {
                return Err(usage(format!(
                    "`{item}`: {name} has no strength; set how often it happens with `{name}@0.5`"
                )));
            }
            (Some(text), Some(Strength { first: None, number })) => {
                number.parse(item, text).map(|strength| (strength, strength))?
            }
            (
                Some(text),
                Some(known @ Strength { first: Some(First { number: first, separator }), number }),
            ) => {
                let (low, high) = text.split_once(separator).ok_or_else(|| {
                    usage(format!(
                        "`{item}`: {name} takes two numbers, as in `{name}={}`",
                        known.shown_default()
                    ))
                })?;
                let (low, high) = (first.parse(item, low)?, number.parse(item, high)?);
                if *separator == RANGE && low > high {
                    return Err(usage(format!("`{item}`: {low} is more than {high}; turn them round")));
                }
                (low, high)
            }
        };
        let probability = match probability {
            Some(text) => in_range(item, text, "probability", [0.0, 1.0], spec.probability)?,
            None => spec.probability,
        };
        let setting = Setting { from, strength, probability };
        self.settings[spec.kind as usize] = Some(setting);
        Ok(())
    }
}

impl fmt::Display for Augment {
    /// What [`FromStr`] reads: a policy's name where it is one, else every kind that is on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = POLICIES.iter().filter_map(|(name, ..)| Some((*name, policy(name)?)));
        let base = named.clone().find(|(_, policy)| policy == self);
        // Only `paper` chooses, so a choice is that policy with changes.
        let base = base
            .or_else(|| named.clone().find(|(_, p)| self.choice == Choice::One && p.choice == self.choice));
        let settings_of_base = base.map_or([None; KINDS.len()], |(_, policy)| policy.settings);
        let mut items: Vec<String> = base.iter().map(|(name, _)| name.to_string()).collect();
        for (spec, of_base) in KINDS.iter().zip(settings_of_base) {
            let Some(setting) = self.get(spec.kind).filter(|_| self.get(spec.kind) != of_base) else {
                continue;
            };
            let mut item = spec.name.to_string();
            if let Some(known) = &spec.strength {
                let shown = known.show(setting.from, setting.strength);
                if shown != known.shown_default() {
                    item += &format!("={shown}");
                }
            }
            if spec.probability != setting.probability {
                item += &format!("@{}", setting.probability);
            }
            items.push(item);
        }
        f.pad(&if items.is_empty() { "none".into() } else { items.join(",") })
    }
}

/// The policy called `name`.
fn policy(name: &str) -> Option<Augment> {
    let (_, choice, items) = POLICIES.iter().find(|(known, ..)| *known == name)?;
    let mut policy = Augment { choice: *choice, ..Augment::NONE };
    for item in items.split(',') {
        policy.add(item).expect("the items of policies are in the table of kinds");
    }
    Some(policy)
}

fn usage(message: String) -> Error {
    Error::Usage(message)
}

fn unknown(name: &str) -> Error {
    let kinds: Vec<&str> = KINDS.iter().map(|spec| spec.name).collect();
    let policies: Vec<&str> = ["none"].into_iter().chain(POLICIES.iter().map(|(name, ..)| *name)).collect();
    let known: Vec<&str> = policies.iter().chain(&kinds).copied().collect();
    let hint = nearest(name, &known).map_or(String::new(), |name| format!(", perhaps `{name}`"));
    usage(format!(
        "unknown augmentation `{name}`{hint}; give {} or a list of {}, as in `flip,rotate=45,mixup=0.2@0.5`",
        policies.join(", "),
        kinds.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Augment {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn policies_are_read_and_printed() {
        for text in [
            "none",
            "paper",
            "compose",
            "modern",
            "flip",
            "shift",
            "flip,shift",
            "flip,rotate=45,shear=10,brightness=0.3,drop=0.05,mixup=0.2@0.5",
            "flip@1,crop=0.7@0.25",
            "paper,rotate=30,saturation",
            "modern,erase=0.2@0.1",
            "scale=1..1.5@0.5,flip",
            "resized-crop,flip,trivial-augment",
            "modern,rand-augment=3x12@0.5",
        ] {
            let augment = parse(text);
            assert_eq!(parse(&augment.to_string()), augment, "{text} as {augment}");
        }
        for (text, shown) in [
            ("shift, flip", "flip,shift"),
            (" rotate = 45 @ 0.5 ", "rotate=45@0.5"),
            ("rotate=90,shift=20@1", "shift,rotate"),
            ("mixup=0.2", "mixup"),
            ("modern,mixup=0.2", "modern"),
            ("erase=0.33@0.5,flip", "flip,erase"),
            ("scale=1.14..2.14", "scale"),
            ("scale=1.14..2", "scale=1.14..2"),
            ("rand-augment=2x9,flip", "flip,rand-augment"),
            (" rand-augment = 1 x 30 ", "rand-augment=1x30"),
            ("paper,crop=0.7", "paper,crop=0.7"),
            (
                "flip@1,crop,shift,rotate,shear,brightness,contrast,drop",
                "flip@1,crop,shift,rotate,shear,brightness,contrast,drop",
            ),
        ] {
            assert_eq!(parse(text).to_string(), shown);
        }
        assert_eq!(
            parse("modern,mixup=0.5").to_string(),
            "flip,brightness,contrast,resized-crop,saturation,mixup=0.5,cutmix"
        );
    }

    #[test]
    fn kinds_stand_at_their_own_numbers() {
        for (i, spec) in KINDS.iter().enumerate() {
            assert_eq!(spec.kind as usize, i, "{}", spec.name);
            assert!(Augment::help().contains(&format!("\n  {}", spec.name)));
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_is() {
        for (text, parts) in [
            ("flop", ["`flop`", "perhaps `flip`", "resized-crop"]),
            ("", ["``", "an empty item", "none"]),
            ("flip,none", ["`flip,none`", "none stands alone", ""]),
            ("flip,,shift", ["`flip,,shift`", "an empty item", "comma"]),
            ("flip=0.3", ["flip@0.5", "no strength", ""]),
            ("flip@1.5", ["`flip@1.5`", "probability", "from 0 to 1; the default is 0.5"]),
            ("rotate=400", ["`rotate=400`", "degrees", "from 0 to 180; the default is 90"]),
            ("rotate=", ["`rotate=`", "from 0 to 180", ""]),
            ("drop=NaN", ["`drop=NaN`", "from 0 to 1", ""]),
            ("flip,paper", ["`paper`", "first", ""]),
            ("scale=1.5", ["`scale=1.5`", "two numbers", "scale=1.14..2.14"]),
            ("scale=2..1.5", ["2 is more than 1.5", "turn them round", ""]),
            ("scale=0.5..2", ["size of the photo", "from 1 to 4", ""]),
            ("mixup=0", ["Beta", "0.05 to 10", ""]),
            ("trivialaugment", ["`trivialaugment`", "perhaps `trivial-augment`", ""]),
            ("trivial-augment=9", ["no strength", "trivial-augment@0.5", ""]),
            ("rand-augment=9", ["two numbers", "rand-augment=2x9", ""]),
            ("rand-augment=9x2", ["num_ops", "from 1 to 8; the default is 2", ""]),
            ("rand-augment=2x31", ["magnitude", "from 0 to 30; the default is 9", ""]),
            ("rand-augment=2x8.5", ["`rand-augment=2x8.5`", "magnitude", "whole number"]),
        ] {
            let error = text.parse::<Augment>().unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, Error::Usage(_)), "{error}");
            assert!(parts.iter().all(|part| message.contains(part)), "`{text}`: {message}");
        }
    }
}
