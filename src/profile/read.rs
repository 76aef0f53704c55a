//! Reading a profile that was written as JSON.

use std::path::Path;

use serde::Deserialize;

use super::{FORMAT, Profile, Totals};
use crate::error::{Error, Result};
use crate::regular_file;
use crate::show::show_text;

/// A step of thousands of launches takes a few of these.
const MAX_BYTES: usize = 64 << 20;
const REMEDY: &str = "name a file that `residuum profile --json` wrote, or profile again";

/// What every version writes.
#[derive(Deserialize)]
struct Head {
    format: u32,
    version: String,
}

impl Profile {
    /// The profile in the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Data`] if it is no regular file, longer than 64 MiB, no profile, or
    /// one in the format of another version.
    pub fn read(path: &Path) -> Result<Profile> {
        let bytes = regular_file::read(path, MAX_BYTES)?;
        let wrong = |message: String| Error::data(path, format!("{message}; {REMEDY}"));
        let not_json =
            |error: serde_json::Error| wrong(format!("is not a profile: {}", show_text(&error.to_string())));
        let head: Head = serde_json::from_slice(&bytes).map_err(not_json)?;
        if head.format != FORMAT {
            let version = show_text(&head.version);
            return Err(Error::data(
                path,
                format!(
                    "is in format {} of residuum {version}, where this version reads format {FORMAT}; profile again",
                    head.format
                ),
            ));
        }
        let profile: Profile = serde_json::from_slice(&bytes).map_err(not_json)?;
        profile.verify().map_err(wrong)?;
        Ok(profile)
    }

    /// Whether the numbers agree with each other; what is wrong if they do not.
    fn verify(&self) -> std::result::Result<(), String> {
        for (index, launch) in self.launches.iter().enumerate() {
            let which = || format!("launch {index} (`{}`)", show_text(&launch.layer));
            match (&launch.gpu, &self.gpu) {
                // A damaged part of a flattened field reads as none.
                (None, Some(_)) => return Err(format!("{} lacks what it asks of the GPU", which())),
                (Some(_), None) => {
                    return Err(format!("{} runs on a GPU that the profile does not name", which()));
                }
                (Some(gpu), Some(_)) if gpu.counts.shared_phases < gpu.counts.ideal_phases => {
                    return Err(format!("{} has fewer phases of shared memory than it needs", which()));
                }
                _ => {}
            }
        }
        let sums = Totals::of(&self.launches, self.setting.batch_size);
        let counts = |totals: &Totals| {
            [totals.launches as u64, totals.flops, totals.dram_bytes, totals.l2_bytes, totals.bank_conflicts]
        };
        if counts(&sums) == counts(&self.totals) {
            Ok(())
        } else {
            Err("its totals are not the sums over its launches".to_string())
        }
    }
}
