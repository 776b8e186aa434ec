//! An answer made ahead: what a choice looks like on the wire.

use std::net::IpAddr;
use std::slice;

use crate::ids::{RegionId, RegionSet};
use crate::prefetch::prefetch;
use crate::steer::{Address, Basis, Choice, Family};
use crate::time::Ttl;
use crate::zone::{Made, Rdata, RecordType};

/// A choice and its encoding. What a query looks at comes first.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Ready {
    /// What is sent.
    pub body: Body,
    /// All regions that it names.
    pub regions: RegionSet,
    /// The best of them, if there are any.
    pub first: Option<RegionId>,
    /// What was chosen, and why.
    pub choice: Choice,
}

/// What is sent for a choice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Address records, whose owner is a pointer to the question.
    Addresses(Made),
    /// A CNAME record: its data and TTL.
    Alias(Rdata, Ttl),
    /// NOERROR without a record, which may be cached this long.
    NoData(Ttl),
    /// SERVFAIL.
    ServFail,
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
            (_, None) => Body::Addresses(made(&ips, family, choice.ttl)),
        };
        let regions = choice.regions.iter().copied().collect();
        Self { body, regions, first: choice.regions.first().copied(), choice }
    }

    /// Has the processor fetch what a query looks at.
    #[inline]
    pub(super) fn approach(&self) {
        prefetch(slice::from_ref(self), 0);
        prefetch(slice::from_ref(&self.choice.ttl), 0);
    }
}

/// Address records of one family.
fn made(addresses: &[IpAddr], family: Family, ttl: Ttl) -> Made {
    let rtype = match family {
        Family::V6 => RecordType::AAAA,
        Family::V4 | Family::Alias => RecordType::A,
    };
    let octets = addresses.iter().map(|address| match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    });
    Made::new(rtype, ttl, octets)
}
