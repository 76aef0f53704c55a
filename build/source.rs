//! What `build.rs` reads in a kernel file: its kernels, the headers it includes, the spills it declares.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One `KERNEL(symbol, Args, threads)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the symbol.
    pub name: String,
    /// Threads of a block.
    pub block_threads: u32,
}

/// A register spill that the author accepts: `// ALLOW_SPILL(symbol, bytes): reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedSpill {
    /// Which kernel.
    pub kernel: String,
    /// Most bytes of stores and loads together, in a thread, on any architecture.
    pub bytes: u32,
}

/// A `.cu` file.
#[derive(Debug, Clone)]
pub struct KernelFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its name without the ending.
    pub stem: String,
    /// In the order of the file.
    pub entries: Vec<Entry>,
    /// In the order of the file.
    pub allowed_spills: Vec<AllowedSpill>,
    /// The text of the file, then that of every header it includes, each under its name.
    pub text_with_headers: String,
}

impl KernelFile {
    /// Reads a file and the headers that it includes, which lie beside it or in `headers`.
    pub fn read(path: &Path, headers: &Path) -> Result<KernelFile, String> {
        let located = |message: String| format!("{}: {message}", path.display());
        let text = fs::read_to_string(path).map_err(|error| located(error.to_string()))?;
        let entries = entries(&text).map_err(located)?;
        let allowed_spills = allowed_spills(&text).map_err(located)?;
        if let Some(unknown) =
            allowed_spills.iter().find(|spill| entries.iter().all(|entry| entry.name != spill.kernel))
        {
            return Err(located(format!("ALLOW_SPILL names `{}`, which is no kernel here", unknown.kernel)));
        }
        let text_with_headers = with_headers(path, headers)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(KernelFile { path: path.to_path_buf(), stem, entries, allowed_spills, text_with_headers })
    }
}

/// The kernels that `text` defines.
pub fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let code = without_comments(text);
    let mut entries = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let Some(arguments) = line.trim_start().strip_prefix("KERNEL(") else { continue };
        let wrong = || {
            format!(
                "line {}: write KERNEL(symbol, Args, threads) on one line, threads as a number",
                number + 1
            )
        };
        let (arguments, _) = arguments.split_once(')').ok_or_else(wrong)?;
        let mut words = arguments.split(',').map(str::trim);
        let (Some(name), Some(_), Some(threads)) = (words.next(), words.next(), words.next()) else {
            return Err(wrong());
        };
        let block_threads: u32 = threads.parse().map_err(|_| wrong())?;
        if !is_identifier(name) || !(1..=1024).contains(&block_threads) {
            return Err(wrong());
        }
        entries.push(Entry { name: name.to_string(), block_threads });
    }
    Ok(entries)
}

/// The spills that `text` declares.
pub fn allowed_spills(text: &str) -> Result<Vec<AllowedSpill>, String> {
    const MARK: &str = "// ALLOW_SPILL";
    let mut spills = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some(rest) = line.trim_start().strip_prefix(MARK) else { continue };
        let declared = rest
            .strip_prefix('(')
            .and_then(|rest| rest.split_once("):"))
            .filter(|(_, reason)| !reason.trim().is_empty())
            .and_then(|(arguments, _)| arguments.split_once(','))
            .and_then(|(kernel, bytes)| {
                Some(AllowedSpill { kernel: kernel.trim().to_string(), bytes: bytes.trim().parse().ok()? })
            });
        spills.push(
            declared.ok_or_else(|| format!("line {}: write {MARK}(symbol, bytes): reason", number + 1))?,
        );
    }
    Ok(spills)
}

/// Names in `#include "..."` lines.
pub fn local_includes(text: &str) -> impl Iterator<Item = &str> {
    fn name(line: &str) -> Option<&str> {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
        rest.trim_start().strip_prefix('"')?.split('"').next()
    }
    text.lines().filter_map(name)
}

/// The text of a file and of every header it includes, found beside the includer or in `headers`.
pub fn with_headers(path: &Path, headers: &Path) -> Result<String, String> {
    let mut waiting = vec![path.to_path_buf()];
    let mut seen = BTreeSet::new();
    let mut all = String::new();
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let folder = path.parent().unwrap_or(headers);
        for name in local_includes(&text) {
            // A header of the toolkit may be included in quotes, too; it changes with the version of nvcc only.
            waiting.extend(
                [folder, headers].map(|place| place.join(name)).into_iter().find(|path| path.exists()),
            );
        }
        all.push_str(&format!("{}\0{text}\0", path.display()));
    }
    Ok(all)
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `text` with comments blanked out, line by line as it was.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('/') {
        code.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            code.push('/');
            rest = &rest[1..];
            continue;
        };
        code.extend(rest[..length].chars().filter(|&c| c == '\n'));
        rest = &rest[length..];
    }
    code + rest
}
