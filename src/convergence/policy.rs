//! What a move from one region to another costs its writers, by how writes are settled.

use super::conflicts::Writes;
use super::lag::Lag;

/// How a service settles writes that come to two regions.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Policy {
    /// The last one wins. What clocks that differ add is [`Writes::dropped`].
    LastWriter,
    /// Values that merge.
    Merge,
    /// The region that owns the key writes; ownership moves with an epoch.
    Home {
        /// How long the old owner goes on until it is fenced, in seconds.
        fence: f64,
    },
    /// One region writes, by a lease, and storage refuses what comes with an older epoch: what the
    /// old writer took while it was cut off is lost, also from those who still remember it when its
    /// lease has ended.
    Lease {
        /// How long a lease lives, in seconds.
        length: f64,
        /// How much faster or slower clocks may run.
        drift: f64,
        /// How long the next one waits on top, in seconds.
        margin: f64,
    },
    /// A majority of the regions takes each write.
    Majority,
}

/// A move from one region to another.
#[derive(Clone, PartialEq, Debug)]
pub struct Handover {
    /// How the requests lag behind.
    pub lag: Lag,
    /// The writes among them.
    pub writes: Writes,
    /// The share of all clients that moves.
    pub moving: f64,
    /// For how many seconds the old region and the others hear nothing of each other.
    pub parted: f64,
    /// The share of the writes that reach the old region meanwhile.
    pub stays: f64,
    /// After so many seconds nobody counts any more.
    pub until: f64,
    /// For so many of them answers still name the old region to some.
    pub named: f64,
}

/// What it costs.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Cost {
    /// Writes, or keys, that are in conflict.
    pub conflicts: f64,
    /// Acknowledged writes that are lost.
    pub lost: f64,
    /// Writes that must be refused, delayed or passed on.
    pub refused: f64,
}

impl Handover {
    /// What it costs by `policy`.
    pub fn cost(&self, policy: Policy) -> Cost {
        let rate = self.writes.rate;
        match policy {
            Policy::LastWriter => {
                let (conflicts, lost) = self.met();
                Cost { conflicts, lost, refused: 0.0 }
            }
            Policy::Merge => Cost { conflicts: self.met().0, ..Cost::default() },
            Policy::Home { fence } => {
                let area = |until: f64| self.lag.area(until) - self.lag.area(self.named);
                let astray = |until: f64| rate * self.moving * area(until);
                let accepted = astray((self.named + fence).min(self.until));
                let refused = astray(self.until) - accepted;
                Cost { conflicts: accepted, lost: accepted, refused }
            }
            Policy::Lease { length, drift, margin } => Cost {
                conflicts: 0.0,
                lost: rate
                    * (length.min(self.parted) + self.lag.area((self.parted - length).max(0.0))),
                refused: rate * (length * (1.0 + drift) + margin),
            },
            Policy::Majority => {
                let minority = self.stays.min(1.0 - self.stays);
                Cost { refused: rate * self.parted * minority, ..Cost::default() }
            }
        }
    }

    /// What is in conflict, and what of it the last writer wins over.
    fn met(&self) -> (f64, f64) {
        let all = self.writes.rate * self.parted;
        let parted = self.writes.parted(all * self.stays, all * (1.0 - self.stays));
        let converging = self.writes.converging(&self.lag, self.moving, self.until);
        (parted.writes + converging.writes, parted.every + converging.lost)
    }
}
