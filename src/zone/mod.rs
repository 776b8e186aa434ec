//! Names and their authoritative data: what is true whoever asks.
//!
//! ```text
//! zone file → parse → records ┐
//! steered names ──────────────┴→ ZoneBuilder → Zone (every conflict, or none)
//! Zones::find(name) → the zone → Zone::find(name) → a node, a cut, or no such name
//! ```
//!
//! Text is read by the `domain` crate, which keeps the case of names, knows `$INCLUDE` and the
//! unknown types of RFC 3597, and tells line and column; `hickory-proto`'s reader lowercases
//! names and has neither. Look-ups are ours, for they are the answer path.

mod builder;
mod faults;
#[cfg(test)]
mod faults_tests;
mod file;
mod lookup;
mod name;
mod nodes;
mod record;
#[cfg(test)]
mod tests;
mod wellformed;
mod words;

pub use builder::{Steered, ZoneBuilder};
pub use faults::{Fault, Spot, ZoneProblem};
pub use file::{FileProblem, FileRecord, parse};
pub use lookup::{Cut, Found, Node, Records, Seek, Zone, Zones};
pub use name::{LONGEST_NAME, Name, ParseNameError};
pub use nodes::Fixed;
pub use record::{CLASS_IN, Denial, Made, Part, Rdata, RecordType, RrSet};
pub use wellformed::has_hints;
