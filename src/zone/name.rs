//! Domain names in wire format.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use domain::base::{Name as Parsed, ToName};

/// An absolute name: labels with their length octets, and the root's zero, 255 octets at most
/// (RFC 1035 §3.1). It keeps its case; comparison does not look at it (RFC 4343).
#[derive(Clone)]
pub struct Name(Box<[u8]>);

/// The text is no name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is not a domain name: {reason}")]
pub struct ParseNameError {
    text: String,
    reason: String,
}

/// RFC 1035 §2.3.4: names are 255 octets or less, with their length octets and the root's.
pub const LONGEST_NAME: usize = 255;

impl Name {
    /// The name that `wire` holds and nothing more; `None` if it holds none.
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        Parsed::from_octets(wire).ok().map(|name| Self(name.as_slice().into()))
    }

    /// The name that was read as `name`; `None` if it is longer than names are.
    pub(super) fn of(name: &impl ToName) -> Option<Self> {
        let whole: Parsed<Vec<u8>> = name.try_to_name().ok()?;
        Some(Self(whole.into_octets().into()))
    }

    /// Its octets.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Its octets in lower case, as names are looked up. A length octet is below the letters.
    pub fn to_lower(&self) -> Box<[u8]> {
        self.0.to_ascii_lowercase().into()
    }

    /// Is it `other`, or a name below it?
    pub fn is_at_or_below(&self, other: &Self) -> bool {
        offsets(&self.0)
            .any(|at| self.0.get(at..).is_some_and(|suffix| suffix.eq_ignore_ascii_case(&other.0)))
    }
}

/// Is the first label of a name `*` (RFC 4592 §2.1.1)?
pub(super) fn is_wildcard(wire: &[u8]) -> bool {
    wire.starts_with(b"\x01*")
}

/// Where the labels of a name begin, the root's last.
pub(super) fn offsets(wire: &[u8]) -> impl Iterator<Item = usize> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let at = next?;
        let length = usize::from(*wire.get(at)?);
        next = (length > 0).then_some(at + 1 + length);
        Some(at)
    })
}

impl FromStr for Name {
    type Err = ParseNameError;

    /// Reads `www.example.com` or `www.example.com.`; both are absolute. Escapes are those of
    /// zone files (RFC 1035 §5.1).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason: String| ParseNameError { text: text.to_owned(), reason };
        if text.is_empty() {
            return Err(error("it is empty".into()));
        }
        let name: Parsed<Vec<u8>> = text.parse().map_err(|reason| error(format!("{reason}")))?;
        Ok(Self(name.as_slice().into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Parsed::from_octets(self.0.as_ref()) {
            // The root prints its dot by itself.
            Ok(name) if name.is_root() => f.write_str("."),
            Ok(name) => write!(f, "{name}."),
            Err(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for octet in &self.0 {
            state.write_u8(octet.to_ascii_lowercase());
        }
    }
}
