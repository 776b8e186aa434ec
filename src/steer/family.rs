//! The kinds of answer.

use std::fmt;

/// The kinds of answer a service can give, each steered for itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
    /// A CNAME record, whatever was asked for.
    Alias,
}

impl Family {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Alias];
}

/// The type of its records.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "A",
            Self::V6 => "AAAA",
            Self::Alias => "CNAME",
        })
    }
}
