//! What it costs to know who is still sent where: the ledger on the way of an answer, and the
//! simulator.
//!
//! `cargo bench --bench convergence` prints nanoseconds an answer and nanoseconds an entry, and how
//! many seconds are simulated in one; as a part of the tests it runs small.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "what must be, must be; figures are for people, and are taken by the clock"
)]

use std::env;
use std::hint::black_box;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use meridian::convergence::{Page, Rows, width};
use meridian::health::{HealthTable, State};
use meridian::query::{Peer, Transport, answer};
use meridian::server::{Loaded, Loader, Source};
use meridian::sim::{Draft, Input, World};
use meridian::snapshot::Snapshot;
use meridian::steer::Facts;
use meridian::time;

fn main() {
    let is_test = !env::args().any(|argument| argument == "--bench");
    let (rounds, resolvers) =
        if is_test { (1000, &[500][..]) } else { (3_000_000, &[100_000, 1_000_000][..]) };
    let loaded = Loader::new(Source::File(scenarios().join("world.yaml"))).load().unwrap();
    ledger(&loaded, rounds);
    resolvers.iter().for_each(|count| simulate(&loaded, *count));
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scenarios")
}

/// An answer with a client subnet, and its entry in the ledger.
fn ledger(loaded: &Loaded, rounds: u32) {
    let targets = loaded.config.targets.iter().map(|target| target.id);
    let up = targets.fold(HealthTable::default(), |table, id| table.assuming(id, State::Up));
    let snapshot = Snapshot::compile(loaded.plan.clone(), &Facts::of(&up), None, None, 1).drawn();
    let peer: SocketAddr = "192.0.2.53:4242".parse().unwrap();
    let peer = Peer { address: peer, transport: Transport::Udp };
    let service = loaded.plan.services.first().unwrap();
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    query.extend_from_slice(service.names.first().unwrap().as_wire());
    query.extend_from_slice(&[0, 1, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 11]);
    query.extend_from_slice(&[0, 8, 0, 7, 0, 1, 24, 0, 134, 226, 1]);
    let subnet = query.len() - 3;
    let mut out = Vec::with_capacity(512);
    let now = time::Instant::from_nanos(1_767_225_600_000_000_000);
    let began = Instant::now();
    for round in 0..rounds {
        // Clients all over the world, so that no cache knows them all.
        query[subnet..].copy_from_slice(&round.wrapping_mul(2_654_435_761).to_be_bytes()[..3]);
        black_box(answer(&snapshot, black_box(&query), peer, now, &mut out));
    }
    let of_answer = began.elapsed().as_secs_f64() * 1e9 / f64::from(rounds);
    let regions = service.pools.iter().map(|pool| pool.region).collect();
    let rows = Rows::new([(regions, width(service.ttl))]);
    let (page, rows) = (Page::new(rows.count()), rows.iter().collect::<Vec<_>>());
    let began = Instant::now();
    for round in 0..rounds {
        let (.., row) = black_box(rows[round as usize % rows.len()]);
        page.add_alone(row, 1_767_225_600 + u64::from(round >> 16), 1);
    }
    let of_entry = began.elapsed().as_secs_f64() * 1e9 / f64::from(rounds);
    println!("an answer: {of_answer:.0} ns; its entry in the ledger: {of_entry:.1} ns\n");
}

fn simulate(loaded: &Loaded, resolvers: usize) {
    let text = "config: world.yaml\nfor: 10m\nnodes: { ns1: us-east, ns2: eu-west, ns3: sa-east }
events: [{ at: 1m, crash: eu-west }, { at: 6m, revive: eu-west }]";
    let scenario = Draft::parse("bench", text).unwrap().scenario(&loaded.config).unwrap();
    let scenario = scenario.with_resolvers(resolvers);
    let input = Input {
        scenario: &scenario,
        config: &loaded.config,
        plan: &loaded.plan,
        reloads: &[],
        atlas: &loaded.survey.atlas().unwrap(),
        seed: 1,
    };
    let began = Instant::now();
    let outcome = World::new(input).unwrap().run(|_| ());
    let took = began.elapsed().as_secs_f64();
    let (queries, speed) = (outcome.queries, outcome.seconds as f64 / took);
    println!(
        "{resolvers} resolvers, 5 regions, 3 nodes: {speed:.0} s simulated in one, {queries} \
         queries; {took:.1} s in all, on one core"
    );
    println!("{} MiB at most so far", memory());
}

/// The most memory that this process has had, in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
