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
    words: [[u8; WORD]; LONGEST.div_ceil(WORD)],
    length: usize,
}

/// So many octets are made lower case at once.
const WORD: usize = 8;

/// RFC 1035 §2.3.4: names are 255 octets or less, with their length octets and the root's.
const LONGEST: usize = 255;
/// RFC 1035 §2.3.4: labels are 63 octets or less; a greater octet is no length.
const LONGEST_LABEL: u8 = 63;

impl<'p> Question<'p> {
    /// Reads a question. Its name is the first of the message, so nothing stands before it that
    /// a compression pointer could point to: one is malformed.
    pub(super) fn read(reader: &mut Reader<'p>, name: &'p mut LowerName) -> Option<Self> {
        let start = reader.at;
        loop {
            match reader.u8().filter(|length| *length <= LONGEST_LABEL)? {
                0 => break,
                length => reader.bytes(usize::from(length))?,
            };
        }
        name.set(reader.packet.get(start..reader.at)?)?;
        let [t0, t1, c0, c1] = reader.array()?;
        let [rtype, class] = [[t0, t1], [c0, c1]].map(u16::from_be_bytes);
        let wire = reader.packet.get(start..reader.at)?;
        Some(Self { wire, name, rtype, class })
    }
}

impl Default for LowerName {
    fn default() -> Self {
        Self { words: [[0; WORD]; LONGEST.div_ceil(WORD)], length: 0 }
    }
}

impl LowerName {
    /// A copy of a name that is in wire format; `None` if it is longer than names are.
    pub(super) fn of(wire: &[u8]) -> Option<Self> {
        let mut name = Self::default();
        name.set(wire)?;
        Some(name)
    }

    pub(super) fn as_wire(&self) -> &[u8] {
        self.words.as_flattened().get(..self.length).unwrap_or(&[])
    }

    /// Becomes `wire` in lower case. A length octet is at most 63, below the letters, and stays as
    /// it is.
    fn set(&mut self, wire: &[u8]) -> Option<()> {
        if wire.len() > LONGEST {
            return None;
        }
        self.words.as_flattened_mut().get_mut(..wire.len())?.copy_from_slice(wire);
        for word in self.words.iter_mut().take(wire.len().div_ceil(WORD)) {
            *word = lower(u64::from_ne_bytes(*word)).to_ne_bytes();
        }
        self.length = wire.len();
        Some(())
    }
}

/// Eight octets, those from `A` to `Z` in lower case.
fn lower(octets: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low_bits = octets & (0x7f * EACH);
    // The high bit of each octet: it is `A` or above; it is above `Z`; it is no ASCII.
    let from_a = low_bits + (0x80 - u64::from(b'A')) * EACH;
    let above_z = low_bits + (0x7f - u64::from(b'Z')) * EACH;
    let is_upper = from_a & !above_z & !octets & (0x80 * EACH);
    octets | is_upper >> 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_becomes_lower_case_wherever_it_stands() {
        for octet in 0..=u8::MAX {
            for at in 0..WORD {
                let mut word = [octet.wrapping_add(1), b'Q', 0xff, 0, b'@', b'[', b'`', b'z'];
                word[at] = octet;
                let expected = word.map(|octet| octet.to_ascii_lowercase());
                assert_eq!(lower(u64::from_ne_bytes(word)).to_ne_bytes(), expected, "{word:?}");
            }
        }
    }
}
