//! Profiles in files.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::*;

fn written(text: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("profile.json");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn a_profile_is_read_as_it_was_written() {
    for profile in [predicted(2), measured(2), on_cpu()] {
        let (_folder, path) = written(&serde_json::to_string(&profile).unwrap());
        assert_eq!(Profile::read(&path).unwrap(), profile);
    }
}

#[test]
fn what_is_no_profile_of_this_version_is_refused_with_a_remedy() {
    let json = |change: fn(&mut Value)| {
        let mut value = serde_json::to_value(predicted(1)).unwrap();
        change(&mut value);
        value.to_string()
    };
    for (text, part) in [
        (json(|value| value["format"] = 9.into()), "is in format 9 of residuum 0.1.0 (abc1234)"),
        (json(|value| value["format"] = 9.into()), "profile again"),
        ("{}".into(), "is not a profile: missing field `format`"),
        ("[1, 2".into(), "name a file that `residuum profile --json` wrote"),
        (
            json(|value| value["launches"][1]["kernel"] = 3.into()),
            "launch 1 (`conv1.weight.blocks`) lacks what",
        ),
        (
            json(|value| value["gpu"] = Value::Null),
            "launch 0 (`images`) runs on a GPU that the profile does not name",
        ),
        (json(|value| value["launches"][0]["shared_phases"] = 7.into()), "fewer phases of shared memory"),
        (
            json(|value| value["totals"]["l2_bytes"] = 7.into()),
            "its totals are not the sums over its launches",
        ),
        (json(|value| value["setting"] = Value::Null), "is not a profile: invalid type: null"),
    ] {
        let (_folder, path) = written(&text);
        let error = Profile::read(&path).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with(path.to_str().unwrap()) && message.contains(part), "{message}");
        assert!(message.contains("profile again"), "{message}");
        assert_eq!(error.exit_code(), 4);
    }
    let folder = TempDir::new().unwrap();
    assert!(Profile::read(folder.path()).unwrap_err().to_string().contains("is a folder"));
}
