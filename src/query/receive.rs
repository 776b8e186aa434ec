//! From a packet to a request, or to the reason why there is none.

use super::Rcode;
use super::edns::Edns;
use super::name::{LowerName, Question};

/// A query. It has nothing of the packet, whose place the answer takes. What is read is written
/// where it stays: moved about, it would cost more than to read.
#[derive(Debug)]
pub(super) struct Request<'q> {
    pub(super) question: Question<'q>,
    pub(super) edns: Option<Edns>,
    /// With which code it is answered, if with nothing else: what is behind the question is at
    /// fault, or there is no question that could be answered.
    pub(super) fault: Option<Rcode>,
}

/// Why a packet is no request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    /// Nothing is to be sent.
    Silence(Silence),
    /// A header with this code is to be sent: the rest could not be read.
    Bare(Rcode),
}

/// Why a packet is left without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Silence {
    /// It is shorter than a header: it has no id to answer to, or no flag that says that it is
    /// a query.
    TooShort,
    /// It came from port 0: nobody is there (RFC 768).
    NoPort,
    /// It is a response. Answering one could make two servers talk for ever.
    Response,
}

impl Silence {
    /// A word for it: the label of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::NoPort => "no_port",
            Self::Response => "response",
        }
    }
}

/// The octets of a header (RFC 1035 §4.1.1).
pub(super) const HEADER: usize = 12;

impl<'q> Request<'q> {
    /// One that is not read, whose name is to be left in `room`.
    pub(super) fn new(room: &'q mut LowerName) -> Self {
        Self { question: Question::new(room), edns: None, fault: None }
    }

    /// Reads `packet` whole.
    pub(super) fn read(&mut self, packet: &[u8]) -> Result<(), Refusal> {
        let Some(head) = packet.first_chunk::<HEADER>() else {
            return Err(Refusal::Silence(Silence::TooShort));
        };
        let [_, _, flags, _, q0, q1, counts @ ..] = *head;
        if flags & 0x80 != 0 {
            return Err(Refusal::Silence(Silence::Response));
        }
        if flags >> 3 & 0x0f != OPCODE_QUERY {
            return self.read_operation(packet, ([q0, q1], counts));
        }
        if [q0, q1] != [0, 1] {
            return self.read_cookie(packet, ([q0, q1], counts));
        }
        let mut reader = Reader { packet, at: HEADER };
        self.question.read(&mut reader).ok_or(Refusal::Bare(Rcode::FormErr))?;
        self.fault = read_records(&mut reader, counts, &mut self.edns).err();
        Ok(())
    }

    /// Reads another operation than a query, which is not implemented. RFC 6891 §6.1.1: who sends
    /// an OPT record gets one, if it can be found.
    #[cold]
    fn read_operation(
        &mut self,
        packet: &[u8],
        (questions, counts): ([u8; 2], [u8; 6]),
    ) -> Result<(), Refusal> {
        let mut reader = Reader { packet, at: HEADER };
        if questions != [0, 1] || self.question.read(&mut reader).is_none() {
            return Err(Refusal::Bare(Rcode::NotImp));
        }
        let read = read_records(&mut reader, counts, &mut self.edns);
        // RFC 6891 §6.1.3: whatever is wrong besides that its version is not known.
        let is_unknown = read == Err(Rcode::BadVers);
        self.fault = Some(if is_unknown { Rcode::BadVers } else { Rcode::NotImp });
        if read.is_ok() || self.edns.is_some() { Ok(()) } else { Err(Refusal::Bare(Rcode::NotImp)) }
    }

    /// Reads a query that has not one question. RFC 7873 §5.4: one without any asks for a cookie,
    /// if it has one; it is answered as it is, and counts under limits as a name of no zone does.
    /// RFC 9619 §4: a query with QDCOUNT > 1 must be answered with FORMERR.
    #[cold]
    fn read_cookie(
        &mut self,
        packet: &[u8],
        (questions, counts): ([u8; 2], [u8; 6]),
    ) -> Result<(), Refusal> {
        let mut reader = Reader { packet, at: HEADER };
        if (questions, counts) != ([0; 2], [0, 0, 0, 0, 0, 1]) {
            return Err(Refusal::Bare(Rcode::FormErr));
        }
        let read = read_records(&mut reader, counts, &mut self.edns);
        let edns = self.edns.as_ref().ok_or(Refusal::Bare(Rcode::FormErr))?;
        self.fault = Some(match read {
            Ok(()) if edns.cookie.is_some() => Rcode::NoError,
            Ok(()) => Rcode::FormErr,
            Err(rcode) => rcode,
        });
        Ok(())
    }
}

/// A QUERY (RFC 1035 §4.1.1).
const OPCODE_QUERY: u8 = 0;

/// Passes over the records of the sections behind the question, which a query has no use for, but
/// for the OPT record.
fn read_records(
    reader: &mut Reader<'_>,
    counts: [u8; 6],
    edns: &mut Option<Edns>,
) -> Result<(), Rcode> {
    // What nearly every query has: an OPT record, and nothing else.
    let rest = reader.packet.get(reader.at..).filter(|_| counts == [0, 0, 0, 0, 0, 1]);
    let opt = match rest.and_then(RawOpt::alone) {
        Some(opt) => Some(opt),
        None => find_opt(reader, counts)?,
    };
    opt.map_or(Ok(()), |opt| edns.insert(Edns::new(&opt)).read(&opt))
}

/// The OPT record among those of the sections behind the question.
#[inline(never)]
fn find_opt<'p>(reader: &mut Reader<'p>, counts: [u8; 6]) -> Result<Option<RawOpt<'p>>, Rcode> {
    let [an0, an1, ns0, ns1, ar0, ar1] = counts;
    let [answer, authority, additional] =
        [[an0, an1], [ns0, ns1], [ar0, ar1]].map(|of| u32::from(u16::from_be_bytes(of)));
    let before_additional = answer + authority;
    let mut opt = None;
    for index in 0..before_additional + additional {
        let record = Record::read(reader).ok_or(Rcode::FormErr)?;
        if record.rtype != TYPE_OPT {
            continue;
        }
        // RFC 6891 §6.1.1: an OPT record stands in the additional section, its name is the root,
        // and a message with more than one is malformed.
        if index < before_additional || !record.at_root || opt.is_some() {
            return Err(Rcode::FormErr);
        }
        opt = Some(record.opt);
    }
    if reader.at != reader.packet.len() {
        return Err(Rcode::FormErr);
    }
    Ok(opt)
}

/// The OPT pseudo-record (RFC 6891 §6.1.1).
pub(super) const TYPE_OPT: u16 = 41;

/// The parts of an OPT record.
pub(super) struct RawOpt<'p> {
    pub(super) payload: u16,
    pub(super) version: u8,
    pub(super) flags: u8,
    pub(super) options: &'p [u8],
}

impl<'p> RawOpt<'p> {
    /// The one that `rest` is, and nothing more.
    fn alone(rest: &'p [u8]) -> Option<Self> {
        let ([0, t0, t1, p0, p1, _, version, flags, _, l0, l1], options) =
            rest.split_first_chunk()?
        else {
            return None;
        };
        let is_it = [*t0, *t1] == TYPE_OPT.to_be_bytes();
        let is_all = options.len() == usize::from(u16::from_be_bytes([*l0, *l1]));
        let payload = u16::from_be_bytes([*p0, *p1]);
        let opt = Self { payload, version: *version, flags: *flags, options };
        (is_it && is_all).then_some(opt)
    }
}

struct Record<'p> {
    at_root: bool,
    rtype: u16,
    /// What it is if it is an OPT record.
    opt: RawOpt<'p>,
}

impl<'p> Record<'p> {
    fn read(reader: &mut Reader<'p>) -> Option<Self> {
        let at_root = reader.skip_name()?;
        let [t0, t1, p0, p1, _, version, flags, _, l0, l1] = reader.array()?;
        let options = reader.bytes(usize::from(u16::from_be_bytes([l0, l1])))?;
        let opt = RawOpt { payload: u16::from_be_bytes([p0, p1]), version, flags, options };
        Some(Self { at_root, rtype: u16::from_be_bytes([t0, t1]), opt })
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
