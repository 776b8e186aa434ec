//! What a server does against questions with forged addresses: cookies, and limits of rate.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use ipnet::IpNet;

/// All of it; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Protection {
    /// The secrets of DNS cookies: the first makes them, and all are good; none: no cookies.
    pub secrets: Vec<Secret>,
    /// How much one network gets.
    pub rate_limit: Option<RateLimit>,
    /// By how many seconds the clock on the wall, by which cookies go, is ahead of ours: it may be
    /// set while we run.
    pub ahead: Arc<AtomicI64>,
}

/// What makes DNS cookies, and tells ours from others (RFC 9018 §4.4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

/// Logs do not tell it.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How many answers over UDP one network gets that has shown no cookie. A network is an IPv4 /24 or
/// an IPv6 /56: what one forger of addresses can aim at, and one site has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// For one name and type each second; for all that does not exist in a zone together.
    pub same: u32,
    /// For whatever each second, if that is limited.
    pub all: Option<u32>,
    /// Each so-manieth of those beyond is told to ask again, over TCP or with its cookie; 0: none.
    pub slip: u32,
    /// Networks without a limit.
    pub exempt: Vec<IpNet>,
}

impl RateLimit {
    /// Is a client of no exempt network?
    #[inline]
    pub fn is_for(&self, client: &IpAddr) -> bool {
        !self.exempt.iter().any(|network| network.contains(client))
    }
}
