//! EDNS(0) (RFC 6891) and the options that are understood: ECS (RFC 7871), NSID (RFC 5001),
//! cookies (RFC 7873), padding (RFC 7830).

use std::net::IpAddr;

use super::Rcode;
use super::cookie::Cookie;
use super::receive::{RawOpt, Reader};

/// What a query's OPT record says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edns {
    /// The largest UDP payload that the client can take, in octets.
    pub(super) payload: u16,
    /// The DO bit (RFC 3225), which is copied (RFC 4035 §3.1.6).
    pub(super) dnssec_ok: bool,
    /// Whether the name server's identifier is asked for.
    pub(super) nsid: bool,
    /// Whether it is padded, and its answer is to be.
    pub(super) padded: bool,
    /// The client's subnet.
    pub(super) subnet: Option<Subnet>,
    /// Its cookie, and ours if it has one.
    pub(super) cookie: Option<Cookie>,
}

/// The client subnet option of a query, valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subnet {
    /// SOURCE PREFIX-LENGTH.
    pub(super) source: u8,
    /// The address, zeros behind the prefix; `None` in a /0 without a family.
    pub(super) address: Option<IpAddr>,
}

/// The octets of an option before its data (RFC 6891 §6.1.2).
pub(super) const OPTION_HEAD: usize = 4;
/// Client subnet (RFC 7871 §6).
const OPTION_SUBNET: u16 = 8;
/// Name server identifier (RFC 5001 §2.3).
pub(super) const OPTION_NSID: u16 = 3;
/// Cookie (RFC 7873 §4).
pub(super) const OPTION_COOKIE: u16 = 10;
/// Padding (RFC 7830 §3).
pub(super) const OPTION_PADDING: u16 = 12;

impl Edns {
    /// One without options.
    pub(super) fn new(opt: &RawOpt<'_>) -> Self {
        let dnssec_ok = opt.flags & 0x80 != 0;
        let (payload, nsid, padded) = (opt.payload, false, false);
        Self { payload, dnssec_ok, nsid, padded, subnet: None, cookie: None }
    }

    /// Gives the options of its record their meaning.
    ///
    /// # Errors
    /// The code for a record that cannot be accepted: then it has no options.
    pub(super) fn read(&mut self, opt: &RawOpt<'_>) -> Result<(), Rcode> {
        // RFC 6891 §6.1.3: a version that is not supported must be answered with BADVERS.
        if opt.version != 0 {
            return Err(Rcode::BadVers);
        }
        let mut reader = Reader { packet: opt.options, at: 0 };
        while reader.at < opt.options.len() {
            if self.read_option(&mut reader).is_none() {
                *self = Self::new(opt);
                return Err(Rcode::FormErr);
            }
        }
        Ok(())
    }

    fn read_option(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let [c0, c1, l0, l1] = reader.array()?;
        let data = reader.bytes(usize::from(u16::from_be_bytes([l0, l1])))?;
        match u16::from_be_bytes([c0, c1]) {
            OPTION_NSID => self.nsid = true,
            OPTION_SUBNET if self.subnet.is_some() => return None,
            OPTION_SUBNET => self.subnet = Some(Subnet::read(data)?),
            // RFC 7873 §5.2: of several cookies the first counts.
            OPTION_COOKIE if self.cookie.is_some() => {}
            OPTION_COOKIE => self.cookie = Some(Cookie::read(data)?),
            OPTION_PADDING => self.padded = true,
            // RFC 6891 §6.1.2: options that are not understood must be ignored.
            _ => {}
        }
        Some(())
    }
}

impl Subnet {
    /// RFC 7871 §6: too few or too many octets of ADDRESS, bits set beyond the prefix and, in a
    /// query, a SCOPE other than 0 are malformed.
    fn read(wire: &[u8]) -> Option<Self> {
        let ([0, family, source, 0], octets) = wire.split_first_chunk()? else { return None };
        let source = *source;
        let (longest, address) = match family {
            1 => (32, Some(IpAddr::V4(u32::from_be_bytes(padded(octets)).into()))),
            2 => (128, Some(IpAddr::V6(u128::from_be_bytes(padded(octets)).into()))),
            // A /0 needs no family: there is no address.
            0 => (0, None),
            _ => return None,
        };
        let is_whole = source <= longest && octets.len() == usize::from(source.div_ceil(8));
        let behind =
            octets.last().filter(|_| source % 8 != 0).map_or(0, |last| last << (source % 8));
        (is_whole && behind == 0).then_some(Self { source, address })
    }

    /// How many octets the option has.
    pub(super) fn length(&self) -> usize {
        OPTION_HEAD + SUBNET_HEAD + usize::from(self.source.div_ceil(8))
    }

    /// Writes the option: as it came, but for the scope.
    pub(super) fn write(&self, scope: u8, out: &mut Vec<u8>) {
        let length = self.length();
        let end = out.len() + length;
        let [c0, c1] = OPTION_SUBNET.to_be_bytes();
        // An address has 16 octets at most: one octet tells the length.
        let [length, ..] = (length - OPTION_HEAD).to_le_bytes();
        let head = |family| [c0, c1, 0, length, 0, family, self.source, scope];
        match self.address {
            None => out.extend_from_slice(&head(0)),
            Some(IpAddr::V4(ip)) => {
                out.extend_from_slice(&head(1));
                out.extend_from_slice(&ip.octets());
            }
            Some(IpAddr::V6(ip)) => {
                out.extend_from_slice(&head(2));
                out.extend_from_slice(&ip.octets());
            }
        }
        out.truncate(end);
    }
}

/// The first of `octets`, zeros behind them. One by one: what is copied together in pieces is not
/// soon read as one number.
fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| octets.get(at).copied().unwrap_or(0))
}

/// The octets of FAMILY, SOURCE and SCOPE.
const SUBNET_HEAD: usize = 4;
