//! The way of a query: bytes in, bytes out in their place, nothing decided.
//!
//! ```text
//! packet → receive → client → resolve (zone, then select) → respond → out
//!          header,   ECS or   names, wildcards, CNAMEs,      sections, OPT,
//!          question, peer     cuts; the ready answer of      truncation
//!          OPT, ECS           the client's catchment
//! ```
//!
//! [`answer`], whose stages a [`Query`] has one by one, is the only place where an answer is made,
//! for every transport. It is synchronous, reads one [`Snapshot`] and, class CH apart, allocates
//! nothing but the growth of `out`. It answers every packet that is a query, whatever is in it, and
//! is silent where an answer could make a loop.

use std::hash::{BuildHasher, Hasher as _};
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::FixedState;

use crate::ids::{RegionId, RegionSet, ServiceId};
use crate::snapshot::{Plan, Snapshot};
use crate::time::{Instant, Ttl};
use crate::zone::CLASS_IN;

pub use explain::explain;
pub use explain::{Candidate, Explained, Explanation, Question, Steering, Step, Whereabouts};
pub use name::LowerName;
pub use receive::Silence;

mod chaos;
mod client;
mod cookie;
mod edns;
mod explain;
mod message;
mod name;
mod receive;
mod resolve;
#[cfg(test)]
mod tests;

use message::Message;
use receive::{Refusal, Request};
use resolve::{Passed, Place, Resolved};

/// Who asks, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where the packet came from: a resolver, as a rule.
    pub address: SocketAddr,
    /// What carried it.
    pub transport: Transport,
}

/// What carries messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    /// Datagrams (RFC 1035 §4.2.1).
    Udp,
    /// Streams (RFC 7766).
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
}

impl Transport {
    /// Whether nobody on the way can read what it carries.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Https | Self::Quic)
    }

    /// A word for it: the label of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }
}

/// The largest answer over UDP, whatever the client says: what crosses the Internet unfragmented
/// (DNS Flag Day 2020; RFC 9715 §3).
pub const UDP_PAYLOAD: u16 = 1232;

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// `out` holds nothing, and nothing is to be sent.
    Silent(Silence),
    /// `out` holds the answer.
    Answered(Summary),
}

/// What was answered, for the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The response code.
    pub rcode: Rcode,
    /// The service that was asked for, if any: the last one, if a chain of names led to it.
    pub service: Option<ServiceId>,
    /// The first region that this service's answer names, if any.
    pub region: Option<RegionId>,
    /// All regions that it names, and for how long it may be remembered.
    pub named: Option<Named>,
    /// A hash of who asked what: the resolver, the client and the question. 0: no region is named.
    pub asker: u64,
    /// Whether the client's subnet decided, and not the resolver's address.
    pub by_subnet: bool,
    /// Whether the client is told to ask again over TCP.
    pub truncated: bool,
    /// Whether it sent a cookie of ours: its address is its own.
    pub proven: bool,
    /// Whether there were records of the type that was asked for.
    pub is_given: bool,
}

/// The regions that a service's answer names, and for how long it may be remembered.
pub type Named = (RegionSet, Ttl);

impl Summary {
    /// Of what was resolved; what else there is to know is not known yet.
    fn of(resolved: &Resolved) -> Self {
        let Resolved { rcode, service, region, named, by_subnet, is_given, .. } = *resolved;
        let (asker, truncated, proven) = (0, false, false);
        Self { rcode, service, region, named, asker, by_subnet, truncated, proven, is_given }
    }
}

/// The response codes that are given (RFC 1035 §4.1.1, RFC 6891 §9, RFC 7873 §8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Rcode {
    /// No error.
    NoError = 0,
    /// The packet is malformed.
    FormErr = 1,
    /// The server cannot answer.
    ServFail = 2,
    /// The name does not exist.
    NxDomain = 3,
    /// The operation is not implemented.
    NotImp = 4,
    /// The server will not answer this.
    Refused = 5,
    /// The EDNS version is not known.
    BadVers = 16,
    /// The client is to ask again with the cookie that it gets (RFC 7873 §8).
    BadCookie = 23,
}

impl Rcode {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NoError,
        Self::FormErr,
        Self::ServFail,
        Self::NxDomain,
        Self::NotImp,
        Self::Refused,
        Self::BadVers,
        Self::BadCookie,
    ];

    /// Its mnemonic (RFC 2929 §2.3): the label of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::BadVers => "BADVERS",
            Self::BadCookie => "BADCOOKIE",
        }
    }
}

/// Answers `packet`, which came from `peer`, as `snapshot` has it: at most what `peer` can take
/// is left in `out`. The moment `now` is part of the query's way as of the fact's way: what
/// expires is compared with it, never with a clock.
pub fn answer(
    snapshot: &Snapshot,
    packet: &[u8],
    peer: Peer,
    now: Instant,
    out: &mut Vec<u8>,
) -> Outcome {
    out.clear();
    out.extend_from_slice(packet);
    let mut room = LowerName::default();
    let mut query = Query::new(peer, &mut room);
    query.prepare(out, snapshot);
    query.answer(snapshot, now, out)
}

/// A query between its stages. Whoever has many takes all of them through one stage after the
/// other: what one look-up has to wait for, the memory, the next ones wait for at the same time.
#[derive(Debug)]
pub struct Query<'q> {
    resolver: IpAddr,
    transport: Transport,
    request: Request<'q>,
    refusal: Option<Refusal>,
    place: Option<Place<'q>>,
    /// Few answers have any, so they stay here, where those of all others need not carry them.
    passed: Option<Passed>,
}

impl<'q> Query<'q> {
    /// One that came from `peer`, whose name is to be left in `room`.
    pub fn new(peer: Peer, room: &'q mut LowerName) -> Self {
        let is_there = peer.address.port() != 0;
        let silence = if is_there { Silence::TooShort } else { Silence::NoPort };
        let refusal = Some(Refusal::Silence(silence));
        let (resolver, transport) = (peer.address.ip(), peer.transport);
        let (request, place, passed) = (Request::new(room), None, None);
        Self { resolver, transport, request, refusal, place, passed }
    }

    /// All stages but the last.
    pub fn prepare(&mut self, packet: &[u8], snapshot: &'q Snapshot) {
        self.read(packet, snapshot);
        self.approach();
        self.find(snapshot);
        self.select(snapshot);
        self.near();
        self.choose();
    }

    /// The first stage: reads the packet, and finds its name's zone and where to look there.
    pub fn read(&mut self, packet: &[u8], snapshot: &'q Snapshot) {
        if matches!(self.refusal, Some(Refusal::Silence(Silence::NoPort))) {
            return;
        }
        self.refusal = self.request.read(packet).err();
        let Request { question, fault, .. } = &self.request;
        if self.refusal.is_none() && fault.is_none() && question.class == CLASS_IN {
            self.place = Place::seek(snapshot, question.name.as_wire());
        }
    }

    /// The second stage: looks there.
    pub fn approach(&mut self) {
        if let Some(place) = &mut self.place {
            place.approach();
        }
    }

    /// The third stage: finds the name.
    pub fn find(&mut self, snapshot: &'q Snapshot) {
        if let Some(place) = &mut self.place {
            place.find(snapshot, self.request.question.name.as_wire());
        }
    }

    /// The fourth stage, if the name is steered: finds what knows where the client's networks are.
    pub fn select(&mut self, snapshot: &'q Snapshot) {
        if let Some(place) = &mut self.place {
            place.select(snapshot, (&self.request, &self.resolver));
        }
    }

    /// The fifth stage: looks there.
    pub fn near(&mut self) {
        if let Some(place) = &mut self.place {
            place.near();
        }
    }

    /// The sixth stage: chooses the client's answer.
    pub fn choose(&mut self) {
        if let Some(place) = &mut self.place {
            place.choose();
        }
    }

    /// The last stage: the packet in `message` becomes the answer, of the snapshot of the other
    /// stages; it is left empty where there is none.
    pub fn answer(&mut self, snapshot: &Snapshot, now: Instant, message: &mut Vec<u8>) -> Outcome {
        match self.refusal {
            Some(Refusal::Silence(reason)) => {
                message.clear();
                return Outcome::Silent(reason);
            }
            Some(Refusal::Bare(rcode)) => return refuse(rcode, message),
            None => {}
        }
        let request = &self.request;
        let mut message = self.begin(message);
        // Written where it stays: moved about, it would cost more than to be found.
        let mut resolved = Resolved::only(Rcode::NoError);
        match (request.fault, request.question.class) {
            (Some(rcode), _) => resolved.rcode = rcode,
            (_, CLASS_IN) => {
                let (asked, place) = ((request, &self.resolver), self.place.as_ref());
                let told = (&mut message, &mut self.passed);
                resolve::resolve((snapshot, now), asked, place, told, &mut resolved);
            }
            (_, name::CLASS_CH) => resolved = chaos::resolve(snapshot, request, &mut message),
            _ => resolved.rcode = Rcode::Refused,
        }
        self.finish((snapshot, now), &mut message, &resolved)
    }

    /// Instead of the answer that is in `message`: that the client should ask again, so that its
    /// address is known to be its own: with the cookie that it gets (BADCOOKIE), or over TCP.
    #[inline(never)]
    pub fn ask_again(&self, snapshot: &Snapshot, now: Instant, message: &mut Vec<u8>) {
        if self.refusal.is_some() {
            return message.clear();
        }
        let has_cookie = self.request.edns.as_ref().is_some_and(|edns| edns.cookie.is_some());
        let is_baker = !snapshot.plan().protection.secrets.is_empty();
        let mut message = self.begin(message);
        let rcode = if has_cookie && is_baker { Rcode::BadCookie } else { Rcode::NoError };
        if rcode == Rcode::NoError {
            message.cut_short();
        }
        self.finish((snapshot, now), &mut message, &Resolved::only(rcode));
    }

    /// Who asked.
    pub fn resolver(&self) -> &IpAddr {
        &self.resolver
    }

    /// The services through which a chain of names led to the last one, in this order, each with
    /// what its answer named: it is remembered by itself. Behind them there is nothing.
    pub fn passed(&self) -> &[Option<(ServiceId, Named)>] {
        self.passed.as_ref().map_or(&[], |passed| passed)
    }

    /// For whom: the client's address, or its subnet's, as far as that counted.
    pub fn client(&self, answer: &Summary) -> IpAddr {
        *client::of(&self.request, &self.resolver, answer.by_subnet).0
    }

    /// What was asked for, as limits of rate tell it apart: the records of a type at one name, if
    /// there were any, what else is asked for there, what does not exist in one zone, what is in no
    /// zone of ours.
    pub fn subject(&self, is_given: bool) -> u64 {
        let rtype = if is_given { u64::from(self.request.question.rtype) } else { 0 };
        self.place.as_ref().map_or(0, |place| place.subject() ^ rtype << 48)
    }

    fn begin<'m>(&self, message: &'m mut Vec<u8>) -> Message<'m> {
        // RFC 7830 §6: only what is encrypted is padded.
        let padded = self.transport.is_encrypted()
            && self.request.edns.as_ref().is_some_and(|edns| edns.padded);
        Message::begin(message, &self.request, (limit(&self.request, self.transport), padded))
    }

    /// A hash of who asks what.
    fn asker(&self, resolved: &Resolved) -> u64 {
        let name = self.place.as_ref().map_or(0, Place::hash);
        let mut hasher = FixedState::with_seed(name).build_hasher();
        let (client, _) = client::of(&self.request, &self.resolver, resolved.by_subnet);
        hasher.write_u128(bits(&self.resolver));
        hasher.write_u128(bits(client));
        hasher.write_u16(self.request.question.rtype);
        hasher.finish()
    }

    /// Always in its caller's code, as what it makes is.
    #[inline(always)]
    fn finish(
        &self,
        (snapshot, now): (&Snapshot, Instant),
        message: &mut Message<'_>,
        resolved: &Resolved,
    ) -> Outcome {
        let request = &self.request;
        let is_remembered = resolved.named.is_some() || self.passed.is_some();
        let asker = if is_remembered { self.asker(resolved) } else { 0 };
        let Plan { identity, protection, .. } = &**snapshot.plan();
        let cookie = request.edns.as_ref().and_then(|edns| edns.cookie.as_ref());
        let baked = cookie.and_then(|of| of.bake(protection, self.resolver, now));
        let octets = baked.as_ref().map(|baked| &baked.octets);
        let truncated = message.finish(request, resolved, identity.nsid.as_deref(), octets);
        let proven = baked.is_some_and(|baked| baked.proven);
        Outcome::Answered(Summary { asker, truncated, proven, ..Summary::of(resolved) })
    }
}

/// An address as a number, for hashes.
fn bits(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A header alone: what stands in the packet behind it could not be read.
fn refuse(rcode: Rcode, message: &mut Vec<u8>) -> Outcome {
    message::bare(message, rcode);
    Outcome::Answered(Summary::of(&Resolved::only(rcode)))
}

/// How long the answer may be, in octets.
fn limit(request: &Request<'_>, transport: Transport) -> usize {
    match (transport, &request.edns) {
        // RFC 6891 §6.2.3: values lower than 512 are treated as 512.
        (Transport::Udp, Some(edns)) => usize::from(edns.payload.clamp(512, UDP_PAYLOAD)),
        // RFC 1035 §2.3.4: UDP messages carry 512 octets or less.
        (Transport::Udp, None) => 512,
        // RFC 1035 §4.2.2: the length of a message over TCP is a field of two octets.
        _ => usize::from(u16::MAX),
    }
}
