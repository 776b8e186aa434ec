//! What can be served, and is hardly meant: it is warned of.

use std::collections::HashMap;
use std::net::IpAddr;

use super::read::{At, Problems};
use crate::ids::{RegionId, ServiceId};
use crate::snapshot::{Region, leads_on};
use crate::steer::{Address, MinUp, Scope, Service};
use crate::zone::{Found, RecordType, Zones, has_hints};

/// Warns of what is odd in a service as it stands `at` there.
pub(super) fn of_service(
    service: &Service,
    at: &At<'_>,
    regions: &[Region],
    problems: &mut Problems,
) {
    let most = service.pools.iter().map(|pool| pool.endpoints.len()).max().unwrap_or(0);
    let is_more =
        |wanted| most > 0 && usize::try_from(wanted).is_ok_and(|wanted: usize| wanted > most);
    if let MinUp::Number(wanted) = service.min_up
        && is_more(wanted)
        && let Some(at) = at.find(&["min_up"])
    {
        let what = "no region of the service has so many endpoints: all of each are needed";
        problems.warning(at.place(), &at.key, what);
    }
    if service.suspect_ttl > service.ttl
        && let Some(at) = at.find(&["suspect_ttl"])
    {
        let what = format!("longer than the TTL of {}, which is given then, too", service.ttl);
        problems.warning(at.place(), &at.key, what);
    }
    shared_addresses(service, at, regions, problems);
}

/// An address in two regions: who is moved from one to the other stays there.
fn shared_addresses(service: &Service, at: &At<'_>, regions: &[Region], problems: &mut Problems) {
    let name = |id: RegionId| regions.get(id.index()).map_or("", |of| of.name.as_str());
    let mut known: HashMap<IpAddr, RegionId> = HashMap::new();
    for pool in &service.pools {
        for ip in pool.endpoints.iter().filter_map(|endpoint| endpoint.address.ip()) {
            let first = *known.entry(ip).or_insert(pool.region);
            if first != pool.region
                && let Some(at) = at.find(&["regions", name(pool.region)])
            {
                let what = format!("the address {ip} is in the region {} too", name(first));
                problems.warning(at.place(), &at.key, what);
            }
        }
    }
}

/// Warns of services that a maintenance of `scope`, which is `at` there, leaves nothing of.
pub(super) fn of_maintenance(
    scope: Scope,
    at: &At<'_>,
    services: &[Service],
    problems: &mut Problems,
) {
    let is_lost = |(row, service): &(usize, &Service)| {
        ServiceId::from_index(*row).is_some_and(|id| scope.is_all_of(id, &service.pools))
    };
    let mut lost = services.iter().enumerate().filter(is_lost).map(|(_, service)| &service.name);
    if let Some(first) = lost.next() {
        let more = match lost.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let what = format!(
            "the service {first}{more} has nothing else: its clients are sent there meanwhile, too"
        );
        problems.warning(at.place(), &at.key, what);
    }
}

/// Warns of what is odd in `zones` for who is sent by `services`, which are `at` there.
pub(super) fn of_zones(
    at: Option<&At<'_>>,
    services: &[Service],
    zones: &Zones,
    problems: &mut Problems,
) {
    if let Some(at) = at {
        lost_aliases(at, services, zones, problems);
        hints(at, services, zones, problems);
    }
}

/// Aliases that lead to no address.
fn lost_aliases(at: &At<'_>, services: &[Service], zones: &Zones, problems: &mut Problems) {
    for service in services {
        let endpoints = service.pools.iter().flat_map(|pool| &pool.endpoints);
        for endpoint in endpoints {
            let Address::Alias(target) = &endpoint.address else { continue };
            if !leads_on((zones, services), target, &service.names) {
                let key = format!("{}.{}", at.key, service.name);
                let what = format!("the alias {target} leads to no address");
                problems.warning(at.place(), &key, what);
            }
        }
    }
}

/// Addresses beside a steered name: clients may go there, wherever they are sent.
fn hints(at: &At<'_>, services: &[Service], zones: &Zones, problems: &mut Problems) {
    let names = services.iter().flat_map(|of| of.names.iter().map(move |name| (of, name)));
    for (service, name) in names {
        let lower = name.to_lower();
        let Some(Found::Node(node) | Found::Steered(node, _)) =
            zones.find(&lower).map(|zone| zone.find(&lower))
        else {
            continue;
        };
        let bindings = [RecordType::SVCB, RecordType::HTTPS].map(|rtype| node.set(rtype));
        let mut bindings = bindings.into_iter().flatten().flat_map(|set| &set.rdata);
        if bindings.any(|rdata| has_hints(rdata.as_wire()))
            && let Some(at) = at.find(&[&service.name, "names"])
        {
            let what = format!(
                "HTTPS or SVCB records of {name} have addresses in them (`ipv4hint`, `ipv6hint`), \
                 which clients may go to wherever they are sent; leave these out"
            );
            problems.warning(at.place(), &at.key, what);
        }
    }
}
