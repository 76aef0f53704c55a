//! The readers of `tests/corpora/`, each for a target of `cargo fuzz`; `scripts/fuzz.sh` runs them all.

#[path = "../../tests/corpora/readers.rs"]
mod readers;

use std::fs;
use std::panic;
use std::path::PathBuf;
use std::sync::OnceLock;

pub use libfuzzer_sys::fuzz_target;

/// Gives `bytes` to the reader called `name`.
pub fn read(name: &str, bytes: &[u8]) {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // libFuzzer's hook ends the process at panics that the program catches, too; the others end it without.
        panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for temporary files takes another");
        folder
    });
    readers::reader(name)(folder, bytes);
}

/// The target of the reader called `$name`.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::fuzz_target!(|bytes: &[u8]| $crate::read($name, bytes));
    };
}
