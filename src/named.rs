//! Enums whose variants have names, as flags, files and messages write them.

/// Defines an enum with one name for each variant: `Display`, `FromStr` and serde use it, and `NAMES` lists them all.
macro_rules! named {
    ($(#[$meta:meta])* $vis:vis enum $Type:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $name:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $Type {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $Type {
            /// Every name, in the order of the variants.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name of the variant.
            pub fn name(self) -> &'static str {
                match self {
                    $($Type::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $Type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $Type {
            type Err = $crate::Error;

            /// # Errors
            /// [`Error::Usage`](crate::Error::Usage) listing the known names, and the nearest of them.
            fn from_str(text: &str) -> $crate::Result<$Type> {
                match text {
                    $($name => Ok($Type::$variant),)+
                    _ => Err($crate::named::unknown(text, $Type::NAMES)),
                }
            }
        }

        impl serde::Serialize for $Type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $Type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<$Type, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use named;

use crate::error::{Error, nearest};

/// The error about `text`, which is none of `names`; it lists them and offers the nearest.
pub(crate) fn unknown(text: &str, names: &[&str]) -> Error {
    let (last, others) = names.split_last().expect("an enum has variants");
    let hint = nearest(text, names).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    Error::Usage(format!("`{text}` is unknown; take {} or {last}{hint}", others.join(", ")))
}

#[cfg(test)]
mod tests {
    named! {
        /// Seasons with a harvest.
        enum Season {
            /// Hay.
            Summer = "summer",
            /// Apples.
            Autumn = "autumn",
        }
    }

    #[test]
    fn names_are_read_and_written() {
        for (name, season) in Season::NAMES.iter().zip([Season::Summer, Season::Autumn]) {
            assert_eq!(name.parse::<Season>().unwrap(), season);
            assert_eq!(serde_json::to_string(&season).unwrap(), format!("\"{season}\""));
            assert_eq!(serde_json::from_str::<Season>(&format!("\"{name}\"")).unwrap(), season);
        }
        let message = "winter".parse::<Season>().unwrap_err().to_string();
        assert_eq!(message, "`winter` is unknown; take summer or autumn");
        let near = "sumer".parse::<Season>().unwrap_err().to_string();
        assert_eq!(near, "`sumer` is unknown; take summer or autumn; did you mean `summer`?");
        assert!(serde_json::from_str::<Season>("\"winter\"").unwrap_err().to_string().contains(&message));
    }
}
