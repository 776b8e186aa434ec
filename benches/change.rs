//! From a change to the answers that know of it, with 1,000 services and the database in the box.
//!
//! `cargo bench --bench change` prints how long a start, a verdict and a reload take, and how many
//! queries were lost while it reloaded; as a part of the tests it runs small.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what must be, must be; and figures are for people"
)]

use std::env;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use meridian::health::{HealthTable, State};
use meridian::server::{Loader, Source};
use meridian::snapshot::Snapshot;
use meridian::steer::Facts;

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/harness.rs"]
mod harness;

use harness::{Meridian, Nginx, free_port, question, wait_for};

fn main() {
    let is_test = !env::args().any(|argument| argument == "--bench");
    let (services, rounds) = if is_test { (20, 2) } else { (1000, 20) };
    println!("{services} services in 5 regions, milliseconds\n");
    decide(services, rounds);
    serve(services, rounds);
}

/// The pure part: load, compile, compile again.
fn decide(services: usize, rounds: usize) {
    let text = config(services, 8080, 30);
    let mut loader = Loader::new(Source::Text("bench".to_owned(), text));
    let (loaded, first) = timed(|| loader.load().unwrap());
    let (_, again) = timed(|| loader.load().unwrap());
    let ids: Vec<_> = loaded.config.targets.iter().map(|target| target.id).collect();
    let up = |table: HealthTable, id: &_| table.assuming(*id, State::Up);
    let all_up = ids.iter().fold(HealthTable::default(), up);
    let (whole, compiled) =
        timed(|| Snapshot::compile(loaded.plan.clone(), &Facts::of(&all_up), None, None, 1));
    let after = |down: &[_]| {
        let health = down.iter().fold(all_up.clone(), |table, id| table.assuming(*id, State::Down));
        let facts = Facts::of(&health);
        let mut spans: Vec<Duration> = (0..rounds)
            .map(|_| {
                let plan = loaded.plan.clone();
                let compile = || {
                    let changed = plan.affected(down.iter().copied());
                    Snapshot::compile(plan.clone(), &facts, Some(&whole), Some(&changed), 2)
                };
                timed(compile).1
            })
            .collect();
        spans.sort();
        spans
    };
    let told = |spans: &[Duration]| {
        let [least, median, most] =
            [0, spans.len() / 2, spans.len() - 1].map(|at| millis(spans[at]));
        format!("{least:.2} / {median:.2} / {most:.2}")
    };
    println!("| step | milliseconds |\n|---|---|");
    println!("| load configuration and database, the first time | {:.0} |", millis(first));
    println!("| load them again | {:.0} |", millis(again));
    println!("| decide and encode all services | {:.1} |", millis(compiled));
    println!("| one target down → snapshot (min / median / max) | {} |", told(&after(&ids[..1])));
    let region: Vec<_> = ids.iter().copied().step_by(5).collect();
    println!("| a region's {} targets down → snapshot | {} |", region.len(), told(&after(&region)));
}

/// The program: start, memory, reloads under load.
fn serve(services: usize, rounds: usize) {
    let port = free_port();
    let _nginx = Nginx::everywhere(port);
    let start = |ttl| config(services, port, ttl);
    let (server, started) = timed(|| Meridian::serve(&start(30)));
    println!("| the program: from its start to ready | {:.0} |", millis(started));
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, to) = (stop.clone(), server.dns);
    let asking = thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let wire = question("s0.example.com", RecordType::A, None).to_vec().unwrap();
        let (mut asked, mut lost, mut slowest) = (0u64, 0u64, Duration::ZERO);
        while !stopped.load(Ordering::Relaxed) {
            let (answered, took) = timed(|| {
                socket.send(&wire).unwrap();
                socket.recv(&mut [0; 512]).is_ok()
            });
            asked += 1;
            lost += u64::from(!answered);
            slowest = slowest.max(took);
        }
        (asked, lost, slowest)
    });
    let mut spans: Vec<Duration> = (0..rounds)
        .map(|round| {
            let before = server.logged("reloaded");
            server.write_config(&start(31 + round));
            timed(|| {
                server.process.signal("HUP");
                wait_for("a reload", || (server.logged("reloaded") > before).then_some(()));
            })
            .1
        })
        .collect();
    spans.sort();
    stop.store(true, Ordering::Relaxed);
    let (asked, lost, slowest) = asking.join().unwrap();
    let (median, most) = (millis(spans[spans.len() / 2]), millis(spans[spans.len() - 1]));
    println!("| a reload, seen from outside (median / max) | {median:.0} / {most:.0} |");
    println!(
        "\n{lost} of {asked} queries lost in {rounds} reloads; the slowest took {:.1} ms",
        millis(slowest)
    );
    println!("memory: {} MiB", server.memory() / 1024);
    assert_eq!(lost, 0);
}

/// Services with an endpoint in each of five regions.
fn config(services: usize, port: u16, ttl: usize) -> String {
    let mut text = format!(
        "regions:
  us-east: {{ at: [39.04, -77.49] }}
  us-west: {{ at: [45.84, -119.70] }}
  eu-west: {{ at: [53.35, -6.26] }}
  ap-southeast: {{ at: [1.35, 103.82] }}
  sa-east: {{ at: [-23.55, -46.63] }}
checks: {{ web: {{ http: /, port: {port} }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
",
    );
    let regions = ["us-east", "us-west", "eu-west", "ap-southeast", "sa-east"];
    for row in 0..services {
        let places = regions.iter().enumerate().map(|(place, region)| {
            let [high, low] = u16::try_from(row).unwrap().to_be_bytes();
            format!("{region}: 127.{}.{high}.{low}", 100 + place)
        });
        let places: Vec<String> = places.collect();
        text.push_str(&format!(
            "  s{row}: {{ names: [s{row}.example.com], check: web, ttl: {ttl}s, \
             regions: {{ {} }} }}\n",
            places.join(", ")
        ));
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "what is measured")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed())
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
