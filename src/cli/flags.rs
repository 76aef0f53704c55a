//! Flag values that several subcommands read.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::run::replace;
use crate::train::config::TrainConfig;
use crate::train::recipe::Recipe;
use crate::train::setting::SettingFlags;

/// The settings of a training run: a recipe, and flags that override it.
#[derive(Debug, Args)]
pub(super) struct SettingArgs {
    /// Recipe: a TOML file with the settings of config.toml; flags override it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: SettingFlags,
}

impl SettingArgs {
    /// The settings that were given over the defaults, on `data_dir` unless they name a data set.
    pub(super) fn read(&self, data_dir: Option<PathBuf>) -> Result<TrainConfig> {
        let recipe = self.config.as_deref().map(Recipe::read).transpose()?;
        TrainConfig::layered(data_dir, recipe.as_ref(), &self.flags)
    }
}

/// Takes the device that `--device` names, saying on stderr why `auto` did not take a GPU.
pub(super) fn open_device(choice: DeviceChoice) -> Result<Device> {
    let (device, remark) = choice.open()?;
    if let Some(remark) = remark {
        eprintln!("{remark}");
    }
    Ok(device)
}

/// Refuses a file that cannot be written, before the work that would fill it is done.
pub(super) fn check_output(flag: &str, path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let (file, refused) = (path.display(), |what: String| Err(Error::Usage(what)));
    match folder.filter(|folder| !folder.is_dir()) {
        Some(folder) => {
            refused(format!("{flag} {file}: there is no folder {}; make it first", folder.display()))
        }
        None if path.is_dir() => refused(format!("{flag} {file}: is a folder; name a file in it")),
        None => Ok(()),
    }
}

/// As [`check_output`], for a picture: PNG is the one format written.
pub(super) fn check_picture(flag: &str, path: &Path) -> Result<()> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("png")) {
        let what =
            format!("{flag} {}: pictures are written as PNG; let the name end in .png", path.display());
        return Err(Error::Usage(what));
    }
    check_output(flag, path)
}

/// Replaces the file at `path` as a whole.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace::replace(path, |writer| writer.write_all(bytes)).map_err(Error::io("write", path))
}

/// Two comma-separated numbers of images: for training and for validation.
pub(super) fn parse_images(text: &str) -> std::result::Result<(usize, usize), String> {
    let counts = text.split_once(',').and_then(|(train, val)| Some((train.parse().ok()?, val.parse().ok()?)));
    match counts {
        Some((train, val)) if train > 0 && val > 0 => Ok((train, val)),
        _ => Err(format!("`{text}`: give the numbers of training and validation images, as in 100000,10000")),
    }
}

/// A size in bytes, as in `24GiB`, `512MiB`, `8GB` or `1000000`.
pub(super) fn parse_bytes(text: &str) -> std::result::Result<usize, String> {
    const UNITS: [(&str, f64); 7] = [
        ("KiB", 1024.0),
        ("MiB", 1024.0 * 1024.0),
        ("GiB", 1024.0 * 1024.0 * 1024.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
    ];
    let unit = UNITS.iter().find(|(name, _)| text.ends_with(name));
    let (number, factor) =
        unit.map_or((text, 1.0), |(name, factor)| (&text[..text.len() - name.len()], *factor));
    match number.trim().parse::<f64>() {
        Ok(value) if value > 0.0 && (value * factor).is_finite() => Ok((value * factor) as usize),
        _ => Err(format!("`{text}` is no size; give one like 24GiB or 512MiB")),
    }
}

/// Bytes as people read them: `1.50 GiB`.
pub(super) fn show_bytes(bytes: usize) -> String {
    let value = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", value / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", value / 1_048_576.0),
        _ => format!("{:.2} GiB", value / 1_073_741_824.0),
    }
}

/// A number with its thousands apart: `11 227 812`.
pub(super) fn show_count(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("24GiB"), Ok(24 << 30));
        assert_eq!(parse_bytes("1.5 MiB"), Ok(3 << 19));
        assert_eq!(parse_bytes("8GB"), Ok(8_000_000_000));
        assert_eq!(parse_bytes("77"), Ok(77));
        assert!(parse_bytes("many").unwrap_err().contains("24GiB"));
        assert!(parse_bytes("-1GiB").is_err());
        assert_eq!(parse_images("100000,10"), Ok((100_000, 10)));
        assert!(["7", "7,0", "a,b"].iter().all(|text| parse_images(text).unwrap_err().contains(text)));
    }

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!(show_count(11_227_812), "11 227 812");
        assert_eq!(show_count(12), "12");
        assert_eq!(show_bytes(3 << 29), "1.50 GiB");
        assert_eq!(show_bytes(100), "100 B");
    }
}
