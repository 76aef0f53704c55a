//! Who may import whom: the table of ARCHITECTURE.md, checked against the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that everyone may use.
const COMMON: [&str; 8] =
    ["error", "named", "progress", "regular_file", "tensor", "rng", "show", "transform"];

#[test]
fn modules_import_only_what_the_table_allows() {
    let allowed = table();
    let mut seen = BTreeSet::new();
    for file in sources(&src()) {
        let module = module_of(&file);
        if module == "lib" || COMMON.contains(&module.as_str()) {
            continue;
        }
        let uses = allowed.get(&module).unwrap_or_else(|| panic!("{module} is not in the table"));
        for imported in imports(&file) {
            let fine = imported == module || COMMON.contains(&imported.as_str()) || uses.contains(&imported);
            assert!(fine, "{}: `{module}` must not use `{imported}`", file.display());
        }
        seen.insert(module);
    }
    let missing: Vec<&String> = allowed.keys().filter(|module| !seen.contains(*module)).collect();
    assert!(missing.is_empty(), "the table names modules that are not there: {missing:?}");
}

#[test]
fn the_table_has_no_circle() {
    let mut left = table();
    loop {
        let done: Vec<String> = left
            .iter()
            .filter(|(_, uses)| uses.iter().all(|used| !left.contains_key(used)))
            .map(|(m, _)| m.clone())
            .collect();
        if done.is_empty() {
            break;
        }
        done.iter().for_each(|module| drop(left.remove(module)));
    }
    assert!(left.is_empty(), "modules that use each other in a circle: {:?}", left.keys());
}

/// What each module may use besides itself and [`COMMON`], as ARCHITECTURE.md says.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = fs::read_to_string(path).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().skip_while(|line| *line != "| module | may use |").skip(2) {
        let Some(cells) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else { break };
        let (modules, uses) = cells.split_once('|').unwrap();
        for module in quoted(modules) {
            assert!(rows.insert(module.clone(), quoted(uses)).is_none(), "{module} has two rows");
        }
    }
    assert!(rows.len() > 10, "ARCHITECTURE.md has no table of imports any more");
    rows
}

/// The names in backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

#[test]
fn the_scan_sees_every_way_to_import() {
    let text = "use crate::plan::Plan;\nuse crate::{graph::Graph, ops};\nlet x = crate::exec::run();\n// crate::data::x\n";
    let found: Vec<String> = imports_in(text).into_iter().collect();
    assert_eq!(found, ["exec", "graph", "ops", "plan"]);
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files
}

/// `ops` for `src/ops/relu.rs` and for `src/ops.rs`.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(src()).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_string()
}

fn imports(file: &Path) -> BTreeSet<String> {
    imports_in(&fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

/// The first name behind every `crate::` and `residuum::` outside comments and unit tests, also inside braces.
fn imports_in(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for root in ["crate::", "residuum::"] {
        for (position, _) in code.match_indices(root) {
            let rest = &code[position + root.len()..];
            match rest.strip_prefix('{') {
                None => found.extend(leading_name(rest)),
                Some(group) => {
                    found.extend(top_level_items(group).iter().filter_map(|item| leading_name(item.trim())))
                }
            }
        }
    }
    // Re-exports of the crate's root: the error type and its Result.
    found.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

fn leading_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The comma-separated items of a brace group whose opening brace is already gone.
fn top_level_items(group: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut depth = 0;
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().unwrap().push(c);
            }
        }
    }
    items
}
