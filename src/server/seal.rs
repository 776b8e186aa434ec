//! The seal on what nodes tell each other: nobody without the cluster's key reads it, writes it,
//! or sends it twice.
//!
//! ```text
//! magic 4 | sender 8 | incarnation 8 | counter 8 | ChaCha20-Poly1305 (RFC 8439) of the message
//! ```
//!
//! Each start of each node has a key of its own, derived from the cluster's (HKDF, RFC 5869), so
//! that a counter is nonce enough. The head and the receiver's name are authenticated with it: a
//! packet is of one sender, for one receiver. The sender is told by a hash of its name, so that
//! nodes whose lists differ understand each other. A counter counts once (the sliding window of
//! RFC 4303 §3.4.3).

use std::collections::HashMap;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use crate::ids::NodeId;
use crate::rng::fnv1a;
use crate::snapshot::Secret;

/// Another one with every other form of message.
const MAGIC: [u8; 4] = *b"MER3";
const HEAD: usize = 4 + 8 + 8 + 8;

/// Seals and opens packets of one node.
pub(super) struct Seal {
    secret: Prk,
    /// The nodes' names, by id.
    names: Vec<String>,
    own: NodeId,
    incarnation: u64,
    counter: u64,
    key: LessSafeKey,
    peers: HashMap<NodeId, Peer>,
}

/// A sender, in its newest incarnation.
struct Peer {
    incarnation: u64,
    key: LessSafeKey,
    /// The highest counter that was seen, and which of the 64 before it were.
    highest: u64,
    seen: u64,
}

impl Seal {
    /// The seal of the node `own`, which has just started in this incarnation. `None`: it is not
    /// among `names`, or the key cannot be used.
    pub(super) fn new(
        secret: &[u8],
        names: Vec<String>,
        own: NodeId,
        incarnation: u64,
    ) -> Option<Self> {
        let secret = Salt::new(HKDF_SHA256, b"meridian cluster 1").extract(secret);
        let key = derive(&secret, names.get(own.index())?, incarnation)?;
        Some(Self { secret, names, own, incarnation, counter: 0, key, peers: HashMap::new() })
    }

    /// Seals as one that has started again, in this incarnation; `false`: it cannot.
    pub(super) fn renew(&mut self, incarnation: u64) -> bool {
        let name = self.names.get(self.own.index());
        let key = name.and_then(|name| derive(&self.secret, name, incarnation));
        let Some(key) = key else { return false };
        self.key = key;
        (self.incarnation, self.counter) = (incarnation, 0);
        true
    }

    /// A packet with `message`, for `to` alone.
    pub(super) fn close(&mut self, to: NodeId, message: &[u8]) -> Option<Vec<u8>> {
        let receiver = self.names.get(to.index())?;
        self.counter += 1;
        let mut packet = Vec::with_capacity(HEAD + message.len() + CHACHA20_POLY1305.tag_len());
        packet.extend(MAGIC);
        packet.extend(hash(self.names.get(self.own.index())?).to_be_bytes());
        packet.extend(self.incarnation.to_be_bytes());
        packet.extend(self.counter.to_be_bytes());
        let aad = [packet.as_slice(), receiver.as_bytes()].concat();
        let mut body = message.to_vec();
        let nonce = nonce(self.counter);
        self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut body).ok()?;
        packet.extend(body);
        Some(packet)
    }

    /// Who sent `packet`, in which incarnation, and what it says; `None`: it is not for this node,
    /// not of the cluster, or was here before.
    pub(super) fn open<'p>(&mut self, packet: &'p mut [u8]) -> Option<(NodeId, u64, &'p [u8])> {
        let (head, body) = packet.split_at_mut_checked(HEAD)?;
        let head: [u8; HEAD] = (&*head).try_into().ok()?;
        let number = |at: usize| {
            let octets = head.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_be_bytes(octets))
        };
        let (sender, incarnation, counter) = (number(4)?, number(12)?, number(20)?);
        let is_other =
            |(row, name): &(usize, &String)| *row != self.own.index() && hash(name) == sender;
        head.strip_prefix(&MAGIC)?;
        let (row, name) = self.names.iter().enumerate().find(is_other)?;
        let from = NodeId::from_index(row)?;
        let aad = [head.as_slice(), self.names.get(self.own.index())?.as_bytes()].concat();
        let known = self.peers.get_mut(&from).filter(|peer| peer.incarnation >= incarnation);
        if let Some(peer) = known {
            if peer.incarnation > incarnation || peer.was_here(counter) {
                return None;
            }
            let opened = peer.key.open_in_place(nonce(counter), Aad::from(aad), body).ok()?;
            peer.note(counter);
            return Some((from, incarnation, opened));
        }
        // A new start of that node, if the packet opens.
        let key = derive(&self.secret, name, incarnation)?;
        let opened = key.open_in_place(nonce(counter), Aad::from(aad), body).ok()?;
        let peer = Peer { incarnation, key, highest: counter, seen: 0 };
        self.peers.insert(from, peer);
        Some((from, incarnation, opened))
    }
}

impl Peer {
    fn was_here(&self, counter: u64) -> bool {
        match self.highest.checked_sub(counter) {
            None => false,
            Some(0) => true,
            Some(back @ 1..=64) => self.seen >> (back - 1) & 1 == 1,
            // Too old to know.
            Some(_) => true,
        }
    }

    fn note(&mut self, counter: u64) {
        match counter.checked_sub(self.highest) {
            Some(ahead) => {
                let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
                let seen = self.seen.checked_shl(shift).unwrap_or(0);
                self.seen = seen | 1u64.checked_shl(shift - 1).unwrap_or(0);
                self.highest = counter;
            }
            None => self.seen |= 1 << (self.highest - counter - 1),
        }
    }
}

/// The secret of DNS cookies that the nodes of a cluster have in common.
pub(super) fn cookie_secret(key: &[u8]) -> Option<Secret> {
    struct Octets;
    impl KeyType for Octets {
        fn len(&self) -> usize {
            16
        }
    }
    let mut octets = [0; 16];
    let secret = Salt::new(HKDF_SHA256, b"meridian cookies 1").extract(key);
    secret.expand(&[], Octets).ok()?.fill(&mut octets).ok()?;
    Some(Secret(octets))
}

/// By what a packet tells its sender.
fn hash(name: &str) -> u64 {
    fnv1a(name.as_bytes())
}

fn derive(secret: &Prk, name: &str, incarnation: u64) -> Option<LessSafeKey> {
    let incarnation = incarnation.to_be_bytes();
    let info = [name.as_bytes(), &incarnation];
    let key = secret.expand(&info, &CHACHA20_POLY1305).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(key)))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secret: &[u8], own: usize, incarnation: u64) -> Seal {
        let names = ["ns1", "ns2", "ns3"].map(str::to_owned).to_vec();
        Seal::new(secret, names, NodeId::from_index(own).unwrap(), incarnation).unwrap()
    }

    fn opened(seal: &mut Seal, packet: &[u8]) -> Option<(usize, u64, Vec<u8>)> {
        let mut packet = packet.to_vec();
        let (from, incarnation, message) = seal.open(&mut packet)?;
        Some((from.index(), incarnation, message.to_vec()))
    }

    const TWO: usize = 1;

    #[test]
    fn a_packet_is_read_once_by_the_one_it_is_for() {
        let (mut one, mut two, mut three) =
            (seal(b"k", 0, 7), seal(b"k", TWO, 8), seal(b"k", 2, 9));
        let two_id = NodeId::from_index(TWO).unwrap();
        let packet = one.close(two_id, b"hello").unwrap();
        assert_eq!(opened(&mut three, &packet), None, "it is for another");
        assert_eq!(opened(&mut two, &packet), Some((0, 7, b"hello".to_vec())));
        assert_eq!(opened(&mut two, &packet), None, "it was here");
        assert_eq!(opened(&mut one, &packet), None, "it is its own");
        assert_eq!(opened(&mut seal(b"other", TWO, 8), &packet), None, "another cluster's");
        for at in 0..packet.len() {
            let mut changed = one.close(two_id, b"hello").unwrap();
            changed[at] ^= 1;
            assert_eq!(opened(&mut two, &changed), None, "octet {at} was changed");
            assert_eq!(opened(&mut two, &changed[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn packets_may_overtake_each_other_but_none_comes_twice() {
        let (mut one, mut two) = (seal(b"k", 0, 7), seal(b"k", TWO, 8));
        let two_id = NodeId::from_index(TWO).unwrap();
        let packets: Vec<_> = (0..200u8).map(|n| one.close(two_id, &[n]).unwrap()).collect();
        let order = [5, 3, 4, 0, 63, 64, 2, 69, 6, 199, 150];
        for row in order {
            let expected = Some((0, 7, vec![u8::try_from(row).unwrap()]));
            assert_eq!(opened(&mut two, &packets[row]), expected, "{row}");
        }
        for row in order.into_iter().chain([100, 1]) {
            assert_eq!(opened(&mut two, &packets[row]), None, "{row}");
        }
    }

    #[test]
    fn an_earlier_start_of_a_node_is_heard_no_more() {
        let mut two = seal(b"k", TWO, 8);
        let two_id = NodeId::from_index(TWO).unwrap();
        let (mut before, mut after) = (seal(b"k", 0, 7), seal(b"k", 0, 9));
        let recorded = before.close(two_id, b"old").unwrap();
        let packet = after.close(two_id, b"new").unwrap();
        assert!(opened(&mut two, &packet).is_some());
        assert_eq!(opened(&mut two, &recorded), None);
    }
}
