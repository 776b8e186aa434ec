//! Who is still sent where, after an answer has changed: the model, in closed form.
//!
//! A resolver that holds the old answer gives it until its time to live ends, some longer;
//! browsers, runtimes and connections hold on longer still. Each request has a *lag*: it goes to
//! the old region as long after the change as its lag says. The lag of a request is the sum of
//! what the layers add that it passes through, each independent of the others.
//!
//! ```text
//! Layer ─ one cache, hold or connection ──┐
//! Class ─ a chain of them, with a share   ├→ Lag: P(X > t), its mean, its quantiles
//! Population ─ all classes ───────────────┘        │
//!            Parting (nodes do not agree) ─────────┼→ share of stale requests at every moment
//!            Writes, Popularity ───────────────────┴→ conflicting writes, by policy
//! ```
//!
//! Returns (when resolvers come back) ─→ Fit: which classes there are
//! Arrivals (what endpoints tell of requests) ─→ Judged: are few enough left
//!
//! Times are seconds, shares are parts of one. Nothing here decides: these are estimates, to be
//! shown beside what is counted.

mod arrivals;
mod conflicts;
mod fit;
mod lag;
mod ledger;
mod parting;
mod policy;
mod population;
mod presets;
mod returns;
#[cfg(test)]
mod tests;

pub use arrivals::{Arrivals, Flow, Judged};
pub use conflicts::{Conflicts, Parted, Popularity, Writes};
pub use fit::{Fit, Kind, fit};
pub use lag::{HORIZON, Lag};
pub use ledger::{Page, Remaining, Row, Rows, width, zeros};
pub use parting::Parting;
pub use policy::{Cost, Handover, Policy};
pub use population::{Class, Layer, Population};
pub use presets::{PRESETS, Preset};
pub use returns::{Returns, Seen};

/// A share, for people: in tenths of a percent, or what is less in two digits.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        0.01..0.1 => 3,
        0.001..0.01 => 4,
        _ => return format!("{percent:.1} %"),
    };
    format!("{} %", format!("{percent:.digits$}").trim_end_matches('0'))
}

/// A share as somebody has said it: `1 %`, `12.5 %`, `0.04 %`.
pub fn percent_said(share: f64) -> String {
    format!("{} %", (share * 1e8).round() / 1e6)
}
