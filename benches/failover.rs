//! From a fault to the first answer without it, and from its end to the first answer with it.
//!
//! The program that is shipped, at default settings, probes nginx on addresses of their own in a
//! network namespace that this benchmark makes for itself. All targets of one kind of fault fail at
//! moments of their own; each answer is asked for every few milliseconds.
//!
//! `cargo bench --bench failover` prints minimum, median and maximum in milliseconds: of one node,
//! of three that decide together, and of gdnsd and PowerDNS (`gdnsd`, `pdns-server` and
//! `pdns-backend-bind` of Debian), as far as they are installed, at their defaults and at their
//! fastest. All watch the same targets at the same time. It takes an hour, as gdnsd's defaults are
//! slow; as a part of the tests it runs small, without them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what must be, must be; and figures are for people"
)]

use std::env;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
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
const FAULTS: [&str; 6] =
    ["killed", "stopped", "HTTP 500", "unreachable", "half of the requests fail", "slow"];

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
    let count = if is_test { 2 } else { 10 };
    let (lab, mut targets) = Lab::new(count);
    let mut servers = vec![lab.meridian(count, 1), lab.meridian(count, 3)];
    if !is_test {
        servers.extend(lab.peers(count));
    }
    println!("{count} faults of each kind; milliseconds, min / median / max\n");
    println!("| fault | server | fault → answers without it | end → answers with it |");
    println!("|---|---|---|---|");
    for (fault, targets) in FAULTS.into_iter().zip(&mut targets) {
        let (down, up) = lab.run(fault, targets, &servers);
        for ((server, down), up) in servers.iter().zip(down).zip(up) {
            println!("| {fault} | {} | {} | {} |", server.name, row(down, count), row(up, count));
        }
    }
}

fn row(spans: Vec<Option<Duration>>, count: usize) -> String {
    let mut spans: Vec<Duration> = spans.into_iter().flatten().collect();
    if spans.is_empty() {
        return "not seen".to_owned();
    }
    let seen = match spans.len() {
        seen if seen < count => format!(" ({seen} of {count})"),
        _ => String::new(),
    };
    spans.sort();
    let millis = |span: &Duration| format!("{:.0}", span.as_secs_f64() * 1000.0);
    let [least, median, most] = [0, spans.len() / 2, spans.len() - 1].map(|at| millis(&spans[at]));
    format!("{least} / {median} / {most}{seen}")
}

/// A fault that nobody has seen for so long is not seen.
const PATIENCE: Duration = Duration::from_secs(240);

/// Something that answers, and watches the targets.
struct Server {
    name: &'static str,
    asking: Asking,
    #[expect(dead_code, reason = "held")]
    nodes: Vec<Meridian>,
    #[expect(dead_code, reason = "held")]
    peer: Option<(Process, TempDir)>,
}

/// Two hosts: this one with the servers, and one behind a link with the targets.
struct Lab {
    #[expect(dead_code, reason = "held")]
    folder: TempDir,
    /// Holds the other host's namespace.
    other: Process,
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
        (Self { folder, other, elsewhere }, targets)
    }

    /// Meridian at its defaults, as so many nodes.
    fn meridian(&self, count: usize, nodes: usize) -> Server {
        let ports: Vec<u16> = (0..nodes).map(|_| harness::free_port()).collect();
        let members = ports.iter().enumerate();
        let members: Vec<String> =
            members.map(|(row, port)| format!("n{row}: \"127.0.0.1:{port}\"")).collect();
        let node = |row: usize| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("key"), "0123456789abcdef".repeat(4)).unwrap();
            let cluster = format!("cluster: {{ key: key, nodes: {{ {} }} }}", members.join(", "));
            let cluster = if nodes > 1 { cluster } else { String::new() };
            let node = format!("node: {{ name: n{row}, listen: \"127.0.0.1:0\" }}");
            let http = "http: { listen: \"127.0.0.1:0\" }";
            let text = format!("{node}\n{http}\n{cluster}\n{}", config(count));
            Meridian::start(folder, &text)
        };
        let nodes: Vec<Meridian> = (0..nodes).map(node).collect();
        let name = if nodes.len() == 1 { "Meridian" } else { "Meridian, 3 nodes" };
        Server { name, asking: Asking::new(nodes[0].dns), nodes, peer: None }
    }

    /// gdnsd and PowerDNS, as far as they are installed.
    fn peers(&self, count: usize) -> Vec<Server> {
        let is_there = |program: &str| Path::new(program).exists();
        let mut peers = Vec::new();
        if is_there(GDNSD) {
            // It takes no interval below two seconds.
            let fastest = ", interval => 2, timeout => 1, up_thresh => 1, ok_thresh => 1, \
                           down_thresh => 1";
            peers.push(gdnsd("gdnsd, fastest", count, fastest));
            peers.push(gdnsd("gdnsd, defaults", count, ""));
        }
        if is_there(POWERDNS) {
            let fastest = ("lua-health-checks-interval=1\n", ", {timeout='1'}");
            peers.push(powerdns("PowerDNS, fastest", count, fastest));
            peers.push(powerdns("PowerDNS, defaults", count, ("", "")));
        }
        peers
    }

    /// How long each fault of one kind was in the answers of each server, and each recovery.
    fn run(&self, fault: &str, targets: &mut [Target], servers: &[Server]) -> (Table, Table) {
        let all = || servers.iter().flat_map(|of| targets.iter().map(move |to| (of, to)));
        let is_calm = |(server, target): (&Server, &Target)| server.asking.names_target(target);
        for (server, target) in all() {
            let what = format!("{} with {} at {}", server.name, target.name, target.address);
            harness::wait_for(&what, || is_calm((server, target)).then_some(()));
        }
        // Who was asked for the first time may not know yet.
        harness::wait_for("all of them at once", || all().all(is_calm).then_some(()));
        let all = vec![vec![true; targets.len()]; servers.len()];
        let fails = |lab: &Self, target: &mut Target| lab.fail(target, fault);
        let down = self.each((targets, servers), &all, false, fails);
        // Who has not seen it has nothing to see the end of.
        let seen: Vec<Vec<bool>> =
            down.iter().map(|spans| spans.iter().map(Option::is_some).collect()).collect();
        let up = self.each((targets, servers), &seen, true, |lab, target| lab.heal(target, fault));
        (down, up)
    }

    /// Lets it fail; the moment at which it has.
    fn fail(&self, target: &mut Target, fault: &str) -> Instant {
        match fault {
            "killed" => target.nginx.kill(),
            "stopped" => target.nginx.signal("STOP"),
            "HTTP 500" => fs::write(target.folder.join("fail"), "").unwrap(),
            "slow" => fs::write(target.folder.join("slow"), "").unwrap(),
            "half of the requests fail" => fs::write(target.folder.join("half"), "").unwrap(),
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
            "slow" => fs::remove_file(target.folder.join("slow")).unwrap(),
            "half of the requests fail" => fs::remove_file(target.folder.join("half")).unwrap(),
            _ => self.address("add", target),
        }
        now()
    }

    /// Gives the target's address to the other host, or takes it.
    fn address(&self, change: &str, target: &Target) {
        inside(&self.other, "ip", &["address", change, &with_length(&target.address), "dev", "lo"]);
    }

    /// Changes each target at a moment of its own, and how long after it each server's answer
    /// changed, of those that are `awaited`.
    fn each(
        &self,
        (targets, servers): (&mut [Target], &[Server]),
        awaited: &[Vec<bool>],
        is_up: bool,
        mut change: impl FnMut(&Self, &mut Target) -> Instant,
    ) -> Table {
        let mut changed: Vec<Option<Instant>> = vec![None; targets.len()];
        let mut took: Table = vec![vec![None; targets.len()]; servers.len()];
        let began = now();
        let is_done = |took: &Table| {
            let rows = took.iter().flatten().zip(awaited.iter().flatten());
            rows.into_iter().all(|(took, awaited)| took.is_some() || !awaited)
        };
        while changed.iter().any(Option::is_none) || !is_done(&took) {
            let passed = now() - began;
            if passed > PATIENCE {
                break;
            }
            for (row, target) in targets.iter_mut().enumerate() {
                // The golden ratio spreads the moments over any interval.
                let moment = Duration::from_secs_f64((row as f64 * 0.618_034).fract() * 2.0);
                if changed[row].is_none() && passed >= moment {
                    changed[row] = Some(change(self, target));
                }
                let Some(since) = changed[row] else { continue };
                for ((server, took), awaited) in servers.iter().zip(&mut took).zip(awaited) {
                    if awaited[row]
                        && took[row].is_none()
                        && server.asking.names_target(target) == is_up
                    {
                        took[row] = Some(now() - since);
                    }
                }
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        took
    }
}

/// How long it took each server with each target.
type Table = Vec<Vec<Option<Duration>>>;

/// Asks over and over from one socket.
struct Asking(UdpSocket);

impl Asking {
    fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self(socket)
    }

    fn names_target(&self, target: &Target) -> bool {
        let mut buffer = [0; 512];
        let query = question(&target.name, RecordType::A, None).to_vec().unwrap();
        // A server that has just started may not listen yet.
        let asked = self.0.send(&query).and_then(|_| self.0.recv(&mut buffer));
        let Ok(length) = asked else { return false };
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
         http {{ access_log off; split_clients $request_id $is_hit {{ 50% 1; * 0; }}
           server {{ listen {address}:{PORT};
             location / {{
               if (-f {path}/fail) {{ return 500; }}
               set $half 0;
               if (-f {path}/half) {{ set $half $is_hit; }}
               if ($half) {{ return 500; }}
               if (-f {path}/slow) {{ set $limit_rate 16; }}
               return 200 ok; }} }} }}"
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
    let services: String = rows(count)
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
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:\n{services}"
    )
}

const GDNSD: &str = "/usr/sbin/gdnsd";
const POWERDNS: &str = "/usr/sbin/pdns_server";

/// The rows of the targets: of all kinds.
fn rows(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..FAULTS.len()).flat_map(move |kind| (0..count).map(move |row| (kind, row)))
}

const APEX: &str = "@ 300 SOA ns1.example.com. root.example.com. 1 3600 600 86400 5\n\
                    @ 300 NS ns1.example.com.\nns1 300 A 127.0.0.1\n";

fn gdnsd(name: &'static str, count: usize, service: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let (port, path) = (harness::free_port(), folder.path().display());
    let resources = rows(count).map(|(kind, row)| {
        let primary = address(kind, row);
        format!(
            "t{kind}-{row} => {{ service_types => web, primary => {primary}, \
             secondary => {ELSEWHERE} }}\n"
        )
    });
    let config = format!(
        "options => {{ listen => 127.0.0.1:{port}, run_dir => {path}/run, \
         state_dir => {path}/state, zones_default_ttl => 5 }}
         service_types => {{ web => {{ plugin => http_status, port => {PORT}, url_path => \"/\", \
         ok_codes => [200]{service} }} }}
         plugins => {{ simplefo => {{ {} }} }}",
        resources.collect::<String>()
    );
    fs::write(folder.path().join("config"), config).unwrap();
    fs::create_dir(folder.path().join("zones")).unwrap();
    let names = rows(count);
    let names = names.map(|(kind, row)| format!("t{kind}-{row} 5 DYNA simplefo!t{kind}-{row}\n"));
    let zone = APEX.to_owned() + &names.collect::<String>();
    fs::write(folder.path().join("zones/example.com"), zone).unwrap();
    let mut command = Command::new(GDNSD);
    command.arg("-c").arg(folder.path()).arg("start");
    peer(name, port, &mut command, folder)
}

fn powerdns(name: &'static str, count: usize, (setting, option): (&str, &str)) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let (port, path) = (harness::free_port(), folder.path().display());
    let config = format!(
        "launch=bind\nbind-config={path}/named.conf\nenable-lua-records=yes\nsocket-dir={path}\n\
         local-address=127.0.0.1\nlocal-port={port}\ncache-ttl=0\nquery-cache-ttl=0\n\
         negquery-cache-ttl=0\ndaemon=no\nguardian=no\nsecurity-poll-suffix=\n{setting}"
    );
    fs::write(folder.path().join("pdns.conf"), config).unwrap();
    let zones = format!("zone \"example.com\" {{ type master; file \"{path}/zone\"; }};");
    fs::write(folder.path().join("named.conf"), zones).unwrap();
    let names = rows(count).map(|(kind, row)| {
        let primary = address(kind, row);
        format!(
            "t{kind}-{row} 5 LUA A \"ifurlup('http://{primary}:{PORT}/', {{ {{'{primary}'}}, \
             {{'{ELSEWHERE}'}} }}{option})\"\n"
        )
    });
    let zone = format!("$ORIGIN example.com.\n{APEX}{}", names.collect::<String>());
    fs::write(folder.path().join("zone"), zone).unwrap();
    let mut command = Command::new(POWERDNS);
    command.arg(format!("--config-dir={path}"));
    peer(name, port, &mut command, folder)
}

fn peer(name: &'static str, port: u16, command: &mut Command, folder: TempDir) -> Server {
    let process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    Server { name, asking: Asking::new(at), nodes: Vec::new(), peer: Some((process, folder)) }
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
