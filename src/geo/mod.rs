//! Addresses and places: who is where, and which region is nearest.
//!
//! ```text
//! database, geofeed → Atlas        network → place, once a file
//! Atlas + sites + preferences → Catchments   network → zone → order of the regions, merged
//! Catchment + "who gets what" → NetworkMap   network → answer, merged: the scope falls out
//! ```
//!
//! [`rank`] is the decision: it orders the regions for one location, and says by which rule.
//! [`Catchment::build_all`] runs it once for each distinct place, so a query never does.

mod atlas;
mod catchment;
mod codes;
mod coordinates;
mod database;
mod flat;
mod geofeed;
mod networks;
mod packed;
mod ranking;
mod special;
#[cfg(test)]
mod tests;
mod wide;

pub use atlas::{Atlas, Location, Place, Source, Sources};
pub use catchment::{Catchment, CatchmentSpec, Near, NetworkMap};
pub use codes::{Continent, Country, ParseCodeError, Subdivision};
pub use coordinates::Coordinates;
pub use database::{Database, DatabaseError, Description};
pub use geofeed::{Geofeed, GeofeedError};
pub use ranking::{Preferences, Ranked, Ranking, Rule, Site, rank};
