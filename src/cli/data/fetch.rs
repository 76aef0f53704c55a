//! `residuum data fetch`: MiniPlaces from where it is distributed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::data::Split;
use crate::data::fetch::{self, ARCHIVE_URL, Fetched, LISTS_URL, Options};
use crate::error::{Error, Result};
use crate::show::{show_path, tell};
use crate::train::signal::{OnUsr1, Signals};

/// Download MiniPlaces and unpack it into a folder that --data-dir takes; given again, go on where it stopped
///
/// Proxies are those of HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, and must allow CONNECT. What is not plain files and folders below the archive's
/// own is refused before anything of it is written.
#[derive(Debug, Args)]
pub(super) struct FetchArgs {
    /// Folder to make; DIR.fetch next to it has what is not done yet, DIR.sha256 the archive's checksum
    #[arg(long, value_name = "DIR", default_value = "miniplaces")]
    output: PathBuf,
    /// Address of the archive (.tar.gz); more of them are tried in turn
    #[arg(long, value_name = "URL", default_value = ARCHIVE_URL, value_parser = address, conflicts_with = "archive")]
    url: Vec<String>,
    /// Take an archive that is here; it stays where it is
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    /// Folder or address of the lists (categories.txt, train.txt, val.txt, object_categories.txt), where the archive has none
    #[arg(long, value_name = "DIR|URL", default_value = LISTS_URL)]
    lists: String,
    /// What the archive's SHA-256 must be [default: that of DIR.sha256, if there is one]
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    sha256: Option<String>,
    /// Seconds after which a server that sends nothing is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    timeout: f64,
    /// Tries in a row that may bring nothing, after the first
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
}

impl FetchArgs {
    pub(super) fn run(self) -> Result<()> {
        let options = Options {
            output: self.output,
            urls: self.url,
            archive: self.archive,
            lists: self.lists,
            sha256: self.sha256,
            timeout: Duration::from_secs_f64(self.timeout),
            retries: self.retries,
        };
        let signals = Signals::install(OnUsr1::End)?;
        let fetched = fetch::fetch(&options, &|| signals.received()).inspect_err(|error| {
            if matches!(error, Error::Interrupted { .. }) {
                tell("what has come in is kept; the same command goes on");
            }
        })?;
        let Fetched { dataset, sha256, sha256_file } = fetched;
        for remark in dataset.remarks() {
            say!("{remark}");
        }
        let [train, val] = [Split::Train, Split::Val].map(|split| dataset.samples(split).len());
        let output = show_path(&options.output);
        say!("SHA-256 of the archive: {sha256}, kept in {}", show_path(&sha256_file));
        say!(
            "{train} training and {val} validation photos; train on them with: residuum train --data-dir {output}"
        );
        Ok(())
    }
}

fn address(text: &str) -> std::result::Result<String, String> {
    match fetch::is_address(text) {
        true => Ok(text.into()),
        false => Err("give an address that begins with http:// or https://; --archive takes a file".into()),
    }
}

fn sha256(text: &str) -> std::result::Result<String, String> {
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.into()),
        false => Err("give 64 hexadecimal digits, as sha256sum prints them".into()),
    }
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0.01 to 86400".into()),
    }
}
