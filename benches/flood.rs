//! What a flood does: three times as many questions as can be answered.
//!
//! `cargo bench --bench flood` prints, for floods of several kinds, how much is still answered, and
//! what becomes of memory, of the HTTP address and of probes meanwhile. Two other programs want the
//! server's core as well: a third of a core is what one sender can ask three times too much of. As
//! a part of the tests it runs small.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "what must be, must be; figures are for people; numbers are small; time is measured"
)]

use std::env;
use std::fs;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the comparison with peers uses all of it")]
#[path = "peers/load.rs"]
mod load;

use harness::{Meridian, Nginx, Process, free_port};
use load::{Pace, Queries, WINDOW, Workload, ZONE, ask, median, on_first_core, run_on_core, zone};

/// Fixed names.
const NAMES: u32 = 10_000;

/// Others that want the server's core.
const RIVALS: usize = 2;

/// So many times what can be answered comes.
const TIMES: f64 = 3.0;

/// From one request to the HTTP address to the next.
const BETWEEN: Duration = Duration::from_millis(100);

/// What is asked for.
const FLOODS: [Workload; 4] =
    [Workload::Hits(NAMES), Workload::Misses(NAMES), Workload::Elsewhere, Workload::Subnets];

fn main() {
    if env::args().any(|argument| argument == "--spin") {
        loop {
            spin_loop();
        }
    }
    let is_test = !env::args().any(|argument| argument == "--bench");
    let (rounds, span) = if is_test { (1, 1.0) } else { (7, 2.0) };
    run_on_core(1);
    let nginx = Nginx::start(free_port());
    let server = serve(&nginx);
    let _rivals: Vec<Process> = (0..RIVALS).map(|_| rival()).collect();
    println!(
        "| a flood of | asked ÷ the most of this kind | answered ÷ it | answered ÷ of fixed names \
         | memory | /readyz, p50, max | probes late by |\n|---|---|---|---|---|---|---|"
    );
    let span = Duration::from_secs_f64(span);
    // By turns, so that what else the machine does falls on all alike.
    let mut queries = FLOODS.map(Queries::new);
    let mut floods = FLOODS.map(|_| Vec::new());
    for _ in 0..rounds {
        for (flood, queries) in floods.iter_mut().zip(&mut queries) {
            flood.push(Round::run(&server, queries, span));
        }
    }
    let [hits, ..] = &floods;
    for (workload, rounds) in FLOODS.iter().zip(&floods) {
        let of = |part: fn(&Round) -> f64| median(rounds.iter().map(part));
        let beside = rounds.iter().zip(hits).map(|(of, hits)| of.answered / hits.answered);
        println!(
            "| {} | {:.1} | {:.2} | {:.2} | {:+.1} MiB | {:.0}, {:.0} ms | {:.1} ms |",
            workload.title(),
            of(|round| round.asked / round.most),
            of(|round| round.answered / round.most),
            median(beside),
            rounds.iter().map(|round| round.memory).fold(0.0, f64::max),
            of(|round| round.api[0]),
            rounds.iter().map(|round| round.api[1]).fold(0.0, f64::max),
            of(|round| round.late),
        );
        assert!(rounds.iter().all(|round| round.answered > 0.0));
    }
    let (state, last) = server.endpoint(nginx.address);
    assert_eq!(state, "up", "no flood may look like a failure: {last}");
}

/// Meridian on the first core, probing what stands there.
fn serve(nginx: &Nginx) -> Meridian {
    let config = format!(
        "node: {{ listen: \"127.0.0.1:0\", workers: 1, ready_within: 1s }}
http: {{ listen: \"127.0.0.1:0\", socket: ctl.sock }}
checks: {{ web: {{ http: /healthz, port: {}, interval: 500ms }} }}
regions: {{ here: {{}}, there: {{}} }}
zones: {{ {ZONE}: {{ file: zone }} }}
services:
  www: {{ names: [www.{ZONE}], check: web, steer: failover, order: [here, there], \
         regions: {{ here: {}, there: 192.0.2.1 }} }}
",
        nginx.port, nginx.address
    );
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("zone"), zone(NAMES)).unwrap();
    Meridian::start_with(on_first_core(env!("CARGO_BIN_EXE_meridian")), folder, &config)
}

/// Another program that wants all of the first core.
fn rival() -> Process {
    Process::start(on_first_core(env::current_exe().unwrap()).arg("--spin"))
}

/// Some seconds of what can be answered, and of three times that.
struct Round {
    /// Answers a second at the most, and in the flood questions and answers.
    most: f64,
    asked: f64,
    answered: f64,
    /// What was added to it, in MiB.
    memory: f64,
    /// How long half of the requests to the HTTP address took at most, and all, in milliseconds.
    api: [f64; 2],
    /// How late probes began in the flood, on average, in milliseconds.
    late: f64,
}

impl Round {
    fn run(server: &Meridian, queries: &mut Queries, span: Duration) -> Self {
        let seen = ask(server.dns, queries, Pace::Window(WINDOW), span);
        let most = seen.answers() as f64 / seen.seconds;
        let late = |part| server.metric(&format!("meridian_probe_lag_seconds_{part}"));
        let (memory, lag, count) = (server.memory(), late("sum"), late("count"));
        let is_over = AtomicBool::new(false);
        let (seen, times) = thread::scope(|scope| {
            let requests = scope.spawn(|| {
                let mut times = Vec::new();
                while !is_over.load(Ordering::Relaxed) || times.is_empty() {
                    let began = Instant::now();
                    assert_eq!(server.get("/readyz").0, 200);
                    times.push(began.elapsed().as_secs_f64() * 1000.0);
                    thread::park_timeout(BETWEEN);
                }
                times
            });
            let seen = ask(server.dns, queries, Pace::Rate(TIMES * most), span);
            is_over.store(true, Ordering::Relaxed);
            (seen, requests.join().unwrap())
        });
        let half = median(times.iter().copied());
        let all = times.iter().copied().fold(0.0, f64::max);
        let memory = (server.memory() as f64 - memory as f64) / 1024.0;
        let probes = (late("count") - count).max(1.0);
        let late = (late("sum") - lag) / probes * 1000.0;
        let [asked, answered] = [seen.sent, seen.answers()].map(|of| of as f64 / seen.seconds);
        Self { most, asked, answered, memory, api: [half, all], late }
    }
}
