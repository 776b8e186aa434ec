//! Regions: how they are, what they have to do, and how much of that they fail.

use super::scenario::Load;
use crate::ids::RegionId;

/// How a region is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Condition {
    Well,
    Crashed,
    Stalled,
    Failing(f64),
}

/// All of them.
pub(super) struct Regions {
    list: Vec<Region>,
    load: Option<Load>,
}

struct Region {
    condition: Condition,
    /// Its share of all capacity.
    capacity: f64,
    /// The share of its capacity that it has now.
    warmth: f64,
    /// The share of its requests that are too many.
    surplus: f64,
}

/// A region that gets less than this share of all requests does not warm up.
const IDLE: f64 = 0.001;

impl Regions {
    /// Regions with these capacities, all well and warm.
    pub(super) fn new(capacities: impl Iterator<Item = Option<u64>>, load: Option<Load>) -> Self {
        let capacities: Vec<f64> = capacities.map(|of| of.unwrap_or(1) as f64).collect();
        let all: f64 = capacities.iter().sum();
        let region = |capacity: f64| Region {
            condition: Condition::Well,
            capacity: capacity / all,
            warmth: 1.0,
            surplus: 0.0,
        };
        Self { list: capacities.into_iter().map(region).collect(), load }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RegionId> + use<> {
        (0..self.list.len()).filter_map(RegionId::from_index)
    }

    pub(super) fn condition(&self, region: RegionId) -> Condition {
        self.list.get(region.index()).map_or(Condition::Well, |of| of.condition)
    }

    /// Is it a region, and well?
    pub(super) fn is_well(&self, region: RegionId) -> bool {
        self.list.get(region.index()).is_some_and(|of| of.condition == Condition::Well)
    }

    pub(super) fn conditions(&self) -> Vec<Condition> {
        self.list.iter().map(|of| of.condition).collect()
    }

    /// A region is like that from now on. What has crashed comes back cold.
    pub(super) fn set(&mut self, region: RegionId, condition: Condition) {
        let Some(of) = self.list.get_mut(region.index()) else { return };
        of.condition = condition;
        if let (Condition::Crashed, Some(load)) = (condition, self.load) {
            of.warmth = load.cold;
        }
    }

    /// The share of its requests that a region fails.
    pub(super) fn fails(&self, region: RegionId) -> f64 {
        let Some(of) = self.list.get(region.index()) else { return 0.0 };
        match of.condition {
            Condition::Well => of.surplus,
            Condition::Crashed | Condition::Stalled => 1.0,
            Condition::Failing(share) => share + (1.0 - share) * of.surplus,
        }
    }

    /// A second is over, in which each region got this share of all requests.
    pub(super) fn second(&mut self, shares: impl Iterator<Item = f64>) {
        let Some(load) = self.load else { return };
        for (of, share) in self.list.iter_mut().zip(shares) {
            let able = of.capacity * of.warmth;
            let asked = share * load.share;
            of.surplus = if asked > able { 1.0 - able / asked } else { 0.0 };
            if share > IDLE && of.condition == Condition::Well {
                let gain = (1.0 - load.cold) / load.warm_up.as_secs_f64();
                of.warmth = (of.warmth + gain).min(1.0);
            }
        }
    }
}
