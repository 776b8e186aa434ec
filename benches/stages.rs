//! Instructions of a query, stage by stage, as callgrind counts them: the same in every run.
//!
//! `cargo bench --bench stages` prints them. As a part of the tests none may be more than 5 % above
//! what `benches/stages.txt` has; `cargo test --release --bench stages -- --write` writes that file
//! anew. They are those of the optimised build, which is shipped.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what must be, must be; and figures are for people"
)]

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::process::Command;

use hickory_proto::rr::RecordType;
use meridian::query::{LowerName, Outcome, Peer, Query, Transport};
use meridian::snapshot::Snapshot;
use meridian::time::Instant;

#[path = "../tests/world/mod.rs"]
mod world;

/// Of each kind of query what is asked.
const KINDS: [(&str, &str, RecordType); 4] = [
    ("steered", "www.example.com", RecordType::A),
    ("fixed", "ns1.example.com", RecordType::A),
    ("no such name", "nope.example.com", RecordType::A),
    ("alias", "alias.example.com", RecordType::A),
];

/// Functions by stage, as callgrind sees them.
const STAGES: [&str; 7] = ["receive", "approach", "find", "select", "near", "choose", "respond"];

/// So many of each; the first goes before, uncounted.
const TIMES: u64 = 1000;

/// Names are hashed by a seed of each process, and one whose place another has takes longer: the
/// least of so many counts counts.
const SEEDS: usize = 8;

const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/stages.txt");

fn main() {
    let has = |wanted: &str| env::args().any(|argument| argument == wanted);
    if let Some(kind) = env::args().skip_while(|argument| argument != "--replay").nth(1) {
        return replay(&kind);
    }
    let is_optimised = !cfg!(debug_assertions);
    assert!(is_optimised, "what is optimised is counted: `cargo test --release --bench stages`");
    let is_test = !has("--write") && !has("--bench");
    let mut counts = counts();
    for _ in 1..SEEDS {
        if is_test && beyond(&counts).is_empty() {
            break;
        }
        let others = self::counts();
        counts.iter_mut().for_each(|(of, count)| *count = others[of].min(*count));
    }
    let mut text = String::new();
    for ((kind, stage), count) in &counts {
        writeln!(text, "{kind}, {stage}: {count}").unwrap();
    }
    println!("instructions of a query\n{text}");
    for (kind, ..) in KINDS {
        let of_kind = counts.iter().filter(|((of, _), _)| of == kind);
        println!("{kind}, all: {}", of_kind.map(|(_, count)| count).sum::<u64>());
    }
    if has("--write") {
        fs::write(KNOWN, text).unwrap();
    }
    let beyond = if is_test { beyond(&counts) } else { Vec::new() };
    assert!(beyond.is_empty(), "{}", beyond.join("\n"));
}

type Counts = BTreeMap<(String, String), u64>;

/// By kind and stage.
fn counts() -> Counts {
    let folder = tempfile::tempdir().unwrap();
    let mut counts = Counts::new();
    for (kind, ..) in KINDS {
        let file = folder.path().join(kind);
        let valgrind = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(env::current_exe().unwrap())
            .args(["--replay", kind])
            .output();
        let valgrind =
            valgrind.unwrap_or_else(|error| panic!("{error}: valgrind; `tests/run` installs it"));
        assert!(valgrind.status.success(), "{}", String::from_utf8_lossy(&valgrind.stderr));
        let told = Command::new("callgrind_annotate")
            .args(["--inclusive=yes", "--threshold=100"])
            .arg(&file)
            .output()
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        for stage in STAGES {
            // `1,234,000 ( 5.67%)  ???:stages::receive [/path]`
            let is_it = |line: &&str| line.contains(&format!("stages::{stage} "));
            let line = told.lines().find(is_it).unwrap_or_else(|| panic!("{stage} in\n{told}"));
            let digits = line.split_whitespace().next().unwrap().replace(',', "");
            counts.insert((kind.into(), stage.into()), digits.parse::<u64>().unwrap() / TIMES);
        }
    }
    counts
}

/// What takes more instructions than it did.
fn beyond(counts: &Counts) -> Vec<String> {
    let known = fs::read_to_string(KNOWN).unwrap();
    let is_beyond = |line: &str| {
        let (what, known) = line.rsplit_once(": ").unwrap();
        let (kind, stage) = what.split_once(", ").unwrap();
        let known: u64 = known.parse().unwrap();
        let count = counts[&(kind.to_owned(), stage.to_owned())];
        // A few instructions are nothing, whatever part they are of a stage with a few.
        let is_it = count > known + known / 20 + 5;
        is_it.then(|| format!("{what}: {count} instructions, were {known}"))
    };
    known.lines().filter_map(is_beyond).collect()
}

fn replay(kind: &str) {
    let snapshot = world::world().drawn();
    let (_, name, rtype) = KINDS.iter().find(|(of, ..)| *of == kind).unwrap();
    let packet = world::query(name, *rtype);
    let peer = Peer { address: "192.0.2.53:53".parse().unwrap(), transport: Transport::Udp };
    let (mut room, mut out) = (LowerName::default(), Vec::with_capacity(2048));
    for _ in 0..TIMES {
        out.clear();
        out.extend_from_slice(black_box(&packet));
        let mut query = Query::new(peer, &mut room);
        receive(&mut query, &out, &snapshot);
        approach(&mut query);
        find(&mut query, &snapshot);
        select(&mut query, &snapshot);
        near(&mut query);
        choose(&mut query);
        assert!(matches!(respond(&mut query, &snapshot, &mut out), Outcome::Answered(_)));
    }
}

#[inline(never)]
fn receive<'q>(query: &mut Query<'q>, packet: &[u8], snapshot: &'q Snapshot) {
    query.read(packet, snapshot);
}

#[inline(never)]
fn approach(query: &mut Query<'_>) {
    query.approach();
}

#[inline(never)]
fn find<'q>(query: &mut Query<'q>, snapshot: &'q Snapshot) {
    query.find(snapshot);
}

#[inline(never)]
fn select<'q>(query: &mut Query<'q>, snapshot: &'q Snapshot) {
    query.select(snapshot);
}

#[inline(never)]
fn near(query: &mut Query<'_>) {
    query.near();
}

#[inline(never)]
fn choose(query: &mut Query<'_>) {
    query.choose();
}

#[inline(never)]
fn respond(query: &mut Query<'_>, snapshot: &Snapshot, out: &mut Vec<u8>) -> Outcome {
    query.answer(snapshot, Instant::default(), out)
}
