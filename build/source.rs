//! What `build.rs` reads in a kernel file: its kernels, the headers it includes, the spills it declares, and
//! (`declared.rs`) what it shares with Rust.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::declared::{Declared, is_identifier};

/// One `KERNEL(symbol, Args, threads)`, with or without a fewest number of blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the symbol.
    pub name: String,
    /// Name of its argument struct.
    pub args: String,
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
    /// What it and its headers share with Rust.
    pub declared: Declared,
    /// The text of the file, then that of every header it includes, each under its name.
    pub text_with_headers: String,
}

impl KernelFile {
    /// Reads a file and the headers that it includes, which lie next to it or in `headers`.
    pub fn read(path: &Path, headers: &Path) -> Result<KernelFile, String> {
        let located = |message: String| format!("{}: {message}", path.display());
        let sources = with_headers(path, headers)?;
        let text = &sources[0].text;
        let entries = entries(text).map_err(located)?;
        let allowed_spills = allowed_spills(text).map_err(located)?;
        if let Some(unknown) =
            allowed_spills.iter().find(|spill| entries.iter().all(|entry| entry.name != spill.kernel))
        {
            return Err(located(format!(
                "ALLOW_SPILL names `{}`, which is not a kernel here",
                unknown.kernel
            )));
        }
        let arguments: Vec<&str> = entries.iter().map(|entry| entry.args.as_str()).collect();
        let declared = Declared::read(&sources, &arguments)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text_with_headers = joined(&sources);
        Ok(KernelFile {
            path: path.to_path_buf(),
            stem,
            entries,
            allowed_spills,
            declared,
            text_with_headers,
        })
    }
}

/// A source file, as it is and without its comments.
#[derive(Debug, Clone)]
pub struct SourceText {
    /// Where it is.
    pub path: PathBuf,
    /// As it is.
    pub text: String,
    /// The text with comments blanked out, byte by byte as it was.
    pub code: String,
}

impl SourceText {
    /// The file at `path`, which holds `text`.
    pub fn new(path: &Path, text: String) -> SourceText {
        let code = without_comments(&text);
        SourceText { path: path.to_path_buf(), text, code }
    }

    /// `message` about the place `at`.
    pub fn located(&self, at: usize, message: &str) -> String {
        let line = self.text[..at].matches('\n').count() + 1;
        format!("{}:{line}: {message}", self.path.display())
    }

    /// Where `word` stands in the code as a word of its own.
    pub fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        self.code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
            !self.code[..at].ends_with(is_part) && !self.code[at + word.len()..].starts_with(is_part)
        })
    }

    /// The end of the block whose brace opens at `at`.
    pub fn end_of_block(&self, at: usize) -> Option<usize> {
        let mut depth = 0;
        for (offset, c) in self.code[at..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(at + offset + 1);
            }
        }
        None
    }

    /// What comments say about the declaration from `start` to `end`: the paragraph right above its line, if nothing
    /// stands before it there, and the rest of its last line.
    pub fn comment(&self, start: usize, end: usize) -> String {
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let mut words = Vec::new();
        if self.text[line_start..start].trim().is_empty() {
            let above = self.text[..line_start].lines().rev();
            let comments = above.map_while(|line| line.trim_start().strip_prefix("//"));
            words.extend(comments.map(str::trim).take_while(|line| !line.is_empty()));
            words.reverse();
        }
        let rest = self.text[end..].lines().next().unwrap_or_default();
        words.extend(rest.split_once("//").map(|(_, comment)| comment.trim()));
        words.join(" ")
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
                "line {}: write KERNEL(symbol, Args, threads) or KERNEL(symbol, Args, threads, blocks) on one line, \
                 threads and blocks as numbers",
                number + 1
            )
        };
        let (arguments, _) = arguments.split_once(')').ok_or_else(wrong)?;
        let mut words = arguments.split(',').map(str::trim);
        let (Some(name), Some(args), Some(threads)) = (words.next(), words.next(), words.next()) else {
            return Err(wrong());
        };
        let block_threads: u32 = threads.parse().map_err(|_| wrong())?;
        let fewest_blocks: u32 = words.next().unwrap_or("1").parse().map_err(|_| wrong())?;
        let are_names = is_identifier(name) && is_identifier(args) && words.next().is_none();
        if !are_names || !(1..=32).contains(&fewest_blocks) || !(1..=1024).contains(&block_threads) {
            return Err(wrong());
        }
        entries.push(Entry { name: name.to_string(), args: args.to_string(), block_threads });
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

/// A file and every header it includes, found next to the includer or in `headers`.
pub fn with_headers(path: &Path, headers: &Path) -> Result<Vec<SourceText>, String> {
    let mut waiting = vec![path.to_path_buf()];
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
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
        all.push(SourceText::new(&path, text));
    }
    Ok(all)
}

/// The texts of `sources`, each under its name.
pub fn joined(sources: &[SourceText]) -> String {
    sources.iter().map(|source| format!("{}\0{}\0", source.path.display(), source.text)).collect()
}

/// `text` with comments blanked out, byte by byte as it was.
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
        code.extend(rest[..length].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    code + rest
}
