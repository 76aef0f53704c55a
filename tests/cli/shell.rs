//! What an installed program is to a shell: completions, manual pages, a version that names its commit.

use std::fs;

use crate::program::Program;

#[test]
fn completions_name_commands_and_flags() {
    let program = Program::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = program.succeeds(&format!("completions {shell}"));
        for word in ["check-kernels", "clean", "batch-size"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    program.fails("completions csh", 2, &["csh", "bash"]);
}

#[test]
fn manual_pages_are_printed_and_written() {
    let program = Program::new();
    let page = program.succeeds("man");
    for part in [".TH residuum 1", "Exit codes", "residuum\\-train(1)"] {
        assert!(page.contains(part), "`{part}` is not in:\n{page}");
    }
    program.succeeds("man --output pages");
    assert!(fs::read_to_string(program.path("pages/residuum-train.1")).unwrap().contains("batch\\-size"));
    assert!(program.path("pages/residuum-data-clean.1").exists());
}

#[test]
fn the_version_names_the_commit() {
    let said = Program::new().succeeds("--version");
    let commit = option_env!("RESIDUUM_COMMIT").map_or_else(String::new, |commit| format!(" ({commit})"));
    assert_eq!(said.trim_end(), format!("residuum {}{commit}", env!("CARGO_PKG_VERSION")));
}
