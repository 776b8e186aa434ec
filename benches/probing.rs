//! Thousands of targets on one node: CPU, lateness and mistakes.
//!
//! One nginx answers on thousands of loopback addresses, each a target of its own.
//! `cargo bench --bench probing` prints what the node did; as a part of the tests it runs small.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what must be, must be; and figures are for people"
)]

use std::env;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/harness.rs"]
mod harness;

use harness::{Meridian, Nginx, free_port};

fn main() {
    let is_test = !env::args().any(|argument| argument == "--bench");
    let rows: &[(usize, u64)] =
        if is_test { &[(200, 500)] } else { &[(1000, 500), (5000, 500), (10_000, 1000)] };
    let seconds = if is_test { 2 } else { 15 };
    println!("{seconds} s each, beside the nginx that answers on the same two cores or so\n");
    println!(
        "| targets × interval | probes a second (due) | CPU, cores | CPU of a probe \
         | late by more than 10 ms / 100 ms | wrongly down | memory |\n\
         |---|---|---|---|---|---|---|"
    );
    for (targets, interval) in rows {
        println!("{}", row(*targets, *interval, Duration::from_secs(seconds)));
    }
}

fn row(targets: usize, interval: u64, span: Duration) -> String {
    let port = free_port();
    let _nginx = Nginx::everywhere(port);
    let server = Meridian::serve(&config(targets, interval, port));
    // User and system time, in hundredths of a second (proc_pid_stat(5)).
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", server.process.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    };
    let probes = || server.metric("meridian_probe_seconds_count");
    let (began, before, then) = (now(), probes(), ticks());
    while now() - began < span {
        thread::park_timeout(Duration::from_millis(100));
    }
    let (done, used) = (probes() - before, (ticks() - then) as f64 / 100.0);
    let passed = (now() - began).as_secs_f64();
    let lag = "meridian_probe_lag_seconds";
    let late = |bound: &str| {
        let within = server.metric(&format!("{lag}_bucket{{le=\"{bound}\"}}"));
        100.0 - within / server.metric(&format!("{lag}_count")) * 100.0
    };
    let status = server.status();
    let down: u64 =
        status["regions"].as_array().unwrap().iter().map(|of| of["down"].as_u64().unwrap()).sum();
    format!(
        "| {targets} × {interval} ms | {:.0} ({}) | {:.2} | {:.0} µs \
         | {:.1} % / {:.1} % | {down} | {} MiB |",
        done / passed,
        targets as u64 * 1000 / interval,
        used / passed,
        used * 1e6 / done,
        late("0.01"),
        late("0.1"),
        server.memory() / 1024,
    )
}

fn config(targets: usize, interval: u64, port: u16) -> String {
    let services: String = (0..targets)
        .map(|row| {
            let [high, low] = u16::try_from(row).unwrap().to_be_bytes();
            format!(
                "  s{row}: {{ names: [s{row}.example.com], check: web, \
                 regions: {{ here: 127.90.{high}.{low} }} }}\n"
            )
        })
        .collect();
    format!(
        "regions: {{ here: {{ at: [0, 0] }} }}
checks: {{ web: {{ http: /, port: {port}, interval: {interval}ms }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:\n{services}"
    )
}

#[expect(clippy::disallowed_methods, reason = "what is measured")]
fn now() -> Instant {
    Instant::now()
}
