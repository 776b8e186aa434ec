//! Configurations: wrong ones say what is wrong with them, good ones load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::meridian;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn check(file: &Path) -> (bool, String) {
    let output = meridian(&["check", file.to_str().unwrap()]);
    let both = [output.stdout, output.stderr].concat();
    // Only the names of files count, not where they are.
    let place = format!("{}/", file.parent().unwrap().display());
    (output.status.success(), String::from_utf8(both).unwrap().replace(&place, ""))
}

/// What stands behind `# says` at the end of a wrong configuration.
fn expected(text: &str) -> Vec<String> {
    let (_, said) = text.split_once("\n# says\n").expect("what it must say");
    said.lines().map(|line| line.strip_prefix("# ").expect("a comment").to_owned()).collect()
}

#[test]
fn each_wrong_configuration_is_told_what_is_wrong_with_it() {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder("tests/config")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml"));
    assert!(files.len() >= 40, "{}", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let (good, told) = check(&file);
        let told: Vec<&str> = told.lines().collect();
        assert!(!good, "{}: {told:#?}", file.display());
        assert_eq!(told, expected(&text), "{}", file.display());
    }
}

#[test]
fn the_file_is_named_as_serve_takes_it_too() {
    let file = folder("config/minimal.yaml");
    let file = file.to_str().unwrap();
    for arguments in [&["check", file][..], &["check", "--config", file]] {
        assert!(meridian(arguments).status.success(), "{arguments:?}");
    }
    for wrong in [&["check"][..], &["check", file, "--config", file]] {
        assert_eq!(meridian(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_examples_load() {
    for example in ["config/meridian.yaml", "config/minimal.yaml", "fuzz/world.yaml"] {
        let (good, told) = check(&folder(example));
        assert!(good, "{example}: {told}");
    }
}

#[test]
fn weights_are_told_where_they_decide() {
    let file = folder("config/meridian.yaml");
    let (_, told) = check(&file);
    assert!(told.contains("canary (weighted: us-east 95, us-west 5): "), "{told}");
    let asked = ["explain", "canary.example.com", "--from", "192.0.2.1", "--config"];
    let output = meridian(&[&asked[..], &[file.to_str().unwrap()]].concat());
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("by weight: us-east 95, us-west 5\n"), "{told}");
}

#[test]
fn without_places_all_else_is_explained() {
    let file = folder("tests/config/geoip-missing.yaml");
    let (file, more) = (file.to_str().unwrap(), ["--from", "134.226.1.7", "--json"]);
    let output = meridian(&[&["explain", "www.example.com", "--config", file], &more[..]].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    for part in [":1:20: error: geoip.database: there is no file ", "wrong.csv:1:1: error: "] {
        assert!(told.contains(part), "{told}");
    }
    assert!(told.ends_with("and none starts with these\n"), "{told}");
    let explained: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(explained["answer"][0], "192.0.2.10", "{explained}");
    assert!(!output.status.success());
}

/// The annotated example leaves out no key: those that it comments out load too.
#[test]
fn the_annotated_example_shows_every_key() {
    let text = fs::read_to_string(folder("config/meridian.yaml")).unwrap();
    let source = ["cluster", "node", "places", "checks", "services", "zones", "mod"].map(|room| {
        fs::read_to_string(folder("src/config").join(room).with_extension("rs")).unwrap()
    });
    let source = source.concat();
    let asked = source.split("fields.get(\"").skip(1).chain(source.split("fields.need(\"").skip(1));
    let also = ["fixed", "connections", "per_client", "dot", "doh", "doq", "nsid", "id_server"];
    let keys = asked.map(|rest| rest.split('"').next().unwrap()).chain(also);
    for key in keys {
        assert!(text.contains(&format!("{key}:")), "the key `{key}` is not shown");
    }
}

#[test]
fn what_cannot_be_read_is_said_too() {
    let (good, told) = check(&folder("tests/config/there-is-no-such-file"));
    assert!(!good && told.contains("there is no file"), "{told}");
    let (good, told) = check(&folder("tests"));
    assert!(!good && told.contains("is a directory"), "{told}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("binary.yaml");
    fs::write(&file, [0xff, 0xfe, 0]).unwrap();
    let (good, told) = check(&file);
    assert!(!good && told.contains("not a text in UTF-8"), "{told}");
}

#[test]
fn what_is_wrong_with_a_file_of_states_is_told_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let text = "regions: { here: {} }
checks: { told: { pushed: states.txt } }
zones: { example.com: { ns: [ns1.example.net] } }
services:
  web: { names: [www.example.com], check: told, regions: { here: 192.0.2.1 } }
";
    fs::write(&file, text).unwrap();
    let (good, told) = check(&file);
    let missing = "a.yaml:2:27: warning: checks.told.pushed: there is no file states.txt";
    assert!(good && told.contains(missing), "{told}");
    fs::write(folder.path().join("states.txt"), "# all\n192.0.2.1 upp\n").unwrap();
    let (good, told) = check(&file);
    assert!(good && told.contains("states.txt:2:1: warning: expected ADDRESS up|down"), "{told}");
}

/// They are read when they are needed; without them all else goes on.
#[test]
fn tokens_that_are_not_there_are_told_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let text = "http: { tokens: nobody }
webhooks: { chat: { url: \"http://127.0.0.1:9/\", token: nothing } }
regions: { here: {} }
zones: {}
services: {}
";
    fs::write(&file, text).unwrap();
    let (good, told) = check(&file);
    assert!(good, "{told}");
    for line in [
        "a.yaml:1:17: warning: http.tokens: there is no file nobody\n",
        "a.yaml:2:56: warning: webhooks.chat.token: there is no file nothing\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
}

/// They may come later.
#[test]
fn programs_of_checks_that_cannot_be_run_are_told_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let (file, shut) = (folder.path().join("a.yaml"), folder.path().join("shut"));
    fs::write(&shut, "#!/bin/sh\n").unwrap();
    let text = format!(
        "checks:
  cmd: {{ command: [/usr/local/bin/chek, --fast] }}
  shut: {{ command: [{}] }}
  fine: {{ command: [/usr/bin/true] }}
regions: {{ us: {{}}, eu: {{}} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web:
    names: a.example.com
    check: [cmd, shut, fine]
    regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }}
",
        shut.display()
    );
    fs::write(&file, text).unwrap();
    let (good, told) = check(&file);
    assert!(good, "{told}");
    let missing = "a.yaml:2:19: warning: checks.cmd.command: /usr/local/bin/chek: No such file";
    assert!(told.contains(missing), "{told}");
    assert!(told.contains("a.yaml:3:20: warning: checks.shut.command: "), "{told}");
    assert!(told.contains("shut: it is not executable") && !told.contains("fine"), "{told}");
}

/// What can be served and can never work.
#[test]
fn what_can_never_work_is_told_though_it_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::write(place("tokens"), "# name token\nalice s3cret\nbob\n").unwrap();
    fs::write(place("feed.csv"), "192.0.2.0/25,GB,,London,\n192.0.2.128/25,UK,,London,\n").unwrap();
    let text = "http: { tokens: tokens }
geoip: { geofeed: feed.csv }
steering: { countries: { UK: [us], GB: [us] }, subdivisions: { UK-ENG: [us] } }
cluster: { key: key, nodes: { meridian: \"192.0.2.1:8054\", other: \"192.0.2.2:8054\" } }
maintenance:
  past: { of: us, at: 2020-01-31T02:00:00Z, for: 1h }
  never: { of: us, at: \"0 2 31 2 * UTC\", for: 1h }
  comes: { of: web/eu, at: \"0 2 * * SUN UTC\", for: 1h }
regions: { us: { at: [39, -77] }, eu: {} }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  web: { names: www.example.com, regions: { us: 192.0.2.10, eu: 192.0.2.20 } }
  api: { names: api.example.com, regions: { us: 192.0.2.11 } }
  old: { names: old.example.com, regions: { us: 192.0.2.12 } }
retired: [gone.example.com, WWW.example.com, example.com]
rate_limit: { same: 10, all: 5 }
";
    let (file, key) = (place("a.yaml"), place("key"));
    fs::write(&file, text).unwrap();
    fs::write(key, "0123456789abcdef0123456789abcdef").unwrap();
    let (good, told) = check(&file);
    assert!(good, "{told}");
    for expected in [
        "tokens:3:1: warning: expected NAME TOKEN; until that is mended, no token counts",
        "feed.csv:2:1: warning: ISO 3166-1 has no country UK, so no client is there; the United",
        "a.yaml:3:26: warning: steering.countries: `UK`: ISO 3166-1 has no country UK",
        "a.yaml:3:64: warning: steering.subdivisions: `UK-ENG`: ISO 3166-1 has no country UK",
        "a.yaml:4:29: warning: cluster.nodes: two nodes can only agree or stand still",
        "a.yaml:6:23: warning: maintenance.past.at: it is over, and nothing is drained",
        "a.yaml:7:24: warning: maintenance.never.at: such a time never comes",
        "a.yaml:6:15: warning: maintenance.past.of: the service api (and 1 more) has nothing else",
        "a.yaml:15:29: warning: retired: WWW.example.com. is still a name of the service web",
        "a.yaml:15:46: warning: retired: example.com. is still a zone",
        "a.yaml:16:30: warning: rate_limit.all: 5 answers of all are fewer than 10 of the `same`",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    let lines = told.lines().filter_map(|line| line.strip_prefix("a.yaml:")?.split(':').next());
    let lines: Vec<usize> = lines.filter_map(|line| line.parse().ok()).collect();
    assert!(lines.len() >= 8 && lines.is_sorted(), "{told}");
    for fine in ["`GB`", "maintenance.comes", "gone"] {
        assert!(!told.contains(fine), "{told}");
    }
}

#[test]
fn what_is_missing_is_told_in_its_turn_and_so_is_an_empty_geofeed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let text = "http: { tokens: nobody }
geoip: { geofeed: feed.csv }
rate_limit: { same: 2, all: 1 }
webhooks: { chat: { url: \"http://127.0.0.1:9/\", token: nothing } }
regions: { here: { at: [39, -77] } }
checks: { told: { pushed: states.txt } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services: { web: { names: www.example.com, check: told, regions: { here: 192.0.2.1 } } }
";
    fs::write(&file, text).unwrap();
    fs::write(folder.path().join("feed.csv"), "# nothing yet\n").unwrap();
    let (good, told) = check(&file);
    assert!(good, "{told}");
    let warnings = told.lines().filter(|line| line.contains(": warning: "));
    let places: Vec<&str> = warnings.map(|line| line.split(": ").next().unwrap()).collect();
    let expected = ["a.yaml:1:17", "a.yaml:3:29", "a.yaml:4:56", "a.yaml:6:27", "feed.csv"];
    assert_eq!(places, expected, "{told}");
}

#[test]
fn problems_can_be_had_as_json() {
    let file = folder("tests/config/unknown-key.yaml");
    let output = meridian(&["check", "--json", file.to_str().unwrap()]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["ok"], false);
    let problems = told["problems"].as_array().unwrap();
    let problem = problems.iter().find(|of| of["suggestion"] == "regions").unwrap();
    assert!(problem["line"].is_u64() && problem["column"].is_u64(), "{told}");
}

/// Root may read everything, so that somebody else asks.
#[test]
fn a_file_without_permission_is_said_to_be_one() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), open.clone()).unwrap();
    let program = folder.path().join("meridian");
    fs::copy(env!("CARGO_BIN_EXE_meridian"), &program).unwrap();
    let (file, database) = (folder.path().join("a.yaml"), folder.path().join("a.mmdb"));
    fs::write(
        &file,
        "geoip: { database: a.mmdb }\nregions: { here: {} }\nzones: {}\nservices: {}\n",
    )
    .unwrap();
    fs::write(&database, "secret").unwrap();
    for shut in [&database, &file] {
        fs::set_permissions(shut, fs::Permissions::from_mode(0o000)).unwrap();
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        let mut command = Command::new(if is_root { "setpriv" } else { "env" });
        if is_root {
            command.args(["--reuid=65534", "--clear-groups"]);
        }
        let output = command.arg(&program).arg("check").arg(&file).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        let expected = format!("no permission to read {}", shut.display());
        assert!(!output.status.success() && told.contains(&expected), "{told}");
    }
}
