//! Zone files (RFC 1035 §5.1, RFC 2308 §4, RFC 3597 §5).

use std::borrow::Cow;
use std::fmt;
use std::iter::Peekable;
use std::vec;

use bytes::Bytes;
use domain::base::ParsedName;
use domain::base::iana::{Class, Rtype};
use domain::base::name::FlattenInto;
use domain::base::rdata::{ComposeRecordData, ParseRecordData};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry, ScannedRecord, Zonefile};

use super::name::Name;
use super::record::{RecordType, minimum};
use super::wellformed::expected;
use super::words::{UNSAID, end_of_words, next_owner, prepared};
use crate::time::Ttl;

/// A record of a zone file.
#[derive(Clone, Debug)]
pub struct FileRecord<'d> {
    /// Whose it is.
    pub owner: Name,
    /// How long it may be cached.
    pub ttl: Ttl,
    /// Its type.
    pub rtype: RecordType,
    /// Its data in wire format, names uncompressed.
    pub data: &'d [u8],
    /// The file and the line in which it ends.
    pub at: (&'d str, usize),
}

/// Why a zone file cannot be accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileProblem {
    /// The file.
    pub file: String,
    /// Line and column, as far as they are known; the first are 1.
    pub at: Option<(usize, usize)>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// How deep files may include files: deeper is a circle.
const DEEPEST_INCLUDE: usize = 8;

/// How many files may be included in all: in eight steps a few lines could include millions.
const MOST_INCLUDES: usize = 1000;

/// As many problems are told; whoever has more has one reason for many.
const MOST_PROBLEMS: usize = 100;

/// Hands on the records of the zone file `file`, whose text is `text`, one after the other.
/// `include` gives the text of a file that it names.
///
/// # Errors
/// All entries that cannot be read, but for those without an owner of their own behind one; at most
/// a hundred, with which reading ends. What was handed on is not the whole then.
pub fn parse(
    file: &str,
    text: &[u8],
    origin: &Name,
    include: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    take: &mut dyn FnMut(FileRecord<'_>),
) -> Result<(), Vec<FileProblem>> {
    let (problems, ttls, wire) = (Vec::new(), Ttls::default(), Vec::new());
    let mut reading = Reading { include, take, problems, included: 0, ttls, wire };
    reading.file(file, text, origin, 0);
    if reading.problems.is_empty() { Ok(()) } else { Err(reading.problems) }
}

struct Reading<'i> {
    include: &'i mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    take: &'i mut dyn FnMut(FileRecord<'_>),
    problems: Vec<FileProblem>,
    /// How many files were included.
    included: usize,
    ttls: Ttls,
    /// Room for the data of a record.
    wire: Vec<u8>,
}

/// The TTL of a record without one. It goes on into and behind an included file: what counts is
/// what stands before the record.
#[derive(Default)]
struct Ttls {
    /// What the last `$TTL` says (RFC 2308 §4).
    default: Option<u32>,
    /// The last one that a record has (RFC 1035 §5.1).
    last: Option<u32>,
}

impl Ttls {
    /// The TTL of a record for which the reader gives `told`. Where there is none yet, a SOA record
    /// without one gives its MINIMUM to itself and to all that have none, as with BIND.
    fn of(&mut self, told: u32, rtype: RecordType, data: &[u8]) -> Option<u32> {
        if told != UNSAID {
            self.last = Some(told);
            return self.last;
        }
        let known = self.default.or(self.last);
        if known.is_none() && rtype == RecordType::SOA {
            self.default = minimum(data).map(Ttl::as_secs);
            return self.default;
        }
        known
    }
}

/// A file that is read.
struct Source<'t> {
    name: &'t str,
    text: &'t [u8],
    /// What each `$TTL` says that is not read yet, and where.
    defaults: Peekable<vec::IntoIter<(usize, u32)>>,
    lines: Lines<'t>,
    /// How many files include it, each in the next one.
    depth: usize,
}

impl Reading<'_> {
    fn file(&mut self, name: &str, text: &[u8], origin: &Name, depth: usize) {
        let text = match prepared(text) {
            Ok(text) => text,
            Err((at, what)) => {
                let (file, what) = (name.to_owned(), what.to_owned());
                self.problems.push(FileProblem { file, at: Some(at), what });
                return;
            }
        };
        let origin = domain::base::Name::from_octets(Bytes::copy_from_slice(origin.as_wire()));
        let Ok(mut origin) = origin else { return };
        let (defaults, text) = (text.defaults.into_iter().peekable(), text.octets.as_ref());
        let lines = Lines { text, offset: 0, line: 1 };
        let mut source = Source { name, text, defaults, lines, depth };
        let mut next = Some(0);
        while let Some(start) = next {
            next = self.entries(&mut source, start, &mut origin);
        }
    }

    /// Reads entries from an offset on: to the end, or to one that cannot be read. Then it tells
    /// where the next one begins with which reading goes on.
    fn entries(
        &mut self,
        source: &mut Source<'_>,
        start: usize,
        origin: &mut domain::base::Name<Bytes>,
    ) -> Option<usize> {
        let text = source.text.get(start..)?;
        let head = format!("$TTL {UNSAID}\n");
        let mut zonefile = Zonefile::with_capacity(head.len() + text.len() + 1);
        zonefile.extend_from_slice(head.as_bytes());
        zonefile.extend_from_slice(text);
        // A last line without its end is a line.
        zonefile.extend_from_slice(b"\n");
        // Of any other class the reader tells that it is another.
        zonefile.set_default_class(Class::IN);
        zonefile.set_origin(origin.clone());
        let above = source.lines.above(start);
        let mut done = 0;
        while self.problems.len() < MOST_PROBLEMS {
            let entry = zonefile.next_entry();
            // Behind the last record, the reader does not tell what it has passed over.
            let is_over = matches!(entry, Ok(None));
            let read = zonefile.current_offset().saturating_sub(head.len());
            let offset = start + if is_over { text.len() } else { read };
            let line = source.lines.at(offset);
            while let Some((_, ttl)) = source.defaults.next_if(|(at, _)| *at < offset) {
                self.ttls.default = Some(ttl);
            }
            match entry {
                Ok(None) => return None,
                Ok(Some(Entry::Record(record))) => self.record(source.name, line, record),
                Ok(Some(Entry::Include { path, origin: below })) => {
                    // RFC 1035 §5.1: without one, the origin is what it is now.
                    let below = below.or_else(|| zonefile.origin().ok())?;
                    let below = Name::from_wire(below.as_slice())?;
                    self.include(source, line, path.as_ref(), &below);
                }
                Err(error) => {
                    let (at, what) = unread(text, &error.to_string());
                    let file = source.name.to_owned();
                    let place = at.map(|(line, column)| (above + line, column));
                    self.problems.push(FileProblem { file, at: place, what });
                    // It may have been the first one with a TTL.
                    self.ttls.default.get_or_insert(0);
                    *origin = zonefile.origin().ok()?;
                    return next_owner(text, done, offset_of(text, at?)).map(|next| start + next);
                }
            }
            done = read;
        }
        None
    }

    fn include(&mut self, from: &Source<'_>, line: usize, path: &str, origin: &Name) {
        self.included += 1;
        let text = if from.depth >= DEEPEST_INCLUDE {
            Err(format!("files include each other more than {DEEPEST_INCLUDE} deep"))
        } else if self.included > MOST_INCLUDES {
            Err(format!("more than {MOST_INCLUDES} files are included in all"))
        } else {
            (self.include)(path)
        };
        match text {
            Ok(text) => self.file(path, &text, origin, from.depth + 1),
            Err(reason) => self.problems.push(FileProblem {
                file: from.name.to_owned(),
                at: Some((line, 1)),
                what: format!("cannot include `{path}`: {reason}"),
            }),
        }
    }

    fn record(&mut self, file: &str, line: usize, record: ScannedRecord) {
        let mut problem = |what: &str| {
            let what = what.to_owned();
            self.problems.push(FileProblem { file: file.to_owned(), at: Some((line, 1)), what });
        };
        let Some(owner) = Name::of(record.owner()) else {
            return problem("the owner's name is longer than 255 octets");
        };
        let rtype = RecordType(record.rtype().to_int());
        let told = record.ttl().as_secs();
        self.wire.clear();
        let data: ZoneRecordData<Bytes, domain::base::Name<Bytes>> =
            record.into_data().flatten_into();
        let composed = data.compose_rdata(&mut self.wire);
        if composed.is_err() || self.wire.len() > usize::from(u16::MAX) {
            return problem("the record's data is longer than 65535 octets");
        }
        if let ZoneRecordData::Unknown(data) = &data
            && !is_of_type(data.rtype(), &self.wire)
        {
            return problem(&format!(
                "these octets are no data of type {rtype}; write them without `\\#`"
            ));
        }
        if let Some(expected) = expected(Rtype::from_int(rtype.0), &self.wire) {
            return problem(&format!("no data of type {rtype}; expected {expected}"));
        }
        let Some(ttl) = self.ttls.of(told, rtype, &self.wire) else {
            // Told once: the next ones have none for the same reason.
            self.ttls.default = Some(0);
            return problem("no TTL here nor before; give the file one on top, such as `$TTL 1h`");
        };
        let ttl = Ttl::from_secs(ttl);
        (self.take)(FileRecord { owner, ttl, rtype, data: &self.wire, at: (file, line) });
    }
}

/// Is `wire` the data of a record of this type, names uncompressed? Of a type that is not known,
/// anything is. RFC 3597 §5: a known type may be written as an unknown one, which is not checked.
fn is_of_type(rtype: Rtype, wire: &[u8]) -> bool {
    let mut parser = Parser::from_ref(wire);
    let data = ZoneRecordData::<_, ParsedName<_>>::parse_rdata(rtype, &mut parser);
    let mut again = Vec::new();
    let composed = data.ok().flatten().map(|data| data.compose_rdata(&mut again));
    matches!(composed, Some(Ok(()))) && again == wire
}

/// What the reader tells of `text`, as `line:column: what`: where the last token ends that it has
/// read, and what was wrong with it. Above the text it has a line of its own.
fn unread(text: &[u8], told: &str) -> (Option<(usize, usize)>, String) {
    let mut fields = told.splitn(3, ':');
    let mut number = || fields.next().and_then(|field| field.trim().parse().ok());
    let at = number().zip(number()).and_then(|(line, column)| {
        Some(end_of_token(text, (usize::checked_sub(line, 1)?, column)))
    });
    let word = at.map_or("".into(), |at| last_word(text, at));
    let told = fields.next().unwrap_or("").trim();
    // Of some types it has read the first of the data by then.
    let rtype = at.filter(|_| told == NOT_READ).and_then(|at| last_type(text, at));
    (at, explained(told, &rtype.map_or(word, Into::into)))
}

/// The octet at a line and column.
fn offset_of(text: &[u8], (line, column): (usize, usize)) -> usize {
    let before = text.split_inclusive(|octet| *octet == b'\n').take(line.saturating_sub(1));
    before.map(<[u8]>::len).sum::<usize>() + column.saturating_sub(1)
}

/// Where the last token that was read ends. The reader passes over what is behind the last one of a
/// line with it, and then tells the beginning of the next line.
fn end_of_token(text: &[u8], (line, column): (usize, usize)) -> (usize, usize) {
    let before = (column == 1).then(|| line.checked_sub(2)).flatten();
    match before.and_then(|before| text.split(|octet| *octet == b'\n').nth(before)) {
        Some(ended) => (line - 1, end_of_words(ended) + 1),
        None => (line, column),
    }
}

/// The word that ends at a place, or else the last one before it.
fn last_word(text: &[u8], (line, column): (usize, usize)) -> Cow<'_, str> {
    let line = text.split(|octet| *octet == b'\n').nth(line.saturating_sub(1)).unwrap_or(&[]);
    let before = line.get(..column.saturating_sub(1)).unwrap_or(line);
    let is_within = |octet: &u8| !b" \t\r();".contains(octet);
    let end = before.iter().rposition(is_within).map_or(0, |last| last + 1);
    let start = before.iter().take(end).rposition(|octet| !is_within(octet));
    // What is wrong may not be its end.
    let behind = line.get(end..).filter(|_| end == before.len()).unwrap_or(&[]);
    let end = end + behind.iter().take_while(|octet| is_within(octet)).count();
    String::from_utf8_lossy(line.get(start.map_or(0, |at| at + 1)..end).unwrap_or(&[]))
}

/// The last word before a place that is a type's.
fn last_type(text: &[u8], (line, column): (usize, usize)) -> Option<&str> {
    let line = text.split(|octet| *octet == b'\n').nth(line.checked_sub(1)?)?;
    let words = line.get(..column.checked_sub(1)?)?.split(u8::is_ascii_whitespace);
    let mut words = words.rev().filter_map(|word| std::str::from_utf8(word).ok());
    words.find(|word| word.parse::<Rtype>().is_ok())
}

/// What the reader tells of a type whose data it does not know.
const NOT_READ: &str = "unknown record type with concrete data";

/// What the reader tells, with the last word that it has read.
fn explained(told: &str, word: &str) -> String {
    match told {
        "expected rtype" => format!("expected a type, found `{word}`"),
        NOT_READ => {
            format!("of type {word} only octets are read; write `{word} \\# …` (RFC 3597)")
        }
        "invalid SvcParamKey" | "this implementation does not allow escape sequences in alpn" => {
            format!(
                "`{word}`: keys with a 9 or a z and escapes in `alpn` are not read; write the \
                 record's data as `\\# …` (RFC 3597)"
            )
        }
        _ if told.starts_with("expected ") => format!("{told}, found `{word}`"),
        _ => told.to_owned(),
    }
}

/// Counts lines up to an offset.
struct Lines<'t> {
    text: &'t [u8],
    offset: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of the entry that ends before `offset`, which only grows.
    fn at(&mut self, offset: usize) -> usize {
        let above = self.above(offset);
        let ended = self.offset > 0 && self.text.get(self.offset - 1) == Some(&b'\n');
        above + 1 - usize::from(ended)
    }

    /// How many lines end before `offset`, which only grows.
    fn above(&mut self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let passed = self.text.get(self.offset..offset).unwrap_or(&[]);
        self.line += passed.iter().filter(|octet| **octet == b'\n').count();
        self.offset = self.offset.max(offset);
        self.line - 1
    }
}
