//! Which rewrites run, as flags and files name them.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::Rewrite;
use crate::error::Result;
use crate::named::unknown;

/// The rewrites that a graph is planned with. Files write it as `true` for all, `false` for none, or the names of those that
/// run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fusion {
    /// By the place in [`Rewrite::ALL`].
    runs: [bool; Rewrite::ALL.len()],
}

impl Fusion {
    /// What stands for every rewrite among the names of those to leave out.
    pub const EVERY: &str = "all";
    /// Every rewrite runs.
    pub const ALL: Fusion = Fusion { runs: [true; Rewrite::ALL.len()] };
    /// The textbook graph runs.
    pub const NONE: Fusion = Fusion { runs: [false; Rewrite::ALL.len()] };

    /// These rewrites run, and no other.
    pub fn of(rewrites: &[Rewrite]) -> Fusion {
        Fusion { runs: Rewrite::ALL.map(|rewrite| rewrites.contains(&rewrite)) }
    }

    /// Every rewrite runs but these.
    pub fn without(rewrites: &[Rewrite]) -> Fusion {
        Fusion { runs: Rewrite::ALL.map(|rewrite| !rewrites.contains(&rewrite)) }
    }

    /// Every rewrite runs but those with these names, comma-separated; none with `all`.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] listing the names.
    pub fn without_named(names: &str) -> Result<Fusion> {
        let mut fusion = Fusion::ALL;
        for name in names.split(',').map(str::trim) {
            match Rewrite::NAMES.iter().position(|known| *known == name) {
                Some(place) => fusion.runs[place] = false,
                None if name == Fusion::EVERY => fusion = Fusion::NONE,
                None => return Err(unknown(name, &[Rewrite::NAMES, &[Fusion::EVERY]].concat())),
            }
        }
        Ok(fusion)
    }

    /// The rewrites that run, in their order.
    pub fn rewrites(self) -> Vec<Rewrite> {
        Rewrite::ALL
            .into_iter()
            .zip(self.runs)
            .filter_map(|(rewrite, runs)| runs.then_some(rewrite))
            .collect()
    }

    /// What the flag that leaves rewrites out takes, and what each of them does.
    pub fn help() -> String {
        let widest = Rewrite::NAMES.iter().map(|name| name.len()).max().unwrap_or(0);
        let row = |rewrite: Rewrite| format!("\n{:widest$}  {}", rewrite.name(), rewrite.does());
        let rows: String = Rewrite::ALL.into_iter().map(row).collect();
        format!("Leave these rewrites of the graph out, comma-separated, or {}:{rows}", Fusion::EVERY)
    }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fusion::ALL => f.pad("true"),
            Fusion::NONE => f.pad("false"),
            _ => f.pad(&self.rewrites().into_iter().map(Rewrite::name).collect::<Vec<_>>().join(",")),
        }
    }
}

impl Serialize for Fusion {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match *self {
            Fusion::ALL => serializer.serialize_bool(true),
            Fusion::NONE => serializer.serialize_bool(false),
            _ => self.rewrites().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Fusion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Fusion, D::Error> {
        deserializer.deserialize_any(InFile)
    }
}

/// Reads what files write.
struct InFile;

impl<'de> Visitor<'de> for InFile {
    type Value = Fusion;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "true, false or a list of {}", Rewrite::NAMES.join(", "))
    }

    fn visit_bool<E>(self, all: bool) -> std::result::Result<Fusion, E> {
        Ok(if all { Fusion::ALL } else { Fusion::NONE })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> std::result::Result<Fusion, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(names)).map(|rewrites| Fusion::of(&rewrites))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_rewrites_out_in_any_order() {
        let fusion = Fusion::without_named("dgrad-add, bn-add-relu,dgrad-add").unwrap();
        assert_eq!(fusion, Fusion::without(&[Rewrite::BnAddRelu, Rewrite::DgradAdd]));
        let mut runs = Rewrite::ALL.to_vec();
        runs.retain(|rewrite| ![Rewrite::BnAddRelu, Rewrite::DgradAdd].contains(rewrite));
        assert_eq!(fusion.rewrites(), runs, "they run in the order of the table");
        for names in ["all", "conv-bn,all", "all,conv-bn", &Rewrite::NAMES.join(",")] {
            assert_eq!(Fusion::without_named(names).unwrap(), Fusion::NONE, "{names}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_all_names_and_the_nearest() {
        let message = |names| Fusion::without_named(names).unwrap_err().to_string();
        let list = format!("{} or all", Rewrite::NAMES.join(", "));
        assert_eq!(
            message("conv-bn,dgrad-ad"),
            format!("`dgrad-ad` is unknown; take {list}; did you mean `dgrad-add`?")
        );
        assert_eq!(message(""), format!("`` is unknown; take {list}"));
    }

    #[test]
    fn files_have_true_false_or_the_names_of_those_that_run() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct File {
            fuse: Fusion,
        }
        let some = Fusion::of(&[Rewrite::DgradAdd, Rewrite::ConvBn]);
        for (fuse, text) in
            [(Fusion::ALL, "true"), (Fusion::NONE, "false"), (some, "[\"conv-bn\", \"dgrad-add\"]")]
        {
            let text = format!("fuse = {text}\n");
            assert_eq!(toml::to_string(&File { fuse }).unwrap(), text);
            assert_eq!(toml::from_str::<File>(&text).unwrap(), File { fuse });
        }
        let message = |text| toml::from_str::<File>(text).unwrap_err().to_string();
        assert!(message("fuse = [\"conv-bm\"]").contains("did you mean `conv-bn`?"));
        assert!(message("fuse = 1").contains("true, false or a list of bn-add-relu, conv-bn"));
        assert_eq!(some.to_string(), "conv-bn,dgrad-add");
    }

    #[test]
    fn help_has_a_line_for_each_rewrite() {
        let help = Fusion::help();
        assert_eq!(help.lines().count(), 1 + Rewrite::ALL.len());
        for (line, rewrite) in help.lines().skip(1).zip(Rewrite::ALL) {
            assert!(line.starts_with(rewrite.name()) && line.ends_with(rewrite.does()), "{line}");
        }
    }
}
