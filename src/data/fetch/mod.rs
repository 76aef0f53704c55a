//! MiniPlaces from where it is distributed: an archive of photos and object annotations, and four lists.
//!
//! Everything happens in a folder next to the one that is wanted: what has come in of the archive is kept there until the
//! whole is done, so the same call goes on after any end. The wanted folder appears by one rename, complete.

mod archive;
mod download;
mod http;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use self::download::Downloads;
use self::http::Client;
use super::{Dataset, OpenOptions, open};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::regular_file;
use crate::show::{show_bytes, show_path, show_text, tell};

/// Where the challenge's repository says that the archive is (<https://github.com/CSAILVision/miniplaces>).
pub const ARCHIVE_URL: &str = "http://miniplaces.csail.mit.edu/data/data.tar.gz";
/// The folder of that repository with the lists, which are not in the archive.
pub const LISTS_URL: &str = "https://raw.githubusercontent.com/CSAILVision/miniplaces/master/data";
/// The lists, and the folder of the archive without which one is of no use.
const LISTS: [(&str, &str); 4] = [
    ("categories.txt", "images"),
    ("train.txt", "images"),
    ("val.txt", "images"),
    ("object_categories.txt", "objects"),
];

/// The signal that asked to stop, if one did.
type Stop<'a> = &'a dyn Fn() -> Option<i32>;

/// What is fetched, from where, to where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the data set, which is not there yet.
    pub output: PathBuf,
    /// Addresses of the archive, tried in this order.
    pub urls: Vec<String>,
    /// An archive that is here, in place of all addresses.
    pub archive: Option<PathBuf>,
    /// Folder or address with the lists that the archive has not.
    pub lists: String,
    /// SHA-256 of the archive in hexadecimal digits; where it is not given, that of an earlier archive.
    pub sha256: Option<String>,
    /// How long a server may send nothing.
    pub timeout: Duration,
    /// Tries in a row that may bring nothing, after the first.
    pub retries: u32,
}

/// What was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The data set, in its folder.
    pub dataset: Dataset,
    /// SHA-256 of the archive, in hexadecimal digits.
    pub sha256: String,
    /// The file next to the folder that keeps it for the next time.
    pub sha256_file: PathBuf,
}

/// Why there is nothing, or no more, from a server.
enum Fault {
    /// The same may succeed later.
    Again(String),
    /// This address does not have it.
    Gone(String),
    /// Nothing is to be tried any more.
    Stop(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Stop(error)
    }
}

/// Fetches the data set and unpacks it.
///
/// # Errors
/// [`Error::Usage`] if the folder is there already or another process fetches into it; [`Error::Data`] if no address gives the
/// archive or a list, or naming what is wrong with what it gives; [`Error::Io`] if the disk is full or refuses;
/// [`Error::Interrupted`] after a signal. What has come in stays for the next call.
pub fn fetch(options: &Options, stop: Stop) -> Result<Fetched> {
    let Options { output, timeout, retries, .. } = options;
    if output.symlink_metadata().is_ok() {
        let output = show_path(output);
        return Err(Error::Usage(format!(
            "--output {output}: is there already, and nothing is overwritten; name another folder, or remove it"
        )));
    }
    if !is_address(&options.lists) && !Path::new(&options.lists).is_dir() {
        let lists = show_text(&options.lists);
        return Err(Error::Usage(format!(
            "--lists {lists}: is no folder, and no address of http:// or https://"
        )));
    }
    let mut work = Work::open(output)?;
    let downloads = Downloads {
        client: Client::new(*timeout),
        folder: work.folder.clone(),
        timeout: *timeout,
        retries: *retries,
        stop,
    };
    let wanted = Wanted::of(options)?;
    let archive = match &options.archive {
        Some(path) => wanted.verify(path, stop)?,
        None => from_any(&options.urls, &downloads, &wanted)?,
    };
    let lists = missing_lists(&archive.contents, &options.lists, &downloads)?;
    check_room(&work.folder, archive.contents.num_bytes)?;
    let unpacked = work.empty_folder()?;
    archive::unpack(&archive.path, &unpacked, stop)?;
    let root = root_in(&unpacked, &archive.path)?;
    for (name, path) in lists {
        let target = root.join(name);
        fs::copy(path, &target).map_err(Error::io("write", &target))?;
    }
    // Whatever is wrong with lists and photos is told before there is a folder.
    open(&root, &OpenOptions { allow_missing: true, ..OpenOptions::default() })?;
    // Of what was wrong, nothing is remembered.
    fs::write(&wanted.remembered, format!("{}  {}\n", archive.sha256, archive.name))
        .map_err(Error::io("write", &wanted.remembered))?;
    fs::rename(&root, output).map_err(Error::io("rename", &root))?;
    work.is_done = true;
    drop(work);
    let dataset = open(output, &OpenOptions { allow_missing: true, ..OpenOptions::default() })?;
    Ok(Fetched { dataset, sha256: archive.sha256, sha256_file: wanted.remembered })
}

/// An archive of which all is known.
struct Checked {
    path: PathBuf,
    name: String,
    sha256: String,
    contents: archive::Contents,
}

/// The archive from the first of the addresses that has it.
fn from_any(urls: &[String], downloads: &Downloads, wanted: &Wanted) -> Result<Checked> {
    let mut failed = None;
    for url in urls {
        if let Some(error) = failed.take() {
            tell(format_args!("{error}; trying {}", show_text(url)));
        }
        let found = downloads.get(url).and_then(|path| {
            let checked = wanted.verify(&path, downloads.stop);
            if matches!(checked, Err(Error::Data { .. })) {
                // It would be as wrong the next time.
                remove_if_there(&path)?;
            }
            // What was fetched has a name that says nothing to anybody.
            checked.map_err(|error| match error {
                Error::Data { message, .. } => Error::data(url, format!("{message}; what came is removed")),
                other => other,
            })
        });
        match found {
            Ok(checked) => return Ok(checked),
            Err(error @ Error::Data { .. }) => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    match failed {
        Some(Error::Data { path, message }) => {
            let remedy = "name a mirror with --url, or take an archive that is here with --archive";
            Err(Error::Data { path, message: format!("{message}; {remedy}") })
        }
        _ => Err(Error::Usage("no --url".into())),
    }
}

/// The checksum that an archive is to have.
struct Wanted {
    sha256: Option<String>,
    /// Where it is from.
    source: String,
    /// Where that of a verified archive is kept.
    remembered: PathBuf,
}

impl Wanted {
    fn of(options: &Options) -> Result<Wanted> {
        let remembered = beside(&options.output, "sha256");
        if let Some(sha256) = &options.sha256 {
            return Ok(Wanted { sha256: Some(sha256.to_lowercase()), source: "--sha256".into(), remembered });
        }
        let earlier = match fs::read_to_string(&remembered) {
            Ok(text) => text.split_whitespace().next().map(str::to_string),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("read", &remembered)(error)),
        };
        let source =
            format!("{}, of an earlier fetch; remove that file if it is to change", show_path(&remembered));
        Ok(Wanted { sha256: earlier, source, remembered })
    }

    /// Holds the archive at `path` to its checksum, and looks at all that is in it.
    fn verify(&self, path: &Path, stop: Stop) -> Result<Checked> {
        let sha256 = sha256_of(path, stop)?;
        if let Some(wanted) = self.sha256.as_ref().filter(|wanted| **wanted != sha256) {
            let message = format!("has the SHA-256 {sha256}, not {} ({})", show_text(wanted), self.source);
            return Err(Error::data(path, message));
        }
        let contents = archive::check(path, stop)?;
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Checked { path: path.to_path_buf(), name, sha256, contents })
    }
}

/// The lists that are not in the archive, each with the file that holds it.
fn missing_lists(
    contents: &archive::Contents,
    from: &str,
    downloads: &Downloads,
) -> Result<Vec<(&'static str, PathBuf)>> {
    let has =
        |name: &str| contents.top_files.iter().any(|path| path.file_name().is_some_and(|file| file == name));
    let mut lists = Vec::new();
    for (name, of) in LISTS.into_iter().filter(|(name, _)| !has(name)) {
        if of == "objects" && !contents.has_objects {
            continue;
        }
        let path = match is_address(from) {
            true => {
                let remedy = |error| match error {
                    Error::Data { path, message } => Error::data(
                        path,
                        format!(
                            "{message}; the archive is kept. --lists takes a folder with {name}, or another address"
                        ),
                    ),
                    other => other,
                };
                downloads.get(&format!("{}/{name}", from.trim_end_matches('/'))).map_err(remedy)?
            }
            false => Path::new(from).join(name),
        };
        if !path.is_file() {
            return Err(Error::Usage(format!("--lists {}: has no {name}", show_text(from))));
        }
        lists.push((name, path));
    }
    Ok(lists)
}

/// Whether `text` is an address and no folder.
pub fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The folder of the data set in what was unpacked: that of everything, or the one that lies in it.
fn root_in(unpacked: &Path, archive: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(unpacked).map_err(Error::io("read", unpacked))?;
    let folders = entries.flatten().map(|entry| entry.path());
    let root =
        std::iter::once(unpacked.to_path_buf()).chain(folders).find(|path| path.join("images").is_dir());
    root.ok_or_else(|| Error::data(archive, "has its folder images at an unknown place"))
}

/// The folder next to the wanted one in which a fetch works, for one process at a time.
struct Work {
    folder: PathBuf,
    is_done: bool,
    /// Closed, and thereby unlocked, at the end.
    _lock: File,
}

impl Work {
    fn open(output: &Path) -> Result<Work> {
        let folder = beside(output, "fetch");
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(Error::io("create", &path))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::Usage(format!(
                "{}: another process fetches into this folder; wait for it, or stop it first",
                show_path(&folder)
            ))),
            // A file system without locks: the guard is missing, the fetch is not.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Work { folder, is_done: false, _lock: lock }),
        }
    }

    fn unpacked(&self) -> PathBuf {
        self.folder.join("unpacked")
    }

    /// An empty folder to unpack into.
    fn empty_folder(&self) -> Result<PathBuf> {
        let folder = self.unpacked();
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
        }
        fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
        Ok(folder)
    }
}

impl Drop for Work {
    /// Leaves what was downloaded, for the next call; where there is none, or no more use for it, nothing.
    fn drop(&mut self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let is_downloaded = |path: PathBuf| {
            path.extension().is_some_and(|kind| kind == download::PART || kind == download::WHOLE)
        };
        let keeps = !self.is_done && entries.map(|entry| entry.path()).any(is_downloaded);
        // What cannot be removed does no harm: the next call does it, or says why not.
        let _ = fs::remove_dir_all(if keeps { self.unpacked() } else { self.folder.clone() });
    }
}

/// `output` with another ending.
fn beside(output: &Path, ending: &str) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    output.with_file_name(name)
}

/// The bytes that are free on the disk of `folder`; fails if `needed` are not.
fn check_room(folder: &Path, needed: u64) -> Result<u64> {
    // What cannot be told is told by the write that fails.
    let Ok(disk) = rustix::fs::statvfs(folder) else { return Ok(needed) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= needed {
        return Ok(free);
    }
    let [needed, free] = [needed, free].map(|bytes| show_bytes(bytes as usize));
    let full = io::Error::new(io::ErrorKind::StorageFull, format!("{needed} are needed and {free} are free"));
    Err(Error::io("write to", folder)(full))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sha256_of(path: &Path, stop: Stop) -> Result<String> {
    let mut file = regular_file::open(path)?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let progress = Progress::of_bytes("checksum of the archive", Some(length));
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        if let Some(signal) = stop() {
            return Err(Error::Interrupted { signal });
        }
        let num_bytes = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if num_bytes == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..num_bytes]);
        progress.add(num_bytes);
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
