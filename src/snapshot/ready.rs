//! An answer made ahead: what a choice looks like on the wire.

use std::net::IpAddr;

use crate::ids::RegionSet;
use crate::steer::{Address, Basis, Choice, Family};
use crate::time::Ttl;
use crate::zone::{Rdata, RecordType};

/// A choice and its encoding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ready {
    /// What was chosen, and why.
    pub choice: Choice,
    /// The regions that it names.
    pub regions: RegionSet,
    /// What is sent.
    pub body: Body,
}

/// What is sent for a choice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Address records, whose owner is a pointer to the question.
    Addresses(Addresses),
    /// A CNAME record: its data and TTL.
    Alias(Rdata, Ttl),
    /// NOERROR without a record, which may be cached this long.
    NoData(Ttl),
    /// SERVFAIL.
    ServFail,
}

/// Encoded address records of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses {
    wire: Box<[u8]>,
    record: usize,
}

/// A compression pointer to the first octet after the header, where the question's name is
/// (RFC 1035 §4.1.4).
const OWNER: [u8; 2] = [0xc0, 12];

impl Addresses {
    /// All records, as they stand in an answer whose question has their owner.
    pub fn as_wire(&self) -> &[u8] {
        &self.wire
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        u16::try_from(self.wire.len() / self.record).unwrap_or(u16::MAX)
    }

    /// The records, each beginning with its two octets of owner.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.wire.chunks_exact(self.record)
    }

    fn encode(addresses: &[IpAddr], family: Family, ttl: Ttl) -> Self {
        let (rtype, length) = match family {
            Family::V6 => (RecordType::AAAA, 16u16),
            Family::V4 | Family::Alias => (RecordType::A, 4u16),
        };
        let mut wire = Vec::new();
        for address in addresses {
            wire.extend_from_slice(&OWNER);
            wire.extend_from_slice(&rtype.0.to_be_bytes());
            wire.extend_from_slice(&CLASS_IN.to_be_bytes());
            wire.extend_from_slice(&ttl.as_secs().to_be_bytes());
            wire.extend_from_slice(&length.to_be_bytes());
            match address {
                IpAddr::V4(ip) => wire.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => wire.extend_from_slice(&ip.octets()),
            }
        }
        Self { wire: wire.into(), record: FIXED_PART + usize::from(length) }
    }
}

impl Ready {
    /// The encoding of `choice`, made for `family`.
    pub fn encode(family: Family, choice: Choice) -> Self {
        let alias = choice.addresses.iter().find_map(|address| match address {
            Address::Alias(name) => Some(name.clone()),
            Address::Ip(_) => None,
        });
        let ips: Vec<IpAddr> = choice
            .addresses
            .iter()
            .filter_map(|address| match address {
                Address::Ip(ip) => Some(*ip),
                Address::Alias(_) => None,
            })
            .collect();
        let body = match (choice.basis, alias) {
            (Basis::ServFail, _) => Body::ServFail,
            (_, Some(name)) => Body::Alias(Rdata::name(&name), choice.ttl),
            (_, None) if ips.is_empty() => Body::NoData(choice.ttl),
            (_, None) => Body::Addresses(Addresses::encode(&ips, family, choice.ttl)),
        };
        let regions = choice.regions.iter().fold(RegionSet::EMPTY, |set, region| set.with(*region));
        Self { choice, regions, body }
    }
}

/// Owner, type, class, TTL and length: all that stands before the data of a record.
const FIXED_PART: usize = 12;

/// The Internet.
const CLASS_IN: u16 = 1;
