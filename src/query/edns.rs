//! EDNS(0) (RFC 6891) and the options that are understood: ECS (RFC 7871), NSID (RFC 5001),
//! cookies (RFC 7873).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Rcode;
use super::cookie::Cookie;
use super::receive::{RawOpt, Reader};

/// What a query's OPT record says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edns<'p> {
    /// The largest UDP payload that the client can take, in octets.
    pub(super) payload: u16,
    /// The DO bit (RFC 3225), which is copied (RFC 4035 §3.1.6).
    pub(super) dnssec_ok: bool,
    /// Whether the name server's identifier is asked for.
    pub(super) nsid: bool,
    /// The client's subnet.
    pub(super) subnet: Option<Subnet<'p>>,
    /// Its cookie, and ours if it has one.
    pub(super) cookie: Option<Cookie<'p>>,
}

/// The client subnet option of a query, valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subnet<'p> {
    /// SOURCE PREFIX-LENGTH.
    pub(super) source: u8,
    /// The address, zeros behind the prefix; `None` in a /0 without a family.
    pub(super) address: Option<IpAddr>,
    /// FAMILY, SOURCE, SCOPE and ADDRESS as sent.
    pub(super) wire: &'p [u8],
}

/// An OPT record that cannot be accepted: what of it goes into the answer, and the code.
#[derive(Clone, Copy, Debug)]
pub(super) struct OptFault<'p> {
    pub(super) edns: Option<Edns<'p>>,
    pub(super) rcode: Rcode,
}

/// Client subnet (RFC 7871 §6).
pub(super) const OPTION_SUBNET: u16 = 8;
/// Name server identifier (RFC 5001 §2.3).
pub(super) const OPTION_NSID: u16 = 3;
/// Cookie (RFC 7873 §4).
pub(super) const OPTION_COOKIE: u16 = 10;

impl<'p> Edns<'p> {
    /// Gives the fields of an OPT record their meaning.
    pub(super) fn read(opt: &RawOpt<'p>) -> Result<Self, OptFault<'p>> {
        let [_, version, flags, _] = opt.ttl.to_be_bytes();
        let (payload, dnssec_ok) = (opt.payload, flags & 0x80 != 0);
        let mut edns = Self { payload, dnssec_ok, nsid: false, subnet: None, cookie: None };
        // RFC 6891 §6.1.3: a version that is not supported must be answered with BADVERS.
        if version != 0 {
            return Err(OptFault { edns: Some(edns), rcode: Rcode::BadVers });
        }
        let malformed = OptFault { edns: Some(edns), rcode: Rcode::FormErr };
        let mut reader = Reader { packet: opt.options, at: 0 };
        while reader.at < opt.options.len() {
            let (code, data) = option(&mut reader).ok_or(malformed)?;
            match code {
                OPTION_NSID => edns.nsid = true,
                OPTION_SUBNET if edns.subnet.is_some() => return Err(malformed),
                OPTION_SUBNET => edns.subnet = Some(Subnet::read(data).ok_or(malformed)?),
                // RFC 7873 §5.2: of several cookies the first counts.
                OPTION_COOKIE if edns.cookie.is_some() => {}
                OPTION_COOKIE => edns.cookie = Some(Cookie::read(data).ok_or(malformed)?),
                // RFC 6891 §6.1.2: options that are not understood must be ignored.
                _ => {}
            }
        }
        Ok(edns)
    }
}

fn option<'p>(reader: &mut Reader<'p>) -> Option<(u16, &'p [u8])> {
    let [c0, c1, l0, l1] = reader.array()?;
    let [code, length] = [[c0, c1], [l0, l1]].map(u16::from_be_bytes);
    Some((code, reader.bytes(usize::from(length))?))
}

impl<'p> Subnet<'p> {
    /// RFC 7871 §6: too few or too many octets of ADDRESS, bits set beyond the prefix and, in a
    /// query, a SCOPE other than 0 are malformed.
    fn read(wire: &'p [u8]) -> Option<Self> {
        let ([high, low, source, scope], address) = wire.split_first_chunk()?;
        let (family, source, scope) = (u16::from_be_bytes([*high, *low]), *source, *scope);
        let longest = match family {
            1 => 32,
            2 => 128,
            // A /0 needs no family: there is no address.
            0 => 0,
            _ => return None,
        };
        let octets = usize::from(source).div_ceil(8);
        if scope != 0 || source > longest || address.len() != octets {
            return None;
        }
        if let Some(last) = address.last()
            && source % 8 != 0
            && last << (source % 8) != 0
        {
            return None;
        }
        let mut padded = [0u8; 16];
        for (to, from) in padded.iter_mut().zip(address) {
            *to = *from;
        }
        let address = match family {
            1 => {
                let [a, b, c, d, ..] = padded;
                Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            }
            2 => Some(IpAddr::V6(Ipv6Addr::from(padded))),
            _ => None,
        };
        Some(Self { source, address, wire })
    }
}
