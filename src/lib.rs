//! Meridian: a geo-aware global traffic manager.
//!
//! Two sentences are the product, so two folders are the two ways, and everything else serves
//! them:
//!
//! ```text
//! THE WAY OF A QUERY   socket → receive → client → locate → resolve → respond → socket
//!                                         (reads one Snapshot, decides nothing)
//! THE WAY OF A FACT    probe → verdict → opinion → quorum → health ┐
//!                      configuration, GeoIP, override, signal ─────┴→ steer → compile → publish
//! ```
//!
//! [`query`] is the first way, [`health`] the second; [`steer`] is where both meet, and
//! [`snapshot`] is what the second hands to the first. [`cluster`] is how nodes hear each other.
//! [`convergence`] computes who is still sent where after a change.
//! [`server`] alone touches the real world.
//! Who may import whom is a table in `docs/ARCHITECTURE.md`, and a test.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod convergence;
pub mod geo;
pub mod health;
pub mod ids;
mod prefetch;
pub mod query;
pub mod rng;
pub mod server;
pub mod sim;
pub mod snapshot;
pub mod steer;
pub mod time;
pub mod zone;
