//! The whole decision for one client, by the same code that answers.
//!
//! What is shown is looked up in the same snapshot, by the same selector; only the reasons are
//! worked out again, from the same ranking.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::resolve::parent_side;
use crate::geo::Atlas;
use crate::ids::{RegionId, ServiceId};
use crate::snapshot::{Body, LONGEST_CHAIN, Plan, Ready, Selector, Snapshot};
use crate::steer::{Basis, Endpoint, Facts, Family, Policy, Service, Standing, Word, ramp_slot};
use crate::time::Instant;
use crate::zone::{Found, Name, RecordType};

/// What is asked, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The name.
    pub name: Name,
    /// The type.
    pub rtype: RecordType,
    /// The client, as its resolver would tell with EDNS Client Subnet.
    pub client: IpAddr,
}

/// The decision for one client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked.
    pub name: String,
    /// Of which type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// By whom.
    pub client: IpAddr,
    /// Where the client is.
    pub location: Whereabouts,
    /// What it gets.
    #[serde(flatten)]
    pub outcome: Explained,
    /// What it gets of the names to which aliases lead from there, one after the other.
    #[serde(default)]
    pub then: Vec<Step>,
}

/// A name to which an alias leads.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// The name.
    pub name: String,
    /// What a client gets there.
    #[serde(flatten)]
    pub outcome: Explained,
}

/// Where a client is, and how that is known.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Whereabouts {
    /// How it is known.
    pub source: String,
    /// The network that is all there.
    pub network: String,
    /// The continent's code.
    pub continent: Option<String>,
    /// The country's code.
    pub country: Option<String>,
    /// The subdivision's code.
    pub subdivision: Option<String>,
    /// The city.
    pub city: Option<String>,
    /// Latitude and longitude in degrees.
    pub at: Option<(f64, f64)>,
    /// The autonomous system.
    pub asn: Option<u32>,
}

/// What a client gets.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Explained {
    /// A service answers.
    Steered(Steering),
    /// The zone's own records answer, the same for everybody.
    Zone {
        /// The zone.
        zone: String,
        /// The types of the records there.
        types: Vec<String>,
        /// The name that answers instead, if it is an alias of one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alias: Option<String>,
    },
    /// The name is in a zone that others serve.
    Delegated {
        /// The zone above.
        zone: String,
    },
    /// The name does not exist.
    NoSuchName {
        /// The zone that would have it.
        zone: String,
    },
    /// The name is in no zone that is served here.
    NotOurs,
}

/// How a service answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Steering {
    /// Its name.
    pub service: String,
    /// How it picks a region.
    pub policy: String,
    /// What put the first region first.
    pub rule: String,
    /// All its regions, in the client's order.
    pub regions: Vec<Candidate>,
    /// What the answer names; nothing if there is no record of this type.
    pub answer: Vec<String>,
    /// What the choice rests on.
    pub basis: String,
    /// How long it may be cached, in seconds.
    pub ttl: u32,
    /// Why that long.
    pub ttl_reason: String,
    /// The prefix length for which this is the answer (RFC 7871).
    pub scope: u8,
}

/// A region in a client's order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub region: String,
    /// How far it is.
    pub distance_km: Option<u32>,
    /// Whether it is in the answer.
    pub chosen: bool,
    /// Why, or why not.
    pub why: String,
}

/// The decision on `question`, as `snapshot` has it. `facts` are what it was compiled from.
pub fn explain(
    snapshot: &Snapshot,
    atlas: &Atlas,
    facts: &Facts<'_>,
    question: &Question,
) -> Explanation {
    let mut steps = Vec::new();
    let mut next = Some(question.name.clone());
    while let Some(name) = next.take_if(|_| steps.len() <= LONGEST_CHAIN) {
        let asked = Question { name, ..question.clone() };
        let (outcome, target) = outcome(snapshot, atlas, facts, &asked);
        steps.push((asked.name, outcome));
        next = target.filter(|target| steps.iter().all(|(known, _)| known != target));
    }
    let mut steps = steps.into_iter();
    let first = steps.next().map_or(Explained::NotOurs, |(_, outcome)| outcome);
    Explanation {
        name: question.name.to_string(),
        rtype: question.rtype.to_string(),
        client: question.client,
        location: whereabouts(atlas, question.client),
        outcome: first,
        then: steps.map(|(name, outcome)| Step { name: name.to_string(), outcome }).collect(),
    }
}

fn whereabouts(atlas: &Atlas, client: IpAddr) -> Whereabouts {
    let location = atlas.locate(client);
    let place = location.place.cloned().unwrap_or_default();
    Whereabouts {
        source: location.source.to_string(),
        network: location.network.to_string(),
        continent: place.continent.map(|code| code.to_string()),
        country: place.country.map(|code| code.to_string()),
        subdivision: place.subdivision.map(|code| code.to_string()),
        city: place.city.map(String::from),
        at: place.at.map(|at| (at.latitude(), at.longitude())),
        asn: location.asn,
    }
}

/// What answers at one name, and where that leads.
fn outcome(
    snapshot: &Snapshot,
    atlas: &Atlas,
    facts: &Facts<'_>,
    question: &Question,
) -> (Explained, Option<Name>) {
    let name = question.name.to_lower();
    let Some(zone) = snapshot.plan().zones.find(&name) else { return (Explained::NotOurs, None) };
    let origin = zone.origin().to_string();
    let found = zone.find(&name);
    if question.rtype == RecordType::DS
        && let Some((zone, node)) = parent_side(snapshot, zone, &found, &name)
    {
        let zone = zone.origin().to_string();
        let set = node.and_then(|node| node.set(RecordType::DS));
        let types = set.map(|set| set.rtype.to_string());
        return (Explained::Zone { zone, types: types.into_iter().collect(), alias: None }, None);
    }
    let node = match found {
        Found::NoName => return (Explained::NoSuchName { zone: origin }, None),
        Found::Delegation(_) => return (Explained::Delegated { zone: origin }, None),
        Found::Fixed(fixed) => {
            let types = fixed.types().map(|rtype| rtype.to_string()).collect();
            return (Explained::Zone { zone: origin, types, alias: None }, None);
        }
        Found::Node(node) | Found::Steered(node, _) => node,
    };
    // RFC 1034 §4.3.2 step 3a: an alias that was asked for is the answer.
    let is_followed = !matches!(question.rtype, RecordType::CNAME | RecordType::ANY);
    let steered = node.service().and_then(|id| steering(snapshot, atlas, facts, question, id));
    if let Some((steering, target)) = steered {
        return (Explained::Steered(steering), target.filter(|_| is_followed));
    }
    let epoch = node.epoch_of().and_then(|id| snapshot.service(id)?.epoch());
    let types = node.sets().iter().map(|set| set.rtype);
    let types = types.chain(epoch.map(|_| RecordType::TXT)).map(|of| of.to_string());
    let service = node.service().filter(|_| question.rtype == RecordType::ANY);
    let service = service.and_then(|id| snapshot.plan().services.get(id.index()));
    let steered = service.into_iter().flat_map(Service::families).map(|of| of.to_string());
    let types = types.chain(steered).collect();
    let alias = node.set(RecordType::CNAME).filter(|_| is_followed);
    let target = alias.and_then(|set| Name::from_wire(set.rdata.first()?.target()?));
    let alias = target.as_ref().map(Name::to_string);
    (Explained::Zone { zone: origin, types, alias }, target)
}

/// How a service answers, and where an alias leads; `None` if it has nothing to say of this type.
fn steering(
    snapshot: &Snapshot,
    atlas: &Atlas,
    facts: &Facts<'_>,
    question: &Question,
    id: ServiceId,
) -> Option<(Steering, Option<Name>)> {
    let plan = snapshot.plan();
    let service = plan.services.get(id.index())?;
    let compiled = snapshot.service(id)?;
    let by_type = match question.rtype {
        RecordType::A => Family::V4,
        RecordType::AAAA => Family::V6,
        _ => Family::Alias,
    };
    let (family, selector): (Family, &Selector) = [Family::Alias, by_type]
        .into_iter()
        .find_map(|family| Some((family, compiled.selector(family)?)))?;
    selector.draw();
    let (ready, prefix) = selector.select(question.client)?;
    let (rule, order) = order(plan, atlas, service, question.client);
    let (slot, _) = ramp_slot(question.client);
    let writer = facts.writers.of(id);
    let regions = order.into_iter().map(|(region, distance_km)| {
        let pools = service.pools.iter().filter(|pool| pool.region == region);
        let endpoints = pools.flat_map(|pool| &pool.endpoints);
        let standings = endpoints
            .filter(|endpoint| endpoint.address.family() == family)
            .map(|endpoint| Counted::of(facts, (id, region), endpoint, slot))
            .collect::<Vec<Counted<'_>>>();
        let why = why(service, &standings, region, ready);
        let chosen = ready.choice.regions.contains(&region);
        Candidate { region: plan.region_name(region).to_owned(), distance_km, chosen, why }
    });
    let regions: Vec<Candidate> = regions.collect();
    let basis = match writer {
        Some(writer) => {
            let stands = regions.iter().find(|of| of.chosen).map_or("not there", |of| &of.why);
            ready.choice.basis.of_writer(writer.epoch, stands)
        }
        None => ready.choice.basis.to_string(),
    };
    let target = match &ready.body {
        Body::Alias(rdata, _) => rdata.target().and_then(Name::from_wire),
        _ => None,
    };
    let steering = Steering {
        service: service.name.clone(),
        policy: service.policy.to_string(),
        rule,
        regions,
        answer: ready.choice.addresses.iter().map(ToString::to_string).collect(),
        basis,
        ttl: ready.choice.ttl.as_secs(),
        ttl_reason: ready.choice.ttl_reason.to_string(),
        scope: if service.ecs { prefix } else { 0 },
    };
    Some((steering, target))
}

/// A service's regions in a client's order, with their distances, and the rule for the order.
fn order(
    plan: &Plan,
    atlas: &Atlas,
    service: &Service,
    client: IpAddr,
) -> (String, Vec<(RegionId, Option<u32>)>) {
    let location = atlas.locate(client);
    let ranking = plan.catchments.get(service.catchment).map(|of| of.rank(&location, client));
    let distance = |region| {
        let ranked = ranking.as_ref()?.regions.iter().find(|ranked| ranked.region == region)?;
        ranked.distance_km
    };
    match &service.policy {
        Policy::Failover(order) | Policy::SingleWriter(order, _) => {
            let rule = match &service.policy {
                Policy::SingleWriter(..) => "the region that writes, whether it is up or not",
                _ => "the configured order",
            };
            let order = order.iter().map(|region| (*region, distance(*region)));
            (rule.to_owned(), order.collect())
        }
        Policy::Weighted => {
            let order = crate::steer::weighted::order_of(client, &plan.contenders(service));
            let order = order.into_iter().map(|region| (region, distance(region)));
            let rule = format!("hash of the client's prefix, by weight: {}", plan.weights(service));
            (rule, order.collect())
        }
        Policy::Nearest | Policy::Geo => {
            let rule = ranking.as_ref().map(|ranking| ranking.rule.to_string());
            let ranked = ranking.iter().flat_map(|ranking| &ranking.regions);
            let order = ranked.map(|ranked| (ranked.region, ranked.distance_km));
            (rule.unwrap_or_default(), order.collect())
        }
    }
}

/// What an endpoint counts as, and why.
struct Counted<'f> {
    standing: Standing,
    /// What is said of it, and by whom.
    said: Option<(Word, &'f str)>,
    /// What the probes say of it.
    probes: String,
    /// It is well, and down until then, as it has come and gone.
    held: Option<Instant>,
}

impl<'f> Counted<'f> {
    fn of(
        facts: &Facts<'f>,
        (service, region): (ServiceId, RegionId),
        endpoint: &Endpoint,
        slot: usize,
    ) -> Self {
        let standing = facts.standing(service, region, endpoint, slot);
        let said = facts.overrides.told(service, region, endpoint.address.ip(), slot);
        let targets = endpoint.probed.iter().flat_map(|probed| &probed.targets);
        let health = targets.map(|target| facts.health.get(*target));
        let held = health.filter(|of| of.failing_since.is_none()).filter_map(|of| of.held_until);
        let is_seen = !facts.down.contains(&region) && said.is_none();
        let held = held.max().filter(|_| standing == Standing::Down && is_seen);
        let probes = match &endpoint.probed {
            Some(_) => facts.seen(region, endpoint).to_string(),
            None => "none".to_owned(),
        };
        Self { standing, said, probes, held }
    }
}

/// What is said of endpoints, how many of them it is said of, and how the probes see those.
fn told(counted: &[Counted<'_>]) -> Option<(String, usize)> {
    let (word, who) = counted.iter().find_map(|of| of.said)?;
    let of = counted.iter().filter(|of| of.said == Some((word, who)));
    let mut probes: Vec<&str> = of.map(|of| of.probes.as_str()).collect();
    let many = probes.len();
    probes.sort_unstable();
    probes.dedup();
    let verb = match word {
        Word::Up => "said to be up",
        Word::Down => "said to be down",
        Word::Drain => "drained",
    };
    Some((format!("{verb} by {who} (probes: {})", probes.join(", ")), many))
}

/// A moment, as people read it.
fn shown(moment: Instant) -> String {
    let read = i64::try_from(moment.as_secs()).ok().and_then(|of| Timestamp::from_second(of).ok());
    read.map_or_else(|| "later".to_owned(), |moment| moment.to_string())
}

/// Why a region whose endpoints count as these is in the answer, or not.
fn why(service: &Service, counted: &[Counted<'_>], region: RegionId, ready: &Ready) -> String {
    let all = counted.len();
    let count = |wanted| counted.iter().filter(|of| of.standing == wanted).count();
    let told = told(counted);
    let (up, kept) = (count(Standing::Up), count(Standing::Kept));
    let need = service.min_up.of(all);
    let standing = match (up, count(Standing::Drained), count(Standing::Unknown)) {
        _ if all == 0 => return "no endpoint of this family".to_owned(),
        _ if told.as_ref().is_some_and(|(_, many)| *many == all) => String::new(),
        _ if kept == all => Basis::Kept.to_string(),
        _ if kept > 0 => format!("{up} of {all} endpoints up, {}", Basis::Kept),
        (0, ..) if count(Standing::Held) > 0 => "up again, and not let back yet".to_owned(),
        (0, 0, 0) => match counted.iter().filter_map(|of| of.held).min() {
            Some(until) => format!("held down until {}, as it failed again soon", shown(until)),
            None => "down".to_owned(),
        },
        (0, 0, _) => "no verdict yet".to_owned(),
        (0, ..) => "nothing up that is not drained".to_owned(),
        _ if up < need => format!("{up} of {all} endpoints up; {need} are needed"),
        _ if up == all => "up".to_owned(),
        _ => format!("{up} of {all} endpoints up"),
    };
    let standing = match told {
        Some((told, many)) if many == all => told,
        Some((told, many)) => format!("{standing}; {many} {told}"),
        None => standing,
    };
    match &service.policy {
        _ if ready.choice.regions.contains(&region) => standing,
        Policy::SingleWriter(..) => format!("{standing}; not the writer"),
        _ if up + kept < need => standing,
        _ => format!("{standing}; not needed"),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} for {}", self.name, self.rtype, self.client)?;
        writeln!(f, "  client     {}", self.location)?;
        self.outcome.tell(f, &self.rtype)?;
        for Step { name, outcome } in &self.then {
            write!(f, "\n{name}\n")?;
            match outcome {
                Explained::NotOurs => {
                    write!(
                        f,
                        "  answer     ends here: the name is in no zone that is served here"
                    )?;
                }
                ours => ours.tell(f, &self.rtype)?,
            }
        }
        Ok(())
    }
}

impl Explained {
    /// For people who asked for records of a type.
    fn tell(&self, f: &mut fmt::Formatter<'_>, rtype: &str) -> fmt::Result {
        let is_alias = |of: &String| of == "CNAME";
        match self {
            Self::Steered(steering) => write!(f, "{steering}"),
            Self::Zone { zone, alias: Some(target), .. } => {
                write!(f, "  answer     an alias of {target} from the zone {zone}")
            }
            Self::Zone { zone, types, .. } if types.is_empty() => {
                write!(f, "  answer     NODATA: the name exists in {zone} without {rtype} records")
            }
            // RFC 8482 §4.2.
            Self::Zone { zone, types, .. } if rtype == "ANY" && !types.iter().any(is_alias) => {
                let types = types.join(", ");
                write!(
                    f,
                    "  answer     HINFO \"RFC8482\", not all that is there in {zone}: {types}"
                )
            }
            Self::Zone { zone, types, .. } => {
                let is_there = rtype == "ANY" || types.iter().any(|of| of == rtype);
                let types = types.join(", ");
                if !is_there {
                    let told = format!("{zone} has no {rtype} records there, but {types}");
                    return write!(f, "  answer     NODATA: {told}");
                }
                write!(f, "  answer     from the zone {zone}, for everybody alike; it has {types}")
            }
            Self::Delegated { zone } => {
                write!(f, "  answer     a referral: {zone} delegates this name")
            }
            Self::NoSuchName { zone } => {
                write!(f, "  answer     NXDOMAIN: {zone} has no such name")
            }
            Self::NotOurs => {
                write!(f, "  answer     REFUSED: the name is in no zone that is served here")
            }
        }
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.city, &self.subdivision, &self.country, &self.continent];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        if !parts.is_empty() {
            write!(f, "in {} ", parts.join(", "))?;
        }
        if let Some((latitude, longitude)) = self.at {
            write!(f, "at {latitude:.2}, {longitude:.2} ")?;
        }
        if let Some(asn) = self.asn {
            write!(f, "in AS{asn} ")?;
        }
        write!(f, "({}, true for {})", self.source, self.network)
    }
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  service    {} ({}): {}", self.service, self.policy, self.rule)?;
        let width = self.regions.iter().map(|of| of.region.len()).max().unwrap_or(0);
        for (row, candidate) in self.regions.iter().enumerate() {
            let head = if row == 0 { "regions" } else { "" };
            let distance = candidate.distance_km.map_or(String::new(), |km| format!("{km} km"));
            let mark = if candidate.chosen { "→" } else { " " };
            let Candidate { region, why, .. } = candidate;
            writeln!(f, "  {head:<8} {mark} {region:<width$}  {distance:>9}  {why}")?;
        }
        let answer = match self.answer.as_slice() {
            [] => "none".to_owned(),
            answer => answer.join(", "),
        };
        writeln!(f, "  answer     {answer} ({})", self.basis)?;
        writeln!(f, "  TTL        {} s, {}", self.ttl, self.ttl_reason)?;
        write!(f, "  scope      /{}", self.scope)?;
        match self.scope {
            0 => write!(f, ": the same for everybody"),
            length => write!(f, ": every client in the same /{length} gets this"),
        }
    }
}
