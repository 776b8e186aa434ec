//! What a flood does: three times as many questions as can be answered.
//!
//! `cargo bench --bench flood` prints, for floods of several kinds, how much is still answered, and
//! what becomes of memory, of the HTTP address and of probes meanwhile. Two other programs want the
//! server's core as well: a third of a core is what one sender can ask three times too much of.
//! Then clients that begin TLS and go, which costs them next to nothing. As a part of the tests it
//! runs small.

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
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

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

/// Connections that begin TLS at the same time, and of how many clients.
const CONNECTIONS: usize = 1000;
const CLIENTS: usize = 40;

/// When a connection that is refused is made again.
const AGAIN: Duration = Duration::from_millis(10);

/// Whose certificate the server shows.
const SERVER: &str = "ns1.example.com";

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
    let begun: Vec<Round> = (0..rounds).map(|_| Round::of_handshakes(&server, span)).collect();
    println!(
        "\n{CONNECTIONS} connections at once, each of which begins TLS and goes: {:.0} answered a \
         second, /readyz {:.0}, {:.0} ms, probes late by {:.1} ms",
        median(begun.iter().map(|round| round.answered)),
        median(begun.iter().map(|round| round.api[0])),
        begun.iter().map(|round| round.api[1]).fold(0.0, f64::max),
        median(begun.iter().map(|round| round.late)),
    );
    assert!(begun.iter().all(|round| round.answered > 0.0));
    let (state, last) = server.endpoint(nginx.address);
    assert_eq!(state, "up", "no flood may look like a failure: {last}");
}

/// Meridian on the first core, probing what stands there.
fn serve(nginx: &Nginx) -> Meridian {
    let config = format!(
        "node: {{ listen: \"127.0.0.1:0\", workers: 1, ready_within: 1s }}
http: {{ listen: \"127.0.0.1:0\", socket: ctl.sock }}
tls: {{ certificate: cert.pem, key: key.pem, dot: \"127.0.0.1:0\" }}
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
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([SERVER.into()]).unwrap();
    fs::write(folder.path().join("cert.pem"), cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
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
        Self::beside(server, most, || {
            let seen = ask(server.dns, queries, Pace::Rate(TIMES * most), span);
            [seen.sent, seen.answers()].map(|of| of as f64 / seen.seconds)
        })
    }

    fn of_handshakes(server: &Meridian, span: Duration) -> Self {
        Self::beside(server, 0.0, || [handshakes(server.dot.unwrap(), span); 2])
    }

    /// What becomes of the rest beside a flood, which tells what was asked and answered a second.
    fn beside(server: &Meridian, most: f64, flood: impl FnOnce() -> [f64; 2]) -> Self {
        let late = |part| server.metric(&format!("meridian_probe_lag_seconds_{part}"));
        let (memory, lag, count) = (server.memory(), late("sum"), late("count"));
        let is_over = AtomicBool::new(false);
        let ([asked, answered], times) = thread::scope(|scope| {
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
            let told = flood();
            is_over.store(true, Ordering::Relaxed);
            (told, requests.join().unwrap())
        });
        let half = median(times.iter().copied());
        let all = times.iter().copied().fold(0.0, f64::max);
        let memory = (server.memory() as f64 - memory as f64) / 1024.0;
        let probes = (late("count") - count).max(1.0);
        let late = (late("sum") - lag) / probes * 1000.0;
        Self { most, asked, answered, memory, api: [half, all], late }
    }
}

/// How many clients a second get an answer to the first word of TLS, after which they go.
fn handshakes(server: SocketAddr, span: Duration) -> f64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let (hello, answered) = (Arc::new(hello()), Arc::new(AtomicU64::new(0)));
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        for row in 0..CONNECTIONS {
            let client =
                Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + (row % CLIENTS) as u32);
            let (hello, answered) = (hello.clone(), answered.clone());
            tokio::spawn(async move {
                loop {
                    match begin(client, server, &hello).await {
                        Ok(()) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        // There is no room yet: the server has not seen that others went.
                        Err(_) => sleep(AGAIN).await,
                    }
                }
            });
        }
        let _forever = timeout(span, std::future::pending::<()>()).await;
    });
    answered.load(Ordering::Relaxed) as f64 / span.as_secs_f64()
}

/// Begins TLS, and resets the connection when the answer begins.
async fn begin(client: Ipv4Addr, server: SocketAddr, hello: &[u8]) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    socket.bind((client, 0).into())?;
    let mut stream = socket.connect(server).await?;
    stream.write_all(hello).await?;
    stream.read_u8().await.map(drop)
}

/// The first word of TLS.
fn hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty());
    let name = SERVER.try_into().unwrap();
    let client = Arc::new(config.with_no_client_auth());
    let mut hello = Vec::new();
    rustls::ClientConnection::new(client, name).unwrap().write_tls(&mut hello).unwrap();
    hello
}
