//! An answer, written in the place of its query, of which header and question stay.
//!
//! Sections are written in their order. A record set that does not fit is taken back whole, and
//! whoever wrote it says what that means: truncation for what was asked for, nothing for what
//! would only have been kind to add.

use super::cookie::COOKIE;
use super::edns::{Edns, OPTION_COOKIE, OPTION_HEAD, OPTION_NSID, OPTION_PADDING, Subnet};
use super::receive::{HEADER, Request, TYPE_OPT};
use super::resolve::Resolved;
use super::{Rcode, UDP_PAYLOAD};
use crate::zone::{CLASS_IN, Denial, Made, Part, Rdata, RrSet};

/// An answer in the making.
pub(super) struct Message<'o> {
    out: &'o mut Vec<u8>,
    limit: usize,
    /// Whether it is padded.
    padded: bool,
    names: Names,
    /// How many octets the question's name has, until it is among `names`.
    unnamed: usize,
    /// Records by section: answer, authority, additional.
    counts: [u16; 3],
    section: Section,
    truncated: bool,
}

/// Where a record goes (RFC 1035 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// The record set does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

/// A header without anything behind it, of the message that is in `out`, of which its identifier
/// and flags are enough.
pub(super) fn bare(out: &mut Vec<u8>, rcode: Rcode) {
    out.truncate(COUNTS);
    out.resize(HEADER, 0);
    complete(out, (rcode, false, false), [0; 3]);
}

/// The octets of a header before the counts of its sections.
const COUNTS: usize = 4;

/// Completes a header: QR, AA, TC, response code, and how many entries each section has. The
/// identifier, the opcode, RD and the count of questions are as they came (RFC 1035 §4.1.1); RA, AD
/// and CD are never set: this server does not recurse and does not validate.
fn complete(
    message: &mut [u8],
    (rcode, authoritative, truncated): (Rcode, bool, bool),
    counts: [u16; 3],
) {
    let Some([_, _, flags, code, _, _, sections @ ..]) = message.first_chunk_mut::<HEADER>() else {
        return;
    };
    let kept = *flags & (OPCODE | RD);
    *flags = QR | kept | u8::from(authoritative) << 2 | u8::from(truncated) << 1;
    let [_, low] = (rcode as u16).to_be_bytes();
    *code = low & 0x0f;
    let [[an0, an1], [ns0, ns1], [ar0, ar1]] = counts.map(u16::to_be_bytes);
    *sections = [an0, an1, ns0, ns1, ar0, ar1];
}

/// Parts of a header's third octet.
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RD: u8 = 0x01;

impl<'o> Message<'o> {
    /// Of the query that is in `out`, or its answer, header and question, as they came.
    pub(super) fn begin(
        out: &'o mut Vec<u8>,
        request: &Request<'_>,
        (limit, padded): (usize, bool),
    ) -> Self {
        out.truncate(HEADER + request.question.length);
        // Room for the OPT record is set aside first: RFC 6891 §7 wants it also in a truncated
        // answer.
        let reserved = request.edns.as_ref().map_or(0, opt_length);
        Self {
            out,
            limit: limit.saturating_sub(reserved),
            padded,
            names: Names::default(),
            unnamed: request.question.name.as_wire().len(),
            counts: [0; 3],
            section: Section::Answer,
            truncated: false,
        }
    }

    /// Writes a record set of class IN whose owner is `owner`, a name in wire format.
    pub(super) fn set(
        &mut self,
        section: Section,
        owner: &[u8],
        set: &RrSet,
        ttl: u32,
    ) -> Result<(), Full> {
        let mark = self.mark(section);
        for rdata in &set.rdata {
            if self.record(owner, set.rtype.0, CLASS_IN, ttl, rdata).is_err() {
                return Err(self.take_back(mark));
            }
        }
        Ok(())
    }

    /// Writes one record.
    pub(super) fn one(
        &mut self,
        section: Section,
        owner: &[u8],
        (rtype, class, ttl): (u16, u16, u32),
        rdata: &Rdata,
    ) -> Result<(), Full> {
        let mark = self.mark(section);
        self.record(owner, rtype, class, ttl, rdata).map_err(|Full| self.take_back(mark))
    }

    /// Writes records that were made ahead; their first two octets are a pointer to the question,
    /// and become one to `owner`, if that is another name.
    pub(super) fn ready<W: AsRef<[u8]>>(
        &mut self,
        owner: Option<&[u8]>,
        made: &Made<W>,
    ) -> Result<(), Full> {
        let Some(owner) = owner else {
            let wire = made.as_wire();
            if self.out.len() + wire.len() > self.limit {
                return Err(Full);
            }
            self.out.extend_from_slice(wire);
            let [count, ..] = &mut self.counts;
            *count += made.count();
            return Ok(());
        };
        self.ready_for(Section::Answer, owner, made)
    }

    /// The same for another name than the question's.
    pub(super) fn ready_for<W: AsRef<[u8]>>(
        &mut self,
        section: Section,
        owner: &[u8],
        made: &Made<W>,
    ) -> Result<(), Full> {
        let mark = self.mark(section);
        for record in made.records() {
            let Some((_, rest)) = record.split_first_chunk::<2>() else { continue };
            self.write_name(owner);
            self.out.extend_from_slice(rest);
            self.count();
            if self.out.len() > self.limit {
                return Err(self.take_back(mark));
            }
        }
        Ok(())
    }

    /// Writes that something is not there in the zone whose name is the question's from the octet
    /// `origin` on.
    pub(super) fn denial(&mut self, denial: &Denial, origin: usize, ttl: u32) -> Result<(), Full> {
        let mark = self.mark(Section::Authority);
        denial.write(self.out, u16::try_from(HEADER + origin).unwrap_or(0), ttl);
        self.count();
        if self.out.len() > self.limit { Err(self.take_back(mark)) } else { Ok(()) }
    }

    /// The client is to ask again over TCP.
    pub(super) fn cut_short(&mut self) {
        self.truncated = true;
    }

    /// Takes note of whether a record set that has to be there is: without it the answer is
    /// truncated, and the client is to ask again over TCP.
    pub(super) fn required(&mut self, written: Result<(), Full>) -> bool {
        // Not `|=`: the same truth value both stored and branched on is what rustc 1.95 swaps in
        // an optimised build (rust-lang/rust#158206).
        if written.is_err() {
            self.truncated = true;
        }
        written.is_ok()
    }

    /// Writes the OPT record and completes the header. True if the answer is truncated.
    pub(super) fn finish(
        &mut self,
        request: &Request<'_>,
        resolved: &Resolved,
        nsid: Option<&[u8]>,
        cookie: Option<&[u8; COOKIE]>,
    ) -> bool {
        // RFC 2181 §9: TC is set when required records are missing, and a client must not rely
        // on what is left. An answer without records says so best.
        if self.truncated || resolved.rcode == Rcode::ServFail {
            self.out.truncate(HEADER + request.question.length);
            self.counts = [0; 3];
        }
        if let Some(edns) = &request.edns {
            self.section = Section::Additional;
            self.opt(edns, resolved, nsid, cookie);
        }
        let how = (resolved.rcode, resolved.authoritative, self.truncated);
        complete(self.out, how, self.counts);
        self.truncated
    }

    /// The OPT record (RFC 6891 §6.1.2).
    fn opt(
        &mut self,
        edns: &Edns,
        resolved: &Resolved,
        nsid: Option<&[u8]>,
        cookie: Option<&[u8; COOKIE]>,
    ) {
        // The identifier is the one option whose length is the operator's: it goes where it fits.
        let nsid = nsid.filter(|nsid| edns.nsid && self.fits(nsid));
        let of_option = |length: Option<usize>| length.map_or(0, |length| OPTION_HEAD + length);
        let length = edns.subnet.as_ref().map_or(0, Subnet::length)
            + of_option(cookie.map(|cookie| cookie.len()))
            + of_option(nsid.map(<[u8]>::len));
        let padding = if self.padded { self.padding(length) } else { None };
        let length = length + of_option(padding);
        let [extended, _] = (resolved.rcode as u16 >> 4 << 8).to_be_bytes();
        let ([t0, t1], [p0, p1]) = (TYPE_OPT.to_be_bytes(), UDP_PAYLOAD.to_be_bytes());
        let ([l0, l1], dnssec_ok) = (sixteen(length), u8::from(edns.dnssec_ok) << 7);
        self.out.extend_from_slice(&[0, t0, t1, p0, p1, extended, 0, dnssec_ok, 0, l0, l1]);
        if let Some(subnet) = &edns.subnet {
            subnet.write(resolved.scope, self.out);
        }
        if let Some(cookie) = cookie {
            self.option(OPTION_COOKIE, cookie.len());
            self.out.extend_from_slice(cookie);
        }
        if let Some(nsid) = nsid {
            self.option(OPTION_NSID, nsid.len());
            self.out.extend_from_slice(nsid);
        }
        if let Some(padding) = padding {
            self.option(OPTION_PADDING, padding);
            self.out.resize(self.out.len() + padding, 0);
        }
        self.count();
    }

    /// How many octets of padding stand in an OPT record that has so many of options before it:
    /// as many as fill the answer's last block (RFC 8467 §4.1).
    #[cold]
    fn padding(&self, length: usize) -> Option<usize> {
        let before = self.out.len() + OPT_FIXED + length + OPTION_HEAD;
        before.next_multiple_of(BLOCK).min(usize::from(u16::MAX)).checked_sub(before)
    }

    /// Is there room for the identifier? The rest of the OPT record has its room set aside.
    fn fits(&self, nsid: &[u8]) -> bool {
        self.out.len() + OPTION_HEAD + nsid.len() <= self.limit
    }

    fn option(&mut self, code: u16, length: usize) {
        let ([c0, c1], [l0, l1]) = (code.to_be_bytes(), sixteen(length));
        self.out.extend_from_slice(&[c0, c1, l0, l1]);
    }

    fn record(
        &mut self,
        owner: &[u8],
        rtype: u16,
        class: u16,
        ttl: u32,
        rdata: &Rdata,
    ) -> Result<(), Full> {
        self.write_name(owner);
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&class.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        for part in rdata.parts() {
            match part {
                Part::Name(name) => self.write_name(name),
                Part::Bytes(bytes) => self.out.extend_from_slice(bytes),
            }
        }
        let length = self.out.len() - length_at - 2;
        let place = self.out.get_mut(length_at..length_at + 2);
        if let (Ok(length), Some(place)) = (u16::try_from(length), place) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        self.count();
        if self.out.len() > self.limit { Err(Full) } else { Ok(()) }
    }

    /// Writes a name, the longest part of it that was written before as a pointer
    /// (RFC 1035 §4.1.4).
    fn write_name(&mut self, name: &[u8]) {
        if self.unnamed > 0 {
            self.names.add_question(self.out, self.unnamed);
            self.unnamed = 0;
        }
        let mut rest = name;
        let start = self.out.len();
        while let Some((length, behind)) = rest.split_first() {
            if *length == 0 {
                self.out.push(0);
                break;
            }
            if let Some(offset) = self.names.find(self.out, rest) {
                self.out.extend_from_slice(&(0xc000 | offset).to_be_bytes());
                break;
            }
            let Some((label, after)) = behind.split_at_checked(usize::from(*length)) else { break };
            self.out.push(*length);
            self.out.extend_from_slice(label);
            rest = after;
        }
        let written = name.len() - rest.len();
        self.names.add_suffixes(start, name.get(..written).unwrap_or(name));
    }

    fn count(&mut self) {
        if let Some(count) = self.counts.get_mut(self.section as usize) {
            *count = count.saturating_add(1);
        }
    }

    fn mark(&mut self, section: Section) -> Mark {
        self.section = section;
        Mark { length: self.out.len(), counts: self.counts, names: self.names.count }
    }

    fn take_back(&mut self, mark: Mark) -> Full {
        self.out.truncate(mark.length);
        self.counts = mark.counts;
        self.names.count = mark.names;
        Full
    }
}

/// What is restored when a record set does not fit.
#[derive(Clone, Copy)]
struct Mark {
    length: usize,
    counts: [u16; 3],
    names: usize,
}

/// Padded answers have a multiple of so many octets (RFC 8467 §4.1).
const BLOCK: usize = 468;

/// The octets of an OPT record before its options.
const OPT_FIXED: usize = 11;

/// The OPT record that must fit: without the identifier, which is left out where it does not.
fn opt_length(edns: &Edns) -> usize {
    let subnet = edns.subnet.as_ref().map_or(0, Subnet::length);
    OPT_FIXED + subnet + edns.cookie.as_ref().map_or(0, |_| OPTION_HEAD + COOKIE)
}

/// A length as it stands in a message.
fn sixteen(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(0).to_be_bytes()
}

/// Where names stand in the message: what later ones may point to. Bounded, so that no message
/// costs more than its length times this.
struct Names {
    offsets: [u16; Self::MOST],
    count: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { offsets: [0; Self::MOST], count: 0 }
    }
}

impl Names {
    /// Most answers have fewer than ten distinct suffixes.
    const MOST: usize = 64;
    /// How many of a name's are kept.
    const OF_ONE: usize = 16;
    /// A pointer has 14 bits.
    const FARTHEST: usize = 0x3fff;

    /// The question's name, of so many octets, stands behind the header.
    fn add_question(&mut self, message: &[u8], length: usize) {
        self.add_suffixes(HEADER, message.get(HEADER..HEADER + length).unwrap_or(&[]));
    }

    /// The labels of `name` were written at `start`: each begins a suffix. Of a name with very many
    /// the whole is kept, and its last suffixes, which others have in common with it; a whole name
    /// always has a place, so that no set repeats its owner in full.
    fn add_suffixes(&mut self, start: usize, name: &[u8]) {
        let labels = || {
            let begins = |at: &usize| name.get(*at).filter(|length| **length > 0);
            let next = move |at: &usize| Some(at + 1 + usize::from(*begins(at)?));
            std::iter::successors(Some(0), next).take_while(move |at| begins(at).is_some())
        };
        let between = 1..labels().count().saturating_sub(Self::OF_ONE - 1);
        for (row, at) in labels().enumerate().filter(|(row, _)| !between.contains(row)) {
            let offset = u16::try_from(start + at).ok();
            let Some(offset) = offset.filter(|_| start + at <= Self::FARTHEST) else { return };
            if row == 0 {
                self.count = self.count.min(Self::MOST - 1);
            }
            let Some(slot) = self.offsets.get_mut(self.count) else { return };
            *slot = offset;
            self.count += 1;
        }
    }

    /// Where `name` already stands in `message`.
    fn find(&self, message: &[u8], name: &[u8]) -> Option<u16> {
        let known = self.offsets.get(..self.count)?;
        known.iter().copied().find(|offset| stands_at(message, usize::from(*offset), name))
    }
}

/// Does `name` stand at `at` in `message`? Case does not count (RFC 4343). Pointers lead only
/// backwards, because this server wrote them.
fn stands_at(message: &[u8], mut at: usize, mut name: &[u8]) -> bool {
    while let (Some(there), Some(here)) = (message.get(at), name.first()) {
        if there & 0xc0 == 0xc0 {
            let low = message.get(at + 1).copied().unwrap_or(0);
            at = usize::from(there & 0x3f) << 8 | usize::from(low);
            continue;
        }
        let length = 1 + usize::from(*here);
        let (Some(left), Some(right)) = (message.get(at..at + length), name.get(..length)) else {
            return false;
        };
        if !left.eq_ignore_ascii_case(right) {
            return false;
        }
        if *here == 0 {
            return true;
        }
        at += length;
        name = name.get(length..).unwrap_or(&[]);
    }
    false
}
