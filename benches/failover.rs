//! From a fault to the first answer without it, and from its end to the first answer with it.
//!
//! The program that is shipped, at default settings, probes nginx on addresses of their own in a
//! network namespace that this benchmark makes for itself. All targets of one kind of fault fail at
//! moments of their own; each answer is asked for every few milliseconds.
//!
//! `cargo bench --bench failover` prints minimum, median and maximum in milliseconds; as a part of
//! the tests it runs small.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what must be, must be; and figures are for people"
)]

use std::env;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use tempfile::TempDir;

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/harness.rs"]
mod harness;

use harness::{Meridian, Process, data, question};

/// How a target fails, and is well again.
const FAULTS: [&str; 4] = ["killed", "stopped", "HTTP 500", "unreachable"];

/// Set in the process that runs in the namespace.
const INSIDE: &str = "MERIDIAN_BENCH_INSIDE";

fn main() {
    let is_test = !env::args().any(|argument| argument == "--bench");
    if env::var_os(INSIDE).is_none() {
        let mut again = Command::new("unshare");
        // Who is not root here may be root in a namespace of users, where the system lets them.
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        again.args(if is_root { &["--net"][..] } else { &["--net", "--map-root-user"] });
        again.arg("--").arg(env::current_exe().unwrap()).args(env::args().skip(1));
        let error = again.env(INSIDE, "1").exec();
        panic!("cannot make a network namespace: {error}");
    }
    let count = if is_test { 2 } else { 20 };
    let (lab, mut targets) = Lab::new(count);
    println!("{count} faults of each kind, default settings; milliseconds, min / median / max\n");
    println!("| fault | fault → answers without it | end → answers with it |\n|---|---|---|");
    for (fault, targets) in FAULTS.into_iter().zip(&mut targets) {
        let (down, up) = lab.run(fault, targets);
        println!("| {fault} | {} | {} |", row(down), row(up));
    }
}

fn row(mut spans: Vec<Duration>) -> String {
    spans.sort();
    let millis = |span: &Duration| format!("{:.0}", span.as_secs_f64() * 1000.0);
    let [least, median, most] = [0, spans.len() / 2, spans.len() - 1].map(|at| millis(&spans[at]));
    format!("{least} / {median} / {most}")
}

/// Two hosts: this one with Meridian, and one behind a link with the targets.
struct Lab {
    #[expect(dead_code, reason = "held")]
    folder: TempDir,
    /// Holds the other host's namespace.
    other: Process,
    server: Meridian,
    /// Where clients go meanwhile.
    #[expect(dead_code, reason = "held")]
    elsewhere: Process,
}

/// A target while it is being broken.
struct Target {
    name: String,
    address: String,
    folder: PathBuf,
    nginx: Process,
}

const PORT: u16 = 8080;
const ELSEWHERE: &str = "10.78.99.1";

fn name(kind: usize, row: usize) -> String {
    format!("t{kind}-{row}.example.com")
}

fn address(kind: usize, row: usize) -> String {
    format!("10.78.{kind}.{}", row + 1)
}

/// As `ip` wants it.
fn with_length(address: &str) -> String {
    format!("{address}/32")
}

impl Lab {
    /// Both hosts, and targets by kind of fault.
    fn new(count: usize) -> (Self, Vec<Vec<Target>>) {
        ip(&["link", "set", "lo", "up"]);
        let other = Process::start(Command::new("unshare").args(["--net", "sleep", "3600"]));
        // The namespace is there once it differs from ours.
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", other.id());
        harness::wait_for("a namespace", || {
            fs::read_link(&theirs).ok().filter(|theirs| *theirs != ours)
        });
        let id = other.id().to_string();
        ip(&["link", "add", "here", "type", "veth", "peer", "name", "there", "netns", &id]);
        ip(&["address", "add", "10.77.0.1/24", "dev", "here"]);
        ip(&["link", "set", "here", "up"]);
        let lab_ip = |arguments: &[&str]| inside(&other, "ip", arguments);
        lab_ip(&["address", "add", "10.77.0.2/24", "dev", "there"]);
        lab_ip(&["link", "set", "there", "up"]);
        lab_ip(&["link", "set", "lo", "up"]);
        ip(&["route", "add", "10.78.0.0/16", "via", "10.77.0.2"]);
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = nginx_at(ELSEWHERE, &folder.path().join("elsewhere"), &other);
        // Each kind of fault has targets of its own, all well when the server starts: one that
        // has failed before is held down.
        let target = |kind, row| {
            let (name, address) = (name(kind, row), address(kind, row));
            let folder = folder.path().join(&name);
            let nginx = nginx_at(&address, &folder, &other);
            Target { name, address, folder, nginx }
        };
        let targets =
            (0..FAULTS.len()).map(|kind| (0..count).map(|row| target(kind, row)).collect());
        let targets = targets.collect();
        let server = Meridian::serve(&config(count));
        (Self { folder, other, server, elsewhere }, targets)
    }

    /// How long each fault of one kind was in the answers, and each recovery.
    fn run(&self, fault: &str, targets: &mut [Target]) -> (Vec<Duration>, Vec<Duration>) {
        self.all_are(targets, true);
        let down = self.each(targets, false, |lab, target| lab.fail(target, fault));
        self.all_are(targets, false);
        let up = self.each(targets, true, |lab, target| lab.heal(target, fault));
        (down, up)
    }

    /// Lets it fail; the moment at which it has.
    fn fail(&self, target: &mut Target, fault: &str) -> Instant {
        match fault {
            "killed" => target.nginx.kill(),
            "stopped" => target.nginx.signal("STOP"),
            "HTTP 500" => fs::write(target.folder.join("fail"), "").unwrap(),
            // Packets to it are then for nobody, and are dropped without a word.
            _ => self.address("del", target),
        }
        now()
    }

    fn heal(&self, target: &mut Target, fault: &str) -> Instant {
        match fault {
            "killed" => {
                target.nginx = nginx(&target.folder, &self.other);
                let there = format!("{}:{PORT}", target.address);
                harness::wait_for("nginx", || std::net::TcpStream::connect(&there).ok());
            }
            "stopped" => target.nginx.signal("CONT"),
            "HTTP 500" => fs::remove_file(target.folder.join("fail")).unwrap(),
            _ => self.address("add", target),
        }
        now()
    }

    /// Gives the target's address to the other host, or takes it.
    fn address(&self, change: &str, target: &Target) {
        inside(&self.other, "ip", &["address", change, &with_length(&target.address), "dev", "lo"]);
    }

    /// Changes each target at a moment of its own, and how long after it the answer changed.
    fn each(
        &self,
        targets: &mut [Target],
        is_up: bool,
        mut change: impl FnMut(&Self, &mut Target) -> Instant,
    ) -> Vec<Duration> {
        let mut changed: Vec<Option<Instant>> = vec![None; targets.len()];
        let mut took: Vec<Option<Duration>> = vec![None; targets.len()];
        let asking = Asking::new(&self.server);
        let began = now();
        while took.iter().any(Option::is_none) {
            let passed = now() - began;
            assert!(passed < Duration::from_secs(60), "waited in vain: {took:?}");
            for (row, target) in targets.iter_mut().enumerate() {
                // The golden ratio spreads the moments over any interval.
                let moment = Duration::from_secs_f64((row as f64 * 0.618_034).fract() * 2.0);
                if changed[row].is_none() && passed >= moment {
                    changed[row] = Some(change(self, target));
                }
                if let (Some(since), None) = (changed[row], took[row])
                    && asking.names_target(target) == is_up
                {
                    took[row] = Some(now() - since);
                }
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        took.into_iter().flatten().collect()
    }

    fn all_are(&self, targets: &[Target], is_up: bool) {
        let asking = Asking::new(&self.server);
        harness::wait_for("a calm start", || {
            targets.iter().all(|target| asking.names_target(target) == is_up).then_some(())
        });
    }
}

/// Asks over and over from one socket.
struct Asking(UdpSocket);

impl Asking {
    fn new(server: &Meridian) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server.dns).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self(socket)
    }

    fn names_target(&self, target: &Target) -> bool {
        let mut buffer = [0; 512];
        self.0.send(&question(&target.name, RecordType::A, None).to_vec().unwrap()).unwrap();
        let length = self.0.recv(&mut buffer).unwrap();
        data(&Message::from_vec(&buffer[..length]).unwrap()) == [target.address.as_str()]
    }
}

/// A web server with this address, which is put on the other host.
fn nginx_at(address: &str, folder: &Path, host: &Process) -> Process {
    inside(host, "ip", &["address", "add", &with_length(address), "dev", "lo"]);
    fs::create_dir_all(folder).unwrap();
    let path = folder.display();
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/log;
         events {{}}
         http {{ access_log off; server {{ listen {address}:{PORT};
           location / {{ if (-f {path}/fail) {{ return 500; }} return 200 ok; }} }} }}"
    );
    fs::write(folder.join("nginx.conf"), config).unwrap();
    nginx(folder, host)
}

fn nginx(folder: &Path, host: &Process) -> Process {
    let mut command = Command::new("nsenter");
    command.args(["-t", &host.id().to_string(), "-n", "nginx", "-p"]);
    command.arg(folder).arg("-c").arg(folder.join("nginx.conf"));
    Process::start(command.stderr(Stdio::null()))
}

/// A service for each target, which is served elsewhere when its target fails.
fn config(count: usize) -> String {
    let kinds = 0..FAULTS.len();
    let services: String = kinds
        .flat_map(|kind| (0..count).map(move |row| (kind, row)))
        .map(|(kind, row)| {
            format!(
                "  t{kind}-{row}: {{ names: [{}], steer: failover, check: web, \
                 regions: {{ here: {}, elsewhere: {ELSEWHERE} }} }}\n",
                name(kind, row),
                address(kind, row)
            )
        })
        .collect();
    format!(
        "regions: {{ here: {{ at: [0, 0] }}, elsewhere: {{ at: [0, 0] }} }}
checks: {{ web: {{ http: /, port: {PORT} }} }}
zones: {{ example.com: {{ ns: [ns1.example.com, ns2.example.com] }} }}
services:\n{services}"
    )
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "{arguments:?}");
}

fn inside(host: &Process, program: &str, arguments: &[&str]) {
    let mut command = Command::new("nsenter");
    command.args(["-t", &host.id().to_string(), "-n", program]).args(arguments);
    assert!(command.status().unwrap().success(), "{program} {arguments:?}");
}

#[expect(clippy::disallowed_methods, reason = "what is measured")]
fn now() -> Instant {
    Instant::now()
}
