//! The network between regions.

use std::time::Duration;

use crate::geo::Coordinates;
use crate::ids::RegionId;
use crate::rng::Stream;

/// The network between regions.
pub(super) struct Network {
    pub(super) places: Vec<Option<Coordinates>>,
    /// From which region to which nothing passes.
    pub(super) cuts: Vec<(RegionId, RegionId)>,
    pub(super) loss: f64,
}

impl Network {
    pub(super) fn passes(&self, from: RegionId, to: RegionId) -> bool {
        !self.cuts.contains(&(from, to))
    }

    /// There and back: two milliseconds, and light in glass by ways that are half as long again.
    pub(super) fn round_trip(&self, from: RegionId, to: RegionId) -> Duration {
        let place = |of: RegionId| self.places.get(of.index()).copied().flatten();
        let far = match (place(from), place(to)) {
            (Some(from), Some(to)) => from.distance_km(to),
            _ => 0,
        };
        Duration::from_millis(2) + Duration::from_micros(u64::from(far) * 15)
    }

    pub(super) fn drops(&self, packets: i32, dice: &mut Stream) -> bool {
        self.loss > 0.0 && dice.unit() < 1.0 - (1.0 - self.loss).powi(packets)
    }
}
