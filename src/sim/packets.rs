//! The packets of a resolver: what it asks, and what it reads of the answer.

use std::net::Ipv4Addr;

/// The OPT record with a client subnet of 24 bits: the last octets of a query.
pub(super) const OPT: usize = 11 + 4 + 7;

/// A query for A records of a name, whose last three octets are the client's subnet (RFC 7871).
pub(super) fn query(name: &[u8]) -> Vec<u8> {
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    query.extend_from_slice(name);
    query.extend_from_slice(&[0, 1, 0, 1]);
    query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 11]);
    query.extend_from_slice(&[0, 8, 0, 7, 0, 1, 24, 0, 0, 0, 0]);
    query
}

/// The first address of an answer whose question ends at `question`, and its TTL.
pub(super) fn read(answer: &[u8], question: usize) -> Option<(Ipv4Addr, u32)> {
    let record = answer.get(question..question + 16)?;
    let is_answered = answer.get(6..8)? != [0, 0] && record.get(2..4)? == [0, 1];
    let ttl = u32::from_be_bytes(record.get(6..10)?.try_into().ok()?);
    let octets: [u8; 4] = record.get(12..16)?.try_into().ok()?;
    is_answered.then(|| (Ipv4Addr::from(octets), ttl))
}
