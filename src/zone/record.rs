//! Record types and record data.

use std::fmt;
use std::str::FromStr;

use domain::base::iana::Rtype;

use super::name::{Name, offsets};
use crate::time::Ttl;

/// A record type, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordType(pub u16);

#[expect(missing_docs, reason = "the types are named as in the registry")]
impl RecordType {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const CNAME: Self = Self(5);
    pub const SOA: Self = Self(6);
    pub const PTR: Self = Self(12);
    pub const HINFO: Self = Self(13);
    pub const MX: Self = Self(15);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const SRV: Self = Self(33);
    pub const DNAME: Self = Self(39);
    pub const DS: Self = Self(43);
    pub const SVCB: Self = Self(64);
    pub const HTTPS: Self = Self(65);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);
}

impl RecordType {
    /// Is it for questions and for what goes along with a message (RFC 6895 §3.1), and never data
    /// of a zone?
    pub fn is_meta(self) -> bool {
        matches!(self.0, 0 | 41 | 128..=255)
    }

    /// Is it made by who signs a zone (RFC 4034, RFC 5155)? A DS record is not: it is the parent's.
    pub fn is_of_signing(self) -> bool {
        // RRSIG, NSEC, DNSKEY; NSEC3, NSEC3PARAM.
        matches!(self.0, 46..=48 | 50 | 51)
    }
}

impl FromStr for RecordType {
    type Err = ();

    /// Reads a mnemonic, or `TYPE` and a number (RFC 3597 §5).
    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().map(|rtype: Rtype| Self(rtype.to_int())).map_err(|_| ())
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Rtype::from_int(self.0).fmt(f)
    }
}

impl fmt::Debug for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The records of one name and type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RrSet {
    /// The type.
    pub rtype: RecordType,
    /// How long they may be cached: one time for all of them (RFC 2181 §5.2).
    pub ttl: Ttl,
    /// Their data.
    pub rdata: Vec<Rdata>,
}

impl RrSet {
    /// Writes the records as they stand in an answer, unless they have names that may be
    /// compressed: how many.
    pub(super) fn make(&self, wire: &mut Vec<u8>) -> Option<u16> {
        let has_names = self.rdata.iter().any(|rdata| rdata.names.count > 0);
        let data = self.rdata.iter().map(Rdata::as_wire);
        (!has_names).then(|| make(wire, (self.rtype, self.ttl), data))
    }
}

/// Records made ahead, as they stand in an answer: the owner of each is a pointer to the question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made<W = Box<[u8]>> {
    wire: W,
    count: u16,
}

/// A compression pointer to the first octet after the header, where the question's name is
/// (RFC 1035 §4.1.4).
const OWNER: [u8; 2] = [0xc0, 12];

/// The Internet (RFC 1035 §3.2.4).
pub const CLASS_IN: u16 = 1;

/// Owner, type, class, TTL and length: all that stands before the data of a record.
pub(super) const FIXED_PART: usize = 12;

impl Made {
    /// Records of one type and TTL with these data.
    pub fn new(rtype: RecordType, ttl: Ttl, data: impl Iterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut wire = Vec::new();
        let count = make(&mut wire, (rtype, ttl), data);
        Self { wire: wire.into(), count }
    }
}

/// Writes records of one type and TTL with these data: how many.
fn make(
    wire: &mut Vec<u8>,
    (rtype, ttl): (RecordType, Ttl),
    data: impl Iterator<Item = impl AsRef<[u8]>>,
) -> u16 {
    let mut count = 0_u16;
    for rdata in data {
        let rdata = rdata.as_ref();
        let Ok(length) = u16::try_from(rdata.len()) else { continue };
        wire.extend_from_slice(&OWNER);
        wire.extend_from_slice(&rtype.0.to_be_bytes());
        wire.extend_from_slice(&CLASS_IN.to_be_bytes());
        wire.extend_from_slice(&ttl.as_secs().to_be_bytes());
        wire.extend_from_slice(&length.to_be_bytes());
        wire.extend_from_slice(rdata);
        count = count.saturating_add(1);
    }
    count
}

impl<'r> Made<&'r [u8]> {
    /// So many, which were made before.
    pub(super) fn known(wire: &'r [u8], count: u16) -> Self {
        Self { wire, count }
    }
}

impl<W: AsRef<[u8]>> Made<W> {
    /// All of them.
    pub fn as_wire(&self) -> &[u8] {
        self.wire.as_ref()
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// One after the other, each beginning with its two octets of owner.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.as_wire();
        std::iter::from_fn(move || {
            let length = rest.get(FIXED_PART - 2..FIXED_PART)?.try_into().map(u16::from_be_bytes);
            let (record, behind) = rest.split_at_checked(FIXED_PART + usize::from(length.ok()?))?;
            rest = behind;
            Some(record)
        })
    }
}

/// "No such thing" made ahead: a zone's SOA record, behind a question for a name in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    wire: Box<[u8]>,
    /// Where in it a pointer to the zone's name stands.
    pointers: Box<[u16]>,
}

impl Denial {
    /// The denials of the zone at `origin`.
    pub(super) fn new(origin: &[u8], soa: &Rdata) -> Self {
        let mut wire = OWNER.to_vec();
        wire.extend([RecordType::SOA.0, CLASS_IN].iter().flat_map(|field| field.to_be_bytes()));
        wire.extend_from_slice(&[0; 4 + 2]);
        let mut pointers = vec![0];
        for part in soa.parts() {
            let bytes = match part {
                Part::Bytes(bytes) | Part::Name(bytes) => bytes,
            };
            let below = bytes.len().checked_sub(origin.len());
            let below = below.filter(|at| matches!(part, Part::Name(_)) && is_label(bytes, *at));
            let (labels, rest) = bytes.split_at(below.unwrap_or(bytes.len()));
            wire.extend_from_slice(labels);
            if rest.eq_ignore_ascii_case(origin) {
                pointers.push(u16::try_from(wire.len()).unwrap_or(0));
                wire.extend_from_slice(&OWNER);
            } else {
                wire.extend_from_slice(rest);
            }
        }
        let length = u16::try_from(wire.len() - FIXED_PART).unwrap_or(0);
        if let Some(place) = wire.get_mut(FIXED_PART - 2..FIXED_PART) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Self { wire: wire.into(), pointers: pointers.into() }
    }

    /// Appends it to `message`, in which the zone's name stands at `origin`.
    pub fn write(&self, message: &mut Vec<u8>, origin: u16, ttl: u32) {
        let start = message.len();
        message.extend_from_slice(&self.wire);
        let Some(record) = message.get_mut(start..) else { return };
        for at in self.pointers.iter().map(|at| usize::from(*at)) {
            if let Some(place) = record.get_mut(at..at + 2) {
                place.copy_from_slice(&(0xc000 | origin).to_be_bytes());
            }
        }
        if let Some(place) = record.get_mut(FIXED_PART - 6..FIXED_PART - 2) {
            place.copy_from_slice(&ttl.to_be_bytes());
        }
    }
}

/// The MINIMUM field: the last four octets of a SOA record's data.
pub(super) fn minimum(soa: &[u8]) -> Option<Ttl> {
    let (_, last) = soa.split_last_chunk::<4>()?;
    Some(Ttl::from_secs(u32::from_be_bytes(*last)))
}

/// Does a label of `name` begin at `at`?
fn is_label(name: &[u8], at: usize) -> bool {
    offsets(name).any(|label| label == at)
}

/// The data of a record in wire format, names uncompressed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rdata {
    wire: Box<[u8]>,
    names: Names,
}

/// Where the names in a record's data are that may be compressed: those in the types of RFC 1035,
/// for others may not be known to whoever reads them (RFC 3597 §4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Names {
    /// Octets before the first.
    before: u8,
    /// How many there are, one after the other.
    count: u8,
}

/// A part of a record's data, as it is written into a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'r> {
    /// A name that may be compressed.
    Name(&'r [u8]),
    /// Octets as they are.
    Bytes(&'r [u8]),
}

impl Rdata {
    /// The data `wire` of a record of type `rtype`.
    pub fn new(rtype: RecordType, wire: impl Into<Box<[u8]>>) -> Self {
        let (before, count) = match rtype {
            RecordType::NS | RecordType::CNAME | RecordType::PTR => (0, 1),
            RecordType::SOA => (0, 2),
            RecordType::MX => (2, 1),
            _ => (0, 0),
        };
        let names = Names { before, count };
        Self { wire: wire.into(), names }
    }

    /// The data of a record that holds one name, such as CNAME.
    pub fn name(name: &Name) -> Self {
        Self::new(RecordType::CNAME, name.as_wire())
    }

    /// The data of a record that holds character strings, such as TXT; each is cut at 255 octets.
    pub fn strings(texts: &[&[u8]]) -> Self {
        let mut wire = Vec::new();
        for text in texts {
            let text = text.get(..255).unwrap_or(text);
            wire.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
            wire.extend_from_slice(text);
        }
        Self::new(RecordType::TXT, wire)
    }

    /// Its octets, uncompressed.
    pub fn as_wire(&self) -> &[u8] {
        &self.wire
    }

    /// Its octets, the names in lower case: by them it is told from others (RFC 4343 §3).
    pub(super) fn to_lower(&self) -> Box<[u8]> {
        let lower = |part| match part {
            Part::Name(name) => name.to_ascii_lowercase(),
            Part::Bytes(bytes) => bytes.to_vec(),
        };
        self.parts().flat_map(lower).collect()
    }

    /// The first name in it: where CNAME and NS point to.
    pub fn target(&self) -> Option<&[u8]> {
        (self.names.count > 0).then(|| self.name_at(self.names.before.into()))
    }

    /// Its parts in their order.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let (head, count) = (usize::from(self.names.before), self.names.count);
        let first = if count > 0 { self.name_at(head) } else { &[] };
        let second = if count > 1 { self.name_at(head + first.len()) } else { &[] };
        let rest = self.wire.get(head + first.len() + second.len()..).unwrap_or(&[]);
        let parts = [
            Part::Bytes(self.wire.get(..head).unwrap_or(&[])),
            Part::Name(first),
            Part::Name(second),
            Part::Bytes(rest),
        ];
        parts.into_iter().filter(|part| !matches!(part, Part::Name([]) | Part::Bytes([])))
    }

    /// The name that begins at `at`.
    fn name_at(&self, at: usize) -> &[u8] {
        let from = self.wire.get(at..).unwrap_or(&[]);
        let length = offsets(from).last().map_or(0, |root| root + 1);
        from.get(..length).unwrap_or(&[])
    }
}
