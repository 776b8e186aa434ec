//! Addresses that are nowhere, and IPv6 addresses that are really IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks that are not on the Internet, so that no database knows where they are (RFC 6890 and
/// its registries; multicast, RFC 5771 and RFC 4291 §2.7).
pub(super) const PRIVATE: [&str; 21] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/64",
    "100::/64",
    "2001:db8::/32",
    "3fff::/20",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// What of an address is located.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Located {
    /// An IPv4 address. In an IPv6 address this many bits stand before it.
    V4(Ipv4Addr, u8),
    /// An IPv6 address.
    V6(Ipv6Addr),
}

/// The blocks of [`located`], by the first and last upper half of their addresses. Seen from
/// outside, something else begins there.
pub(super) const ISLANDS: [(u64, u64); 4] = [
    (0, 0),
    (0x0064_ff9b_0000_0000, 0x0064_ff9b_0000_0000),
    (0x2001_0000_0000_0000, 0x2001_0000_ffff_ffff),
    (0x2002_0000_0000_0000, 0x2002_ffff_ffff_ffff),
];

/// The upper halves of addresses of which those in one /96 hold an IPv4 address, and others none.
pub(super) const SHARED: [u64; 2] = [0, 0x0064_ff9b_0000_0000];

/// What of `address` is located: of an IPv6 address with an IPv4 address in it, the latter.
#[inline]
pub(super) fn located(address: IpAddr) -> Located {
    match address {
        IpAddr::V4(ip) => Located::V4(ip, 0),
        IpAddr::V6(ip) => located_v6(ip),
    }
}

#[inline(never)]
fn located_v6(ip: Ipv6Addr) -> Located {
    let segments = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match segments {
        // IPv4-mapped (RFC 4291 §2.5.5.2), and NAT64's well-known prefix (RFC 6052 §2.1).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Located::V4(v4(high, low), 96)
        }
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => Located::V4(v4(high, low), 16),
        // Teredo: the client's address, its bits inverted (RFC 4380 §4).
        [0x2001, 0, _, _, _, _, high, low] => Located::V4(v4(!high, !low), 96),
        _ => Located::V6(ip),
    }
}
