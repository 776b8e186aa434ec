//! From a name and a type to records (RFC 1034 §4.3.2).
//!
//! ```text
//! name → zone → node ┬ steered: the ready answer of the client's catchment
//!                    ├ CNAME: written, and on with its target, while that is in our zones
//!                    ├ the set that was asked for
//!                    └ no such set: NODATA          no node: NXDOMAIN          cut: a referral
//! ```

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use super::client;
use super::message::{Message, Section};
use super::name::LowerName;
use super::receive::Request;
use super::{Named, Rcode};
use crate::ids::{RegionId, ServiceId};
use crate::snapshot::{Body, LONGEST_CHAIN, Ready, Selection, Snapshot};
use crate::time::{Instant, Ttl};
use crate::zone::{
    CLASS_IN, Cut, Fixed, Found, Made, Node, Rdata, RecordType, Records, Seek, Zone,
};

/// How a query was resolved: what of the answer is not a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    pub(super) rcode: Rcode,
    pub(super) authoritative: bool,
    /// The SCOPE PREFIX-LENGTH of RFC 7871: 0 as long as nothing depended on the client.
    pub(super) scope: u8,
    pub(super) service: Option<ServiceId>,
    pub(super) region: Option<RegionId>,
    pub(super) named: Option<Named>,
    /// Whether the client's subnet decided.
    pub(super) by_subnet: bool,
    /// Whether there were records of the type that was asked for.
    pub(super) is_given: bool,
}

impl Resolved {
    /// A response code without a record.
    pub(super) fn only(rcode: Rcode) -> Self {
        let (service, region, named) = (None, None, None);
        let (authoritative, by_subnet, is_given) = (false, false, false);
        Self { rcode, authoritative, scope: 0, service, region, named, by_subnet, is_given }
    }
}

/// The services that a chain passed before its last, each with what its answer named.
pub(super) type Passed = [Option<(ServiceId, Named)>; LONGEST_CHAIN];

/// How long "no region writes" may be cached.
const NO_EPOCH_TTL: Ttl = Ttl::from_secs(1);

/// Where a name is, and which answer its client gets, if it is steered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'s> {
    zone: &'s Zone,
    sought: Seek,
    found: Found<'s>,
    choosing: Option<Choosing<'s>>,
}

/// Among which answers of a service a client's is.
#[derive(Clone, Copy, Debug)]
struct Choosing<'s> {
    selection: Selection<'s>,
    /// The client's, once it is found, and the prefix for which it is true.
    chosen: Option<(&'s Ready, u8)>,
    /// Whether the client's subnet decides, so that it is true for some of that only.
    by_subnet: bool,
}

impl<'s> Place<'s> {
    /// The zone of `name`, and where to look for it there; `None` if it is in none of our zones.
    /// Always in its caller's code, so that it is made where it stays.
    #[inline(always)]
    pub(super) fn seek(snapshot: &'s Snapshot, name: &[u8]) -> Option<Self> {
        let zone = snapshot.plan().zones.find(name)?;
        Some(Self { zone, sought: zone.seek(name), found: Found::NoName, choosing: None })
    }

    /// The place of `name`, and the client's answer there, all at once.
    #[inline(never)]
    fn of(snapshot: &'s Snapshot, name: &[u8], asked: (&Request<'_>, &IpAddr)) -> Option<Self> {
        let mut place = Self::seek(snapshot, name)?;
        place.approach();
        place.find(snapshot, name);
        place.select(snapshot, asked);
        place.near();
        place.choose();
        Some(place)
    }

    /// Goes nearer to it.
    pub(super) fn approach(&mut self) {
        self.zone.approach(&mut self.sought);
    }

    /// Where `name` is.
    #[inline]
    pub(super) fn find(&mut self, snapshot: &Snapshot, name: &[u8]) {
        // Each where it stays: to bring both together first takes longer than the look-up.
        match self.zone.found(self.sought, name) {
            Some(found) => self.found = found,
            None => self.found = self.zone.around(name),
        }
        if let Some(id) = self.service() {
            snapshot.prefetch(id);
        }
    }

    /// The service that steers it.
    fn service(&self) -> Option<ServiceId> {
        match self.found {
            Found::Steered(_, service) => Some(service),
            _ => None,
        }
    }

    /// A hash of the name that was sought.
    pub(super) fn hash(&self) -> u64 {
        self.sought.hash()
    }

    /// What tells it from other places while the snapshot lives: where it is in memory. All names
    /// that a wildcard stands for are in one place, and all that do not exist in a zone.
    pub(super) fn subject(&self) -> u64 {
        let place = match self.found {
            Found::Fixed(fixed) => fixed.place(),
            Found::Node(node) | Found::Steered(node, _) => std::ptr::from_ref(node).addr(),
            Found::Delegation(cut) => std::ptr::from_ref(cut.node).addr(),
            Found::NoName => std::ptr::from_ref(self.zone).addr(),
        };
        place as u64
    }

    /// Begins to choose the client's answer, if the name is steered.
    #[inline]
    pub(super) fn select(&mut self, snapshot: &'s Snapshot, asked: (&Request<'_>, &IpAddr)) {
        if let Some(id) = self.service() {
            self.choosing = Choosing::new(snapshot, id, asked);
        }
    }

    /// Goes nearer to it.
    pub(super) fn near(&mut self) {
        if let Some(choosing) = &mut self.choosing {
            choosing.selection.near();
        }
    }

    /// Chooses the client's answer.
    pub(super) fn choose(&mut self) {
        if let Some(choosing) = &mut self.choosing {
            choosing.chosen = choosing.selection.find();
        }
    }
}

impl<'s> Choosing<'s> {
    /// Among the answers of a service; `None`, if it does not answer this type. Always in its
    /// caller's code, so that it is made where it stays.
    #[inline(always)]
    fn new(
        snapshot: &'s Snapshot,
        id: ServiceId,
        (request, resolver): (&Request<'_>, &IpAddr),
    ) -> Option<Self> {
        let service = snapshot.service(id)?;
        let selector = service.answering(RecordType(request.question.rtype))?;
        let (client, by_subnet) = client::of(request, resolver, service.ecs);
        Some(Self { selection: selector.seek(client), chosen: None, by_subnet })
    }
}

/// Writes the records that answer `request`, whose name is at `place`, and notes which services a
/// chain of names passes.
pub(super) fn resolve(
    (snapshot, now): (&Snapshot, Instant),
    asked: (&Request<'_>, &IpAddr),
    place: Option<&Place<'_>>,
    (message, passed): (&mut Message<'_>, &mut Option<Passed>),
    resolved: &mut Resolved,
) {
    let rtype = RecordType(asked.0.question.rtype);
    // Zones are not transferred; QTYPE ANY over all of a zone is what these two would be.
    let is_transfer = matches!(rtype, RecordType::AXFR | RecordType::IXFR);
    let Some(place) = place.filter(|_| !is_transfer) else {
        resolved.rcode = Rcode::Refused;
        return;
    };
    let mut walk = Walk { snapshot, now, rtype, asked, target: None, resolved, passed };
    if walk.step(place, message).is_continue() {
        walk.go_on(place, message);
    }
}

/// One query on its way through the names. What few queries need is kept out of the others' way,
/// whose code is the shorter for it.
struct Walk<'w> {
    snapshot: &'w Snapshot,
    now: Instant,
    rtype: RecordType,
    asked: (&'w Request<'w>, &'w IpAddr),
    /// The CNAME's target that is looked up now, if one was followed.
    target: Option<LowerName>,
    resolved: &'w mut Resolved,
    passed: &'w mut Option<Passed>,
}

impl Walk<'_> {
    /// The name that is looked up now, as it is looked up.
    fn name(&self) -> &[u8] {
        self.target.as_ref().unwrap_or(self.asked.0.question.name).as_wire()
    }

    /// Looks up the names to which the one at `place` has led.
    #[inline(never)]
    fn go_on(&mut self, place: &Place<'_>, message: &mut Message<'_>) {
        let mut names = [place.hash(); LONGEST_CHAIN + 1];
        for row in 1..names.len() {
            // RFC 1034 §4.3.2 step 3a: a chain that leaves our zones ends here, as it stands.
            let place = Place::of(self.snapshot, self.name(), self.asked);
            let Some(place) = place else { return };
            let (known, rest) = names.split_at_mut(row);
            // RFC 2181 §5: no record stands twice. A chain ends where it comes back to a name.
            if known.contains(&place.hash()) || self.step(&place, message).is_break() {
                return;
            }
            rest.fill(place.hash());
        }
    }

    /// Looks one name up; goes on if it led to another.
    fn step(&mut self, place: &Place<'_>, message: &mut Message<'_>) -> ControlFlow<()> {
        let zone = place.zone;
        if let Found::Delegation(cut) = &place.found
            && !self.is_parent_side(cut)
        {
            self.refer(zone, cut, message);
            return ControlFlow::Break(());
        }
        // RFC 1035 §4.1.1: AA is about the owner that matches the question's name.
        if self.target.is_none() {
            self.resolved.authoritative = true;
        }
        let node = match &place.found {
            Found::Fixed(fixed) => {
                self.at_fixed(zone, fixed, message);
                return ControlFlow::Break(());
            }
            Found::NoName => {
                // RFC 2308 §2.1: also at the end of a chain.
                self.resolved.rcode = Rcode::NxDomain;
                self.deny(zone, None, message);
                return ControlFlow::Break(());
            }
            Found::Delegation(cut) => cut.node,
            Found::Node(node) => node,
            Found::Steered(node, service) => {
                let service = (*service, place.choosing.as_ref());
                if let Some(flow) = self.at_service(zone, service, message) {
                    return flow;
                }
                node
            }
        };
        self.at_node(zone, node, message)
    }

    /// RFC 4035 §3.1.4.1: the DS records of a cut are the parent's.
    fn is_parent_side(&self, cut: &Cut<'_>) -> bool {
        self.rtype == RecordType::DS && cut.is_at(self.name())
    }

    /// A name with nothing but records, which are made.
    fn at_fixed(&mut self, zone: &Zone, fixed: &Fixed<'_>, message: &mut Message<'_>) {
        if self.rtype == RecordType::ANY && !fixed.is_empty() {
            self.minimise_any(message);
        } else if let Some(made) = fixed.of(self.rtype) {
            self.give(&made, message);
        } else {
            self.deny(zone, None, message);
        }
    }

    /// The records that were asked for, made ahead.
    fn give<W: AsRef<[u8]>>(&mut self, made: &Made<W>, message: &mut Message<'_>) {
        self.resolved.is_given = true;
        let owner = self.target.as_ref().map(LowerName::as_wire);
        let written = message.ready(owner, made);
        message.required(written);
    }

    /// A name with records that are not made, or at which no service has what was asked for.
    fn at_node(&mut self, zone: &Zone, node: &Node, message: &mut Message<'_>) -> ControlFlow<()> {
        if self.rtype == RecordType::TXT
            && let Some(service) = node.epoch_of()
        {
            return self.at_epoch(zone, service, message);
        }
        if let Some(alias) = node.set(RecordType::CNAME)
            && self.rtype != RecordType::CNAME
            && let Some(rdata) = alias.rdata.first()
        {
            return self.follow(rdata, alias.ttl, message);
        }
        if self.rtype == RecordType::DS
            && let Some((parent, node)) = parent(self.snapshot, zone, self.name())
        {
            let Some(node) = node else {
                self.deny(parent, None, message);
                return ControlFlow::Break(());
            };
            return self.at_node(parent, node, message);
        }
        if self.rtype == RecordType::ANY && !node.is_empty() {
            self.minimise_any(message);
        } else if let Some(set) = node.set(self.rtype) {
            self.resolved.is_given = true;
            let ttl = set.ttl.as_secs();
            let written = message.set(Section::Answer, self.name(), set, ttl);
            message.required(written);
        } else {
            self.deny(zone, None, message);
        }
        ControlFlow::Break(())
    }

    /// A steered name; `None` if what was asked for is not steered there.
    fn at_service(
        &mut self,
        zone: &Zone,
        (id, choosing): (ServiceId, Option<&Choosing<'_>>),
        message: &mut Message<'_>,
    ) -> Option<ControlFlow<()>> {
        if let (Some(service), Some(named)) = (self.resolved.service, self.resolved.named) {
            self.pass(service, named);
        }
        self.resolved.service = Some(id);
        let Choosing { by_subnet, chosen, .. } = *choosing?;
        let (ready, prefix) = chosen?;
        if by_subnet {
            self.resolved.by_subnet = true;
            // RFC 7871 §7.2.1. Along a chain the longest scope is true for every step.
            self.resolved.scope = self.resolved.scope.max(prefix);
        }
        // The snapshot after this one may be late; a lease that is over is over.
        if ready.choice.until.is_some_and(|until| self.now >= until) {
            self.deny(zone, Some(ready.choice.ttl), message);
            return Some(ControlFlow::Break(()));
        }
        self.resolved.region = ready.first;
        self.resolved.named = Some((ready.regions, ready.choice.ttl));
        match &ready.body {
            Body::Addresses(addresses) => self.give(addresses, message),
            Body::Alias(rdata, ttl) => return Some(self.follow(rdata, *ttl, message)),
            Body::NoData(ttl) => self.deny(zone, Some(*ttl), message),
            Body::ServFail => {
                self.resolved.rcode = Rcode::ServFail;
                self.resolved.authoritative = false;
            }
        }
        Some(ControlFlow::Break(()))
    }

    /// A chain has led from a service to another one: each has its own regions and TTL.
    #[inline(never)]
    fn pass(&mut self, service: ServiceId, named: Named) {
        (self.resolved.region, self.resolved.named) = (None, None);
        let passed = self.passed.get_or_insert_default();
        if let Some(free) = passed.iter_mut().find(|row| row.is_none()) {
            *free = Some((service, named));
        }
    }

    /// The name that tells which region of a service writes.
    #[inline(never)]
    fn at_epoch(
        &mut self,
        zone: &Zone,
        id: ServiceId,
        message: &mut Message<'_>,
    ) -> ControlFlow<()> {
        let epoch = self.snapshot.service(id).and_then(|service| service.epoch());
        match epoch.filter(|epoch| epoch.until.is_none_or(|until| self.now < until)) {
            Some(epoch) => {
                self.resolved.is_given = true;
                let fixed = (RecordType::TXT.0, CLASS_IN, epoch.ttl.as_secs());
                let written = message.one(Section::Answer, self.name(), fixed, &epoch.rdata);
                message.required(written);
            }
            None => self.deny(zone, Some(NO_EPOCH_TTL), message),
        }
        ControlFlow::Break(())
    }

    /// Writes a CNAME record and goes on with its target, unless it is what was asked for: ANY
    /// matches it as well (RFC 1034 §4.3.2 step 3a).
    #[inline(never)]
    fn follow(&mut self, rdata: &Rdata, ttl: Ttl, message: &mut Message<'_>) -> ControlFlow<()> {
        let fixed = (RecordType::CNAME.0, CLASS_IN, ttl.as_secs());
        let written = message.one(Section::Answer, self.name(), fixed, rdata);
        let is_asked = matches!(self.rtype, RecordType::CNAME | RecordType::ANY);
        if !message.required(written) || is_asked {
            return ControlFlow::Break(());
        }
        match rdata.target().and_then(LowerName::of) {
            Some(target) => {
                self.target = Some(target);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }

    /// RFC 8482 §4.2: a HINFO record instead of everything there is.
    #[inline(never)]
    fn minimise_any(&self, message: &mut Message<'_>) {
        let fixed = (RecordType::HINFO.0, CLASS_IN, ANY_TTL);
        let written = message.one(Section::Answer, self.name(), fixed, &ANY);
        message.required(written);
    }

    /// The SOA record that says how long "no such thing" may be cached: the least of its TTL and
    /// its MINIMUM (RFC 2308 §3), and of `at_most`.
    fn deny(&self, zone: &Zone, at_most: Option<Ttl>, message: &mut Message<'_>) {
        let ttl = zone.negative_ttl().min(at_most.unwrap_or(Ttl::MAX)).as_secs();
        let below =
            self.asked.0.question.name.as_wire().len().checked_sub(zone.origin_wire().len());
        let written = match below.filter(|_| self.target.is_none()) {
            Some(origin) => message.denial(zone.denial(), origin, ttl),
            None => message.set(Section::Authority, zone.origin_wire(), zone.soa(), ttl),
        };
        message.required(written);
    }

    /// The name servers of the zone below, and their addresses as far as they are ours to give.
    #[inline(never)]
    fn refer(&self, zone: &Zone, cut: &Cut<'_>, message: &mut Message<'_>) {
        let ttl = cut.ns.ttl.as_secs();
        let written = message.set(Section::Authority, cut.owner, cut.ns, ttl);
        if !message.required(written) {
            return;
        }
        let is_secure = self.asked.0.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
        if let Some(ds) = cut.node.set(RecordType::DS).filter(|_| is_secure) {
            // RFC 4035 §3.1.4: part of the referral for who wants it, and kind to have.
            let _left_out = message.set(Section::Authority, cut.owner, ds, ds.ttl.as_secs());
        }
        let mut is_any = false;
        for (owner, records) in zone.glue(cut) {
            let written = match records {
                Records::Set(set) => {
                    message.set(Section::Additional, owner, set, set.ttl.as_secs())
                }
                Records::Made(made) => message.ready_for(Section::Additional, owner, &made),
            };
            // RFC 9471 §3: addresses below the cut that do not fit must be asked for over TCP;
            // others, which come last, may be left out. Who gets none at all may learn none.
            let is_left_out = written.is_err() && is_any && !cut.is_above(owner);
            if is_left_out || !message.required(written) {
                return;
            }
            is_any = true;
        }
    }
}

/// The zone above a delegation, and what is at it, if `name`, which is `found` in `zone`, is where
/// one begins. RFC 4035 §3.1.4.1: its DS records are that zone's.
pub(super) fn parent_side<'s>(
    snapshot: &'s Snapshot,
    zone: &'s Zone,
    found: &Found<'s>,
    name: &[u8],
) -> Option<(&'s Zone, Option<&'s Node>)> {
    match found {
        Found::Delegation(cut) => cut.is_at(name).then_some((zone, Some(cut.node))),
        _ => parent(snapshot, zone, name),
    }
}

/// The zone above `zone`, and what is at the delegation, if it delegates it; if `name` is `zone`'s
/// own, both are ours, and there is no other between them. RFC 4035 §3.1.4.1: its DS records are
/// the parent's.
#[inline(never)]
fn parent<'s>(
    snapshot: &'s Snapshot,
    zone: &Zone,
    name: &[u8],
) -> Option<(&'s Zone, Option<&'s Node>)> {
    let above = name.get(usize::from(*name.first()?) + 1..)?;
    let is_origin = name.len() == zone.origin_wire().len();
    let parent = snapshot.plan().zones.find(above).filter(|_| is_origin)?;
    match parent.find(name) {
        Found::Delegation(cut) => cut.is_at(name).then_some((parent, Some(cut.node))),
        _ => Some((parent, None)),
    }
}

/// The data of the HINFO record.
static ANY: LazyLock<Rdata> = LazyLock::new(|| Rdata::strings(&[b"RFC8482", b""]));

/// How long the answer to ANY may be cached, in seconds: an hour, as it never changes, and not
/// a day, as what replaces it one day may.
const ANY_TTL: u32 = 3600;
