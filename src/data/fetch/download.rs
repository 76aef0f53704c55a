//! A file from an address, in as many pieces as the network makes of it.
//!
//! What has come in is a `.part` next to a note of the file that it is of. The next try, of this process or another, asks for
//! what follows, on condition that the file is still the same (`If-Range`).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::http::{Answer, Client, GoOn, Head};
use super::{Fault, Stop, check_room, remove_if_there, sha256_hex};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::show::{show_bytes, show_seconds, show_text, tell};

/// The wait before a second try; each is twice the one before, and none longer than the time-out.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Endings of the names of what is not yet, and what is, downloaded as a whole.
pub(super) const PART: &str = "part";
pub(super) const WHOLE: &str = "whole";
/// From this size on it is told, and the room for it.
const TOLD_BYTES: u64 = 1 << 20;
const POLL: Duration = Duration::from_millis(50);

/// Downloads into a folder.
pub(super) struct Downloads<'a> {
    pub(super) client: Client,
    pub(super) folder: PathBuf,
    pub(super) timeout: Duration,
    /// Tries in a row that may bring no byte, after the first.
    pub(super) retries: u32,
    pub(super) stop: Stop<'a>,
}

impl Downloads<'_> {
    /// The whole file at `url`, of this call or an earlier one.
    ///
    /// # Errors
    /// [`Error::Data`] naming the address if it does not give the file, [`Error::Io`] if it cannot be kept,
    /// [`Error::Interrupted`] after a signal.
    pub(super) fn get(&self, url: &str) -> Result<PathBuf> {
        let part = Part::of(&self.folder, url);
        let mut failures = 0;
        while !part.whole.exists() {
            let before = part.len();
            let what = match self.try_once(url, &part) {
                Ok(()) => return part.complete(),
                Err(Fault::Stop(error)) => return Err(error),
                Err(Fault::Gone(what)) => return Err(Error::data(url, what)),
                Err(Fault::Again(what)) => what,
            };
            failures = if part.len() > before { 1 } else { failures + 1 };
            if failures > self.retries {
                return Err(Error::data(url, what));
            }
            let wait = (FIRST_WAIT * 2u32.saturating_pow(failures - 1)).min(self.timeout);
            let again = show_seconds(wait.as_secs_f64());
            tell(format_args!("{}: {what}; trying again in {again}", show_text(url)));
            self.sleep(wait)?;
        }
        Ok(part.whole)
    }

    fn sleep(&self, wait: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < wait {
            if let Some(signal) = (self.stop)() {
                return Err(Error::Interrupted { signal });
            }
            thread::sleep(POLL.min(wait));
        }
        Ok(())
    }

    /// Makes one request and keeps what it brings.
    fn try_once(&self, url: &str, part: &Part) -> std::result::Result<(), Fault> {
        let from = part.from();
        let answer = self.client.get(url, from.as_ref(), self.stop);
        let head = answer.head()?;
        let (file, begin, total) = match head.status {
            200 => {
                if from.is_some() {
                    tell(format_args!("{}: the file cannot be gone on with; it begins anew", show_text(url)));
                }
                (part.begin(url, &head)?, 0, head.length)
            }
            206 => {
                let bytes = from.map_or(0, |from| from.bytes);
                match head.range {
                    Some(range) if range.first == Some(bytes) => (part.append()?, bytes, range.total),
                    _ => {
                        part.forget()?;
                        return Err(Fault::Again("the server sent other bytes than it was asked for".into()));
                    }
                }
            }
            416 => {
                let total = head.range.and_then(|range| range.total);
                if total.is_some() && total == from.map(|from| from.bytes) {
                    return Ok(());
                }
                part.forget()?;
                return Err(Fault::Again("the file has changed".into()));
            }
            408 | 429 | 500..=599 => return Err(Fault::Again(format!("the server answers {}", head.answer))),
            _ => return Err(Fault::Gone(format!("the server answers {}", head.answer))),
        };
        if let Some(total) = total {
            let free = check_room(&self.folder, total.saturating_sub(begin))?;
            if total >= TOLD_BYTES {
                let [total, free, done] = [total, free, begin].map(|bytes| show_bytes(bytes as usize));
                let from = if begin == 0 { String::new() } else { format!(", of which {done} are here") };
                tell(format_args!("{}: {total}{from}; {free} are free", show_text(url)));
            }
        }
        let progress = Progress::of_bytes(format!("fetching {}", name_of(url)), total);
        progress.add(begin as usize);
        let mut received = begin;
        let kept = part.keep(file, &answer, |num_bytes| {
            received += num_bytes as u64;
            progress.add(num_bytes);
        });
        let after = |what: &str| {
            let of = total.map_or_else(String::new, |total| format!(" of {}", show_bytes(total as usize)));
            Err(Fault::Again(format!("{what} after {}{of}", show_bytes(received as usize))))
        };
        match kept {
            Err(Fault::Again(what)) => after(&what),
            Ok(()) if total.is_some_and(|total| total != received) => after("the answer ended"),
            other => other,
        }
    }
}

/// The last part of an address, for people.
fn name_of(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    show_text(path.trim_end_matches('/').rsplit('/').next().unwrap_or(path))
}

/// What there is of the file at an address.
struct Part {
    path: PathBuf,
    note: PathBuf,
    whole: PathBuf,
}

/// What a part is of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    url: String,
    validator: String,
}

impl Part {
    fn of(folder: &Path, url: &str) -> Part {
        let stem = &sha256_hex(url.as_bytes())[..12];
        let file = |kind: &str| folder.join(format!("{stem}.{kind}"));
        Part { path: file(PART), note: file("json"), whole: file(WHOLE) }
    }

    fn len(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Where to go on from, if what is there is known well enough.
    fn from(&self) -> Option<GoOn> {
        let bytes = Some(self.len()).filter(|&bytes| bytes > 0)?;
        let note: Note = serde_json::from_slice(&fs::read(&self.note).ok()?).ok()?;
        Some(GoOn { bytes, validator: note.validator })
    }

    /// An empty part of the file that `head` announces.
    fn begin(&self, url: &str, head: &Head) -> Result<File> {
        self.forget()?;
        if let Some(validator) = head.validator.clone() {
            let note = Note { url: url.into(), validator };
            let text = serde_json::to_vec(&note).expect("strings are JSON");
            fs::write(&self.note, text).map_err(Error::io("write", &self.note))?;
        }
        File::create(&self.path).map_err(Error::io("create", &self.path))
    }

    fn append(&self) -> Result<File> {
        OpenOptions::new().append(true).open(&self.path).map_err(Error::io("open", &self.path))
    }

    /// Adds what comes of `answer`, counted as it is kept.
    fn keep(
        &self,
        mut file: File,
        answer: &Answer,
        mut count: impl FnMut(usize),
    ) -> std::result::Result<(), Fault> {
        while let Some(bytes) = answer.bytes()? {
            file.write_all(&bytes).map_err(Error::io("write", &self.path))?;
            count(bytes.len());
        }
        Ok(file.sync_all().map_err(Error::io("write", &self.path))?)
    }

    /// Removes what is there.
    fn forget(&self) -> Result<()> {
        [&self.path, &self.note].into_iter().try_for_each(|path| remove_if_there(path))
    }

    fn complete(self) -> Result<PathBuf> {
        fs::rename(&self.path, &self.whole).map_err(Error::io("rename", &self.path))?;
        remove_if_there(&self.note)?;
        Ok(self.whole)
    }
}
