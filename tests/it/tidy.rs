//! The house rules that no lint knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The project's own files with one of these endings.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if !["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let shown = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((shown, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

/// The table of docs/ARCHITECTURE.md: a room, and those that it may use.
fn rooms() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let words = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (words(cells[1]).remove(0), words(cells[3]).into_iter().collect())
    })
    .collect()
}

#[test]
fn rooms_use_only_those_that_they_may() {
    let rooms = rooms();
    let mut seen = BTreeSet::new();
    for (file, text) in files(&[".rs"]) {
        let Some(inner) = file.strip_prefix("src/") else { continue };
        if ["lib.rs", "main.rs"].contains(&inner) || inner.ends_with("tests.rs") {
            continue;
        }
        let room = inner.split(['/', '.']).next().unwrap();
        let may = rooms.get(room).unwrap_or_else(|| panic!("{file}: no such room in the table"));
        seen.insert(room.to_owned());
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for used in code.split("crate::").skip(1) {
            let used = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            assert!(used == room || may.contains(used), "{file} uses `{used}`; see {may:?}");
        }
    }
    assert_eq!(seen, rooms.keys().cloned().collect(), "rooms of the table that are not there");
    // Nobody is above itself: a room that is used does not use back.
    for (room, may) in &rooms {
        for used in may {
            assert!(!rooms[used].contains(room), "{room} and {used} use each other");
        }
    }
}

#[test]
fn the_world_is_touched_in_one_room_only() {
    let worldly =
        ["std::fs", "std::net::Tcp", "std::net::Udp", "std::thread", "tokio::", "tracing::"];
    for (file, text) in files(&[".rs"]) {
        let inside = file.starts_with("src/") && !file.starts_with("src/server/");
        if !inside || file.starts_with("src/cli/") || file.ends_with("tests.rs") {
            continue;
        }
        for word in worldly {
            assert!(!text.contains(word), "{file} has {word}, which is server's");
        }
    }
}

#[test]
fn files_and_lines_stay_short_and_say_what_they_are() {
    for (file, text) in files(&[".rs"]) {
        assert!(text.lines().count() <= 600, "{file} has more than 600 lines");
        assert!(text.starts_with("//!"), "{file} does not begin by saying what it is for");
        for (row, line) in text.lines().enumerate() {
            assert!(line.chars().count() <= 100, "{file}:{}: longer than 100 columns", row + 1);
        }
    }
    for (file, text) in files(&[".md"]) {
        for (row, line) in text.lines().enumerate() {
            // A table's row and a link cannot be broken.
            let whole = line.starts_with('|') || line.contains("](");
            assert!(whole || line.chars().count() <= 100, "{file}:{}: too long", row + 1);
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    // Written apart, so that this file is not one of those that have them.
    let leftovers =
        ["db\u{67}!", "tod\u{6f}!", "FIXM\u{45}", "TOD\u{4f}", "XX\u{58}", "#[allo\u{77}"];
    for (file, text) in files(&[".rs", ".md", ".toml", ".yaml", ".yml", ".html", ".zone", "run"]) {
        for word in leftovers {
            assert!(!text.contains(word), "{file} has {word}");
        }
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{file}: how it ends");
        assert!(!text.lines().any(|line| line.ends_with(' ')), "{file}: spaces at an end of line");
    }
    for (file, _) in files(&[".rs"]) {
        for name in ["util", "common", "helpers", "manager", "misc"] {
            assert!(!file.split(['/', '.']).any(|part| part == name), "{file} says nothing");
        }
    }
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let named = |text: &str| -> BTreeSet<String> {
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        text.split(|c: char| !is_part(c))
            .filter(|word| word.starts_with("meridian_") && word.split('_').count() > 2)
            .map(|word| {
                let tail =
                    ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
                tail.unwrap_or(word).to_owned()
            })
            .collect()
    };
    let code: String = files(&[".rs"])
        .into_iter()
        .filter(|(file, _)| file.starts_with("src/"))
        .map(|(_, text)| text)
        .collect();
    let (code, mut docs) = (named(&code), BTreeSet::new());
    for file in
        ["docs/OPERATING.md", "deploy/prometheus/alerts.yml", "deploy/grafana/meridian.json"]
    {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let strange: Vec<String> = named(&text).difference(&code).cloned().collect();
        assert!(strange.is_empty(), "{file} names metrics that do not exist: {strange:?}");
        if file.ends_with(".md") {
            docs = named(&text);
        }
    }
    let untold: Vec<&String> =
        code.difference(&docs).filter(|name| !name.ends_with("_make")).collect();
    assert!(untold.is_empty(), "docs/OPERATING.md does not tell of {untold:?}");
}

#[test]
fn every_field_of_the_api_is_described() {
    let text = fs::read_to_string(root().join("src/server/http/openapi.json")).unwrap();
    let api: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, schema) in api["components"]["schemas"].as_object().unwrap() {
        for (field, of) in schema["properties"].as_object().into_iter().flatten() {
            let is_described = of.get("description").or(of.get("$ref")).is_some();
            assert!(is_described, "{name}.{field}: nothing says what it is");
        }
    }
}
