//! Whose place counts.

use std::net::IpAddr;

use super::receive::Request;

/// Whose place decides an answer to `request`: the client's behind `resolver`, if the resolver
/// names its subnet and the service looks at subnets (`ecs`), else the resolver's. Whether it is
/// the former. RFC 7871 §7.1.2: a SOURCE PREFIX-LENGTH of 0 says that the client's address is not
/// to be used, so the resolver's own counts, as without the option.
pub(super) fn of<'r>(
    request: &'r Request<'_>,
    resolver: &'r IpAddr,
    ecs: bool,
) -> (&'r IpAddr, bool) {
    let subnet = request.edns.as_ref().filter(|_| ecs).and_then(|edns| edns.subnet.as_ref());
    let client = subnet.filter(|subnet| subnet.source > 0).and_then(|of| of.address.as_ref());
    (client.unwrap_or(resolver), client.is_some())
}
