//! The words of a zone file, before it is read: what the reader would stumble over is found, and
//! what it does not know is written as it does.
//!
//! - Times with units become seconds. RFC 1035 §5.1 knows seconds only, but BIND's `1h30m` is in
//!   most files that people have.
//! - `@` for the origin, which the reader knows as an owner only, becomes `""` where a name stands.
//! - In quoted texts, what is no printable ASCII is escaped; elsewhere `\ ` becomes `\032`.
//! - The name of an included file loses its quotes.
//!
//! The reader knows no `$TTL` but those of the file at hand, and does not tell which records have a
//! TTL. So it is given another time with each `$TTL`, which it gives to those that have none.

use std::borrow::Cow;
use std::ops::Range;

/// A part of a zone file: its octets.
enum Piece {
    Word(Range<usize>),
    /// A word in quotes, and with them.
    Quoted(Range<usize>),
    /// An entry has ended.
    End,
}

/// What the reader would stumble over: where, and what it is.
type Stumble = (usize, &'static str);

/// The TTL that the reader gives to records without one. No TTL is as long (RFC 2181 §8).
pub(super) const UNSAID: u32 = u32::MAX;

/// The longest TTL (RFC 2181 §8).
const LONGEST: u32 = i32::MAX as u32;

const TOUCHES: &str = "a quoted text touches what stands beside it; put a space between";
const ENDLESS: &str = "what begins here never ends; expected `)` or `\"` before the file does";
const TOO_LONG: &str = "a TTL has 2147483647 seconds at most";
const NOT_ASCII: &str = "no printable ASCII; write names as `xn--…` (RFC 5890), and other texts in \
                         quotes";
const MISREAD: &str = "`key0` to `key9`, keys whose number begins with 0, `docpath` and `oots` are \
                       not read; write the parameter's name, or the record's data as `\\# …` \
                       (RFC 3597)";

/// A zone file for the reader.
pub(super) struct Text<'t> {
    /// Its octets: times in seconds, and [`UNSAID`] with each `$TTL`.
    pub(super) octets: Cow<'t, [u8]>,
    /// What each `$TTL` says, and where in the octets it does.
    pub(super) defaults: Vec<(usize, u32)>,
}

/// `text` for the reader.
///
/// # Errors
/// The line and column of what the reader would stumble over, and what it is: a quote that has
/// something directly before it, if it opens a text, or behind it, if it closes one; what is opened
/// and never closed; a TTL that is too long; a word that is not ASCII; a parameter to which the
/// reader would give another value.
pub(super) fn prepared(text: &[u8]) -> Result<Text<'_>, ((usize, usize), &'static str)> {
    let mut field = Field::First;
    let mut rewriting = Rewriting { text, written: Vec::new(), done: 0, defaults: Vec::new() };
    let read = pieces(text, |piece| {
        let (range, is_quoted) = match piece {
            Piece::Word(range) => (range, false),
            Piece::Quoted(range) => (range, true),
            Piece::End => {
                field = Field::First;
                return Ok(());
            }
        };
        let begins_line = begins_line(text, range.start);
        let marks = usize::from(is_quoted);
        let word = text.get(range.start + marks..range.end - marks).unwrap_or(&[]);
        let (role, next) = field.take(word, begins_line);
        field = next;
        if is_quoted { rewriting.quoted(range, role) } else { rewriting.word(range, role) }
    });
    match read {
        Ok(()) => Ok(rewriting.finish()),
        Err((at, what)) => Err((place(text, at), what)),
    }
}

/// Where behind an octet the first entry begins that has an owner of its own or is a directive.
/// Some entry ends at `from`, before the octet.
pub(super) fn next_owner(text: &[u8], from: usize, behind: usize) -> Option<usize> {
    let rest = text.get(from..)?;
    let mut is_first = true;
    let found = pieces(rest, |piece| {
        let is_end = matches!(piece, Piece::End);
        match piece {
            Piece::Word(range) | Piece::Quoted(range)
                if is_first && begins_line(rest, range.start) && from + range.start > behind =>
            {
                return Err((from + range.start, ""));
            }
            _ => is_first = is_end,
        }
        Ok(())
    });
    found.err().map(|(at, _)| at)
}

/// Where the last word of a line ends: blanks and a comment may be behind it.
pub(super) fn end_of_words(line: &[u8]) -> usize {
    let mut end = 0;
    let take = |piece| {
        if let Piece::Word(range) | Piece::Quoted(range) = piece {
            end = range.end;
        }
        Ok(())
    };
    // What is open may be closed in another line.
    let _open = pieces(line, take);
    end
}

fn begins_line(text: &[u8], at: usize) -> bool {
    at == 0 || text.get(at - 1) == Some(&b'\n')
}

/// The line and column of an octet.
fn place(text: &[u8], at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.iter().filter(|octet| **octet == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|octet| **octet != b'\n').count() + 1;
    (line, column)
}

/// A text on its way to the reader.
struct Rewriting<'t> {
    text: &'t [u8],
    /// What was written for its first octets, and how many of them those are.
    written: Vec<u8>,
    done: usize,
    defaults: Vec<(usize, u32)>,
}

impl<'t> Rewriting<'t> {
    /// Writes `by` for what stands at `range`.
    fn replace(&mut self, range: Range<usize>, by: &[u8]) {
        self.written.extend_from_slice(self.text.get(self.done..range.start).unwrap_or(&[]));
        self.written.extend_from_slice(by);
        self.done = range.end;
    }

    fn finish(mut self) -> Text<'t> {
        let octets = match self.done {
            0 => Cow::Borrowed(self.text),
            _ => {
                self.replace(self.text.len()..self.text.len(), &[]);
                Cow::Owned(self.written)
            }
        };
        Text { octets, defaults: self.defaults }
    }

    fn word(&mut self, range: Range<usize>, role: Role) -> Result<(), Stumble> {
        let word = self.text.get(range.clone()).unwrap_or(&[]);
        let (at, is_default) = (range.start, role == Role::Default);
        match role {
            // RFC 1035 §5.1: a free standing `@` denotes the current origin.
            Role::Name if word == b"@" => self.replace(range, b"\"\""),
            Role::Ttl | Role::Default | Role::Time => {
                // What is no time is left to the reader, to be refused.
                let Some((seconds, has_unit)) = seconds(word) else { return Ok(()) };
                if role != Role::Time && seconds > LONGEST {
                    return Err((at, TOO_LONG));
                }
                if is_default || has_unit {
                    let written = if is_default { UNSAID } else { seconds }.to_string();
                    self.replace(range, written.as_bytes());
                    let start = self.written.len() - written.len();
                    self.defaults.extend(is_default.then_some((start, seconds)));
                }
            }
            // The reader takes any.
            Role::Path => {}
            Role::Param if is_misread(word) => return Err((at, MISREAD)),
            _ if word.iter().all(u8::is_ascii_graphic) => {}
            _ => {
                let written = without_blanks(word);
                if !written.iter().all(u8::is_ascii_graphic) {
                    return Err((at, NOT_ASCII));
                }
                self.replace(range, &written);
            }
        }
        Ok(())
    }

    fn quoted(&mut self, range: Range<usize>, role: Role) -> Result<(), Stumble> {
        let before = self.text.get(..range.start).and_then(<[u8]>::last);
        // RFC 9460 §2.1: `alpn="h2,h3"`.
        let is_value = role == Role::Param && before == Some(&b'=');
        if !is_apart(before) && !is_value {
            return Err((range.start, TOUCHES));
        }
        if !is_apart(self.text.get(range.end)) {
            return Err((range.end - 1, TOUCHES));
        }
        let inside = self.text.get(range.start + 1..range.end - 1).unwrap_or(&[]);
        if role == Role::Param && !is_value && is_misread(inside) {
            return Err((range.start, MISREAD));
        }
        if role == Role::Path {
            self.replace(range, &without_quotes(inside));
        } else if !inside.iter().all(|octet| is_readable(*octet)) {
            self.replace(range.start + 1..range.end - 1, &escaped(inside));
        }
        Ok(())
    }
}

/// Whether the reader would give another value to a parameter. By its number, too, it reads the
/// value as it is written behind the name, and not the octets that stand there (RFC 9460 §2.1); of
/// some names it reads the octets.
fn is_misread(parameter: &[u8]) -> bool {
    let key = parameter.split(|octet| *octet == b'=').next().unwrap_or(&[]);
    match key.strip_prefix(b"key") {
        Some(number) => matches!(number, [b'0', ..] | [b'1'..=b'9']),
        None => matches!(key, b"docpath" | b"oots"),
    }
}

/// A word whose blanks, which are all escaped, are written as numbers (RFC 1035 §5.1).
fn without_blanks(word: &[u8]) -> Vec<u8> {
    let written = word.iter().flat_map(|octet| match octet {
        b' ' => b"032",
        b'\t' => b"009",
        octet => std::slice::from_ref(octet),
    });
    written.copied().collect()
}

/// Whether an octet can stand in quotes.
fn is_readable(octet: u8) -> bool {
    matches!(octet, b' '..=b'~' | b'\n')
}

/// What stands in quotes, with the rest of it as `\DDD` (RFC 1035 §5.1).
fn escaped(inside: &[u8]) -> Vec<u8> {
    let (mut written, mut octets) = (Vec::with_capacity(inside.len() * 2), inside.iter());
    while let Some(first) = octets.next() {
        let behind = if *first == b'\\' { octets.next() } else { None };
        match behind.unwrap_or(first) {
            octet if !is_readable(*octet) => written.extend(format!("\\{octet:03}").as_bytes()),
            _ => written.extend([first].into_iter().chain(behind)),
        }
    }
    written
}

/// What stands in quotes, as it is written without them.
fn without_quotes(inside: &[u8]) -> Vec<u8> {
    let (mut written, mut octets) = (Vec::with_capacity(inside.len()), inside.iter());
    while let Some(octet) = octets.next() {
        if b" ;()".contains(octet) {
            written.push(b'\\');
        }
        written.push(*octet);
        if *octet == b'\\' {
            written.extend(octets.next());
        }
    }
    written
}

/// Where in an entry a word stands.
#[derive(Clone, Copy)]
enum Field {
    /// It is the first one: a directive, an owner, or without one as the next.
    First,
    /// A TTL, a class or the type.
    BeforeType,
    /// So many words behind a directive or a type.
    Behind(Kind, usize),
}

/// What is told of a word by where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing.
    Any,
    Ttl,
    /// A time that is no TTL.
    Time,
    /// What `$TTL` says.
    Default,
    Name,
    /// The name of a file.
    Path,
    /// A parameter of a service binding (RFC 9460 §2.1).
    Param,
}

/// What directives and types have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Default,
    Include,
    Soa,
    /// RFC 9460 §2.1.
    Service,
    /// From the first row to the second, names.
    Names(usize, usize),
    /// Nothing of interest.
    Other,
}

/// Those that have something of interest.
const KINDS: [(&str, Kind); 21] = [
    ("SOA", Kind::Soa),
    ("NS", Kind::Names(0, 0)),
    ("CNAME", Kind::Names(0, 0)),
    ("MX", Kind::Names(1, 1)),
    ("PTR", Kind::Names(0, 0)),
    ("SRV", Kind::Names(3, 3)),
    ("HTTPS", Kind::Service),
    ("SVCB", Kind::Service),
    ("NAPTR", Kind::Names(5, 5)),
    ("DNAME", Kind::Names(0, 0)),
    ("IPSECKEY", Kind::Names(3, 3)),
    ("MB", Kind::Names(0, 0)),
    ("MD", Kind::Names(0, 0)),
    ("MF", Kind::Names(0, 0)),
    ("MG", Kind::Names(0, 0)),
    ("MR", Kind::Names(0, 0)),
    ("MINFO", Kind::Names(0, 1)),
    ("RP", Kind::Names(0, 1)),
    ("$TTL", Kind::Default),
    ("$ORIGIN", Kind::Names(0, 0)),
    ("$INCLUDE", Kind::Include),
];

impl Kind {
    fn of(word: &[u8]) -> Self {
        let known = KINDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
        known.map_or(Self::Other, |(_, kind)| *kind)
    }

    fn role(self, row: usize) -> Role {
        match (self, row) {
            (Self::Default, 0) => Role::Default,
            (Self::Include, 0) => Role::Path,
            // RFC 1035 §3.3.13: two names and the serial come first, then times.
            (Self::Soa, 3..) => Role::Time,
            (Self::Service, 2..) => Role::Param,
            (Self::Soa, 0 | 1) | (Self::Include | Self::Service, 1) => Role::Name,
            (Self::Names(first, last), row) if (first..=last).contains(&row) => Role::Name,
            _ => Role::Any,
        }
    }
}

impl Field {
    /// What `word` is here, and where the next word stands.
    fn take(self, word: &[u8], begins_line: bool) -> (Role, Self) {
        match self {
            Self::First if begins_line && word.starts_with(b"$") => {
                (Role::Any, Self::Behind(Kind::of(word), 0))
            }
            Self::First if begins_line => (Role::Any, Self::BeforeType),
            Self::First | Self::BeforeType => {
                let is_class =
                    [&b"IN"[..], b"CH", b"HS"].iter().any(|class| word.eq_ignore_ascii_case(class));
                match word.first() {
                    Some(b'0'..=b'9') => (Role::Ttl, Self::BeforeType),
                    _ if is_class => (Role::Any, Self::BeforeType),
                    _ => (Role::Any, Self::Behind(Kind::of(word), 0)),
                }
            }
            // RFC 3597 §5: octets follow, whatever they look like.
            Self::Behind(_, 0) if word == br"\#" => (Role::Any, Self::Behind(Kind::Other, 1)),
            Self::Behind(kind, row) => (kind.role(row), Self::Behind(kind, row + 1)),
        }
    }
}

/// The seconds of `1h30m` or `5400`, and whether there is a unit.
fn seconds(word: &[u8]) -> Option<(u32, bool)> {
    let (mut total, mut number, mut has_unit) = (0u32, None::<u32>, false);
    for octet in word {
        let unit = match octet.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                let so_far = number.unwrap_or(0).checked_mul(10)?;
                number = Some(so_far.checked_add(u32::from(digit - b'0'))?);
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
        has_unit = true;
    }
    Some((total.checked_add(number.unwrap_or(0))?, has_unit))
}

/// Hands out the words of `text` and the ends of its entries.
fn pieces(text: &[u8], mut take: impl FnMut(Piece) -> Result<(), Stumble>) -> Result<(), Stumble> {
    let (mut is_comment, mut is_escaped) = (false, false);
    let (mut word, mut quote, mut parentheses) = (None, None, Vec::new());
    let mut next = 0;
    while let Some(octet) = text.get(next) {
        let at = next;
        next += 1;
        let escaped = std::mem::take(&mut is_escaped);
        let ends = quote.is_none() && !escaped && (*octet == b'"' || is_apart(Some(octet)));
        if let Some(start) = word.filter(|_| ends) {
            take(Piece::Word(start..at))?;
            word = None;
        }
        match octet {
            b'\n' => {
                is_comment = false;
                if quote.is_none() && parentheses.is_empty() {
                    take(Piece::End)?;
                }
            }
            _ if is_comment => {}
            b'"' if !escaped => match quote.take() {
                Some(start) => take(Piece::Quoted(start..next))?,
                None => quote = Some(at),
            },
            b'\\' if !escaped => {
                is_escaped = true;
                if quote.is_none() {
                    word.get_or_insert(at);
                }
            }
            _ if quote.is_some() => {}
            b';' if !escaped => is_comment = true,
            b'(' if !escaped => parentheses.push(at),
            b')' if !escaped => drop(parentheses.pop()),
            _ if ends => {}
            _ => {
                word.get_or_insert(at);
                // What most of a file is: the rest of a word.
                let rest = text.get(next..).unwrap_or(&[]);
                next += rest.iter().take_while(|octet| !is_special(**octet)).count();
            }
        }
    }
    if let Some(start) = word {
        take(Piece::Word(start..text.len()))?;
    }
    match quote.or(parentheses.pop()) {
        Some(at) => Err((at, ENDLESS)),
        None => Ok(()),
    }
}

/// Whether words end beside an octet, or where there is none.
fn is_apart(octet: Option<&u8>) -> bool {
    octet.is_none_or(|octet| b" \t\r\n();".contains(octet))
}

/// Whether an octet within a word may mean something.
fn is_special(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')' | b';' | b'"' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::super::file::{FileRecord, parse};
    use super::*;

    fn rewritten(text: &str) -> String {
        String::from_utf8(prepared(text.as_bytes()).unwrap().octets.into_owned()).unwrap()
    }

    #[test]
    fn times_become_seconds_where_times_stand() {
        for (text, expected) in [
            ("a 1d IN A 192.0.2.1\n", "a 86400 IN A 192.0.2.1\n"),
            ("a IN 2w A 192.0.2.1\n", "a IN 1209600 A 192.0.2.1\n"),
            (" 90s A 192.0.2.1\n", " 90 A 192.0.2.1\n"),
            (
                "@ SOA a b (\n 1 2h 15m ; refresh, 1h\n 4w 1m10 )",
                "@ SOA a b (\n 1 7200 900 ; refresh, 1h\n 2419200 70 )",
            ),
        ] {
            assert_eq!(rewritten(text), expected);
        }
    }

    #[test]
    fn what_each_default_says_is_told_and_where() {
        let text = prepared(b"$TTL 1h\na 1d A 192.0.2.1\n$ttl 90 ; 1h\n").unwrap();
        let expected = "$TTL 4294967295\na 86400 A 192.0.2.1\n$ttl 4294967295 ; 1h\n";
        assert_eq!(text.octets, expected.as_bytes());
        assert_eq!(text.defaults, [(5, 3600), (41, 90)]);
    }

    #[test]
    fn escaped_blanks_become_numbers() {
        for (text, expected) in [
            ("a\\ b 60 TXT x\\ \\\\ y\\\tz\n", "a\\032b 60 TXT x\\032\\\\ y\\009z\n"),
            ("a 60 PTR b\\ ", "a 60 PTR b\\032"),
            ("$INCLUDE a\\ b\n", "$INCLUDE a\\ b\n"),
        ] {
            assert_eq!(rewritten(text), expected);
        }
        let (mut data, origin) = (Vec::new(), "example.com".parse().unwrap());
        let include = &mut |_: &str| Err(String::new());
        let take = &mut |record: FileRecord<'_>| data = record.data.to_vec();
        parse("", br"_ipp._tcp 60 PTR My\ Printer._ipp._tcp", &origin, include, take).unwrap();
        assert_eq!(data, b"\x0aMy Printer\x04_ipp\x04_tcp\x07example\x03com\0");
        assert!(prepared("a\\ \u{e9} 60 A 192.0.2.1\n".as_bytes()).is_err());
    }

    #[test]
    fn parameters_that_would_get_another_value_are_refused() {
        for parameter in [
            r"key1=\002h2",
            r#"key1="\002h2""#,
            r#""key1=h2""#,
            "key0",
            "key00004=x",
            "key065=x",
            "docpath=x",
        ] {
            let text = format!("a 60 HTTPS 1 . alpn=h2 {parameter}\n");
            assert_eq!(prepared(text.as_bytes()).err(), Some(((1, 24), MISREAD)), "{parameter}");
        }
        for data in [
            "HTTPS 1 . key10=x",
            r#"HTTPS 1 . key667="key1=x""#,
            "HTTPS 1 . alpn=key1",
            r"HTTPS \# 1 key1",
            "TXT 1 . key1=x",
        ] {
            let text = format!("a 60 {data}\n");
            assert!(prepared(text.as_bytes()).is_ok(), "{data}");
        }
    }

    #[test]
    fn nothing_else_is_touched() {
        for text in [
            "1h A 192.0.2.1\n",
            "a 60 TXT 1h \"1h\" ( 1h )\n",
            "a 60 TXT \"x\n 1h A\" y\n",
            "a 60 MX 10 1h\n",
            "$ORIGIN 1h\n$INCLUDE 1h\n",
            "; $TTL 1h\na 60 A 192.0.2.1 ; 1h\n",
            "@ 60 SOA 1h 1h 1 2 3 4 5\n",
            "a 99999999999999999999w A 192.0.2.1\n",
            "$TTL 4294967296\n$TTL 1y\n$TTL\n",
            "a h A 192.0.2.1\n",
            "a\\;b 60 TXT x\\\"y\n",
            "a 60 SOA \\# 22 00 00 00 1d 0000\n",
            "a 60 TXT @\na 60 NS \"@\" \\@\n",
        ] {
            assert_eq!(rewritten(text), text);
        }
    }
}
