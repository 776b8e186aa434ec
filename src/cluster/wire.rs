//! A message between nodes in octets. What is not exactly one is refused.

/// How long a message may be, so that its packet with the seal fits in one of 1280 octets
/// (RFC 8200 §5), unless a single entry is longer.
const LONGEST: usize = 1100;

/// How long a key or a value may be.
const LONGEST_PART: usize = 4096;

/// What one node tells another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The receiver's incarnation, as the sender knows it; 0: not yet.
    pub to: u64,
    /// The receiver's last change that the sender knows.
    pub confirms: u64,
    /// The entries are the sender's changes after this one…
    pub after: u64,
    /// …up to this one, as far as they still count.
    pub upto: u64,
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
const HEAD: usize = 32;

/// Those of an entry beside its key and value.
const ENTRY: usize = 8 + 2 + 2;

/// In place of the length of a value that is none.
const NOTHING: u16 = u16::MAX;

impl Message {
    /// A message without entries yet.
    pub fn new(to: u64, confirms: u64, after: u64) -> Self {
        Self { to, confirms, after, upto: after, entries: Vec::new(), length: HEAD }
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

    /// The message in octets. Keys and values that are too long are cut out.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length);
        for number in [self.to, self.confirms, self.after, self.upto] {
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
        let (to, confirms) = (number(rest)?, number(rest)?);
        let (after, upto) = (number(rest)?, number(rest)?);
        let mut message = Self::new(to, confirms, after);
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
