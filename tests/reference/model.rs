//! The slow and obvious answer: no table, no compiled service, nothing made ahead.
//!
//! A world is a choice for each of some names; its zone file and configuration go to Meridian, its
//! records and a fresh decision for each query come from here. What is compared is what a resolver
//! would understand: the code, whether it is authoritative, and the records of each section.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RecordType};
use meridian::config::{Config, Targets};
use meridian::geo::{Atlas, Catchment, Geofeed, Sources};
use meridian::health::{HealthTable, State};
use meridian::ids::ServiceId;
use meridian::query::{Outcome, Peer, Transport, answer};
use meridian::snapshot::{Plan, Snapshot};
use meridian::steer::weighted::order_of;
use meridian::steer::{Address, Basis, Facts, Family, Policy, choose, usable};
use meridian::time::Instant;

/// Names that may be there, below the origin.
pub(crate) const OWNERS: [&str; 16] = [
    "@", "a", "b", "a.b", "*.b", "c.b", "x.c.b", "d.e.f", "*", "www", "web", "sub", "ns.sub",
    "h.sub", "alias", "z.alias",
];

/// How many things can be at a name.
pub(crate) const CHOICES: usize = 12;

/// What can be asked for.
pub(crate) const TYPES: [RecordType; 11] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::TXT,
    RecordType::MX,
    RecordType::CNAME,
    RecordType::NS,
    RecordType::DS,
    RecordType::SOA,
    RecordType::ANY,
    RecordType::AXFR,
    RecordType::Unknown(65_280),
];

const ORIGIN: &str = "example.com.";

/// Of each service its name, and how it steers; the choices from 7 on.
const SERVICES: [(&str, &str); 5] = [
    ("near", "check: web, REGIONS"),
    (
        "first",
        "steer: failover, order: [eu, us, ap], check: web, on_all_down: nodata, ecs: false, \
         REGIONS",
    ),
    ("spread", "steer: weighted, check: web, answers: 2, on_all_down: servfail, REGIONS"),
    (
        "v4",
        "check: web, on_all_down: { fixed: 192.0.2.99 }, \
         regions: { us: 192.0.2.12, ap: 192.0.2.32 }",
    ),
    ("alias", "regions: { us: { cname: www.example.com }, eu: { cname: cdn.example.net } }"),
];

const REGIONS: &str = "regions: { us: [192.0.2.10, 192.0.2.11, \"2001:db8::10\"], \
                       eu: [192.0.2.20, \"2001:db8::20\"], ap: 192.0.2.30 }";

const FEED: &str =
    "192.0.2.0/26,US,,,\n192.0.2.64/26,IE,,,\n192.0.2.128/25,SG,,,\n2001:db8::/34,IE,,,\n";

/// A record: its owner in lower case, with the last dot, its type, TTL and data as text.
type Record = (String, RecordType, u32, String);

/// All that an answer can depend on, and Meridian's view of it.
pub(crate) struct World {
    snapshot: Snapshot,
    records: Vec<Record>,
    /// The service at each steered name.
    steered: BTreeMap<String, ServiceId>,
    plan: Arc<Plan>,
    atlas: Atlas,
    health: HealthTable,
}

/// What a resolver understands of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Meaning {
    rcode: ResponseCode,
    authoritative: bool,
    sections: [BTreeSet<String>; 3],
}

impl Meaning {
    /// What `answer` says.
    pub(crate) fn of(answer: &Message) -> Self {
        let sections = [&answer.answers, &answer.authorities, &answer.additionals];
        let sections = sections.map(|records| {
            let told = records.iter().filter(|record| record.record_type() != RecordType::OPT);
            let told: Vec<String> = told
                .map(|record| {
                    let (owner, data) =
                        (record.name.to_string().to_lowercase(), record.data.to_string());
                    told_as(&(owner, record.record_type(), record.ttl, data))
                })
                .collect();
            let set: BTreeSet<String> = told.iter().cloned().collect();
            assert_eq!(set.len(), told.len(), "RFC 2181 §5: none stands twice: {told:?}");
            set
        });
        let (rcode, authoritative) = (answer.metadata.response_code, answer.metadata.authoritative);
        Self { rcode, authoritative, sections }
    }
}

fn told_as((owner, rtype, ttl, data): &Record) -> String {
    // What a SOA record and one that only stands for others say is tested elsewhere.
    let data = if matches!(rtype, RecordType::SOA | RecordType::HINFO) { "" } else { data };
    format!("{owner} {ttl} {rtype} {}", data.to_lowercase())
}

fn absolute(owner: &str) -> String {
    if owner == "@" { ORIGIN.to_owned() } else { format!("{owner}.{ORIGIN}") }
}

/// The records that a choice puts at a name.
fn records(row: usize, choice: usize) -> Vec<Record> {
    let name = absolute(OWNERS[row]);
    let is_apex = row == 0;
    let record = |rtype, data: String| (name.clone(), rtype, 3600, data);
    let other = absolute(OWNERS[(row * 5 + choice) % OWNERS.len()].trim_start_matches("*."));
    match choice {
        1 => vec![record(RecordType::A, format!("198.51.100.{row}"))],
        2 => vec![
            record(RecordType::A, format!("198.51.100.{row}")),
            record(RecordType::A, format!("198.51.101.{row}")),
            record(RecordType::AAAA, format!("2001:db8:5::{:x}", row + 1)),
            record(RecordType::Unknown(65_280), "\\# 3 010203".to_owned()),
        ],
        3 => vec![
            record(RecordType::TXT, format!("text{row}")),
            record(RecordType::MX, format!("10 {other}")),
        ],
        4 if !is_apex => vec![record(RecordType::CNAME, other)],
        5 if !is_apex => vec![record(RecordType::CNAME, "www.example.net.".to_owned())],
        6 if !is_apex && !name.starts_with('*') => vec![
            record(RecordType::NS, format!("ns.{name}")),
            record(RecordType::NS, format!("a.{ORIGIN}")),
            (format!("ns.{name}"), RecordType::A, 3600, format!("198.51.102.{row}")),
        ],
        _ => Vec::new(),
    }
}

impl World {
    /// The world of a choice for each name and a state for each endpoint; `None`: Meridian refuses
    /// it, as a configuration that contradicts itself.
    pub(crate) fn new(choices: &[usize], states: &[State]) -> Option<Self> {
        let mut all = vec![
            (
                ORIGIN.to_owned(),
                RecordType::SOA,
                3600,
                "ns1 hostmaster 1 7200 1800 1209600 60".into(),
            ),
            (ORIGIN.to_owned(), RecordType::NS, 3600, "ns1.example.net.".to_owned()),
            (ORIGIN.to_owned(), RecordType::NS, 3600, "ns2.example.net.".to_owned()),
        ];
        let mut names: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (row, choice) in choices.iter().enumerate() {
            all.extend(records(row, *choice));
            if let Some(service) = choice.checked_sub(7) {
                names.entry(service).or_default().push(absolute(OWNERS[row]));
            }
        }
        let zone: String =
            all.iter().fold("$ORIGIN example.com.\n".to_owned(), |mut text, record| {
                let (owner, rtype, ttl, data) = record;
                let rtype = match rtype {
                    RecordType::Unknown(code) => format!("TYPE{code}"),
                    known => known.to_string(),
                };
                writeln!(text, "{owner} {ttl} {rtype} {data}").unwrap();
                text
            });
        let mut config =
            "regions: { us: { at: [39, -77] }, eu: { at: [53, -6] }, ap: { at: [1, 104] } }\n\
             checks: { web: { http: / } }\nzones: { example.com: { file: zone } }\nservices:\n"
                .to_owned();
        for (service, names) in &names {
            let (name, how) = SERVICES[*service];
            let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
            let (names, how) = (names.join(", "), how.replace("REGIONS", REGIONS));
            writeln!(config, "  {name}: {{ names: [{names}], {how} }}").unwrap();
        }
        if names.is_empty() {
            config = config.replace("services:\n", "services: {}\n");
        }
        let mut load = |_: &std::path::Path| Ok(zone.clone().into_bytes());
        let config = Config::load("world", &config, &mut Targets::default(), &mut load).ok()?;
        let steered = names.iter().flat_map(|(service, names)| {
            let id = config.service(SERVICES[*service].0).unwrap();
            names.iter().map(move |name| (name.clone(), id))
        });
        let steered = steered.collect();
        let feed = Geofeed::parse(FEED).unwrap();
        let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
        let catchments = Catchment::build_all(&atlas, &config.catchments);
        let states = config.targets.iter().zip(states.iter().cycle());
        let health = states.fold(HealthTable::default(), |table, (target, state)| {
            table.assuming(target.id, *state)
        });
        let Config { zones, services, regions, identity, .. } = config;
        let plan = Arc::new(Plan::new(zones, services, regions, catchments, identity));
        let snapshot = Snapshot::compile(plan.clone(), &Facts::of(&health), None, None, 1);
        let snapshot = snapshot.drawn();
        Some(Self { snapshot, records: all, steered, plan, atlas, health })
    }

    /// What the snapshot answers to the same question, over TCP so that nothing is cut.
    pub(crate) fn answered(
        &self,
        name: &str,
        rtype: RecordType,
        resolver: IpAddr,
        client: Option<IpAddr>,
    ) -> Meaning {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
        if let Some(client) = client {
            let length = if client.is_ipv4() { 32 } else { 128 };
            let mut edns = Edns::new();
            let subnet = format!("{client}/{length}").parse().unwrap();
            edns.options_mut().insert(EdnsOption::Subnet(subnet));
            message.set_edns(edns);
        }
        let peer = Peer { address: SocketAddr::new(resolver, 53), transport: Transport::Tcp };
        let mut out = Vec::new();
        let packet = message.to_vec().unwrap();
        let outcome = answer(&self.snapshot, &packet, peer, Instant::default(), &mut out);
        assert!(matches!(outcome, Outcome::Answered(_)));
        Meaning::of(&Message::from_vec(&out).unwrap())
    }

    /// The answer to a question for `name`, in lower case and with the last dot, of class IN, from
    /// `resolver`, perhaps for a client behind it.
    pub(crate) fn answer(
        &self,
        name: &str,
        rtype: RecordType,
        resolver: IpAddr,
        client: Option<IpAddr>,
    ) -> Meaning {
        let mut meaning = Meaning {
            rcode: ResponseCode::NoError,
            authoritative: false,
            sections: Default::default(),
        };
        if !is_below(name, ORIGIN) || matches!(rtype, RecordType::AXFR | RecordType::IXFR) {
            meaning.rcode = ResponseCode::Refused;
            return meaning;
        }
        let mut name = name.to_owned();
        // RFC 1034 §4.3.2; nine links of a chain of aliases are followed.
        for link in 0..9 {
            if !is_below(&name, ORIGIN) {
                break;
            }
            let cut = self.cut_above(&name);
            if let Some(cut) = cut.filter(|cut| *cut != name || rtype != RecordType::DS) {
                self.refer(&cut, &mut meaning);
                break;
            }
            meaning.authoritative |= link == 0;
            let Some(node) = self.node(&name) else {
                meaning.rcode = ResponseCode::NXDomain;
                self.deny(60, &mut meaning);
                break;
            };
            match self.at(&node, &name, rtype, (resolver, client), &mut meaning) {
                Some(next) => name = next,
                None => break,
            }
        }
        meaning
    }

    fn at(
        &self,
        node: &str,
        name: &str,
        rtype: RecordType,
        client: (IpAddr, Option<IpAddr>),
        meaning: &mut Meaning,
    ) -> Option<String> {
        let mut give = |rtype, ttl, data: String| {
            meaning.sections[0].insert(told_as(&(name.to_owned(), rtype, ttl, data)));
        };
        let steered = self.steered.get(node).and_then(|id| self.choose(*id, rtype, client));
        if let Some((addresses, basis, ttl)) = steered {
            if let Some(Address::Alias(target)) = addresses.first() {
                // As names print here: without the last dot.
                let target = format!("{}.", target.to_string().trim_end_matches('.'));
                give(RecordType::CNAME, ttl, target.clone());
                return (!matches!(rtype, RecordType::CNAME | RecordType::ANY)).then_some(target);
            }
            for address in &addresses {
                give(rtype, ttl, address.to_string());
            }
            if basis == Basis::ServFail {
                meaning.rcode = ResponseCode::ServFail;
                meaning.authoritative = false;
                meaning.sections = Default::default();
            } else if addresses.is_empty() {
                self.deny(ttl.min(60), meaning);
            }
            return None;
        }
        let records: Vec<&Record> = self.records.iter().filter(|(of, ..)| of == node).collect();
        let alias = records.iter().find(|(_, of, ..)| *of == RecordType::CNAME);
        if let Some((_, _, ttl, target)) = alias {
            give(RecordType::CNAME, *ttl, target.clone());
            let is_asked = matches!(rtype, RecordType::CNAME | RecordType::ANY);
            return (!is_asked).then(|| target.clone());
        }
        if rtype == RecordType::ANY && (!records.is_empty() || self.steered.contains_key(node)) {
            give(RecordType::HINFO, 3600, String::new());
            return None;
        }
        let asked: Vec<_> = records.iter().filter(|(_, of, ..)| *of == rtype).collect();
        for (_, of, ttl, data) in &asked {
            // hickory-proto prints what it does not know in base 64.
            let data = if data.starts_with('\\') { "AQID" } else { data };
            give(*of, *ttl, data.to_owned());
        }
        if asked.is_empty() {
            self.deny(60, meaning);
        }
        None
    }

    /// What a service gives to a client in a type; `None`: nothing, as it has no such endpoints.
    fn choose(
        &self,
        id: ServiceId,
        rtype: RecordType,
        (resolver, client): (IpAddr, Option<IpAddr>),
    ) -> Option<(Vec<Address>, Basis, u32)> {
        let service = &self.plan.services[id.index()];
        let has = |family: &Family| service.families().any(|of| of == *family);
        let by_type = match rtype {
            RecordType::A => Some(Family::V4),
            RecordType::AAAA => Some(Family::V6),
            _ => None,
        };
        let family = [Some(Family::Alias), by_type].into_iter().flatten().find(has)?;
        let client = client.filter(|_| service.ecs).unwrap_or(resolver);
        let order = match &service.policy {
            Policy::Failover(order) => order.clone(),
            Policy::Weighted => order_of(client, &self.plan.contenders(service)),
            _ => {
                let place = self.atlas.locate(client);
                let ranking = self.plan.catchments[service.catchment].rank(&place, client);
                ranking.regions.iter().map(|ranked| ranked.region).collect()
            }
        };
        let facts = Facts::of(&self.health);
        let usable = usable((id, service), family, &facts, 0, None);
        let choice = choose((id, service), family, &usable, &order, &facts);
        Some((choice.addresses, choice.basis, choice.ttl.as_secs()))
    }

    /// The name servers of the zone at `cut`, and all their addresses that this zone has.
    fn refer(&self, cut: &str, meaning: &mut Meaning) {
        let of = |owner: &str, types: &[RecordType]| {
            let is_it = |(of, rtype, ..): &&Record| *of == owner && types.contains(rtype);
            self.records.iter().filter(is_it).cloned().collect::<Vec<Record>>()
        };
        for (owner, rtype, ttl, server) in of(cut, &[RecordType::NS]) {
            for glue in of(&server, &[RecordType::A, RecordType::AAAA]) {
                meaning.sections[2].insert(told_as(&glue));
            }
            meaning.sections[1].insert(told_as(&(owner, rtype, ttl, server)));
        }
    }

    fn deny(&self, ttl: u32, meaning: &mut Meaning) {
        meaning.sections[1].insert(told_as(&(
            ORIGIN.to_owned(),
            RecordType::SOA,
            ttl,
            String::new(),
        )));
    }

    /// The highest name at or above `name`, below the origin, at which another zone begins.
    fn cut_above(&self, name: &str) -> Option<String> {
        let mut cuts: Vec<&String> = self
            .records
            .iter()
            .filter(|(owner, rtype, ..)| *rtype == RecordType::NS && owner != ORIGIN)
            .map(|(owner, ..)| owner)
            .filter(|cut| is_below(name, cut))
            .collect();
        cuts.sort_by_key(|cut| cut.len());
        cuts.first().map(|cut| (*cut).clone())
    }

    /// The name whose records count for `name`: itself, or a wildcard (RFC 4592 §3.3).
    fn node(&self, name: &str) -> Option<String> {
        let owners = || self.records.iter().map(|(owner, ..)| owner).chain(self.steered.keys());
        // A name exists if it, or one below it, owns something.
        let exists = |name: &str| owners().any(|owner| is_below(owner, name));
        if exists(name) {
            return Some(name.to_owned());
        }
        let above = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
        let encloser = above.into_iter().find(|above| exists(above))?;
        let wildcard = format!("*.{encloser}");
        exists(&wildcard).then_some(wildcard)
    }
}

/// Is `name` the name `above`, or below it?
fn is_below(name: &str, above: &str) -> bool {
    name.strip_suffix(above).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
