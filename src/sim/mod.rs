//! The virtual world: the same `Monitor`, quorum, gossip, steering and `query::answer` as in the
//! server, on a virtual clock and network, with resolvers, clients and writers around them.
//!
//! ```text
//! Scenario ─ what happens when ┐
//! Config, Plan ─ what is run   ┴→ World: one event after the other, from one seed
//!   nodes    probe, gossip, decide, answer       (the code that is shipped)
//!   chains   a resolver and its clients, each layer by its class; real packets to the nodes
//!   writes   what clients write where, and when the other regions hear of it
//!   checks   what must never happen, by inputs and answers alone
//! World::run → Outcome → text, JSON, a page
//! ```
//!
//! The same seed and scenario give the same outcome, to the last bit.

mod acts;
mod chains;
mod checks;
mod clients;
mod costs;
mod events;
mod input;
mod leases;
mod network;
mod nodes;
mod outcome;
mod packets;
mod regions;
mod report;
mod scenario;
mod store;
#[cfg(test)]
mod tests;
mod world;
#[cfg(test)]
mod writers_tests;
mod writes;

pub use costs::Settling;
pub use input::{Input, Stage};
pub use outcome::{Conflicts, Moved, Outcome, Told};
pub use report::page;
pub use scenario::{Act, Draft, Scenario, Wish};
pub use world::World;
