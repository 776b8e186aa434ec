//! The way of a fact: from what a probe saw to what is believed of a target. Sans-IO.
//!
//! ```text
//! poll_probe → (the driver probes) → handle_probe → own verdict → poll_opinion → (other nodes)
//!      ↑                                                  ↓
//!      └── handle_timeout ← poll_timeout       quorum ← handle_opinion, handle_peers
//!                                                 └→ consensus → poll_change → (steer decides)
//! ```
//!
//! The driver owns a [`Monitor`] and, after every `handle_*` call, polls in this order until each
//! gives `None`: [`Monitor::poll_probe`] (work to do now), [`Monitor::poll_opinion`] (what other
//! nodes should hear), [`Monitor::poll_change`] (what is believed differently),
//! [`Monitor::poll_timeout`] (when to call [`Monitor::handle_timeout`]). Each order of a probe is
//! answered by one `handle_probe`, however the probe ended.
//!
//! To this room an endpoint is a [`TargetId`](crate::ids::TargetId): it knows no names and no
//! places.

#[cfg(test)]
mod arithmetic_tests;
mod check;
#[cfg(test)]
mod loss_tests;
mod monitor;
mod outcome;
mod quorum;
#[cfg(test)]
mod quorum_tests;
mod schedule;
mod sight;
#[cfg(test)]
mod sight_tests;
mod table;
#[cfg(test)]
mod tests;
mod vantage;
mod watch;

pub use check::{Check, DnsCheck, Expect, HttpCheck, StatusRange, TlsCheck};
pub use monitor::{Change, Monitor, Order, Panel};
pub use outcome::{Failure, Flaw, Outcome, Report, Stage};
pub use quorum::{Belief, Electorate, Rule, Voters, Votes, WhenIsolated};
pub use schedule::{Schedule, Timeout};
pub use sight::would_blind;
pub use table::{HealthTable, State, TargetHealth};
pub use vantage::{Vantage, vantages};
