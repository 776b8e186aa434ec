//! `services`: names, regions and what picks between them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use super::checks::{Checks, Rule};
use super::convergence;
use super::places::{Regions, preferences};
use super::read::{At, Fields, Problems};
use super::subject::unsayable;
use super::yaml::Value;
use super::zones::Drafts;
use super::{Target, Targets, defaults, doubts};
use crate::convergence::Writes;
use crate::geo::{CatchmentSpec, Preferences, Site};
use crate::health::{Check, Schedule, would_blind};
use crate::ids::{RegionId, ServiceId, TargetId};
use crate::snapshot::Region;
use crate::steer::{
    Address, Endpoint, Failback, Lease, MaxMoves, MinUp, OnAllDown, Policy, Pool, Probed, Service,
};
use crate::zone::{Name, Steered};

/// What services refer to.
pub(super) struct World<'w> {
    pub(super) regions: &'w Regions,
    pub(super) checks: &'w Checks,
    /// What goes before distance, for all services.
    pub(super) preferences: &'w Preferences,
}

/// The services, and what they need.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) list: Vec<Service>,
    pub(super) catchments: Vec<CatchmentSpec>,
    pub(super) targets: Vec<Target>,
    /// What clients write to services of which that is declared.
    pub(super) writes: HashMap<String, Writes>,
    known_catchments: HashMap<CatchmentSpec, usize>,
    /// The schedules by which an address is probed in one way.
    schedules: HashMap<(IpAddr, Check), Vec<Schedule>>,
    pub(super) target_rows: HashMap<TargetId, usize>,
}

/// The most addresses that an answer names: their records fit in any UDP answer.
const MOST_ANSWERS: u64 = 16;

/// `services`: by name.
pub(super) fn read(
    at: Option<At<'_>>,
    world: &World<'_>,
    zones: &mut Drafts,
    targets: &mut Targets,
    problems: &mut Problems,
) -> Services {
    let mut services = Services::default();
    let mut steered: HashMap<Name, &str> = HashMap::new();
    for (name, place, at) in at.map(|at| at.named(problems)).unwrap_or_default() {
        if let Some(what) = unsayable(name) {
            problems.error(place, "services", what);
        }
        let Some(mut fields) = at.fields(problems) else { continue };
        let id = ServiceId::from_index(services.list.len());
        let check = fields.get("check");
        if check.is_none() {
            problems.warning(at.place(), &at.key, "no `check`: its endpoints count as up always");
        }
        let rule = check.as_ref().map(|at| world.checks.rule(at, problems)).unwrap_or_default();
        let mut probing = Probing { rule, targets, services: &mut services };
        let pools = pools(&mut fields, world, &mut probing, problems);
        let names = names(&mut fields, problems);
        let service = service(name, &at, &mut fields, pools, world, &mut services, problems);
        let declared = fields.get("writes").and_then(|at| {
            let mut fields = at.fields(problems)?;
            let writes = convergence::writes(&mut fields, problems);
            fields.done(problems);
            writes
        });
        services.writes.extend(declared.map(|writes| (name.to_owned(), writes)));
        fields.done(problems);
        idle_weights(&service, &at, problems);
        doubts::of_service(&service, &at, &world.regions.list, problems);
        let kind = kind(&service, (&at, check.as_ref()), problems);
        let service_name = name;
        for (name, at) in &names {
            let place = (at.place(), at.key.as_str());
            if let Some(other) = steered.insert(name.clone(), service_name) {
                let what = if other == service_name {
                    format!("{name} stands twice; once is enough")
                } else {
                    format!("{name} is answered by the service {other} too; a name has one service")
                };
                problems.error(place.0, place.1, what);
                continue;
            }
            zones.steer(name, id, kind, place, problems);
            if let Policy::SingleWriter(..) = service.policy {
                match format!("_epoch.{name}").parse() {
                    Ok(epoch) => zones.steer(&epoch, id, Steered::Epoch, place, problems),
                    Err(error) => problems.error(place.0, place.1, error.to_string()),
                }
            }
        }
        let names = names.into_iter().map(|(name, _)| name).collect();
        services.list.push(Service { names, ..service });
    }
    services
}

/// `names`: those that the service answers.
fn names<'n>(fields: &mut Fields<'n>, problems: &mut Problems) -> Vec<(Name, At<'n>)> {
    let Some(at) = fields.need("names", problems) else { return Vec::new() };
    let mut names = Vec::new();
    if at.list().is_empty() {
        problems.error(at.place(), &at.key, "no name; expected at least one");
    }
    for item in at.list() {
        let Some(text) = item.text("a domain name", problems) else { continue };
        match text.parse::<Name>() {
            Ok(name) => names.push((name, item)),
            Err(error) => problems.error(item.place(), &item.key, error.to_string()),
        }
    }
    names
}

fn service(
    name: &str,
    at: &At<'_>,
    fields: &mut Fields<'_>,
    pools: Vec<Pool>,
    world: &World<'_>,
    services: &mut Services,
    problems: &mut Problems,
) -> Service {
    let (policy, own) = policy(at, fields, &pools, world, problems);
    let sites = pools.iter().map(|pool| Site {
        region: pool.region,
        at: world.regions.list.get(pool.region.index()).and_then(|region| region.at),
    });
    let sites: Vec<Site> = sites.collect();
    if policy == Policy::Nearest {
        for site in sites.iter().filter(|site| site.at.is_none()) {
            let name = world.regions.list.get(site.region.index()).map_or("", |of| &of.name);
            let what = format!("the region {name} has no `at`: it is nobody's nearest");
            problems.warning(at.place(), &at.key, what);
        }
    }
    let preferences = restricted(own.unwrap_or_else(|| world.preferences.clone()), &pools, &policy);
    let catchment = services.catchment(CatchmentSpec { sites, preferences });
    let ttl = fields.get("ttl").and_then(|at| at.ttl(problems)).unwrap_or(defaults::TTL);
    let suspect_ttl = fields.get("suspect_ttl").and_then(|at| at.ttl(problems));
    let answers = fields.get("answers").and_then(|at| at.number(1, MOST_ANSWERS, problems));
    Service {
        name: name.to_owned(),
        names: Vec::new(),
        policy,
        answers: answers.and_then(|most| NonZeroU8::new(u8::try_from(most).ok()?)),
        on_all_down: on_all_down(fields, problems),
        ttl,
        suspect_ttl: suspect_ttl.unwrap_or(defaults::SUSPECT_TTL),
        ecs: fields.get("ecs").and_then(|at| at.boolean(problems)).unwrap_or(true),
        catchment,
        min_up: min_up(fields, problems),
        failback: failback(fields, problems),
        pools,
    }
}

/// `failback`: a time, or `manual`.
fn failback(fields: &mut Fields<'_>, problems: &mut Problems) -> Failback {
    let Some(at) = fields.get("failback") else { return Failback::After(Duration::ZERO) };
    if matches!(&at.node.value, Value::Text(text) if text == "manual") {
        return Failback::Manual;
    }
    let span = at.duration(Duration::ZERO, super::LONGEST, problems);
    Failback::After(span.unwrap_or_default())
}

/// `max_moves`: how many regions may leave in what time.
pub(super) fn max_moves(at: Option<At<'_>>, problems: &mut Problems) -> Option<MaxMoves> {
    let mut fields = at?.fields(problems)?;
    let regions = fields.get("regions");
    let share = match &regions {
        Some(_) => fields.get("share"),
        None => fields.need("share", problems),
    };
    let within = fields.need("within", problems);
    fields.done(problems);
    let regions = regions.and_then(|at| at.number(1, 64, problems));
    let percent = share.and_then(|at| percent(&at, problems));
    let within = within?.duration(Duration::from_secs(1), super::LONGEST, problems)?;
    Some(MaxMoves { regions: regions.and_then(|most| usize::try_from(most).ok()), percent, within })
}

/// A share, such as `50%`.
fn percent(at: &At<'_>, problems: &mut Problems) -> Option<u32> {
    let expected = "a share from 1% to 100%";
    let text = at.text(expected, problems)?;
    let read = text.trim().strip_suffix('%').and_then(|share| share.parse().ok());
    let read = read.filter(|share| (1..=100).contains(share));
    if read.is_none() {
        problems.error(at.place(), &at.key, format!("`{text}` given; expected {expected}"));
    }
    read
}

/// `canaries`: addresses that tell whether this node sees anything.
pub(super) fn canaries(
    at: Option<At<'_>>,
    checks: &Checks,
    targets: &mut Targets,
    services: &mut Services,
    problems: &mut Problems,
) -> Vec<TargetId> {
    let mut canaries = Vec::new();
    for (_, _, at) in at.map(|at| at.named(problems)).unwrap_or_default() {
        let Some(mut fields) = at.fields(problems) else { continue };
        let address = fields.need("address", problems);
        let check = fields.need("check", problems);
        fields.done(problems);
        let address = address.and_then(|at| at.unicast(problems));
        let check = check.and_then(|at| checks.find(&at, problems));
        let (Some(ip), Some(check)) = (address, check) else { continue };
        if services.schedules.contains_key(&(ip, check.0.clone())) {
            let what = format!("{ip} is probed in this way as an endpoint; a canary is none");
            problems.error(at.place(), &at.key, what);
        }
        canaries.extend(services.target(targets, ip, check));
    }
    canaries
}

/// `min_up`: a number, or a share such as `50%`.
fn min_up(fields: &mut Fields<'_>, problems: &mut Problems) -> MinUp {
    let Some(at) = fields.get("min_up") else { return MinUp::Number(1) };
    let expected = "how many endpoints of a region must be up, such as 2 or 50%";
    let Some(text) = at.text(expected, problems) else { return MinUp::Number(1) };
    let read = match text.trim().strip_suffix('%') {
        Some(share) => share.parse().ok().filter(|of| (1..=100).contains(of)).map(MinUp::Percent),
        None => text.trim().parse().ok().filter(|of| (1..=1000).contains(of)).map(MinUp::Number),
    };
    read.unwrap_or_else(|| {
        problems.error(at.place(), &at.key, format!("`{text}` given; expected {expected}"));
        MinUp::Number(1)
    })
}

/// The preferences as far as they are about the regions of a service. What is not named in the
/// default order comes after it, in the order in which the service names its regions.
fn restricted(mut preferences: Preferences, pools: &[Pool], policy: &Policy) -> Preferences {
    let has = |region: &RegionId| pools.iter().any(|pool| pool.region == *region);
    for list in preferences
        .prefixes
        .iter_mut()
        .map(|(_, list)| list)
        .chain(preferences.asns.values_mut())
        .chain(preferences.subdivisions.values_mut())
        .chain(preferences.countries.values_mut())
        .chain(preferences.continents.values_mut())
        .chain([&mut preferences.default])
    {
        list.retain(has);
    }
    preferences.prefixes.retain(|(_, list)| !list.is_empty());
    preferences.asns.retain(|_, list| !list.is_empty());
    preferences.subdivisions.retain(|_, list| !list.is_empty());
    preferences.countries.retain(|_, list| !list.is_empty());
    preferences.continents.retain(|_, list| !list.is_empty());
    for pool in pools {
        if !preferences.default.contains(&pool.region) {
            preferences.default.push(pool.region);
        }
    }
    preferences.nearest = *policy == Policy::Nearest;
    preferences
}

const POLICIES: [&str; 5] = ["nearest", "failover", "weighted", "geo", "single-writer"];

/// `steer`, with `order` and `map`: what picks a region.
fn policy(
    service: &At<'_>,
    fields: &mut Fields<'_>,
    pools: &[Pool],
    world: &World<'_>,
    problems: &mut Problems,
) -> (Policy, Option<Preferences>) {
    let steer = fields.get("steer");
    let word = steer.as_ref().and_then(|at| at.text("a policy", problems)).unwrap_or("nearest");
    match word {
        "nearest" => (Policy::Nearest, None),
        "weighted" => {
            if !pools.is_empty() && pools.iter().all(|pool| pool.weight == 0) {
                let what = "all weights are 0; expected one above it";
                problems.error(service.place(), &service.key, what);
            }
            (Policy::Weighted, None)
        }
        "failover" => (Policy::Failover(order(fields, pools, world, problems)), None),
        "single-writer" => {
            let order = order(fields, pools, world, problems);
            (Policy::SingleWriter(order, lease(fields, problems)), None)
        }
        "geo" => {
            let Some(at) = fields.need("map", problems) else { return (Policy::Geo, None) };
            let map = preferences(&at, world.regions, problems);
            if map.default.is_empty() {
                let what = "no `default`; expected regions for clients that the map does not name";
                problems.error(at.place(), &at.key, what);
            }
            (Policy::Geo, Some(map))
        }
        given => {
            if let Some(at) = &steer {
                problems.unknown((at.place(), &at.key), ("policy", given), POLICIES);
            }
            (Policy::Nearest, None)
        }
    }
}

/// `order`: all regions of the service, or else as they are written.
fn order(
    fields: &mut Fields<'_>,
    pools: &[Pool],
    world: &World<'_>,
    problems: &mut Problems,
) -> Vec<RegionId> {
    let all: Vec<RegionId> = pools.iter().map(|pool| pool.region).collect();
    let Some(at) = fields.get("order") else { return all };
    let order = world.regions.find_all(&at, problems);
    let strange = order.iter().filter(|region| !all.contains(region));
    let missing = all.iter().filter(|region| !order.contains(region));
    for (region, what) in strange
        .map(|region| (region, "the service has no endpoint in"))
        .chain(missing.map(|region| (region, "the order does not name")))
    {
        let name = world.regions.list.get(region.index()).map_or("", |of| &of.name);
        problems.error(at.place(), &at.key, format!("{what} the region {name}"));
    }
    order
}

/// `lease`: `manual`, or how long one in etcd lasts.
fn lease(fields: &mut Fields<'_>, problems: &mut Problems) -> Lease {
    const SHORTEST: Duration = Duration::from_secs(3);
    let Some(at) = fields.need("lease", problems) else { return Lease::Manual };
    if matches!(&at.node.value, Value::Text(text) if text == "manual") {
        return Lease::Manual;
    }
    let span = at.duration(SHORTEST, super::LONGEST, problems);
    span.map_or(Lease::Manual, Lease::Kept)
}

const ALL_DOWN: [&str; 5] = ["as_if_up", "last_good", "nodata", "servfail", "fixed"];

/// `on_all_down`: a word, or `fixed` with addresses.
fn on_all_down(fields: &mut Fields<'_>, problems: &mut Problems) -> OnAllDown {
    let Some(at) = fields.get("on_all_down") else { return OnAllDown::AsIfUp };
    if let Value::Text(word) = &at.node.value {
        match word.as_str() {
            "as_if_up" => return OnAllDown::AsIfUp,
            "last_good" => return OnAllDown::LastGood,
            "nodata" => return OnAllDown::NoData,
            "servfail" => return OnAllDown::ServFail,
            "fixed" => {
                let what = "`fixed` without an address; expected `fixed: [ADDRESS]`";
                problems.error(at.place(), &at.key, what);
                return OnAllDown::AsIfUp;
            }
            given => {
                let place = (at.place(), at.key.as_str());
                problems.unknown(place, ("choice", given), ALL_DOWN);
                return OnAllDown::AsIfUp;
            }
        }
    }
    let Some(mut inner) = at.fields(problems) else { return OnAllDown::AsIfUp };
    let fixed = inner.need("fixed", problems);
    inner.done(problems);
    let items = fixed.map(|at| at.list()).unwrap_or_default();
    let mut addresses: Vec<Address> = Vec::new();
    for item in &items {
        let Some(ip) = item.unicast(problems) else { continue };
        if addresses.contains(&Address::Ip(ip)) {
            problems.error(item.place(), &item.key, format!("the address {ip} stands twice"));
        }
        addresses.push(Address::Ip(ip));
    }
    if addresses.is_empty() {
        problems.error(at.place(), &at.key, "no fixed address; expected at least one");
    }
    OnAllDown::Fixed(addresses)
}

/// Gives endpoints their targets.
struct Probing<'p> {
    rule: Rule,
    targets: &'p mut Targets,
    services: &'p mut Services,
}

impl Probing<'_> {
    fn endpoint(&mut self, address: Address) -> Endpoint {
        let mut target =
            |ip, check: &(Check, Schedule)| self.services.target(self.targets, ip, check);
        let checks = self.rule.checks.iter();
        let targets = address.ip().map(|ip| checks.filter_map(|check| target(ip, check)).collect());
        let probed = targets.map(|targets| Probed { targets, need: self.rule.need });
        Endpoint { address, probed: probed.filter(|probed| !probed.targets.is_empty()) }
    }
}

/// `regions` of a service: endpoints by region.
fn pools(
    fields: &mut Fields<'_>,
    world: &World<'_>,
    probing: &mut Probing<'_>,
    problems: &mut Problems,
) -> Vec<Pool> {
    let Some(at) = fields.need("regions", problems) else { return Vec::new() };
    let mut pools = Vec::new();
    for (name, place, value) in at.named(problems) {
        let region = world.regions.named(name, (place, &at.key), problems);
        let (weight, endpoints) = pool(&value, probing, problems);
        if endpoints.is_empty() && !matches!(value.node.value, Value::Text(_)) {
            problems.error(value.place(), &value.key, "no endpoint; expected an address");
        }
        if let Some(region) = region {
            pools.push(Pool { region, weight, endpoints });
        }
    }
    if at.named(problems).is_empty() {
        let what = "no region; a name of this service would have no record";
        problems.error(at.place(), &at.key, what);
    }
    pools
}

/// Addresses alone, or `{endpoints, weight}`, or `{cname, weight}`.
fn pool(at: &At<'_>, probing: &mut Probing<'_>, problems: &mut Problems) -> (u32, Vec<Endpoint>) {
    let addresses = |at: &At<'_>, probing: &mut Probing<'_>, problems: &mut Problems| {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for item in at.list() {
            let Some(ip) = item.unicast(problems) else { continue };
            if endpoints.iter().any(|known| known.address == Address::Ip(ip)) {
                problems.error(item.place(), &item.key, format!("the address {ip} stands twice"));
            }
            endpoints.push(probing.endpoint(Address::Ip(ip)));
        }
        endpoints
    };
    if !matches!(at.node.value, Value::Map(_)) {
        return (1, addresses(at, probing, problems));
    }
    let Some(mut fields) = at.fields(problems) else { return (1, Vec::new()) };
    let weight = fields.get("weight").and_then(|at| at.number(0, 1_000_000, problems));
    let mut endpoints = Vec::new();
    if let Some(at) = fields.get("endpoints") {
        endpoints = addresses(&at, probing, problems);
    }
    if let Some(at) = fields.get("cname")
        && let Some(target) = at.parsed::<Name>("a domain name", problems)
    {
        endpoints.push(probing.endpoint(Address::Alias(target)));
    }
    fields.done(problems);
    (weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1), endpoints)
}

/// A weight that decides nothing: without `steer: weighted` a small share would be all of those who
/// are near.
fn idle_weights(service: &Service, at: &At<'_>, problems: &mut Problems) {
    let steer = at.find(&["steer"]).map(|at| &at.node.value);
    let is_known = matches!(steer, Some(Value::Text(word)) if POLICIES.contains(&word.as_str()));
    let Some(At { node, key }) = at.find(&["regions"]) else { return };
    let Value::Map(regions) = &node.value else { return };
    if service.policy == Policy::Weighted || (steer.is_some() && !is_known) {
        return;
    }
    for region in regions {
        let pool = At { node: &region.value, key: format!("{key}.{}", region.key) };
        if let Some(weight) = pool.find(&["weight"]) {
            let policy = &service.policy;
            let what = format!("it counts with `steer: weighted` only; this is `steer: {policy}`");
            problems.error(weight.place(), &weight.key, what);
        }
    }
}

/// What the service's names give: addresses or a CNAME, not both.
fn kind(
    service: &Service,
    (at, check): (&At<'_>, Option<&At<'_>>),
    problems: &mut Problems,
) -> Steered {
    let mut endpoints = service.pools.iter().flat_map(|pool| &pool.endpoints);
    let is_alias = |endpoint: &Endpoint| matches!(endpoint.address, Address::Alias(_));
    let some = endpoints.clone().any(is_alias);
    if some && !endpoints.all(is_alias) {
        let what = "addresses in one place and `cname` in another; a service gives one kind";
        problems.error(at.place(), &at.key, what);
    } else if let Some(check) = check.filter(|_| some) {
        let what = "a `cname` has no address to check: its regions count as up always";
        problems.warning(check.place(), &check.key, what);
    }
    if some && let OnAllDown::Fixed(_) = service.on_all_down {
        let what = "`fixed` addresses, where the service gives a CNAME; choose another";
        problems.error(at.place(), &at.key, what);
    }
    if some { Steered::Alias } else { Steered::Addresses }
}

impl Services {
    /// The row of a catchment; equal ones are one.
    fn catchment(&mut self, spec: CatchmentSpec) -> usize {
        if let Some(row) = self.known_catchments.get(&spec) {
            return *row;
        }
        let row = self.catchments.len();
        self.known_catchments.insert(spec.clone(), row);
        self.catchments.push(spec);
        row
    }

    /// Warns where all of one region could go silent and none of the nodes would believe it.
    pub(super) fn lopsided(&self, at: &At<'_>, regions: &[Region], problems: &mut Problems) {
        let seen = |id: &&TargetId| {
            let row = self.target_rows.get(id).and_then(|row| self.targets.get(*row));
            row.is_some_and(|target| !target.check.is_told())
        };
        let mut targets: Vec<HashSet<TargetId>> = vec![HashSet::new(); regions.len()];
        for pool in self.list.iter().flat_map(|service| &service.pools) {
            let probed = pool.endpoints.iter().filter_map(|endpoint| endpoint.probed.as_ref());
            let ids = probed.flat_map(|probed| &probed.targets).filter(seen);
            if let Some(of) = targets.get_mut(pool.region.index()) {
                of.extend(ids);
            }
        }
        let all = targets.iter().flatten().collect::<HashSet<_>>().len();
        for (region, of) in regions.iter().zip(&targets) {
            let own = of.len();
            if own < all && would_blind(own, all) {
                let name = &region.name;
                let what = format!(
                    "{own} of {all} targets are in the region {name}: should all of these go \
                     silent at once, a node doubts itself and moves nothing; give it `canaries`, \
                     which tell the two apart"
                );
                problems.warning(at.place(), &at.key, what);
            }
        }
    }

    /// A target that is probed; equal ones are one. Each schedule for the same is a target of its
    /// own: what one service goes by is nothing to another. `None`: there are no more ids.
    fn target(
        &mut self,
        targets: &mut Targets,
        address: IpAddr,
        (check, schedule): &(Check, Schedule),
    ) -> Option<TargetId> {
        let known = self.schedules.entry((address, check.clone())).or_default();
        let turn = known.iter().position(|known| known == schedule).unwrap_or(known.len());
        if turn == known.len() {
            known.push(*schedule);
        }
        let id = targets.id(address, check, turn)?;
        self.target_rows.entry(id).or_insert_with(|| {
            let (check, schedule) = (check.clone(), *schedule);
            self.targets.push(Target { id, address, check, schedule, turn });
            self.targets.len() - 1
        });
        Some(id)
    }
}
