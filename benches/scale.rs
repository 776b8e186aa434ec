//! How it grows: services and names by the thousand and million, in 64 regions.
//!
//! `cargo bench --bench scale` prints, beside a small server, what a service and a name cost, how
//! fast it answers, and how long changes take; and what a reload of all of it does to those who
//! ask meanwhile. As a part of the tests it runs small.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "what must be, must be; figures are for people; numbers are small; time is measured"
)]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the comparison with peers uses all of it")]
#[path = "peers/load.rs"]
mod load;

use harness::{Meridian, wait_for, wait_within};
use load::{
    Pace, Queries, Seen, WINDOW, Workload, ZONE, ask, go_first, median, on_first_core, run_on_core,
    zone,
};

/// How often all of it is read again while somebody asks.
const RELOADS: u32 = 5;

/// Where answers and load leave little of two cores, reading goes on in what is left.
const LONGEST_RELOAD: Duration = Duration::from_secs(600);

/// All regions, and how many of them a service is in.
const REGIONS: u32 = 64;
const PLACES: u32 = 8;

/// Endpoints whose state changes.
const CHANGES: u32 = 20;

/// What one server has.
#[derive(Clone, Copy)]
struct Size {
    names: u32,
    services: u32,
}

impl Size {
    fn workload(self) -> Workload {
        Workload::Mixed(self.names, self.services)
    }
}

fn main() {
    let is_test = !env::args().any(|argument| argument == "--bench");
    let size = |names, services| Size { names, services };
    let (sizes, rounds, span) = if is_test {
        ([size(10, 10), size(10, 40), size(10, 80), size(1000, 80)], 1, 0.1)
    } else {
        ([size(10, 10), size(10, 1000), size(10, 10_000), size(1_000_000, 10_000)], 7, 1.0)
    };
    run_on_core(1);
    let span = Duration::from_secs_f64(span);
    let trials: Vec<Trial> = sizes.into_iter().map(Trial::start).collect();
    let mut queries: Vec<Queries> = sizes.iter().map(|of| Queries::new(of.workload())).collect();
    let mut rates = vec![Vec::new(); trials.len()];
    for _ in 0..rounds {
        for ((trial, queries), rates) in trials.iter().zip(&mut queries).zip(&mut rates) {
            let seen = ask(trial.server.dns, queries, Pace::Window(WINDOW), span);
            rates.push(seen.answers() as f64 / seen.seconds);
        }
    }
    println!("{REGIONS} regions; each service is in {PLACES} of them\n");
    println!(
        "| fixed names | services | start to ready | memory | answers/s ÷ the first's \
         | a verdict → published |\n|---|---|---|---|---|---|"
    );
    // By now it has given back what only the start needed.
    let memory: Vec<f64> = trials.iter().map(|of| of.server.memory() as f64 / 1024.0).collect();
    for ((trial, rate), memory) in trials.iter().zip(&rates).zip(&memory) {
        let ratios = rate.iter().zip(&rates[0]).map(|(ours, first)| ours / first);
        println!(
            "| {} | {} | {:.1} s | {:.0} MiB | {:.2} | {:.2} ms |",
            trial.size.names,
            trial.size.services,
            trial.start.as_secs_f64(),
            memory,
            median(ratios),
            trial.published(),
        );
    }
    let [small, few, services, all] = <[Trial; 4]>::try_from(trials).ok().unwrap();
    let each =
        |more, less, count| (memory[more] - memory[less]) * 1024.0 * 1024.0 / f64::from(count);
    let count = services.size.services - small.size.services;
    println!("\na service: {:.0} KiB", each(2, 0, count) / 1024.0);
    println!("a name with two addresses: {:.0} octets", each(3, 2, all.size.names));
    drop((small, few, services));
    // Where nothing came of a round, something is asked all the same.
    let rate = (median(rates.pop().into_iter().flatten()) / 2.0).max(1000.0);
    all.reload(&mut Queries::new(all.size.workload()), rate, span);
}

/// A running server.
struct Trial {
    size: Size,
    server: Meridian,
    start: Duration,
}

impl Trial {
    fn start(size: Size) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("zone"), zone(size.names)).unwrap();
        let command = on_first_core(env!("CARGO_BIN_EXE_meridian"));
        let began = Instant::now();
        let server = Meridian::start_with(command, folder, &config(size.services));
        let start = began.elapsed();
        Self { size, server, start }
    }

    /// From a verdict to the answers that know of it, on average, in milliseconds.
    fn published(&self) -> f64 {
        let total = || {
            let of = |part| self.server.metric(&format!("meridian_publish_seconds_{part}"));
            (of("sum"), of("count"))
        };
        let (spent, count) = total();
        let per_service = self.size.services / CHANGES.min(self.size.services);
        for row in (0..self.size.services).step_by(per_service as usize) {
            let (fine, told) =
                self.server.ctl(&["push", "own", &endpoint(row, 0), "down", "--for", "1h"]);
            assert!(fine, "{told}");
        }
        let (spent, count) = wait_for("what was told", || {
            let (all, times) = total();
            (times - count >= f64::from(CHANGES) / 4.0).then_some((all - spent, times - count))
        });
        spent / count * 1000.0
    }

    /// Reads all of it again, alone and while somebody asks, and tells what that did to who asked.
    fn reload(&self, queries: &mut Queries, rate: f64, span: Duration) {
        let server = &self.server;
        // It may use all cores from now on, but for its worker, which stays away from the load.
        for thread in fs::read_dir(format!("/proc/{}/task", server.process.id())).unwrap() {
            let thread = thread.unwrap();
            // Some of them end meanwhile.
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            if name != "udp\n" {
                let mut spread = Command::new("taskset");
                spread.args(["-p", "-c", "0-127"]).arg(thread.file_name());
                let spread = spread.stdout(Stdio::null()).status().unwrap();
                assert!(spread.success() || !thread.path().exists());
            }
        }
        let alone = self.reload_to(2);
        println!("\na reload of all: {:.1} s", alone.as_secs_f64());
        go_first();
        let times: Vec<Meanwhile> =
            (0..RELOADS).map(|row| self.asked_meanwhile(queries, rate, span, 3 + row)).collect();
        let of = |part: fn(&Meanwhile) -> f64| median(times.iter().map(part));
        let [lost, sent] = [|of: &Meanwhile| of.lost, |of: &Meanwhile| of.sent]
            .map(|part| times.iter().map(part).sum::<u64>());
        println!("{RELOADS} times under half of its load, medians: {:.1} s", of(|of| of.took));
        println!("lost meanwhile: {lost} of {sent}");
        println!("p50: {:.0} µs before, {:.0} meanwhile", of(|of| of.half.0), of(|of| of.half.1));
        println!(
            "p99: {:.0} µs before, {:.0} meanwhile, {:.1} × as long",
            of(|of| of.most.0),
            of(|of| of.most.1),
            of(|of| of.most.1 / of.most.0)
        );
        ask(server.dns, queries, Pace::Rate(rate), span * 5);
        println!("memory afterwards: {:.0} MiB", server.memory() as f64 / 1024.0);
        assert!(sent > 0);
    }

    /// Asks for a while, then while it reads all of it again.
    fn asked_meanwhile(
        &self,
        queries: &mut Queries,
        rate: f64,
        span: Duration,
        serial: u32,
    ) -> Meanwhile {
        let dns = self.server.dns;
        let before = [ask(dns, queries, Pace::Rate(rate), span * 5)];
        let (took, during) = thread::scope(|scope| {
            let reload = scope.spawn(|| self.reload_to(serial));
            let mut during = Vec::new();
            while !reload.is_finished() {
                during.push(ask(dns, queries, Pace::Rate(rate), span));
            }
            // What is given up after a reload is also of it.
            during.push(ask(dns, queries, Pace::Rate(rate), span));
            (reload.join().unwrap().as_secs_f64(), during)
        });
        let lost = during.iter().map(|seen| seen.lost).sum();
        let sent = during.iter().map(|seen| seen.sent).sum();
        let both = |share| (quantile(&before, share), quantile(&during, share));
        Meanwhile { took, lost, sent, half: both(0.5), most: both(0.99) }
    }

    /// Changes the zone to one of this serial, and tells how long it took to be served.
    fn reload_to(&self, serial: u32) -> Duration {
        let reloaded = self.server.logged("reloaded");
        let text = zone(self.size.names).replace(" 1 7200", &format!(" {serial} 7200"));
        self.server.write("zone", text.as_bytes());
        let began = Instant::now();
        self.server.process.signal("HUP");
        let is_read = || (self.server.logged("reloaded") > reloaded).then_some(());
        wait_within(LONGEST_RELOAD, "a reload", is_read);
        began.elapsed()
    }
}

/// What a reload did to who asked.
struct Meanwhile {
    /// Seconds.
    took: f64,
    lost: u64,
    sent: u64,
    /// Within how many microseconds half of the answers came, before and meanwhile.
    half: (f64, f64),
    /// The same of 99 in 100.
    most: (f64, f64),
}

/// The time within which this share of the answers came, in microseconds.
fn quantile(seen: &[Seen], share: f64) -> f64 {
    let mut all: Vec<u32> = seen.iter().flat_map(|seen| &seen.latencies).copied().collect();
    all.sort_unstable();
    let row = (all.len() as f64 * share) as usize;
    f64::from(all.get(row).copied().unwrap_or(0)) / 1000.0
}

/// The address of a service's endpoint.
fn endpoint(service: u32, place: u32) -> String {
    let [_, b, c, d] = (service * PLACES + place).to_be_bytes();
    format!("10.{b}.{c}.{d}")
}

/// Services with an endpoint in each of eight regions, whose states others tell.
fn config(services: u32) -> String {
    let mut text = "node: { listen: \"127.0.0.1:0\", workers: 1, ready_within: 100ms }
http: { listen: \"127.0.0.1:0\", socket: ctl.sock }
checks: { own: { pushed: true, interval: 10s } }
regions:
"
    .to_owned();
    for region in 0..REGIONS {
        let (latitude, longitude) = (region * 37 % 100, region * 53 % 340);
        let (latitude, longitude) = (f64::from(latitude) - 45.0, f64::from(longitude) - 170.0);
        writeln!(text, "  r{region}: {{ at: [{latitude}, {longitude}] }}").unwrap();
    }
    write!(text, "zones: {{ {ZONE}: {{ file: zone }} }}\nservices:\n").unwrap();
    for row in 0..services {
        let first = row * PLACES % REGIONS;
        let places =
            (0..PLACES).map(|place| format!("r{}: {}", first + place, endpoint(row, place)));
        let places = places.collect::<Vec<_>>().join(", ");
        writeln!(
            text,
            "  s{row}: {{ names: [s{row}.{ZONE}], check: own, regions: {{ {places} }} }}"
        )
        .unwrap();
    }
    text
}
