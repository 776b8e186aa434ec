//! The words of a zone file, before it is read: what the reader would stumble over is found, and
//! times with units become seconds.
//!
//! RFC 1035 §5.1 knows seconds only, but BIND's `1h30m` is in most files that people have.
//!
//! The reader knows no `$TTL` but those of the file at hand, and does not tell which records have a
//! TTL. So it is given another time with each `$TTL`, which it gives to those that have none.

use std::borrow::Cow;
use std::ops::Range;

/// A part of a zone file.
enum Piece {
    /// A word without quotes: its octets.
    Word(Range<usize>),
    /// An entry has ended.
    End,
}

/// What the reader would stumble over: line and column, and what it is.
pub(super) type Stumble = ((usize, usize), &'static str);

/// The TTL that the reader gives to records without one. No TTL is as long (RFC 2181 §8).
pub(super) const UNSAID: u32 = u32::MAX;

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
/// The first quote that has something directly before it, if it opens a text, or behind it, if it
/// closes one; or what is opened and never closed.
pub(super) fn prepared(text: &[u8]) -> Result<Text<'_>, Stumble> {
    let mut changed: Vec<(Range<usize>, u32, bool)> = Vec::new();
    let mut field = Field::First;
    pieces(text, |piece| match piece {
        Piece::End => field = Field::First,
        Piece::Word(range) => {
            let word = text.get(range.clone()).unwrap_or(&[]);
            let begins_line = range.start == 0 || text.get(range.start - 1) == Some(&b'\n');
            let is_default = matches!(field, Field::Default);
            let (may_be_time, next) = field.take(word, begins_line);
            field = next;
            // What is no time is left to the reader, to be refused.
            let Some((seconds, has_unit)) = seconds(word).filter(|_| may_be_time) else { return };
            if is_default || has_unit {
                changed.push((range, seconds, is_default));
            }
        }
    })?;
    if changed.is_empty() {
        return Ok(Text { octets: Cow::Borrowed(text), defaults: Vec::new() });
    }
    let (mut rewritten, mut done) = (Vec::with_capacity(text.len()), 0);
    let mut defaults = Vec::new();
    for (range, seconds, is_default) in changed {
        rewritten.extend_from_slice(text.get(done..range.start).unwrap_or(&[]));
        if is_default {
            defaults.push((rewritten.len(), seconds));
        }
        let written = if is_default { UNSAID } else { seconds };
        rewritten.extend_from_slice(written.to_string().as_bytes());
        done = range.end;
    }
    rewritten.extend_from_slice(text.get(done..).unwrap_or(&[]));
    Ok(Text { octets: Cow::Owned(rewritten), defaults })
}

/// Where in an entry a word stands.
#[derive(Clone, Copy)]
enum Field {
    /// It is the first one: a directive, an owner, or without one as the next.
    First,
    /// Behind `$TTL`.
    Default,
    /// A TTL, a class or the type.
    BeforeType,
    /// This one of the data of a SOA record.
    Soa(usize),
    /// Of no interest.
    Rest,
}

impl Field {
    /// Whether `word` may be a time here, and where the next word stands.
    fn take(self, word: &[u8], begins_line: bool) -> (bool, Self) {
        match self {
            Self::First if begins_line && word.eq_ignore_ascii_case(b"$TTL") => {
                (false, Self::Default)
            }
            Self::First if begins_line && word.starts_with(b"$") => (false, Self::Rest),
            Self::First if begins_line => (false, Self::BeforeType),
            Self::Default => (true, Self::Rest),
            Self::First | Self::BeforeType => {
                let is_class =
                    [&b"IN"[..], b"CH", b"HS"].iter().any(|class| word.eq_ignore_ascii_case(class));
                match word.first() {
                    Some(b'0'..=b'9') => (true, Self::BeforeType),
                    _ if is_class => (false, Self::BeforeType),
                    _ if word.eq_ignore_ascii_case(b"SOA") => (false, Self::Soa(0)),
                    _ => (false, Self::Rest),
                }
            }
            // RFC 1035 §3.3.13: two names and the serial come first, then times.
            Self::Soa(row) => (row >= 3, Self::Soa(row + 1)),
            Self::Rest => (false, Self::Rest),
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
fn pieces(text: &[u8], mut take: impl FnMut(Piece)) -> Result<(), Stumble> {
    let apart = |octet: Option<&u8>| octet.is_none_or(|octet| b" \t\r\n();".contains(octet));
    let (mut is_comment, mut is_escaped) = (false, false);
    let (mut quote, mut parentheses) = (None, Vec::new());
    let (mut line, mut line_start, mut word) = (1, 0, None);
    let mut next = 0;
    while let Some(octet) = text.get(next) {
        let at = next;
        next += 1;
        let place = (line, at - line_start + 1);
        let escaped = std::mem::take(&mut is_escaped);
        let ends_word = quote.is_none() && !escaped && apart(Some(octet));
        if let Some(start) = word.filter(|_| ends_word) {
            take(Piece::Word(start..at));
            word = None;
        }
        match octet {
            b'\n' => {
                is_comment = false;
                (line, line_start) = (line + 1, at + 1);
                if quote.is_none() && parentheses.is_empty() {
                    take(Piece::End);
                }
            }
            _ if is_comment => {}
            b'"' if !escaped => {
                let beside = if quote.is_some() { text.get(at + 1) } else { text[..at].last() };
                if !apart(beside) {
                    let what = "a quoted text touches what stands beside it; put a space between";
                    return Err((place, what));
                }
                quote = if quote.is_some() { None } else { Some(place) };
            }
            b'\\' if !escaped => {
                is_escaped = true;
                if quote.is_none() {
                    word.get_or_insert(at);
                }
            }
            _ if quote.is_some() => {}
            b';' if !escaped => is_comment = true,
            b'(' if !escaped => parentheses.push(place),
            b')' if !escaped => drop(parentheses.pop()),
            _ if ends_word => {}
            _ => {
                word.get_or_insert(at);
                // What most of a file is: the rest of a word.
                let rest = text.get(next..).unwrap_or(&[]);
                next += rest.iter().take_while(|octet| !is_special(**octet)).count();
            }
        }
    }
    if let Some(start) = word {
        take(Piece::Word(start..text.len()));
    }
    let endless = "what begins here never ends; expected `)` or `\"` before the file does";
    match quote.or(parentheses.pop()) {
        Some(place) => Err((place, endless)),
        None => Ok(()),
    }
}

/// Whether an octet within a word may mean something.
fn is_special(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')' | b';' | b'"' | b'\\')
}

#[cfg(test)]
mod tests {
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
        ] {
            assert_eq!(rewritten(text), text);
        }
    }
}
