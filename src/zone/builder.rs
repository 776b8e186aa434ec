//! Zones are built whole: from records and steered names, with every conflict or none.

use std::collections::{HashMap, HashSet};
use std::iter::{repeat_n, successors};
use std::num::NonZeroU32;

use foldhash::fast::RandomState;
use indexmap::{IndexMap, IndexSet};

use super::faults::{Fault, Spot, Told, ZoneProblem};
use super::file::FileRecord;
use super::lookup::{Node, Zone};
use super::name::{LONGEST_NAME, Name, is_wildcard, offsets};
use super::nodes::Nodes;
use super::record::{Denial, FIXED_PART, Rdata, RecordType, RrSet, minimum};
use crate::ids::ServiceId;
use crate::time::Ttl;

/// A zone in the making.
#[derive(Debug)]
pub struct ZoneBuilder {
    origin: Name,
    /// By name in lower case, in the order in which they came: so they are in memory too, and a
    /// million of them are gone through without waiting for each.
    drafts: IndexMap<Box<[u8]>, Draft, RandomState>,
    records: Vec<Record>,
    /// The data of all records, one after the other.
    data: Vec<u8>,
    /// The names of the files that they are from.
    files: IndexSet<String, RandomState>,
    /// What is wrong, and where that stands.
    problems: HashMap<(Name, Fault), Option<Spot>>,
    /// Room for a name in lower case.
    lower: Vec<u8>,
}

#[derive(Debug, Default)]
struct Draft {
    /// The last of its records.
    last: Option<Row>,
    steered: Option<(ServiceId, Steered)>,
}

#[derive(Debug)]
struct Record {
    rtype: RecordType,
    ttl: Ttl,
    /// Where its data begins.
    start: usize,
    length: usize,
    /// Where it stands: the row of its file, and a line, which is 0 where it is in no file.
    file: u16,
    line: u32,
    /// The one before that is at the same name.
    before: Option<Row>,
}

/// A million records are no larger for knowing where they stand.
const _: () = assert!(size_of::<Record>() == 32);

/// The row of a record, and one.
type Row = NonZeroU32;

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

impl ZoneBuilder {
    /// An empty zone at `origin`.
    pub fn new(origin: Name) -> Self {
        let (drafts, files, problems) = (IndexMap::default(), IndexSet::default(), HashMap::new());
        let (records, data, lower) = (Vec::new(), Vec::new(), Vec::new());
        Self { origin, drafts, records, data, files, problems, lower }
    }

    /// Adds the SOA and NS records that a zone needs, for one that is written without them:
    /// `servers` are its name servers, the first one its primary.
    pub fn add_apex(&mut self, servers: &[Name], ttl: Ttl, negative_ttl: Ttl) {
        let origin = self.origin.clone();
        let Some(primary) = servers.first() else { return };
        if origin.as_wire().len() > LONGEST_NAME - MAILBOX.len() {
            self.problem(&origin, Fault::NoRoom, None);
        }
        let mut soa = primary.as_wire().to_vec();
        soa.extend_from_slice(MAILBOX);
        soa.extend_from_slice(origin.as_wire());
        let timers = [APEX_SERIAL, APEX_REFRESH, APEX_RETRY, APEX_EXPIRE, negative_ttl.as_secs()];
        soa.extend(timers.iter().flat_map(|timer| timer.to_be_bytes()));
        self.add(&origin, ttl, RecordType::SOA, &soa);
        servers.iter().for_each(|of| self.add(&origin, ttl, RecordType::NS, of.as_wire()));
    }

    /// Adds a record with `data` in wire format. One that is there already is there once
    /// (RFC 2181 §5); of different TTLs in a set the least counts, which is safe for each (§5.2).
    pub fn add(&mut self, owner: &Name, ttl: Ttl, rtype: RecordType, data: &[u8]) {
        self.enter(owner, (ttl, rtype, data), None);
    }

    /// The same of a record that is read from a file.
    pub fn add_read(&mut self, FileRecord { owner, ttl, rtype, data, at }: &FileRecord<'_>) {
        self.enter(owner, (*ttl, *rtype, data), Some(*at));
    }

    fn enter(
        &mut self,
        owner: &Name,
        (ttl, rtype, data): (Ttl, RecordType, &[u8]),
        at: Option<(&str, usize)>,
    ) {
        let row = u32::try_from(self.records.len()).ok().and_then(|row| Row::MIN.checked_add(row));
        let Some(draft) = self.draft(owner, at) else { return };
        let before = std::mem::replace(&mut draft.last, row);
        let (start, length) = (self.data.len(), data.len());
        self.data.extend_from_slice(data);
        let (file, line) =
            at.map_or((0, 0), |(file, line)| (self.file(file), u32::try_from(line).unwrap_or(0)));
        self.records.push(Record { rtype, ttl, start, length, file, line, before });
    }

    /// The row of a file's name.
    fn file(&mut self, name: &str) -> u16 {
        let known = self.files.get_index_of(name);
        let row = known.unwrap_or_else(|| self.files.insert_full(name.to_owned()).0);
        u16::try_from(row).unwrap_or(u16::MAX)
    }

    /// Lets `service` answer at `name`.
    pub fn steer(&mut self, name: &Name, service: ServiceId, kind: Steered) {
        let Some(draft) = self.draft(name, None) else { return };
        if draft.steered.replace((service, kind)).is_some() {
            self.problem(name, Fault::SteeredTwice, None);
        }
    }

    /// The zone.
    ///
    /// # Errors
    /// Everything that is wrong with it, by name.
    pub fn finish(mut self) -> Result<Zone, Vec<ZoneProblem>> {
        let origin_lower = self.origin.to_lower();
        let apex = self.drafts.get(&origin_lower).map(|apex| self.sets(apex)).unwrap_or_default();
        self.check_apex(&apex);
        let builder = &self;
        let faults = builder.drafts.iter().flat_map(|(lower, draft)| {
            let is_apex = **lower == *origin_lower;
            let faults = builder.faults(lower, draft, is_apex);
            let faults = faults.chain(builder.below_cut(lower, draft)).chain(builder.unfit(draft));
            let servers = builder.targets(draft, RecordType::NS);
            let lame = servers.filter_map(move |server| {
                if is_apex { builder.lame(server) } else { builder.without_glue(lower, server) }
            });
            faults.chain(lame).filter_map(|fault| builder.told(lower, draft, fault))
        });
        let faults: Vec<_> = faults.collect();
        self.problems.extend(faults);
        let soa = apex.into_iter().find(|set| set.rtype == RecordType::SOA);
        let soa = soa.filter(|_| self.problems.is_empty());
        let Some((soa, data)) =
            soa.as_ref().and_then(|soa| Some((soa.clone(), soa.rdata.first()?)))
        else {
            let problems = self.problems.into_iter().map(ZoneProblem::from);
            let mut problems: Vec<ZoneProblem> = problems.collect();
            problems.sort_by_cached_key(ToString::to_string);
            return Err(problems);
        };
        let negative_ttl = soa.ttl.min(minimum(data.as_wire()).unwrap_or_default());
        let denial = Denial::new(&origin_lower, data);
        // RFC 4592 §2.2.2: names above an existing one exist too.
        let above = self.drafts.keys().flat_map(|lower| {
            let above = offsets(lower).skip(1).filter_map(|at| lower.get(at..));
            above.take_while(|name| name.len() > origin_lower.len())
        });
        let empty: HashSet<&[u8], RandomState> =
            above.filter(|name| !self.drafts.contains_key(*name)).collect();
        let cuts = self
            .drafts
            .iter()
            .filter(|(lower, draft)| ***lower != *origin_lower && self.has(draft, RecordType::NS));
        let cuts: HashSet<&[u8], RandomState> = cuts.map(|(lower, _)| &**lower).collect();
        let names = || self.drafts.keys().map(|lower| &**lower).chain(empty.iter().copied());
        let is_plain = cuts.is_empty() && !names().any(is_wildcard);
        let (count, mut records) = (self.drafts.len() + empty.len(), 0);
        let nothing = Draft::default();
        let drafts = self.drafts.values().chain(repeat_n(&nothing, empty.len()));
        let rows = names().zip(drafts).map(|(lower, draft)| {
            let is_below = |at| lower.get(at..).is_some_and(|name| cuts.contains(name));
            let is_below_cut = !cuts.is_empty() && offsets(lower).skip(1).any(is_below);
            let steered = draft.steered.map(|(service, _)| service);
            let is_epoch = draft.steered.is_some_and(|(_, kind)| kind == Steered::Epoch);
            let (sets, is_cut) = (self.sets(draft), cuts.contains(lower));
            records += sets.iter().map(|set| set.rdata.len()).sum::<usize>();
            (lower, Node { sets, steered, is_epoch, is_cut, is_below_cut })
        });
        let nodes = Nodes::new(count, rows);
        let size = (count, records);
        Ok(Zone { origin: self.origin, soa, negative_ttl, denial, is_plain, size, nodes })
    }

    fn draft(&mut self, name: &Name, at: Option<(&str, usize)>) -> Option<&mut Draft> {
        self.lower.clear();
        self.lower.extend(name.as_wire().iter().map(u8::to_ascii_lowercase));
        // Files have the records of a name together.
        let is_last = self.drafts.last().is_some_and(|(last, _)| **last == *self.lower);
        let last = self.drafts.len().checked_sub(1).filter(|_| is_last);
        let row = match last.or_else(|| self.drafts.get_index_of(self.lower.as_slice())) {
            Some(row) => row,
            None if name.is_at_or_below(&self.origin) => {
                self.drafts.insert_full(self.lower.as_slice().into(), Draft::default()).0
            }
            None => {
                let at = at.map(|(file, line)| (file.to_owned(), line));
                self.problem(name, Fault::OutOfZone(self.origin.clone()), at);
                return None;
            }
        };
        self.drafts.get_index_mut(row).map(|(_, draft)| draft)
    }

    fn problem(&mut self, owner: &Name, fault: Fault, at: Option<Spot>) {
        self.problems.entry((owner.clone(), fault)).or_insert(at);
    }

    /// A fault of the name `lower`, with the place of the last record that has it.
    fn told(&self, lower: &[u8], draft: &Draft, fault: Fault) -> Option<Told> {
        let at = self.spot(draft, &fault);
        Some(((Name::from_wire(lower)?, fault), at))
    }

    /// Where the last record stands that has this fault.
    fn spot(&self, draft: &Draft, fault: &Fault) -> Option<Spot> {
        let record = self.records(draft).find(|record| {
            let target = target(record.rtype, self.data(record));
            fault.is_about(record.rtype, target.as_ref().map(Name::as_wire))
        });
        let record = record.filter(|record| record.line > 0)?;
        let file = self.files.get_index(record.file.into())?;
        Some((file.clone(), record.line as usize))
    }

    /// The records at a name, the last first.
    fn records(&self, draft: &Draft) -> impl Iterator<Item = &Record> {
        let record = |row: Row| self.records.get(row.get() as usize - 1);
        successors(draft.last.and_then(record), move |of| of.before.and_then(record))
    }

    fn data(&self, record: &Record) -> &[u8] {
        self.data.get(record.start..record.start + record.length).unwrap_or(&[])
    }

    fn has(&self, draft: &Draft, rtype: RecordType) -> bool {
        self.records(draft).any(|record| record.rtype == rtype)
    }

    /// The records at a name by type, in the order in which they came.
    fn sets(&self, draft: &Draft) -> Vec<RrSet> {
        let mut sets: Vec<RrSet> = Vec::new();
        for record in self.records(draft) {
            let rdata = Rdata::new(record.rtype, self.data(record));
            match sets.iter_mut().find(|set| set.rtype == record.rtype) {
                Some(set) => {
                    set.ttl = set.ttl.min(record.ttl);
                    set.rdata.push(rdata);
                }
                None => {
                    sets.push(RrSet { rtype: record.rtype, ttl: record.ttl, rdata: vec![rdata] })
                }
            }
        }
        for set in sets.iter_mut().filter(|set| set.rdata.len() > 1) {
            // RFC 4343 §3: names that differ only in case are one. The first one's stays.
            let mut known: HashSet<Box<[u8]>, RandomState> = HashSet::default();
            set.rdata.reverse();
            set.rdata.retain(|rdata| known.insert(rdata.to_lower()));
        }
        sets.reverse();
        sets
    }

    fn check_apex(&mut self, sets: &[RrSet]) {
        let of = |rtype| sets.iter().find(|set| set.rtype == rtype).map(|set| set.rdata.len());
        let origin = self.origin.clone();
        match of(RecordType::SOA) {
            None => self.problem(&origin, Fault::NoSoa, None),
            Some(1) => {}
            Some(_) => {
                let apex = self.drafts.get(&origin.to_lower());
                let at = apex.and_then(|apex| self.spot(apex, &Fault::SecondSoa));
                self.problem(&origin, Fault::SecondSoa, at);
            }
        }
        if of(RecordType::NS).is_none() {
            self.problem(&origin, Fault::NoNs, None);
        }
    }

    /// Whether the name `lower` is steered below a cut.
    fn below_cut(&self, lower: &[u8], draft: &Draft) -> Option<Fault> {
        draft.steered?;
        let above = offsets(lower).skip(1).filter_map(|at| lower.get(at..));
        above.take_while(|name| name.len() > self.origin.as_wire().len()).find_map(|name| {
            let has_servers = self.has(self.drafts.get(name)?, RecordType::NS);
            has_servers.then(|| Name::from_wire(name).map(Fault::BelowCut)).flatten()
        })
    }

    /// What of a name's records cannot be answered.
    fn unfit(&self, draft: &Draft) -> impl Iterator<Item = Fault> {
        let size = |length: usize| length + FIXED_PART;
        let all: usize = self.records(draft).map(|record| size(record.length)).sum();
        let sets = if all > LARGEST_SET { self.sets(draft) } else { Vec::new() };
        let large = sets.into_iter().filter_map(move |set| {
            let size: usize = set.rdata.iter().map(|rdata| size(rdata.as_wire().len())).sum();
            (size > LARGEST_SET).then_some(Fault::TooLarge(set.rtype, size))
        });
        let types = self.records(draft).map(|record| record.rtype);
        let strange = types.filter_map(|rtype| match rtype {
            _ if rtype.is_meta() => Some(Fault::Meta(rtype)),
            _ if rtype.is_of_signing() => Some(Fault::Signed(rtype)),
            _ => None,
        });
        large.chain(strange)
    }

    /// What the records of a type lead to.
    fn targets(&self, draft: &Draft, rtype: RecordType) -> impl Iterator<Item = Name> {
        let records = self.records(draft).filter(move |record| record.rtype == rtype);
        records.filter_map(move |record| target(rtype, self.data(record)))
    }

    /// A server of a zone delegated at `cut` that is below it, and has no address.
    fn without_glue(&self, cut: &[u8], server: Name) -> Option<Fault> {
        let lower = server.to_lower();
        let is_below = offsets(&lower).any(|at| lower.get(at..) == Some(cut));
        let has_address = self.drafts.get(&lower).is_some_and(|of| self.has_address(of));
        (is_below && !has_address).then_some(Fault::NoGlue(server))
    }

    fn has_address(&self, draft: &Draft) -> bool {
        self.has(draft, RecordType::A) || self.has(draft, RecordType::AAAA)
    }

    /// Why a name server of this zone is none, if it is in the zone (RFC 1912 §2.8).
    fn lame(&self, server: Name) -> Option<Fault> {
        let here = match self.answering(&server)? {
            None => return Some(Fault::NoAddress(server)),
            Some(here) => here,
        };
        let kind = here.steered.map(|(_, kind)| kind);
        // RFC 2181 §10.3.
        if kind == Some(Steered::Alias) || self.has(here, RecordType::CNAME) {
            return Some(Fault::ServerIsAlias(server));
        }
        let is_fine = kind == Some(Steered::Addresses) || self.has_address(here);
        (!is_fine).then_some(Fault::NoAddress(server))
    }

    /// What answers for `name`, itself or a wildcard, if anything does; `None`: it is not in this
    /// zone, or below a cut.
    fn answering(&self, name: &Name) -> Option<Option<&Draft>> {
        let below_origin = name.as_wire().len().checked_sub(self.origin.as_wire().len())?;
        let lower = name.to_lower();
        let mut answering = None;
        for at in offsets(&lower).take_while(|at| *at <= below_origin) {
            let above = lower.get(at..)?;
            let draft = self.drafts.get(above);
            let is_cut = draft.is_some_and(|draft| self.has(draft, RecordType::NS));
            if is_cut && at < below_origin {
                return None;
            }
            let wildcard = || self.drafts.get([b"\x01*", above].concat().as_slice());
            let here = if at == 0 { draft } else { wildcard() };
            answering = answering.or(here);
        }
        name.is_at_or_below(&self.origin).then_some(answering)
    }

    /// What may be wrong with the zone though it can be served, by name.
    pub fn doubts(&self) -> impl Iterator<Item = ZoneProblem> {
        self.drafts.iter().flat_map(move |(lower, draft)| {
            let hosts = self.targets(draft, RecordType::MX);
            let lost = hosts.filter(move |host| self.has_no_address(host)).map(Fault::NoMailHost);
            let dead = [RecordType::CNAME, RecordType::SRV].into_iter().flat_map(move |rtype| {
                let targets = self.targets(draft, rtype);
                let targets = targets.filter(|target| matches!(self.answering(target), Some(None)));
                targets.map(move |target| Fault::NoTarget(rtype, target))
            });
            let faults = lost.chain(dead);
            let told = faults.filter_map(move |fault| self.told(lower, draft, fault));
            told.map(ZoneProblem::from)
        })
    }

    /// Is `name` in the zone, with neither an address nor an alias?
    fn has_no_address(&self, name: &Name) -> bool {
        matches!(self.lame(name.clone()), Some(Fault::NoAddress(_)))
    }

    /// What is wrong at a name.
    fn faults(&self, lower: &[u8], draft: &Draft, at_origin: bool) -> impl Iterator<Item = Fault> {
        let has = |rtype| self.has(draft, rtype);
        let kind = draft.steered.map(|(_, kind)| kind);
        let alias = self.records(draft).find(|record| record.rtype == RecordType::CNAME);
        let crowded = alias.is_some_and(|alias| {
            let target = self.data(alias);
            let is_other = |record: &Record| {
                record.rtype != RecordType::CNAME || !self.data(record).eq_ignore_ascii_case(target)
            };
            self.records(draft).any(is_other)
        });
        let steered_types = match kind {
            Some(Steered::Addresses) => &[RecordType::A, RecordType::AAAA, RecordType::CNAME][..],
            Some(Steered::Epoch) => &[RecordType::TXT, RecordType::CNAME],
            Some(Steered::Alias) | None => &[],
        };
        let beside_alias = kind == Some(Steered::Alias) && draft.last.is_some();
        let steered_cut = kind.is_some() && !at_origin && has(RecordType::NS);
        [
            (crowded, Fault::BesideCname),
            (!at_origin && has(RecordType::SOA), Fault::SecondSoa),
            (has(RecordType::DNAME), Fault::Dname),
            (beside_alias, Fault::AliasBesideRecords),
            (steered_cut && !beside_alias, Fault::SteeredCut),
            // RFC 4592 §4.2.
            (is_wildcard(lower) && !at_origin && has(RecordType::NS), Fault::WildcardCut),
        ]
        .into_iter()
        .filter(|(wrong, _)| *wrong)
        .map(|(_, fault)| fault)
        .chain(
            steered_types
                .iter()
                .filter(move |rtype| self.has(draft, **rtype))
                .map(|rtype| Fault::AlsoSteered(*rtype)),
        )
    }
}

/// The name that data of a type leads to, if it does.
fn target(rtype: RecordType, data: &[u8]) -> Option<Name> {
    match rtype {
        // RFC 2782: behind priority, weight and port, and never compressed.
        RecordType::SRV => Name::from_wire(data.get(6..)?),
        _ => Name::from_wire(Rdata::new(rtype, data).target()?),
    }
}

/// The octets of the longest message, without those for the question and for EDNS.
pub(super) const LARGEST_SET: usize = 65_535 - 512;

/// Whose mailbox a SOA record names, below the zone's name (RFC 2142 §7).
const MAILBOX: &[u8] = b"\x0ahostmaster";

/// The SOA fields of a zone that is written without one. Nothing transfers it, so they only have
/// to be valid: the values of RIPE-203.
const APEX_SERIAL: u32 = 1;
const APEX_REFRESH: u32 = 86_400;
const APEX_RETRY: u32 = 7_200;
const APEX_EXPIRE: u32 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2181 §5.
    #[test]
    fn records_whose_names_differ_in_case_only_are_one() {
        let name = |text: &str| -> Name { text.parse().unwrap() };
        let (mut builder, ttl) = (ZoneBuilder::new(name("example.com")), Ttl::from_secs(60));
        builder.add_apex(&[name("ns.example.net"), name("NS.example.NET")], ttl, ttl);
        let owner = name("a.example.com");
        for target in ["b.example.com", "B.example.com"] {
            builder.add(&owner, ttl, RecordType::CNAME, name(target).as_wire());
        }
        let text = name("text.example.com");
        for letter in [b"\x01a", b"\x01A"] {
            builder.add(&text, ttl, RecordType::TXT, letter);
        }
        let data = |owner: &Name, rtype| {
            let sets = builder.sets(builder.drafts.get(&owner.to_lower()).unwrap());
            sets.into_iter().find(|set| set.rtype == rtype).unwrap().rdata
        };
        let ns = Rdata::new(RecordType::NS, name("ns.example.net").as_wire());
        assert_eq!(data(&builder.origin, RecordType::NS), [ns], "the first one");
        let alias = Rdata::name(&name("b.example.com"));
        assert_eq!(data(&owner, RecordType::CNAME), [alias], "the first one");
        assert_eq!(data(&text, RecordType::TXT).len(), 2, "a text is no name");
        assert!(builder.finish().is_ok());
    }
}
