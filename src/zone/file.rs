//! Zone files (RFC 1035 §5.1, RFC 2308 §4, RFC 3597 §5).

use std::fmt;

use bytes::Bytes;
use domain::base::iana::Class;
use domain::base::name::FlattenInto;
use domain::base::rdata::ComposeRecordData;
use domain::zonefile::inplace::{Entry, ScannedRecord, Zonefile};

use super::name::Name;
use super::record::RecordType;
use super::words::in_seconds;
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

/// Hands on the records of the zone file `file`, whose text is `text`, one after the other.
/// `include` gives the text of a file that it names.
///
/// # Errors
/// In each file, the first place that cannot be read. What was handed on before is not the whole.
pub fn parse(
    file: &str,
    text: &[u8],
    origin: &Name,
    include: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    take: &mut dyn FnMut(FileRecord<'_>),
) -> Result<(), Vec<FileProblem>> {
    let mut reading = Reading { include, take, problems: Vec::new(), wire: Vec::new() };
    reading.file(file, text, origin, 0);
    if reading.problems.is_empty() { Ok(()) } else { Err(reading.problems) }
}

struct Reading<'i> {
    include: &'i mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    take: &'i mut dyn FnMut(FileRecord<'_>),
    problems: Vec<FileProblem>,
    /// Room for the data of a record.
    wire: Vec<u8>,
}

impl Reading<'_> {
    fn file(&mut self, file: &str, text: &[u8], origin: &Name, depth: usize) {
        let text = match in_seconds(text) {
            Ok(text) => text,
            Err((at, what)) => {
                let (file, what) = (file.to_owned(), what.to_owned());
                self.problems.push(FileProblem { file, at: Some(at), what });
                return;
            }
        };
        let text = text.as_ref();
        let mut zonefile = Zonefile::from(text);
        // A last line without its end is a line.
        zonefile.extend_from_slice(b"\n");
        // Of any other class the reader tells that it is another.
        zonefile.set_default_class(Class::IN);
        let Ok(parsed) = domain::base::Name::from_octets(Bytes::copy_from_slice(origin.as_wire()))
        else {
            return;
        };
        zonefile.set_origin(parsed);
        let mut lines = Lines { text, offset: 0, line: 1 };
        loop {
            let entry = zonefile.next_entry();
            let line = lines.at(zonefile.current_offset());
            match entry {
                Ok(None) => return,
                Ok(Some(Entry::Record(record))) => self.record(file, line, record),
                Ok(Some(Entry::Include { path, origin: below })) => {
                    let below = below.and_then(|name| Name::from_wire(name.as_slice()));
                    let origin = below.as_ref().unwrap_or(origin);
                    self.include(file, line, path.as_ref(), origin, depth);
                }
                Err(error) => {
                    // The reader tells `line:column: what`.
                    let told = error.to_string();
                    let mut fields = told.splitn(3, ':');
                    let mut number = || fields.next().and_then(|field| field.trim().parse().ok());
                    let at = number().zip(number()).map(|at| end_of_token(text, at));
                    let what = fields.next().unwrap_or("").trim().to_owned();
                    self.problems.push(FileProblem { file: file.to_owned(), at, what });
                    return;
                }
            }
        }
    }

    fn include(&mut self, file: &str, line: usize, path: &str, origin: &Name, depth: usize) {
        let text = if depth < DEEPEST_INCLUDE {
            (self.include)(path)
        } else {
            Err(format!("files include each other more than {DEEPEST_INCLUDE} deep"))
        };
        match text {
            Ok(text) => self.file(path, &text, origin, depth + 1),
            Err(reason) => self.problems.push(FileProblem {
                file: file.to_owned(),
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
        let ttl = Ttl::from_secs(record.ttl().as_secs());
        self.wire.clear();
        let data: domain::rdata::ZoneRecordData<Bytes, domain::base::Name<Bytes>> =
            record.into_data().flatten_into();
        let composed = data.compose_rdata(&mut self.wire);
        if composed.is_err() || self.wire.len() > usize::from(u16::MAX) {
            return problem("the record's data is longer than 65535 octets");
        }
        (self.take)(FileRecord { owner, ttl, rtype, data: &self.wire });
    }
}

/// Where the last token that was read ends. The reader passes over the end of a line with it, and
/// then tells the beginning of the next line.
fn end_of_token(text: &[u8], (line, column): (usize, usize)) -> (usize, usize) {
    let before = (column == 1).then(|| line.checked_sub(2)).flatten();
    match before.and_then(|before| text.split(|octet| *octet == b'\n').nth(before)) {
        Some(ended) => (line - 1, ended.len() + 1),
        None => (line, column),
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
        let offset = offset.min(self.text.len());
        let passed = self.text.get(self.offset..offset).unwrap_or(&[]);
        self.line += passed.iter().filter(|octet| **octet == b'\n').count();
        self.offset = self.offset.max(offset);
        let ended = self.offset > 0 && self.text.get(self.offset - 1) == Some(&b'\n');
        self.line - usize::from(ended)
    }
}
