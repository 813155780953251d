//! The protocol, and what moves it, know no computation: their sources do not name one.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files of the workspace that carry payloads and results without knowing them.
const PLACES: [&str; 12] = [
    "pipeline",
    "kafka",
    "service",
    "worker",
    "dispatcher/src/dispatch.rs",
    "dispatcher/src/dispatch",
    "dispatcher/src/publish.rs",
    "dispatcher/src/publish",
    "dispatcher/src/taken_up.rs",
    "aggregator/src/collect.rs",
    "aggregator/src/completion.rs",
    "aggregator/src/completion",
];

/// In pieces, for this file is in one of the places.
const WORDS: [&str; 3] = [
    concat!("posi", "tiv"),
    concat!("ta", "lly"),
    concat!("ta", "llies"),
];

fn files(place: &Path, found: &mut Vec<PathBuf>) {
    if place.is_file() {
        found.push(place.to_owned());
        return;
    }
    let entries =
        fs::read_dir(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        files(&path, found);
    }
}

#[test]
fn what_carries_payloads_and_results_names_no_computation() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut named = Vec::new();
    for place in PLACES {
        let mut found = Vec::new();
        files(&workspace.join(place), &mut found);
        assert!(!found.is_empty(), "{place} has no file");
        for path in found {
            let text = fs::read_to_string(&path)
                .expect("sources are UTF-8")
                .to_lowercase();
            let lines = text.lines().enumerate();
            named.extend(
                lines
                    .filter(|(_, line)| WORDS.iter().any(|word| line.contains(word)))
                    .map(|(number, line)| format!("{}:{}: {line}", path.display(), number + 1)),
            );
        }
    }
    assert!(named.is_empty(), "{named:#?}");
}
