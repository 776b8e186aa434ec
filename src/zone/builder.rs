//! Zones are built whole: from records and steered names, with every conflict or none.

use std::collections::{HashMap, HashSet};
use std::fmt;

use foldhash::fast::RandomState;

use super::lookup::{Node, Zone};
use super::name::{Name, offsets};
use super::nodes::Nodes;
use super::record::{Denial, Rdata, RecordType, RrSet};
use crate::ids::ServiceId;
use crate::time::Ttl;

/// A zone in the making.
#[derive(Debug)]
pub struct ZoneBuilder {
    origin: Name,
    /// By name in lower case.
    nodes: HashMap<Box<[u8]>, Draft, RandomState>,
    problems: Vec<ZoneProblem>,
}

#[derive(Debug, Default)]
struct Draft {
    node: Node,
    kind: Option<Steered>,
}

/// What a steered name gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steered {
    /// Addresses: A and AAAA records.
    Addresses,
    /// A CNAME record.
    Alias,
    /// A TXT record that tells which region writes.
    Epoch,
}

/// What keeps a zone from being served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneProblem {
    /// The name that has it.
    pub owner: Name,
    /// What it is.
    pub fault: Fault,
}

/// What can be wrong with a zone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The name is not in the zone.
    #[error("not in the zone {0}; give it to the zone it is in")]
    OutOfZone(Name),
    /// The zone has no SOA record.
    #[error("the zone has no SOA record; it needs one, at its origin")]
    NoSoa,
    /// There is a SOA record below the origin, or a second one.
    #[error("a second SOA record; a zone has one, at its origin")]
    SecondSoa,
    /// The zone has no name servers.
    #[error("the zone has no NS records at its origin; resolvers need at least two")]
    NoNs,
    /// Something stands beside a CNAME record.
    #[error("a CNAME record beside other records; a name that has one has nothing else")]
    BesideCname,
    /// A type that needs more than looking up.
    #[error("DNAME records are not served; give the names below it one by one")]
    Dname,
    /// The zone defines what a service steers.
    #[error("{0} records in the zone, and a service steers them; remove one of the two")]
    AlsoSteered(RecordType),
    /// The name is steered by two services.
    #[error("steered by two services; a name has one")]
    SteeredTwice,
    /// A service gives a CNAME record where other records are.
    #[error(
        "a service gives a CNAME record here, beside other records of the zone; it needs \
             addresses at this name"
    )]
    AliasBesideRecords,
    /// The name belongs to a delegated zone.
    #[error("below the delegation at {0}; its name servers answer for it")]
    BelowCut(Name),
    /// A service steers a name at which a zone is delegated.
    #[error("steered, and delegated by NS records; remove one of the two")]
    SteeredCut,
}

impl fmt::Display for ZoneProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.owner, self.fault)
    }
}

impl ZoneBuilder {
    /// An empty zone at `origin`.
    pub fn new(origin: Name) -> Self {
        Self { origin, nodes: HashMap::default(), problems: Vec::new() }
    }

    /// Adds the SOA and NS records that a zone needs, for one that is written without them:
    /// `servers` are its name servers, the first one its primary.
    pub fn add_apex(&mut self, servers: &[Name], ttl: Ttl, negative_ttl: Ttl) {
        let origin = self.origin.clone();
        let Some(primary) = servers.first() else { return };
        let mut soa = primary.as_wire().to_vec();
        soa.extend_from_slice(b"\x0ahostmaster");
        soa.extend_from_slice(origin.as_wire());
        let timers = [APEX_SERIAL, APEX_REFRESH, APEX_RETRY, APEX_EXPIRE, negative_ttl.as_secs()];
        soa.extend(timers.iter().flat_map(|timer| timer.to_be_bytes()));
        self.add(&origin, ttl, RecordType::SOA, Rdata::new(RecordType::SOA, soa));
        for server in servers {
            let rdata = Rdata::new(RecordType::NS, server.as_wire());
            self.add(&origin, ttl, RecordType::NS, rdata);
        }
    }

    /// Adds a record. One that is there already is there once (RFC 2181 §5); of different TTLs in
    /// a set the least counts, which is safe for each (§5.2).
    pub fn add(&mut self, owner: &Name, ttl: Ttl, rtype: RecordType, rdata: Rdata) {
        let Some(node) = self.node(owner) else { return };
        match node.sets.iter_mut().find(|set| set.rtype == rtype) {
            Some(set) => {
                set.ttl = set.ttl.min(ttl);
                if !set.rdata.contains(&rdata) {
                    set.rdata.push(rdata);
                }
            }
            None => node.sets.push(RrSet { rtype, ttl, rdata: vec![rdata] }),
        }
    }

    /// Lets `service` answer at `name`.
    pub fn steer(&mut self, name: &Name, service: ServiceId, kind: Steered) {
        let Some(node) = self.node(name) else { return };
        node.is_epoch = kind == Steered::Epoch;
        if node.steered.replace(service).is_some() {
            self.problem(name, Fault::SteeredTwice);
        }
        if let Some(draft) = self.nodes.get_mut(&name.to_lower()) {
            draft.kind = Some(kind);
        }
    }

    /// The zone.
    ///
    /// # Errors
    /// Everything that is wrong with it, by name.
    pub fn finish(mut self) -> Result<Zone, Vec<ZoneProblem>> {
        self.check_apex();
        let origin_lower = self.origin.to_lower();
        let drafts: Vec<(Name, Fault)> = self
            .nodes
            .iter()
            .flat_map(|(lower, draft)| {
                let faults = draft.faults(**lower == *origin_lower);
                faults.filter_map(|fault| Some((Name::from_wire(lower)?, fault)))
            })
            .collect();
        for (name, fault) in drafts {
            self.problem(&name, fault);
        }
        let steered = self.nodes.iter().filter(|(_, draft)| draft.node.steered.is_some());
        let below = steered.filter_map(|(lower, _)| {
            Some((Name::from_wire(lower)?, Fault::BelowCut(self.cut_above(lower)?)))
        });
        for (name, fault) in below.collect::<Vec<_>>() {
            self.problem(&name, fault);
        }
        let apex = self.nodes.get(&origin_lower);
        let soa = apex.and_then(|apex| apex.node.set(RecordType::SOA)).cloned();
        let Some(soa) = soa.filter(|_| self.problems.is_empty()) else {
            self.problems.sort_by_cached_key(ToString::to_string);
            return Err(self.problems);
        };
        let Some(data) = soa.rdata.first() else { return Err(self.problems) };
        let negative_ttl = soa.ttl.min(minimum(data).unwrap_or_default());
        let denial = Denial::new(&origin_lower, data);
        // RFC 4592 §2.2.2: names above an existing one exist too.
        let above = self.nodes.keys().flat_map(|lower| {
            let above = offsets(lower).skip(1).filter_map(|at| lower.get(at..));
            above.take_while(|name| name.len() > origin_lower.len())
        });
        let empty: HashSet<Box<[u8]>> =
            above.filter(|name| !self.nodes.contains_key(*name)).map(Box::from).collect();
        let is_cut = |lower: &[u8], node: &Node| {
            *lower != *origin_lower && node.set(RecordType::NS).is_some()
        };
        let cuts = self.nodes.iter().filter(|(lower, draft)| is_cut(lower, &draft.node));
        let cut_names: HashSet<Box<[u8]>> = cuts.map(|(lower, _)| lower.clone()).collect();
        let names = self.nodes.len() + empty.len();
        let sets = self.nodes.values().flat_map(|draft| draft.node.sets());
        let size = (names, sets.map(|set| set.rdata.len()).sum());
        let has_wildcard = self.nodes.keys().chain(&empty).any(|name| name.starts_with(b"\x01*"));
        let is_plain = cut_names.is_empty() && !has_wildcard;
        let drafts = self.nodes.into_iter().map(|(lower, draft)| (lower, draft.node));
        let rows = drafts.chain(empty.into_iter().map(|lower| (lower, Node::default())));
        let rows = rows.map(|(lower, node)| {
            let is_below = |at| lower.get(at..).is_some_and(|name| cut_names.contains(name));
            let is_below_cut = !cut_names.is_empty() && offsets(&lower).skip(1).any(is_below);
            let is_cut = is_cut(&lower, &node);
            (lower, Node { is_cut, is_below_cut, ..node })
        });
        let nodes = Nodes::new(names, rows);
        Ok(Zone { origin: self.origin, soa, negative_ttl, denial, is_plain, size, nodes })
    }

    fn node(&mut self, name: &Name) -> Option<&mut Node> {
        if !name.is_at_or_below(&self.origin) {
            self.problem(name, Fault::OutOfZone(self.origin.clone()));
            return None;
        }
        Some(&mut self.nodes.entry(name.to_lower()).or_default().node)
    }

    fn problem(&mut self, owner: &Name, fault: Fault) {
        let problem = ZoneProblem { owner: owner.clone(), fault };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn check_apex(&mut self) {
        let apex = self.nodes.get(&self.origin.to_lower()).map(|draft| &draft.node);
        let soa = apex.and_then(|apex| apex.set(RecordType::SOA)).map(|set| set.rdata.len());
        let has_ns = apex.is_some_and(|apex| apex.set(RecordType::NS).is_some());
        let origin = self.origin.clone();
        match soa {
            None => self.problem(&origin, Fault::NoSoa),
            Some(1) => {}
            Some(_) => self.problem(&origin, Fault::SecondSoa),
        }
        if !has_ns {
            self.problem(&origin, Fault::NoNs);
        }
    }

    /// The cut above the name `lower` in this zone.
    fn cut_above(&self, lower: &[u8]) -> Option<Name> {
        let above = offsets(lower).skip(1).filter_map(|at| lower.get(at..));
        above.take_while(|name| name.len() > self.origin.as_wire().len()).find_map(|name| {
            let has_servers = self.nodes.get(name)?.node.set(RecordType::NS).is_some();
            has_servers.then(|| Name::from_wire(name)).flatten()
        })
    }
}

impl Draft {
    /// What is wrong at this name.
    fn faults(&self, at_origin: bool) -> impl Iterator<Item = Fault> {
        let has = |rtype| self.node.set(rtype).is_some();
        let cname = self.node.set(RecordType::CNAME);
        let crowded = cname.is_some_and(|set| set.rdata.len() > 1 || self.node.sets.len() > 1);
        let steered_types = match self.kind {
            Some(Steered::Addresses) => &[RecordType::A, RecordType::AAAA, RecordType::CNAME][..],
            Some(Steered::Epoch) => &[RecordType::TXT, RecordType::CNAME],
            Some(Steered::Alias) | None => &[],
        };
        let beside_alias = self.kind == Some(Steered::Alias) && !self.node.sets.is_empty();
        let steered_cut = self.kind.is_some() && !at_origin && has(RecordType::NS);
        [
            (crowded, Fault::BesideCname),
            (!at_origin && has(RecordType::SOA), Fault::SecondSoa),
            (has(RecordType::DNAME), Fault::Dname),
            (beside_alias, Fault::AliasBesideRecords),
            (steered_cut && !beside_alias, Fault::SteeredCut),
        ]
        .into_iter()
        .filter(|(wrong, _)| *wrong)
        .map(|(_, fault)| fault)
        .chain(
            steered_types
                .iter()
                .filter(move |rtype| has(**rtype))
                .map(|rtype| Fault::AlsoSteered(*rtype)),
        )
    }
}

/// The MINIMUM field: the last four octets of a SOA record.
fn minimum(soa: &Rdata) -> Option<Ttl> {
    let (_, last) = soa.as_wire().split_last_chunk::<4>()?;
    Some(Ttl::from_secs(u32::from_be_bytes(*last)))
}

/// The SOA fields of a zone that is written without one. Nothing transfers it, so they only have
/// to be valid: the values of RIPE-203.
const APEX_SERIAL: u32 = 1;
const APEX_REFRESH: u32 = 86_400;
const APEX_RETRY: u32 = 7_200;
const APEX_EXPIRE: u32 = 3_600_000;
