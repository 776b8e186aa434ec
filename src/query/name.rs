//! The question: its octets as they came, and its name as names are looked up.

use super::receive::Reader;
use crate::zone::LONGEST_NAME;

/// Chaosnet, whose names tell about the server (RFC 4892).
pub(super) const CLASS_CH: u16 = 3;

/// A question.
#[derive(Debug)]
pub(super) struct Question<'q> {
    /// The octets of name, type and class. They stay in the message as they came: resolvers mix
    /// upper and lower case at random and compare (draft-vixie-dnsext-dns0x20).
    pub(super) length: usize,
    /// The name in lower case.
    pub(super) name: &'q mut LowerName,
    pub(super) rtype: u16,
    pub(super) class: u16,
}

/// A name in wire format and lower case (RFC 4343), on the stack.
#[derive(Clone, Copy, Debug)]
pub struct LowerName {
    length: usize,
    words: [[u8; WORD]; LONGEST_NAME.div_ceil(WORD)],
}

/// So many octets are made lower case at once.
const WORD: usize = 16;

/// RFC 1035 §2.3.4: labels are 63 octets or less; a greater octet is no length.
const LONGEST_LABEL: u8 = 63;

impl<'q> Question<'q> {
    /// One whose name is to be left in `name`.
    pub(super) fn new(name: &'q mut LowerName) -> Self {
        Self { length: 0, name, rtype: 0, class: 0 }
    }

    /// Reads it. Its name is the first of the message, so nothing stands before it that a
    /// compression pointer could point to: one is malformed.
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let start = reader.at;
        loop {
            let length = *reader.packet.get(reader.at).filter(|of| **of <= LONGEST_LABEL)?;
            // What is not there is found missing with the next octet.
            reader.at += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
        self.name.set(reader.packet.get(start..)?, reader.at - start)?;
        let [t0, t1, c0, c1] = reader.array()?;
        (self.rtype, self.class) = (u16::from_be_bytes([t0, t1]), u16::from_be_bytes([c0, c1]));
        self.length = reader.at - start;
        Some(())
    }
}

impl Default for LowerName {
    fn default() -> Self {
        Self { length: 0, words: [[0; WORD]; LONGEST_NAME.div_ceil(WORD)] }
    }
}

impl LowerName {
    /// A copy of a name that is in wire format; `None` if it is longer than names are.
    pub(super) fn of(wire: &[u8]) -> Option<Self> {
        let mut name = Self::default();
        name.set(wire, wire.len())?;
        Some(name)
    }

    pub(super) fn as_wire(&self) -> &[u8] {
        self.words.as_flattened().get(..self.length).unwrap_or(&[])
    }

    /// Becomes the first `length` octets in lower case. A length octet is at most 63, below the
    /// letters, and stays as it is. What is behind them may be read as well, a word at a time.
    fn set(&mut self, octets: &[u8], length: usize) -> Option<()> {
        if length > LONGEST_NAME {
            return None;
        }
        let Some(whole) = octets.get(..length.next_multiple_of(WORD)) else {
            return self.set_end(octets.get(..length)?);
        };
        let (octets, _) = whole.as_chunks();
        for (word, octets) in self.words.iter_mut().zip(octets) {
            *word = octets.map(|octet| octet.to_ascii_lowercase());
        }
        self.length = length;
        Some(())
    }

    /// The same with octets behind which nothing may be read.
    #[cold]
    fn set_end(&mut self, octets: &[u8]) -> Option<()> {
        let mut room = [0; LONGEST_NAME.next_multiple_of(WORD)];
        room.get_mut(..octets.len())?.copy_from_slice(octets);
        self.set(&room, octets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_becomes_lower_case_wherever_it_stands() {
        for octet in 0..=u8::MAX {
            for at in 0..2 * WORD {
                let around = [octet.wrapping_add(1), b'Q', 0xff, 0, b'@', b'[', b'`', b'z'];
                let mut octets = around.repeat(2 * WORD / around.len());
                octets[at] = octet;
                // The shorter one ends within a word, behind which nothing may be read.
                for length in [2 * WORD, 2 * WORD - 3] {
                    let octets = &octets[..length];
                    let name = LowerName::of(octets).unwrap();
                    assert_eq!(name.as_wire(), octets.to_ascii_lowercase());
                }
            }
        }
    }
}
