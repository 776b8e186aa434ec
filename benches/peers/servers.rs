//! The servers: the same zone and the same three regions for each, on one core, in its own words.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Process, free_port, wait_for};
use crate::host::Host;
use crate::load::{Queries, Workload, ZONE, zone};

/// The regions, their addresses by last octet, and the continents they serve.
const REGIONS: [(&str, u8, &[&str]); 3] = [
    ("us-east", 1, &["NA", "SA"]),
    ("eu-west", 2, &["EU", "AF"]),
    ("ap-south", 3, &["AS", "OC", "AN"]),
];

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Sends back what it gets: what the kernel takes.
    Echo,
    Meridian(Setup),
    Gdnsd,
    Knot,
    KnotGeo,
    KnotXdp,
    PowerDns,
    Nsd,
    Bind,
}

/// How Meridian is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Setup {
    /// One worker, all else by default.
    One,
    /// The same, by a ring shared with the kernel.
    Ring,
    /// Past the kernel's stack too.
    Xdp,
    /// One worker, with the buffers that the kernel gives by itself.
    Small,
    /// Two workers on two cores, of which the load has one too.
    Two,
    /// Likewise, each worker on its core.
    Pinned,
}

impl Setup {
    /// Where it runs, what it says of its workers, and where else it listens.
    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::One => ("0", "workers: 1", ""),
            Self::Xdp => ("0", "workers: 1", ", \"xdp:here\""),
            Self::Ring => ("0", "workers: 1, io_uring: true", ""),
            Self::Small => ("0", "workers: 1, buffer: 212992", ""),
            Self::Two => ("0-1", "workers: 2", ""),
            Self::Pinned => ("0-1", "workers: 2, pin: true", ""),
        }
    }
}

impl Kind {
    /// Those that can answer this, the yardstick first.
    pub(crate) fn of(workload: Workload) -> &'static [Self] {
        match workload {
            Workload::Subnets | Workload::NoSubnets => &[
                Self::Echo,
                Self::Meridian(Setup::One),
                Self::Meridian(Setup::Ring),
                Self::Meridian(Setup::Small),
                Self::Meridian(Setup::Two),
                Self::Meridian(Setup::Pinned),
                Self::Gdnsd,
                Self::KnotGeo,
                Self::PowerDns,
            ],
            Workload::Past => {
                &[Self::Echo, Self::Meridian(Setup::One), Self::Meridian(Setup::Xdp), Self::KnotXdp]
            }
            Workload::Static(_)
            | Workload::Hits(_)
            | Workload::Misses(_)
            | Workload::Elsewhere
            | Workload::Mixed(..) => &[
                Self::Echo,
                Self::Meridian(Setup::One),
                Self::Meridian(Setup::Ring),
                Self::Gdnsd,
                Self::Knot,
                Self::Nsd,
                Self::Bind,
            ],
        }
    }

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo (recvmmsg)",
            Self::Meridian(Setup::One) => "Meridian",
            Self::Meridian(Setup::Ring) => "Meridian, io_uring",
            Self::Meridian(Setup::Xdp) => "Meridian, AF_XDP",
            Self::Meridian(Setup::Small) => "Meridian, 208 KiB",
            Self::Meridian(Setup::Two) => "Meridian, 2 workers",
            Self::Meridian(Setup::Pinned) => "Meridian, 2 pinned",
            Self::Gdnsd => "gdnsd",
            Self::Knot => "Knot DNS",
            Self::KnotGeo => "Knot DNS, mod-geoip",
            Self::KnotXdp => "Knot DNS, AF_XDP",
            Self::PowerDns => "PowerDNS, geoip",
            Self::Nsd => "NSD",
            Self::Bind => "BIND",
        }
    }

    /// Is it set otherwise than it would be?
    pub(crate) fn is_tuned(self) -> bool {
        matches!(self, Self::Meridian(Setup::Small | Setup::Two | Setup::Pinned))
    }

    /// Where it runs.
    fn cores(self) -> &'static str {
        if let Self::Meridian(setup) = self { setup.parts().0 } else { "0" }
    }

    /// The program; `None`: this one.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Echo => None,
            Self::Meridian(_) => Some(env!("CARGO_BIN_EXE_meridian")),
            Self::Gdnsd => Some("/usr/sbin/gdnsd"),
            Self::Knot | Self::KnotGeo | Self::KnotXdp => Some("/usr/sbin/knotd"),
            Self::PowerDns => Some("/usr/sbin/pdns_server"),
            Self::Nsd => Some("/usr/sbin/nsd"),
            Self::Bind => Some("/usr/sbin/named"),
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        self.program().is_none_or(|program| Path::new(program).exists())
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// From its start to its first answer.
    pub(crate) start: Duration,
    process: Process,
    #[expect(dead_code, reason = "held")]
    world: (TempDir, Option<Host>),
}

impl Server {
    /// Starts it on its cores, with so many fixed names, and waits until it answers; on a host
    /// of its own, or on loopback.
    pub(crate) fn start(
        kind: Kind,
        names: u32,
        database: &Path,
        (mut first, host): (Queries, Option<Host>),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ip = host.as_ref().map_or(Ipv4Addr::LOCALHOST, Host::v4);
        let world = World { folder: folder.path(), ip, port: free_port(), database };
        fs::write(world.path("zone"), zone(names)).unwrap();
        fs::create_dir(world.path("run")).unwrap();
        // A nice value below 0 needs root, and is not worth failing for.
        let program = "nice";
        let mut command = host.as_ref().map_or(Command::new(program), |host| host.inside(program));
        command.args(["-n", "-15", "taskset", "-c", kind.cores()]);
        world.tell(kind, &mut command);
        command.stdout(Stdio::null());
        command.stderr(fs::File::create(world.path("log")).unwrap());
        let (began, mut process) = (Instant::now(), Process::start(&mut command));
        let address = SocketAddr::from((ip, world.port));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        wait_for(kind.name(), || {
            let log = || fs::read_to_string(world.path("log")).unwrap();
            assert!(process.ended().is_none(), "{} ended: {}", kind.name(), log());
            socket.send_to(first.take(1), address).ok()?;
            socket.recv(&mut [0; 512]).ok()
        });
        Self { kind, address, start: began.elapsed(), process, world: (folder, host) }
    }

    /// The processes that it is made of.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.process.id()];
        let mut row = 0;
        while let Some(of) = all.get(row) {
            let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children"));
            all.extend(children.unwrap_or_default().split_whitespace().flat_map(str::parse::<u32>));
            row += 1;
        }
        all
    }

    /// The time that it has spent on a core, and the share of it that was not the kernel's.
    pub(crate) fn spent(&self) -> Spent {
        let mut spent = Spent::default();
        for id in self.processes() {
            let tasks = fs::read_dir(format!("/proc/{id}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                let first = text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
                spent.nanoseconds += first.unwrap_or(0);
            }
            // Times in user and kernel mode (proc_pid_stat(5)).
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
            let mut ticks = fields.split_whitespace().skip(11).flat_map(str::parse::<u64>);
            spent.user += ticks.next().unwrap_or(0);
            spent.system += ticks.next().unwrap_or(0);
        }
        spent
    }

    /// The memory that it alone has, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let of = |id| {
            let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0)
        };
        self.processes().into_iter().map(of).sum()
    }
}

/// What a server has spent: in all, and in ticks by mode.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) nanoseconds: u64,
    pub(crate) user: u64,
    pub(crate) system: u64,
}

/// Where a server runs.
struct World<'w> {
    folder: &'w Path,
    ip: Ipv4Addr,
    port: u16,
    database: &'w Path,
}

impl World<'_> {
    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn write(&self, file: &str, content: &str) -> PathBuf {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn add_to_zone(&self, records: &str) {
        let file = fs::OpenOptions::new().append(true).open(self.path("zone"));
        file.unwrap().write_all(records.as_bytes()).unwrap();
    }

    /// Writes its configuration, and how it is called.
    fn tell(&self, kind: Kind, command: &mut Command) {
        match kind.program() {
            None => command.arg(std::env::current_exe().unwrap()).arg("--echo"),
            Some(program) => command.arg(program),
        };
        match kind {
            Kind::Echo => command.arg(format!("{}:{}", self.ip, self.port)),
            Kind::Meridian(setup) => {
                let config = self.write("m.yaml", &self.meridian(setup));
                command.arg("serve").arg("--config").arg(config)
            }
            Kind::Gdnsd => {
                self.write("config", &self.gdnsd());
                self.add_to_zone("www 60 DYNA geoip!www\n");
                fs::create_dir(self.path("zones")).unwrap();
                fs::rename(self.path("zone"), self.path("zones").join(ZONE)).unwrap();
                command.arg("-c").arg(self.folder).arg("start")
            }
            Kind::Knot => command.arg("-c").arg(self.write("knot.conf", &self.knot("", ""))),
            Kind::KnotGeo | Kind::KnotXdp => {
                let module = "    module: mod-geoip/g\n";
                // Whoever is nowhere is sent to the first region.
                self.add_to_zone("www 60 A 192.0.2.1\nwww 60 AAAA 2001:db8::1\n");
                self.write("geo.conf", &knot_places());
                let port = self.port;
                let past = format!("xdp:\n    listen: here@{port}\n    route-check: off\n");
                let past = if kind == Kind::KnotXdp { past.as_str() } else { "" };
                command.arg("-c").arg(self.write("knot.conf", &self.knot(module, past)))
            }
            Kind::PowerDns => {
                self.write("geo.yml", &powerdns_places());
                self.write("pdns.conf", &self.powerdns());
                command.arg(format!("--config-dir={}", self.folder.display()))
            }
            Kind::Nsd => command.arg("-d").arg("-c").arg(self.write("nsd.conf", &self.nsd())),
            Kind::Bind => {
                let config = self.write("named.conf", &self.bind());
                command.args(["-f", "-n", "1", "-U", "1", "-c"]).arg(config)
            }
        };
    }

    /// With everything on: its limit is counted, and is beyond all reach.
    fn meridian(&self, setup: Setup) -> String {
        let (_, workers, past) = setup.parts();
        let Self { folder, ip, port, database } = self;
        let (folder, database) = (folder.display(), database.display());
        let (mut places, mut pools, mut continents) = Default::default();
        for (region, octet, of) in REGIONS {
            let text: &mut String = &mut places;
            writeln!(text, "  {region}: {{}}").unwrap();
            let text: &mut String = &mut pools;
            writeln!(text, "      {region}: [192.0.2.{octet}, \"2001:db8::{octet}\"]").unwrap();
            let text: &mut String = &mut continents;
            of.iter().for_each(|of| writeln!(text, "    {of}: [{region}]").unwrap());
        }
        format!(
            "node: {{ listen: [\"{ip}:{port}\"{past}], {workers} }}
http: {{ listen: \"127.0.0.1:0\" }}
rate_limit: {{ same: 100000000 }}
geoip: {{ database: \"{database}\" }}
regions:
{places}steering:
  continents:
{continents}zones: {{ {ZONE}: {{ file: \"{folder}/zone\" }} }}
services:
  www:
    names: [www.{ZONE}]
    steer: nearest
    ttl: 60s
    regions:
{pools}"
        )
    }

    fn gdnsd(&self) -> String {
        let Self { folder, port, database, .. } = self;
        let (folder, database) = (folder.display(), database.display());
        let order = |first: &str| {
            let others = REGIONS.iter().map(|(region, ..)| *region).filter(|of| *of != first);
            [first].into_iter().chain(others).collect::<Vec<_>>().join(", ")
        };
        let (mut map, mut pools) = (String::new(), String::new());
        for (region, octet, continents) in REGIONS {
            for of in continents {
                write!(map, "{of} => [{}], ", order(region)).unwrap();
            }
            let addresses =
                format!("addrs_v4 => [192.0.2.{octet}], addrs_v6 => [2001:db8::{octet}]");
            write!(pools, "{region} => {{ {addresses} }}, ").unwrap();
        }
        let datacenters = order(REGIONS[0].0);
        format!(
            "options => {{ listen => 127.0.0.1:{port}, udp_threads => 1, tcp_threads => 1,
  run_dir => {folder}/run, state_dir => {folder}/run/state }}
service_types => {{}}
plugins => {{ geoip => {{
  maps => {{ m => {{ geoip2_db => \"{database}\", datacenters => [{datacenters}],
    map => {{ {map} }} }} }}
  resources => {{ www => {{ map => m, service_types => up, dcmap => {{ {pools} }} }} }}
}} }}
"
        )
    }

    fn knot(&self, module: &str, past: &str) -> String {
        let Self { folder, ip, port, database } = self;
        let (folder, database) = (folder.display(), database.display());
        let places = if module.is_empty() {
            String::new()
        } else {
            format!(
                "mod-geoip:
  - id: g
    config-file: {folder}/geo.conf
    ttl: 60
    mode: geodb
    geodb-file: {database}
    geodb-key: continent/code
"
            )
        };
        format!(
            "server:
    rundir: {folder}/run
    listen: {ip}@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    edns-client-subnet: on
{past}database:
    storage: {folder}/run
{places}zone:
  - domain: {ZONE}
    file: {folder}/zone
    journal-content: none
    zonefile-load: whole
{module}"
        )
    }

    fn powerdns(&self) -> String {
        let Self { folder, port, database, .. } = self;
        let (folder, database) = (folder.display(), database.display());
        format!(
            "launch=geoip
geoip-database-files=mmdb:{database}
geoip-zones-file={folder}/geo.yml
edns-subnet-processing=yes
local-address=127.0.0.1
local-port={port}
socket-dir={folder}/run
receiver-threads=1
distributor-threads=1
loglevel=3
disable-syslog=yes
security-poll-suffix=
"
        )
    }

    fn nsd(&self) -> String {
        let (folder, port) = (self.folder.display(), self.port);
        format!(
            "server:
  ip-address: 127.0.0.1@{port}
  server-count: 1
  username: \"\"
  chroot: \"\"
  zonesdir: \"{folder}\"
  database: \"\"
  pidfile: \"{folder}/run/nsd.pid\"
  xfrdfile: \"{folder}/run/xfrd.state\"
  zonelistfile: \"{folder}/run/zone.list\"
  xfrdir: \"{folder}/run\"
  rrl-ratelimit: 0
  minimal-responses: yes
remote-control:
  control-enable: no
zone:
  name: {ZONE}
  zonefile: zone
"
        )
    }

    fn bind(&self) -> String {
        let (folder, port) = (self.folder.display(), self.port);
        format!(
            "options {{ directory \"{folder}/run\"; listen-on port {port} {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }}; recursion no; pid-file \"{folder}/run/named.pid\";
  session-keyfile \"{folder}/run/session.key\"; dnssec-validation no; notify no;
  allow-transfer {{ none; }}; minimal-responses yes; querylog no; }};
controls {{ }};
logging {{ category default {{ null; }}; }};
zone \"{ZONE}\" {{ type master; file \"{folder}/zone\"; }};
"
        )
    }
}

/// The places of Knot's mod-geoip.
fn knot_places() -> String {
    let mut text = format!("www.{ZONE}:\n");
    for (_, octet, continents) in REGIONS {
        for of in continents {
            let addresses = format!("    A: 192.0.2.{octet}\n    AAAA: 2001:db8::{octet}\n");
            write!(text, "  - geo: \"{of}\"\n{addresses}").unwrap();
        }
    }
    text
}

/// The zone of PowerDNS's geoip backend.
fn powerdns_places() -> String {
    let soa = format!("ns1.{ZONE}. hostmaster.{ZONE}. 1 7200 1800 1209600 300");
    let mut text = format!(
        "domains:
- domain: {ZONE}
  ttl: 60
  records:
    {ZONE}:
      - soa: {soa}
      - ns: ns1.{ZONE}.
"
    );
    for (_, octet, continents) in REGIONS {
        // Whoever is nowhere is sent to the first.
        let nowhere = (octet == 1).then_some("unknown");
        for of in continents.iter().copied().chain(nowhere).map(str::to_lowercase) {
            let addresses =
                format!("      - a: 192.0.2.{octet}\n      - aaaa: 2001:db8::{octet}\n");
            write!(text, "    {of}.geo.{ZONE}:\n{addresses}").unwrap();
        }
    }
    write!(text, "  services:\n    www.{ZONE}: '%cn.geo.{ZONE}'\n").unwrap();
    text
}
