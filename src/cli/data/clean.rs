//! `residuum data clean`: the packs in the cache, and which of them nobody needs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;

use crate::data::pack::{self, CachedPack, Need};
use crate::error::Result;
use crate::report::{Align, Table};
use crate::show::{show_bytes, show_path};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Show the decoded photos in the cache, and remove those that nobody needs
#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// Where decoded photos are kept [default: RESIDUUM_CACHE, or residuum in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Count those as not needed, too, that were not used for so many days
    #[arg(long, value_name = "DAYS")]
    unused_days: Option<u32>,
    /// Remove what is not needed
    #[arg(long)]
    remove: bool,
}

impl CleanArgs {
    pub(super) fn run(self) -> Result<()> {
        let cache = self.cache_dir.map_or_else(pack::default_cache_dir, Ok)?;
        let now = SystemTime::now();
        let unused_since = self.unused_days.map(|days| now.checked_sub(DAY * days).unwrap_or(now));
        let packs = pack::cached_packs(&cache, unused_since)?;
        if packs.is_empty() {
            say!("no decoded photos in {}", show_path(&cache));
            return Ok(());
        }
        say!("{}", table(&packs, now));
        let not_needed =
            || packs.iter().filter(|pack| !matches!(pack.need, Need::Needed | Need::InTheMaking));
        let (mut num_files, mut num_bytes) = (0, 0);
        for pack in not_needed() {
            if !self.remove || pack.remove()? {
                num_files += 1;
                num_bytes += pack.num_bytes;
            }
        }
        let size = show_bytes(num_bytes as usize);
        match (num_files, self.remove) {
            (0, _) => say!("all of them are needed"),
            (_, true) => say!("{num_files} of {} removed: {size}", packs.len()),
            (_, false) => {
                say!("{num_files} of {} are not needed: {size}; --remove removes them", packs.len());
            }
        }
        Ok(())
    }
}

fn table(packs: &[CachedPack], now: SystemTime) -> Table {
    let mut table = Table::new([
        ("file", Align::Left),
        ("size", Align::Right),
        ("pixels", Align::Right),
        ("last used", Align::Right),
        ("needed", Align::Left),
        ("data set", Align::Left),
    ]);
    for pack in packs {
        let name = Path::new(pack.path.file_name().unwrap_or_default());
        let age = pack.last_used.and_then(|used| now.duration_since(used).ok()).unwrap_or_default();
        let contents = pack.contents.as_ref();
        table.row([
            show_path(name),
            show_bytes(pack.num_bytes as usize),
            contents.map_or_else(String::new, |(size, _)| size.to_string()),
            match age.as_secs() / DAY.as_secs() {
                0 => "today".into(),
                1 => "1 day ago".into(),
                days => format!("{days} days ago"),
            },
            match pack.need {
                Need::Needed => "yes",
                Need::InTheMaking => "in the making",
                Need::OtherVersion => "no: damaged, or made by another version",
                Need::NoDataSet => "no: its data set cannot be opened",
                Need::DataSetChanged => "no: its photos or lists have changed",
                Need::Unused => "no: not used for long",
            }
            .into(),
            contents.map_or_else(String::new, |(_, origin)| show_path(&origin.data_dir)),
        ]);
    }
    table
}
