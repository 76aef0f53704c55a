//! Flag values that several subcommands read.

use std::path::{Path, PathBuf};

use clap::Args;

use bytesize::ByteSize;

use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::fuse::Fusion;
use crate::infer::model_file::ModelFile;
use crate::run::replace;
use crate::show::tell;
use crate::train::config::TrainConfig;
use crate::train::precision::PrecisionChoice;
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

    /// The settings of a run, replaced by those that were given.
    pub(super) fn over(&self, config: TrainConfig) -> Result<TrainConfig> {
        let begun_in = config.precision;
        let config = config.keeping_updates();
        let config = match &self.config {
            Some(path) => Recipe::read(path)?.apply(&config)?,
            None => config,
        };
        let mut config = config.with(&self.flags);
        if config.precision == PrecisionChoice::Auto {
            // It was decided when the run began.
            config.precision = begun_in;
        }
        Ok(config)
    }
}

/// How a trained model runs.
#[derive(Debug, Args)]
pub(super) struct GraphArgs {
    /// Types of activations: f32, bf16, tf32 for f32 with convolutions on tensor cores, or auto for what suits the device
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: PrecisionChoice,
    #[arg(long, value_name = "NAMES", help = Fusion::help(), value_parser = Fusion::without_named)]
    no_fuse: Option<Fusion>,
}

impl GraphArgs {
    /// Has the model of `file` run so on `device`, saying on stderr what there is to say of it.
    pub(super) fn apply(&self, file: &mut ModelFile, device: &Device) {
        file.fuse = self.no_fuse.unwrap_or(Fusion::ALL);
        let precision = self.precision.on(device.kind());
        file.float = precision.into();
        file.allow_tf32 = precision.allows_tf32(device.kind());
        self.precision.remark(device.kind()).iter().for_each(tell);
    }
}

/// Takes the device that `--device` names, saying on stderr why `auto` did not take a GPU.
pub(super) fn open_device(choice: DeviceChoice) -> Result<Device> {
    let (device, remark) = choice.open().map_err(|error| match error {
        Error::Device(message) => Error::Device(format!("--device {message}; or take --device cpu")),
        other => other,
    })?;
    if let Some(remark) = remark {
        tell(remark);
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
    match text.parse() {
        Ok(ByteSize(bytes)) if bytes > 0 => Ok(bytes as usize),
        _ => Err(format!("`{text}` is not a size; give one like 24GiB or 512MiB")),
    }
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
}
