//! Zones, and what is found in them (RFC 1034 §4.3.2, RFC 4592).

use std::ops::Range;

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use super::name::{LONGEST_NAME, Name, offsets};
use super::nodes::{Content, Entry, Fixed, Nodes, Sought};
use super::record::{Denial, Made, RecordType, RrSet};
use crate::ids::ServiceId;
use crate::time::Ttl;

/// A zone: the names from its origin down to its cuts.
#[derive(Debug)]
pub struct Zone {
    pub(super) origin: Name,
    pub(super) soa: RrSet,
    pub(super) negative_ttl: Ttl,
    pub(super) denial: Denial,
    /// Whether what has no node does not exist: there is no cut, and no wildcard.
    pub(super) is_plain: bool,
    pub(super) size: (usize, usize),
    /// Every name that exists, also the empty non-terminals, by its lower case.
    pub(super) nodes: Nodes,
}

/// A name that exists: its records, and who steers it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub(super) sets: Vec<RrSet>,
    /// The service whose answers are given here.
    pub(super) steered: Option<ServiceId>,
    /// Not its answers, but which of its regions writes.
    pub(super) is_epoch: bool,
    /// Whether name servers of a zone below stand here.
    pub(super) is_cut: bool,
    /// Whether it is below such a name, and thus another zone's.
    pub(super) is_below_cut: bool,
}

/// What is found for a name.
#[derive(Clone, Copy, Debug)]
pub enum Found<'z> {
    /// The name exists, or a wildcard stands for it; all that is there is fixed.
    Fixed(Fixed<'z>),
    /// Likewise, but it has records that are written anew each time.
    Node(&'z Node),
    /// Likewise, but this service steers it: what else is there is seldom asked for.
    Steered(&'z Node, ServiceId),
    /// The name is at or below a cut: another zone's.
    Delegation(Cut<'z>),
    /// The name does not exist, nor does anything below it (RFC 8020).
    NoName,
}

/// The records of a name and type.
#[derive(Clone, Debug)]
pub enum Records<'z> {
    /// As they are.
    Set(&'z RrSet),
    /// Made ahead.
    Made(Made<&'z [u8]>),
}

/// A look-up that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Seek(Sought);

impl Seek {
    /// A hash of the name that is looked up: in all zones, as long as this process lives.
    pub fn hash(&self) -> u64 {
        self.0.hash
    }
}

/// Where another zone begins.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'z> {
    /// Its name, in lower case and wire format.
    pub owner: &'z [u8],
    /// Its name servers.
    pub ns: &'z RrSet,
    /// What else this zone has at its name.
    pub node: &'z Node,
}

impl Cut<'_> {
    /// Is the cut at `name`, which is in lower case, and not above it?
    pub fn is_at(&self, name: &[u8]) -> bool {
        self.owner == name
    }

    /// Is the cut at `name`, or above it? Case does not count.
    pub fn is_above(&self, name: &[u8]) -> bool {
        let mut all = offsets(name).filter_map(|at| name.get(at..));
        all.any(|name| name.eq_ignore_ascii_case(self.owner))
    }
}

impl Node {
    /// The records of a type.
    pub fn set(&self, rtype: RecordType) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }

    /// The service whose answers are given here.
    pub fn service(&self) -> Option<ServiceId> {
        self.steered.filter(|_| !self.is_epoch)
    }

    /// The service of which is told here which region writes.
    pub fn epoch_of(&self) -> Option<ServiceId> {
        self.steered.filter(|_| self.is_epoch)
    }

    /// All records.
    pub fn sets(&self) -> &[RrSet] {
        &self.sets
    }

    /// Is there nothing here but records, given as they are?
    pub(super) fn has_only_records(&self) -> bool {
        self.steered.is_none() && !self.is_cut && !self.is_below_cut
    }

    /// Is there nothing here, so that the name exists only because one below it does?
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.steered.is_none()
    }
}

impl Zone {
    /// The zone's name.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The zone's name in wire format.
    pub fn origin_wire(&self) -> &[u8] {
        self.origin.as_wire()
    }

    /// Its SOA record.
    pub fn soa(&self) -> &RrSet {
        &self.soa
    }

    /// How long it may be cached that something is not there: the lesser of the SOA record's TTL
    /// and its MINIMUM field (RFC 2308 §3).
    pub fn negative_ttl(&self) -> Ttl {
        self.negative_ttl
    }

    /// Its SOA record as it stands in the answer that something is not there.
    pub fn denial(&self) -> &Denial {
        &self.denial
    }

    /// Where in memory the tables are that its names are looked up in.
    pub fn places(&self) -> [Range<usize>; 2] {
        self.nodes.places()
    }

    /// How many names it has, and how many records.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// What is found for `name`, which is at or below the origin, in lower case and wire format.
    pub fn find(&self, name: &[u8]) -> Found<'_> {
        let mut seek = self.seek(name);
        self.approach(&mut seek);
        self.found(seek, name).unwrap_or_else(|| self.around(name))
    }

    /// The first step to it. Whoever has many takes all of them through one step after the other.
    pub fn seek(&self, name: &[u8]) -> Seek {
        Seek(self.nodes.seek(name))
    }

    /// The second step.
    pub fn approach(&self, Seek(sought): &mut Seek) {
        self.nodes.approach(sought);
    }

    /// The last step, unless the name has no node or none of this zone: that takes
    /// [`Self::around`]. Always in its caller's code, so that what is found is written where it
    /// stays.
    #[inline(always)]
    pub fn found(&self, Seek(sought): Seek, name: &[u8]) -> Option<Found<'_>> {
        match self.nodes.sought(sought, name).map(|entry| entry.content) {
            Some(Content::Fixed(fixed)) => Some(Found::Fixed(fixed)),
            Some(Content::Steered(node, service)) => Some(Found::Steered(node, service)),
            Some(Content::Node(node)) if !node.is_cut && !node.is_below_cut => {
                Some(Found::Node(node))
            }
            None if self.is_plain => Some(Found::NoName),
            _ => None,
        }
    }

    /// What is found for a name that has no node, or none of this zone: a cut or a wildcard above.
    #[inline(never)]
    pub fn around(&self, name: &[u8]) -> Found<'_> {
        let Some(below_origin) = name.len().checked_sub(self.origin.as_wire().len()) else {
            return Found::NoName;
        };
        // Labels from the origin's down; the closest encloser is the last that exists
        // (RFC 4592 §3.3.1).
        let mut starts = [0u8; 128];
        let mut count = 0;
        for at in offsets(name).take_while(|at| *at <= below_origin) {
            if let (Some(slot), Ok(at)) = (starts.get_mut(count), u8::try_from(at)) {
                *slot = at;
                count += 1;
            }
        }
        let mut encloser: &[u8] = &[];
        for at in starts.get(..count).unwrap_or(&[]).iter().rev() {
            let Some(suffix) = name.get(usize::from(*at)..) else { break };
            let Some(Entry { name, content }) = self.nodes.get(suffix) else { break };
            if let Content::Node(node) = content
                && node.is_cut
                && let Some(ns) = node.set(RecordType::NS)
            {
                return Found::Delegation(Cut { owner: name, ns, node });
            }
            encloser = suffix;
        }
        match self.wildcard(encloser).map(|entry| entry.content) {
            Some(Content::Fixed(fixed)) => Found::Fixed(fixed),
            Some(Content::Steered(node, service)) => Found::Steered(node, service),
            Some(Content::Node(node)) => Found::Node(node),
            None => Found::NoName,
        }
    }

    /// The wildcard directly below `encloser`, if it exists.
    fn wildcard(&self, encloser: &[u8]) -> Option<Entry<'_>> {
        let mut name = [0u8; LONGEST_NAME + 2];
        let length = encloser.len() + 2;
        name.get_mut(..2)?.copy_from_slice(b"\x01*");
        name.get_mut(2..length)?.copy_from_slice(encloser);
        self.nodes.get(name.get(..length)?)
    }

    /// The addresses of a cut's name servers that this zone has: the glue (RFC 9471 §2), that of
    /// those below the cut first.
    pub fn glue<'z>(&'z self, cut: &Cut<'z>) -> impl Iterator<Item = (&'z [u8], Records<'z>)> {
        let targets = move |is_below| {
            let all = cut.ns.rdata.iter().filter_map(|rdata| rdata.target());
            all.filter(move |target| cut.is_above(target) == is_below)
        };
        [true, false].into_iter().flat_map(targets).flat_map(|target| {
            let mut lower = [0u8; LONGEST_NAME];
            let lower = lower.get_mut(..target.len()).map(|lower| {
                lower.copy_from_slice(target);
                lower.make_ascii_lowercase();
                &*lower
            });
            let entry = lower.and_then(|lower| self.nodes.get(lower));
            let records = move |rtype| match entry?.content {
                Content::Fixed(fixed) => Some((target, Records::Made(fixed.of(rtype)?))),
                Content::Node(node) | Content::Steered(node, _) => {
                    Some((target, Records::Set(node.set(rtype)?)))
                }
            };
            [RecordType::A, RecordType::AAAA].into_iter().filter_map(records)
        })
    }
}

/// All zones of a server.
#[derive(Debug)]
pub struct Zones {
    /// By their names in lower case and wire format.
    zones: IndexMap<Box<[u8]>, Zone, RandomState>,
    /// By the length of a name in octets: which zones have such a one.
    by_length: Box<[OfLength; LONGEST_NAME + 1]>,
}

/// The zones whose names have the same length.
#[derive(Clone, Copy, Debug)]
enum OfLength {
    None,
    /// One alone: its row, so that it is found without a hash.
    One(usize),
    Several,
}

impl Zones {
    /// Zones with different origins.
    pub fn new(zones: impl IntoIterator<Item = Zone>) -> Self {
        let zones: IndexMap<Box<[u8]>, Zone, _> =
            zones.into_iter().map(|zone| (zone.origin.to_lower(), zone)).collect();
        let mut by_length = Box::new([OfLength::None; LONGEST_NAME + 1]);
        for (row, origin) in zones.keys().enumerate() {
            if let Some(of) = by_length.get_mut(origin.len()) {
                let is_first = matches!(of, OfLength::None);
                *of = if is_first { OfLength::One(row) } else { OfLength::Several };
            }
        }
        Self { zones, by_length }
    }

    /// The zone that `name` is in: of those at or above it the closest. `name` is in lower case
    /// and wire format.
    pub fn find(&self, name: &[u8]) -> Option<&Zone> {
        offsets(name).filter_map(|at| name.get(at..)).find_map(|name| self.at(name))
    }

    /// The zone of this name.
    fn at(&self, name: &[u8]) -> Option<&Zone> {
        match *self.by_length.get(name.len())? {
            OfLength::None => None,
            OfLength::One(row) => {
                let (origin, zone) = self.zones.get_index(row)?;
                (**origin == *name).then_some(zone)
            }
            OfLength::Several => self.among(name),
        }
    }

    /// The same, if several have a name of that length.
    #[inline(never)]
    fn among(&self, name: &[u8]) -> Option<&Zone> {
        self.zones.get(name)
    }

    /// The zones, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Zone> {
        self.zones.values()
    }
}

impl Default for Zones {
    fn default() -> Self {
        Self::new([])
    }
}
