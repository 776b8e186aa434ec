//! What of a service can be served, and is hardly meant: it is warned of.

use std::collections::HashMap;
use std::net::IpAddr;

use super::read::{At, Problems};
use crate::ids::RegionId;
use crate::snapshot::Region;
use crate::steer::{MinUp, Service};

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
