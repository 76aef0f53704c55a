//! The documents: their paths and names exist, and what they quote is what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use residuum::fuse::Rewrite;

const DOCUMENTS: [&str; 9] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/guide.md",
    "docs/paper.md",
    "docs/augmentation.md",
    "docs/distributed.md",
    "kernels/README.md",
    "tests/README.md",
];
/// Folders whose files documents may name.
const ROOTS: [&str; 9] =
    ["src/", "kernels/", "tests/", "benches/", "examples/", "docs/", "scripts/", "recipes/", "build/"];
/// Sources in which a name must occur.
const SOURCES: [&str; 9] =
    ["src", "kernels", "tests", "benches", "build", "build.rs", "examples", "scripts", "Cargo.toml"];
/// Placeholders, and parts of names.
const FOREIGN: [&str; 7] = ["MyOp", "MyOpBwd", "num_", "_idx", "_bytes", "_elems", "_us"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// What stands between backticks outside code blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut is_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code && !line.starts_with("    ") {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose.split('`').skip(1).step_by(2).map(|quote| quote.replace('\n', " ")).collect()
}

/// A path of the repository, or of a folder of sources, without what follows it.
fn as_path(quote: &str) -> Option<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let known =
        ROOTS.iter().any(|root| quote.starts_with(root)) || quote.ends_with(".rs") || quote.ends_with(".cu");
    (known && quote.chars().all(is_path) && !quote.starts_with('.')).then(|| quote.to_string())
}

#[test]
fn paths_in_the_documents_exist() {
    let mut dead = Vec::new();
    for document in DOCUMENTS {
        for path in quoted(&read(document)).iter().filter_map(|quote| as_path(quote)) {
            let places =
                ["", "src/", "src/ops/", "kernels/", "tests/"].map(|folder| root().join(folder).join(&path));
            if !places.iter().any(|place| place.exists()) {
                dead.push(format!("{document}: {path}"));
            }
        }
        let text = read(document);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            if !root().join(document).parent().unwrap().join(link).exists() {
                dead.push(format!("{document}: link to {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn names_in_the_documents_occur_in_the_sources() {
    let mut words = BTreeSet::new();
    for path in SOURCES.iter().flat_map(|source| files(&root().join(source))) {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        words.extend(text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_string));
    }
    let mut dead = Vec::new();
    for document in DOCUMENTS {
        for quote in quoted(&read(document)) {
            let name = quote.trim_end_matches("()");
            let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
            let is_ours = name.contains("::")
                || name.contains('_')
                || name.starts_with(|c: char| c.is_ascii_uppercase());
            if !is_name || !is_ours || FOREIGN.contains(&name) {
                continue;
            }
            let unknown = name.split(':').filter(|part| !part.is_empty()).find(|part| !words.contains(*part));
            if let Some(part) = unknown {
                dead.push(format!("{document}: `{quote}` ({part})"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn the_front_page_is_short_and_quotes_its_example_whole() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 160, "README.md has {} lines", readme.lines().count());
    assert!(readme.contains(&read("examples/train_a_batch.rs")));
    for path in files(&root().join("examples")) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let most = if path.ends_with("train_a_batch.rs") { 25 } else { 60 };
        assert!(lines <= most, "{} has {lines} lines, more than {most}", path.display());
    }
}

#[test]
fn the_guide_has_the_table_of_rewrites() {
    let row = |rewrite: Rewrite| format!("| `{}` | {} |\n", rewrite.name(), rewrite.does());
    let rows: String = Rewrite::ALL.into_iter().map(row).collect();
    assert!(read("docs/guide.md").contains(&format!("|---|---|\n{rows}\n")), "docs/guide.md lacks:\n{rows}");
}

#[test]
fn pictures_of_the_documents_come_from_the_script() {
    let script = read("scripts/pictures.sh");
    for picture in files(&root().join("docs/pictures")) {
        let name = picture.file_name().unwrap().to_string_lossy().into_owned();
        assert!(script.contains(&name), "scripts/pictures.sh does not make {name}");
    }
}

#[test]
fn sources_of_the_library_have_at_most_500_lines() {
    let sources = files(&root().join("src")).into_iter();
    for path in sources.filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let lines = fs::read_to_string(&path).map_or(0, |text| text.lines().count());
        assert!(lines <= 500, "{} has {lines} lines", path.display());
    }
}

/// The file at `path`, or all files below it.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}
