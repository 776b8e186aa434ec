//! Every server that answers by place, and some that answer only by name, on one core of one
//! machine in one run, beside an echo that does nothing: throughput, CPU, loss, memory, start.
//!
//! `benches/compare` installs the peers, then calls `cargo bench --bench compare`. Rounds go round
//! the servers, so that what disturbs the machine disturbs all of them alike; a ratio is the median
//! of the rounds' ratios to the echo. As a part of the tests it runs small, with who is there.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "what must be, must be; figures are for people; numbers are small; time is measured"
)]

mod echo;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/it/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/it/host.rs"]
mod host;
#[expect(dead_code, reason = "the bench of scale uses all of it")]
mod load;
mod report;
mod servers;

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use hickory_proto::op::Message;

use harness::data;
use host::Host;
use load::{Pace, Queries, WINDOW, Workload, ask, run_on_core};
use report::{Round, Table, Trial};
use servers::{Kind, Server};

/// Compares servers on one core each, the load on another.
#[derive(Parser)]
struct Options {
    /// Rounds of each workload.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that each server is loaded in each round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only the workloads whose titles contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only the echo and the servers whose names contain one of these, in any case.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// Also Meridian with other settings.
    #[arg(long)]
    tune: bool,
    /// The GeoIP database that all of them read.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/geoip/meridian-city.mmdb"))]
    database: PathBuf,
    /// Where the table, the figures and the plot are written.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/compare"))]
    into: PathBuf,
    /// Be the echo at this address.
    #[arg(long, hide = true)]
    echo: Option<SocketAddr>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

const WORKLOADS: [Workload; 5] = [
    Workload::Subnets,
    Workload::NoSubnets,
    Workload::Static(10_000),
    Workload::Static(100_000),
    Workload::Past,
];

/// The first network of those that servers have for themselves.
const FIRST_HOST: u8 = 210;

/// Fixed names of a server that is asked for a steered one.
const BESIDE: u32 = 10_000;

/// Not counted, at the beginning of each round.
const WARM: Duration = Duration::from_millis(300);

fn main() {
    let is_bench = std::env::args().any(|argument| matches!(&*argument, "--bench" | "--echo"));
    let options = Options::parse_from(if is_bench { std::env::args().collect() } else { small() });
    if let Some(address) = options.echo {
        echo::serve(address);
    }
    run_on_core(1);
    let wanted = |workload: &Workload| workload.title().contains(&options.only);
    let mut tables = Vec::new();
    for workload in WORKLOADS.into_iter().filter(wanted) {
        let table = compare(workload, &options);
        println!("{}", table.text());
        if !is_bench {
            table.check();
        }
        tables.push(table);
    }
    report::write(&tables, &options.into);
    println!("written to {}", options.into.display());
}

/// As a part of the tests: one short round.
fn small() -> Vec<String> {
    let into = concat!(env!("CARGO_TARGET_TMPDIR"), "/compare");
    let all = ["compare", "--rounds", "1", "--seconds", "0.2", "--into", into];
    all.map(str::to_owned).into()
}

fn compare(workload: Workload, options: &Options) -> Table {
    let names = if let Workload::Static(names) = workload { names } else { BESIDE };
    let mut queries = Queries::new(workload);
    let is_wanted = |kind: &Kind| {
        if kind.is_tuned() {
            return options.tune;
        }
        let name = kind.name().to_lowercase();
        let is_it = |of: &String| name.contains(&of.to_lowercase());
        let servers = &options.servers;
        *kind == Kind::Echo || servers.is_empty() || servers.iter().any(is_it)
    };
    let kinds = Kind::of(workload).iter().copied().filter(is_wanted);
    let (kinds, missing): (Vec<Kind>, Vec<Kind>) = kinds.partition(|kind| kind.is_installed());
    for kind in missing {
        println!("{} is not installed: `benches/compare` installs it", kind.name());
    }
    let start = |(host, kind)| {
        // Past the stack it goes on an interface, of which each then has its own.
        let host = (workload == Workload::Past).then(|| Host::new(host));
        Server::start(kind, names, &options.database, (Queries::new(workload), host))
    };
    let servers: Vec<Server> = (FIRST_HOST..).zip(kinds).map(start).collect();
    let agree = agree(&servers, &mut queries);
    let mut trials: Vec<Trial> = servers.iter().map(Trial::new).collect();
    let span = Duration::from_secs_f64(options.seconds);
    for _ in 0..options.rounds {
        for (server, trial) in servers.iter().zip(&mut trials) {
            trial.full.push(round(server, &mut queries, Pace::Window(WINDOW), span));
        }
    }
    for _ in 0..options.rounds {
        for (server, trial) in servers.iter().zip(&mut trials) {
            let half = Pace::Rate(trial.throughput() / 2.0);
            trial.half.push(round(server, &mut queries, half, span));
        }
    }
    for (server, trial) in servers.iter().zip(&mut trials) {
        trial.memory = server.memory();
    }
    Table { workload, agree, trials }
}

fn round(server: &Server, queries: &mut Queries, pace: Pace, span: Duration) -> Round {
    ask(server.address, queries, pace, WARM.min(span));
    let before = server.spent();
    let seen = ask(server.address, queries, pace, span);
    Round::new(seen, before, server.spent())
}

/// So many answers are held against each other.
const SAMPLE: usize = 1000;

/// How many of a sample of answers are the same from all servers that are not an echo.
fn agree(servers: &[Server], queries: &mut Queries) -> [usize; 2] {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let answers_alike = |row: usize| {
        let query = queries.take(row as u16).to_vec();
        let mut answers = servers.iter().filter(|of| of.kind != Kind::Echo).map(|server| {
            let mut answer = [0; 4096];
            socket.send_to(&query, server.address).unwrap();
            let length = socket.recv(&mut answer).unwrap();
            let answer = Message::from_vec(&answer[..length]).unwrap();
            (answer.metadata.response_code, data(&answer))
        });
        let first = answers.next();
        answers.all(|other| first.as_ref() == Some(&other))
    };
    [(0..SAMPLE).map(answers_alike).filter(|alike| *alike).count(), SAMPLE]
}
