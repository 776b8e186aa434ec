//! The first stage: from a packet to a request, or to the reason why there is none.

use super::Rcode;
use super::edns::{Edns, OptFault};
use super::name::{LowerName, Question};

/// A query, read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'p> {
    pub(super) header: Header,
    pub(super) question: Question<'p>,
    pub(super) edns: Option<Edns<'p>>,
}

/// What of the query's header is copied into the answer's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) id: [u8; 2],
    pub(super) opcode: u8,
    pub(super) recursion_desired: bool,
}

/// Why a packet is no request.
#[derive(Debug)]
pub(super) enum Refusal<'p> {
    /// Nothing is to be sent.
    Silence(Silence),
    /// A header with this code is to be sent: the rest could not be read.
    Bare(Header, Rcode),
    /// The question with this code is to be sent.
    Full(Request<'p>, Rcode),
}

/// Why a packet is left without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Silence {
    /// It is shorter than a header: it has no id to answer to, or no flag that says that it is
    /// a query.
    TooShort,
    /// It is a response. Answering one could make two servers talk for ever.
    Response,
}

impl Silence {
    /// A word for it: the label of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::Response => "response",
        }
    }
}

/// The octets of a header (RFC 1035 §4.1.1).
pub(super) const HEADER: usize = 12;

/// Reads `packet` whole; its name, in lower case, is left in `room`.
pub(super) fn receive<'p>(
    packet: &'p [u8],
    room: &'p mut LowerName,
) -> Result<Request<'p>, Refusal<'p>> {
    let Some((head, _)) = packet.split_first_chunk::<HEADER>() else {
        return Err(Refusal::Silence(Silence::TooShort));
    };
    let [id0, id1, flags, _, counts @ ..] = *head;
    if flags & 0x80 != 0 {
        return Err(Refusal::Silence(Silence::Response));
    }
    let header =
        Header { id: [id0, id1], opcode: flags >> 3 & 0x0f, recursion_desired: flags & 1 != 0 };
    if header.opcode != OPCODE_QUERY {
        return Err(Refusal::Bare(header, Rcode::NotImp));
    }
    let [qd, an, ns, ar] = [0, 2, 4, 6].map(|at| count(&counts, at));
    // RFC 9619 §4: a query with QDCOUNT > 1 must be answered with FORMERR. One without a
    // question asks nothing; with a cookie alone (RFC 7873 §5.4) nobody asks.
    if qd != 1 {
        return Err(Refusal::Bare(header, Rcode::FormErr));
    }
    let mut reader = Reader { packet, at: HEADER };
    let Some(question) = Question::read(&mut reader, room) else {
        return Err(Refusal::Bare(header, Rcode::FormErr));
    };
    let mut request = Request { header, question, edns: None };
    match read_records(&mut reader, an + ns, ar) {
        Ok(edns) => request.edns = edns,
        Err(OptFault { edns, rcode }) => {
            request.edns = edns;
            return Err(Refusal::Full(request, rcode));
        }
    }
    Ok(request)
}

/// A QUERY (RFC 1035 §4.1.1).
const OPCODE_QUERY: u8 = 0;

fn count(counts: &[u8; 8], at: usize) -> u32 {
    let high = counts.get(at).copied().unwrap_or(0);
    let low = counts.get(at + 1).copied().unwrap_or(0);
    u32::from(u16::from_be_bytes([high, low]))
}

/// Passes over the records, which a query has no use for, but for the OPT record.
fn read_records<'p>(
    reader: &mut Reader<'p>,
    before_additional: u32,
    additional: u32,
) -> Result<Option<Edns<'p>>, OptFault<'p>> {
    let malformed = OptFault { edns: None, rcode: Rcode::FormErr };
    let mut opt: Option<RawOpt<'p>> = None;
    for index in 0..before_additional + additional {
        let record = Record::read(reader).ok_or(malformed)?;
        if record.rtype != TYPE_OPT {
            continue;
        }
        // RFC 6891 §6.1.1: an OPT record stands in the additional section, its name is the root,
        // and a message with more than one is malformed.
        if index < before_additional || !record.at_root || opt.is_some() {
            return Err(malformed);
        }
        opt = Some(RawOpt { payload: record.class, ttl: record.ttl, options: record.data });
    }
    if reader.at != reader.packet.len() {
        return Err(malformed);
    }
    opt.map(|opt| Edns::read(&opt)).transpose()
}

/// The OPT pseudo-record (RFC 6891 §6.1.1).
pub(super) const TYPE_OPT: u16 = 41;

/// An OPT record before its fields are given their meaning.
pub(super) struct RawOpt<'p> {
    pub(super) payload: u16,
    pub(super) ttl: u32,
    pub(super) options: &'p [u8],
}

struct Record<'p> {
    at_root: bool,
    rtype: u16,
    class: u16,
    ttl: u32,
    data: &'p [u8],
}

impl<'p> Record<'p> {
    fn read(reader: &mut Reader<'p>) -> Option<Self> {
        let at_root = reader.skip_name()?;
        let [t0, t1, c0, c1, ttl @ .., l0, l1]: [u8; 10] = reader.array()?;
        let [rtype, class, length] = [[t0, t1], [c0, c1], [l0, l1]].map(u16::from_be_bytes);
        let [a, b, c, d] = ttl;
        let data = reader.bytes(usize::from(length))?;
        Some(Self { at_root, rtype, class, ttl: u32::from_be_bytes([a, b, c, d]), data })
    }
}

/// A place in a packet.
pub(super) struct Reader<'p> {
    pub(super) packet: &'p [u8],
    pub(super) at: usize,
}

impl<'p> Reader<'p> {
    pub(super) fn u8(&mut self) -> Option<u8> {
        let [byte] = self.array()?;
        Some(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = self.packet.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(*array)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&'p [u8]> {
        let bytes = self.packet.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }

    /// Passes over a name, which may be compressed; true if it is the root.
    fn skip_name(&mut self) -> Option<bool> {
        let start = self.at;
        loop {
            let length = self.u8()?;
            match length & 0xc0 {
                0x00 if length == 0 => return Some(self.at == start + 1),
                0x00 => {
                    self.bytes(usize::from(length))?;
                }
                0xc0 => {
                    self.u8()?;
                    return Some(false);
                }
                _ => return None,
            }
        }
    }
}
