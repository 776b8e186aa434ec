//! Caching resolvers in front of us: unbound, knot-resolver and dnsmasq, forwarding the zone.
//!
//! They see a failover through their cache, and unbound with client subnets keeps an answer for
//! each scope.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use hickory_proto::rr::RecordType;
use tempfile::{TempDir, tempdir};

use crate::harness::{
    Meridian, Nginx, Process, ask, data, free_port, question, wait_for, wait_until,
};

/// A resolver that runs, and where.
pub(crate) struct Resolver {
    #[expect(dead_code, reason = "held")]
    process: Process,
    #[expect(dead_code, reason = "held")]
    folder: TempDir,
    pub(crate) at: SocketAddr,
}

impl Resolver {
    /// Somebody else may take a port between the look for a free one and the resolver's start,
    /// which then fails: the next one is tried.
    fn start(config: impl Fn(u16) -> String, command: impl Fn(&str, u16) -> Command) -> Self {
        let mut attempts = (0..3).map(|_| Self::attempt(&config, &command));
        attempts.find_map(|resolver| resolver).unwrap()
    }

    /// Starts it, and waits until it answers at all; `None`: it has ended.
    fn attempt(
        config: impl Fn(u16) -> String,
        command: impl Fn(&str, u16) -> Command,
    ) -> Option<Self> {
        let (folder, port) = (tempdir().unwrap(), free_port());
        let path = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("conf"), config(port)).unwrap();
        let mut command = command(path, port);
        let mut process =
            Process::start(command.current_dir(path).stdout(Stdio::null()).stderr(Stdio::null()));
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let wire = question("localhost", RecordType::A, None).to_vec().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(at).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let is_up = wait_for("a resolver", || {
            if process.ended().is_some() {
                return Some(false);
            }
            socket.send(&wire).ok()?;
            socket.recv(&mut [0; 512]).ok().map(|_| true)
        });
        is_up.then_some(Self { process, folder, at })
    }
}

pub(crate) fn unbound(server: &Meridian, more: &str) -> Resolver {
    let (ip, port) = (server.dns.ip(), server.dns.port());
    let config = |own| {
        format!(
            "server:\n interface: 127.0.0.1\n port: {own}\n do-daemonize: no\n username: \"\"\n \
             chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n do-not-query-localhost: no\n \
             access-control: 127.0.0.0/8 allow\n local-zone: \"example.com.\" transparent\n{more}\n\
             remote-control:\n control-enable: no\n\
             stub-zone:\n name: \"example.com\"\n stub-addr: {ip}@{port}\n"
        )
    };
    Resolver::start(config, |folder, _| {
        let mut command = Command::new("unbound");
        command.args(["-d", "-c", &format!("{folder}/conf")]);
        command
    })
}

pub(crate) fn knot_resolver(server: &Meridian) -> Resolver {
    let at = format!("{}@{}", server.dns.ip(), server.dns.port());
    let config = |own| {
        format!(
            "net.listen('127.0.0.1', {own}, {{ kind = 'dns' }})\ntrust_anchors.remove('.')\n\
             policy.add(policy.suffix(policy.FORWARD('{at}'), \
             policy.todnames({{'example.com.'}})))\ncache.size = 10 * MB\n"
        )
    };
    Resolver::start(config, |folder, _| {
        let mut command = Command::new("kresd");
        command.args(["-n", "-q", "-c", &format!("{folder}/conf"), folder]);
        command
    })
}

pub(crate) fn dnsmasq(server: &Meridian, more: &str) -> Resolver {
    let at = format!("{}#{}", server.dns.ip(), server.dns.port());
    let config = |own| {
        format!(
            "port={own}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\n\
             user=\npid-file=\nserver=/example.com/{at}\n{more}"
        )
    };
    Resolver::start(config, |folder, _| {
        let mut command = Command::new("dnsmasq");
        command.args(["-k", "-C", &format!("{folder}/conf")]);
        command
    })
}

pub(crate) fn forwarding_bind(server: &Meridian) -> Resolver {
    let (ip, port) = (server.dns.ip(), server.dns.port());
    let config = |own| {
        format!(
            "options {{ directory \".\"; pid-file none; listen-on port {own} {{ 127.0.0.1; }};
               listen-on-v6 {{ none; }}; recursion yes; dnssec-validation no; }};
             controls {{ }};
             zone \"example.com\" {{ type forward; forward only;
               forwarders {{ {ip} port {port}; }}; }};"
        )
    };
    Resolver::start(config, |folder, _| {
        let mut command = Command::new("named");
        command.args(["-g", "-c", &format!("{folder}/conf")]);
        command
    })
}

pub(crate) fn recursor(server: &Meridian) -> Resolver {
    let config = |own| {
        format!(
            "local-address=127.0.0.1\nlocal-port={own}\ndaemon=no\nsocket-dir=.\n\
             dont-query=\ndnssec=off\nforward-zones=example.com={}\n",
            server.dns
        )
    };
    Resolver::start(config, |folder, _| {
        let mut command = Command::new("pdns_recursor");
        std::fs::rename(format!("{folder}/conf"), format!("{folder}/recursor.conf")).unwrap();
        command.arg(format!("--config-dir={folder}"));
        command
    })
}

fn world() -> (Meridian, [Nginx; 2]) {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = regions.each_ref().map(|region| region.address);
    let server = Meridian::serve(&format!(
        "regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
checks: {{ web: {{ http: /healthz, port: {port}, rise: 2 }} }}
zones:
  example.com:
    ns: [ns1.example.net, ns2.example.net]
    records: {{ alias: {{ CNAME: www.example.com. }} }}
services:
  web: {{ names: [www.example.com], check: web, ttl: 2s, regions: {{ us: {us}, eu: {eu} }} }}
  geo: {{ names: [geo.example.com], ttl: 1h, regions: {{ us: 192.0.2.10, eu: 192.0.2.20 }} }}
"
    ));
    (server, regions)
}

fn sees_a_failover(start: impl Fn(&Meridian) -> Resolver) {
    let (server, [mut us, eu]) = world();
    let resolver = start(&server);
    let asked = |name: &str| data(&ask(resolver.at, name, RecordType::A, None));
    let (own, next) = (us.address.to_string(), eu.address.to_string());
    assert_eq!(asked("www.example.com"), std::slice::from_ref(&own));
    let chain = ask(resolver.at, "alias.example.com", RecordType::A, None);
    assert_eq!(chain.answers.len(), 2);
    let missing = ask(resolver.at, "nope.example.com", RecordType::A, None);
    assert_eq!(missing.metadata.response_code.to_str(), "Non-Existent Domain");
    // It answers from its cache, and when that ends it hears of the failover.
    us.process.kill();
    wait_until(&vec![next], || asked("www.example.com"));
    us.restart();
    wait_until(&vec![own], || asked("www.example.com"));
}

#[test]
fn unbound_sees_a_failover() {
    sees_a_failover(|server| unbound(server, ""));
}

#[test]
fn knot_resolver_sees_a_failover() {
    sees_a_failover(knot_resolver);
}

#[test]
fn dnsmasq_sees_a_failover() {
    sees_a_failover(|server| dnsmasq(server, ""));
}

#[test]
fn unbound_keeps_an_answer_for_each_scope() {
    let (server, _regions) = world();
    let subnets = " module-config: \"subnetcache iterator\"\n send-client-subnet: 127.0.0.0/8\n \
                   client-subnet-always-forward: yes\n";
    let resolver = unbound(&server, subnets);
    let asked = |client| data(&ask(resolver.at, "geo.example.com", RecordType::A, Some(client)));
    for _ in 0..2 {
        assert_eq!(asked("128.112.128.0/24"), ["192.0.2.10"]);
        assert_eq!(asked("134.226.1.0/24"), ["192.0.2.20"]);
    }
    // Clients of one scope share an entry: all of a /24 in Dublin, without another question.
    let metric =
        "meridian_queries_total{transport=\"udp\",rcode=\"NOERROR\",service=\"geo\",region=\"eu\"}";
    let before = wait_for(metric, || Some(server.metric(metric)).filter(|count| *count > 0.0));
    for _ in 0..20 {
        assert_eq!(asked("134.226.1.0/24"), ["192.0.2.20"]);
    }
    assert_eq!(server.metric(metric), before);
}
