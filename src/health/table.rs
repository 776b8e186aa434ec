//! What is believed of every target.

use std::collections::HashMap;
use std::fmt;

use super::outcome::Report;
use super::quorum::Votes;
use crate::ids::TargetId;
use crate::time::Instant;

/// What is believed of a target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum State {
    /// There is no verdict yet, which is neither up nor down.
    #[default]
    Unknown,
    /// It does what its check expects.
    Up,
    /// It does not.
    Down,
}

/// What is believed of a target, since when, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TargetHealth {
    /// What is believed.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// What this node alone concludes.
    pub own: State,
    /// Who sees it how, this node among them.
    pub votes: Votes,
    /// It is up and has failed a probe, here or elsewhere; the re-probes are on their way.
    pub suspected: bool,
    /// Nothing has been seen of it for longer than what is seen may be believed.
    pub stale: bool,
    /// When the failures in a row began, if the last outcome was one.
    pub failing_since: Option<Instant>,
    /// Successes in a row towards coming back up.
    pub risen: u32,
    /// It is down at least until then, because it has come and gone.
    pub held_until: Option<Instant>,
    /// What the last probe saw, and when.
    pub last: Option<(Instant, Report)>,
}

/// What is believed of every target that is watched.
#[derive(Clone, Debug, Default)]
pub struct HealthTable {
    rows: HashMap<TargetId, TargetHealth>,
}

impl HealthTable {
    /// What is believed of `target`; nothing yet, if it is not watched.
    pub fn get(&self, target: TargetId) -> TargetHealth {
        self.rows.get(&target).copied().unwrap_or_default()
    }

    /// The same table, should `target` be in `state`: for what-if questions.
    #[must_use]
    pub fn assuming(mut self, target: TargetId, state: State) -> Self {
        *self.row(target) = TargetHealth { state, own: state, ..TargetHealth::default() };
        self
    }

    /// The row of `target`, made if it is not there.
    pub(super) fn row(&mut self, target: TargetId) -> &mut TargetHealth {
        self.rows.entry(target).or_default()
    }

    /// Nothing is known of `target` any more.
    pub(super) fn forget(&mut self, target: TargetId) {
        self.rows.remove(&target);
    }

    /// How many targets something is known of.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}
