//! Answers, read by hickory-proto: what each RFC asks for, as rows.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use hickory_proto::op::Message as Read;
use proptest::prelude::*;

use super::*;
use crate::config::{Config, Targets};
use crate::geo::{Atlas, Catchment, Geofeed, Sources};
use crate::health::{HealthTable, State};
use crate::snapshot::Plan;
use crate::steer::Facts;

mod explained;
mod sizes;
mod unasked;

/// The world that the fuzzer answers from too.
static WORLD: LazyLock<Snapshot> = LazyLock::new(|| world(&["192.0.2.13"]));

/// The world, with the targets at these addresses down and all others up.
fn world(down: &[&str]) -> Snapshot {
    compiled(include_str!("../../fuzz/world.yaml"), down)
}

fn compiled(text: &str, down: &[&str]) -> Snapshot {
    let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
    let read = Config::load("world.yaml", text, &mut Targets::default(), &mut no_files).unwrap();
    let feed = Geofeed::parse(include_str!("../../fuzz/world.csv")).unwrap();
    let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
    let catchments = Catchment::build_all(&atlas, &read.catchments);
    let health = read.targets.iter().fold(HealthTable::default(), |table, target| {
        let is_down = down.contains(&target.address.to_string().as_str());
        table.assuming(target.id, if is_down { State::Down } else { State::Up })
    });
    let plan = Plan::new(read.zones, read.services, read.regions, catchments, read.identity);
    Snapshot::compile(plan.into(), &Facts::of(&health), None, None, 1).drawn()
}

/// A query, to be changed and sent.
#[derive(Clone)]
struct Query {
    name: String,
    rtype: u16,
    class: u16,
    flags: u16,
    opt: Option<(u16, u8, Vec<u8>)>,
    transport: Transport,
    from: &'static str,
}

fn query(name: &str, rtype: u16) -> Query {
    Query {
        name: name.to_owned(),
        rtype,
        class: 1,
        flags: 0x0100,
        opt: None,
        transport: Transport::Udp,
        from: "203.0.113.53",
    }
}

const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const DS: u16 = 43;
const ANY: u16 = 255;

impl Query {
    fn edns(mut self, payload: u16, options: &[u8]) -> Self {
        self.opt = Some((payload, 0, options.to_vec()));
        self
    }

    fn subnet(self, family: u16, source: u8, address: &[u8]) -> Self {
        let data = [&family.to_be_bytes()[..], &[source, 0], address].concat();
        self.edns(1232, &option(8, &data))
    }

    fn by(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    fn wire(&self) -> Vec<u8> {
        let mut wire = vec![0xab, 0xcd];
        wire.extend(self.flags.to_be_bytes());
        wire.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.opt.is_some())]);
        for label in self.name.split('.').filter(|label| !label.is_empty()) {
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend(label.as_bytes());
        }
        wire.push(0);
        wire.extend(self.rtype.to_be_bytes());
        wire.extend(self.class.to_be_bytes());
        if let Some((payload, version, options)) = &self.opt {
            wire.extend([0, 0, 41]);
            wire.extend(payload.to_be_bytes());
            wire.extend([0, *version, 0, 0]);
            wire.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
            wire.extend(options);
        }
        wire
    }

    fn send(&self) -> Vec<u8> {
        self.send_to(&WORLD)
    }

    fn send_to(&self, snapshot: &Snapshot) -> Vec<u8> {
        send(snapshot, &self.wire(), self.transport, self.from).1
    }

    /// The answer in a line: code, flags, and the records of each section that has some.
    fn told(&self) -> String {
        told(&self.send())
    }
}

fn option(code: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&code.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

fn send(
    snapshot: &Snapshot,
    packet: &[u8],
    transport: Transport,
    from: &str,
) -> (Outcome, Vec<u8>) {
    let peer = Peer { address: SocketAddr::new(from.parse().unwrap(), 5353), transport };
    let mut out = vec![1, 2, 3];
    let outcome = answer(snapshot, packet, peer, Instant::default(), &mut out);
    (outcome, out)
}

fn told(answer: &[u8]) -> String {
    let read = Read::from_vec(answer).unwrap();
    let mut told = format!("{:?}", read.metadata.response_code);
    for (is_set, flag) in [
        (read.metadata.authoritative, " aa"),
        (read.metadata.truncation, " tc"),
        (read.metadata.recursion_desired, " rd"),
        (read.metadata.recursion_available, " ra"),
    ] {
        told.push_str(if is_set { flag } else { "" });
    }
    let sections = [
        (&read.answers, ""),
        (&read.authorities, " authority"),
        (&read.additionals, " additional"),
    ];
    for (records, section) in sections {
        for record in records.iter().filter(|record| record.record_type() != 41.into()) {
            let (name, ttl, kind) = (&record.name, record.ttl, record.record_type());
            let data = record.data.to_string();
            let data = if kind == SOA.into() { String::new() } else { format!(" {data}") };
            told.push_str(&format!(" |{section} {name} {ttl} {kind}{data}"));
        }
    }
    told
}

/// SOURCE and SCOPE of an answer's client subnet.
fn scope(answer: &[u8]) -> Option<(u8, u8)> {
    let read = Read::from_vec(answer).unwrap();
    let edns = read.edns?;
    let subnet = edns.option(hickory_proto::rr::rdata::opt::EdnsCode::Subnet)?;
    let wire: Vec<u8> = Vec::try_from(subnet).unwrap();
    Some((wire[2], wire[3]))
}

#[test]
fn names_and_types_are_answered_as_the_rfcs_say() {
    let rows = [
        // RFC 1034 §4.3.2: what is there.
        ("ns1.example.com", A, "NoError aa rd | ns1.example.com. 3600 A 192.0.2.53"),
        ("example.com", MX, "NoError aa rd | example.com. 3600 MX 10 mail.example.com."),
        ("example.com", SOA, "NoError aa rd | example.com. 3600 SOA"),
        // RFC 2308 §2.2: the name, but not the type.
        ("ns1.example.com", MX, "NoError aa rd | authority example.com. 60 SOA"),
        ("www.example.com", MX, "NoError aa rd | authority example.com. 60 SOA"),
        // RFC 2308 §2.1: no such name.
        ("nope.example.com", A, "NXDomain aa rd | authority example.com. 60 SOA"),
        ("a.ns1.example.com", A, "NXDomain aa rd | authority example.com. 60 SOA"),
        // RFC 8020, RFC 4592 §2.2.2: an empty non-terminal exists.
        ("empty.ent.example.com", A, "NoError aa rd | authority example.com. 60 SOA"),
        ("ent.example.com", A, "NoError aa rd | authority example.com. 60 SOA"),
        // RFC 4592: wildcards, which stand for nothing that exists and nothing below it.
        ("a.wild.example.com", A, "NoError aa rd | a.wild.example.com. 3600 A 192.0.2.99"),
        ("a.b.wild.example.com", A, "NoError aa rd | a.b.wild.example.com. 3600 A 192.0.2.99"),
        ("a.wild.example.com", MX, "NoError aa rd | authority example.com. 60 SOA"),
        ("*.wild.example.com", A, "NoError aa rd | *.wild.example.com. 3600 A 192.0.2.99"),
        ("wild.example.com", A, "NoError aa rd | authority example.com. 60 SOA"),
        // RFC 1034 §3.6.2: CNAME itself, and a chain that leaves the zone.
        (
            "alias.example.com",
            CNAME,
            "NoError aa rd | alias.example.com. 3600 CNAME www.example.com.",
        ),
        (
            "outside.example.com",
            A,
            "NoError aa rd | outside.example.com. 3600 CNAME www.example.net.",
        ),
        // RFC 3597: types that nobody knows; hickory-proto shows 01 02 03 in base 64.
        ("odd.example.com", 65280, "NoError aa rd | odd.example.com. 3600 Unknown AQID"),
        ("www.example.com", 65281, "NoError aa rd | authority example.com. 60 SOA"),
        // RFC 8482 §4.2.
        ("example.com", ANY, "NoError aa rd | example.com. 3600 HINFO RFC8482 "),
        (
            "loop.example.com",
            ANY,
            "NoError aa rd | loop.example.com. 3600 CNAME loop2.example.com.",
        ),
        // RFC 8906 §3.1.3: not ours.
        ("example.net", A, "Refused rd"),
        ("", NS, "Refused rd"),
        ("example.com", 252, "Refused rd"),
        ("example.com", 251, "Refused rd"),
        // A service that has no endpoint up.
        ("gone.example.com", A, "ServFail rd"),
    ];
    for (name, rtype, expected) in rows {
        assert_eq!(query(name, rtype).told().trim_end(), expected.trim_end(), "{name} {rtype}");
    }
}

#[test]
fn a_chain_within_the_zone_is_followed_to_its_steered_end() {
    let told = query("alias.example.com", A).told();
    assert_eq!(
        told,
        "NoError aa rd | alias.example.com. 3600 CNAME www.example.com. \
         | www.example.com. 30 A 192.0.2.10"
    );
}

#[test]
fn a_loop_of_names_ends() {
    let told = query("loop.example.com", A).told();
    let expected = "NoError aa rd | loop.example.com. 3600 CNAME loop2.example.com. \
                    | loop2.example.com. 3600 CNAME loop.example.com.";
    assert_eq!(told, expected, "no record twice");
}

#[test]
fn a_delegation_is_referred_with_its_glue() {
    for name in ["sub.example.com", "a.b.sub.example.com"] {
        let told = query(name, A).told();
        let expected = "NoError rd \
                        | authority sub.example.com. 3600 NS ns.sub.example.com. \
                        | authority sub.example.com. 3600 NS ns1.example.com. | additional ";
        assert!(told.starts_with(expected), "{told}");
        for glue in [
            "additional ns.sub.example.com. 3600 A 192.0.2.54",
            "additional ns.sub.example.com. 3600 AAAA 2001:db8::54",
            "additional ns1.example.com. 3600 A 192.0.2.53",
        ] {
            assert!(told.contains(glue), "{told}");
        }
    }
    // RFC 3225 §3: what only DNSSEC needs is for those who say that they can use it.
    let mut secure = query("sub.example.com", A).edns(1232, &[]).wire();
    let flags = secure.len() - 4;
    secure[flags] = 0x80;
    let told = told(&send(&WORLD, &secure, Transport::Udp, "127.0.0.1").1);
    assert!(told.contains("| authority sub.example.com. 3600 DS "), "{told}");
    // RFC 4035 §3.1.4.1: the DS records of a cut are the parent's to give.
    let told = query("sub.example.com", DS).told();
    assert!(told.starts_with("NoError aa rd | sub.example.com. 3600 DS"), "{told}");
}

#[test]
fn the_ds_records_of_a_zone_are_its_parents_if_that_is_here() {
    let text = "regions: { us: {} }\nservices: {}\nzones:
  example.com: { ns: [ns.example.net], records: {
    signed: { NS: ns.example.net., DS: '1 8 9 00' }, plain: { NS: ns.example.net. } } }
  signed.example.com: { ns: [ns.example.net] }
  plain.example.com: { ns: [ns.example.net] }
  hidden.example.com: { ns: [ns.example.net] }
  example.org: { ns: [ns.example.net] }
";
    let snapshot = compiled(text, &[]);
    // RFC 4035 §3.1.4.1.
    for (name, expected) in [
        ("signed.example.com", "NoError aa rd | signed.example.com. 3600 DS"),
        ("plain.example.com", "NoError aa rd | authority example.com. 60 SOA"),
        // Nobody has delegated it, and it exists.
        ("hidden.example.com", "NoError aa rd | authority example.com. 60 SOA"),
        ("example.org", "NoError aa rd | authority example.org. 60 SOA"),
    ] {
        let told = told(&query(name, DS).send_to(&snapshot));
        assert!(told.starts_with(expected), "{name}: {told}");
    }
    let told = told(&query("signed.example.com", NS).send_to(&snapshot));
    assert!(told.starts_with("NoError aa rd | signed.example.com. 3600 NS"), "{told}");
}

#[test]
fn chaos_tells_only_what_the_operator_lets_it() {
    let chaos = |name| Query { class: 3, ..query(name, TXT) };
    assert!(chaos("version.bind").told().ends_with("0 TXT Meridian"));
    assert!(chaos("id.server").told().ends_with("0 TXT node-1"));
    assert_eq!(chaos("other.bind").told(), "Refused rd");
    let (zones, health) = (WORLD.plan().zones.clone(), HealthTable::default());
    let plan = Plan::new(zones, Vec::new(), Vec::new(), Vec::new(), Default::default());
    let silent = Snapshot::compile(plan.into(), &Facts::of(&health), None, None, 1);
    assert_eq!(told(&chaos("version.bind").send_to(&silent)), "Refused rd");
    assert_eq!(Query { class: 4, ..query("www.example.com", A) }.told(), "Refused rd");
}

#[test]
fn what_is_malformed_or_unknown_gets_its_code() {
    let good = query("www.example.com", A).wire();
    let code = |packet: &[u8]| match send(&WORLD, packet, Transport::Udp, "192.0.2.1").0 {
        Outcome::Answered(summary) => Ok(summary.rcode),
        Outcome::Silent(reason) => Err(reason),
    };
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    assert_eq!(code(&good), Ok(Rcode::NoError));
    // Opcodes: STATUS, NOTIFY, UPDATE.
    for opcode in [2, 4, 5, 15] {
        assert_eq!(code(&with(2, opcode << 3)), Ok(Rcode::NotImp), "{opcode}");
    }
    // RFC 9619: QDCOUNT other than 1.
    assert_eq!(code(&with(5, 2)), Ok(Rcode::FormErr));
    assert_eq!(code(&with(5, 0)), Ok(Rcode::FormErr));
    // Records that are not there, and octets that are too many.
    assert_eq!(code(&with(11, 1)), Ok(Rcode::FormErr));
    assert_eq!(code(&[&good[..], b"x"].concat()), Ok(Rcode::FormErr));
    for length in 12..good.len() {
        assert_eq!(code(&good[..length]), Ok(Rcode::FormErr), "{length}");
    }
    // Silence, where an answer could make a loop.
    for length in 0..12 {
        assert_eq!(code(&good[..length]), Err(Silence::TooShort));
    }
    assert_eq!(code(&with(2, 0x80)), Err(Silence::Response));
    // RFC 6891 §6.1.3.
    let mut version = query("www.example.com", A).edns(1232, &[]);
    version.opt = Some((1232, 1, Vec::new()));
    assert_eq!(code(&version.wire()), Ok(Rcode::BadVers));
    assert!(Read::from_vec(&version.send()).unwrap().edns.is_some());
}

#[test]
fn the_question_comes_back_octet_for_octet() {
    let asked = query("wWw.ExAmPlE.cOm", A);
    let (sent, got) = (asked.wire(), asked.send());
    assert_eq!(got[12..sent.len()], sent[12..]);
    assert!(asked.told().contains("192.0.2.10"));
}

#[test]
fn an_answer_is_cut_to_what_the_client_takes_and_whole_over_tcp() {
    let big = query("big.example.com", TXT);
    for (asked, limit) in [
        (big.clone(), 512),
        (big.clone().edns(512, &[]), 512),
        (big.clone().edns(100, &[]), 512),
        (big.clone().edns(4096, &[]), 1232),
    ] {
        let got = asked.send();
        assert!(got.len() <= limit, "{}", got.len());
        let read = Read::from_vec(&got).unwrap();
        assert!(read.metadata.truncation && read.answers.is_empty());
        assert_eq!(read.edns.is_some(), asked.opt.is_some(), "RFC 6891 §7");
    }
    for transport in [Transport::Tcp, Transport::Tls, Transport::Https, Transport::Quic] {
        let read = Read::from_vec(&big.clone().by(transport).send()).unwrap();
        assert!(!read.metadata.truncation && read.answers.len() == 7);
    }
    // Sixteen addresses fit.
    let many = Read::from_vec(&query("x.many.example.com", A).send()).unwrap();
    assert_eq!((many.answers.len(), many.metadata.truncation), (16, false));
}

#[test]
fn the_name_server_tells_its_id_when_asked() {
    let got = query("www.example.com", A).edns(1232, &option(3, &[])).send();
    assert!(got.windows(10).any(|window| window == [&[0, 3, 0, 6][..], b"node-1"].concat()));
    let got = query("www.example.com", A).edns(1232, &[]).send();
    assert!(!got.windows(6).any(|window| window == b"node-1"));
}

#[test]
fn client_subnets_steer_and_come_back_with_their_scope() {
    let www = |family, source, address: &[u8]| {
        let got = query("www.example.com", A).subnet(family, source, address).send();
        let read = Read::from_vec(&got).unwrap();
        (read.answers.first().map(|record| record.data.to_string()), scope(&got))
    };
    let text = |text: &str| Some(text.to_owned());
    // Each of the places in the feed, and what the rules make of it.
    assert_eq!(www(1, 24, &[192, 0, 2]), (text("192.0.2.10"), Some((24, 26))));
    assert_eq!(www(1, 32, &[192, 0, 2, 70]), (text("192.0.2.20"), Some((32, 26))));
    assert_eq!(www(1, 32, &[192, 0, 2, 200]), (text("192.0.2.20"), Some((32, 25))));
    assert_eq!(www(1, 25, &[198, 51, 100, 0]), (text("192.0.2.30"), Some((25, 25))));
    // RFC 7871 §7.1.2: /0 is "not my address": the resolver's own counts, and the scope is 0.
    assert_eq!(www(1, 0, &[]), (text("192.0.2.10"), Some((0, 0))));
    // So asks `dig +subnet=0`: no family, no address, and so it is echoed.
    let got = query("www.example.com", A).subnet(0, 0, &[]).send();
    assert!(got.ends_with(&option(8, &[0, 0, 0, 0])) && got[3] & 0x0f == 0);
}

#[test]
fn malformed_client_subnets_are_formerr() {
    for (family, source, address) in [
        (1, 33, &[1, 2, 3, 4, 5][..]),
        (2, 129, &[0; 17]),
        (1, 24, &[1, 2]),
        (1, 24, &[1, 2, 3, 4]),
        (1, 20, &[1, 2, 3]),
        (3, 8, &[1]),
    ] {
        let told = query("www.example.com", A).subnet(family, source, address).told();
        assert_eq!(told, "FormErr rd", "{family} {source}");
    }
    let scoped = [0, 1, 24, 24, 192, 0, 2];
    let told = query("www.example.com", A).edns(1232, &option(8, &scoped)).told();
    assert_eq!(told, "FormErr rd", "a SCOPE in a query");
    let twice = [option(8, &[0, 1, 0, 0]), option(8, &[0, 1, 0, 0])].concat();
    assert_eq!(query("www.example.com", A).edns(1232, &twice).told(), "FormErr rd");
}

#[test]
fn answers_that_do_not_depend_on_the_client_have_scope_0() {
    for (name, rtype) in [
        ("ns1.example.com", A),
        ("nope.example.com", A),
        ("www.example.com", MX),
        ("noecs.example.com", A),
        ("gone.example.com", A),
    ] {
        let got = query(name, rtype).subnet(1, 24, &[192, 0, 2]).send();
        assert_eq!(scope(&got), Some((24, 0)), "{name}");
    }
}

#[test]
fn clients_that_are_nowhere_get_the_default_order() {
    for from in ["10.0.0.1", "127.0.0.1", "100.64.0.1", "203.0.113.1", "fd00::1"] {
        let got = Query { from, ..query("www.example.com", A) }.told();
        assert!(got.ends_with("192.0.2.10"), "{from}: {got}");
    }
}

#[test]
fn a_service_can_ignore_subnets() {
    let asked = query("noecs.example.com", A).subnet(1, 32, &[192, 0, 2, 70]);
    assert!(asked.told().ends_with("192.0.2.12"));
    let from_there = Query { from: "192.0.2.70", ..query("noecs.example.com", A) };
    assert!(from_there.told().ends_with("192.0.2.22"));
}

#[test]
fn a_region_can_give_a_name_instead_of_addresses() {
    let inside = query("cdn.example.com", A).told();
    assert_eq!(
        inside,
        "NoError aa rd | cdn.example.com. 30 CNAME www.example.com. \
         | www.example.com. 30 A 192.0.2.10"
    );
    let outside = query("cdn.example.com", AAAA).subnet(1, 32, &[192, 0, 2, 70]).told();
    assert_eq!(outside, "NoError aa rd | cdn.example.com. 30 CNAME cdn.example.net.");
}

#[test]
fn each_service_of_a_chain_is_told_with_what_its_own_answer_names() {
    let plan = WORLD.plan();
    let [front, web] = ["named", "web"].map(|name| plan.service_named(name));
    let regions = |region: RegionId| RegionSet::EMPTY.with(region);
    let named = (regions(RegionId::from_index(0).unwrap()), Ttl::from_secs(30));
    // Where the chain ends there is an address, and no MX record.
    for (rtype, last) in [(A, Some(named)), (MX, None)] {
        let peer = Peer { address: ([203, 0, 113, 53], 53).into(), transport: Transport::Udp };
        let (mut room, mut message) =
            (LowerName::default(), query("cdn.example.com", rtype).wire());
        let mut asked = super::Query::new(peer, &mut room);
        asked.prepare(&message, &WORLD);
        let outcome = asked.answer(&WORLD, Instant::default(), &mut message);
        let Outcome::Answered(told) = outcome else { panic!("{outcome:?}") };
        assert_eq!((told.service, told.named), (web, last));
        assert_eq!(told.region.map(regions), last.map(|(regions, _)| regions));
        assert_eq!(asked.passed().iter().flatten().collect::<Vec<_>>(), [&(front.unwrap(), named)]);
        assert_ne!(told.asker, 0);
    }
}

#[test]
fn the_dead_are_not_named() {
    let eu_down = world(&["192.0.2.20"]);
    let asked = query("www.example.com", A).subnet(1, 32, &[192, 0, 2, 70]);
    assert!(told(&asked.send_to(&eu_down)).ends_with("192.0.2.10"));
    assert!(told(&asked.send_to(&WORLD)).ends_with("192.0.2.20"));
}

fn any_client() -> impl Strategy<Value = IpAddr> {
    let near_v4 = (0u32..1024).prop_map(|low| IpAddr::from((0xc000_0000 + low).to_be_bytes()));
    let test_v4 = any::<u8>().prop_map(|low| IpAddr::from([198, 51, 100, low]));
    let near_v6 = any::<u128>()
        .prop_map(|low| IpAddr::from((0x2001_0db8_u128 << 96 | low >> 32).to_be_bytes()));
    prop_oneof![
        near_v4,
        test_v4,
        near_v6,
        any::<u32>().prop_map(|ip| IpAddr::from(ip.to_be_bytes())),
        any::<u128>().prop_map(|ip| IpAddr::from(ip.to_be_bytes())),
    ]
}

fn by_client(name: &str, client: IpAddr) -> (String, u8) {
    let (family, octets, length) = match client {
        IpAddr::V4(ip) => (1, ip.octets().to_vec(), 32),
        IpAddr::V6(ip) => (2, ip.octets().to_vec(), 128),
    };
    let got = query(name, A).subnet(family, length, &octets).send();
    (told(&got), scope(&got).unwrap().1)
}

fn prefix(client: IpAddr, length: u8) -> ipnet::IpNet {
    ipnet::IpNet::new(client, length).unwrap().trunc()
}

proptest! {
    /// RFC 7871 §7.2.1: everybody in the scope gets the same, and the scopes of different
    /// answers do not overlap.
    #[test]
    fn scopes_are_true(a in any_client(), b in any_client(), name in prop_oneof![
        Just("www.example.com"), Just("weighted.example.com"), Just("x.many.example.com"),
    ]) {
        let (answer_a, scope_a) = by_client(name, a);
        let (answer_b, scope_b) = by_client(name, b);
        if a.is_ipv4() == b.is_ipv4() && answer_a != answer_b {
            prop_assert!(!prefix(a, scope_a).contains(&b), "{a}/{scope_a} has {b}");
            prop_assert!(!prefix(b, scope_b).contains(&a), "{b}/{scope_b} has {a}");
        }
    }

    /// The scope is the widest that is true: one bit wider has somebody else in it.
    #[test]
    fn scopes_are_wide(client in any_client()) {
        let (_, scope) = by_client("www.example.com", client);
        prop_assume!(client.is_ipv4() && scope > 0);
        let IpAddr::V4(ip) = client else { return Ok(()) };
        let wider = prefix(client, scope - 1);
        prop_assume!(wider.prefix_len() >= 16);
        let clients = wider.hosts().step_by(16);
        let answers: HashSet<String> =
            clients.map(|client| by_client("www.example.com", client).0).collect();
        prop_assert!(answers.len() > 1, "{ip}/{scope} could be wider");
    }

    #[test]
    fn no_packet_is_too_strange(packet in prop::collection::vec(any::<u8>(), 0..300)) {
        let (outcome, out) = send(&WORLD, &packet, Transport::Udp, "192.0.2.1");
        match outcome {
            Outcome::Silent(_) => prop_assert!(out.is_empty()),
            Outcome::Answered(_) => {
                prop_assert!(packet[2] & 0x80 == 0 && out.len() <= 1232);
                prop_assert!(Read::from_vec(&out).is_ok());
            }
        }
    }
}

#[test]
fn what_is_padded_and_encrypted_is_answered_padded() {
    let padded = query("www.example.com", A).edns(1232, &option(12, &[0; 20]));
    for transport in [Transport::Tls, Transport::Https, Transport::Quic] {
        let answer = padded.clone().by(transport).send();
        assert_eq!(answer.len() % 468, 0, "{transport:?}");
        assert_eq!(Read::from_vec(&answer).unwrap().answers.len(), 1);
    }
    let bare = query("www.example.com", A).edns(1232, &[]);
    for transport in [Transport::Udp, Transport::Tcp] {
        let both = [&padded, &bare].map(|query| query.clone().by(transport).send());
        assert_eq!(both[0], both[1], "{transport:?}");
    }
}
