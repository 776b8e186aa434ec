//! The question: its octets as they came, and its name as names are looked up.

use super::receive::Reader;

/// The Internet (RFC 1035 §3.2.4).
pub(super) const CLASS_IN: u16 = 1;
/// Chaosnet, whose names tell about the server (RFC 4892).
pub(super) const CLASS_CH: u16 = 3;

/// A question, read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'p> {
    /// Name, type and class exactly as they came, to be copied back: resolvers mix upper and
    /// lower case at random and compare (draft-vixie-dnsext-dns0x20).
    pub(super) wire: &'p [u8],
    /// The name in lower case.
    pub(super) name: &'p LowerName,
    pub(super) rtype: u16,
    pub(super) class: u16,
}

/// A name in wire format and lower case (RFC 4343), on the stack.
#[derive(Clone, Copy, Debug)]
pub struct LowerName {
    octets: [u8; LONGEST],
    length: usize,
}

/// RFC 1035 §2.3.4: names are 255 octets or less, with their length octets and the root's.
const LONGEST: usize = 255;
/// RFC 1035 §2.3.4: labels are 63 octets or less; a greater octet is no length.
const LONGEST_LABEL: u8 = 63;

impl<'p> Question<'p> {
    /// Reads a question. Its name is the first of the message, so nothing stands before it that
    /// a compression pointer could point to: one is malformed.
    pub(super) fn read(reader: &mut Reader<'p>, name: &'p mut LowerName) -> Option<Self> {
        let start = reader.at;
        name.length = 0;
        loop {
            let length = reader.u8().filter(|length| *length <= LONGEST_LABEL)?;
            name.push(&[length])?;
            if length == 0 {
                break;
            }
            name.push(reader.bytes(usize::from(length))?)?;
        }
        let rtype = reader.u16()?;
        let class = reader.u16()?;
        let wire = reader.packet.get(start..reader.at)?;
        Some(Self { wire, name, rtype, class })
    }
}

impl Default for LowerName {
    fn default() -> Self {
        Self { octets: [0; LONGEST], length: 0 }
    }
}

impl LowerName {
    /// A copy of a name that is in wire format; `None` if it is longer than names are.
    pub(super) fn of(wire: &[u8]) -> Option<Self> {
        let mut name = Self::default();
        name.push(wire)?;
        Some(name)
    }

    pub(super) fn as_wire(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or(&[])
    }

    /// Appends in lower case. A length octet is at most 63, below the letters, and stays as it is.
    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.length + bytes.len();
        let room = self.octets.get_mut(self.length..end)?;
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = from.to_ascii_lowercase();
        }
        self.length = end;
        Some(())
    }
}
