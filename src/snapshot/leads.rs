//! Where names lead, whatever the health of what is there.

use std::collections::HashSet;

use super::LONGEST_CHAIN;
use crate::steer::{Address, Service};
use crate::zone::{Found, Name, RecordType, Zones};

/// Does `name`, which is in one of `zones`, give addresses, or lead to some or out of the zones?
/// Not by way of `passed`.
pub fn leads_on((zones, services): (&Zones, &[Service]), name: &Name, passed: &[Name]) -> bool {
    let mut seen: HashSet<Box<[u8]>> = passed.iter().map(Name::to_lower).collect();
    let mut names = vec![name.to_lower()];
    for _ in 0..=LONGEST_CHAIN {
        let mut targets = Vec::new();
        for name in names {
            let gives = !seen.contains(&name) && gives((zones, services), &name, &mut targets);
            if gives {
                return true;
            }
            seen.insert(name);
        }
        names = targets;
    }
    false
}

/// Whether addresses are at `name`, or it is none of ours; else to which names it leads.
fn gives(
    (zones, services): (&Zones, &[Service]),
    name: &[u8],
    targets: &mut Vec<Box<[u8]>>,
) -> bool {
    let addresses = [RecordType::A, RecordType::AAAA];
    let node = match zones.find(name).map(|zone| zone.find(name)) {
        None | Some(Found::Delegation(_)) => return true,
        Some(Found::NoName) => return false,
        Some(Found::Fixed(fixed)) => {
            return addresses.iter().any(|rtype| fixed.of(*rtype).is_some());
        }
        Some(Found::Node(node) | Found::Steered(node, _)) => node,
    };
    let service = node.service().and_then(|id| services.get(id.index()));
    let pools = service.map_or(&[][..], |service| &service.pools);
    for endpoint in pools.iter().flat_map(|pool| &pool.endpoints) {
        match &endpoint.address {
            Address::Ip(_) => return true,
            Address::Alias(target) => targets.push(target.to_lower()),
        }
    }
    let alias = node.set(RecordType::CNAME).and_then(|set| set.rdata.first()?.target());
    targets.extend(alias.map(|target| target.to_ascii_lowercase().into()));
    addresses.iter().any(|rtype| node.set(*rtype).is_some())
}
