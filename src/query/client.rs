//! The second stage: whose place counts.

use std::net::IpAddr;

use super::receive::Request;

/// Whose place decides the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// The resolver, where the packet came from.
    resolver: IpAddr,
    /// The client behind it, if the resolver names its subnet.
    subnet: Option<IpAddr>,
}

/// The client of `request`. RFC 7871 §7.1.2: a SOURCE PREFIX-LENGTH of 0 says that the client's
/// address is not to be used, so the resolver's own counts, as without the option.
pub(super) fn of(request: &Request<'_>, resolver: IpAddr) -> Client {
    let subnet = request.edns.as_ref().and_then(|edns| edns.subnet.as_ref());
    let subnet = subnet.filter(|subnet| subnet.source > 0);
    Client { resolver, subnet: subnet.and_then(|subnet| subnet.address) }
}

impl Client {
    /// The address that is located: for services that look at subnets, and for those that do not.
    pub(super) fn address(&self, ecs: bool) -> IpAddr {
        self.subnet.filter(|_| ecs).unwrap_or(self.resolver)
    }

    /// Whether that is the subnet's.
    pub(super) fn is_subnet(&self, ecs: bool) -> bool {
        ecs && self.subnet.is_some()
    }
}
