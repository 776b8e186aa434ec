//! Values and their encoding.

/// A value of the data section.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Keys and their values, in this order.
    Map(Vec<(String, Value)>),
    /// Values in a row.
    Array(Vec<Value>),
    /// A text.
    Text(String),
    /// A floating-point number.
    Double(f64),
    /// An unsigned number of 16 bits.
    Uint16(u16),
    /// An unsigned number of 32 bits.
    Uint32(u32),
    /// An unsigned number of 64 bits.
    Uint64(u64),
    /// True or false.
    Bool(bool),
}

impl Value {
    /// A map of these entries.
    pub fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// Writes it behind `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Map(entries) => {
                control(out, 7, entries.len());
                for (key, value) in entries {
                    control(out, 2, key.len());
                    out.extend_from_slice(key.as_bytes());
                    value.encode(out);
                }
            }
            Self::Array(values) => {
                control(out, 11, values.len());
                values.iter().for_each(|value| value.encode(out));
            }
            Self::Text(text) => {
                control(out, 2, text.len());
                out.extend_from_slice(text.as_bytes());
            }
            Self::Double(number) => {
                control(out, 3, 8);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Uint16(number) => unsigned(out, 5, u64::from(*number)),
            Self::Uint32(number) => unsigned(out, 6, u64::from(*number)),
            Self::Uint64(number) => unsigned(out, 9, *number),
            Self::Bool(value) => control(out, 14, usize::from(*value)),
        }
    }
}

/// A number without its leading zeros.
fn unsigned(out: &mut Vec<u8>, kind: u8, number: u64) {
    let bytes = number.to_be_bytes();
    let zeros = (number.leading_zeros() / 8) as usize;
    control(out, kind, bytes.len() - zeros);
    out.extend_from_slice(&bytes[zeros..]);
}

/// The control octet: what follows, and how long it is. Longer than 65,820 is not needed here.
fn control(out: &mut Vec<u8>, kind: u8, size: usize) {
    assert!(size < 285 + 65_536, "a value of {size} parts");
    let (low, more): (u8, &[u8]) = match size {
        0..29 => (size.to_le_bytes()[0], &[]),
        29..285 => (29, &[(size - 29).to_le_bytes()[0]]),
        _ => {
            let [low, high, ..] = (size - 285).to_le_bytes();
            (30, &[high, low])
        }
    };
    // Kinds above 7 stand in an octet of their own.
    if kind > 7 {
        out.extend_from_slice(&[low, kind - 7]);
    } else {
        out.push(kind << 5 | low);
    }
    out.extend_from_slice(more);
}
