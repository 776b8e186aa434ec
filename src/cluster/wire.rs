//! A message between nodes in octets. What is not exactly one is refused.

use super::kinds::{Each, Kind};
use super::list::Assent;

/// How long a message may be, so that its packet with the seal fits in one of 1280 octets
/// (RFC 8200 §5).
const LONGEST: usize = 1100;

/// How long a key or a value may be.
pub const LONGEST_PART: usize = 4096;

/// What one node tells another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What its changes are of.
    pub kind: Kind,
    /// The receiver's incarnation, as the sender knows it; 0: not yet.
    pub to: u64,
    /// The receiver's last changes that the sender knows.
    pub confirms: Each<u64>,
    /// The entries are the sender's changes after this one…
    pub after: u64,
    /// …up to this one, as far as they still count.
    pub upto: u64,
    /// The sender's last change of a writer: who does not know it does not know what it goes by.
    pub writers: u64,
    /// When this was sent, by the sender's clock, in nanoseconds.
    pub sent: u64,
    /// The receiver's last message that the sender has heard, by when that was sent; 0: none.
    pub heard: u64,
    /// By which list of nodes the sender goes: a hash of it.
    pub list: u64,
    /// How far the sender is with it.
    pub assent: Assent,
    /// The changes, in their order.
    pub entries: Vec<Entry>,
    length: usize,
}

/// One change of what a node says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number.
    pub change: u64,
    /// What it is about.
    pub key: String,
    /// What is said; `None`: nothing any more.
    pub value: Option<String>,
}

/// The octets of a message without entries.
const HEAD: usize = 2 + 9 * 8;

/// Those of an entry beside its key and value.
const ENTRY: usize = 8 + 2 + 2;

/// How long a value under `key` may be, or of one of its parts, so that a message has room for it.
pub(super) fn room(key: &str) -> usize {
    LONGEST.saturating_sub(HEAD + ENTRY + key.len() + "\n9999".len()).max(64)
}

/// In place of the length of a value that is none.
const NOTHING: u16 = u16::MAX;

impl Message {
    /// A message without entries yet.
    pub fn new(kind: Kind, to: u64, confirms: Each<u64>) -> Self {
        Self {
            kind,
            to,
            confirms,
            after: 0,
            upto: 0,
            writers: 0,
            sent: 0,
            heard: 0,
            list: 0,
            assent: Assent::New,
            entries: Vec::new(),
            length: HEAD,
        }
    }

    /// The same without entries yet, of the changes after this one.
    #[must_use]
    pub fn after(&self, after: u64) -> Self {
        Self { after, upto: after, entries: Vec::new(), length: HEAD, ..*self }
    }

    /// Adds an entry, if there is room for it.
    pub fn add(&mut self, entry: Entry) -> bool {
        let length = ENTRY + entry.key.len() + entry.value.as_ref().map_or(0, String::len);
        if self.length + length > LONGEST && !self.entries.is_empty() {
            return false;
        }
        self.length += length;
        self.upto = entry.change;
        self.entries.push(entry);
        true
    }

    /// The message in octets. Keys and values that are too long are cut out, and never heard: who
    /// has something to say sees to it that it is not longer than [`LONGEST_PART`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length);
        out.extend([self.kind as u8, self.assent as u8]);
        let Each { writers, rest } = self.confirms;
        for number in [self.to, writers, rest, self.after, self.upto] {
            out.extend(number.to_be_bytes());
        }
        for number in [self.writers, self.sent, self.heard, self.list] {
            out.extend(number.to_be_bytes());
        }
        let length = |text: &str| u16::try_from(text.len()).unwrap_or(0);
        let fits = |text: &str| text.len() <= LONGEST_PART;
        let entries = self.entries.iter();
        for entry in entries.filter(|of| fits(&of.key) && of.value.as_deref().is_none_or(fits)) {
            out.extend(entry.change.to_be_bytes());
            out.extend(length(&entry.key).to_be_bytes());
            out.extend(entry.value.as_deref().map_or(NOTHING, length).to_be_bytes());
            out.extend(entry.key.as_bytes());
            out.extend(entry.value.as_deref().unwrap_or_default().as_bytes());
        }
        out
    }

    /// Reads a message; `None`: it is none.
    pub fn decode(mut octets: &[u8]) -> Option<Self> {
        let rest = &mut octets;
        let [kind, assent] = take(rest, 2)? else { return None };
        let kind = Kind::ALL.into_iter().find(|of| *of as u8 == *kind)?;
        let assent = Assent::ALL.into_iter().find(|of| *of as u8 == *assent)?;
        let to = number(rest)?;
        let confirms = Each { writers: number(rest)?, rest: number(rest)? };
        let (after, upto) = (number(rest)?, number(rest)?);
        let mut message = Self::new(kind, to, confirms).after(after);
        message.writers = number(rest)?;
        (message.sent, message.heard) = (number(rest)?, number(rest)?);
        (message.list, message.assent) = (number(rest)?, assent);
        let mut last = after;
        while !rest.is_empty() {
            let change = number(rest)?;
            let (key, value) = (short(rest)?, short(rest)?);
            let key = text(rest, key)?;
            let value = if value == NOTHING { None } else { Some(text(rest, value)?) };
            if change <= last || change > upto {
                return None;
            }
            last = change;
            message.entries.push(Entry { change, key, value });
        }
        message.upto = upto;
        (upto >= after).then_some(message)
    }
}

fn take<'o>(octets: &mut &'o [u8], length: usize) -> Option<&'o [u8]> {
    let (head, tail) = octets.split_at_checked(length)?;
    *octets = tail;
    Some(head)
}

fn number(octets: &mut &[u8]) -> Option<u64> {
    take(octets, 8)?.try_into().ok().map(u64::from_be_bytes)
}

fn short(octets: &mut &[u8]) -> Option<u16> {
    take(octets, 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn text(octets: &mut &[u8], length: u16) -> Option<String> {
    let length = usize::from(length);
    if length > LONGEST_PART {
        return None;
    }
    String::from_utf8(take(octets, length)?.to_vec()).ok()
}
